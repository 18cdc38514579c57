//! A server takes up where its predecessor was killed: sockets, calls that wait, the call that was
//! being answered, the bytes in the pump.
//!
//! The order matters: first the session, with the send pages that are in use; then what is being
//! closed, the sockets, the connections that are nobody's; then the pump's pipe; then the calls. A
//! request to sockd whose answer nobody wrote down is asked again under its number, and claimed by the
//! call that is done again; what nobody claims is closed.

use crate::bridge::{Bridge, State, Waiting};
use crate::ledger::{self, Ledger, Parked, Pumping, Record, VERBOSE, flag, phase, what};
use crate::native;
use crate::netlink::Protocol;
use crate::notices::{Notice, Notices};
use crate::program::{Caller, Errno};
use crate::pump::{self, Pump};
use crate::records;
use crate::server::{Server, now_ns};
use crate::shown::Shown;
use libc::{c_int, c_long};
use libnetclient::Session;
use libnetclient::resume::{Asked, Kept};
use proto::id::{Epoch, SessionId, SlotIndex};
use rustix::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[expect(unsafe_code, reason = "numbers of descriptors that are held for good")]
fn held(number: c_int) -> BorrowedFd<'static> {
    // SAFETY: in the header of the ledger stand descriptors that nobody closes while a server runs.
    unsafe { BorrowedFd::borrow_raw(number) }
}

