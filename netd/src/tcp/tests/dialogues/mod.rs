//! Dialogues by hand: each state against the events that matter in it, segment by segment.

mod attacks;
mod closing;
mod opening;
mod resume;
mod transfer;

use core::time::Duration;

use proto::time::Instant;

use super::super::Env;
use super::super::challenge::ChallengeLimiter;
use super::super::commit::Identity;
use super::super::control_block::{ControlBlock, TIME_WAIT};
use super::super::expiry::MostTries;
use super::super::icmp::IcmpError;
use super::super::isn::Secrets;
use super::super::listen::{self, Backlog, Caller, HalfOpen, Heard};
use super::super::reaction::{Deliver, Reaction};
use super::super::segment::{Flags, Options, SackBlock, Segment, SegmentOut, Timestamps};
use super::super::seq::SeqNum;
use super::super::settings::{Keepalive, Settings, SocketOptions};
use super::super::state::{Failure, State};
use super::harness::IP_HEADER;
use crate::wire::drop_reason::DropReason;

pub(super) const ISS: u32 = 1000;
pub(super) const IRS: u32 = 5_000_000;
pub(super) const ACK: Flags = Flags::ACK;
pub(super) const FIN_ACK: Flags = Flags::ACK.with(Flags::FIN);
pub(super) const SYN_ACK: Flags = Flags::SYN.with(Flags::ACK);
/// What the remote's window field says; no scaling in most dialogues.
pub(super) const WND: u16 = 60_000;

/// One block and the remote's part spoken by the test.
pub(super) struct Stage {
    pub(super) block: ControlBlock,
    pub(super) now: Instant,
    pub(super) challenge: ChallengeLimiter,
    pub(super) settings: Settings,
}

/// No timestamps and no scaling: plain numbers to read.
pub(super) fn plain() -> Settings {
    Settings { timestamps: false, window_scaling: false, receive_limit: 50_000, ..Settings::default() }
}

impl Stage {
    pub(super) fn connecting(settings: Settings) -> Self {
        let now = Instant::from_millis(10_000);
        let block = ControlBlock::connect(now, SeqNum::new(ISS), 0, &settings);
        Stage { block, now, challenge: ChallengeLimiter::new([1; 16]), settings }
    }

    pub(super) fn with(settings: Settings) -> Self {
        let mut stage = Self::connecting(settings);
        stage.sends(Flags::SYN, 0, 0);
        stage.wait(20);
        let options = Options {
            mss: Some(1000),
            sack_permitted: settings.sack,
            window_scale: settings.window_scaling.then_some(0),
            timestamps: settings.timestamps.then_some(Timestamps { value: 70, echo: 0 }),
            ..Options::NONE
        };
        let _ = stage.hears(Segment { options, ..stage.segment(SYN_ACK, -1, 0, 0) });
        assert_eq!(stage.block.state(), State::Established);
        stage.sends(ACK, 0, 0);
        stage
    }

    pub(super) fn established() -> Self {
        Self::with(plain())
    }

    /// A segment of the remote: sequence number and acknowledgement as stream offsets.
    pub(super) fn segment(&self, flags: Flags, seq: i64, ack: i64, payload_len: u32) -> Segment {
        Segment {
            seq: SeqNum::new(IRS.wrapping_add(1).wrapping_add(seq as u32)),
            ack: SeqNum::new((ISS + 1).wrapping_add(ack as u32)),
            flags,
            window: WND,
            payload_len,
            ..Segment::default()
        }
    }

    pub(super) fn hears(&mut self, segment: Segment) -> Reaction {
        let mut env = Env { challenge: &mut self.challenge };
        self.block.on_segment(self.now, &segment, &mut env)
    }

    pub(super) fn hear(&mut self, flags: Flags, seq: i64, ack: i64, payload_len: u32) -> Reaction {
        self.hears(self.segment(flags, seq, ack, payload_len))
    }

    pub(super) fn poll(&mut self) -> Option<SegmentOut> {
        self.block.poll_output(self.now, 1)
    }

    /// The block sends exactly this next; `offset` counts as the segment helper does.
    #[track_caller]
    pub(super) fn sends(&mut self, flags: Flags, offset: i64, payload_len: u32) -> SegmentOut {
        let out = self.poll().expect("a segment is to leave");
        let want = if flags.syn() { ISS } else { (ISS + 1).wrapping_add(offset as u32) };
        let without_push = Flags::from_bits(out.flags.bits() & !Flags::PSH.bits());
        assert_eq!((without_push, out.seq.get(), out.payload_len), (flags, want, payload_len));
        out
    }

    #[track_caller]
    pub(super) fn silent(&mut self) {
        assert_eq!(self.poll(), None);
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
    }

    /// Goes to the next deadline and lets it happen; says how long that took.
    pub(super) fn tick(&mut self) -> (Duration, Reaction) {
        let deadline = self.block.next_deadline().expect("a deadline");
        let waited = deadline.since(self.now);
        self.now = self.now.max(deadline);
        (waited, self.block.on_timer(self.now, &MostTries::default()))
    }

    pub(super) fn write(&mut self, written: u64) {
        self.block.on_written(self.now, written, false);
    }

    pub(super) fn shut(&mut self) {
        self.block.on_written(self.now, self.block.written(), true);
    }

    /// The process dies; its successor reads the record and the cursors.
    pub(super) fn die(&mut self, consumed: u64) {
        let identity = Identity {
            passive: self.block.is_passive(),
            iss: self.block.iss(),
            timestamp_offset: 0,
            agreed: self.block.agreed(),
        };
        let values = self.block.state_values(IP_HEADER);
        let (written, fin) = (self.block.written, self.block.fin_written);
        self.block = ControlBlock::restore(self.now, &identity, &values, &self.settings, IP_HEADER)
            .expect("the record is consistent");
        self.block.on_consumed(self.now, consumed);
        self.block.on_written(self.now, written, fin);
    }

    pub(super) fn state(&self) -> State {
        self.block.state()
    }
}

pub(super) fn secrets() -> Secrets {
    Secrets { isn: [1; 16], timestamps: [2; 16], cookie: [3; 16] }
}

pub(super) fn knock(segment: &Segment, backlog: Backlog, settings: &Settings) -> Heard {
    let caller = Caller { flow: b"flow", reopen: None, addr: core::net::IpAddr::from([10, 0, 0, 1]) };
    let now = Instant::from_millis(10_000);
    listen::on_segment(now, segment, &caller, &secrets(), backlog, settings)
}

pub(super) fn syn(options: Options) -> Segment {
    Segment { seq: SeqNum::new(IRS), flags: Flags::SYN, window: WND, options, ..Segment::default() }
}

pub(super) fn half_open() -> Stage {
    let settings = plain();
    let Heard::HalfOpen(block) = knock(&syn(Options::NONE), Backlog::default(), &settings) else {
        panic!("a half-open connection");
    };
    let mut stage = Stage {
        block: *block,
        now: Instant::from_millis(10_000),
        challenge: ChallengeLimiter::new([1; 16]),
        settings,
    };
    assert_eq!(stage.poll().map(|out| out.flags), Some(SYN_ACK));
    stage
}

impl Stage {
    /// The remote's segment when the own ISN was chosen by the block.
    pub(super) fn hear_passive(&mut self, flags: Flags, seq: i64, ack: u32, len: u32) -> Reaction {
        let ack = self.block.iss().plus(1 + ack);
        self.hears(Segment { ack, ..self.segment(flags, seq, 0, len) })
    }
}
