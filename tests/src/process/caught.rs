//! What `netctl capture` has written, read without the code that writes it.

use std::time::Duration;

/// A frame of a capture.
#[derive(Debug)]
pub struct Caught {
    /// It came from the wire.
    pub inbound: bool,
    /// When, since 1970.
    pub at: Duration,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// Reads a pcapng section with frames of the first interface; every block must be sound.
///
/// # Panics
/// When one is not.
pub fn parsed(mut bytes: &[u8]) -> Vec<Caught> {
    let word =
        |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (mut caught, mut kinds) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let (kind, total) = (word(bytes, 0), word(bytes, 4) as usize);
        assert!(total >= 12 && total.is_multiple_of(4) && total <= bytes.len(), "a block of {total} bytes");
        assert_eq!(word(bytes, total - 4) as usize, total, "both lengths agree");
        let body = &bytes[8..total - 4];
        kinds.push(kind);
        match kind {
            0x0a0d_0d0a => assert_eq!(word(body, 0), 0x1a2b_3c4d, "byte order"),
            1 => assert_eq!(word(body, 0) & 0xffff, 1, "Ethernet"),
            6 => {
                assert_eq!(word(body, 0), 0, "of the only interface");
                let nanos = u64::from(word(body, 4)) << 32 | u64::from(word(body, 8));
                let (len, wire_len) = (word(body, 12) as usize, word(body, 16) as usize);
                assert_eq!(len, wire_len, "nothing is cut off");
                // The first option says which way it went.
                let options = &body[20 + len.next_multiple_of(4)..];
                assert_eq!(word(options, 0), 2 | 4 << 16, "epb_flags of four bytes");
                let inbound = match word(options, 4) & 3 {
                    1 => true,
                    2 => false,
                    other => panic!("a frame that went {other}"),
                };
                let at = Duration::from_nanos(nanos);
                caught.push(Caught { inbound, at, bytes: body[20..20 + len].to_vec() });
            }
            other => panic!("a block of type {other:#x}"),
        }
        bytes = &bytes[total..];
    }
    assert_eq!(kinds[..2], [0x0a0d_0d0a, 1], "a section and its interface come first");
    caught
}
