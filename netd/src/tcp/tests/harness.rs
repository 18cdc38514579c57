//! Two control blocks over a seeded network in virtual time, with an oracle that knows every byte.
//!
//! Each host has what a crash leaves: the arena (the bytes and the client's cursors) and the
//! committed record. Everything else dies with a block and is made again from these two. A batch is
//! one event; it commits before what it sends leaves, as the stack does it.

use core::time::Duration;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proto::hard::conns;
use proto::time::Instant;

use super::super::challenge::ChallengeLimiter;
use super::super::commit::Identity;
use super::super::congestion::Kind;
use super::super::control_block::ControlBlock;
use super::super::ecn::Ecn;
use super::super::expiry::MostTries;
use super::super::isn::Secrets;
use super::super::listen::{self, Backlog, Caller, HalfOpen, Heard};
use super::super::reaction::Reaction;
use super::super::segment::{Flags, Segment, SegmentOut};
use super::super::settings::Settings;
use super::super::state::State;
use super::super::{Env, seq::SeqNum};

/// IPv4 header, for the record's path MTU.
pub(super) const IP_HEADER: u16 = 20;

/// Octets around a payload on a wire of Ethernet: preamble, headers, check, gap.
const FRAMING: u32 = 90;

/// A small generator, so that a seed says everything.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True `permille` times in a thousand.
    pub(super) fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

/// Byte `offset` of the stream that `side` sends.
pub(super) fn byte(side: usize, offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (offset as u8) ^ (side as u8 * 0x55)
}

/// How the network and the hosts behave.
#[derive(Debug, Clone)]
pub(super) struct Weather {
    pub(super) loss_permille: u64,
    pub(super) duplicate_permille: u64,
    pub(super) reorder_permille: u64,
    /// Routers mark this many of a thousand packets that may be marked.
    pub(super) mark_permille: u64,
    pub(super) delay: Duration,
    /// What a reordered packet is late by; zero draws it, up to three delays.
    pub(super) late: Duration,
    /// Octets a second that side 0 gets through; 0 sets no limit.
    pub(super) rate: u64,
    /// A death at this many of a thousand batches.
    pub(super) death_permille: u64,
    /// How long a dead host stays dead; what arrives meanwhile is lost.
    pub(super) downtime: Duration,
    pub(super) gso_max: u32,
    pub(super) settings: Settings,
    pub(super) backlog: Backlog,
    /// Octets each side sends.
    pub(super) totals: [u64; 2],
    /// Clients read only now and then.
    pub(super) slow_reader: bool,
    /// Clients write as much as their buffer takes, and read all there is.
    pub(super) eager: bool,
    /// Both sides connect.
    pub(super) simultaneous: bool,
    /// Clients close their sockets for good, rather than only the sending side, when done.
    pub(super) closes_fully: bool,
}

impl Weather {
    pub(super) fn fair() -> Self {
        Weather {
            loss_permille: 0,
            duplicate_permille: 0,
            reorder_permille: 0,
            mark_permille: 0,
            delay: Duration::from_millis(5),
            late: Duration::ZERO,
            rate: 0,
            death_permille: 0,
            downtime: Duration::ZERO,
            gso_max: 1,
            settings: Settings::default(),
            backlog: Backlog::default(),
            totals: [100_000, 50_000],
            slow_reader: false,
            eager: false,
            simultaneous: false,
            closes_fully: true,
        }
    }

