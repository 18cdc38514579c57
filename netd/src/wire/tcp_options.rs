//! The options of a TCP header: RFC 9293 §3.2, RFC 7323, RFC 2018, RFC 7413.
//!
//! What is unknown, or of a length that its kind does not have, is stepped over (RFC 9293 MUST-6); a
//! length that leads outside the header ends the walk, and what was read before it counts (MUST-7).

use crate::tcp::fast_open::Cookie;
use crate::tcp::segment::{Options, SACK_BLOCKS_MAX, SackBlock, SackBlocks, Timestamps};
use crate::tcp::seq::SeqNum;

/// The most bytes of options a header has: data offset 15 (RFC 9293 §3.1).
pub const OPTIONS_LEN_MAX: usize = 40;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const FAST_OPEN: u8 = 34;

/// Reads the options in `bytes`, the header's bytes from the twentieth on.
pub fn parse(mut bytes: &[u8]) -> Options {
    let mut options = Options::NONE;
    // RFC 7323 appendix A: what nearly every segment has.
    if let [NOP, NOP, TIMESTAMPS, 10, a, b, c, d, e, f, g, h] = *bytes {
        options.timestamps = Some(Timestamps {
            value: u32::from_be_bytes([a, b, c, d]),
            echo: u32::from_be_bytes([e, f, g, h]),
        });
        return options;
    }
    loop {
        match *bytes {
            [] | [END, ..] | [_] => return options,
            [NOP, ref rest @ ..] => bytes = rest,
            [kind, len, ..] => {
                let len = usize::from(len);
                if len < 2 || len > bytes.len() {
                    return options;
                }
                read(&mut options, kind, &bytes[2..len]);
                bytes = &bytes[len..];
            }
        }
    }
}

/// One option with its body; a kind that comes twice counts as it came last.
fn read(options: &mut Options, kind: u8, body: &[u8]) {
    match (kind, body) {
        (MSS, &[a, b]) => options.mss = Some(u16::from_be_bytes([a, b])),
        (WINDOW_SCALE, &[shift]) => options.window_scale = Some(shift),
        (SACK_PERMITTED, []) => options.sack_permitted = true,
        (TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
            options.timestamps = Some(Timestamps {
                value: u32::from_be_bytes([a, b, c, d]),
                echo: u32::from_be_bytes([e, f, g, h]),
            });
        }
        (SACK, body) if !body.is_empty() && body.len() % 8 == 0 => {
            let mut blocks = SackBlocks::NONE;
            for &[a, b, c, d, e, f, g, h] in body.as_chunks::<8>().0.iter().take(SACK_BLOCKS_MAX) {
                blocks.push(SackBlock {
                    start: SeqNum::new(u32::from_be_bytes([a, b, c, d])),
                    end: SeqNum::new(u32::from_be_bytes([e, f, g, h])),
                });
            }
            options.sack = blocks;
        }
        (FAST_OPEN, body) => options.fast_open = Cookie::from_option(body).or(options.fast_open),
        _ => {}
    }
}

/// Writes `options` to the start of `out`, padded to [`Options::wire_len`], which it returns.
///
/// The padding stands where stacks have always put it: before the window scale of a SYN, otherwise
/// before the rest (RFC 7323 appendix A), so that 32-bit values are aligned in the usual shapes.
///
/// # Panics
/// When the options need more than [`OPTIONS_LEN_MAX`] bytes or `out` has no room for them.
pub fn emit(options: &Options, out: &mut [u8]) -> usize {
    let len = options.wire_len() as usize;
    assert!(len <= OPTIONS_LEN_MAX, "{len} bytes of options do not fit a TCP header");
    let mut writer = Writer { out: &mut out[..len], at: 0 };
    if let Some(mss) = options.mss {
        writer.put(&[MSS, 4]);
        writer.put(&mss.to_be_bytes());
    }
    let padding = len - unpadded_len(options);
    if options.window_scale.is_none() {
        writer.pad(padding);
    }
    if options.sack_permitted {
        writer.put(&[SACK_PERMITTED, 2]);
    }
    if let Some(timestamps) = options.timestamps {
        writer.put(&[TIMESTAMPS, 10]);
        writer.put(&timestamps.value.to_be_bytes());
        writer.put(&timestamps.echo.to_be_bytes());
    }
    if let Some(shift) = options.window_scale {
        writer.pad(padding);
        writer.put(&[WINDOW_SCALE, 3, shift]);
    }
    if !options.sack.is_empty() {
        writer.put(&[SACK, 2 + 8 * options.sack.len() as u8]);
        for block in options.sack.as_slice() {
            writer.put(&block.start.get().to_be_bytes());
            writer.put(&block.end.get().to_be_bytes());
        }
    }
    if let Some(cookie) = &options.fast_open {
        writer.put(&[FAST_OPEN, 2 + cookie.as_bytes().len() as u8]);
        writer.put(cookie.as_bytes());
    }
    assert!(writer.at == len, "options were written as long as they said");
    len
}

