//! What a kernel socket has sent and not yet seen acknowledged, from the kernel's own account.

#![expect(unsafe_code, reason = "two ioctls without a safe wrapper: SIOCOUTQ and SIOCOUTQNSD")]

use rustix::fd::AsFd;
use rustix::ioctl::{Getter, Opcode, ioctl};

/// Bytes written by the program that the remote has not acknowledged (tcp(7)).
const SIOCOUTQ: Opcode = 0x5411;
/// Of those, the bytes that were not even sent once (linux/sockios.h).
const SIOCOUTQNSD: Opcode = 0x894b;

/// Bytes that are under way: sent, not acknowledged; 0 when the socket can't say.
pub fn in_flight(socket: impl AsFd) -> u64 {
    // SAFETY: SIOCOUTQ writes one int, whatever the descriptor is.
    let get = unsafe { Getter::<SIOCOUTQ, i32>::new() };
    // SAFETY: the getter describes what the opcode does.
    let queued = unsafe { ioctl(&socket, get) };
    // SAFETY: SIOCOUTQNSD writes one int, whatever the descriptor is.
    let get = unsafe { Getter::<SIOCOUTQNSD, i32>::new() };
    // SAFETY: the getter describes what the opcode does.
    let unsent = unsafe { ioctl(&socket, get) };
    match (queued, unsent) {
        (Ok(queued), Ok(unsent)) => u64::try_from(queued - unsent).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_is_only_queued_does_not_count() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let _server = listener.accept().expect("the client");
        assert_eq!(in_flight(&client), 0);
        client.set_nonblocking(true).expect("a flag");
        // Until the peer's window and our buffer are full: loopback acknowledges what fits.
        let chunk = vec![0; 1 << 20];
        let mut written = 0;
        while let Ok(n) = client.write(&chunk) {
            written += n as u64;
        }
        assert!(in_flight(&client) < written / 2, "of {written} bytes most are acknowledged or unsent");
    }
}
