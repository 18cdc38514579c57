//! Between the control block and its record in the connection table (DESIGN §4).
//!
//! [`ControlBlock::state_values`] says what the record has to hold; the stack commits it after each
//! batch and before anything of the batch leaves. [`ControlBlock::restore`] makes a block again
//! from what a record holds: whatever the predecessor had in flight counts as unknown, the edges
//! stay where they were, and the block speaks first (INV-T6). What a record doesn't hold are
//! guesses about the path, timers, and out-of-order data beyond the kept ranges, which the remote
//! sends again.

use core::time::Duration;
use proto::hard::conns::{self, Agreed, Opening, TcpState};
use proto::time::Instant;

use super::congestion::{Congestion, initial_window};
use super::control_block::{Agreement, ControlBlock, FIN_WAIT2_ORPHAN, TIME_WAIT};
use super::expiry::RESUME_SEGMENTS;
use super::out_of_order::OutOfOrder;
use super::ranges::Range;
use super::rto::RttEstimator;
use super::segment::HEADER_LEN;
use super::seq::{Position, SeqNum};
use super::settings::{MSS_MIN, Settings};
use super::state::{Failure, State};
use super::timers::{Deadline, SendTimer};
use super::window::SCALE_MAX;

/// Microseconds a unit of the record's SRTT stands for.
const SRTT_UNIT_US: u32 = 64;

/// What of a record never changes once the handshake is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// It came in through a listener.
    pub passive: bool,
    /// The initial send sequence number.
    pub iss: SeqNum,
    /// What is added to the millisecond clock in TSval.
    pub timestamp_offset: u32,
    /// The initial receive sequence number and what the SYNs agreed on; `None` while an active
    /// open has no answer.
    pub agreed: Option<(SeqNum, Agreement)>,
}

impl Identity {
    /// From the write-once parts of a record.
    pub fn of_record(opening: &Opening, agreed: Option<&Agreed>) -> Self {
        let passive = opening.kind == conns::Kind::TcpPassive;
        let agreed = match agreed {
            _ if passive => Some((SeqNum::new(opening.irs), Agreement::from(opening.options))),
            Some(Agreed::Active { irs, options }) => Some((SeqNum::new(*irs), Agreement::from(*options))),
            _ => None,
        };
        Identity { passive, iss: SeqNum::new(opening.iss), timestamp_offset: opening.ts_offset, agreed }
    }
}

impl From<conns::Options> for Agreement {
    fn from(options: conns::Options) -> Self {
        Agreement {
            remote_mss: options.mss.max(MSS_MIN),
            send_scale: options.snd_wscale.min(SCALE_MAX),
            receive_scale: options.rcv_wscale.min(SCALE_MAX),
            window_scaling: options.wscale,
            sack: options.sack,
            timestamps: options.timestamps,
            ecn: options.ecn,
        }
    }
}

impl From<Agreement> for conns::Options {
    fn from(agreed: Agreement) -> Self {
        conns::Options {
            mss: agreed.remote_mss,
            snd_wscale: agreed.send_scale,
            rcv_wscale: agreed.receive_scale,
            wscale: agreed.window_scaling,
            sack: agreed.sack,
            timestamps: agreed.timestamps,
            ecn: agreed.ecn,
        }
    }
}

impl From<State> for TcpState {
    fn from(state: State) -> Self {
        match state {
            State::Closed => TcpState::Closed,
            State::SynSent => TcpState::SynSent,
            State::SynReceived => TcpState::SynReceived,
            State::Established => TcpState::Established,
            State::FinWait1 => TcpState::FinWait1,
            State::FinWait2 => TcpState::FinWait2,
            State::CloseWait => TcpState::CloseWait,
            State::Closing => TcpState::Closing,
            State::LastAck => TcpState::LastAck,
            State::TimeWait => TcpState::TimeWait,
        }
    }
}

/// The state of a connection's record; `None` for a listener's.
fn state_of(state: TcpState) -> Option<State> {
    Some(match state {
        TcpState::Closed => State::Closed,
        TcpState::SynSent => State::SynSent,
        TcpState::SynReceived => State::SynReceived,
        TcpState::Established => State::Established,
        TcpState::FinWait1 => State::FinWait1,
        TcpState::FinWait2 => State::FinWait2,
        TcpState::CloseWait => State::CloseWait,
        TcpState::Closing => State::Closing,
        TcpState::LastAck => State::LastAck,
        TcpState::TimeWait => State::TimeWait,
        TcpState::Listen => return None,
    })
}

fn distance(from: Position, to: Position) -> u32 {
    u32::try_from(to.since(from)).unwrap_or(u32::MAX)
}

/// Who heard nothing for as long as this owes the remote no word after a change of drivers.
const SPOKE_LATELY: Duration = Duration::from_secs(2);