/// The length without padding.
fn unpadded_len(options: &Options) -> usize {
    let sack = if options.sack.is_empty() { 0 } else { 2 + 8 * options.sack.len() };
    usize::from(options.mss.is_some()) * 4
        + usize::from(options.window_scale.is_some()) * 3
        + usize::from(options.sack_permitted) * 2
        + usize::from(options.timestamps.is_some()) * 10
        + options.fast_open.map_or(0, |cookie| 2 + cookie.as_bytes().len())
        + sack
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn pad(&mut self, len: usize) {
        self.out[self.at..self.at + len].fill(NOP);
        self.at += len;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fast_open_cookie_goes_there_and_back() {
        let cookie = Cookie::from_option(&[1, 2, 3, 4, 5, 6, 7, 8]);
        for fast_open in [cookie, Some(Cookie::REQUEST)] {
            let options = Options { mss: Some(1000), fast_open, ..Options::NONE };
            let mut bytes = [0; OPTIONS_LEN_MAX];
            let len = emit(&options, &mut bytes);
            assert_eq!(parse(&bytes[..len]), options);
        }
        assert_eq!(parse(&[34, 5, 1, 2, 3, 0]).fast_open, None, "an odd length");
    }

    #[test]
    fn a_syn_of_linux() {
        let bytes = [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        let options = parse(&bytes);
        assert_eq!(
            options,
            Options {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some(Timestamps { value: 0x0102_0304, echo: 0 }),
                sack: SackBlocks::NONE,
                fast_open: None,
            }
        );
        let mut out = [0; 40];
        assert_eq!(emit(&options, &mut out), 20);
        assert_eq!(out[..20], bytes);
    }

    #[test]
    fn timestamps_stand_as_appendix_a_says() {
        let options = Options { timestamps: Some(Timestamps { value: 5, echo: 6 }), ..Options::NONE };
        let mut out = [0; 12];
        emit(&options, &mut out);
        assert_eq!(out, [1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
    }

    #[test]
    fn what_is_malformed_ends_the_walk_and_what_is_unknown_does_not() {
        let mss = Options { mss: Some(0x1234), ..Options::NONE };
        assert_eq!(parse(&[254, 4, 9, 9, 2, 4, 0x12, 0x34]), mss, "unknown");
        assert_eq!(parse(&[2, 3, 9, 2, 4, 0x12, 0x34, 0]), mss, "of another length");
        assert_eq!(parse(&[2, 4, 0x12, 0x34, 8, 10, 0, 0]), mss, "beyond the end");
        assert_eq!(parse(&[2, 4, 0x12, 0x34, 8, 0, 3, 3]), mss, "length 0");
        assert_eq!(parse(&[2, 4, 0x12, 0x34, 1, 1, 1, 3]), mss, "no length");
        assert_eq!(parse(&[0, 2, 4, 0x12, 0x34]), Options::NONE, "behind the end");
        assert_eq!(parse(&[5, 9, 0, 0, 0, 0, 0, 0, 0]), Options::NONE, "part of a block");
    }

    pub(crate) fn any_options() -> impl Strategy<Value = Options> {
        (
            prop::option::of(any::<u16>()),
            prop::option::of(any::<u8>()),
            any::<bool>(),
            prop::option::of((any::<u32>(), any::<u32>())),
            prop::collection::vec((any::<u32>(), any::<u32>()), 0..=4),
        )
            .prop_map(|(mss, window_scale, sack_permitted, timestamps, blocks)| {
                let mut sack = SackBlocks::NONE;
                for (start, end) in blocks {
                    sack.push(SackBlock { start: SeqNum::new(start), end: SeqNum::new(end) });
                }
                let timestamps = timestamps.map(|(value, echo)| Timestamps { value, echo });
                Options { mss, window_scale, sack_permitted, timestamps, sack, fast_open: None }
            })
            .prop_filter("fits a header", |options| options.wire_len() as usize <= OPTIONS_LEN_MAX)
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..=40)) {
            parse(&bytes);
        }

        #[test]
        fn near_misses_do_not_panic(kinds in prop::collection::vec((prop::sample::select(vec![0u8, 1, 2, 3, 4, 5, 8, 30]), 0u8..36), 0..20)) {
            let bytes: Vec<u8> = kinds.into_iter().flat_map(|(kind, len)| [kind, len]).collect();
            parse(&bytes);
        }

        #[test]
        fn what_is_emitted_parses(options in any_options()) {
            let mut out = [0xee; OPTIONS_LEN_MAX];
            let len = emit(&options, &mut out);
            prop_assert_eq!(len % 4, 0);
            prop_assert_eq!(len, options.wire_len() as usize);
            prop_assert_eq!(parse(&out[..len]), options);
            prop_assert!(out[len..].iter().all(|b| *b == 0xee));
        }
    }
}
