//! The classes of malformed frames, each with the reason under which it is dropped.

use super::*;

/// A frame of the station for the stack that carries an IPv4 packet.
pub fn framed(packet: &[u8]) -> Vec<u8> {
    frames::ethernet(STACK_MAC, STATION_MAC, IPV4, packet)
}

/// A well-formed one.
pub fn from_station(protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = frames::ipv4(STATION, STACK, protocol, body);
    frames::seal_body(&mut packet);
    framed(&packet)
}

/// A packet whose header was spoiled and its checksum made right again.
pub fn spoiled(spoil: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = frames::ipv4(STATION, STACK, UDP, &frames::udp(4000, CLOSED_PORT, &[7; 40]));
    frames::seal_body(&mut packet);
    spoil(&mut packet);
    frames::seal_ip(&mut packet);
    framed(&packet)
}

/// The same with IP options.
pub fn with_ip_options(options: &[u8]) -> Vec<u8> {
    spoiled(|packet| {
        packet[0] = 0x45 + options.len() as u8 / 4;
        packet.splice(20..20, options.iter().copied());
        let len = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&len);
    })
}

pub fn from_address(src: Ipv4Addr) -> Vec<u8> {
    spoiled(|packet| packet[12..16].copy_from_slice(&src.octets()))
}

pub fn to_address(mac: Mac, dst: Ipv4Addr) -> Vec<u8> {
    let mut frame = spoiled(|packet| {
        packet[16..20].copy_from_slice(&dst.octets());
        frames::seal_body(packet);
    });
    frame[..6].copy_from_slice(&mac);
    frame
}

/// A right frame with one byte of its body inverted.
pub fn with_wrong_byte(protocol: u8, body: &[u8], at: usize) -> Vec<u8> {
    let mut frame = from_station(protocol, body);
    frame[BODY_AT + at] ^= 0xff;
    frame
}

pub fn arp(change: impl FnOnce(&mut Arp)) -> Vec<u8> {
    let mut packet = Arp {
        kind: (1, 0x0800, 6, 4),
        operation: 1,
        sender: (STATION_MAC, STATION),
        target: ([0; 6], STACK),
    };
    change(&mut packet);
    frames::ethernet(BROADCAST, STATION_MAC, ARP, &packet.bytes())
}

/// A segment to the echo server's port from nobody it knows.
pub fn stray(flags: u8) -> Segment {
    Segment { ports: (4001, ECHO_PORT), seq: 1000, ack: 2000, flags, ..Segment::default() }
}

pub fn error_quoting(kind: u8, code: u8, quote: &[u8]) -> Vec<u8> {
    from_station(ICMP, &frames::icmp(kind, code, [0; 4], quote))
}

