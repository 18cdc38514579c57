//! `netctl ping HOST`: echo requests out of the stack, in the habits, the words and the exit codes of iputils'
//! ping(8).

use crate::group::{Access, Failure};
use crate::probe::{Ear, Heard, Target, begin, echo, icmp, sequence};
use crate::table::{Family, Form, json};
use libnetclient::{Datagram, SentError};
use proto::Instant as Mono;
use proto::control::clock;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest payload of an echo in a packet of IPv4.
pub const SIZE_MAX: u16 = 65_507;
/// Requests whose time of departure is remembered.
const REMEMBERED: usize = 8192;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Requests after which it ends; `None` for no end.
    pub count: Option<u64>,
    /// From one request to the next.
    pub interval: Duration,
    /// How long the answers after the last request are waited for while none has ever come.
    pub linger: Duration,
    /// When it ends anyway.
    pub deadline: Option<Duration>,
    /// Bytes behind the header, [`SIZE_MAX`] at most.
    pub size: u16,
    /// Hops; `None` leaves it to the stack.
    pub hops: Option<u8>,
    /// The sums alone.
    pub quiet: bool,
}

/// A line of what came back.
#[derive(Debug, Serialize)]
struct Reply {
    seq: u16,
    from: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_ms: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Times of answers in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Times {
    min: f64,
    avg: f64,
    max: f64,
    /// The standard deviation, as ping(8) has it.
    mdev: f64,
}

/// What it came to.
#[derive(Debug, Default, Clone, PartialEq)]
struct Tally {
    transmitted: u64,
    received: u64,
    duplicates: u64,
    corrupted: u64,
    errors: u64,
    /// Of answers in nanoseconds: the shortest and the longest, the sum and the sum of squares.
    shortest: u64,
    longest: u64,
    sum: f64,
    squares: f64,
    timed: u64,
}

impl Tally {
    fn time(&mut self, nanos: u64) {
        self.shortest = if self.timed == 0 { nanos } else { self.shortest.min(nanos) };
        self.longest = self.longest.max(nanos);
        self.sum += nanos as f64;
        self.squares += nanos as f64 * nanos as f64;
        self.timed += 1;
    }

    fn times(&self) -> Option<Times> {
        let count = (self.timed > 0).then_some(self.timed as f64)?;
        let mean = self.sum / count;
        let mdev = (self.squares / count - mean * mean).max(0.0).sqrt();
        let ms = |nanos: f64| nanos / 1e6;
        Some(Times {
            min: ms(self.shortest as f64),
            avg: ms(mean),
            max: ms(self.longest as f64),
            mdev: ms(mdev),
        })
    }

    /// Of what was sent, in hundredths; 0 when nothing was.
    fn loss_percent(&self) -> f64 {
        let lost = self.transmitted.saturating_sub(self.received);
        100.0 * lost as f64 / self.transmitted.max(1) as f64
    }

