//! Log lines and last words. A line is `ROLE[GENERATION]: LEVEL: text` on standard error, which
//! the supervisor points at the seat's log file.

use crate::id::{Generation, Seat};
use core::fmt;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The exit code after a panic.
pub const EXIT_PANIC: i32 = 101;

/// Threads whose names begin so serve one ipc-channel lane: a panic there ends that lane only.
pub const LANE_THREAD: &str = "lane ";

struct Line {
    seat: Seat,
    generation: Generation,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{}[{}]: {}: ", self.seat, self.generation, event.metadata().level())?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Sends this process's log to standard error as incarnation `generation` of `seat`. Called once;
/// later calls change nothing.
pub fn log_as(seat: Seat, generation: Generation) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .event_format(Line { seat, generation })
        .finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// From now on a panic is one log line and the end of the process with [`EXIT_PANIC`]: our own
/// bug, and the supervisor restarts us.
pub fn follow_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no text");
        match panic.location() {
            Some(at) => tracing::error!("panic at {}:{}: {text}", at.file(), at.line()),
            None => tracing::error!("panic: {text}"),
        }
        let serves_a_lane = std::thread::current().name().is_some_and(|name| name.starts_with(LANE_THREAD));
        if !serves_a_lane {
            std::process::exit(EXIT_PANIC);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Role;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one writer").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_the_documented_form() {
        let sink = Sink::default();
        let writer = sink.clone();
        let line = Line { seat: Seat::new(Role::Netd, 2), generation: Generation(7) };
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(line).finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!("ring {} is full", 3));
        let text = String::from_utf8(sink.0.lock().expect("one writer").clone()).expect("text");
        assert_eq!(text, "netd.2[7]: WARN: ring 3 is full\n");
    }
}
