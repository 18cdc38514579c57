//! What a service manager is told: sd_notify(3), a datagram to the socket that `NOTIFY_SOCKET` names.
//!
//! Spoken by the active supervisor alone, whichever of the two that is: that the group is up, that it
//! ends, and, as often as `WATCHDOG_USEC` wants it, that its loop still turns. Without the variables it
//! is silent and costs nothing. What can't be sent is not sent again: nothing depends on it here.
//! `WATCHDOG_PID` is not looked at: a supervisor follows another one under the same manager.

use proto::Instant;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Where a manager listens, and how often it wants to hear.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(OwnedFd, SocketAddrUnix)>,
    /// Half of what the manager waits at most, as sd_watchdog_enabled(3) advises.
    every: Option<Duration>,
    next: Instant,
}

impl Notifier {
    /// Of the environment.
    pub fn from_environment(now: Instant) -> Notifier {
        let (socket, patience) = (std::env::var_os("NOTIFY_SOCKET"), std::env::var("WATCHDOG_USEC").ok());
        Notifier::new(socket.as_deref(), patience.as_deref(), now)
    }

    fn new(socket: Option<&OsStr>, patience_us: Option<&str>, now: Instant) -> Notifier {
        let address = socket.and_then(|name| match name.as_bytes() {
            // The abstract name space of unix(7).
            [b'@', rest @ ..] => SocketAddrUnix::new_abstract_name(rest).ok(),
            path => SocketAddrUnix::new(path).ok(),
        });
        let socket = address.and_then(|address| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            Some((socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?, address))
        });
        let every = patience_us.and_then(|us| us.parse().ok()).filter(|us| *us > 1);
        let every = every.map(|us| Duration::from_micros(us) / 2).filter(|_| socket.is_some());
        Notifier { socket, every, next: now }
    }

    fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(errno) = sendto(socket, text.as_bytes(), SendFlags::NOSIGNAL, address)
        {
            tracing::debug!("the service manager can't be told: {errno}");
        }
    }

    /// The group is up.
    pub fn ready(&self) {
        self.say("READY=1\nSTATUS=The group is up");
    }

    /// The other supervisor died.
    pub fn took_over(&self) {
        self.say("STATUS=The standby took over");
    }

    /// The group ends.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=The group ends");
    }

    /// When the manager wants to hear next.
    pub fn due(&self) -> Option<Instant> {
        self.every.map(|_| self.next)
    }

    /// The loop turns.
    pub fn turn(&mut self, now: Instant) {
        if let Some(every) = self.every
            && self.next <= now
        {
            self.say("WATCHDOG=1");
            self.next = now + every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut room = [0; 200];
        socket.set_nonblocking(true).expect("a socket");
        let len = socket.recv(&mut room).ok()?;
        Some(String::from_utf8_lossy(&room[..len]).into_owned())
    }

    #[test]
    fn a_manager_hears_what_it_waits_for_and_as_often_as_it_wants() {
        let path = std::env::temp_dir().join(format!("axlnotify{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let begun = Instant::default();
        let mut notifier = Notifier::new(Some(path.as_os_str()), Some("2000000"), begun);
        notifier.ready();
        assert_eq!(heard(&manager).as_deref(), Some("READY=1\nSTATUS=The group is up"));
        notifier.turn(begun);
        assert_eq!(heard(&manager).as_deref(), Some("WATCHDOG=1"));
        assert_eq!(notifier.due(), Some(begun + Duration::from_secs(1)));
        notifier.turn(begun + Duration::from_millis(999));
        assert_eq!(heard(&manager), None, "too early");
        notifier.turn(begun + Duration::from_secs(1));
        assert_eq!(heard(&manager).as_deref(), Some("WATCHDOG=1"));
        notifier.stopping();
        assert!(heard(&manager).expect("a word").starts_with("STOPPING=1\n"));
        std::fs::remove_file(&path).expect("it was there");
    }

    #[test]
    fn an_abstract_name_is_understood_and_nobody_is_nobody() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("axlnotify{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("a socket");
        let mut notifier = Notifier::new(Some(OsStr::new(&format!("@{name}"))), None, Instant::default());
        notifier.turn(Instant::default());
        assert_eq!((heard(&manager), notifier.due()), (None, None), "no watchdog was asked for");
        notifier.took_over();
        assert_eq!(heard(&manager).as_deref(), Some("STATUS=The standby took over"));
        let mut silent = Notifier::new(None, Some("1000"), Instant::default());
        silent.turn(Instant::default());
        assert_eq!(silent.due(), None, "there is nobody to hear it");
    }
}
