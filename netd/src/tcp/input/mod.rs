//! SEGMENT ARRIVES (RFC 9293 §3.10.7), in the order of the RFC: one file a group of steps, one
//! function a step.
//!
//! [`syn_sent`](self) is §3.10.7.3; for all other states §3.10.7.4 runs: `acceptability` holds the
//! first to fourth step, `acknowledgement` the fifth, `text` the sixth to eighth. CLOSED and LISTEN
//! have no control block: see [`super::listen`].

mod acceptability;
mod acknowledgement;
mod syn_sent;
mod text;

use core::ops::ControlFlow::{self, Break, Continue};

use proto::time::Instant;

use super::challenge::ChallengeLimiter;
use super::control_block::ControlBlock;
use super::listen;
use super::reaction::Reaction;
use super::segment::Segment;
use super::seq::Position;
use super::state::State;
use super::timers::Deadline;
use crate::wire::drop_reason::DropReason;

/// What the steps share with the stack.
#[derive(Debug)]
pub struct Env<'a> {
    /// RFC 5961 §7: one limit for all connections.
    pub challenge: &'a mut ChallengeLimiter,
}

/// Go on with the next step, or break: the segment is dealt with.
type Step<T = ()> = ControlFlow<Reaction, T>;

impl ControlBlock {
    /// A segment of this connection arrived, its checksum verified (RFC 9293 §3.10.7).
    pub fn on_segment(&mut self, now: Instant, segment: &Segment, env: &mut Env<'_>) -> Reaction {
        match self.state {
            State::Closed => {
                Reaction::answered(DropReason::NoSocket, listen::reply_without_connection(segment))
            }
            State::SynSent => self.in_syn_sent(now, segment),
            _ => match self.otherwise(now, segment, env) {
                Continue(reaction) | Break(reaction) => reaction,
            },
        }
    }

    /// RFC 9293 §3.10.7.4, all steps.
    fn otherwise(&mut self, now: Instant, segment: &Segment, env: &mut Env<'_>) -> Step<Reaction> {
        let seq = self.check_sequence(now, segment)?;
        self.check_rst(now, segment, seq, env)?;
        self.check_syn(now, segment, env)?;
        self.last_received = now;
        self.keepalive_probes = 0;
        if self.resume_credit != u32::MAX {
            self.resume_credit = u32::MAX;
            self.timers.pace = Deadline::NEVER;
        }
        if self.agreed.ecn && segment.payload_len > 0 && self.ecn.on_arrival(segment) {
            self.ack_now = true;
        }
        let mut reaction = Reaction::none();
        self.check_ack(now, segment, seq, env, &mut reaction)?;
        self.check_urg(segment, seq);
        self.process_text(now, segment, seq, &mut reaction)?;
        self.check_fin(now, &mut reaction);
        Continue(reaction)
    }

    /// The place a segment's sequence number means; `None` if before the SYN.
    fn place_of(&self, segment: &Segment) -> Option<Position> {
        Position::near(segment.seq, self.irs, self.receive.nxt)
    }
}
