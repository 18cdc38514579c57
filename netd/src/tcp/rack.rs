//! RACK (RFC 8985 §5 and §6): a segment is lost when one sent sufficiently later has arrived.
//!
//! Owned by loss recovery; told what each acknowledgement took out of the [`SentLog`], asked which of
//! the rest is lost. It moves no window, sends nothing and holds no timer: it says how long to wait.

use core::time::Duration;

use proto::time::Instant;

use super::sent::{SentLog, Stretch};
use super::seq::Position;

/// RFC 8985 §6.2 step 4: so many recoveries without a DSACK make the window small again.
const PERSIST_RECOVERIES: u8 = 16;

/// A bound on RACK.reo_wnd_mult; SRTT bounds the window earlier.
const MULTIPLIER_MAX: u8 = 100;

/// A shorter round trip than all of this long ago is forgotten, as Linux (tcp_min_rtt_wlen).
const MIN_RTT_AGE_MAX: Duration = Duration::from_secs(300);

/// What one acknowledgement took out of the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delivery {
    /// Octets of it that were never sent again and lie below the recovery point (RFC 5682).
    pub original: u64,
    /// The latest sent of those whose send time is certain: when, its end.
    latest: Option<(Instant, Position)>,
    /// The highest position among all.
    highest: Position,
    /// Something arrived for the first time below what had arrived before.
    reordered: bool,
}

/// The variables of RFC 8985 §5.2.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rack {
    /// RACK.xmit_ts.
    xmit: Instant,
    /// RACK.end_seq.
    end: Position,
    /// RACK.rtt in microseconds.
    rtt_us: u32,
    /// RACK.min_RTT in microseconds, 0 without a sample.
    min_rtt_us: u32,
    min_rtt_at: Instant,
    /// RACK.fack.
    fack: Position,
    /// RACK.dsack_round; the SYN's place for none.
    dsack_round: Position,
    /// RACK.reordering_seen.
    reordering_seen: bool,
    /// RACK.reo_wnd_mult less one, so that zero is the start.
    more_windows: u8,
    /// RACK.reo_wnd_persist.
    persist: u8,
}

/// What the sender's side of the clock says about an echo.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo {
    /// When the acknowledgement came.
    pub now: Instant,
    /// How old the timestamp is that it echoes (RFC 7323 §3.2), in milliseconds rounded up, if it has one.
    pub age_ms: Option<u64>,
}

impl Echo {
    /// Whether what it echoes left before what was sent at `sent`: the clock ticks once a millisecond.
    pub fn is_older_than(&self, sent: Instant) -> bool {
        self.age_ms.is_some_and(|ms| u128::from(ms) > self.now.since(sent).as_millis() + 1)
    }
}

impl Delivery {
    /// Whether a round trip was measured.
    pub const fn is_sample(&self) -> bool {
        self.latest.is_some()
    }
}

impl Rack {
    /// RACK.fack: the highest position that the remote holds.
    pub const fn highest(&self) -> Position {
        self.fack
    }

    /// RACK.rtt.
    pub fn rtt(&self) -> Duration {
        Duration::from_micros(u64::from(self.rtt_us))
    }

    /// RACK.min_RTT, if there was a sample.
    pub fn min_rtt(&self) -> Option<Duration> {
        (self.min_rtt_us != 0).then(|| Duration::from_micros(u64::from(self.min_rtt_us)))
    }

    /// RACK.reordering_seen.
    pub const fn reordering_seen(&self) -> bool {
        self.reordering_seen
    }

    /// RFC 8985 §6.2, steps 1 to 3, for one stretch that has arrived; `point` is the recovery point.
    pub fn note(&self, delivery: &mut Delivery, arrived: &Stretch, echo: &Echo, point: Position) {
        let end = arrived.range.end;
        delivery.highest = delivery.highest.max(end);
        if !arrived.again {
            if arrived.range.start < point {
                delivery.original += end.min(point).since(arrived.range.start);
            }
            // Step 3: below RACK.fack, and never sent again.
            delivery.reordered |= end < self.fack;
        } else if arrived.lost || self.is_ambiguous(arrived, echo) {
            // Step 2: it can't be told which transmission arrived.
            return;
        }
        if delivery.latest.is_none_or(|(sent, last)| sent_after(arrived.sent, end, sent, last)) {
            delivery.latest = Some((arrived.sent, end));
        }
    }