    /// Weather that a seed chooses.
    pub(super) fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xabcd);
        let mut settings = Settings {
            congestion: [Kind::Cubic, Kind::NewReno, Kind::Bbr, Kind::Cubic][rng.below(4) as usize],
            sack: rng.chance(750),
            timestamps: rng.chance(750),
            window_scaling: rng.chance(750),
            path_mss: [536, 1460, 1400, 8960][rng.below(4) as usize],
            ecn: [Ecn::Off, Ecn::Accept, Ecn::Request, Ecn::Request][(seed % 4) as usize],
            receive_limit: [600, 3000, 20_000, 65_535, 1 << 20][rng.below(5) as usize],
            ..Settings::default()
        };
        settings.advertised_mss = settings.path_mss;
        settings.options.nodelay = rng.chance(300);
        let bad = rng.below(3);
        let cookies = rng.chance(200);
        Weather {
            loss_permille: [0, 20, 100][bad as usize],
            duplicate_permille: [0, 10, 50][bad as usize],
            reorder_permille: [0, 50, 200][bad as usize],
            mark_permille: [0, 30, 300][(seed % 3) as usize],
            delay: Duration::from_micros([200, 5000, 60_000][rng.below(3) as usize]),
            late: Duration::ZERO,
            rate: 0,
            death_permille: if rng.chance(600) { [5, 20, 60][rng.below(3) as usize] } else { 0 },
            downtime: Duration::from_millis([0, 3, 40][rng.below(3) as usize]),
            gso_max: [1, 20_000, 65_536][rng.below(3) as usize],
            settings,
            backlog: Backlog {
                half_open: if cookies { HalfOpen::Cookies } else { HalfOpen::Kept },
                cookies_out: cookies,
                accept_full: false,
            },
            totals: [rng.below(200_000), if rng.chance(700) { rng.below(100_000) } else { 0 }],
            slow_reader: rng.chance(300),
            eager: false,
            simultaneous: rng.chance(100),
            closes_fully: rng.chance(500),
        }
    }
}

/// What a run has seen, so that a test can demand it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) deaths: u64,
    pub(super) deaths_before_commit: u64,
    pub(super) segments: u64,
    pub(super) sent_again: u64,
    pub(super) lost: u64,
    pub(super) out_of_order: u64,
    pub(super) sack_blocks: u64,
    pub(super) zero_windows: u64,
    pub(super) finished_at: Instant,
    /// The longest time in which no stream moved on though bytes were missing.
    pub(super) longest_silence: Duration,
}

#[derive(Debug, Clone)]
struct Packet {
    segment: Segment,
    payload: Vec<u8>,
}

/// One end: what survives a death, and the block that doesn't.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) block: Option<ControlBlock>,
    identity: Option<Identity>,
    committed: Option<conns::State>,
    // The arena.
    written: u64,
    closed: bool,
    closed_fully: bool,
    consumed: u64,
    arena: Vec<Option<u8>>,
    /// The largest stream offset sent, to tell what goes a second time.
    sent_max: u64,
    dead: bool,
    last_progress: Instant,
    /// Ended: the record was freed.
    pub(super) done: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum What {
    Packet(usize, usize),
    Client(usize),
    Poll(usize),
    Revive(usize),
}

/// The world of one run.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Instant,
    pub(super) hosts: [Host; 2],
    weather: Weather,
    rng: Rng,
    events: BinaryHeap<Reverse<(Instant, u64, What)>>,
    packets: Vec<Option<Packet>>,
    order: u64,
    /// When the bottleneck is free again.
    free_at: Instant,
    challenge: ChallengeLimiter,
    secrets: Secrets,
    pub(super) seen: Seen,
    trace: bool,
    /// Nobody dies before this.
    spared_until: Instant,
}

impl Host {
    fn new(expected: u64) -> Self {
        Host {
            block: None,
            identity: None,
            committed: None,
            written: 0,
            closed: false,
            closed_fully: false,
            consumed: 0,
            arena: vec![None; expected as usize],
            sent_max: 0,
            dead: false,
            last_progress: Instant::ZERO,
            done: false,
        }
    }

    /// The receive cursor a client sees: a function of the committed record.
    fn received(&self) -> u64 {
        self.committed
            .as_ref()
            .filter(|_| self.identity.is_some())
            .map_or(0, |v| v.rcv_nxt.saturating_sub(1 + u64::from(v.fin_received)))
    }

    fn remote_closed(&self) -> bool {
        self.committed.as_ref().is_some_and(|v| v.fin_received)
    }

