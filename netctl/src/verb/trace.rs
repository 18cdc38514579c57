//! `netctl trace HOST`: which routers lie on the stack's way to a host, in the habits and the words of
//! traceroute(8). A hop's probes leave at once; a hop is shown when all of them came to something, or were
//! waited for long enough.

use crate::group::{Access, Failure};
use crate::probe::{Ear, Heard, Target, begin, echo, icmp, sequence};
use crate::table::{Family, Form, json};
use libnetclient::{Origin, PingSocket, SentError, UdpSocket};
use serde::Serialize;
use std::io::{self, IoSlice, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a probe's packet of IPv4, as traceroute has them.
const PACKET: usize = 60;
/// Bytes behind a header of IPv4 and one of UDP or of an echo.
const PAYLOAD: usize = PACKET - 20 - 8;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Echo requests instead of datagrams.
    pub icmp: bool,
    /// The hop that is asked first.
    pub first_hop: u8,
    /// The hop that is asked last.
    pub hops_max: u8,
    /// Probes of a hop.
    pub queries: u8,
    /// How long a hop's answers are waited for.
    pub wait: Duration,
    /// The first probe's port, one more for each of the next.
    pub port: u16,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Answer {
    from: IpAddr,
    rtt_ms: f64,
    /// traceroute's letter for why it goes no further: `!H` for a host that can't be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// It is the end of the way.
    #[serde(skip)]
    last: bool,
}

#[derive(Debug, Serialize)]
struct Hop {
    hop: u8,
    /// `null` for a probe of which nothing was heard.
    probes: Vec<Option<Answer>>,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: u32,
    target: &'a str,
    addr: IpAddr,
    /// Whether the target itself was heard.
    reached: bool,
    hops: &'a [Hop],
}

/// A message's letter, and whether nothing lies behind who sent it.
fn meaning(error: &SentError, v6: bool) -> (Option<String>, bool) {
    let (kind, code) = (error.note.kind, error.note.code);
    let letter = match (v6, kind, code) {
        (false, icmp::EXPIRED, _) | (true, icmp::EXPIRED_V6, _) => return (None, false),
        (false, icmp::UNREACHABLE, icmp::PORT) | (true, icmp::UNREACHABLE_V6, icmp::PORT_V6) => {
            return (None, true);
        }
        (_, _, 0) => "!N".into(),
        (false, icmp::UNREACHABLE, 1) | (true, icmp::UNREACHABLE_V6, 3) => "!H".into(),
        (false, icmp::UNREACHABLE, 2) => "!P".into(),
        (false, icmp::UNREACHABLE, 4) => format!("!F-{}", error.note.info),
        (false, icmp::UNREACHABLE, 9 | 10 | 13) | (true, icmp::UNREACHABLE_V6, 1) => "!X".into(),
        (_, _, code) => format!("!{code}"),
    };
    (Some(letter), true)
}

/// How a hop is written: who answered, each time the address is another one, and how long it took.
fn line(hop: &Hop) -> String {
    let (mut line, mut shown) = (format!("{:2} ", hop.hop), None);
    for probe in &hop.probes {
        match probe {
            None => line += " *",
            Some(answer) => {
                if shown != Some(answer.from) {
                    line += &format!(" {}", answer.from);
                    shown = Some(answer.from);
                }
                line += &format!("  {:.3} ms", answer.rtt_ms);
                line.extend(answer.note.iter().map(|note| format!(" {note}")));
            }
        }
    }
    line
}

/// By which sockets it asks.
enum Voice {
    Datagrams(UdpSocket),
    Echoes(PingSocket),
}

impl Voice {
    fn socket(&self) -> &UdpSocket {
        match self {
            Voice::Datagrams(socket) => socket,
            Voice::Echoes(socket) => socket.datagrams(),
        }
    }
}

struct Run<'a> {
    target: &'a Target,
    plan: Plan,
    voice: &'a Voice,
    ear: Ear<'a>,
}

