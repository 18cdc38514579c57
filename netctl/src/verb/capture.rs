//! `netctl capture -w FILE|- [EXPRESSION]`: frames both ways, as pcapng, until it is interrupted or has enough.
//!
//! Reads netd's capture rings ([`proto::capture`]) and asks netd, well before each deadline is over, to
//! keep copying. It goes on over a restart of any daemon: what was not caught is counted in the file.
//!
//! What is not wanted is passed over here and not in netd: the ring is lossy and read by any number of
//! captures, so a filter in the stack would cost the traffic time and could only serve one of them.

use crate::group::{Access, Failure};
use crate::libpcap::{self, NoProgram};
use crate::pcapng::Pcapng;
use crate::verb::link;
use proto::bpf::{About, Program};
use proto::capture::{Captured, OPEN_FOR_MS, Reader, Way};
use proto::control::notices::Change;
use proto::hard::config::{LOOPBACK, LOOPBACK_NAME};
use rustix::time::{ClockId, clock_gettime};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long to sleep when no frame is there.
const IDLE: Duration = Duration::from_millis(5);

/// Limits of a capture.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Frames after which it ends.
    pub count: Option<u64>,
    /// Time after which it ends.
    pub duration: Option<Duration>,
}

/// Which frames are wanted.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Of one interface alone, by its index.
    link: Option<u16>,
    /// Of one direction alone.
    way: Option<Way>,
    /// Those that a program lets pass.
    program: Program,
}

impl Wanted {
    /// By the name of an interface, a direction as tcpdump's `-Q` has it, and the words of an expression.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what makes no sense, with libpcap's reason for an expression;
    /// [`Failure::Missing`] without libpcap.
    pub fn new(
        access: &Access,
        interface: Option<&str>,
        direction: Option<&str>,
        expression: &[String],
    ) -> Result<Wanted, Failure> {
        let link = match interface {
            None | Some("any") => None,
            Some(LOOPBACK_NAME) => Some(LOOPBACK),
            Some(name) => Some(link::index(access, Some(name))?),
        };
        let way = match direction {
            None | Some("inout") => None,
            Some("in") => Some(Way::In),
            Some("out") => Some(Way::Out),
            Some(other) => return Err(Failure::Usage(format!("in, out or inout, not '{other}'"))),
        };
        // Nothing asked for is nothing to compile: libpcap need not be there.
        let program = match expression {
            [] => Program::default(),
            words => libpcap::compile(&words.join(" ")).map_err(|no| match no {
                NoProgram::NoLibrary(_) => Failure::Missing(no.to_string()),
                NoProgram::Expression { .. } => Failure::Usage(no.to_string()),
            })?,
        };
        Ok(Wanted { link, way, program })
    }

    fn wants(&self, frame: &Captured) -> bool {
        let read = |at: usize, out: &mut [u8]| {
            let found = at.checked_add(out.len()).and_then(|end| frame.bytes.get(at..end));
            found.inspect(|found| out.copy_from_slice(found)).is_some()
        };
        self.link.is_none_or(|link| frame.link == link)
            && self.way.is_none_or(|way| frame.way == way)
            // libpcap compiles no ancillary loads for a handle that is no live device.
            && self.program.run(read, frame.wire_len, &About::default()) != 0
    }
}

/// What a capture came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Frames that were written.
    pub written: u64,
    /// Frames that were seen, and not wanted.
    pub passed_over: u64,
    /// Slots of the rings that were overwritten before they were read.
    pub missed_slots: u64,
}

/// What to add to the host's monotonic clock to get the time since 1970.
fn epoch_offset() -> Duration {
    let wall = clock_gettime(ClockId::Realtime);
    let since_1970 = Duration::new(wall.tv_sec.cast_unsigned(), wall.tv_nsec as u32);
    since_1970.saturating_sub(Duration::from_nanos(proto::control::clock::now().nanos()))
}