    /// What may be freed and must not be read any more.
    fn freed(&self) -> u64 {
        self.committed.as_ref().map_or(0, |v| v.snd_una.saturating_sub(1).min(self.written))
    }
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let mut world = World {
            seed,
            now: Instant::from_millis(1000 + seed),
            hosts: [Host::new(weather.totals[1]), Host::new(weather.totals[0])],
            rng: Rng::new(seed),
            events: BinaryHeap::new(),
            packets: Vec::new(),
            order: 0,
            free_at: Instant::ZERO,
            challenge: ChallengeLimiter::new([3; 16]),
            secrets: Secrets { isn: [1; 16], timestamps: [2; 16], cookie: [3; 16] },
            seen: Seen::default(),
            trace: std::env::var_os("TCP_TRACE").is_some(),
            spared_until: Instant::ZERO,
            weather,
        };
        for side in 0..2 {
            if side == 0 || world.weather.simultaneous {
                world.open(side);
            }
            world.at(Duration::from_millis(1), What::Client(side));
        }
        world
    }

    fn at(&mut self, after: Duration, what: What) {
        self.order += 1;
        self.events.push(Reverse((self.now + after, self.order, what)));
    }

    fn open(&mut self, side: usize) {
        // One connection in three wraps its numbers soon, one its timestamps.
        let soon = (self.rng.next() % 20_000) as u32;
        let (iss, offset) = match self.seed % 3 {
            0 => (u32::MAX - soon, self.rng.next() as u32),
            1 => (self.rng.next() as u32, u32::MAX - soon - self.now.millis() as u32),
            _ => (self.rng.next() as u32, self.rng.next() as u32),
        };
        let iss = SeqNum::new(iss);
        let block = ControlBlock::connect(self.now, iss, offset, &self.weather.settings);
        let host = &mut self.hosts[side];
        host.identity = Some(Identity { passive: false, iss, timestamp_offset: offset, agreed: None });
        host.committed = Some(block.state_values(IP_HEADER));
        host.block = Some(block);
        self.end_batch(side, None);
    }

    /// Runs until both ends are done; panics, with the seed, if that takes for ever.
    pub(super) fn run(&mut self) {
        let limit = self.now + Duration::from_secs(4 * 3600);
        let mut stuck = 0;
        while !self.hosts.iter().all(|h| h.done) {
            assert!(self.now < limit, "seed {}: no end: {:#?}", self.seed, self.hosts_brief());
            let before = self.now;
            self.step();
            stuck = if self.now == before { stuck + 1 } else { 0 };
            assert!(
                stuck < 1000,
                "seed {}: time stands still at {:?}, {} events: {:#?}",
                self.seed,
                self.now,
                self.events.len(),
                self.hosts_brief()
            );
        }
        self.seen.finished_at = self.now;
        for (side, host) in self.hosts.iter().enumerate() {
            let expected = self.weather.totals[1 - side];
            assert_eq!(host.received(), expected, "seed {}: side {side} lacks bytes", self.seed);
            assert!(host.remote_closed(), "seed {}: side {side} missed the FIN", self.seed);
        }
    }

    fn hosts_brief(&self) -> Vec<String> {
        self.hosts
            .iter()
            .map(|h| format!("{:?} {:?} consumed {}", h.committed, h.block, h.consumed))
            .collect()
    }

    fn step(&mut self) {
        let timer = (0..2)
            .filter_map(|side| {
                let block = self.hosts[side].block.as_ref()?;
                Some((block.next_deadline()?, side))
            })
            .min();
        let event = self.events.peek().map(|Reverse((time, _, _))| *time);
        match (timer, event) {
            (Some((time, side)), event) if event.is_none_or(|event| time <= event) => {
                self.now = self.now.max(time);
                let reaction =
                    self.hosts[side].block.as_mut().unwrap().on_timer(self.now, &MostTries::default());
                self.take(side, reaction, &[]);
            }
            (_, Some(_)) => {
                let Reverse((time, _, what)) = self.events.pop().unwrap();
                self.now = self.now.max(time);
                match what {
                    What::Packet(side, index) => self.arrive(side, index),
                    What::Client(side) => self.client(side),
                    What::Poll(side) if self.hosts[side].block.is_some() => {
                        self.end_batch(side, None);
                    }
                    What::Poll(_) => {}
                    What::Revive(side) => self.revive(side),
                }
            }
            _ => panic!("seed {}: nothing will ever happen: {:#?}", self.seed, self.hosts_brief()),
        }
    }

    fn arrive(&mut self, side: usize, index: usize) {
        let packet = self.packets[index].take().expect("each packet arrives once");
        if self.hosts[side].dead {
            self.seen.lost += 1;
            return;
        }
        if self.hosts[side].block.is_none() {
            self.knock(side, &packet);
            return;
        }
        let mut env = Env { challenge: &mut self.challenge };
        let block = self.hosts[side].block.as_mut().unwrap();
        let una = block.acknowledged();
        let reaction = block.on_segment(self.now, &packet.segment, &mut env);
        assert!(block.acknowledged() >= una);
        self.take(side, reaction, &packet.payload);
    }

    /// A segment for a side without a connection.
    fn knock(&mut self, side: usize, packet: &Packet) {
        if self.hosts[side].done || self.weather.simultaneous {
            // The old incarnation is over: what still comes gets its RST.
            if let Some(reset) = listen::reply_without_connection(&packet.segment) {
                self.transmit(side, &[reset]);
            }
            return;
        }
        let caller = Caller { flow: b"one flow", reopen: None, addr: core::net::IpAddr::from([10, 0, 0, 1]) };
        let heard = listen::on_segment(
            self.now,
            &packet.segment,
            &caller,
            &self.secrets,
            self.weather.backlog,
            &self.weather.settings,
        );
        match heard {
            // A listener's RST for a segment that overtook the SYN would kill the connection, as
            // it would with any host; the test is about other things.
            Heard::Dropped(_) | Heard::Answered(_, Some(_)) => {}
            Heard::Answered(reply, None) => self.transmit(side, &[reply]),
            Heard::HalfOpen(block) | Heard::Fast(block) => {
                self.adopt(side, *block);
                self.end_batch(side, None);
            }
            Heard::FromCookie(block) => {
                self.adopt(side, *block);
                let mut env = Env { challenge: &mut self.challenge };
                let block = self.hosts[side].block.as_mut().unwrap();
                let reaction = block.on_segment(self.now, &packet.segment, &mut env);
                assert!(reaction.events.established, "a cookie's ACK establishes");
                self.take(side, reaction, &packet.payload);
            }
        }
    }

    fn adopt(&mut self, side: usize, block: ControlBlock) {
        let host = &mut self.hosts[side];
        host.identity = Some(Identity {
            passive: true,
            iss: block.iss(),
            timestamp_offset: super::super::isn::timestamp_offset(&self.secrets, b"one flow"),
            agreed: Some((block.irs(), *block.agreement())),
        });
        host.committed = Some(block.state_values(IP_HEADER));
        host.block = Some(block);
    }

    /// Copies what a reaction says, then ends the batch.
    fn take(&mut self, side: usize, reaction: Reaction, payload: &[u8]) {
        let limit = u64::from(self.weather.settings.receive_limit) + crate::tcp::window::ROUNDING_SLACK;
        let host = &mut self.hosts[side];
        if let Some(deliver) = reaction.deliver {
            let (start, len) = (deliver.payload_start as usize, deliver.len as usize);
            assert!(len > 0 && deliver.offset + len as u64 <= host.consumed + limit, "buffer bound");
            let bytes = &payload[start..start + len];
            for (at, byte) in (deliver.offset as usize..).zip(bytes) {
                host.arena[at] = Some(*byte);
            }
            let in_order = host.block.as_ref().unwrap().received() >= deliver.offset + len as u64;
            self.seen.out_of_order += u64::from(!in_order);
        }
        self.end_batch(side, reaction.reply);
    }

    /// Polls, maybe dies, commits, maybe dies, sends.
    fn end_batch(&mut self, side: usize, reply: Option<SegmentOut>) {
        let mut out: Vec<SegmentOut> = reply.into_iter().collect();
        let mut budget = self.rng.below(8);
        let now = self.now;
        let block = self.hosts[side].block.as_mut().unwrap();
        loop {
            let says = block.has_output(now);
            if budget == 0 && says {
                // No room: what is left leaves with a later batch.
                self.order += 1;
                let again = now + Duration::from_micros(50);
                self.events.push(Reverse((again, self.order, What::Poll(side))));
                break;
            }
            budget = budget.saturating_sub(1);
            let segment = block.poll_output(now, self.weather.gso_max);
            assert_eq!(says, segment.is_some(), "has_output and poll_output agree");
            match segment {
                Some(segment) => out.push(segment),
                None => break,
            }
        }
        let mortal = self.now >= self.spared_until;
        if mortal && self.rng.chance(self.weather.death_permille / 2) {
            self.seen.deaths_before_commit += 1;
            self.die(side);
            return;
        }
        self.commit(side);
        if mortal && self.rng.chance(self.weather.death_permille) {
            let leave = self.rng.below(out.len() as u64 + 1) as usize;
            self.transmit(side, &out[..leave]);
            self.die(side);
            return;
        }
        self.transmit(side, &out);
    }

    fn commit(&mut self, side: usize) {
        let seed = self.seed;
        let host = &mut self.hosts[side];
        let block = host.block.as_ref().unwrap();
        if let Some(failure) = block.failure() {
            panic!("seed {seed}: side {side} failed: {failure:?}");
        }
        let before = host.committed.expect("a block has a record");
        let values = block.state_values(IP_HEADER);
        let round_trip = conns::State::from_bytes(&values.to_bytes());
        assert_eq!(round_trip, Some(values), "the record holds all of it");
        assert!(values.snd_una >= before.snd_una, "seed {seed}: SND.UNA moved back");
        assert!(values.rcv_nxt >= before.rcv_nxt, "seed {seed}: RCV.NXT moved back");
        if block.state() != State::Closed && before.rcv_nxt > 0 {
            let edge = |v: &conns::State| v.rcv_nxt + u64::from(v.rcv_edge);
            assert!(edge(&values) >= edge(&before), "seed {seed}: a window was withdrawn");
        }
        if let Some(identity) = &mut host.identity
            && identity.agreed.is_none()
        {
            identity.agreed = block.agreed();
        }
        let old = host.received();
        host.committed = Some(values);
        let new = host.received();
        if new > old {
            let silence = self.now.since(host.last_progress);
            if old > 0 {
                self.seen.longest_silence = self.seen.longest_silence.max(silence);
            }
            host.last_progress = self.now;
        }
        for offset in old..new {
            let got = host.arena[offset as usize];
            let want = byte(1 - side, offset);
            assert_eq!(got, Some(want), "seed {seed}: side {side} byte {offset}");
        }
        // Only what the other side has committed may count as acknowledged (INV-T1).
        let acknowledged = self.hosts[side].freed();
        let other = self.hosts[1 - side].received();
        assert!(acknowledged <= other, "seed {seed}: {acknowledged} acknowledged, {other} received");
        let host = &mut self.hosts[side];
        let state = host.block.as_ref().unwrap().state();
        if matches!(state, State::Closed | State::TimeWait) && !host.done {
            host.done = true;
        }
        if state == State::Closed {
            host.block = None;
        }
    }

    fn die(&mut self, side: usize) {
        self.seen.deaths += 1;
        if self.trace {
            println!("{} {side} dies", self.now.micros());
        }
        // Mostly a few round trips to the next death: as each batch may be the last, a host that
        // resends a window at every death would otherwise breed batches faster than they end.
        if self.rng.chance(900) {
            let rest = self.weather.delay * 8 * self.rng.below(100) as u32 / 50;
            self.spared_until = self.now + rest + Duration::from_millis(1);
        }
        self.hosts[side].block = None;
        self.hosts[side].dead = true;
        self.at(self.weather.downtime, What::Revive(side));
    }

    fn revive(&mut self, side: usize) {
        self.hosts[side].dead = false;
        let host = &mut self.hosts[side];
        let (Some(identity), Some(values)) = (&host.identity, &host.committed) else {
            return;
        };
        let settings = &self.weather.settings;
        let restored = ControlBlock::restore(self.now, identity, values, settings, IP_HEADER);
        let mut block = restored.unwrap_or_else(|| {
            panic!("seed {}: record contradicts itself: {identity:?} {values:?}", self.seed)
        });
        block.on_consumed(self.now, host.consumed);
        block.on_written(self.now, host.written, host.closed);
        if host.closed_fully && !block.is_orphaned() {
            let reaction = block.close(self.now, host.written);
            assert!(reaction.reply.is_none());
        }
        host.block = Some(block);
        // It polls at once, in a batch of its own; INV-T6.
        self.at(Duration::from_micros(100), What::Poll(side));
    }

    /// The client of a side writes, reads, closes.
    fn client(&mut self, side: usize) {
        let total = self.weather.totals[side];
        let now = self.now;
        let host = &mut self.hosts[side];
        if host.done {
            return;
        }
        let Some(block) = host.block.as_mut() else {
            self.at(Duration::from_millis(20), What::Client(side));
            return;
        };
        let eager = self.weather.eager;
        let buffer = if eager { 1 << 20 } else { 256 << 10 };
        let room =
            (host.committed.map_or(0, |v| v.snd_una.saturating_sub(1)) + buffer).saturating_sub(host.written);
        let most = if eager { u64::MAX } else { 1 + self.rng.below(30_000) };
        let chunk = (total - host.written).min(room).min(most);
        host.written += chunk;
        host.closed |= host.written == total;
        block.on_written(now, host.written, host.closed);
        let received = host
            .committed
            .filter(|_| host.identity.is_some())
            .map_or(0, |v| v.rcv_nxt.saturating_sub(1 + u64::from(v.fin_received)));
        if !self.weather.slow_reader || self.rng.chance(200) {
            let readable = received - host.consumed;
            let most = if eager { u64::MAX } else { 1 + self.rng.below(60_000) };
            host.consumed += readable.min(most);
            block.on_consumed(now, host.consumed);
        }
        let all_read = host.consumed == self.weather.totals[1 - side] && host.closed;
        let open = block.state().is_synchronised();
        if self.weather.closes_fully && all_read && open && !host.closed_fully {
            host.closed_fully = true;
            let reaction = block.close(now, host.written);
            assert!(reaction.reply.is_none(), "nothing unread, so no RST");
        }
        let pause = Duration::from_micros(100 + self.rng.below(if eager { 1000 } else { 20_000 }));
        self.at(pause, What::Client(side));
        self.end_batch(side, None);
    }

    /// Puts segments on the wire, cut into pieces as a device does it.
    fn transmit(&mut self, side: usize, segments: &[SegmentOut]) {
        for out in segments {
            let mut done = 0;
            loop {
                let len = (out.payload_len - done).min(u32::from(out.piece_len));
                let last = done + len == out.payload_len;
                self.transmit_piece(side, out, done, len, last);
                done += len;
                if last {
                    break;
                }
            }
        }
    }

    fn transmit_piece(&mut self, side: usize, out: &SegmentOut, skip: u32, len: u32, last: bool) {
        self.seen.segments += 1;
        if self.trace {
            let (now, o) = (self.now.micros(), out);
            println!(
                "{now} {side} seq {:?}+{skip} len {len} ack {:?} flags {:#x} wnd {} sack {:?}",
                o.seq,
                o.ack,
                o.flags.bits(),
                o.window,
                o.options.sack.as_slice()
            );
        }
        self.seen.sack_blocks += out.options.sack.len() as u64;
        self.seen.zero_windows += u64::from(out.window == 0 && !out.flags.rst());
        let host = &mut self.hosts[side];
        let start = out.offset + u64::from(skip);
        if len > 0 {
            assert!(start >= host.freed(), "seed {}: reads freed bytes", self.seed);
            assert!(start + u64::from(len) <= host.written, "seed {}: unwritten bytes", self.seed);
            self.seen.sent_again += u64::from(start < host.sent_max);
            host.sent_max = host.sent_max.max(start + u64::from(len));
        }
        let header = super::super::header_len(out);
        assert!(header <= 60, "options fit");
        let carried = len + header - 20;
        assert!(carried <= u32::from(self.weather.settings.path_mss), "fits the path: {out:?}");
        let flags = if last {
            out.flags
        } else {
            Flags::from_bits(out.flags.bits() & !(Flags::FIN.bits() | Flags::PSH.bits()))
        };
        let segment = Segment {
            seq: out.seq.plus(skip),
            ack: out.ack,
            flags,
            window: out.window,
            urgent: out.urgent,
            options: out.options,
            payload_len: len,
            marked: out.ect && self.rng.chance(self.weather.mark_permille),
        };
        let payload = (start..start + u64::from(len)).map(|offset| byte(side, offset)).collect();
        let packet = Packet { segment, payload };
        let copies = 1 + u64::from(self.rng.chance(self.weather.duplicate_permille));
        for _ in 0..copies {
            if self.rng.chance(self.weather.loss_permille) {
                self.seen.lost += 1;
                continue;
            }
            let mut delay = self.weather.delay + self.queued(side, len);
            if self.rng.chance(self.weather.reorder_permille) {
                delay += match self.weather.late {
                    Duration::ZERO => self.weather.delay.mul_f64(self.rng.below(3000) as f64 / 1000.0),
                    late => late,
                };
            }
            self.packets.push(Some(packet.clone()));
            self.at(delay, What::Packet(1 - side, self.packets.len() - 1));
        }
    }

    /// How long the bottleneck keeps a piece of `len` octets.
    fn queued(&mut self, side: usize, len: u32) -> Duration {
        if self.weather.rate == 0 || side != 0 {
            return Duration::ZERO;
        }
        let octets = u64::from(len + FRAMING);
        self.free_at =
            self.free_at.max(self.now) + Duration::from_nanos(octets * 1_000_000_000 / self.weather.rate);
        self.free_at.since(self.now)
    }
}
