//! Sockets in a [`mio`] registry.
//!
//! A registered socket has an eventfd of this process; the session's dispatcher makes an edge on
//! it when the socket changes. It is not a socket: it can't say "neither readable nor writable".
//! So events are hints, as mio allows: the call that follows may answer `WouldBlock`. One thing is
//! exact, because programs rely on it: a connection that is not yet established is not writable.
//!
//! How an eventfd makes the edges: it is writable while its count is below the maximum, readable
//! while that is not 0; every write, also of 0, is an edge for readers, every successful read one
//! for writers.

use crate::session::start_dispatcher;
use crate::socket::Socket;
use crate::{TcpListener, TcpStream, UdpSocket};
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use proto::arena::line::level;
use rustix::event::EventfdFlags;
use rustix::fd::{AsRawFd, OwnedFd};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The largest count (eventfd(2)): at this one it is not writable.
const FULL: u64 = u64::MAX - 1;

/// What a registry watches.
#[derive(Debug)]
pub(crate) struct Edge {
    fd: OwnedFd,
    writers_only: AtomicBool,
}

impl Edge {
    fn add(&self, count: u64) {
        let _ = rustix::io::write(&self.fd, &count.to_ne_bytes());
    }

    fn clear(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }

    /// An edge for whoever may look again.
    pub(crate) fn make(&self) {
        self.add(1);
        if self.writers_only.load(Ordering::Relaxed) {
            self.clear();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Readiness {
    pub(crate) edge: Arc<Edge>,
    /// The count is at its maximum because the connection is not established.
    connecting: bool,
}

impl Readiness {
    fn new(placed: bool) -> io::Result<Readiness> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let edge = Arc::new(Edge { fd, writers_only: AtomicBool::new(false) });
        let readiness = Readiness { edge, connecting: !placed };
        if readiness.connecting {
            readiness.edge.add(FULL);
        }
        Ok(readiness)
    }

    /// The socket changed; `placed` says whether its connection stands or has failed.
    pub(crate) fn changed(&mut self, placed: bool) {
        if self.connecting {
            if !placed {
                return;
            }
            self.connecting = false;
            self.edge.clear();
        }
        self.edge.make();
    }
}

impl Socket {
    fn register(
        &self,
        registry: &Registry,
        token: Token,
        interests: Interest,
        again: bool,
    ) -> io::Result<()> {
        start_dispatcher(&self.session)?;
        let placed = self.flags() & (level::OPEN | level::ERROR) != 0;
        let mut guard = self.readiness();
        let readiness = match &mut *guard {
            Some(readiness) => readiness,
            none => none.insert(Readiness::new(placed)?),
        };
        readiness.edge.writers_only.store(!interests.is_readable(), Ordering::Relaxed);
        let fd = readiness.edge.fd.as_raw_fd();
        match again {
            false => SourceFd(&fd).register(registry, token, interests)?,
            true => SourceFd(&fd).reregister(registry, token, interests)?,
        }
        // What is there already is an event too.
        readiness.changed(placed);
        Ok(())
    }

    fn deregister(&self, registry: &Registry) -> io::Result<()> {
        match self.readiness().take() {
            Some(readiness) => SourceFd(&readiness.edge.fd.as_raw_fd()).deregister(registry),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

macro_rules! source {
    ($($socket:ty),*) => {$(
        impl Source for $socket {
            fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
                self.socket.register(registry, token, interests, false)
            }

            fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
                self.socket.register(registry, token, interests, true)
            }

            fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
                self.socket.deregister(registry)
            }
        }
    )*};
}
source!(TcpStream, TcpListener, UdpSocket);
