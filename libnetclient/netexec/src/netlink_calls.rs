//! What the calls of a program do at its sockets of AF_NETLINK.

use crate::bridge::{CHUNK, State, Waiting};
use crate::calls::{Answer, Message, Reply, tell_name};
use crate::ledger::NETLINK_KIND;
use crate::netlink::{self, Protocol};
use crate::notices::Notice;
use crate::program::{Caller, Errno};
use crate::server::Server;
use libc::{c_int, c_long};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// The answers to one request that are kept at most: what a pair holds.
const ANSWERS_MAX: usize = 1024;

impl Server {
    /// socket(2) of AF_NETLINK.
    pub(crate) fn netlink_socket(&mut self, notice: Notice, caller: Caller, protocol: Protocol) -> Answer {
        let flags = notice.arguments[1] as c_int & (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        let index = self.new_index()?;
        let family = (libc::AF_NETLINK, NETLINK_KIND);
        let state = State::Netlink(protocol);
        let made = self.make(index, family, -1, state, caller, (flags, notice.id, 0));
        let theirs = made.inspect_err(|_| self.free_index(index))?;
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

    /// The port by which a socket is told apart: what a kernel would have given it.
    fn netlink_port(&mut self, index: usize) -> u32 {
        (self.bridge(index).socket as u32).max(1)
    }

    pub(crate) fn netlink_call(&mut self, index: usize, waiting: Waiting, protocol: Protocol) -> Answer {
        let (caller, arguments, call) = (waiting.caller, waiting.arguments, waiting.call as c_long);
        match call {
            // Which port and which groups: there is nothing to hear of but answers.
            libc::SYS_bind | libc::SYS_connect => Ok(Reply::Value(0)),
            libc::SYS_getsockname => {
                let name = netlink::name(self.netlink_port(index));
                tell_name(caller, &name, arguments[1], arguments[2])?;
                Ok(Reply::Value(0))
            }
            libc::SYS_setsockopt if arguments[1] as c_int == libc::SOL_NETLINK => Ok(Reply::Value(0)),
            libc::SYS_getsockopt if arguments[1] as c_int == libc::SOL_SOCKET => {
                let value = match arguments[2] as c_int {
                    libc::SO_TYPE => libc::SOCK_RAW,
                    libc::SO_DOMAIN => libc::AF_NETLINK,
                    libc::SO_PROTOCOL => protocol.number(),
                    _ => return Ok(Reply::Kernel),
                };
                let room = caller.read_u32(arguments[4])?.min(4) as usize;
                caller.write(arguments[3], &value.to_ne_bytes()[..room])?;
                caller.write(arguments[4], &(room as u32).to_ne_bytes())?;
                Ok(Reply::Value(0))
            }
            libc::SYS_sendto => {
                let asked = caller.read(arguments[1], (arguments[2] as usize).min(CHUNK))?;
                self.answer_netlink(index, protocol, &asked);
                Ok(Reply::Value(asked.len() as i64))
            }
            libc::SYS_sendmsg => {
                let asked = Message::read(caller, arguments[1])?.gather(caller)?;
                self.answer_netlink(index, protocol, &asked);
                Ok(Reply::Value(asked.len() as i64))
            }
            libc::SYS_recvfrom | libc::SYS_recvmsg => {
                let theirs = caller.descriptor(arguments[0] as c_int).map_err(|_| libc::EBADF)?;
                match self.take(index, &waiting, Some(&theirs)) {
                    // Answers are there before anybody reads: whoever waits now waits for a change.
                    Err(libc::EAGAIN) => Ok(Reply::Kernel),
                    other => other.map(Reply::Value),
                }
            }
            libc::SYS_getpeername | libc::SYS_accept | libc::SYS_accept4 | libc::SYS_listen => {
                Err(libc::EOPNOTSUPP as Errno)
            }
            _ => Ok(Reply::Kernel),
        }
    }

    /// Puts the answers to a request into the pair.
    fn answer_netlink(&mut self, index: usize, protocol: Protocol, asked: &[u8]) {
        let port = self.netlink_port(index);
        let answers = netlink::answer(&mut self.host, protocol, asked, port);
        let bridge = self.bridge(index);
        for answer in answers.iter().take(ANSWERS_MAX) {
            // A program that does not read loses the rest, as with a kernel (ENOBUFS).
            if send(&bridge.ours, answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
                break;
            }
        }
    }

    /// Requests that were written without a name.
    pub(crate) fn serve_netlink(&mut self, index: usize, protocol: Protocol) {
        let mut asked = vec![0; CHUNK];
        while let Ok((_, 1..)) =
            recv(&self.bridge(index).ours, &mut asked[..], RecvFlags::DONTWAIT | RecvFlags::PEEK)
        {
            let Ok((_, len)) = recv(&self.bridge(index).ours, &mut asked[..], RecvFlags::DONTWAIT) else {
                return;
            };
            let request = asked[..len].to_vec();
            self.answer_netlink(index, protocol, &request);
        }
    }
}
