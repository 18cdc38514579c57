//! What a number stands for: a socket in whatever state, or an epoll.
//!
//! A TCP socket begins without a place in the stack and gets one by bind, listen or connect; a UDP socket
//! by bind, connect or its first datagram. Options set before are applied then, and so are epoll
//! registrations.

use crate::abi::{Errno, Outcome};
use crate::epoll::{Epoll, Registration};
use crate::options::Options;
use libc::c_int;
use libnetclient::resume::{Place, Verdict};
use libnetclient::{Ready, Session, Source, TcpListener, TcpStream, UdpSocket};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The largest backlog: Linux's `somaxconn`.
const BACKLOG_MAX: u32 = 4096;

/// Locks; nothing is left half done under these locks that matters to others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket or an epoll.
#[derive(Debug)]
pub struct Entry {
    /// AF_INET or AF_INET6; 0 for an epoll.
    pub(crate) family: c_int,
    /// SOCK_STREAM or SOCK_DGRAM; 0 for an epoll.
    pub(crate) kind: c_int,
    nonblocking: AtomicBool,
    state: RwLock<State>,
    pub(crate) options: Mutex<Options>,
    pub(crate) registrations: Mutex<Vec<Registration>>,
}

/// The state of a socket.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// A socket without a place.
    Fresh,
    /// `listening` is false between bind(2) and listen(2): it only has its port.
    Listener {
        listener: Arc<TcpListener>,
        listening: bool,
    },
    /// `begun` while nobody has been told that the connection stands.
    Stream {
        stream: Arc<TcpStream>,
        begun: bool,
    },
    Datagram(Arc<UdpSocket>),
    Epoll(Arc<Epoll>),
}

impl State {
    pub(crate) fn source(&self) -> Option<Source<'_>> {
        match self {
            State::Listener { listener, .. } => Some(Source::from(&**listener)),
            State::Stream { stream, .. } => Some(Source::from(&**stream)),
            State::Datagram(socket) => Some(Source::from(&**socket)),
            State::Fresh | State::Epoll(_) => None,
        }
    }
}

fn any(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        SocketAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    }
}

impl Entry {
    /// A socket of that family and kind.
    pub(crate) fn socket(family: c_int, kind: c_int, nonblocking: bool) -> Arc<Entry> {
        Entry::with(family, kind, nonblocking, State::Fresh, Options::default())
    }

    /// An epoll.
    pub(crate) fn epoll(epoll: Epoll) -> Arc<Entry> {
        Entry::with(0, 0, false, State::Epoll(Arc::new(epoll)), Options::default())
    }

    pub(crate) fn with(
        family: c_int,
        kind: c_int,
        nonblocking: bool,
        state: State,
        options: Options,
    ) -> Arc<Entry> {
        Arc::new(Entry {
            family,
            kind,
            nonblocking: AtomicBool::new(nonblocking),
            state: RwLock::new(state),
            options: Mutex::new(options),
            registrations: Mutex::default(),
        })
    }

