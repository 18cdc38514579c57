//! What netd counts: events by name, drops by reason. Each dropped frame, packet or segment stands
//! under exactly one [`DropReason`]; nothing is lost without one.

use crate::wire::drop_reason::DropReason;
use proto::stats::Counts;

proto::counters! {
    /// An event that is counted.
    pub enum Counter {
        /// Frames that came from a nicd.
        RxFrames = "rx_frames",
        /// Bytes in them.
        RxBytes = "rx_bytes",
        /// Frames handed to a nicd.
        TxFrames = "tx_frames",
        /// Bytes in them.
        TxBytes = "tx_bytes",
        /// Frames that this host sent to itself and took in; they count among those from a nicd too.
        LoFrames = "lo_frames",
        /// Bytes in them.
        LoBytes = "lo_bytes",
        /// Frames taken up by the receive loop (softnet "processed").
        Processed = "softnet_processed",
        /// Rounds that ended with work left because the budget was used up (softnet "time_squeeze").
        TimeSqueeze = "softnet_time_squeeze",
        /// Times that transmission stopped because the ring below was full.
        TxStopped = "tx_queue_stopped",
        /// Times that it went on again.
        TxWoken = "tx_queue_woken",
        /// Connections opened from here (RFC 4022 tcpActiveOpens).
        TcpActiveOpens = "tcp_active_opens",
        /// Connections opened by remotes (RFC 4022 tcpPassiveOpens).
        TcpPassiveOpens = "tcp_passive_opens",
        /// Segments received (RFC 4022 tcpInSegs).
        TcpInSegs = "tcp_in_segs",
        /// Segments sent, retransmissions left out (RFC 4022 tcpOutSegs).
        TcpOutSegs = "tcp_out_segs",
        /// Segments sent again (RFC 4022 tcpRetransSegs).
        TcpRetransSegs = "tcp_retrans_segs",
        /// Resets sent (RFC 4022 tcpOutRsts).
        TcpOutRsts = "tcp_out_rsts",
        /// Challenge ACKs sent (RFC 5961).
        TcpChallengeAcks = "tcp_challenge_acks",
        /// SYN cookies sent.
        TcpSynCookies = "tcp_syn_cookies_sent",
        /// Connections accepted with what their SYN carried (Linux TcpExtTCPFastOpenPassive).
        TcpFastOpens = "tcp_fast_open_passive",
        /// Out-of-order queues given up for want of receive pages (Linux TcpExtOfoPruned).
        TcpOfoPruned = "tcp_ofo_pruned",
        /// Datagrams delivered (RFC 4113 udpInDatagrams).
        UdpInDatagrams = "udp_in_datagrams",
        /// Datagrams sent (RFC 4113 udpOutDatagrams).
        UdpOutDatagrams = "udp_out_datagrams",
        /// ICMP messages received.
        IcmpInMsgs = "icmp_in_msgs",
        /// ICMP messages sent.
        IcmpOutMsgs = "icmp_out_msgs",
        /// Packets that were cut (RFC 4293 ipSystemStatsOutFragOKs).
        FragOks = "ip_frag_oks",
        /// Fragments that were made (RFC 4293 ipSystemStatsOutFragCreates).
        FragCreates = "ip_frag_creates",
        /// Neighbour discovery messages received.
        NdpIn = "ndp_in",
        /// Neighbour discovery messages sent.
        NdpOut = "ndp_out",
        /// Addresses that somebody else on the link had (RFC 4862 §5.4).
        DadFailed = "dad_failed",
        /// Addresses that somebody else on the link had (RFC 5227 §2.1.1).
        ArpConflictsFound = "arp_conflicts_found",
        /// Announcements against somebody who claims an address of ours (RFC 5227 §2.4).
        ArpDefences = "arp_defences",
        /// IGMP messages received.
        IgmpIn = "igmp_in",
        /// IGMP messages sent.
        IgmpOut = "igmp_out",
        /// MLD messages received.
        MldIn = "mld_in",
        /// MLD messages sent.
        MldOut = "mld_out",
        /// ARP packets received.
        ArpIn = "arp_in",
        /// ARP packets sent.
        ArpOut = "arp_out",
        /// Payload bytes copied from frames into arenas.
        CopiedToArena = "payload_bytes_to_arena",
        /// Payload bytes copied from arenas into frames.
        CopiedToFrame = "payload_bytes_to_frame",
        /// Cells committed.
        Commits = "commits",
        /// Records taken over from an earlier incarnation.
        Recovered = "records_recovered",
        /// Records that failed their check and were given up (INV-T7).
        CellsCorrupt = "records_corrupt",
        /// Sessions ended because the client broke a rule.
        SessionsCorrupt = "sessions_corrupt",
    }
}

/// The counts of one shard.
#[derive(Debug, Clone)]
pub struct Counters {
    events: Counts<Counter>,
    drops: [u64; DropReason::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Counters { events: Counts::default(), drops: [0; DropReason::COUNT] }
    }
}

impl Counters {
    /// One more event.
    pub fn count(&mut self, counter: Counter) {
        self.events.count(counter);
    }

    /// `n` more of it.
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.events.add(counter, n);
    }

    /// One more drop for that reason.
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason.index()] += 1;
    }

    /// The count of an event.
    pub fn get(&self, counter: Counter) -> u64 {
        self.events.get(counter)
    }

    /// The count of a reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// Drops for every reason together.
    pub fn dropped_in_all(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// All names with their counts: events, then drops.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.events.each().chain(DropReason::ALL.iter().map(|&r| (r.counter(), self.dropped(r))))
    }
}
