//! What segment size the path really takes: packetization layer path MTU discovery (RFC 4821), and what
//! ICMP may say about it (RFC 5927 §7.2).
//!
//! Owned by the control block. As Linux with tcp_mtu_probing at 1 it searches once something is wrong: when
//! full segments are lost again and again without a word of ICMP, the size falls to one that every path
//! takes (§7.2); from there probes, single larger segments of new data, find the way back up. A probe goes in
//! the place of new data where enough waits to show its loss; where acknowledgements clock the flow, what would
//! leave next is held back until the window has room for it, as by Linux's tcp_mtu_probe. A probe that alone is lost says something about size and nothing about congestion (§7.6.2). The size itself is
//! `path_mss` of the block, which the record keeps; the search is soft and begins anew.

use core::time::Duration;

use proto::time::Instant;

use super::control_block::ControlBlock;
use super::ranges::Range;
use super::recovery::Phase;
use super::sack::DUP_THRESH;
use super::segment::{SegmentOut, TIMESTAMPS_LEN};
use super::seq::Position;
use super::state::State;
use super::timers::Deadline;

/// Least segment size a router can talk a connection into: Linux's min_pmtu of 552 less the
/// headers; smaller ones only serve attacks (RFC 5927 §7.2).
pub(super) const PATH_MSS_MIN: u16 = 512;
/// The size that a search begins at: Linux's tcp_base_mss, RFC 4821 §7.2's 1024 octets.
const BASE_MSS: u16 = 1024;
/// Time-outs in a row after which a hole is suspected: Linux's tcp_retries1.
const TIMEOUTS: u8 = 3;
/// A search ends when less is to be found: Linux's tcp_probe_threshold.
const RESOLUTION: u16 = 8;
/// After a search a larger size is tried again: Linux's tcp_probe_interval, RFC 4821 §7.7.
const PROBE_AGAIN: Duration = Duration::from_secs(600);
/// A probe asks for a window of so many segments, as Linux's.
const WINDOW_SEGMENTS: u32 = 11;

/// The variables of RFC 4821 §7.2, and what RFC 5927 §7.2 holds back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PathSearch {
    /// search_high: sizes from here on don't arrive; 0 while nothing is searched.
    high: u16,
    /// The probe under way: where it lies.
    probe: Option<(Position, Position)>,
    /// Not before then; looked at when something arrives.
    rest: Deadline,
    /// A size that ICMP named and that is not believed while segments that are larger arrive; 0 for none.
    pending: u16,
    /// maxsizeacked: a larger segment has not arrived for certain.
    arrived: u16,
    /// The end of the last segment that was as large as could be, and its size; those behind tell nothing.
    full_end: Position,
    full_size: u16,
}

/// A probe of the path's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizeProbe {
    /// Octets of its payload.
    pub octets: u32,
    /// The same and those of the segments behind it.
    pub with_followers: u64,
}

impl ControlBlock {
    /// Octets of options that every segment has.
    fn option_octets(&self) -> u16 {
        if self.agreed.timestamps { TIMESTAMPS_LEN as u16 } else { 0 }
    }

    /// New data leaves in pieces of `piece` octets up to `end`.
    pub(super) fn note_full_sent(&mut self, end: Position, octets: u32, piece: u16) {
        if octets >= u32::from(piece) {
            let search = self.path_search.get_or_insert_default();
            if search.full_size <= piece {
                (search.full_end, search.full_size) = (end, piece);
            }
        }
    }

    /// SND.UNA moved.
    pub(super) fn note_full_arrived(&mut self, now: Instant) {
        let una = self.send.una;
        let Some(search) = &mut self.path_search else { return };
        if search.full_size > 0 && una >= search.full_end {
            search.arrived = search.arrived.max(search.full_size);
            search.full_size = 0;
        }
        // RFC 5927 §7.2: there is progress, so nothing is too big.
        search.pending = 0;
        if search.rest.is_due(now) {
            search.rest = Deadline::NEVER;
        }
        if let Some((start, end)) = search.probe
            && una >= end
        {
            search.probe = None;
            let size = end.since(start) as u16;
            if self.recovery.phase() == Phase::Open {
                self.take_probed(now, size);
            }
        }
    }

    /// RFC 4821 §7.6.1: the probe arrived.
    fn take_probed(&mut self, now: Instant, size: u16) {
        let overhead = self.option_octets();
        self.path_mss = self.path_mss.max(size.saturating_add(overhead)).min(self.advertised_mss);
        self.end_search_if_narrow(now);
    }

    fn end_search_if_narrow(&mut self, now: Instant) {
        let search = self.path_search.get_or_insert_default();
        if search.high.saturating_sub(self.path_mss) < RESOLUTION {
            // RFC 4821 §7.7: after a while the whole range is open again.
            search.high = self.advertised_mss;
            search.rest = Deadline::at(now + PROBE_AGAIN);
        }
    }