/// Runs it until `stop` is set or a limit is reached.
///
/// # Errors
/// When netd refuses, or the output can't be written; a closed pipe is an ordinary end.
pub fn run(
    access: &Access,
    wanted: &Wanted,
    limits: Limits,
    stop: &AtomicBool,
    out: &mut impl Write,
) -> Result<Sum, Failure> {
    let mut readers: Vec<_> = access.captures().map(Reader::attach).collect();
    if readers.is_empty() {
        return Err(Failure::Refused("this group has no capture rings".into()));
    }
    crate::admin::change(access.place(), Change::CaptureOpen)?;
    let failed = |e| Failure::Io("the capture's output", e);
    let mut names = link::names(access);
    if names.is_empty() {
        names.push("0".into());
    }
    names.push(LOOPBACK_NAME.to_owned());
    let mut writer = Pcapng::begin(out, &names).map_err(failed)?;
    let (offset, begun) = (epoch_offset(), Instant::now());
    let (mut asked, mut sum) = (begun, Sum::default());
    let mut told = vec![0; readers.len()];
    let enough = |sum: &Sum| limits.count.is_some_and(|count| sum.written >= count);
    while !stop.load(Ordering::Relaxed)
        && !enough(&sum)
        && limits.duration.is_none_or(|limit| begun.elapsed() < limit)
    {
        if asked.elapsed() > Duration::from_millis(OPEN_FOR_MS / 3) {
            // While sockd or netd is away the ring just stays as it is.
            let _ = crate::admin::change(access.place(), Change::CaptureOpen);
            asked = Instant::now();
        }
        let mut idle = true;
        for (reader, told) in readers.iter_mut().zip(&mut told) {
            while !enough(&sum) {
                let Some(frame) = reader.next_frame() else { break };
                idle = false;
                if !wanted.wants(&frame) {
                    sum.passed_over += 1;
                    continue;
                }
                let missed = reader.missed_slots() - *told;
                *told += missed;
                match writer.frame(&frame, offset + Duration::from_nanos(frame.at.nanos()), missed) {
                    Ok(()) => sum.written += 1,
                    Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                        return Ok(Sum { missed_slots: reader.missed_slots(), ..sum });
                    }
                    Err(e) => return Err(failed(e)),
                }
            }
        }
        if idle {
            writer.flush().map_err(failed)?;
            std::thread::sleep(IDLE);
        }
    }
    writer.flush().map_err(failed)?;
    Ok(Sum { missed_slots: readers.iter().map(Reader::missed_slots).sum(), ..sum })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::arena::wishes::Instruction;

    #[test]
    fn link_direction_and_program_must_all_want_a_frame() {
        let frame = |way, link, bytes: &[u8]| Captured {
            at: proto::Instant::ZERO,
            way,
            link,
            wire_len: bytes.len() as u32,
            bytes: bytes.to_vec(),
        };
        // ldh [12]; jeq #0x806; ret #65535; ret #0
        let arp = [(0x28, 0, 0, 12), (0x15, 0, 1, 0x806), (0x06, 0, 0, 65_535), (0x06, 0, 0, 0)];
        let arp = arp.map(|(code, jt, jf, k)| Instruction { code, jt, jf, k });
        let wanted =
            Wanted { link: Some(1), way: Some(Way::In), program: Program::new(&arp).expect("a program") };
        let (mut asks, mut other) = ([0; 42], [0; 42]);
        asks[12..14].copy_from_slice(&[8, 6]);
        other[12..14].copy_from_slice(&[8, 0]);
        assert!(wanted.wants(&frame(Way::In, 1, &asks)));
        assert!(!wanted.wants(&frame(Way::Out, 1, &asks)));
        assert!(!wanted.wants(&frame(Way::In, 0, &asks)));
        assert!(!wanted.wants(&frame(Way::In, 1, &other)));
        assert!(!wanted.wants(&frame(Way::In, 1, &asks[..13])), "cut before the type");
        assert!(Wanted::default().wants(&frame(Way::Out, LOOPBACK, &[])), "nothing asked for is everything");
    }
}