impl ControlBlock {
    /// The initial receive sequence number and what was agreed, once a SYN of the remote has come.
    /// The record's write-once part of an active open is written with the first commit at which
    /// this is `Some`: also in SYN-RECEIVED, since after a simultaneous open's SYN-ACK the remote
    /// counts on it.
    pub fn agreed(&self) -> Option<(SeqNum, Agreement)> {
        let known = !matches!(self.state, State::SynSent | State::Closed);
        known.then_some((self.irs, self.agreed))
    }

    /// What the record's state has to hold now. `ip_header_len` turns the path's segment size into
    /// a path MTU.
    pub fn state_values(&self, ip_header_len: u16) -> conns::State {
        let mut values = conns::State::new(self.state.into());
        let (send, receive) = (&self.send, &self.receive);
        values.snd_una = send.una.get();
        values.snd_max = distance(send.una, send.nxt);
        values.snd_edge = distance(send.una, send.edge);
        values.rcv_nxt = receive.nxt.get();
        values.rcv_edge = distance(receive.nxt, receive.edge);
        values.ts_recent = self.timestamps.recent;
        values.fin_sent = self.fin_sent();
        values.fin_received = self.has_remote_fin();
        values.detached = self.orphaned;
        values.ecn_echo = self.ecn.echo;
        values.error = self.failure.map_or(0, Failure::errno);
        let srtt = self.rtt.srtt_us().div_ceil(SRTT_UNIT_US);
        values.srtt_64us = u16::try_from(srtt).unwrap_or(u16::MAX);
        let segments = self.congestion.cwnd().max(self.congestion_memory()) / self.mss();
        values.cwnd_segments = u16::try_from(segments).unwrap_or(u16::MAX);
        if let Some(store) = &self.out_of_order {
            for (kept, range) in values.ooo.iter_mut().zip(store.ranges().as_slice()) {
                *kept = (distance(receive.nxt, range.start), distance(range.start, range.end));
            }
        }
        values.urgent = self.urgent_octet().and_then(|octet| {
            let distance = octet.get() as i64 - receive.nxt.get() as i64;
            i32::try_from(distance).ok().filter(|at| at.abs() <= conns::URGENT_MAX)
        });
        if self.path_mss < self.advertised_mss {
            values.pmtu = self.path_mss.saturating_add(HEADER_LEN as u16 + ip_header_len);
        }
        values
    }

    /// While a resumed connection finds its way back, the window it had before is what to keep.
    fn congestion_memory(&self) -> u32 {
        if self.resume_credit == u32::MAX { 0 } else { self.congestion.ssthresh() }
    }

    /// A block from its record, after its process died at any instant. `None` when the values
    /// contradict each other: then the connection is to be reset (INV-T7).
    ///
    /// The stack then tells it the cursors (`on_written`, `on_consumed`) and polls it: in
    /// synchronised states an ACK leaves at once, and what was in flight again, paced; SYNs leave
    /// again (INV-T6).
    pub fn restore(
        now: Instant,
        identity: &Identity,
        values: &conns::State,
        settings: &Settings,
        ip_header_len: u16,
    ) -> Option<ControlBlock> {
        let state = state_of(values.tcp_state)?;
        let mut block = ControlBlock::blank(state, identity.iss, identity.timestamp_offset, now, settings);
        block.passive = identity.passive;
        block.orphaned = values.detached;
        block.failure = Failure::from_errno(values.error);
        if state == State::Closed {
            // Only its cursors and its failure are still of interest.
            block.restore_send(values)?;
            block.restore_receive(now, values)?;
            return Some(block);
        }
        let Some((irs, agreed)) = identity.agreed.filter(|_| state != State::SynSent) else {
            // Nothing of the remote's is known, so nothing of it was promised: ask again. What
            // was agreed but not yet selected by a state is as if it had not been.
            block.state = State::SynSent;
            // Data may have left in the SYN (RFC 7413); what was not acknowledged goes again behind it.
            block.send.nxt = Position::new(u64::from(values.snd_max));
            block.written = block.send.nxt.offset();
            block.syn_due = true;
            return (!state.is_synchronised()).then_some(block);
        };
        block.irs = irs;
        block.agreed = agreed;
        if values.pmtu != 0 {
            let path = values.pmtu.saturating_sub(HEADER_LEN as u16 + ip_header_len);
            block.path_mss = block.path_mss.min(path.max(MSS_MIN));
        }
        block.restore_send(values)?;
        block.restore_receive(now, values)?;
        block.restore_state(values)?;
        block.resume(now, u32::from(values.cwnd_segments));
        Some(block)
    }

    fn restore_send(&mut self, values: &conns::State) -> Option<()> {
        self.send.una = Position::new(values.snd_una);
        self.send.nxt = self.send.una.plus(u64::from(values.snd_max));
        self.send.edge = self.send.una.plus(u64::from(values.snd_edge));
        self.send.wnd_max = values.snd_edge;
        self.send.scale = self.agreed.send_scale;
        self.rtt = RttEstimator::restored(u32::from(values.srtt_64us) * SRTT_UNIT_US);
        self.fin_written = values.fin_sent;
        let data_end = self.send.nxt.minus(u64::from(values.fin_sent));
        self.written = data_end.offset();
        (!values.fin_sent || data_end >= Position::FIRST).then_some(())
    }