    /// The line of sums, without the times.
    fn line(&self, took: Duration) -> String {
        let mut line = format!("{} packets transmitted, {} received", self.transmitted, self.received);
        for (count, what) in
            [(self.duplicates, "duplicates"), (self.corrupted, "corrupted"), (self.errors, "errors")]
        {
            if count > 0 {
                line += &format!(", +{count} {what}");
            }
        }
        let loss = format!("{:.4}", self.loss_percent());
        let loss = loss.trim_end_matches('0').trim_end_matches('.');
        line + &format!(", {loss}% packet loss, time {}ms", took.as_millis())
    }
}

/// A time as ping(8) writes it: three digits that count.
fn milliseconds(nanos: u64) -> String {
    let ms = nanos as f64 / 1e6;
    match nanos {
        99_950_000.. => format!("{ms:.0}"),
        9_995_000.. => format!("{ms:.1}"),
        1_000_000.. => format!("{ms:.2}"),
        _ => format!("{ms:.3}"),
    }
}

/// What a message on the way says, in the words of ping(8).
fn complaint(error: &SentError, v6: bool) -> String {
    let note = &error.note;
    let known = match (v6, note.kind, note.code) {
        (false, icmp::UNREACHABLE, 0) => "Destination Net Unreachable",
        (false, icmp::UNREACHABLE, 1) | (true, icmp::UNREACHABLE_V6, 3) => "Destination Host Unreachable",
        (false, icmp::UNREACHABLE, 2) => "Destination Protocol Unreachable",
        (false, icmp::UNREACHABLE, icmp::PORT) => "Destination Port Unreachable",
        (false, icmp::UNREACHABLE, 4) => return format!("Frag needed and DF set (mtu = {})", note.info),
        (false, icmp::UNREACHABLE, 9 | 10 | 13) => "Packet filtered",
        (false, icmp::EXPIRED, 0) => "Time to live exceeded",
        (true, icmp::EXPIRED_V6, 0) => "Time exceeded: Hop limit",
        (false, icmp::EXPIRED, _) => "Frag reassembly time exceeded",
        (true, icmp::EXPIRED_V6, _) => "Time exceeded: Defragmentation failure",
        (true, icmp::UNREACHABLE_V6, 0) => "Destination unreachable: No route",
        (true, icmp::UNREACHABLE_V6, 1) => "Destination unreachable: Administratively prohibited",
        (true, icmp::UNREACHABLE_V6, icmp::PORT_V6) => "Destination unreachable: Port unreachable",
        (true, 2, _) => return format!("Packet too big: mtu={}", note.info),
        (_, kind, code) => return format!("ICMP type {kind} code {code}"),
    };
    known.into()
}

/// Byte `n` behind the header.
const fn pattern(n: usize) -> u8 {
    n as u8
}

struct Run<'a, W> {
    target: &'a Target,
    plan: Plan,
    out: Option<&'a mut W>,
    payload: Vec<u8>,
    /// When each of the last requests left, and whether it was answered.
    under_way: BTreeMap<u64, (Mono, bool)>,
    tally: Tally,
    replies: Vec<Reply>,
}