    pub(crate) fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// O_NONBLOCK.
    pub(crate) fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Acquire)
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Release);
    }

    /// The connection.
    ///
    /// # Errors
    /// ENOTCONN for a TCP socket without one, ENOTSOCK, EOPNOTSUPP.
    pub(crate) fn stream(&self) -> Outcome<Arc<TcpStream>> {
        match self.state() {
            State::Stream { stream, .. } => Ok(stream),
            State::Fresh | State::Listener { .. } => Err(Errno(libc::ENOTCONN)),
            State::Datagram(_) => Err(Errno(libc::EOPNOTSUPP)),
            State::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
        }
    }

    /// A wildcard address of the socket's family.
    fn wildcard(&self) -> SocketAddr {
        match self.family {
            libc::AF_INET6 => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
            _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        }
    }

    fn session() -> Outcome<Session> {
        Session::default_session().map_err(|error| match error.kind() {
            // No group: there is no network then.
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Errno(libc::ENETDOWN),
            _ => error.into(),
        })
    }

    /// The socket has a place now: what waited for that is done.
    fn settle(&self, state: &mut State, settled: State) {
        let options = *lock(&self.options);
        match &settled {
            State::Stream { stream, .. } => options.apply(stream),
            State::Listener { listener, .. } => {
                let _ = options.apply_to_listener(listener);
            }
            State::Datagram(socket) => options.apply_to_datagram(socket),
            State::Fresh | State::Epoll(_) => {}
        }
        if let Some(source) = settled.source() {
            lock(&self.registrations).retain(|registration| registration.renew(source));
        }
        *state = settled;
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> Outcome<T>) -> Outcome<T> {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn bind(&self, local: SocketAddr) -> Outcome<()> {
        self.change(|state| match (&*state, self.kind) {
            (State::Fresh, libc::SOCK_STREAM) => {
                let reserved = TcpListener::reserve_in(&Entry::session()?, local, self.binding(None))?;
                let reserved = State::Listener { listener: Arc::new(reserved), listening: false };
                self.settle(state, reserved);
                Ok(())
            }
            (State::Fresh, libc::SOCK_DGRAM) => {
                let socket = UdpSocket::bind_with_in(&Entry::session()?, local, self.binding(None))?;
                self.settle(state, State::Datagram(Arc::new(socket)));
                Ok(())
            }
            (State::Epoll(_), _) => Err(Errno(libc::ENOTSOCK)),
            _ => Err(Errno(libc::EINVAL)),
        })
    }

    pub(crate) fn listen(&self, backlog: c_int) -> Outcome<()> {
        // listen(2): a negative backlog is the largest.
        let backlog = u32::try_from(backlog).unwrap_or(BACKLOG_MAX).max(1);
        self.change(|state| match state {
            State::Fresh if self.kind == libc::SOCK_STREAM => {
                let binding = self.binding(Some(backlog));
                let listener = TcpListener::bind_with_in(&Entry::session()?, self.wildcard(), binding)?;
                self.settle(state, State::Listener { listener: Arc::new(listener), listening: true });
                Ok(())
            }
            State::Listener { listener, listening } => {
                listener.listen(backlog)?;
                *listening = true;
                Ok(())
            }
            State::Fresh | State::Datagram(_) => Err(Errno(libc::EOPNOTSUPP)),
            State::Stream { .. } => Err(Errno(libc::EINVAL)),
            State::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
        })
    }

    pub(crate) fn accept(&self, nonblocking: bool) -> Outcome<(Arc<Entry>, SocketAddr)> {
        let (stream, remote) = self.listening()?.accept_with(self.is_nonblocking())?;
        Ok((self.accepted(stream, nonblocking), remote))
    }

    /// The next connection, which `keep` writes down before it leaves the queue.
    pub(crate) fn accept_kept(
        &self,
        keep: impl FnMut(Place, SocketAddr) -> Verdict,
    ) -> Outcome<(Arc<Entry>, SocketAddr)> {
        let (stream, remote) = self.listening()?.accept_kept(keep)?;
        Ok((self.accepted(stream, true), remote))
    }

    fn listening(&self) -> Outcome<Arc<TcpListener>> {
        match self.state() {
            State::Listener { listener, listening: true } => Ok(listener),
            State::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
            State::Datagram(_) => Err(Errno(libc::EOPNOTSUPP)),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    fn accepted(&self, stream: TcpStream, nonblocking: bool) -> Arc<Entry> {
        // As a kernel's socket, it has the options of the one it came from.
        let options = *lock(&self.options);
        options.apply(&stream);
        let state = State::Stream { stream: Arc::new(stream), begun: false };
        Entry::with(self.family, libc::SOCK_STREAM, nonblocking, state, options)
    }

    /// connect(2); `None` for AF_UNSPEC.
    pub(crate) fn connect(&self, remote: Option<SocketAddr>) -> Outcome<()> {
        if self.kind == libc::SOCK_DGRAM {
            return match remote {
                Some(remote) => Ok(self.datagram()?.connect(remote)?),
                None => match self.state() {
                    State::Datagram(socket) => Ok(socket.disconnect()?),
                    _ => Ok(()),
                },
            };
        }
        let Some(remote) = remote else {
            return self.change(|state| match state {
                State::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
                _ => {
                    *state = State::Fresh;
                    Ok(())
                }
            });
        };
        let fresh = !matches!(self.state(), State::Stream { .. });
        let stream = self.change(|state| self.begin(state, remote, false))?;
        if self.is_nonblocking() && (fresh || stream.peer_addr().is_err()) {
            return Err(Errno(libc::EINPROGRESS));
        }
        let timeout = lock(&self.options).send_timeout;
        self.finish(&stream, timeout)
    }

    /// sendto(2) with MSG_FASTOPEN on a socket that is not connected: how much of `data` was taken.
    pub(crate) fn connect_with_data(&self, remote: SocketAddr, data: &[u8]) -> Outcome<usize> {
        if !matches!(self.state(), State::Fresh) {
            return Err(Errno(libc::EISCONN));
        }
        let stream = self.change(|state| self.begin(state, remote, true))?;
        Ok(stream.speak_first(data)?)
    }

    /// Begins a connection, or finds the one under way.
    fn begin(&self, state: &mut State, remote: SocketAddr, hold: bool) -> Outcome<Arc<TcpStream>> {
        let local = match &*state {
            State::Epoll(_) => return Err(Errno(libc::ENOTSOCK)),
            State::Datagram(_) => return Err(Errno(libc::EOPNOTSUPP)),
            State::Listener { listening: true, .. } | State::Stream { begun: false, .. } => {
                return Err(Errno(libc::EISCONN));
            }
            // Its port is let go of when the connection has it.
            State::Listener { listener, .. } => listener.local_addr()?,
            State::Stream { stream, .. } => {
                let ready = stream.ready();
                if ready.contains(Ready::ERROR) {
                    let error = stream.take_error()?;
                    *state = State::Fresh;
                    return Err(error.map_or(Errno(libc::ECONNABORTED), Errno::from));
                }
                if self.is_nonblocking() && stream.peer_addr().is_err() {
                    return Err(Errno(libc::EALREADY));
                }
                return Ok(stream.clone());
            }
            State::Fresh => any(remote),
        };
        let session = Entry::session()?;
        let held = hold || lock(&self.options).shape_syn();
        let stream = Arc::new(match held {
            true => TcpStream::start_held(&session, local, remote)?,
            false => TcpStream::connect_nonblocking_in(&session, local, remote)?,
        });
        // Every call says for itself whether it waits.
        stream.set_nonblocking(false)?;
        if hold {
            stream.prepare_fast_open()?;
        }
        self.settle(state, State::Stream { stream: stream.clone(), begun: true });
        if held && !hold {
            // Its options are said: the SYN may leave.
            stream.speak_first(&[])?;
        }
        Ok(stream)
    }

    /// Waits until a connection stands.
    fn finish(&self, stream: &Arc<TcpStream>, timeout: Option<Duration>) -> Outcome<()> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let outcome = stream.wait_connected(deadline);
        self.change(|state| match state {
            State::Stream { stream: now, begun } if Arc::ptr_eq(now, stream) => match outcome {
                Ok(()) => {
                    *begun = false;
                    Ok(())
                }
                // socket(7): SO_SNDTIMEO makes EINPROGRESS of it. A failure of its own has an errno.
                Err(error) if error.raw_os_error().is_none() && deadline.is_some() => {
                    Err(Errno(libc::EINPROGRESS))
                }
                Err(error) => {
                    *state = State::Fresh;
                    Err(error.into())
                }
            },
            _ => Err(Errno(libc::ECONNABORTED)),
        })
    }

    /// The UDP socket; it gets a place if it has none.
    pub(crate) fn datagram(&self) -> Outcome<Arc<UdpSocket>> {
        if let State::Datagram(socket) = self.state() {
            return Ok(socket);
        }
        self.change(|state| match state {
            State::Datagram(socket) => Ok(socket.clone()),
            State::Fresh if self.kind == libc::SOCK_DGRAM => {
                let socket = Arc::new(UdpSocket::bind_with_in(
                    &Entry::session()?,
                    self.wildcard(),
                    self.binding(None),
                )?);
                self.settle(state, State::Datagram(socket.clone()));
                Ok(socket)
            }
            State::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
            _ => Err(Errno(libc::EOPNOTSUPP)),
        })
    }

    pub(crate) fn local(&self) -> Outcome<SocketAddr> {
        match self.state() {
            State::Stream { stream, .. } => Ok(stream.local_addr()?),
            State::Listener { listener, .. } => Ok(listener.local_addr()?),
            State::Datagram(socket) => Ok(socket.local_addr()?),
            State::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
            State::Fresh => Ok(self.wildcard()),
        }
    }

    pub(crate) fn remote(&self) -> Outcome<SocketAddr> {
        match self.state() {
            State::Datagram(socket) => Ok(socket.peer_addr()?),
            State::Fresh => Err(Errno(libc::ENOTCONN)),
            _ => Ok(self.stream()?.peer_addr()?),
        }
    }

    /// What poll(2) says of it.
    pub(crate) fn ready(&self) -> Ready {
        match self.state() {
            // As a kernel's socket that is not connected.
            State::Fresh if self.kind == libc::SOCK_DGRAM => Ready::WRITE,
            State::Fresh | State::Listener { listening: false, .. } => Ready::WRITE | Ready::HANG_UP,
            state => state.source().map_or(Ready::NONE, Source::ready),
        }
    }

    /// The last number is closed: SO_LINGER waits here.
    pub(crate) fn closed(&self) {
        let State::Stream { stream, .. } = self.state() else { return };
        let Some(linger) = lock(&self.options).linger.filter(|linger| !linger.is_zero()) else { return };
        if stream.shutdown(std::net::Shutdown::Write).is_ok() {
            // After the time it goes on by itself.
            let _ = stream.wait_sent(Instant::now().checked_add(linger));
        }
    }
}
