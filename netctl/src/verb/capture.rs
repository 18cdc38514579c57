//! `netctl capture -w FILE|-`: frames both ways, as pcapng, until it is interrupted or has enough.
//!
//! Reads netd's capture rings ([`proto::capture`]) and asks netd, well before each deadline is over, to
//! keep copying. It goes on over a restart of any daemon: what was not caught is counted in the file.

use crate::group::{Access, Failure};
use crate::pcapng::Pcapng;
use crate::verb::link;
use proto::capture::{OPEN_FOR_MS, Reader};
use proto::control::notices::Change;
use proto::hard::config::LOOPBACK_NAME;
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

/// What to add to the host's monotonic clock to get the time since 1970.
fn epoch_offset() -> Duration {
    let wall = clock_gettime(ClockId::Realtime);
    let since_1970 = Duration::new(wall.tv_sec.cast_unsigned(), wall.tv_nsec as u32);
    since_1970.saturating_sub(Duration::from_nanos(proto::control::clock::now().nanos()))
}

/// Runs it until `stop` is set or a limit is reached. Returns the frames written and the slots missed.
///
/// # Errors
/// When netd refuses, or the output can't be written; a closed pipe is an ordinary end.
pub fn run(
    access: &Access,
    limits: Limits,
    stop: &AtomicBool,
    out: &mut impl Write,
) -> Result<(u64, u64), Failure> {
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
    let (mut asked, mut written) = (begun, 0);
    let mut told = vec![0; readers.len()];
    let enough = |written| limits.count.is_some_and(|count| written >= count);
    while !stop.load(Ordering::Relaxed)
        && !enough(written)
        && limits.duration.is_none_or(|limit| begun.elapsed() < limit)
    {
        if asked.elapsed() > Duration::from_millis(OPEN_FOR_MS / 3) {
            // While sockd or netd is away the ring just stays as it is.
            let _ = crate::admin::change(access.place(), Change::CaptureOpen);
            asked = Instant::now();
        }
        let mut idle = true;
        for (reader, told) in readers.iter_mut().zip(&mut told) {
            while !enough(written) {
                let Some(frame) = reader.next_frame() else { break };
                let missed = reader.missed_slots() - *told;
                *told += missed;
                match writer.frame(&frame, offset + Duration::from_nanos(frame.at.nanos()), missed) {
                    Ok(()) => written += 1,
                    Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                        return Ok((written, reader.missed_slots()));
                    }
                    Err(e) => return Err(failed(e)),
                }
                idle = false;
            }
        }
        if idle {
            writer.flush().map_err(failed)?;
            std::thread::sleep(IDLE);
        }
    }
    writer.flush().map_err(failed)?;
    Ok((written, readers.iter().map(Reader::missed_slots).sum()))
}
