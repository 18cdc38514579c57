//! pcapng out: section header, one interface description per link, enhanced packets with direction.
//! Block and option numbers are those of draft-ietf-opsawg-pcapng.

use proto::capture::{Captured, SNAP_MAX, Way};
use proto::hard::config::LOOPBACK;
use std::io::{self, Write};
use std::time::Duration;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

const OPT_END: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;

/// Writes a capture to `out`. Interfaces are numbered as the group numbers its links, and the last one is
/// loopback's.
#[derive(Debug)]
pub struct Pcapng<W> {
    out: W,
    links: u16,
}

fn pad(block: &mut Vec<u8>) {
    block.resize(block.len().next_multiple_of(4), 0);
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend(code.to_ne_bytes());
    block.extend((value.len() as u16).to_ne_bytes());
    block.extend(value);
    pad(block);
}

impl<W: Write> Pcapng<W> {
    /// Begins a section with the group's links, by name.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(out: W, links: &[String]) -> io::Result<Self> {
        let mut this = Pcapng { out, links: links.len() as u16 };
        let mut body = Vec::new();
        body.extend(BYTE_ORDER_MAGIC.to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(0u16.to_ne_bytes());
        body.extend(u64::MAX.to_ne_bytes());
        option(&mut body, SHB_USERAPPL, b"axolotl netctl");
        option(&mut body, OPT_END, &[]);
        this.block(SECTION_HEADER, &body)?;
        for name in links {
            let mut body = Vec::new();
            body.extend(ETHERNET.to_ne_bytes());
            body.extend(0u16.to_ne_bytes());
            body.extend((SNAP_MAX as u32).to_ne_bytes());
            option(&mut body, IF_NAME, name.as_bytes());
            // Nanoseconds.
            option(&mut body, IF_TSRESOL, &[9]);
            option(&mut body, OPT_END, &[]);
            this.block(INTERFACE, &body)?;
        }
        this.out.flush()?;
        Ok(this)
    }

    /// Writes a frame that was seen at `at` since 1970, after `missed` others that were not caught.
    ///
    /// # Errors
    /// Those of `out`; `InvalidData` for a frame of an unknown link.
    pub fn frame(&mut self, frame: &Captured, at: Duration, missed: u64) -> io::Result<()> {
        let link = if frame.link == LOOPBACK { self.links - 1 } else { frame.link };
        if link >= self.links {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of a link that is not there"));
        }
        let nanos = at.as_nanos() as u64;
        let mut body = Vec::with_capacity(frame.bytes.len() + 64);
        body.extend(u32::from(link).to_ne_bytes());
        body.extend(((nanos >> 32) as u32).to_ne_bytes());
        body.extend((nanos as u32).to_ne_bytes());
        body.extend((frame.bytes.len() as u32).to_ne_bytes());
        body.extend(frame.wire_len.to_ne_bytes());
        body.extend(&frame.bytes);
        pad(&mut body);
        // Bits 0 and 1: 1 is inbound, 2 outbound.
        let way: u32 = if frame.way == Way::In { 1 } else { 2 };
        option(&mut body, EPB_FLAGS, &way.to_ne_bytes());
        if missed > 0 {
            option(&mut body, EPB_DROPCOUNT, &missed.to_ne_bytes());
        }
        option(&mut body, OPT_END, &[]);
        self.block(ENHANCED_PACKET, &body)
    }

    /// Hands on what was buffered.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let total = (body.len() as u32 + 12).to_ne_bytes();
        self.out.write_all(&kind.to_ne_bytes())?;
        self.out.write_all(&total)?;
        self.out.write_all(body)?;
        self.out.write_all(&total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Instant;

    /// Blocks as (type, body), or what is wrong with them.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            let (kind, total) = (word(0), word(4) as usize);
            assert!(total.is_multiple_of(4) && word(total - 4) as usize == total, "both lengths agree");
            all.push((kind, bytes[8..total - 4].to_vec()));
            bytes = &bytes[total..];
        }
        all
    }

    #[test]
    fn a_capture_is_a_well_formed_section() {
        let mut out = Vec::new();
        let mut writer = Pcapng::begin(&mut out, &["tap0".into(), "wire0".into()]).expect("a vector");
        let frame = Captured { at: Instant::ZERO, way: Way::Out, link: 1, wire_len: 90, bytes: vec![7; 61] };
        writer.frame(&frame, Duration::new(2, 5), 3).expect("a vector");
        let unknown = Captured { link: 2, ..frame };
        assert!(writer.frame(&unknown, Duration::ZERO, 0).is_err());
        let blocks = blocks(&out);
        assert_eq!(
            blocks.iter().map(|b| b.0).collect::<Vec<_>>(),
            [SECTION_HEADER, INTERFACE, INTERFACE, ENHANCED_PACKET]
        );
        let packet = &blocks[3].1;
        let word = |at: usize| u32::from_ne_bytes(packet[at..at + 4].try_into().expect("four bytes"));
        assert_eq!(u64::from(word(4)) << 32 | u64::from(word(8)), 2_000_000_005);
        assert_eq!((word(0), word(12), word(16)), (1, 61, 90));
        assert_eq!(&packet[20..81], &[7; 61]);
        // Options start aligned: flags of four bytes, outbound.
        assert_eq!((word(84), word(88)), (u32::from(EPB_FLAGS) | 4 << 16, 2));
    }
}
