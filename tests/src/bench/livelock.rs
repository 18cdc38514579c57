//! Receive livelock: datagrams at 1, 2, 5 and 10 times the rate that a server can take, which works a fixed while for
//! each. What it takes must not fall when more is offered, whatever is lost must be counted somewhere, and an echo must
//! still be answered. The kernel's own stack over veth stands beside it.

use super::load::{REPORT_EVERY, Service};
use super::paths::{Far, Server, ip_says, stack_spec};
use super::row::{Goal, Row, Series, rounded};
use super::sockets::{Kernel, Sockets};
use super::{Wanted, say};
use crate::process::group::Group;
use crate::remote::ping::ping4;
use serde_json::json;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How much is offered, in capacities.
const TIMES: [f64; 6] = [0.5, 1.0, 2.0, 3.0, 5.0, 10.0];
const ROUNDS: usize = 3;
const WINDOW: Duration = Duration::from_millis(1500);
/// A server that has said nothing for so long has nothing left to do.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Datagrams under way while the capacity is measured.
const UNDER_WAY: u64 = 128;
/// Datagrams that are sent between two looks at the clock.
const AT_ONCE: u64 = 16;
/// After so long without a report what is under way is lost.
const LOST_AFTER: Duration = Duration::from_millis(50);
const PING_EVERY: Duration = Duration::from_millis(200);
const PING_PATIENCE: Duration = Duration::from_secs(2);
const GOAL: f64 = 0.9;
const TAP: &str = "axlw0";

/// The rows of this file.
pub const IDS: [&str; 1] = ["livelock"];

/// What came of one load.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    offered: f64,
    taken: f64,
    lost: u64,
    pings: (u32, u32),
}

/// One server, from the kernel's sockets.
struct Path {
    socket: <Kernel as Sockets>::Datagrams,
    to: SocketAddr,
    /// What the server has said last: datagrams that it has worked for.
    taken: u64,
}

impl Path {
    fn to(host: [u8; 4]) -> io::Result<Path> {
        let socket = Kernel.datagrams(0)?;
        socket.set_nonblocking(true)?;
        Ok(Path { socket, to: (host, Service::Work.port()).into(), taken: 0 })
    }

    fn hear(&mut self) {
        let mut report = [0; 8];
        while let Ok((8, _)) = self.socket.recv_from(&mut report) {
            self.taken = self.taken.max(u64::from_be_bytes(report));
        }
    }

    /// A full queue of our own is a loss like any other.
    fn offer(&self) {
        let _ = self.socket.send_to(&[7; super::load::SMALL], self.to);
    }

    /// What it takes a second while no more is offered.
    fn capacity(&mut self) -> f64 {
        let (begun, mut sent, mut heard_at) = (Instant::now(), 0, Instant::now());
        self.hear();
        let first = self.taken;
        let mut base = first;
        while begun.elapsed() < WINDOW {
            while sent < self.taken - base + UNDER_WAY {
                self.offer();
                sent += 1;
            }
            let before = self.taken;
            self.hear();
            if self.taken > before {
                heard_at = Instant::now();
            } else if heard_at.elapsed() > LOST_AFTER {
                (base, sent, heard_at) = (self.taken, 0, Instant::now());
            }
        }
        (self.taken - first) as f64 / begun.elapsed().as_secs_f64()
    }

    /// Until the server has worked for what waited for it.
    fn drain(&mut self) {
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < AFTERWARDS {
            std::thread::sleep(Duration::from_millis(5));
            let before = self.taken;
            self.hear();
            if self.taken > before {
                quiet_since = Instant::now();
            }
        }
    }