    fn restore_receive(&mut self, now: Instant, values: &conns::State) -> Option<()> {
        self.receive.nxt = Position::new(values.rcv_nxt);
        self.receive.edge = self.receive.nxt.plus(u64::from(values.rcv_edge));
        // What was promised is what the window had grown to.
        self.receive.limit = self.receive.limit.max(values.rcv_edge);
        self.receive.last_ack_sent = self.receive.nxt;
        self.receive.scale = self.agreed.receive_scale;
        self.timestamps.recent = values.ts_recent;
        self.timestamps.recent_at = now;
        self.ecn.echo = values.ecn_echo;
        if values.fin_received {
            self.remote_fin = self.receive.nxt.minus(1);
        }
        if let Some(distance) = values.urgent {
            let octet = Position::new(values.rcv_nxt.saturating_add_signed(i64::from(distance)));
            self.urgent.get_or_insert_default().octet = Some(octet).filter(|at| *at >= Position::FIRST);
        }
        for (start, len) in values.ooo {
            if len == 0 {
                continue;
            }
            let start = self.receive.nxt.plus(u64::from(start));
            let range = Range::new(start, start.plus(u64::from(len)));
            if range.start <= self.receive.nxt || range.end > self.receive.edge {
                return None;
            }
            let store = self.out_of_order.get_or_insert_with(Box::<OutOfOrder>::default);
            store.insert(range).ok()?;
        }
        let syn_seen = self.state == State::Closed || self.receive.nxt >= Position::FIRST;
        let fin_seen = !values.fin_received || self.receive.nxt > Position::FIRST;
        (syn_seen && fin_seen).then_some(())
    }

    /// The state, where a close that was not yet sent is forgotten: the client's cursor, told
    /// next, says it again.
    fn restore_state(&mut self, values: &conns::State) -> Option<()> {
        if !values.fin_sent {
            self.state = match self.state {
                State::FinWait1 => State::Established,
                State::LastAck => State::CloseWait,
                other => other,
            };
        }
        let handshake_done = self.send.una >= Position::FIRST;
        let fin_acknowledged = self.fin_acknowledged();
        let fits = match self.state {
            State::Closed | State::SynSent => false,
            State::SynReceived => !handshake_done,
            State::Established => handshake_done && !values.fin_received && !values.fin_sent,
            State::FinWait1 => handshake_done && !values.fin_received && !fin_acknowledged,
            State::FinWait2 => fin_acknowledged && !values.fin_received,
            State::CloseWait => handshake_done && values.fin_received && !values.fin_sent,
            State::Closing | State::LastAck => handshake_done && values.fin_received && !fin_acknowledged,
            State::TimeWait => fin_acknowledged && values.fin_received,
        };
        fits.then_some(())
    }

    /// INV-T6: speak first.
    fn resume(&mut self, now: Instant, cwnd_segments: u32) {
        let mss = self.mss();
        let cwnd = cwnd_segments.saturating_mul(mss);
        self.congestion = Congestion::restored(self.congestion.kind(), mss, cwnd);
        match self.state {
            State::SynReceived => {
                self.send.nxt = self.send.nxt.min(Position::FIRST);
                self.syn_due = true;
            }
            State::TimeWait => self.timers.lifetime = Deadline::at(now + TIME_WAIT),
            _ => {
                self.ack_now = true;
                let flight = self.flight();
                self.recovery.all_lost(now, &flight, &mut self.sent);
                if flight.size() > 0 {
                    self.timers.arm_send(SendTimer::Retransmission, now, self.rtt.rto());
                }
                self.resume_credit = (RESUME_SEGMENTS * mss).min(initial_window(mss));
                self.arm_keepalive(now);
                if self.state == State::FinWait2 && self.orphaned {
                    self.timers.lifetime = Deadline::at(now + FIN_WAIT2_ORPHAN);
                }
            }
        }
    }

    /// Frames of a moment ago may be lost both ways: says what is known here, and sends again what is
    /// not acknowledged. `false` when there is nothing to say.
    pub fn on_device_replaced(&mut self, now: Instant) -> bool {
        let waits = self.send.in_flight() > 0;
        let (synchronised, half_open) = match self.state {
            State::Closed | State::TimeWait => (false, false),
            State::SynSent | State::SynReceived => (false, true),
            _ => (true, false),
        };
        if half_open {
            self.syn_due = true;
        } else if synchronised && waits {
            let flight = self.flight();
            self.recovery.unreported_lost(&flight, &mut self.sent);
            self.timers.arm_send(SendTimer::Retransmission, now, self.rtt.rto());
            self.resume_credit = (RESUME_SEGMENTS * self.mss()).min(initial_window(self.mss()));
        }
        let lately = now.since(self.last_received) < SPOKE_LATELY;
        self.ack_now |= synchronised && (waits || lately);
        half_open || (synchronised && (waits || lately))
    }
}