/// Every class with the reason under which it is dropped.
pub fn classes() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let ping = frames::icmp(8, 0, [0; 4], &[1; 32]);
    let datagram = frames::udp(4000, CLOSED_PORT, &[7; 40]);
    let our_quote = frames::ipv4(STACK, STATION, UDP, &frames::udp(1, 2, &[]));
    let spare = |len: usize| framed(&spoiled(|_| {})[IP_AT..IP_AT + len]);
    let mut all = vec![
        // The link.
        (
            "a header and nothing behind it",
            frames::ethernet(STACK_MAC, STATION_MAC, IPV4, &[]),
            "pkt_too_small",
        ),
        ("an IP header cut off", spare(19), "pkt_too_small"),
        ("an 802.3 frame", frames::ethernet(STACK_MAC, STATION_MAC, 100, &[0xaa; 100]), "length_802_3"),
        (
            "a type that is no length",
            frames::ethernet(STACK_MAC, STATION_MAC, 1501, &[0; 60]),
            "ethertype_invalid",
        ),
        (
            "a protocol nobody speaks",
            frames::ethernet(STACK_MAC, STATION_MAC, 0x88b5, &[0; 60]),
            "unhandled_proto",
        ),
        (
            "IPv6 of a false length",
            frames::ethernet(STACK_MAC, STATION_MAC, 0x86dd, &[0x60; 60]),
            "ip_truncated",
        ),
        (
            "a VLAN nobody is in",
            frames::ethernet(STACK_MAC, STATION_MAC, 0x8100, &[&[0, 7, 8, 0][..], &[0; 60]].concat()),
            "unhandled_proto",
        ),
        (
            "from a group",
            frames::ethernet(STACK_MAC, [3, 0, 0, 0, 0, 1], IPV4, &[0; 60]),
            "eth_src_multicast",
        ),
        ("from everybody", frames::ethernet(STACK_MAC, BROADCAST, IPV4, &[0; 60]), "eth_src_multicast"),
        ("for another station", frames::ethernet(OTHER_MAC, STATION_MAC, IPV4, &[0; 60]), "rx_other_host"),
        ("a unicast packet to everybody", to_address(BROADCAST, STACK), "unicast_in_l2_multicast"),
        // ARP.
        ("ARP cut off", frames::ethernet(BROADCAST, STATION_MAC, ARP, &[0, 1, 8, 0, 6, 4]), "pkt_too_small"),
        ("ARP for other hardware", arp(|p| p.kind.0 = 6), "arp_unsupported"),
        ("ARP for another protocol", arp(|p| p.kind.1 = 0x86dd), "arp_unsupported"),
        ("ARP with long link addresses", arp(|p| p.kind.2 = 255), "arp_unsupported"),
        ("ARP with no addresses", arp(|p| p.kind.3 = 0), "arp_unsupported"),
        ("ARP that neither asks nor answers", arp(|p| p.operation = 9), "arp_invalid"),
        ("ARP from a group", arp(|p| p.sender.0 = BROADCAST), "arp_invalid"),
        ("ARP of a group's address", arp(|p| p.sender.1 = Ipv4Addr::new(224, 0, 0, 1)), "arp_invalid"),
        ("ARP from nowhere", arp(|p| p.sender.1 = Ipv4Addr::LOCALHOST), "arp_invalid"),
        ("ARP that claims our address", arp(|p| p.sender.1 = STACK), "arp_conflict"),
        (
            "ARP for somebody else",
            arp(|p| {
                p.target.1 = Ipv4Addr::new(10, 82, 0, 98);
                p.sender.1 = Ipv4Addr::new(10, 82, 0, 97);
            }),
            "arp_not_for_us",
        ),
        // IPv4.
        ("version 6 in an IPv4 frame", spoiled(|p| p[0] = 0x65), "ip_hdr_error"),
        ("version 0", spoiled(|p| p[0] = 0x05), "ip_hdr_error"),
        ("a header of 0 bytes", spoiled(|p| p[0] = 0x40), "ip_hdr_error"),
        ("a header of 16 bytes", spoiled(|p| p[0] = 0x44), "ip_hdr_error"),
        ("a header beyond the packet", framed(&spoiled(|p| p[0] = 0x4f)[IP_AT..IP_AT + 40]), "pkt_too_small"),
        ("shorter than its header", spoiled(|p| p[2..4].copy_from_slice(&[0, 19])), "ip_hdr_error"),
        ("of no length", spoiled(|p| p[2..4].fill(0)), "ip_hdr_error"),
        ("longer than its frame", spoiled(|p| p[3] += 60), "ip_truncated"),
        ("of 65535 bytes", spoiled(|p| p[2..4].fill(0xff)), "ip_truncated"),
        (
            "a wrong header checksum",
            {
                let mut frame = spoiled(|_| {});
                frame[IP_AT + 10] ^= 1;
                frame
            },
            "ip_csum",
        ),
        ("from everybody", from_address(Ipv4Addr::BROADCAST), "ip_invalid_source"),
        ("from a group", from_address(Ipv4Addr::new(224, 0, 0, 5)), "ip_invalid_source"),
        ("from a reserved address", from_address(Ipv4Addr::new(240, 0, 0, 1)), "ip_invalid_source"),
        ("from a loopback address", from_address(Ipv4Addr::LOCALHOST), "ip_invalid_source"),
        ("from this network", from_address(Ipv4Addr::new(0, 1, 2, 3)), "ip_invalid_source"),
        ("from ourselves (LAND)", from_address(STACK), "ip_localsource"),
        ("for another host", to_address(STACK_MAC, Ipv4Addr::new(10, 82, 0, 50)), "ip_innoroute"),
        ("for a host elsewhere", to_address(STACK_MAC, Ipv4Addr::new(8, 8, 8, 8)), "ip_innoroute"),
        ("for no address", to_address(STACK_MAC, Ipv4Addr::UNSPECIFIED), "ip_invalid_dest"),
        ("for a loopback address", to_address(STACK_MAC, Ipv4Addr::LOCALHOST), "ip_invalid_dest"),
        ("for a reserved address", to_address(STACK_MAC, Ipv4Addr::new(240, 0, 0, 1)), "ip_innoroute"),
        (
            "for a group that nobody joined",
            to_address([1, 0, 0x5e, 1, 2, 3], Ipv4Addr::new(239, 1, 2, 3)),
            "ip_not_member",
        ),
        ("options beyond the header", with_ip_options(&[7, 40, 4, 0]), "ip_hdr_error"),
        ("an option of no length", with_ip_options(&[7, 0, 0, 0]), "ip_hdr_error"),
        ("an option of one byte", with_ip_options(&[68, 1, 0, 0]), "ip_hdr_error"),
        ("an option without a length", with_ip_options(&[1, 1, 1, 7]), "ip_hdr_error"),
        ("a loose source route", with_ip_options(&[131, 7, 4, 10, 82, 0, 9, 0]), "ip_source_route"),
        ("a strict source route", with_ip_options(&[137, 7, 4, 10, 82, 0, 9, 0]), "ip_source_route"),
        ("a fragment over a TCP header", spoiled(|p| (p[7], p[9]) = (1, TCP)), "frag_tiny"),
        ("a fragment beyond 65535", spoiled(|p| p[6..8].copy_from_slice(&[0x1f, 0xff])), "frag_invalid"),
        (
            "a fragment of odd length",
            spoiled(|p| {
                p[3] -= 3;
                p[6] = 0x20;
            }),
            "frag_invalid",
        ),
        (
            "a tiny first fragment",
            spoiled(|p| {
                p[3] = 20 + 8;
                (p[6], p[9]) = (0x20, TCP);
            }),
            "frag_tiny",
        ),
        ("a protocol nobody has", from_station(253, &[9; 30]), "ip_noproto"),
        // ICMP.
        ("ICMP cut off", from_station(ICMP, &[8, 0, 0, 0, 0, 0, 0]), "pkt_too_small"),
        ("no ICMP at all", from_station(ICMP, &[]), "pkt_too_small"),
        ("a wrong ICMP checksum", with_wrong_byte(ICMP, &ping, 9), "icmp_csum"),
        (
            "an ICMP type of the future",
            from_station(ICMP, &frames::icmp(99, 0, [0; 4], &[0; 20])),
            "icmp_unhandled",
        ),
        (
            "an echo reply nobody asked for",
            from_station(ICMP, &frames::icmp(0, 0, [0; 4], &[0; 20])),
            "icmp_unhandled",
        ),
        (
            "an echo request to everybody",
            {
                let packet = frames::ipv4(STATION, Ipv4Addr::new(10, 82, 0, 255), ICMP, &ping);
                frames::ethernet(BROADCAST, STATION_MAC, IPV4, &packet)
            },
            "icmp_echo_group",
        ),
        ("an error about nothing", error_quoting(3, 3, &[]), "icmp_quote_invalid"),
        ("an error about a scrap", error_quoting(3, 3, &our_quote[..24]), "icmp_quote_invalid"),
        ("an error about noise", error_quoting(3, 1, &[0x5a; 60]), "icmp_quote_invalid"),
        (
            "an error about a stranger's packet",
            error_quoting(3, 3, &spoiled(|_| {})[IP_AT..]),
            "icmp_quote_invalid",
        ),
        ("an error about a datagram nobody sent", error_quoting(3, 3, &our_quote), "icmp_quote_invalid"),
        (
            "an error about a segment nobody sent",
            error_quoting(11, 0, &frames::ipv4(STACK, STATION, TCP, &stray(0).bytes())),
            "icmp_quote_invalid",
        ),
        (
            "a packet too big nobody sent",
            error_quoting(3, 4, &frames::ipv4(STACK, STATION, TCP, &stray(0).bytes())),
            "icmp_quote_invalid",
        ),
        // UDP.
        ("UDP cut off", from_station(UDP, &[0, 1, 0, 2, 0, 7, 0]), "pkt_too_small"),
        (
            "a UDP length below its header",
            from_station(UDP, &[&datagram[..4], &[0, 7], &datagram[6..]].concat()),
            "udp_length",
        ),
        (
            "a UDP length beyond its packet",
            from_station(UDP, &[&datagram[..4], &[4, 0], &datagram[6..]].concat()),
            "udp_length",
        ),
        ("a wrong UDP checksum", with_wrong_byte(UDP, &datagram, 20), "udp_csum"),
        ("a datagram for nobody", from_station(UDP, &datagram), "no_socket"),
        // TCP.
        ("TCP cut off", from_station(TCP, &stray(flag::SYN).bytes()[..19]), "pkt_too_small"),
        ("a wrong TCP checksum", with_wrong_byte(TCP, &stray(flag::SYN).bytes(), 5), "tcp_csum"),
        (
            "a SYN to everybody",
            {
                let mut packet =
                    frames::ipv4(STATION, Ipv4Addr::new(10, 82, 0, 255), TCP, &stray(flag::SYN).bytes());
                frames::seal_body(&mut packet);
                frames::ethernet(BROADCAST, STATION_MAC, IPV4, &packet)
            },
            "tcp_group_address",
        ),
        ("no flags", from_station(TCP, &stray(0).bytes()), "tcp_flags"),
        ("every flag (xmas)", from_station(TCP, &stray(0x3f).bytes()), "tcp_invalid_rst"),
        (
            "FIN, PSH and URG",
            from_station(TCP, &stray(flag::FIN | flag::PSH | flag::URG).bytes()),
            "tcp_flags",
        ),
        ("SYN and FIN", from_station(TCP, &stray(flag::SYN | flag::FIN).bytes()), "tcp_flags"),
        ("a stray ACK", from_station(TCP, &stray(flag::ACK).bytes()), "tcp_cookie_invalid"),
        ("a stray SYN-ACK", from_station(TCP, &stray(flag::SYN | flag::ACK).bytes()), "no_socket"),
        ("a stray RST", from_station(TCP, &stray(flag::RST).bytes()), "tcp_invalid_rst"),
    ];
    for (name, offset) in [
        ("a TCP header of 0 bytes", 0),
        ("a TCP header of 16 bytes", 4),
        ("a TCP header beyond its packet", 15),
    ] {
        let mut bytes = stray(flag::SYN).bytes();
        bytes[12] = offset << 4;
        all.push((name, from_station(TCP, &bytes), "tcp_hdr_error"));
    }
    all
}
