//! Ports of the kernel's own address that are the stack's, and how both come to what is theirs.
//!
//! The address, and the hardware address, stay the kernel's: it answers ARP and echoes, and everything else that is not
//! for one of the ports. Of what arrives, a packet goes to
//!
//! | what | the stack | the kernel |
//! |---|---|---|
//! | TCP and UDP to one of the ports | yes | no: the guard |
//! | the first fragment of such a one | yes | no: the guard; the others come to nothing there |
//! | later fragments | yes | yes |
//! | ICMP's errors and answers, answers of ARP, UDP to groups at one of the ports, IGMP | yes | yes |
//! | all else, requests of ARP and echo among it | no | yes |
//!
//! The *guard* is a program between packet sockets and the kernel's stack. Without it the kernel would answer segments
//! for sockets that it does not have by RST, datagrams by ICMP. Its descriptor is kept by the supervisors: so it stands
//! while nicd is dead, when nobody takes those packets and they are lost as on a bad cable, and ends with the group.

use crate::backend::bpf;
use crate::backend::matcher::{Mark, Matcher, NEXT, NO, Test, Width, YES};
use crate::backend::namespace::{self, OpenError, failed};
use core::net::{IpAddr, Ipv4Addr};
use proto::control::messages::{NicConfig, PortRange};
use proto::control::notices::Mac;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice};

/// IEEE 802.3 clause 3.2.6: the type, behind two hardware addresses.
const TYPE_AT: u32 = 12;
const TYPE_IPV4: u32 = 0x0800;
const TYPE_ARP: u32 = 0x0806;
/// RFC 826: ar$op, and that of an answer.
const ARP_OPERATION_AT: u32 = 14 + 6;
const ARP_REPLY: u32 = 2;
/// RFC 791 §3.1: version and IHL, flags and fragment offset, protocol, destination, behind the Ethernet header.
const IPV4_AT: u32 = 14;
const FRAGMENT_AT: u32 = IPV4_AT + 6;
const PROTOCOL_AT: u32 = IPV4_AT + 9;
const DESTINATION_AT: u32 = IPV4_AT + 16;
const MORE_FRAGMENTS: u32 = 0x2000;
const FRAGMENT_OFFSET: u32 = 0x1fff;
/// RFC 1112 §4, and RFC 919 above it: groups, and everybody.
const GROUPS: u32 = 0xe000_0000;
const ICMP: u32 = 1;
const IGMP: u32 = 2;
const TCP: u32 = 6;
const UDP: u32 = 17;
/// RFC 792 and RFC 950: requests, which the kernel answers: echo, timestamp, information, mask.
const REQUESTS: [u32; 4] = [8, 13, 15, 17];

/// What of the kernel's is the stack's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    mac: Mac,
    addrs: Vec<Ipv4Addr>,
    ports: Vec<PortRange>,
}

/// Which fragments are meant beside whole packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fragments {
    None,
    First,
    All,
}

impl Share {
    /// What an interface shares; `None` where the stack is a station of its own.
    pub fn of(config: &NicConfig) -> Option<Share> {
        let addrs = config.addrs.iter().filter_map(|prefix| match prefix.addr {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(_) => None,
        });
        let share = Share { mac: config.mac, addrs: addrs.collect(), ports: config.ports.clone() };
        (!config.ports.is_empty()).then_some(share)
    }

    /// Jumps on behind it when the frame is for our hardware address; to `NO` when not.
    fn to_station(&self, program: &mut Matcher) {
        let [a, b, c, d, e, f] = self.mac;
        program.load(0, Width::Word);
        program.jump(Test::Equals(u32::from_be_bytes([a, b, c, d])), NEXT, NO);
        program.load(4, Width::Half);
        program.jump(Test::Equals(u16::from_be_bytes([e, f]).into()), NEXT, NO);
    }

    /// Goes to `ours` when the destination is one of the addresses; on behind it when not.
    fn to_address(&self, program: &mut Matcher, ours: Mark) {
        program.load(DESTINATION_AT, Width::Word);
        self.addrs.iter().for_each(|addr| program.jump(Test::Equals(addr.to_bits()), ours, NEXT));
    }