impl<W: Write> Run<'_, W> {
    fn all_sent(&self) -> bool {
        self.plan.count.is_some_and(|count| self.tally.transmitted >= count)
    }

    fn all_answered(&self) -> bool {
        self.all_sent() && self.tally.received + self.tally.errors >= self.tally.transmitted
    }

    /// How long answers are waited for after the last request: twice the longest so far, an interval at least.
    fn patience(&self) -> Duration {
        match self.tally.timed {
            0 => self.plan.linger,
            _ => (Duration::from_nanos(self.tally.longest) * 2).max(self.plan.interval),
        }
    }

    fn send(&mut self, ear: &Ear<'_>) -> io::Result<()> {
        let number = self.tally.transmitted + 1;
        let message = echo(self.target.is_v6(), number as u16, &self.payload);
        self.under_way.insert(number, (clock::now(), false));
        if self.under_way.len() > REMEMBERED {
            self.under_way.pop_first();
        }
        ear.send(|socket| socket.send_to(&message, self.target.addr))?;
        self.tally.transmitted = number;
        Ok(())
    }

    /// The latest request of a sequence number: they are of 16 bits, and begin anew.
    fn request(&mut self, seq: u16) -> Option<&mut (Mono, bool)> {
        self.under_way.iter_mut().rev().find(|(number, _)| **number as u16 == seq).map(|(_, request)| request)
    }

    fn answered(&mut self, datagram: &Datagram, message: &[u8]) -> io::Result<()> {
        let Some(seq) = sequence(message) else { return Ok(()) };
        let came = Mono::from_nanos(datagram.at.as_nanos() as u64);
        let Some((sent, answered)) = self.request(seq) else { return Ok(()) };
        let (duplicate, nanos) = (*answered, came.since(*sent).as_nanos() as u64);
        *answered = true;
        let wrong = message[icmp::HEADER..].iter().zip(&self.payload).position(|(came, sent)| came != sent);
        if duplicate {
            self.tally.duplicates += 1;
        } else {
            self.tally.received += 1;
            self.tally.time(nanos);
        }
        self.tally.corrupted += u64::from(wrong.is_some());
        let from = datagram.remote.ip();
        let mut line = format!(
            "{} bytes from {from}: icmp_seq={seq} ttl={} time={} ms",
            datagram.len,
            datagram.hop_limit,
            milliseconds(nanos)
        );
        if duplicate {
            line += " (DUP!)";
        }
        if let Some(at) = wrong {
            line += &format!(" (wrong data byte #{at})");
        }
        self.say(&line)?;
        let error = wrong.map(|at| format!("wrong data byte #{at}"));
        let (bytes, ttl, time_ms) = (Some(datagram.len), Some(datagram.hop_limit), Some(nanos as f64 / 1e6));
        self.note(Reply { seq, from, bytes, ttl, time_ms, duplicate, error });
        Ok(())
    }

    fn complained(&mut self, error: &SentError) -> io::Result<()> {
        // Of a request of ours, as far as it is quoted.
        let Some(seq) = sequence(&error.payload) else { return Ok(()) };
        self.tally.errors += 1;
        let (from, said) = (error.note.offender, complaint(error, self.target.is_v6()));
        self.say(&format!("From {from} icmp_seq={seq} {said}"))?;
        let (bytes, ttl, time_ms, duplicate) = (None, None, None, false);
        self.note(Reply { seq, from, bytes, ttl, time_ms, duplicate, error: Some(said) });
        Ok(())
    }

    fn note(&mut self, reply: Reply) {
        // Of the document, which a ping without an end must not let grow.
        if self.out.is_none() && !self.plan.quiet && self.replies.len() < REMEMBERED {
            self.replies.push(reply);
        }
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        match self.out.as_mut().filter(|_| !self.plan.quiet) {
            Some(out) => writeln!(out, "{line}").and_then(|()| out.flush()),
            None => Ok(()),
        }
    }

    /// Asks and listens until all is answered, nothing more is expected, or `stop` is set.
    fn exchange(&mut self, ear: &mut Ear<'_>, stop: &AtomicBool) -> io::Result<()> {
        let begun = Instant::now();
        let end = self.plan.deadline.map(|deadline| begun + deadline);
        let (mut next, mut last_sent) = (begun, begun);
        while !stop.load(Ordering::Relaxed) && !self.all_answered() {
            let now = Instant::now();
            let until = if self.all_sent() { last_sent + self.patience() } else { next };
            if end.is_some_and(|end| now >= end) || self.all_sent() && now >= until {
                break;
            }
            if !self.all_sent() && now >= next {
                self.send(ear)?;
                (last_sent, next) = (now, (next + self.plan.interval).max(now));
                continue;
            }
            for heard in ear.hear(end.map_or(until, |end| until.min(end)))? {
                match heard {
                    Heard::Answer(datagram, message) => self.answered(&datagram, &message)?,
                    Heard::Complaint(error) => self.complained(&error)?,
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: u32,
    target: &'a str,
    addr: IpAddr,
    transmitted: u64,
    received: u64,
    duplicates: u64,
    corrupted: u64,
    errors: u64,
    loss_percent: f64,
    time_ms: u64,
    rtt_ms: Option<Times>,
    replies: &'a [Reply],
}

/// Runs it until it is done or `stop` is set.
///
/// # Errors
/// [`Failure::Probe`] (2) when nothing can be sent, [`Failure::Refused`] (1) when nobody answered, or fewer than
/// were asked for before a deadline.
pub fn run(
    access: &Access,
    form: Form,
    family: Family,
    (host, plan): (&str, Plan),
    stop: &AtomicBool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let (target, _session, socket) = begin(access, family, host)?;
    let cannot = |e| Failure::Probe(host.to_owned(), e);
    let datagrams = socket.datagrams();
    if let Some(hops) = plan.hops {
        datagrams.set_manner(|manner| (manner.hops, manner.group_hops) = (Some(hops), hops));
    }
    let mut ear = Ear::of(datagrams).map_err(cannot)?;
    let failed = |e| Failure::Io("standard output", e);
    let (name, ip, size) = (&target.name, target.ip(), usize::from(plan.size));
    if form == Form::Table {
        let sizes = match target.is_v6() {
            true => size.to_string(),
            false => format!("{size}({})", size + icmp::HEADER + 20),
        };
        let unit = if target.is_v6() { " data bytes" } else { " bytes of data." };
        let space = if target.is_v6() { "" } else { " " };
        writeln!(out, "PING {name}{space}({ip}) {sizes}{unit}").map_err(failed)?;
    }
    let begun = Instant::now();
    let mut run = Run {
        target: &target,
        plan,
        out: (form == Form::Table).then_some(&mut *out),
        payload: (0..size).map(pattern).collect(),
        under_way: BTreeMap::new(),
        tally: Tally::default(),
        replies: Vec::new(),
    };
    run.exchange(&mut ear, stop).map_err(cannot)?;
    let (tally, replies, took) = (run.tally, run.replies, begun.elapsed());
    report(&target, form, &tally, &replies, took, out).map_err(failed)?;
    let too_few = plan.deadline.is_some() && plan.count.is_some_and(|count| tally.received < count);
    match tally.received {
        0 => Err(Failure::Refused(format!("no answer from {ip}"))),
        _ if too_few => Err(Failure::Refused(format!("{} answers from {ip}", tally.received))),
        _ => Ok(()),
    }
}

fn report(
    target: &Target,
    form: Form,
    tally: &Tally,
    replies: &[Reply],
    took: Duration,
    out: &mut impl Write,
) -> io::Result<()> {
    if form == Form::Json {
        let document = Document {
            schema: 1,
            target: &target.name,
            addr: target.ip(),
            transmitted: tally.transmitted,
            received: tally.received,
            duplicates: tally.duplicates,
            corrupted: tally.corrupted,
            errors: tally.errors,
            loss_percent: tally.loss_percent(),
            time_ms: took.as_millis() as u64,
            rtt_ms: tally.times(),
            replies,
        };
        return json(out, &document);
    }
    writeln!(out, "\n--- {} ping statistics ---\n{}", target.name, tally.line(took))?;
    if let Some(Times { min, avg, max, mdev }) = tally.times() {
        writeln!(out, "rtt min/avg/max/mdev = {min:.3}/{avg:.3}/{max:.3}/{mdev:.3} ms")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_written_as_ping_writes_them() {
        let mut tally = Tally { transmitted: 3, received: 2, errors: 1, ..Tally::default() };
        for nanos in [1_000_000, 3_000_000] {
            tally.time(nanos);
        }
        let line = tally.line(Duration::from_millis(2003));
        assert_eq!(line, "3 packets transmitted, 2 received, +1 errors, 33.3333% packet loss, time 2003ms");
        assert_eq!(tally.times(), Some(Times { min: 1.0, avg: 2.0, max: 3.0, mdev: 1.0 }));
        let none = Tally { transmitted: 2, ..Tally::default() };
        assert!(none.line(Duration::ZERO).contains(", 100% packet loss"));
        assert_eq!(none.times(), None);
        let whole = Tally { transmitted: 2, received: 2, duplicates: 1, ..Tally::default() };
        assert!(whole.line(Duration::ZERO).contains("2 received, +1 duplicates, 0% packet loss"));
    }

    #[test]
    fn three_digits_of_a_time_count() {
        for (nanos, text) in
            [(45_000, "0.045"), (1_234_567, "1.23"), (12_345_678, "12.3"), (123_456_789, "123")]
        {
            assert_eq!(milliseconds(nanos), text);
        }
    }
}
