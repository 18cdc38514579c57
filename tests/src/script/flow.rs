//! A remote that takes what comes, for a while: behind a path with a delay, a bottleneck that holds back, and
//! perhaps a hole for segments that are large. It acknowledges each segment, as it should; what is said about
//! congestion and about sizes is then seen in the window, in what was acknowledged, and in what comes next.

use super::parse::{Opt, Seg};
use super::play::{ACK, Play, long};
use super::wire::{self, Raw};
use proto::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Blocks of an acknowledgement beside a timestamp (RFC 2018 §3).
const BLOCKS_MAX: usize = 3;

/// `flow MS rtt MS [rate N] [most N] [lose N]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flow {
    /// How long it lasts, in milliseconds.
    pub span: u64,
    /// From a segment to its acknowledgement, in milliseconds.
    pub rtt: u64,
    /// Octets a millisecond that the bottleneck lets through.
    pub rate: Option<u64>,
    /// Segments with more payload vanish.
    pub most: Option<usize>,
    /// The n-th segment vanishes.
    pub lose: Option<u64>,
}

impl Flow {
    /// From the words behind `flow`.
    pub(super) fn parse(words: &[&str]) -> Result<Flow, String> {
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("no number: {word}"));
        let (span, pairs) = words.split_first().ok_or("for how long?")?;
        let mut flow = Flow { span: number(span)?, rtt: 0, rate: None, most: None, lose: None };
        for pair in pairs.chunks(2) {
            match *pair {
                ["rtt", ms] => flow.rtt = number(ms)?,
                ["rate", octets] => flow.rate = Some(number(octets)?.max(1)),
                ["most", octets] => flow.most = Some(number(octets)? as usize),
                ["lose", n] => flow.lose = Some(number(n)?),
                _ => return Err("flow MS rtt MS [rate N] [most N] [lose N]".into()),
            }
        }
        Ok(flow)
    }
}

/// What the remote has of the stack's stream, as scripts count it.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The next octet that it waits for.
    pub nxt: u32,
    /// Where its own stream stands.
    pub seq: u32,
    /// It has offered selective acknowledgements.
    sack: bool,
    /// Octets of the largest segment that the last flow let through.
    pub largest: usize,
    /// What lies behind a gap: the end by the start.
    beyond: BTreeMap<u32, u32>,
    /// Acknowledgements on their way.
    acks: VecDeque<(Instant, Seg)>,
}

impl Taken {
    /// A segment of the remote's, as a script has written it.
    pub(super) fn note(&mut self, seg: &Seg) {
        // SYN and FIN count, as one each.
        let controls = u32::from((seg.flags & 1) + (seg.flags >> 1 & 1));
        self.seq = self.seq.max(seg.seq.wrapping_add(seg.len).wrapping_add(controls));
        self.nxt = self.nxt.max(seg.ack.unwrap_or(0));
        self.sack |= seg.options.iter().flatten().any(|option| *option == Opt::SackPermitted);
    }

    /// What has come behind a gap, that of `last` first (RFC 2018 §4).
    fn blocks(&self, last: u32) -> Vec<(u32, u32)> {
        let mut blocks: Vec<(u32, u32)> = Vec::new();
        for (&start, &end) in &self.beyond {
            match blocks.last_mut().filter(|(_, known)| *known >= start) {
                Some((_, known)) => *known = end.max(*known),
                None => blocks.push((start, end)),
            }
        }
        blocks.sort_by_key(|(start, end)| !(*start..*end).contains(&last));
        blocks.truncate(BLOCKS_MAX);
        blocks
    }

    fn take(&mut self, start: u32, end: u32) {
        let known = self.beyond.entry(start).or_insert(end);
        *known = end.max(*known);
        while let Some(first) = self.beyond.first_entry().filter(|first| *first.key() <= self.nxt) {
            self.nxt = self.nxt.max(first.remove());
        }
    }
}

impl Play {
    pub(super) fn flow(&mut self, flow: &Flow) -> Result<(), String> {
        let end = self.host.now + Duration::from_millis(flow.span);
        let (mut free, mut count) = (self.host.now, 0);
        self.taken.largest = 0;
        loop {
            while let Some((at, raw)) = self.sent.pop_front() {
                count += 1;
                if !self.passes(flow, &raw)? || flow.lose == Some(count) {
                    continue;
                }
                self.taken.largest = self.taken.largest.max(raw.payload.len());
                let held = flow.rate.map_or(0, |rate| raw.payload.len() as u64 * 1000 / rate);
                free = free.max(at) + Duration::from_micros(held);
                let seq = raw.seq.wrapping_sub(self.iss.unwrap_or(0));
                self.taken.take(seq, seq + raw.payload.len() as u32);
                // None overtakes another.
                let last = self.taken.acks.back().map_or(free, |(at, _)| *at);
                let at = last.max(free + Duration::from_millis(flow.rtt));
                let answer = self.answer(at, &raw);
                self.taken.acks.push_back((at, answer));
            }
            let next = self.taken.acks.front().map_or(end, |(at, _)| (*at).min(end));
            if self.tick(next) {
                continue;
            }
            self.host.now = self.host.now.max(next);
            match self.taken.acks.pop_front_if(|(at, _)| *at <= end) {
                Some((_, ack)) => {
                    let frame = self.frame_of(&ack)?;
                    self.host.receive(&frame);
                    self.settle();
                }
                // What is on its way then is the next flow's.
                None => return Ok(()),
            }
        }
    }

    /// The acknowledgement of a segment, with its timestamp if it has one (RFC 7323 §4.3).
    fn answer(&self, at: Instant, raw: &Raw) -> Seg {
        let found = wire::options(&raw.options).into_iter().find(|(kind, _)| *kind == 8);
        let echo = found.map(|(_, body)| long(&body, 0).wrapping_sub(self.clock.unwrap_or(0)));
        let stamp = echo.map(|echo| Opt::Timestamps(Some(at.millis() as u32), Some(echo)));
        let blocks = self.taken.blocks(raw.seq.wrapping_sub(self.iss.unwrap_or(0)));
        let sack = (self.taken.sack && !blocks.is_empty()).then_some(Opt::Sack(blocks));
        let options = Some(stamp.into_iter().chain(sack).collect());
        Seg { flags: ACK, seq: self.taken.seq, ack: Some(self.taken.nxt), options, ..Seg::default() }
    }

    /// Whether a segment comes through; its payload must be what was written.
    fn passes(&self, flow: &Flow, raw: &Raw) -> Result<bool, String> {
        let seq = raw.seq.wrapping_sub(self.iss.unwrap_or(0));
        let whole = Seg { flags: raw.flags, seq, len: raw.payload.len() as u32, ..Seg::default() };
        self.compare(&whole, raw)?;
        Ok(!raw.payload.is_empty() && flow.most.is_none_or(|most| raw.payload.len() <= most))
    }
}
