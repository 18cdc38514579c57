//! What each call does. Everything in its arguments is the program's word: copied, checked, used.

use crate::bridge::{self, Bridge, CHUNK, NOWHERE, State, Waiting};
use crate::filter;
use crate::holder;
use crate::host::Socket;
use crate::interfaces;
use crate::ledger::{Record, flag, phase};
use crate::native;
use crate::netlink::{self, Protocol};
use crate::notices::Notice;
use crate::proc_net;
use crate::program::{Caller, Errno};
use crate::pump;
use crate::records;
use crate::server::{Served, Server};
use libc::{c_int, c_long};
use libnetclient::Datagram;
use libnetclient::resume::Verdict;
use netclient::resume::What;
use rustix::fd::OwnedFd;
use rustix::io::Errno as Io;
use rustix::net::{RecvFlags, recv};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};
use zerocopy::FromZeros;

/// The longest address that is looked at (`struct sockaddr_storage`).
const NAME_MAX: usize = 128;
/// The longest value of an option.
const VALUE_MAX: usize = 4096;
/// Bytes of control messages of one call at most.
const CONTROL_MAX: u64 = 4096;
/// Buffers of one call at most (IOV_MAX of Linux), and messages of sendmmsg and recvmmsg.
const PARTS_MAX: u64 = 1024;
/// `struct msghdr` of a 64-bit machine, and where its fields lie.
const MSGHDR: usize = 56;
/// `struct mmsghdr`: a msghdr and a length.
const MMSGHDR: u64 = 64;

/// What a call comes to.
pub type Answer = Result<Reply, Errno>;

/// How a call is answered when it has not failed.
#[derive(Debug)]
pub enum Reply {
    /// It returns this.
    Value(i64),
    /// The kernel does it, on the pair.
    Kernel,
    /// Later, or already.
    Nothing,
}

const DONE: Answer = Ok(Reply::Value(0));

/// A datagram for a program.
struct Received {
    bytes: Vec<u8>,
    /// Whom it is from, as the program wants it.
    from: Vec<u8>,
    /// What came with it, where that is known.
    datagram: Option<Datagram>,
}

/// A message's header, as the program has it.
pub(crate) struct Message {
    name: u64,
    name_len: u32,
    parts: Vec<(u64, usize)>,
    control: u64,
    control_len: u64,
    at: u64,
}

impl Message {
    pub(crate) fn read(caller: Caller, at: u64) -> Result<Message, Errno> {
        let bytes = caller.read(at, MSGHDR)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let (iov, count) = (word(16), word(24));
        if count > PARTS_MAX {
            return Err(libc::EMSGSIZE);
        }
        let array = caller.read(iov, count as usize * 16)?;
        let half = |at: usize| {
            let mut half = [0; 8];
            half.copy_from_slice(&array[at..at + 8]);
            u64::from_ne_bytes(half)
        };
        let parts = (0..count as usize).map(|n| (half(n * 16), half(n * 16 + 8) as usize)).collect();
        let (control, control_len) = (word(32), if word(32) == 0 { 0 } else { word(40) });
        Ok(Message { name: word(0), name_len: word(8) as u32, parts, control, control_len, at })
    }

    /// Bytes of all parts, not more than a datagram may have.
    pub(crate) fn gather(&self, caller: Caller) -> Result<Vec<u8>, Errno> {
        let mut all = Vec::new();
        for (at, len) in &self.parts {
            if all.len().saturating_add(*len) > CHUNK {
                return Err(libc::EMSGSIZE);
            }
            all.extend(caller.read(*at, *len)?);
        }
        Ok(all)
    }

    fn scatter(&self, caller: Caller, bytes: &[u8]) -> Result<usize, Errno> {
        let mut rest = bytes;
        for (at, len) in &self.parts {
            let (now, later) = rest.split_at(rest.len().min(*len));
            caller.write(*at, now)?;
            rest = later;
        }
        Ok(bytes.len() - rest.len())
    }
}

