//! Why a frame, packet, segment or command went no further: one list for the whole stack, in the words
//! of Linux's `SKB_DROP_REASON_*` where it has one.
//!
//! A reason is the index of its counter: everything that is dropped is counted under exactly one. New
//! reasons are added at the end of their group; the numbers are not part of any shared layout, the names
//! are what `netctl stats` prints.

macro_rules! reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)*) => {
        /// Why something was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])+ $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The name as counters and `netctl stats` show it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)*
                }
            }

            /// The name of its counter in the statistics region: `drop_` tells a reader that this is
            /// a drop, so that `netctl status` needs to know no list.
            pub const fn counter(self) -> &'static str {
                match self {
                    $(DropReason::$variant => concat!("drop_", $name),)*
                }
            }
        }
    };
}

reasons! {
    // Any layer.
    /// The packet ends before the header does.
    PktTooSmall = "pkt_too_small",
    /// A header lies beyond the part that was copied out to be parsed.
    HdrTrunc = "hdr_trunc",
    /// A packet does not fit the next link and must not be cut.
    PktTooBig = "pkt_too_big",
    /// No free page or record.
    NoMem = "nomem",
    /// A limit on the memory of one protocol was reached.
    ProtoMem = "proto_mem",
    /// A ring towards a peer had no room.
    FullRing = "full_ring",
    /// What was queued went away with the queue's owner.
    QueuePurge = "queue_purge",
    /// The peer process named a page or an extent that it may not name.
    PeerCorrupt = "peer_corrupt",
    /// The digest of the frame is the one that ended the daemon twice (INV-T8).
    Poison = "poison",

    // The device and the link.
    /// The interface is down.
    DevDown = "dev_down",
    /// The device reported a bad frame.
    DevRxError = "dev_rx_error",
    /// A frame for another station.
    OtherHost = "otherhost",
    /// A segment whose flow belongs to another shard, as that of a packet in fragments may.
    OtherShard = "othershard",
    /// An IEEE 802.3 frame: a length where the type would be.
    Length8023 = "length_802_3",
    /// A type between the largest length and the smallest type (1501 to 1535).
    EtherTypeInvalid = "ethertype_invalid",
    /// No handler for the EtherType.
    UnhandledProto = "unhandled_proto",
    /// The frame's source is a group address.
    EthSrcMulticast = "eth_src_multicast",
    /// A unicast packet in a broadcast or multicast frame: RFC 1122 §3.3.6.
    UnicastInL2Multicast = "unicast_in_l2_multicast",

    // ARP, neighbour discovery and neighbours.
    /// An ARP packet for other hardware, another protocol or with other address lengths.
    ArpUnsupported = "arp_unsupported",
    /// An ARP packet whose operation or addresses make no sense.
    ArpInvalid = "arp_invalid",
    /// An ARP packet that asks or tells us nothing.
    ArpNotForUs = "arp_not_for_us",
    /// An ARP packet that claims an address of ours.
    ArpConflict = "arp_conflict",
    /// A neighbour discovery message that RFC 4861 §6.1, §7.1, §8.1 does not let pass: hop limit, code,
    /// lengths, addresses.
    NdpInvalid = "ndp_invalid",
    /// A neighbour discovery message in fragments: RFC 6980 §5.
    NdpFragmented = "ndp_fragmented",
    /// An MLD query that comes from no router of the link: RFC 3810 §6.2.
    MldInvalid = "mld_invalid",
    /// A neighbour discovery message that asks or tells us nothing.
    NdpNotForUs = "ndp_not_for_us",
    /// A neighbour that claims an address of ours, or asks for one we are about to take.
    NdpConflict = "ndp_conflict",
    /// The neighbour table is full of entries in use.
    NeighCreateFail = "neigh_createfail",
    /// The neighbour did not answer.
    NeighFailed = "neigh_failed",
    /// The queue of an unresolved neighbour was full; its oldest packet went.
    NeighQueueFull = "neigh_queuefull",
    /// The entry was removed while packets waited for it.
    NeighDead = "neigh_dead",

    // IP.
    /// A version, header length, total length or option that can't be: RFC 1122 §3.2.1.
    IpHdrError = "ip_hdr_error",
    /// The header checksum is wrong.
    IpCsum = "ip_csum",
    /// The packet is longer than the frame that carried it.
    IpTruncated = "ip_truncated",
    /// A source route: not accepted, RFC 6274 §3.13.2.3.
    IpSourceRoute = "ip_source_route",
    /// A source address that no host can have.
    IpInvalidSource = "ip_invalid_source",
    /// A destination address that no packet can have here.
    IpInvalidDest = "ip_invalid_dest",
    /// A source address that is our own, from the wire.
    IpLocalSource = "ip_localsource",
    /// Not for us, and we do not forward.
    IpInNoRoute = "ip_innoroute",
    /// No route to the destination.
    IpOutNoRoutes = "ip_outnoroutes",
    /// Time to live or hop limit ran out.
    IpTtlExceeded = "ip_ttl_exceeded",
    /// No handler for the protocol.
    IpNoProto = "ip_noproto",
    /// An IPv6 extension header that can't be, or stands where it must not: RFC 8200 §4.
    Ipv6ExtInvalid = "ipv6_ext_invalid",
    /// More extension headers, options or padding than a host has to look at: RFC 8504 §5.3.
    Ipv6ExtLimit = "ipv6_ext_limit",
    /// An IPv6 option that we do not know and that must not be skipped: RFC 8200 §4.2.
    Ipv6OptUnknown = "ipv6_opt_unknown",
    /// An IPv6 packet that says that nothing follows: RFC 8200 §4.7.
    Ipv6NoNext = "ipv6_no_next",
    /// To a group that this host has not joined on that interface.
    IpNotMember = "ip_not_member",
    /// A fragment whose extent can't be.
    FragInvalid = "frag_invalid",
    /// A fragment that repeats another.
    DupFrag = "dup_frag",
    /// A fragment that overlaps another without being the same, and all of its packet: RFC 5722 §4.
    FragOverlap = "frag_overlap",
    /// A first fragment without the whole of the headers, or one placed to overwrite them: RFC 1858, RFC 3128,
    /// RFC 7112.
    FragTiny = "frag_tiny",
    /// Fragments that had to go for those that came later: the room for them is bounded.
    FragLimit = "frag_limit",
    /// The rest of the fragments did not come in time.
    FragReasmTimeout = "frag_reasm_timeout",
    /// A filter said so.
    NetfilterDrop = "netfilter_drop",
    /// A queueing discipline said so.
    QdiscDrop = "qdisc_drop",

    // ICMP.
    /// The ICMP checksum is wrong.
    IcmpCsum = "icmp_csum",
    /// A type that we do not know or that asks nothing of us: RFC 1122 §3.2.2.
    IcmpUnhandled = "icmp_unhandled",
    /// An error that quotes too little to tell whom it is for, or quotes what we never sent.
    IcmpQuoteInvalid = "icmp_quote_invalid",
    /// An echo request to a group: not answered, RFC 1122 §3.2.2.6.
    IcmpEchoGroup = "icmp_echo_group",
    /// The checksum of an IGMP message is wrong.
    IgmpCsum = "igmp_csum",
    /// An IGMP message about a group that is none, or that did not come from the link.
    IgmpInvalid = "igmp_invalid",
    /// Not answered, or not sent, to keep the rate limit.
    IcmpRateLimit = "icmp_ratelimit",

    // Transport.
    /// No socket has that address and port.
    NoSocket = "no_socket",
    /// The UDP checksum is wrong.
    UdpCsum = "udp_csum",
    /// A UDP length that can't be.
    UdpLength = "udp_length",
    /// The socket's filter said so.
    SocketFilter = "socket_filter",
    /// The socket's receive queue is full.
    SocketRcvbuff = "socket_rcvbuff",
    /// The TCP checksum is wrong.
    TcpCsum = "tcp_csum",
    /// A TCP data offset that can't be.
    TcpHdrError = "tcp_hdr_error",
    /// A combination of flags that no segment has in this state.
    TcpFlags = "tcp_flags",
    /// Data or an acknowledgement that came before.
    TcpOldData = "tcp_old_data",
    /// Beyond the window that was offered.
    TcpOverWindow = "tcp_overwindow",
    /// Outside the window on the left.
    TcpOldSequence = "tcp_old_sequence",
    /// Outside the window.
    TcpInvalidSequence = "tcp_invalid_sequence",
    /// An acknowledgement of what was never sent.
    TcpAckUnsentData = "tcp_ack_unsent_data",
    /// An acknowledgement older than any window: RFC 5961 §5.
    TcpTooOldAck = "tcp_too_old_ack",
    /// A timestamp of the past: RFC 7323 §5.
    TcpRfc7323Paws = "tcp_rfc7323_paws",
    /// A RST that was not where it must be: RFC 5961 §3.
    TcpInvalidRst = "tcp_invalid_rst",
    /// A SYN in a synchronised state: RFC 5961 §4.
    TcpInvalidSyn = "tcp_invalid_syn",
    /// To a group or broadcast address: RFC 9293 MUST-57.
    TcpGroupAddress = "tcp_group_address",
    /// The listener's queue of connections is full.
    TcpListenOverflow = "tcp_listen_overflow",
    /// A SYN cookie that does not check.
    TcpCookieInvalid = "tcp_cookie_invalid",
    /// Data for a socket that is closed.
    TcpClose = "tcp_close",
    /// Out-of-order data that there was no room to keep.
    TcpOfoDrop = "tcp_ofo_drop",
    /// A flow that is in quarantine (INV-T8).
    FlowQuarantine = "flow_quarantine",
    /// The stack has not been recovered yet (INV-T4).
    NotRecovered = "not_recovered",
}

impl DropReason {
    /// How many there are: the length of a table of counters.
    pub const COUNT: usize = DropReason::ALL.len();

    /// The place of its counter, below [`DropReason::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn indices_follow_the_list_and_names_differ() {
        let mut names = HashSet::new();
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert!(names.insert(reason.name()), "{} twice", reason.name());
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        }
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
