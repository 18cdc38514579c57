//! What the chips in software know of frames.

/// The Internet checksum's sum of RFC 1071 §1, not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// A frame's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Of IPv6.
    pub v6: bool,
    /// Where the IP header starts.
    pub ip: usize,
    /// Where the transport header starts.
    pub transport: usize,
    /// The transport: 6 or 17.
    pub protocol: u8,
    /// Where the packet ends; padding follows.
    pub end: usize,
}

/// The headers of a TCP or UDP frame that is no fragment.
pub fn headers(frame: &[u8]) -> Option<Headers> {
    let half = |at: usize| frame.get(at..at + 2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]));
    let mut ip = 14;
    let mut kind = half(12)?;
    if kind == 0x8100 {
        (ip, kind) = (18, half(16)?);
    }
    let (v6, transport, protocol, end) = match kind {
        0x0800 => {
            let fragment = half(ip + 6)? & 0x3fff;
            let size = usize::from(frame.get(ip)? & 15) * 4;
            (fragment == 0).then_some((false, ip + size, *frame.get(ip + 9)?, ip + half(ip + 2)?))?
        }
        0x86dd => (true, ip + 40, *frame.get(ip + 6)?, ip + 40 + half(ip + 4)?),
        _ => return None,
    };
    let sound = matches!(protocol, 6 | 17) && transport < end && end <= frame.len();
    sound.then_some(Headers { v6, ip, transport, protocol, end })
}

/// The pseudo header's sum, for a transport of `len` bytes.
pub fn pseudo(frame: &[u8], headers: &Headers, len: usize) -> u16 {
    let (from, to) = if headers.v6 { (8, 40) } else { (12, 20) };
    let mut bytes = frame[headers.ip + from..headers.ip + to].to_vec();
    bytes.extend([0, headers.protocol, (len >> 8) as u8, len as u8]);
    sum(&bytes)
}

/// Whether the transport checksum of a frame is right; `None` when it has none.
pub fn is_right(frame: &[u8]) -> Option<bool> {
    let headers = headers(frame)?;
    let body = &frame[headers.transport..headers.end];
    if headers.protocol == 17 && body.get(6..8)? == [0, 0] {
        return None;
    }
    let total = u32::from(sum(body)) + u32::from(pseudo(frame, &headers, body.len()));
    Some((total & 0xffff) + (total >> 16) == 0xffff)
}

/// Fills the sum of everything from `start` on in at `at`; nothing where the frame has no such place.
pub fn fill_in(frame: &mut [u8], start: usize, at: usize) {
    if at + 2 <= frame.len() && start <= frame.len() {
        let sum = !sum(&frame[start..]);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// What a chip was told of a super-frame.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// Bytes of all headers.
    pub header: usize,
    /// Where IP starts.
    pub ip: usize,
    /// Where TCP starts.
    pub transport: usize,
    /// Payload bytes of a segment.
    pub size: usize,
    /// Of IPv4, with its own checksum.
    pub ipv4: bool,
}

/// Cuts a super-frame as the chips do: lengths, identification, sequence numbers, flags and checksums of
/// each segment follow from the template. Nothing when the template contradicts the frame.
pub fn segments(frame: &[u8], template: &Template) -> Vec<Vec<u8>> {
    let Template { header, ip, transport, size, ipv4 } = *template;
    if size == 0 || header >= frame.len() || ip + 20 > transport || transport + 18 > header {
        return Vec::new();
    }
    let pieces = (frame.len() - header).div_ceil(size);
    let cut = |(n, payload): (usize, &[u8])| {
        let mut segment = frame[..header].to_vec();
        segment.extend(payload);
        let len = segment.len() - ip;
        if ipv4 {
            let id = u16::from_be_bytes([segment[ip + 4], segment[ip + 5]]).wrapping_add(n as u16);
            segment[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
            segment[ip + 2..ip + 4].copy_from_slice(&(len as u16).to_be_bytes());
            let checksum = !sum(&segment[ip..transport]);
            segment[ip + 10..ip + 12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            segment[ip + 4..ip + 6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
        let at = transport + 4;
        let number = u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
        segment[at..at + 4].copy_from_slice(&number.wrapping_add((n * size) as u32).to_be_bytes());
        if n + 1 < pieces {
            // FIN and PSH belong to the last one.
            segment[transport + 13] &= !0x09;
        }
        // The template's sum has the pseudo header without a length.
        let total = u32::from(sum(&segment[transport..])) + (segment.len() - transport) as u32;
        let checksum = !(((total & 0xffff) + (total >> 16)) as u16);
        segment[transport + 16..transport + 18].copy_from_slice(&checksum.to_be_bytes());
        segment
    };
    frame[header..].chunks(size).enumerate().map(cut).collect()
}

/// What a card hashes of a frame by the kinds that it is told, in VIRTIO's order of bits: addresses of IPv4, with ports of
/// TCP, with ports of UDP, then the same of IPv6. `None` when nothing.
pub fn hash_input(frame: &[u8], kinds: u32) -> Option<Vec<u8>> {
    let half = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let ip = if half(12)? == 0x8100 { 18 } else { 14 };
    let (first, addresses) = match half(ip - 2)? {
        0x0800 => (0, frame.get(ip + 12..ip + 20)?),
        0x86dd => (3, frame.get(ip + 8..ip + 40)?),
        _ => return None,
    };
    let whole = headers(frame).filter(|found| {
        let kind = if found.protocol == 6 { 1 } else { 2 };
        kinds >> (first + kind) & 1 == 1
    });
    match whole {
        Some(found) => Some([addresses, frame.get(found.transport..found.transport + 4)?].concat()),
        None => (kinds >> first & 1 == 1).then(|| addresses.to_vec()),
    }
}

/// Toeplitz's hash, bit by bit: 82576 §7.1.2.10, VIRTIO 1.2 §5.1.6.4.3. The key is longer than the input by a word.
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], n: usize| u32::from(bytes[n / 8] >> (7 - n % 8) & 1);
    let window = |n: usize| (0..32).fold(0, |window, m| window << 1 | bit(key, n + m));
    (0..input.len() * 8).filter(|n| bit(input, *n) == 1).fold(0, |hash, n| hash ^ window(n))
}
