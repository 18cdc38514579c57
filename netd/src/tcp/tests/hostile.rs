//! Any segment, any time, any cursor, in any state: no panic, and the invariants hold.

use core::time::Duration;

use proptest::prelude::*;
use proto::time::Instant;

use super::super::Env;
use super::super::challenge::ChallengeLimiter;
use super::super::commit::Identity;
use super::super::congestion::Kind;
use super::super::control_block::ControlBlock;
use super::super::ecn::Ecn;
use super::super::expiry::MostTries;
use super::super::fast_open::Cookie;
use super::super::icmp::IcmpError;
use super::super::out_of_order::OUT_OF_ORDER_RANGES_MAX;
use super::super::reaction::Reaction;
use super::super::sack::SCOREBOARD_RANGES_MAX;
use super::super::segment::{Flags, Options, SackBlock, SackBlocks, Segment, SegmentOut, Timestamps};
use super::super::seq::SeqNum;
use super::super::settings::{Keepalive, Settings, SocketOptions};
use super::super::state::State;
use super::harness::IP_HEADER;

/// A number near one of the block's edges, or anywhere.
#[derive(Debug, Clone, Copy)]
enum Number {
    NearSend(i32),
    NearUna(i32),
    NearReceive(i32),
    NearEdge(i32),
    Any(u32),
}

#[derive(Debug, Clone)]
struct Blow {
    seq: Number,
    ack: Number,
    flags: u8,
    window: u16,
    urgent: u16,
    payload_len: u32,
    mss: Option<u16>,
    window_scale: Option<u8>,
    sack_permitted: bool,
    timestamps: Option<(i32, u32)>,
    sack: Vec<(Number, Number)>,
}

#[derive(Debug, Clone)]
enum Event {
    Segment(Blow),
    Wait(u64),
    UntilDeadline,
    Poll { times: u8, gso_max: u32 },
    Written(u64, bool),
    Consumed(u64),
    Limit(u32),
    ReadShutdown,
    Urgent(u64),
    Options(SocketOptions),
    Icmp(u8, u16, Number),
    PathMss(u16),
    Close,
    Abort,
    Die,
}

fn number() -> impl Strategy<Value = Number> {
    let near = || prop_oneof![4 => -3i32..4, 2 => -3000i32..3000, 1 => -2_000_000i32..2_000_000];
    prop_oneof![
        3 => near().prop_map(Number::NearSend),
        3 => near().prop_map(Number::NearUna),
        5 => near().prop_map(Number::NearReceive),
        1 => near().prop_map(Number::NearEdge),
        1 => any::<u32>().prop_map(Number::Any),
    ]
}

fn blow() -> impl Strategy<Value = Blow> {
    let flags = prop_oneof![
        8 => Just(Flags::ACK.bits()),
        2 => Just(Flags::ACK.with(Flags::FIN).bits()),
        1 => Just(Flags::SYN.bits()),
        2 => Just(Flags::SYN.with(Flags::ACK).bits()),
        1 => Just(Flags::RST.bits()),
        2 => any::<u8>(),
    ];
    let seq = prop_oneof![3 => Just(Number::NearReceive(0)), 3 => number()];
    let ack = prop_oneof![3 => Just(Number::NearSend(0)), 3 => number()];
    let payload = prop_oneof![Just(0u32), 0u32..3000, 0u32..70_000, any::<u32>()];
    let options = (
        prop::option::of(any::<u16>()),
        prop::option::of(any::<u8>()),
        any::<bool>(),
        prop::option::of((-10i32..10, any::<u32>())),
        prop::collection::vec((number(), number()), 0..5),
    );
    (seq, ack, flags, any::<u16>(), any::<u16>(), payload, options).prop_map(
        |(seq, ack, flags, window, urgent, payload_len, options)| Blow {
            seq,
            ack,
            flags,
            window,
            urgent,
            payload_len,
            mss: options.0,
            window_scale: options.1,
            sack_permitted: options.2,
            timestamps: options.3,
            sack: options.4,
        },
    )
}