/// [`put_name`] for a call that need not want it.
pub(crate) fn tell_name(caller: Caller, name: &[u8], at: u64, len_at: u64) -> Result<(), Errno> {
    if at == 0 || len_at == 0 { Ok(()) } else { put_name(caller, name, at, len_at) }
}

/// Puts an address where a call wants it: cut to the room that is there, with its whole length.
fn put_name(caller: Caller, name: &[u8], at: u64, len_at: u64) -> Result<(), Errno> {
    let room = caller.read_u32(len_at)?.cast_signed();
    let room = usize::try_from(room).map_err(|_| libc::EINVAL)?;
    caller.write(at, &name[..name.len().min(room)])?;
    caller.write(len_at, &(name.len() as u32).to_ne_bytes())
}

fn name_of(caller: Caller, at: u64, len: u64) -> Result<Vec<u8>, Errno> {
    if len as usize > NAME_MAX {
        return Err(libc::EINVAL);
    }
    caller.read(at, len as usize)
}

impl Server {
    /// Does what a notice asks for, and answers it.
    pub(crate) fn on_notice(&mut self, notice: Notice) {
        let answer = self.call(notice);
        self.ledger.settle_requests();
        self.say(format_args!("{} of {}: {answer:?}", notice.call, notice.tid));
        match answer {
            Ok(Reply::Value(value)) => self.notices.answer(notice.id, value),
            Ok(Reply::Kernel) => self.notices.pass_on(notice.id),
            Ok(Reply::Nothing) => {}
            Err(errno) => self.notices.refuse(notice.id, errno),
        }
    }

    /// The answer to a call, and its socket when the answer is to be written down with it.
    fn call(&mut self, notice: Notice) -> Answer {
        let caller = Caller { tid: notice.tid };
        let call = notice.call as c_long;
        if call == libc::SYS_socket {
            return match Protocol::from_number(notice.arguments[2] as c_int) {
                _ if notice.arguments[0] as c_int != libc::AF_NETLINK => self.socket(notice, caller),
                Some(protocol) => self.netlink_socket(notice, caller, protocol),
                None => Ok(Reply::Kernel),
            };
        }
        if call == libc::SYS_ioctl {
            let [_, request, at, ..] = notice.arguments;
            return interfaces::request(&mut self.host, caller, request as u32, at).map(|()| Reply::Value(0));
        }
        if filter::OPENS.iter().any(|(open, _)| *open == call) {
            return self.open_file(notice, caller);
        }
        let fd = notice.arguments[0] as c_int;
        let found = caller.socket(fd).and_then(|socket| self.find(socket));
        // What was looked up was the caller's only if it is still the caller.
        if !self.notices.is_valid(notice.id) {
            return Ok(Reply::Nothing);
        }
        let Some(index) = found else { return Ok(Reply::Kernel) };
        let (done, answer) = self.bridge(index).done;
        if done == notice.id {
            // It was done by a predecessor, who did not come to say so.
            return if answer < 0 { Err(-answer as Errno) } else { Ok(Reply::Value(answer)) };
        }
        self.bridge(index).caller = caller;
        let outcome = self.call_of(index, notice, caller);
        let noted = matches!(
            call,
            libc::SYS_bind
                | libc::SYS_listen
                | libc::SYS_connect
                | libc::SYS_getsockopt
                | libc::SYS_setsockopt
        );
        if let Some(bridge) = self.bridges[index].as_mut()
            && noted
        {
            match &outcome {
                Ok(Reply::Value(value)) => bridge.done = (notice.id, *value),
                Err(errno) => bridge.done = (notice.id, -i64::from(*errno)),
                Ok(Reply::Kernel | Reply::Nothing) => {}
            }
        }
        self.settle(index);
        outcome
    }

