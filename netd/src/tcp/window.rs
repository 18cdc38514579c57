//! The two windows of a connection (RFC 9293 §3.3.1 and §3.8.6).
//!
//! [`SendWindow`] holds the SND variables, [`ReceiveWindow`] the RCV variables, both in positions.
//! Owned by the control block. The receive window's right edge only moves right, also across a
//! restart (INV-T4: a window once advertised is never withdrawn).

use super::seq::Position;

/// RFC 7323 §2.3: the largest shift count.
pub const SCALE_MAX: u8 = 14;

/// The SND variables of RFC 9293 §3.3.1.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendWindow {
    /// SND.UNA: the oldest unacknowledged position.
    pub una: Position,
    /// SND.NXT, which here is also the largest ever sent: retransmissions don't move it back.
    pub nxt: Position,
    /// SND.UNA + SND.WND at the last window update: the first position not allowed.
    pub edge: Position,
    /// SND.WL1.
    wl1: Position,
    /// SND.WL2.
    wl2: Position,
    /// Max(SND.WND) (RFC 9293 §3.8.6.2.1, RFC 5961 §5.2), in octets.
    pub wnd_max: u32,
    /// Snd.Wind.Shift (RFC 7323 §2.3).
    pub scale: u8,
}

impl SendWindow {
    /// Octets sent and not acknowledged.
    pub fn in_flight(&self) -> u64 {
        self.nxt.since(self.una)
    }

    /// Octets the remote still takes.
    pub fn usable(&self) -> u64 {
        self.edge.since(self.nxt)
    }

    /// SND.WND as far as it lies beyond SND.UNA, in octets.
    pub fn wnd(&self) -> u64 {
        self.edge.since(self.una)
    }

    /// RFC 9293 §3.10.7.4, fifth step: the update, if this segment is not older than the one that
    /// made the last. Returns whether the window changed.
    pub fn update(&mut self, seq: Position, ack: Position, wnd: u32) -> bool {
        if !(self.wl1 < seq || (self.wl1 == seq && self.wl2 <= ack)) {
            return false;
        }
        self.set(seq, ack, wnd)
    }

    /// Takes the window without looking at its age, as the handshake does.
    pub fn set(&mut self, seq: Position, ack: Position, wnd: u32) -> bool {
        let before = self.edge.since(ack);
        self.wl1 = seq;
        self.wl2 = ack;
        self.edge = ack.plus(u64::from(wnd));
        self.wnd_max = self.wnd_max.max(wnd);
        before != u64::from(wnd)
    }
}

/// The RCV variables of RFC 9293 §3.3.1 and the buffer behind them.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReceiveWindow {
    /// RCV.NXT.
    pub nxt: Position,
    /// RCV.NXT + RCV.WND at its largest: the first position never allowed so far.
    pub edge: Position,
    /// The first position the client has not consumed.
    pub consumed: Position,
    /// Last.ACK.sent (RFC 7323 §4.3).
    pub last_ack_sent: Position,
    /// Octets the client's buffer takes beyond `consumed`.
    pub limit: u32,
    /// Rcv.Wind.Shift (RFC 7323 §2.3).
    pub scale: u8,
}

/// Octets beyond the buffer's limit that rounding may promise; the owner of the buffer keeps them
/// free. A remote would have to send 500 segments of a few octets without anything being consumed.
pub const ROUNDING_SLACK: u64 = 16 << 10;

impl ReceiveWindow {
    /// The smallest shift with which a window of `bytes` can be said (RFC 7323 §2.3).
    pub fn scale_for(bytes: u32) -> u8 {
        (0..SCALE_MAX).find(|s| bytes >> s <= u32::from(u16::MAX)).unwrap_or(SCALE_MAX)
    }

    /// RCV.WND in octets: what the remote may still send.
    pub fn wnd(&self) -> u64 {
        self.edge.since(self.nxt)
    }

    /// The first position the buffer can't take.
    pub fn buffer_end(&self) -> Position {
        self.consumed.plus(u64::from(self.limit))
    }

    /// RFC 9293 §3.8.6.2.2: the right edge moves only by a worthwhile step, min(Fr * RCV.BUFF,
    /// Eff.snd.MSS) with Fr = 1/2.
    fn desired_edge(&self, mss: u32) -> Position {
        let end = self.buffer_end();
        let step = u64::from((self.limit / 2).min(mss).max(1));
        if end.since(self.edge) >= step { end } else { self.edge }
    }