    /// TCP or UDP, which it is known to be, to one of the ports.
    fn to_ports(&self, program: &mut Matcher, fragments: Fragments) {
        program.load(FRAGMENT_AT, Width::Half);
        match fragments {
            Fragments::None => program.jump(Test::Has(MORE_FRAGMENTS | FRAGMENT_OFFSET), NO, NEXT),
            Fragments::First => program.jump(Test::Has(FRAGMENT_OFFSET), NO, NEXT),
            Fragments::All => program.jump(Test::Has(FRAGMENT_OFFSET), YES, NEXT),
        }
        program.header_length(IPV4_AT);
        // RFC 9293 §3.1, RFC 768: the destination port is the second half word of both.
        program.load_behind_header(IPV4_AT + 2, Width::Half);
        for range in &self.ports {
            let other = program.mark();
            program.jump(Test::AtLeast(range.first.into()), NEXT, other);
            program.jump(Test::Above(range.last.into()), NEXT, YES);
            program.here(other);
        }
        // None of them: whatever it is, the answer is no.
        program.jump(Test::AtLeast(0), NO, NO);
    }

    fn whole_or(&self, fragments: Fragments) -> Matcher {
        let mut program = Matcher::new();
        let (ours, ports) = (program.mark(), program.mark());
        self.to_station(&mut program);
        program.load(TYPE_AT, Width::Half);
        program.jump(Test::Equals(TYPE_IPV4), NEXT, NO);
        self.to_address(&mut program, ours);
        program.jump(Test::AtLeast(0), NO, NO);
        program.here(ours);
        program.load(PROTOCOL_AT, Width::Byte);
        program.jump(Test::Equals(TCP), ports, NEXT);
        program.jump(Test::Equals(UDP), ports, NO);
        program.here(ports);
        self.to_ports(&mut program, fragments);
        program
    }

    /// What a program before the kernel's packets may hand over: what is the stack's alone, and whole.
    pub(super) fn alone(&self) -> Matcher {
        self.whole_or(Fragments::None)
    }

    /// What a packet socket takes: all that is meant for the stack.
    pub(super) fn seen(&self) -> Matcher {
        let mut program = Matcher::new();
        let [arp, ipv4, ours, icmp, ports] = core::array::from_fn(|_| program.mark());
        program.load(TYPE_AT, Width::Half);
        program.jump(Test::Equals(TYPE_ARP), arp, NEXT);
        program.jump(Test::Equals(TYPE_IPV4), ipv4, NO);
        program.here(arp);
        program.load(ARP_OPERATION_AT, Width::Half);
        program.jump(Test::Equals(ARP_REPLY), YES, NO);
        program.here(ipv4);
        self.to_address(&mut program, ours);
        program.jump(Test::AtLeast(GROUPS), NEXT, NO);
        program.here(ours);
        program.load(PROTOCOL_AT, Width::Byte);
        program.jump(Test::Equals(TCP), ports, NEXT);
        program.jump(Test::Equals(UDP), ports, NEXT);
        program.jump(Test::Equals(ICMP), icmp, NEXT);
        program.jump(Test::Equals(IGMP), YES, NO);
        program.here(icmp);
        program.load(FRAGMENT_AT, Width::Half);
        program.jump(Test::Has(FRAGMENT_OFFSET), NO, NEXT);
        program.header_length(IPV4_AT);
        program.load_behind_header(IPV4_AT, Width::Byte);
        REQUESTS.into_iter().for_each(|kind| program.jump(Test::Equals(kind), NO, NEXT));
        program.jump(Test::AtLeast(0), YES, NO);
        program.here(ports);
        self.to_ports(&mut program, Fragments::All);
        program
    }

    /// The guard on interface `name`: `kept`, when it is one of that interface, or a new one, to be kept by somebody.
    ///
    /// # Errors
    /// [`OpenError`]: no such interface, no right to bpf(2).
    pub fn guard(
        &self,
        name: &str,
        netns: Option<&str>,
        kept: Option<BorrowedFd<'_>>,
    ) -> Result<Option<OwnedFd>, OpenError> {
        namespace::inside(netns, || {
            let flags = SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
                .map_err(failed("open a socket"))?;
            let index = netdevice::name_to_index(socket.as_fd(), name)
                .map_err(failed(format!("find interface {name}")))?;
            // What can't be asked is none of ours.
            if kept.is_some_and(|kept| bpf::runs_on(kept).is_ok_and(|on| on == index)) {
                return Ok(None);
            }
            let guard = bpf::before_the_stack(&self.whole_or(Fragments::First).tcx(), index);
            let words =
                format!("keep the kernel on {name} from answering for the stack's ports (bpf(2), as root)");
            guard.map(Some).map_err(failed(words))
        })
    }
}