    fn load(&mut self, rate: f64) -> Seen {
        self.drain();
        let first = self.taken;
        let (over, IpAddr::V4(host)) = (AtomicBool::new(false), self.to.ip()) else {
            unreachable!("paths are of IPv4")
        };
        std::thread::scope(|scope| {
            let pings = scope.spawn(|| {
                let (mut asked, mut answered) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    asked += 1;
                    answered += u32::from(ping4(host, &[7; 56], PING_PATIENCE).is_ok());
                    std::thread::sleep(PING_EVERY);
                }
                (asked, answered)
            });
            let (begun, mut sent) = (Instant::now(), 0);
            while begun.elapsed() < WINDOW {
                let due = (begun.elapsed().as_secs_f64() * rate) as u64;
                for _ in 0..due.saturating_sub(sent).min(AT_ONCE) {
                    self.offer();
                    sent += 1;
                }
                self.hear();
            }
            let (time, taken) = (begun.elapsed().as_secs_f64(), self.taken - first);
            over.store(true, Ordering::Relaxed);
            let pings = pings.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.drain();
            // A last part of a report's number may not have been said.
            let lost = (sent + first).saturating_sub(self.taken + REPORT_EVERY - 1);
            Seen { offered: sent as f64 / time, taken: taken as f64 / time, lost, pings }
        })
    }
}

/// Frames that the TAP dropped before nicd, and those that a daemon says it dropped.
fn dropped(group: &Group) -> io::Result<(u64, u64)> {
    let said: serde_json::Value = serde_json::from_str(&ip_says(&format!("-s -j link show {TAP}"))?)?;
    let by_tap = said[0]["stats64"]["tx"]["dropped"].as_u64().unwrap_or(0);
    let counters = group.access().counters();
    let by_us = counters.iter().filter(|((_, name), _)| name.starts_with("drop_")).map(|(_, count)| count);
    Ok((by_tap, by_us.sum()))
}

/// What is asked for of [`IDS`].
///
/// # Errors
/// When a path can't be laid.
pub fn rows(wanted: &Wanted) -> io::Result<Vec<Row>> {
    let far = Far::new()?;
    far.veth("axlx", "10.79.8")?;
    let _kernel = Server::far(&far, Service::Work)?;
    let group = Group::up(&stack_spec(format!("tap:{TAP}"), "10.79.7.2/24", Some("10.79.7.1/24")))?;
    let _stack = Server::on(&group, Service::Work)?;
    let (mut ours, mut theirs) = (Path::to([10, 79, 7, 2])?, Path::to([10, 79, 8, 2])?);
    let (mut floors, mut kernel_floors) = (Vec::new(), Vec::new());
    let (mut last, mut kernel_last) = (Vec::new(), Vec::new());
    let (mut lost, mut by_tap, mut by_us, mut pings) = (0, 0, 0, (0, 0));
    for round in 0..ROUNDS {
        say(&format!("livelock: {} of {ROUNDS}", round + 1));
        let capacity = ours.capacity();
        let before = dropped(&group)?;
        last = TIMES.iter().map(|times| ours.load(capacity * times)).collect::<Vec<_>>();
        let after = dropped(&group)?;
        (by_tap, by_us) = (by_tap + after.0 - before.0, by_us + after.1 - before.1);
        for seen in &last {
            lost += seen.lost;
            pings = (pings.0 + seen.pings.0, pings.1 + seen.pings.1);
        }
        floors.push(floor(&last));
        let capacity = theirs.capacity();
        kernel_last = TIMES.iter().map(|times| theirs.load(capacity * times)).collect();
        kernel_floors.push(floor(&kernel_last));
    }
    if let Some(path) = wanted.plot.as_ref().filter(|_| wanted.is_only(&IDS)) {
        std::fs::write(path, svg(&last, &kernel_last))?;
    }
    let ours = Series::new("stack", floors);
    let counted = by_tap + by_us;
    let met = ours.median() >= GOAL && counted >= lost && pings.0 == pings.1;
    let curve = |seen: &[Seen]| {
        let points = seen.iter().map(|one| json!([rounded(one.offered), rounded(one.taken)]));
        points.collect::<Vec<_>>()
    };
    Ok(vec![Row {
        id: "livelock",
        unit: "of the peak, taken at the worst load from 1 to 10 times the capacity",
        higher: true,
        ours,
        baseline: Some(Series::new("kernel_veth", kernel_floors)),
        goal: Goal::new("≥ 0.9, every loss counted, echoes answered", met),
        more: vec![
            ("offered_and_taken", json!(curve(&last))),
            ("kernel_offered_and_taken", json!(curve(&kernel_last))),
            ("lost", json!(lost)),
            ("dropped_by_tap", json!(by_tap)),
            ("dropped_by_daemons", json!(by_us)),
            ("echoes_asked_and_answered", json!([pings.0, pings.1])),
        ],
    }])
}