    /// RFC 4821 §7.6.2: the probe was lost and nothing else: that is no congestion. `before` is the phase
    /// before the loss was found.
    pub(super) fn judge_lost_probe(&mut self, now: Instant, before: Phase) {
        let entered = before == Phase::Open && self.recovery.phase() == Phase::Recovery;
        let overhead = self.option_octets();
        let Some(search) = self.path_search.as_mut().filter(|_| entered) else { return };
        let Some((start, end)) = search.probe.take() else { return };
        let alone =
            self.sent.first_lost() == Some(Range::new(start, end)) && self.sent.lost() == end.since(start);
        if !alone {
            return;
        }
        search.high = (end.since(start) as u16 + overhead).saturating_sub(1);
        let (recovery, mut parts) = self.recovering();
        recovery.forgive(&mut parts);
        self.end_search_if_narrow(now);
    }

    /// RFC 4821 §7.2 and §7.7: full segments were lost so often that the path may swallow them.
    pub(super) fn suspect_black_hole(&mut self, now: Instant) {
        let synchronised = !matches!(self.state, State::SynSent | State::SynReceived);
        let pending = self.path_search.as_mut().map_or(0, |search| core::mem::take(&mut search.pending));
        if pending > 0 && synchronised {
            // RFC 5927 §7.2: what ICMP said is honoured now that the segments don't arrive.
            self.lower_path_mss(now, pending);
            return;
        }
        // Only what is larger can be too large.
        let large = |len: u64| len > u64::from(BASE_MSS);
        let full =
            large(self.mss().into()) && self.sent.front().is_some_and(|front| large(front.range.len()));
        if self.retries != TIMEOUTS || !synchronised || !full {
            return;
        }
        let high = self.path_mss;
        self.path_mss = BASE_MSS.min(self.path_mss / 2).max(PATH_MSS_MIN);
        let search = self.path_search.get_or_insert_default();
        (search.high, search.rest, search.full_size) = (high, Deadline::NEVER, 0);
    }

    /// What ICMP says of a smaller size, quoting a segment in flight (RFC 5927 §7.2): believed at once as
    /// long as nothing larger has arrived, else only if segments stop to arrive.
    pub(super) fn hear_path_mss(&mut self, now: Instant, path_mss: u16) {
        let path_mss = path_mss.max(PATH_MSS_MIN);
        if path_mss >= self.path_mss {
            return;
        }
        let arrived = self.path_search.as_ref().map_or(0, |search| search.arrived);
        if path_mss < arrived {
            self.path_search.get_or_insert_default().pending = path_mss;
        } else {
            self.lower_path_mss(now, path_mss);
        }
    }

    /// RFC 1191 §6.4, RFC 5927 §7: smaller segments from now on, and what is in flight again; that
    /// is no sign of congestion.
    fn lower_path_mss(&mut self, now: Instant, path_mss: u16) {
        self.path_mss = path_mss;
        if let Some(search) = &mut self.path_search {
            (search.arrived, search.full_size) = (search.arrived.min(path_mss), 0);
        }
        if self.state.sends_data() {
            let flight = self.flight();
            self.recovery.unreported_lost(&flight, &mut self.sent);
            self.tail_probe.end = Position::SYN;
            self.tail_probe.due = false;
            self.arm_retransmission(now, true);
        }
    }

    /// The size of the probe that is to leave instead of new data (RFC 4821 §7.3, §7.5.2), as soon as the windows
    /// have room for it.
    pub(super) fn due_probe(&self) -> Option<SizeProbe> {
        let search = self.path_search.as_ref()?;
        if search.high <= self.path_mss || search.probe.is_some() || search.rest.is_set() {
            return None;
        }
        let resumed = self.resume_credit == u32::MAX;
        let calm = self.recovery.phase() == Phase::Open && self.board().is_empty() && self.retries == 0;
        let size = self.path_mss + (search.high - self.path_mss).div_ceil(2);
        let octets = u32::from(size.saturating_sub(self.option_octets()));
        let mss = self.mss();
        // RFC 4821 §7.4: behind it enough must follow for its loss to show.
        let with_followers = u64::from(octets) + u64::from((DUP_THRESH + 1) * mss);
        let window = u64::from(WINDOW_SEGMENTS * mss).max(with_followers);
        let enough = self.unsent() >= with_followers
            && self.send.wnd() >= with_followers
            && u64::from(self.congestion.cwnd()) >= window;
        let fits = octets > mss && size <= self.agreed.remote_mss;
        let due = calm && resumed && enough && fits && self.urgent_end().is_none();
        due.then_some(SizeProbe { octets, with_followers })
    }

    /// The segment that is about to leave is a probe of `octets`.
    pub(super) fn note_probe(&mut self, out: &mut SegmentOut, position: Position) {
        let search = self.path_search.get_or_insert_default();
        search.probe = Some((position, position.plus(out.payload_len.into())));
        out.piece_len = out.payload_len as u16;
    }
}