    /// A file that is opened for reading: one of /proc/net is made here, any other one is the kernel's.
    fn open_file(&mut self, notice: Notice, caller: Caller) -> Answer {
        let at = notice.arguments[usize::from(notice.call as c_long == libc::SYS_openat)];
        let flags = notice.arguments[1 + usize::from(notice.call as c_long == libc::SYS_openat)] as c_int;
        let Some(path) = caller.read_text(at, proc_net::PATH_MAX) else { return Ok(Reply::Kernel) };
        let own = |process: u32| process == caller.tid || process == caller.leader();
        let Some(file) = proc_net::File::of(&path, own) else { return Ok(Reply::Kernel) };
        let inodes: HashMap<_, _> = self
            .bridges
            .iter()
            .flatten()
            .filter_map(|bridge| {
                Some((records::ends(native::snapshot(bridge.native).ok()?.what)?, bridge.socket))
            })
            .collect();
        let of = |socket: &Socket| {
            let remote = Some(socket.remote).filter(|remote| !remote.ip().is_unspecified());
            inodes.get(&(socket.local, remote)).copied().unwrap_or(0)
        };
        let text = file.text(&mut self.host, of);
        let made = proc_net::make(&text).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        match self.install(notice.id, &made, flags & libc::O_CLOEXEC != 0) {
            0 => Ok(Reply::Nothing),
            errno => Err(errno),
        }
    }

    fn call_of(&mut self, index: usize, notice: Notice, caller: Caller) -> Answer {
        let call = notice.call as c_long;
        let arguments = notice.arguments;
        let waiting =
            Waiting { id: notice.id, caller, arguments, call: notice.call, until: None, place: NOWHERE };
        if let State::Netlink(protocol) = self.bridge(index).state {
            return self.netlink_call(index, waiting, protocol);
        }
        match call {
            libc::SYS_bind => self.bind(index, caller, arguments),
            libc::SYS_listen => self.listen(index, arguments[1] as c_int),
            libc::SYS_connect => self.connect(index, waiting),
            libc::SYS_accept | libc::SYS_accept4 => self.accept(index, waiting),
            libc::SYS_getsockname => {
                let name = native::local(self.bridge(index).native)?;
                put_name(caller, &name, arguments[1], arguments[2])?;
                DONE
            }
            libc::SYS_getpeername => {
                let name = native::remote(self.bridge(index).native)?;
                put_name(caller, &name, arguments[1], arguments[2])?;
                DONE
            }
            libc::SYS_setsockopt => self.set_option(index, caller, arguments),
            libc::SYS_getsockopt => self.get_option(index, caller, arguments),
            libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg => {
                self.send(index, caller, call, arguments)
            }
            libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_recvmmsg => self.receive(index, waiting),
            _ => Ok(Reply::Kernel),
        }
    }