fn socket_options() -> impl Strategy<Value = SocketOptions> {
    let keepalive = (any::<u32>(), any::<u32>(), any::<u8>())
        .prop_map(|(idle_s, interval_s, probes)| Keepalive { idle_s, interval_s, probes });
    (any::<bool>(), any::<bool>(), prop::option::of(keepalive), prop::option::of(any::<u64>())).prop_map(
        |(nodelay, cork, keepalive, timeout)| SocketOptions {
            quickack: nodelay != cork,
            nodelay,
            cork,
            keepalive,
            user_timeout: timeout.map(Duration::from_nanos),
            fast_open: nodelay && !cork,
            mss_max: timeout.filter(|timeout| timeout % 2 == 0).map(|timeout| timeout as u16),
            congestion: [None, Some(Kind::Bbr), Some(Kind::NewReno)]
                [usize::from(nodelay) + usize::from(cork)],
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => blow().prop_map(Event::Segment),
        4 => (0u64..500_000_000).prop_map(Event::Wait),
        1 => any::<u64>().prop_map(|n| Event::Wait(n >> 4)),
        6 => Just(Event::UntilDeadline),
        10 => (1u8..20, prop_oneof![Just(1u32), 0u32..70_000, any::<u32>()])
            .prop_map(|(times, gso_max)| Event::Poll { times, gso_max }),
        6 => (0u64..300_000, prop::bool::weighted(0.1)).prop_map(|(n, fin)| Event::Written(n, fin)),
        1 => any::<u64>().prop_map(|n| Event::Written(n >> 2, false)),
        4 => any::<u64>().prop_map(Event::Consumed),
        4 => (0u64..300_000).prop_map(Event::Consumed),
        1 => (0u32..=1 << 20).prop_map(Event::Limit),
        1 => Just(Event::ReadShutdown),
        1 => any::<u64>().prop_map(Event::Urgent),
        1 => socket_options().prop_map(Event::Options),
        1 => (any::<u8>(), any::<u16>(), number()).prop_map(|(k, m, n)| Event::Icmp(k, m, n)),
        1 => any::<u16>().prop_map(Event::PathMss),
        1 => Just(Event::Close),
        1 => prop::bool::weighted(0.2).prop_map(|yes| if yes { Event::Abort } else { Event::Die }),
        2 => Just(Event::Die),
    ]
}

struct Victim {
    block: ControlBlock,
    settings: Settings,
    now: Instant,
    challenge: ChallengeLimiter,
    passive: bool,
    iss: SeqNum,
    offset: u32,
    agreed: Option<(SeqNum, super::super::control_block::Agreement)>,
}

impl Victim {
    fn number(&self, number: Number) -> SeqNum {
        let b = &self.block;
        let shifted = |base: SeqNum, by: i32| base.plus(by as u32);
        match number {
            Number::NearSend(by) => shifted(b.send.nxt.on_wire(b.iss), by),
            Number::NearUna(by) => shifted(b.send.una.on_wire(b.iss), by),
            Number::NearReceive(by) => shifted(b.receive.nxt.on_wire(b.irs), by),
            Number::NearEdge(by) => shifted(b.receive.edge.on_wire(b.irs), by),
            Number::Any(raw) => SeqNum::new(raw),
        }
    }

    fn segment(&self, blow: &Blow) -> Segment {
        let mut sack = SackBlocks::NONE;
        for (start, end) in &blow.sack {
            sack.push(SackBlock { start: self.number(*start), end: self.number(*end) });
        }
        let timestamps = blow.timestamps.map(|(by, echo)| Timestamps {
            value: self.block.timestamps.recent.wrapping_add(by as u32),
            echo,
        });
        Segment {
            seq: self.number(blow.seq),
            ack: self.number(blow.ack),
            flags: Flags::from_bits(blow.flags),
            window: blow.window,
            urgent: blow.urgent,
            options: Options {
                mss: blow.mss,
                window_scale: blow.window_scale,
                sack_permitted: blow.sack_permitted,
                timestamps,
                sack,
                fast_open: (blow.urgent.is_multiple_of(3)).then_some(Cookie::REQUEST),
            },
            payload_len: blow.payload_len,
            marked: blow.urgent % 4 == 1,
        }
    }

    fn strike(&mut self, event: &Event) {
        let before = self.block.clone();
        let mut payload_len = 0;
        let reaction = match event {
            Event::Segment(blow) => {
                let segment = self.segment(blow);
                payload_len = segment.payload_len;
                let mut env = Env { challenge: &mut self.challenge };
                self.block.on_segment(self.now, &segment, &mut env)
            }
            Event::Wait(nanos) => {
                self.now = self.now + Duration::from_nanos(*nanos);
                self.block.on_timer(self.now, &MostTries::default())
            }
            Event::UntilDeadline => {
                self.now = self.now.max(self.block.next_deadline().unwrap_or(self.now));
                let reaction = self.block.on_timer(self.now, &MostTries::default());
                // One timer at a time: a due deadline is dealt with by as many calls.
                if let Some(next) = self.block.next_deadline() {
                    assert!(next >= before.next_deadline().unwrap(), "a deadline moved back");
                }
                reaction
            }
            Event::Poll { times, gso_max } => {
                for _ in 0..*times {
                    let says = self.block.has_output(self.now);
                    let out = self.block.poll_output(self.now, *gso_max);
                    assert_eq!(says, out.is_some());
                    match out {
                        Some(out) => self.check_output(&out, *gso_max),
                        None => break,
                    }
                }
                Reaction::none()
            }
            Event::Written(written, fin) => {
                self.block.on_written(self.now, *written, *fin);
                Reaction::none()
            }
            Event::Consumed(consumed) => {
                self.block.on_consumed(self.now, *consumed);
                Reaction::none()
            }
            Event::Limit(limit) => {
                self.block.set_receive_limit(*limit);
                Reaction::none()
            }
            Event::ReadShutdown => {
                self.block.on_read_shutdown();
                Reaction::none()
            }
            Event::Urgent(end) => {
                self.block.on_urgent(*end);
                Reaction::none()
            }
            Event::Options(options) => {
                self.block.set_options(self.now, *options);
                Reaction::none()
            }
            Event::Icmp(kind, path_mss, seq) => {
                let error = match kind % 4 {
                    0 => IcmpError::NetworkUnreachable,
                    1 => IcmpError::HostUnreachable,
                    2 => IcmpError::PortUnreachable,
                    _ => IcmpError::PacketTooBig { path_mss: *path_mss },
                };
                let seq = self.number(*seq);
                self.block.on_icmp(self.now, error, seq)
            }
            Event::PathMss(path_mss) => {
                self.block.set_path_mss(*path_mss);
                Reaction::none()
            }
            Event::Close => self.block.close(self.now, self.block.written()),
            Event::Abort => self.block.abort(self.now),
            Event::Die => {
                self.die();
                Reaction::none()
            }
        };
        self.check(&before, &reaction, payload_len);
    }

    fn die(&mut self) {
        self.agreed = self.agreed.or(self.block.agreed());
        let identity = Identity {
            passive: self.passive,
            iss: self.iss,
            timestamp_offset: self.offset,
            agreed: self.agreed,
        };
        let values = self.block.state_values(IP_HEADER);
        let restored = ControlBlock::restore(self.now, &identity, &values, &self.settings, IP_HEADER);
        let mut restored = restored.unwrap_or_else(|| panic!("{values:?} of {:?}", self.block));
        assert_eq!(restored.acknowledged(), self.block.acknowledged().min(restored.written()));
        assert_eq!(restored.received(), self.block.received());
        assert_eq!(restored.remote_end(), self.block.remote_end());
        restored.set_receive_limit(self.block.receive.limit);
        restored.on_consumed(self.now, self.block.receive.consumed.offset());
        restored.on_written(self.now, self.block.written, self.block.fin_written);
        if self.block.read_shut {
            restored.on_read_shutdown();
        }
        assert_eq!(restored.state(), self.block.state());
        self.block = restored;
    }

    fn check(&self, before: &ControlBlock, reaction: &Reaction, payload_len: u32) {
        let b = &self.block;
        assert!(b.send.una <= b.send.nxt);
        assert!(b.send.una >= before.send.una || b.state == State::SynSent);
        assert!(b.receive.nxt >= before.receive.nxt);
        assert!(b.receive.edge >= before.receive.edge, "a window was withdrawn");
        assert!(b.receive.nxt <= b.receive.edge || b.receive.edge < before.receive.nxt);
        assert!(b.acknowledged() <= b.written());
        assert!(b.congestion.cwnd() >= b.mss() || b.congestion.cwnd() >= 76, "cwnd of a segment");
        if let Some(store) = &b.out_of_order {
            let ranges = store.ranges().as_slice();
            assert!(ranges.len() <= OUT_OF_ORDER_RANGES_MAX);
            for range in ranges {
                assert!(range.start > b.receive.nxt && range.end <= b.receive.edge);
            }
        }
        if let Some(board) = &b.scoreboard {
            let ranges = board.ranges().as_slice();
            assert!(ranges.len() <= SCOREBOARD_RANGES_MAX);
            for range in ranges {
                assert!(range.start > b.send.una && range.end <= b.send.nxt);
            }
        }
        if let Some(deliver) = reaction.deliver {
            assert!(deliver.len > 0);
            assert!(u64::from(deliver.payload_start) + u64::from(deliver.len) <= u64::from(payload_len));
            assert!(deliver.offset + u64::from(deliver.len) < before.receive.edge.get());
            assert!(deliver.offset >= before.received());
        }
        if b.received() > before.received() {
            assert!(b.received() - before.received() <= 1 << 30);
            assert!(reaction.events.received);
        }
        if b.state == State::Closed {
            assert_eq!(b.next_deadline(), None);
            assert!(!b.has_output(self.now));
        }
        if let Some(reply) = &reaction.reply {
            assert_eq!(reply.payload_len, 0);
        }
    }

    fn check_output(&self, out: &SegmentOut, gso_max: u32) {
        let b = &self.block;
        assert!(out.piece_len > 0);
        assert!(out.payload_len <= gso_max.max(u32::from(out.piece_len)));
        assert!(super::super::header_len(out) <= 60);
        let room = u32::from(b.path_mss.min(b.agreed.remote_mss)) + 20;
        let piece = out.payload_len.min(u32::from(out.piece_len));
        assert!(out.flags.syn() || super::super::header_len(out) + piece <= room, "{out:?}");
        if out.payload_len > 0 {
            assert!(out.offset >= b.acknowledged());
            assert!(out.offset + u64::from(out.payload_len) <= b.written());
        }
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (any::<u16>(), any::<u16>(), 0u32..=1 << 20, switches).prop_map(
        |(path_mss, advertised_mss, receive_limit, (sack, timestamps, window_scaling, cubic))| Settings {
            congestion: if cubic { Kind::Cubic } else { Kind::NewReno },
            path_mss,
            advertised_mss,
            receive_limit,
            receive_limit_max: 1 << 20,
            sack,
            timestamps,
            window_scaling,
            ecn: [Ecn::Off, Ecn::Accept, Ecn::Request][usize::from(path_mss % 3)],
            ..Settings::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_breaks_it(
        settings in settings(),
        passive: bool,
        iss: u32,
        offset: u32,
        start in 0u64..1 << 60,
        first in blow(),
        events in prop::collection::vec(event(), 1..120),
    ) {
        let now = Instant::from_nanos(start);
        let iss = SeqNum::new(iss);
        let mut victim = Victim {
            block: ControlBlock::connect(now, iss, offset, &settings),
            settings, now, passive, iss, offset,
            challenge: ChallengeLimiter::new([0; 16]),
            agreed: None,
        };
        if passive {
            let syn = Segment { flags: Flags::SYN, ..victim.segment(&first) };
            victim.block = ControlBlock::accept(now, &syn, iss, offset, &settings);
        } else {
            // Otherwise few would ever leave SYN-SENT.
            let _ = victim.block.poll_output(now, 1);
            let syn_ack = Segment {
                flags: Flags::SYN.with(Flags::ACK),
                ack: iss.plus(1),
                ..victim.segment(&first)
            };
            let mut env = Env { challenge: &mut victim.challenge };
            let _ = victim.block.on_segment(now, &syn_ack, &mut env);
        }
        for event in &events {
            victim.strike(event);
        }
    }
}