    /// RFC 8985 §6.2 step 2: the echo is older than the retransmission, or the round trip shorter than any.
    fn is_ambiguous(&self, arrived: &Stretch, echo: &Echo) -> bool {
        let age = echo.now.since(arrived.sent);
        echo.is_older_than(arrived.sent) || age < Duration::from_micros(u64::from(self.min_rtt_us))
    }

    /// RFC 8985 §6.2, steps 1 to 3, when all of one acknowledgement has been noted.
    pub fn on_delivered(&mut self, now: Instant, delivery: &Delivery) {
        self.fack = self.fack.max(delivery.highest);
        self.reordering_seen |= delivery.reordered;
        let Some((sent, end)) = delivery.latest else { return };
        let rtt = u32::try_from(now.since(sent).as_micros()).unwrap_or(u32::MAX);
        self.rtt_us = rtt;
        let rtt = rtt.max(1);
        let expired = now.since(self.min_rtt_at) > MIN_RTT_AGE_MAX;
        if self.min_rtt_us == 0 || rtt <= self.min_rtt_us || expired {
            self.min_rtt_us = rtt;
            self.min_rtt_at = now;
        }
        if sent_after(sent, end, self.xmit, self.end) {
            self.xmit = sent;
            self.end = end;
        }
    }

    /// RFC 8985 §6.2 step 4: a DSACK says that the reordering window was too small; once a round trip.
    pub fn on_dsack(&mut self, una: Position, nxt: Position) {
        if self.dsack_round != Position::SYN && una < self.dsack_round {
            return;
        }
        self.dsack_round = nxt;
        self.more_windows = (self.more_windows + 1).min(MULTIPLIER_MAX);
        self.persist = PERSIST_RECOVERIES;
    }

    /// What counted as lost had only been late: that is reordering too, though it was sent again before it
    /// arrived (as Linux, tcp_check_sack_reordering in tcp_try_undo_partial).
    pub fn on_needless(&mut self) {
        self.reordering_seen = true;
    }

    /// RFC 8985 §6.2 step 4: a recovery is over.
    pub fn on_recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.more_windows = 0;
        }
    }

    /// RFC 8985 §6.2 step 4, RACK_update_reo_wnd(): how much later must have arrived. `many_reported`
    /// is that DupThresh segments are reported above the first hole.
    pub fn reordering_window(&self, recovering: bool, many_reported: bool, srtt: Duration) -> Duration {
        if !self.reordering_seen && (recovering || many_reported) {
            return Duration::ZERO;
        }
        let quarter = Duration::from_micros(u64::from(self.min_rtt_us)) / 4;
        let window = quarter * (u32::from(self.more_windows) + 1);
        if srtt == Duration::ZERO { window } else { window.min(srtt) }
    }

    /// RFC 8985 §6.2 step 5, RACK_detect_loss(): marks in `log` what is lost now. Returns whether
    /// anything new is, and how long until more may be.
    pub fn detect(&self, now: Instant, log: &mut SentLog, window: Duration) -> (bool, Option<Duration>) {
        let allowed = self.rtt() + window;
        let mut wait: Option<Duration> = None;
        let newly = log.mark_lost_where(|stretch| {
            if !sent_after(self.xmit, self.end, stretch.sent, stretch.range.end) {
                return false;
            }
            let age = now.since(stretch.sent);
            if age >= allowed {
                return true;
            }
            wait = Some(wait.map_or(allowed - age, |w| w.max(allowed - age)));
            false
        });
        (newly, wait)
    }

    /// Whether nothing that is in flight was sent before what has arrived: then nothing is to be detected.
    pub fn is_idle(&self, log: &SentLog) -> bool {
        log.front().is_none_or(|s| !s.again && !sent_after(self.xmit, self.end, s.sent, s.range.end))
    }

    /// RFC 8985 §6.3, RACK_mark_losses_on_RTO(): whether `stretch` is lost now that the timer expired.
    pub fn is_overdue(&self, now: Instant, stretch: &Stretch, window: Duration) -> bool {
        now.since(stretch.sent) >= self.rtt() + window
    }
}