impl Run<'_> {
    /// The number of a hop's probe: it stands in the port or in the sequence field, and comes back quoted.
    fn number(&self, hop: u8, query: u8) -> u16 {
        let at = u16::from(hop - self.plan.first_hop) * u16::from(self.plan.queries) + u16::from(query);
        match self.voice {
            Voice::Datagrams(_) => self.plan.port.wrapping_add(at),
            Voice::Echoes(_) => at + 1,
        }
    }

    fn send(&self, hop: u8, number: u16) -> io::Result<()> {
        let origin = Origin { hops: Some(hop), ..Origin::default() };
        let payload = [b'@'; PAYLOAD];
        let mut to = self.target.addr;
        let message = match self.voice {
            Voice::Datagrams(_) => {
                to.set_port(number);
                payload.to_vec()
            }
            Voice::Echoes(_) => echo(self.target.is_v6(), number, &payload),
        };
        self.ear.send(|socket| socket.send_from(&[IoSlice::new(&message)], Some(to), origin, false))
    }

    /// Which probe something is about, who says it, and what it means.
    fn about(&self, heard: &Heard) -> Option<(u16, IpAddr, Option<String>, bool)> {
        let number = |remote: SocketAddr, message: &[u8]| match self.voice {
            Voice::Datagrams(_) => Some(remote.port()),
            Voice::Echoes(_) => sequence(message),
        };
        match heard {
            Heard::Answer(datagram, message) => {
                Some((number(datagram.remote, message)?, datagram.remote.ip(), None, true))
            }
            Heard::Complaint(error) => {
                let (note, last) = meaning(error, self.target.is_v6());
                Some((number(error.remote, &error.payload)?, error.note.offender, note, last))
            }
        }
    }

    fn ask(&mut self, hop: u8, stop: &AtomicBool) -> io::Result<Hop> {
        let mut probes = vec![None; usize::from(self.plan.queries)];
        let numbers: Vec<u16> = (0..self.plan.queries).map(|query| self.number(hop, query)).collect();
        let mut sent = Vec::new();
        for &number in &numbers {
            sent.push(Instant::now());
            self.send(hop, number)?;
        }
        let until = Instant::now() + self.plan.wait;
        while probes.contains(&None) && Instant::now() < until && !stop.load(Ordering::Relaxed) {
            for heard in self.ear.hear(until)? {
                let came = Instant::now();
                let Some((number, from, note, last)) = self.about(&heard) else { continue };
                let Some(query) = numbers.iter().position(|own| *own == number) else { continue };
                let rtt_ms = came.duration_since(sent[query]).as_secs_f64() * 1e3;
                probes[query].get_or_insert(Answer { from, rtt_ms, note, last });
            }
        }
        Ok(Hop { hop, probes })
    }
}

/// Runs it until the target answers, somebody says that there is no way, the last hop was asked, or `stop` is set.
///
/// # Errors
/// [`Failure::Probe`] (2) when nothing can be sent.
pub fn run(
    access: &Access,
    form: Form,
    family: Family,
    (host, plan): (&str, Plan),
    stop: &AtomicBool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let (target, session, echoes) = begin(access, family, host)?;
    let cannot = |e| Failure::Probe(host.to_owned(), e);
    let voice = if plan.icmp {
        Voice::Echoes(echoes)
    } else {
        let any = if target.is_v6() { "[::]:0" } else { "0.0.0.0:0" };
        Voice::Datagrams(UdpSocket::bind_in(&session, any).map_err(cannot)?)
    };
    let ear = Ear::of(voice.socket()).map_err(cannot)?;
    let failed = |e| Failure::Io("standard output", e);
    if form == Form::Table {
        let (name, ip, most) = (&target.name, target.ip(), plan.hops_max);
        writeln!(out, "trace to {name} ({ip}), {most} hops max, {PACKET} byte packets").map_err(failed)?;
    }
    let mut run = Run { target: &target, plan, voice: &voice, ear };
    let mut hops: Vec<Hop> = Vec::new();
    for hop in plan.first_hop..=plan.hops_max {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let asked = run.ask(hop, stop).map_err(cannot)?;
        if form == Form::Table {
            writeln!(out, "{}", line(&asked)).and_then(|()| out.flush()).map_err(failed)?;
        }
        let last = asked.probes.iter().flatten().any(|answer| answer.last);
        hops.push(asked);
        if last {
            break;
        }
    }
    if form == Form::Json {
        let answers = hops.iter().flat_map(|hop| hop.probes.iter().flatten());
        let reached = answers.into_iter().any(|answer| answer.last && answer.note.is_none());
        let document = Document { schema: 1, target: &target.name, addr: target.ip(), reached, hops: &hops };
        json(out, &document).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_written_as_traceroute_writes_it() {
        let answer = |last: u8, note: Option<&str>| {
            let from = IpAddr::from([10, 0, 0, last]);
            Some(Answer { from, rtt_ms: 0.25, note: note.map(str::to_owned), last: note.is_some() })
        };
        let hop = Hop { hop: 3, probes: vec![answer(1, None), None, answer(1, None), answer(2, Some("!H"))] };
        assert_eq!(line(&hop), " 3  10.0.0.1  0.250 ms *  0.250 ms 10.0.0.2  0.250 ms !H");
    }
}