    /// The window field for a segment that leaves now; the right edge moves with it.
    ///
    /// The field counts in units of 2^scale. Rounded down, the remote would see an edge that lies up
    /// to a unit further left than before, and INV-T4 forbids that; so it is rounded up, beyond the
    /// buffer's limit where it must be, as Linux does. What that may add up to while nothing is
    /// consumed is bounded by [`ROUNDING_SLACK`], which the limit leaves free.
    pub fn advertise(&mut self, mss: u32) -> u16 {
        let target = self.desired_edge(mss);
        let wnd = target.since(self.nxt);
        let seen = |units: u64| self.nxt.plus(units << self.scale);
        let mut units = wnd >> self.scale;
        if seen(units) < self.edge && seen(units + 1) <= self.buffer_end().plus(ROUNDING_SLACK) {
            units += 1;
        }
        let units = units.min(u64::from(u16::MAX));
        self.edge = self.edge.max(seen(units));
        units as u16
    }

    /// The window field of a SYN, which is never scaled (RFC 7323 §2.2).
    pub fn advertise_in_syn(&mut self) -> u16 {
        let wnd = self.buffer_end().since(self.nxt).min(u64::from(u16::MAX));
        self.edge = self.edge.max(self.nxt.plus(wnd));
        wnd as u16
    }

    /// Whether the client's reading opened the window so far that the remote must hear of it.
    pub fn update_due(&self, mss: u32) -> bool {
        // What the header can't say is no news.
        let sayable = self.nxt.plus(u64::from(u16::MAX) << self.scale);
        let opened = self.buffer_end().min(sayable).since(self.edge);
        let limit = u64::from(self.limit);
        let step = (limit / 2).min(2 * u64::from(mss)).max(1);
        // Two segments at least, and then either a good part of the buffer or a window that is
        // almost closed: not an update for each small read.
        opened >= step && (opened >= limit / 4 || self.wnd() <= limit / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_smallest_scale_that_fits() {
        assert_eq!(ReceiveWindow::scale_for(65_535), 0);
        assert_eq!(ReceiveWindow::scale_for(65_536), 1);
        assert_eq!(ReceiveWindow::scale_for(1 << 20), 5);
        assert_eq!(ReceiveWindow::scale_for(u32::MAX), 14);
    }

    #[test]
    fn an_older_segment_does_not_move_the_send_window() {
        let mut window = SendWindow::default();
        assert!(window.update(Position::new(5), Position::new(10), 100));
        assert!(!window.update(Position::new(4), Position::new(10), 500));
        assert!(!window.update(Position::new(5), Position::new(9), 500));
        assert_eq!(window.edge, Position::new(110));
        assert!(window.update(Position::new(5), Position::new(10), 0));
        assert_eq!(window.usable(), 10);
    }

    #[test]
    fn small_reads_do_not_open_the_window_by_crumbs() {
        let mut window = ReceiveWindow {
            nxt: Position::FIRST,
            edge: Position::FIRST,
            consumed: Position::FIRST,
            limit: 10_000,
            ..ReceiveWindow::default()
        };
        assert_eq!(window.advertise(1000), 10_000);
        window.nxt = window.nxt.plus(10_000);
        window.consumed = window.consumed.plus(999);
        assert!(!window.update_due(1000));
        assert_eq!(window.advertise(1000), 0);
        window.consumed = window.consumed.plus(1001);
        assert!(window.update_due(1000));
        assert_eq!(window.advertise(1000), 2000);
    }

    #[test]
    fn what_a_header_can_not_say_is_no_update() {
        let mut window = ReceiveWindow {
            nxt: Position::FIRST,
            edge: Position::FIRST,
            consumed: Position::FIRST,
            limit: 1 << 18,
            ..ReceiveWindow::default()
        };
        assert_eq!(window.advertise(1000), u16::MAX);
        window.nxt = window.nxt.plus(500);
        window.consumed = window.nxt;
        assert!(!window.update_due(1000));
        window.nxt = window.nxt.plus(60_000);
        window.consumed = window.nxt;
        assert!(window.update_due(1000));
    }

    proptest! {
        #[test]
        fn the_right_edge_never_moves_left(
            scale in 0u8..=14,
            limit in 1u32..1 << 20,
            mss in 1u32..10_000,
            steps in prop::collection::vec((0u64..3000, 0u64..3000), 1..100),
        ) {
            let mut window = ReceiveWindow {
                nxt: Position::FIRST,
                edge: Position::FIRST,
                consumed: Position::FIRST,
                limit,
                scale,
                ..ReceiveWindow::default()
            };
            let mut seen = Position::SYN;
            for (received, read) in steps {
                let before = window.edge;
                let field = window.advertise(mss);
                let told = window.nxt.plus(u64::from(field) << scale);
                prop_assert!(window.edge >= before);
                prop_assert!(window.edge >= told);
                prop_assert!(window.edge <= window.buffer_end().plus(ROUNDING_SLACK));
                // So many steps without a read use up the slack only where a unit is large.
                let rounding = if 100 << scale <= ROUNDING_SLACK { 0 } else { 1 << scale };
                prop_assert!(told.plus(rounding) >= seen, "withdrawn");
                seen = told;
                window.nxt = window.nxt.plus(received).min(window.edge);
                window.consumed = window.consumed.plus(read).min(window.nxt);
            }
        }
    }
}