/// RACK_sent_after(t1, seq1, t2, seq2) of RFC 8985 §6.2.
fn sent_after(sent: Instant, end: Position, than: Instant, than_end: Position) -> bool {
    sent > than || (sent == than && end > than_end)
}

#[cfg(test)]
mod tests {
    use super::super::ranges::Range;
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range::new(Position::new(start), Position::new(end))
    }

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn arrives(rack: &mut Rack, log: &mut SentLog, now: Instant, range: Range) -> Delivery {
        let mut delivery = Delivery::default();
        let echo = Echo { now, age_ms: None };
        log.remove(range, |s| rack.note(&mut delivery, s, &echo, Position::SYN));
        rack.on_delivered(now, &delivery);
        delivery
    }

    #[test]
    fn what_was_sent_a_window_earlier_is_lost() {
        let (mut rack, mut log) = (Rack::default(), SentLog::default());
        log.on_sent(at(10), range(1, 101));
        log.on_sent(at(11), range(101, 201));
        arrives(&mut rack, &mut log, at(31), range(101, 201));
        let window = rack.reordering_window(false, false, Duration::from_millis(20));
        assert_eq!(window, Duration::from_millis(5));
        // Sent at 10, allowed 20 + 5 ms.
        assert_eq!(rack.detect(at(31), &mut log, window), (false, Some(Duration::from_millis(4))));
        assert_eq!(rack.detect(at(35), &mut log, window), (true, None));
        assert_eq!(log.first_lost(), Some(range(1, 101)));
    }

    #[test]
    fn many_reports_need_no_window_until_reordering_was_seen() {
        let (mut rack, mut log) = (Rack::default(), SentLog::default());
        log.on_sent(at(10), range(1, 1001));
        arrives(&mut rack, &mut log, at(30), range(101, 201));
        assert_eq!(rack.reordering_window(false, true, Duration::ZERO), Duration::ZERO);
        arrives(&mut rack, &mut log, at(32), range(1, 101));
        assert!(rack.reordering_seen());
        assert_eq!(rack.reordering_window(true, true, Duration::ZERO), Duration::from_millis(5));
    }

    #[test]
    fn a_dsack_widens_the_window_once_a_round_and_sixteen_recoveries_narrow_it() {
        let (mut rack, mut log) = (Rack::default(), SentLog::default());
        log.on_sent(at(10), range(1, 101));
        arrives(&mut rack, &mut log, at(30), range(1, 101));
        let window = |rack: &Rack| rack.reordering_window(false, false, Duration::from_millis(12));
        rack.on_dsack(Position::new(10), Position::new(50));
        rack.on_dsack(Position::new(20), Position::new(60));
        assert_eq!(window(&rack), Duration::from_millis(10));
        rack.on_dsack(Position::new(50), Position::new(60));
        assert_eq!(window(&rack), Duration::from_millis(12), "never above SRTT");
        (0..15).for_each(|_| rack.on_recovered());
        assert_eq!(window(&rack), Duration::from_millis(12));
        rack.on_recovered();
        assert_eq!(window(&rack), Duration::from_millis(5));
    }

    #[test]
    fn an_acknowledgement_of_a_retransmission_counts_only_when_it_can_be_one() {
        let (mut rack, mut log) = (Rack::default(), SentLog::default());
        log.on_sent(at(10), range(1, 101));
        arrives(&mut rack, &mut log, at(30), range(1, 51));
        log.on_sent_again(at(31), range(51, 101));
        // 2 ms after it was sent again: that was the first transmission's.
        arrives(&mut rack, &mut log, at(33), range(51, 76));
        assert_eq!(rack.xmit, at(10));
        let echo = Echo { now: at(60), age_ms: Some(50) };
        let mut delivery = Delivery::default();
        log.remove(range(76, 80), |s| rack.note(&mut delivery, s, &echo, Position::SYN));
        assert_eq!(delivery.latest, None, "the echo is older");
        arrives(&mut rack, &mut log, at(60), range(80, 101));
        assert_eq!(rack.xmit, at(31));
    }
}