/// What was taken at the worst load from the capacity on, of the most that was ever taken.
fn floor(seen: &[Seen]) -> f64 {
    let peak = seen.iter().map(|one| one.taken).fold(1.0, f64::max);
    let loaded = seen.iter().zip(TIMES).filter(|(_, times)| *times >= 1.0);
    loaded.map(|(one, _)| one.taken).fold(peak, f64::min) / peak
}

/// The curve, as a picture of its own: no script, no font but the reader's.
fn svg(ours: &[Seen], kernel: &[Seen]) -> String {
    const SIZE: (f64, f64) = (640.0, 360.0);
    const MARGIN: f64 = 60.0;
    let most = |pick: fn(&Seen) -> f64| ours.iter().chain(kernel).map(pick).fold(1.0, f64::max);
    let (right, top) = (most(|seen| seen.offered), most(|seen| seen.taken));
    let x = |offered: f64| MARGIN + offered / right * (SIZE.0 - 2.0 * MARGIN);
    let y = |taken: f64| SIZE.1 - MARGIN - taken / top * (SIZE.1 - 2.0 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"13\">Datagrams taken a second, by datagrams offered</text>\n\
         <path d=\"M{MARGIN} {MARGIN}V{}H{}\" fill=\"none\" stroke=\"#888\"/>\n",
        SIZE.0,
        SIZE.1,
        SIZE.1 - MARGIN,
        SIZE.0 - MARGIN,
    );
    // Writing to a string does not fail.
    for part in 1..=4 {
        let (offered, taken) = (right * f64::from(part) / 4.0, top * f64::from(part) / 4.0);
        let (across, down, below) = (x(offered), y(taken) + 4.0, SIZE.1 - MARGIN + 18.0);
        let _ = writeln!(
            text,
            "<text x=\"{across:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{:.0} k</text>\
             <text x=\"{:.1}\" y=\"{down:.1}\" text-anchor=\"end\">{:.1} k</text>",
            offered / 1e3,
            MARGIN - 6.0,
            taken / 1e3
        );
    }
    for (n, (name, seen, ink)) in
        [("stack", ours, "#b2182b"), ("kernel", kernel, "#2166ac")].iter().enumerate()
    {
        let points: Vec<String> =
            seen.iter().map(|one| format!("{:.1},{:.1}", x(one.offered), y(one.taken))).collect();
        let _ = writeln!(
            text,
            "<polyline fill=\"none\" stroke=\"{ink}\" points=\"{}\"/>\
             <text x=\"{:.1}\" y=\"44\" fill=\"{ink}\">{name}</text>",
            points.join(" "),
            MARGIN + 80.0 * n as f64
        );
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(taken: [f64; 6]) -> Vec<Seen> {
        taken.iter().zip(TIMES).map(|(&taken, offered)| Seen { offered, taken, ..Seen::default() }).collect()
    }

    #[test]
    fn the_worst_load_counts_and_light_ones_do_not() {
        assert_eq!(floor(&curve([10.0, 20.0, 20.0, 20.0, 19.0, 18.0])), 0.9);
        assert_eq!(floor(&curve([10.0, 20.0, 16.0, 5.0, 1.0, 0.0])), 0.0);
    }

    #[test]
    fn both_curves_are_drawn() {
        let picture = svg(&curve([1.0; 6]), &curve([2.0; 6]));
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(picture.ends_with("</svg>\n"));
    }
}