    fn socket(&mut self, notice: Notice, caller: Caller) -> Answer {
        let [family, kind, protocol, ..] = notice.arguments.map(|argument| argument as c_int);
        let flags = kind & (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        let kind = kind & !flags;
        let native = native::socket(family, kind, protocol)?;
        let state = match kind {
            libc::SOCK_STREAM => State::Fresh,
            _ => State::Datagram { bound: false, connected: false, head: None, waiting: VecDeque::new() },
        };
        let index = self.new_index().inspect_err(|_| native::close(native))?;
        let made = self.make(index, (family, kind), native, state, caller, (flags, notice.id, 0));
        let theirs = made.inspect_err(|_| {
            native::close(native);
            self.free_index(index);
        })?;
        match self.install(notice.id, &theirs, flags & libc::SOCK_CLOEXEC != 0) {
            0 => {
                self.settle(index);
                Ok(Reply::Nothing)
            }
            errno => {
                self.close(index);
                Err(errno)
            }
        }
    }

    /// Answers a call by a descriptor: 0, or an errno.
    pub(crate) fn install(&self, id: u64, theirs: &OwnedFd, close_on_exec: bool) -> Errno {
        holder::send_on_errand(&self.ledger, id, theirs, close_on_exec)
            .unwrap_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// A bridge, watched and written down; returns the program's end, which is to be installed for the
    /// call `id`. `listener` is its listener's number and one, 0 for none.
    pub(crate) fn make(
        &mut self,
        index: usize,
        (family, kind): (c_int, c_int),
        native: c_int,
        state: State,
        caller: Caller,
        (flags, id, listener): (c_int, u64, u32),
    ) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = bridge::pair(kind, flags & libc::SOCK_NONBLOCK != 0)?;
        let socket = bridge::inode(&theirs)?;
        let ours_inode = bridge::inode(&ours)?;
        let mut bridge = Bridge::new(socket, family, native, ours, state, caller);
        bridge.done.0 = id;
        bridge.written =
            Record { ours: bridge.descriptors().1, ours_inode, listener, ..Record::new_zeroed() };
        bridge.written = Record { phase: phase::INSTALLING, ..records::of(&bridge)? };
        self.ledger.commit(index, &bridge.written);
        self.insert(index, bridge)?;
        Ok(theirs)
    }

    fn bind(&mut self, index: usize, caller: Caller, arguments: [u64; 6]) -> Answer {
        let name = name_of(caller, arguments[1], arguments[2])?;
        let (native, port) =
            (self.bridge(index).native, native::parse_name(&name).map_or(0, |name| name.port()));
        self.once_let_go(port, || native::bind(native, &name))?;
        self.has_name(index);
        DONE
    }

    /// Datagrams may come from here on.
    fn has_name(&mut self, index: usize) {
        if let State::Datagram { bound, .. } = &mut self.bridge(index).state
            && !core::mem::replace(bound, true)
        {
            self.go(index);
        }
    }

    fn listen(&mut self, index: usize, backlog: c_int) -> Answer {
        let native = self.bridge(index).native;
        native::listen(native, backlog)?;
        let bridge = self.bridge(index);
        if matches!(bridge.state, State::Fresh) {
            bridge.state =
                State::Listening { marked: false, waiting: VecDeque::new(), returned: VecDeque::new() };
        }
        self.go(index);
        DONE
    }

    fn connect(&mut self, index: usize, waiting: Waiting) -> Answer {
        let (caller, arguments) = (waiting.caller, waiting.arguments);
        let fd = arguments[0] as c_int;
        let name = name_of(caller, arguments[1], arguments[2])?;
        let nonblocking = caller.is_nonblocking(fd);
        let bridge = self.bridge(index);
        if let State::Connecting { .. } = &bridge.state {
            if nonblocking {
                return Err(libc::EALREADY);
            }
            self.park(index, waiting)?;
            return Ok(Reply::Nothing);
        }
        match (native::connect(bridge.native, &name), &mut bridge.state) {
            (Ok(()), State::Datagram { connected, .. }) => {
                // AF_UNSPEC undoes it.
                *connected = name.get(..2) != Some(&(libc::AF_UNSPEC as u16).to_ne_bytes()[..]);
                self.has_name(index);
                DONE
            }
            (Ok(()), state) => {
                *state = State::Stream;
                self.go(index);
                DONE
            }
            (Err(libc::EINPROGRESS), state @ State::Fresh) => {
                *state = State::Connecting { to: name, filled: 0, waiting: Vec::new() };
                if nonblocking {
                    // A successor finds a pair that is being filled, and what the call came to.
                    bridge.done = (waiting.id, -i64::from(libc::EINPROGRESS));
                    let record = records::of(bridge)?;
                    let flags = record.flags | flag::FILLING;
                    let request = self.ledger.last_request();
                    self.ledger.commit(index, &Record { flags, request, ..record });
                    self.fill(index, caller.descriptor(fd).ok().as_ref());
                } else {
                    // First that it connects: a call that waits is answered by what the record says.
                    self.settle(index);
                    self.park(index, waiting)?;
                }
                // It may have come to its end meanwhile.
                self.go(index);
                if nonblocking { Err(libc::EINPROGRESS) } else { Ok(Reply::Nothing) }
            }
            (Err(errno), _) => Err(errno),
        }
    }

    /// Fills the program's end `theirs` of one that connects, so that it is not writable.
    pub(crate) fn fill(&mut self, index: usize, theirs: Option<&OwnedFd>) {
        if let Some(theirs) = theirs {
            Bridge::fill(theirs);
        }
        let bridge = self.bridge(index);
        let there = pump::waiting(&bridge.ours) as usize;
        if let State::Connecting { filled, .. } = &mut bridge.state {
            *filled = there;
        }
    }

    fn accept(&mut self, index: usize, mut waiting: Waiting) -> Answer {
        let fd = waiting.arguments[0] as c_int;
        let nonblocking = waiting.caller.is_nonblocking(fd);
        if !matches!(self.bridge(index).state, State::Listening { .. }) {
            return Err(if matches!(self.bridge(index).state, State::Datagram { .. }) {
                libc::EOPNOTSUPP
            } else {
                libc::EINVAL
            });
        }
        let served = self.hand_over(index, &waiting)?;
        let marked = matches!(self.bridge(index).state, State::Listening { marked: true, .. });
        if marked {
            let theirs = waiting.caller.descriptor(fd).ok();
            self.bridge(index).mark(theirs.as_ref());
        }
        match served {
            Served::Yes => Ok(Reply::Nothing),
            Served::NothingThere if nonblocking => Err(libc::EAGAIN),
            Served::NothingThere => {
                waiting.until = receive_deadline(waiting.caller, fd);
                self.park(index, waiting)?;
                Ok(Reply::Nothing)
            }
        }
    }

    /// Hands a connection to a call of accept, if there is one.
    pub(crate) fn hand_over(&mut self, index: usize, waiting: &Waiting) -> Result<Served, Errno> {
        let listener = self.bridge(index);
        let (family, native) = (listener.family, listener.native);
        let State::Listening { returned, .. } = &mut listener.state else { return Err(libc::EINVAL) };
        let next = returned.pop_front();
        let (number, accepted) = match next {
            Some(returned) => returned,
            None => match self.next_connection(index, family, native)? {
                Some(next) => next,
                None => return Ok(Served::NothingThere),
            },
        };
        let [_, at, len_at, flags, ..] = waiting.arguments;
        let flags = if waiting.call as c_long == libc::SYS_accept4 { flags as c_int } else { 0 };
        let told = native::remote(accepted).and_then(|name| tell_name(waiting.caller, &name, at, len_at));
        let made = told.and_then(|()| {
            let of_listener = (flags, waiting.id, index as u32 + 1);
            let kind = (family, libc::SOCK_STREAM);
            self.make(number, kind, accepted, State::Stream, waiting.caller, of_listener)
        });
        let outcome = made.and_then(|theirs| {
            match self.install(waiting.id, &theirs, flags & libc::SOCK_CLOEXEC != 0) {
                0 => Ok(()),
                errno => {
                    // The connection is another caller's.
                    self.remove(number);
                    Err(errno)
                }
            }
        });
        match outcome {
            Ok(()) => {
                self.settle(number);
                Ok(Served::Yes)
            }
            Err(errno) => {
                self.give_back(index, number, accepted);
                if errno == libc::ENOENT { Ok(Served::Yes) } else { Err(errno) }
            }
        }
    }

    /// The next connection of a listener, written down as nobody's.
    fn next_connection(
        &mut self,
        index: usize,
        family: c_int,
        native: c_int,
    ) -> Result<Option<(usize, c_int)>, Errno> {
        let number = self.new_index()?;
        let ledger = self.ledger.clone();
        let options = native::snapshot(native)?.options;
        let accepted = native::accept(native, |place, peer| {
            ledger.commit(number, &records::returned((index, options), family, place, peer));
            Verdict::Taken
        });
        match accepted {
            Ok(accepted) => Ok(Some((number, accepted))),
            Err(errno) => {
                self.free_index(number);
                if matches!(errno, libc::EAGAIN | libc::EINTR) { Ok(None) } else { Err(errno) }
            }
        }
    }

    /// A connection that was taken for a caller who has gone is the next one's.
    pub(crate) fn give_back(&mut self, listener: usize, number: usize, accepted: c_int) {
        if let Ok(snapshot) = native::snapshot(accepted)
            && let What::Stream { place, peer, .. } = snapshot.what
        {
            self.ledger.commit(
                number,
                &records::returned((listener, snapshot.options), snapshot.family, place, peer),
            );
        }
        if let State::Listening { returned, .. } = &mut self.bridge(listener).state {
            returned.push_front((number, accepted));
        }
    }

    fn set_option(&mut self, index: usize, caller: Caller, arguments: [u64; 6]) -> Answer {
        let (level, name) = (arguments[1] as c_int, arguments[2] as c_int);
        // How long a call on the pair waits is the pair's.
        if level == libc::SOL_SOCKET && matches!(name, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) {
            return Ok(Reply::Kernel);
        }
        let len = arguments[4] as usize;
        if len > VALUE_MAX {
            return Err(libc::EINVAL);
        }
        let value = caller.read(arguments[3], len)?;
        let bridge = self.bridge(index);
        let outcome = native::set_option(bridge.native, level, name, &value);
        // The C library's resolver asks for errors. A connected socket is told of them by its calls anyway;
        // where no queue of them is kept, it is an empty one (ip(7), IP_RECVERR).
        let errors = matches!(
            (level, name),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        match outcome {
            Err(libc::ENOPROTOOPT) if errors && matches!(bridge.state, State::Datagram { .. }) => DONE,
            outcome => outcome.and(DONE),
        }
    }

    fn get_option(&mut self, index: usize, caller: Caller, arguments: [u64; 6]) -> Answer {
        let (level, name) = (arguments[1] as c_int, arguments[2] as c_int);
        if level == libc::SOL_SOCKET && matches!(name, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) {
            return Ok(Reply::Kernel);
        }
        let room = caller.read_u32(arguments[4])? as usize;
        let bridge = self.bridge(index);
        let mut value = native::option(bridge.native, level, name, room.min(VALUE_MAX))?;
        if (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR)
            && let Some(errno) = bridge.error.take()
        {
            value = errno.to_ne_bytes()[..room.min(4)].to_vec();
        }
        caller.write(arguments[3], &value)?;
        caller.write(arguments[4], &(value.len() as u32).to_ne_bytes())?;
        DONE
    }

    fn send(&mut self, index: usize, caller: Caller, call: c_long, arguments: [u64; 6]) -> Answer {
        let bridge = self.bridge(index);
        if !matches!(bridge.state, State::Datagram { .. }) {
            // A stream's address is nobody's; the kernel would refuse it on the pair.
            return match call {
                libc::SYS_sendto if matches!(bridge.state, State::Stream) => Err(libc::EISCONN),
                _ if matches!(bridge.state, State::Fresh | State::Listening { .. }) => Err(libc::EPIPE),
                libc::SYS_sendto => Err(libc::EPIPE),
                _ => Ok(Reply::Kernel),
            };
        }
        let native = bridge.native;
        self.has_name(index);
        let ledger = self.ledger.clone();
        let one = |number: u64, message: &Message| -> Result<usize, Errno> {
            let bytes = message.gather(caller)?;
            let stands = native::datagrams_written(native);
            if let Some((begun, stood)) = ledger.progress()
                && (number < begun || (number == begun && stands > stood))
            {
                // A predecessor has sent it.
                return Ok(bytes.len());
            }
            ledger.set_progress(number, stands);
            let name = match message.name {
                0 => None,
                at => Some(name_of(caller, at, message.name_len.into())?),
            };
            if message.control_len > CONTROL_MAX {
                return Err(libc::ENOBUFS);
            }
            let control = caller.read(message.control, message.control_len as usize)?;
            native::send(native, &bytes, name.as_deref(), &control)
        };
        match call {
            libc::SYS_sendto => {
                let parts = vec![(arguments[1], arguments[2] as usize)];
                let (name, name_len) = (arguments[4], arguments[5] as u32);
                let message = Message { name, name_len, parts, control: 0, control_len: 0, at: 0 };
                Ok(Reply::Value(one(0, &message)? as i64))
            }
            libc::SYS_sendmsg => Ok(Reply::Value(one(0, &Message::read(caller, arguments[1])?)? as i64)),
            _ => {
                let count = (arguments[2] & 0xffff_ffff).min(PARTS_MAX);
                for n in 0..count {
                    let at = arguments[1] + n * MMSGHDR;
                    let sent = Message::read(caller, at).and_then(|message| one(n, &message));
                    match sent {
                        Ok(len) => caller.write(at + MSGHDR as u64, &(len as u32).to_ne_bytes())?,
                        Err(errno) if n == 0 => return Err(errno),
                        Err(_) => return Ok(Reply::Value(n as i64)),
                    }
                }
                Ok(Reply::Value(count as i64))
            }
        }
    }

    fn receive(&mut self, index: usize, mut waiting: Waiting) -> Answer {
        match self.bridge(index).state {
            State::Datagram { .. } => {}
            // The pair is connected, but not the socket.
            State::Fresh | State::Listening { .. } => return Err(libc::ENOTCONN),
            _ => return Ok(Reply::Kernel),
        }
        let fd = waiting.arguments[0] as c_int;
        if waiting.call as c_long == libc::SYS_recvfrom && waiting.arguments[4] == 0 {
            return Ok(Reply::Kernel);
        }
        let dont_wait = waiting.caller.is_nonblocking(fd) || waiting.flags() & libc::MSG_DONTWAIT != 0;
        // What lies in the pair is older than what the stack has.
        let theirs = waiting.caller.descriptor(fd).map_err(|_| libc::EBADF)?;
        match self.take(index, &waiting, Some(&theirs)) {
            Err(libc::EAGAIN) if !dont_wait => {
                waiting.until = receive_deadline(waiting.caller, fd);
                self.park(index, waiting)?;
                Ok(Reply::Nothing)
            }
            other => other.map(Reply::Value),
        }
    }

    /// Does a call that receives datagrams: of the pair, whose other end is `theirs`, then of the stack.
    ///
    /// # Errors
    /// EAGAIN when there is none.
    pub(crate) fn take(
        &mut self,
        index: usize,
        waiting: &Waiting,
        theirs: Option<&OwnedFd>,
    ) -> Result<i64, Errno> {
        let (caller, arguments, flags) = (waiting.caller, waiting.arguments, waiting.flags());
        match waiting.call as c_long {
            libc::SYS_recvfrom => {
                let Received { bytes, from, .. } = self.next_datagram(index, theirs, flags)?;
                let room = bytes.len().min(arguments[2] as usize);
                caller.write(arguments[1], &bytes[..room])?;
                tell_name(caller, &from, arguments[4], arguments[5])?;
                Ok(if flags & libc::MSG_TRUNC != 0 { bytes.len() } else { room } as i64)
            }
            libc::SYS_recvmsg => {
                let message = Message::read(caller, arguments[1])?;
                self.take_message(index, caller, &message, theirs, flags).map(|len| len as i64)
            }
            _ => {
                let count = (arguments[2] & 0xffff_ffff).min(PARTS_MAX);
                for n in 0..count {
                    let at = arguments[1] + n * MMSGHDR;
                    let taken = Message::read(caller, at)
                        .and_then(|message| self.take_message(index, caller, &message, theirs, flags));
                    match taken {
                        Ok(len) => caller.write(at + MSGHDR as u64, &(len as u32).to_ne_bytes())?,
                        Err(errno) if n == 0 => return Err(errno),
                        Err(_) => return Ok(n as i64),
                    }
                }
                Ok(count as i64)
            }
        }
    }

    fn take_message(
        &mut self,
        index: usize,
        caller: Caller,
        message: &Message,
        theirs: Option<&OwnedFd>,
        flags: c_int,
    ) -> Result<usize, Errno> {
        let Received { bytes, from, datagram } = self.next_datagram(index, theirs, flags)?;
        let taken = message.scatter(caller, &bytes)?;
        if message.name != 0 {
            let room = from.len().min(message.name_len as usize);
            caller.write(message.name, &from[..room])?;
            caller.write(message.at + 8, &(from.len() as u32).to_ne_bytes())?;
        }
        let room = message.control_len.min(CONTROL_MAX) as usize;
        let (control, cut) = match datagram {
            Some(datagram) => native::control_messages(self.bridge(index).native, &datagram, room),
            None => (Vec::new(), false),
        };
        let told = if taken < bytes.len() { libc::MSG_TRUNC } else { 0 };
        let told = told | if cut { libc::MSG_CTRUNC } else { 0 };
        // The control messages, their length, then the flags.
        caller.write(message.control, &control)?;
        caller.write(message.at + 40, &(control.len() as u64).to_ne_bytes())?;
        caller.write(message.at + 48, &told.to_ne_bytes())?;
        Ok(if flags & libc::MSG_TRUNC != 0 { bytes.len() } else { taken })
    }

    fn next_datagram(
        &mut self,
        index: usize,
        theirs: Option<&OwnedFd>,
        flags: c_int,
    ) -> Result<Received, Errno> {
        if flags & libc::MSG_ERRQUEUE != 0 {
            // Errors are told by the next call; no queue of them is kept.
            return Err(libc::EAGAIN);
        }
        let mut bytes = vec![0; CHUNK];
        let peek = if flags & libc::MSG_PEEK != 0 { RecvFlags::PEEK } else { RecvFlags::empty() };
        if let Some(theirs) = theirs {
            // What comes by the pair comes first: it is filled before it is looked at.
            self.progress(index);
            if self.bridges[index].is_none() {
                return Err(libc::EAGAIN);
            }
            match recv(theirs, &mut bytes[..], RecvFlags::DONTWAIT | peek) {
                Ok((_, len)) => {
                    bytes.truncate(len);
                    let bridge = self.bridge(index);
                    let family = bridge.family;
                    let (from, datagram) = match &bridge.state {
                        State::Datagram { connected, head: Some(head), .. }
                            if !*connected || native::wants_control(bridge.native) =>
                        {
                            (native::make_name(head.remote, family), Some(**head))
                        }
                        State::Netlink(_) => (netlink::name(0), None),
                        _ => (native::remote(bridge.native).unwrap_or_default(), None),
                    };
                    return Ok(Received { bytes, from, datagram });
                }
                Err(Io::AGAIN) => return Err(libc::EAGAIN),
                Err(errno) => return Err(errno.raw_os_error()),
            }
        }
        let bridge = self.bridge(index);
        if !matches!(bridge.state, State::Datagram { bound: true, .. }) {
            return Err(libc::EAGAIN);
        }
        let peek = flags & libc::MSG_PEEK != 0;
        let datagram = native::receive_from(bridge.native, &mut bytes, peek)?;
        bytes.truncate(datagram.copied);
        let from = native::make_name(datagram.remote, bridge.family);
        Ok(Received { bytes, from, datagram: Some(datagram) })
    }
}

impl Waiting {
    /// The flags of a call that receives.
    pub(crate) fn flags(&self) -> c_int {
        let at = match self.call as c_long {
            libc::SYS_recvmsg => 2,
            _ => 3,
        };
        self.arguments[at] as c_int
    }
}

/// When a call that waits fails, by the program's own SO_RCVTIMEO.
fn receive_deadline(caller: Caller, fd: c_int) -> Option<Instant> {
    let theirs = caller.descriptor(fd).ok()?;
    let timeout =
        rustix::net::sockopt::socket_timeout(&theirs, rustix::net::sockopt::Timeout::Recv).ok()??;
    Instant::now().checked_add(timeout).filter(|_| timeout > Duration::ZERO)
}