#[expect(unsafe_code, reason = "numbers of descriptors that stand in records")]
fn taken(number: c_int) -> OwnedFd {
    // SAFETY: a record's own end: the predecessor owned it, and nobody else does.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn failed(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Our end of a record, if its number still stands for it.
fn end_of(record: &Record) -> Option<OwnedFd> {
    if record.ours < 0 {
        return None;
    }
    let there = rustix::fs::fstat(held(record.ours)).is_ok_and(|stat| stat.st_ino == record.ours_inode);
    there.then(|| taken(record.ours))
}

/// What lives at which place, and how far its send pages are filled.
fn streams(ledger: &Ledger) -> Result<HashMap<SlotIndex, (Epoch, u64)>, Errno> {
    let mut streams = HashMap::new();
    for index in 0..ledger.records() {
        let record = ledger.record(index);
        let lives = !matches!(record.phase, phase::FREE | phase::CLOSING)
            && !matches!(record.what, what::FRESH | what::NETLINK);
        if !lives {
            continue;
        }
        let filled = match end_of(&record) {
            Some(end) if record.flags & flag::STREAM != 0 => {
                let filled = pump::filled(&record, &end);
                // Only looked at.
                core::mem::forget(end);
                filled?
            }
            end => {
                core::mem::forget(end);
                0
            }
        };
        streams.insert(SlotIndex(record.slot), (Epoch(record.epoch), filled));
    }
    Ok(streams)
}

fn session_of(ledger: &Ledger) -> io::Result<Session> {
    let header = ledger.header();
    let geometry = ledger::geometry_of(header.geometry);
    let duplicate = |number: c_int| held(number).try_clone_to_owned();
    let pipes = header.pipes[..usize::from(geometry.shards)].iter();
    let kept = Kept {
        id: SessionId(header.session),
        geometry,
        control: duplicate(header.control)?,
        arena: duplicate(header.arena)?,
        wake: duplicate(header.wake)?,
        pipes: pipes.map(|number| duplicate(*number)).collect::<io::Result<_>>()?,
    };
    let last = ledger.last_request();
    // One whose record stands was written down; only that was not said.
    let written = (0..ledger.records()).map(|index| ledger.record(index));
    let written = written.filter(|record| record.phase != phase::FREE).any(|record| record.request == last);
    let open = ledger.open_request().filter(|_| !written);
    let streams = streams(ledger).map_err(failed)?;
    Session::resume(&kept, Asked { last, open }, Arc::new(ledger.clone()), &streams)
}

impl Server {
    /// A server of what the ledger says, which may be nothing yet.
    ///
    /// # Errors
    /// When the session is over, and those of epoll.
    pub fn take_up(ledger: Ledger, shown: Shown) -> io::Result<Server> {
        let header = ledger.header();
        let session = session_of(&ledger)?;
        session.make_default();
        let notices = Notices::new(held(header.listener).try_clone_to_owned()?);
        let pump = Pump::new(held(header.pipe_out), held(header.pipe_in), session.clone());
        let verbose = header.flags & VERBOSE != 0;
        let mut server = Server::empty(notices, (ledger, shown), session, pump, verbose).map_err(failed)?;
        server.bridges.resize_with(server.ledger.records(), || None);
        server.say(format_args!("takes up {} sockets", server.ledger.records()));
        for index in (0..server.ledger.records()).rev() {
            let record = server.ledger.record(index);
            match record.phase {
                phase::FREE => server.free.push(index),
                phase::CLOSING => server.finish_closing(index, &record)?,
                phase::RETURNED => {}
                _ => server.bring_back(index, &record)?,
            }
        }
        for index in 0..server.ledger.records() {
            let record = server.ledger.record(index);
            if record.phase == phase::RETURNED {
                server.bring_returned(index, &record)?;
            }
        }
        server.show_all();
        server.finish_pump()?;
        server.skip_known()?;
        server.wait_again();
        if let Some(notice) = server.ledger.notice() {
            server.on_notice_again(notice);
            server.ledger.forget_notice();
        }
        server.session.drop_unclaimed()?;
        server.ledger.settle_requests();
        Ok(server)
    }

    fn restored(&self, record: &Record) -> io::Result<c_int> {
        netclient::resume::restore(&self.session, &records::snapshot(record))
    }

    fn finish_closing(&mut self, index: usize, record: &Record) -> io::Result<()> {
        if record.what != what::FRESH && record.what != what::NETLINK {
            let native = self.restored(record)?;
            if record.flags & flag::ABORT != 0 { native::abort(native) } else { native::close(native) }
        }
        if let Some(ours) = end_of(record) {
            if record.flags & flag::RESET != 0
                && let Some(theirs) = (Caller { tid: record.caller }).find(record.socket)
            {
                crate::bridge::make_reset(&theirs);
            }
            drop(ours);
        }
        self.free_index(index);
        Ok(())
    }

    /// A socket of a program, or one that was on its way to it.
    fn bring_back(&mut self, index: usize, record: &Record) -> io::Result<()> {
        let installed =
            record.phase != phase::INSTALLING || self.ledger.errand_outcome(record.notice) == Some(0);
        let native = if record.what == what::NETLINK { -1 } else { self.restored(record)? };
        let (Some(ours), true) = (end_of(record), installed) else {
            if record.listener != 0 {
                self.give_up_end(record);
                let (listener, snapshot) = (record.listener as usize - 1, records::snapshot(record));
                if let netclient::resume::What::Stream { place, peer, .. } = snapshot.what {
                    self.ledger.commit(
                        index,
                        &records::returned((listener, record.options), record.family, place, peer),
                    );
                }
                // Brought back with the others that are nobody's: this number is another one's then.
                self.session_forget(native);
            } else {
                self.give_up_end(record);
                if native >= 0 {
                    native::close(native);
                }
                self.free_index(index);
            }
            return Ok(());
        };
        let peer = Option::<SocketAddr>::from(record.peer);
        let name = |address: Option<SocketAddr>| {
            address.map_or(Vec::new(), |address| native::make_name(address, record.family))
        };
        let has = |bit: u32| record.flags & bit != 0;
        let state = match (record.phase, record.what) {
            (phase::CONNECTING, _) => {
                State::Connecting { to: name(peer), filled: record.filled as usize, waiting: Vec::new() }
            }
            (_, what::LISTENER) if has(flag::LISTENING) => State::Listening {
                // What lies in the program's end was put there by a predecessor.
                marked: crate::program::unread(&ours).is_some_and(|bytes| bytes > 0),
                waiting: VecDeque::new(),
                returned: VecDeque::new(),
            },
            (_, _) if record.what != what::NETLINK && record.kind == libc::SOCK_DGRAM => State::Datagram {
                bound: has(flag::BOUND),
                connected: has(flag::CONNECTED),
                head: Option::from(record.head).map(Box::new),
                waiting: VecDeque::new(),
            },
            (_, what::NETLINK) => match Protocol::from_number(record.kind) {
                Some(protocol) => State::Netlink(protocol),
                None => State::Fresh,
            },
            (_, what::STREAM) => State::Stream,
            _ => State::Fresh,
        };
        let caller = Caller { tid: record.caller };
        let odometer = pump::odometer(&ours).unwrap_or(pump::FULL);
        let mut bridge = Bridge::new(record.socket, record.family, native, ours, state, caller);
        bridge.odometer = odometer;
        bridge.base = record.base;
        if has(flag::REARM) {
            // Set back by the predecessor, or now.
            bridge.base = record.next_base;
            if pump::filled(record, &bridge.ours).map_err(failed)? == record.next_base {
                pump::set_odometer(&bridge.ours, pump::FULL).map_err(failed)?;
                bridge.odometer = pump::FULL;
            }
        }
        bridge.error = Some(record.error).filter(|errno| *errno != 0);
        bridge.done = (record.notice, record.answer);
        bridge.written = *record;
        if matches!(bridge.state, State::Stream) {
            native::send_kept_back(native).map_err(failed)?;
            bridge.take_up_end();
        }
        self.insert(index, bridge).map_err(failed)?;
        if has(flag::FILLING) {
            self.fill(index, caller.find(record.socket).as_ref());
        }
        self.settle_quietly(index);
        Ok(())
    }

    fn give_up_end(&self, record: &Record) {
        drop(end_of(record));
    }

    /// Lets go of a number without closing what it stands for.
    fn session_forget(&self, native: c_int) {
        netclient::resume::forget(native);
    }

    /// Writes a socket down as it stands; a request that is open stays so.
    fn settle_quietly(&mut self, index: usize) {
        let Some(bridge) = self.bridges[index].as_mut() else { return };
        if let Ok(record) = records::of(bridge)
            && record != bridge.written
        {
            self.ledger.commit(index, &record);
            bridge.written = record;
        }
    }

    fn bring_returned(&mut self, index: usize, record: &Record) -> io::Result<()> {
        let native = self.restored(record)?;
        let listener = (record.listener as usize).checked_sub(1);
        let listener = listener.and_then(|listener| self.bridges.get_mut(listener)?.as_mut());
        match listener.map(|listener| &mut listener.state) {
            Some(State::Listening { returned, .. }) => returned.push_back((index, native)),
            _ => {
                native::abort(native);
                self.free_index(index);
            }
        }
        Ok(())
    }

    /// The board shows what is there, whatever the predecessor was about to change.
    fn show_all(&self) {
        self.shown.replace(self.by_socket.keys().copied());
        for bridge in self.bridges.iter().flatten() {
            self.show(bridge);
        }
    }

    fn finish_pump(&mut self) -> io::Result<()> {
        let state = self.ledger.pump();
        if state.doing == Pumping::Idle {
            return Ok(());
        }
        let bridge = self.bridges.get_mut(state.index).and_then(Option::as_mut);
        let bridge = bridge.filter(|bridge| matches!(bridge.state, State::Stream));
        self.pump.finish(&self.ledger, state, bridge).map_err(failed)
    }

    /// Connections whose records stand are no longer in their listeners' queues.
    fn skip_known(&mut self) -> io::Result<()> {
        let known: HashMap<u32, u32> = (0..self.ledger.records())
            .map(|index| self.ledger.record(index))
            .filter(|record| record.phase != phase::FREE && record.what == what::STREAM)
            .map(|record| (record.slot, record.epoch))
            .collect();
        for bridge in self.bridges.iter().flatten() {
            if let Ok(listener) = netclient::resume::listener(bridge.native) {
                listener.skip_known(|place| known.get(&place.slot.0) == Some(&place.epoch.0))?;
            }
        }
        Ok(())
    }

    /// Calls that were written down wait again, or are answered by what has happened since.
    fn wait_again(&mut self) {
        for place in (0..ledger::WAITING).rev() {
            let Some(parked) = self.ledger.parked(place) else {
                self.free_places.push(place);
                continue;
            };
            let Parked { id, arguments, call, until_ns, tid, index } = parked;
            let index = index as usize - 1;
            let left = Duration::from_nanos(until_ns.saturating_sub(now_ns()));
            let until = (until_ns != 0).then(|| Instant::now() + left);
            let waiting = Waiting { id, caller: Caller { tid }, arguments, call, until, place };
            let there = self.bridges.get(index).is_some_and(Option::is_some);
            if !there || !self.notices.is_valid(id) {
                self.over(&waiting);
                continue;
            }
            match (&self.bridge(index).state, call as c_long) {
                (State::Stream, libc::SYS_connect) => {
                    self.notices.answer(id, 0);
                    self.over(&waiting);
                }
                (State::Fresh, libc::SYS_connect) => {
                    let errno = self.bridge(index).error.take().unwrap_or(libc::ECONNABORTED);
                    self.notices.refuse(id, errno);
                    self.over(&waiting);
                }
                _ => self.wait_in_line(index, waiting),
            }
            self.go(index);
        }
    }

    /// The call that the predecessor was at, if it is not answered.
    fn on_notice_again(&mut self, notice: Notice) {
        let parked = (0..ledger::WAITING)
            .any(|place| self.ledger.parked(place).is_some_and(|parked| parked.id == notice.id));
        if !parked && self.notices.is_valid(notice.id) {
            self.on_notice(notice);
        }
    }
}
