//! Explicit congestion notification (RFC 3168 §6.1): marks instead of losses.
//!
//! Owned by the control block. The receiver's half echoes that a packet was marked until the remote says
//! that it has slowed down; the sender's half slows down once a round trip and says so. A record keeps
//! whether ECN was agreed, and that an echo is owed: a mark is reported once, and losing the report to a
//! death would hide congestion. Nothing here touches packets: a segment says whether it was marked
//! ([`Segment::marked`](super::segment::Segment::marked)) and whether it may be
//! ([`SegmentOut::ect`](super::segment::SegmentOut::ect)).

use super::segment::{Flags, Segment};
use super::seq::Position;

/// Whether connections do ECN, as Linux counts it (net.ipv4.tcp_ecn).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ecn {
    /// 0: never.
    Off,
    /// 1: asked for by the own SYN, and accepted.
    Request,
    /// 2: accepted when the remote asks.
    #[default]
    Accept,
}

/// The ECN variables of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct EcnState {
    /// The own SYN asks for it.
    pub mode: Ecn,
    /// ECE is owed: a packet was marked, and no CWR has come since (RFC 3168 §6.1.3).
    pub echo: bool,
    /// CWR is due on the next new data (RFC 3168 §6.1.2).
    pub cwr_due: bool,
    /// The window was lowered for what was sent below this.
    pub reduced: Position,
}

impl EcnState {
    /// The bits of the own SYN: an ECN-setup SYN (RFC 3168 §6.1.1), unless it was lost before: a path that
    /// drops such SYNs must not keep two hosts apart (RFC 3168 §6.1.1.1).
    pub fn syn_bits(&self, lost_before: bool) -> Flags {
        if self.mode == Ecn::Request && !lost_before { Flags::ECE.with(Flags::CWR) } else { Flags::NONE }
    }

    /// Whether the remote's SYN or SYN-ACK makes ECN agreed (RFC 3168 §6.1.1).
    pub fn agreed_by(&self, syn: &Segment) -> bool {
        let (ece, cwr) = (syn.flags.contains(Flags::ECE), syn.flags.contains(Flags::CWR));
        if syn.flags.ack() {
            // An ECN-setup SYN-ACK; both bits are a host that reflects what it does not know.
            self.mode == Ecn::Request && ece && !cwr
        } else {
            self.mode != Ecn::Off && ece && cwr
        }
    }

    /// The receiver's half (RFC 3168 §6.1.3). Returns whether the mark is news, to be told at once.
    pub fn on_arrival(&mut self, segment: &Segment) -> bool {
        if segment.flags.contains(Flags::CWR) {
            self.echo = false;
        }
        let news = segment.marked && !self.echo;
        self.echo |= segment.marked;
        news
    }

    /// The sender's half (RFC 3168 §6.1.2): whether this ECE is to lower the window, at most once for what
    /// is in flight.
    pub fn on_echo(&mut self, una: Position, nxt: Position) -> bool {
        if una < self.reduced {
            return false;
        }
        self.reduced = nxt;
        true
    }

    /// The window was lowered, by a mark or a loss.
    pub fn on_reduced(&mut self, nxt: Position) {
        self.reduced = nxt;
        self.cwr_due = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: Flags, marked: bool) -> Segment {
        Segment { flags, marked, ..Segment::default() }
    }

    #[test]
    fn who_agrees_when() {
        let setup = segment(Flags::SYN.with(Flags::ECE).with(Flags::CWR), false);
        let answer = segment(Flags::SYN.with(Flags::ACK).with(Flags::ECE), false);
        let reflected = segment(Flags::SYN.with(Flags::ACK).with(Flags::ECE).with(Flags::CWR), false);
        let half = segment(Flags::SYN.with(Flags::ECE), false);
        for (mode, passive, active) in
            [(Ecn::Off, false, false), (Ecn::Accept, true, false), (Ecn::Request, true, true)]
        {
            let state = EcnState { mode, ..EcnState::default() };
            assert_eq!(state.agreed_by(&setup), passive);
            assert_eq!(state.agreed_by(&answer), active);
            assert!(!state.agreed_by(&reflected) && !state.agreed_by(&half));
            assert_eq!(state.syn_bits(false) != Flags::NONE, active);
            assert_eq!(state.syn_bits(true), Flags::NONE);
        }
    }

    #[test]
    fn a_mark_is_echoed_until_the_remote_slowed_down() {
        let mut state = EcnState::default();
        assert!(state.on_arrival(&segment(Flags::ACK, true)));
        assert!(!state.on_arrival(&segment(Flags::ACK, true)), "no news");
        assert!(!state.on_arrival(&segment(Flags::ACK, false)) && state.echo);
        assert!(!state.on_arrival(&segment(Flags::ACK.with(Flags::CWR), false)) && !state.echo);
        assert!(state.on_arrival(&segment(Flags::ACK.with(Flags::CWR), true)) && state.echo);
    }

    #[test]
    fn once_for_what_is_in_flight() {
        let mut state = EcnState::default();
        let place = Position::new;
        assert!(state.on_echo(place(10), place(100)));
        assert!(!state.on_echo(place(99), place(200)));
        assert!(state.on_echo(place(100), place(200)));
    }
}
