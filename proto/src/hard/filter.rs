//! Packet filter rules as they stand in the configuration: what names a rule is what it matches and does,
//! what changes is what it has counted.

use super::pack::{Pack, Unpack};
use crate::control::messages::Prefix;
use core::net::{IpAddr, Ipv4Addr};
use serde::{Deserialize, Serialize};

/// Where in a packet's way a rule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum Hook {
    /// As it came in.
    Prerouting = 0,
    /// It is for this host.
    #[default]
    Input = 1,
    /// It is for another one.
    Forward = 2,
    /// This host sends it.
    Output = 3,
    /// As it leaves.
    Postrouting = 4,
}

impl Hook {
    /// All of them, in the order of their numbers.
    pub const ALL: [Hook; 5] =
        [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

    /// The name as nft(8) has it.
    pub const fn name(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum Verdict {
    /// It goes on; counted.
    #[default]
    Accept = 0,
    /// It does not.
    Drop = 1,
}

/// A rule; what is `None` matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Rule {
    /// Its number: its name, and its place among those of its hook.
    pub number: u32,
    /// Where it stands.
    pub hook: Hook,
    /// What it does.
    pub verdict: Verdict,
    /// The interface that a packet came in or leaves by.
    pub interface: Option<u16>,
    /// What it carries.
    pub protocol: Option<u8>,
    /// Where it comes from.
    pub source: Option<Prefix>,
    /// Where it goes.
    pub destination: Option<Prefix>,
    /// Its source port, from and to.
    pub source_ports: Option<(u16, u16)>,
    /// Its destination port, from and to.
    pub destination_ports: Option<(u16, u16)>,
}

pub(super) fn pack_prefix<const N: usize>(out: &mut Pack<N>, prefix: Option<Prefix>) {
    let nothing = Prefix { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: u8::MAX };
    let Prefix { addr, len } = prefix.unwrap_or(nothing);
    out.ip(addr);
    out.u8(len);
}

pub(super) fn unpack_prefix(from: &mut Unpack<'_>) -> Option<Prefix> {
    let (addr, len) = (from.ip(), from.u8());
    (len != u8::MAX).then_some(Prefix { addr, len })
}

fn pack_ports<const N: usize>(out: &mut Pack<N>, ports: Option<(u16, u16)>) {
    // No range begins behind its end.
    let (low, high) = ports.unwrap_or((1, 0));
    out.u16(low);
    out.u16(high);
}

fn unpack_ports(from: &mut Unpack<'_>) -> Option<(u16, u16)> {
    let (low, high) = (from.u16(), from.u16());
    (low <= high).then_some((low, high))
}

impl Rule {
    /// Whether its parts can be: prefixes of one family and ranges that have an end.
    pub fn is_sound(&self) -> bool {
        let sound = |prefix: &Option<Prefix>| {
            prefix.is_none_or(|prefix| prefix.len <= if prefix.addr.is_ipv4() { 32 } else { 128 })
        };
        let range = |ports: &Option<(u16, u16)>| ports.is_none_or(|(low, high)| low <= high);
        let family = |prefix: &Option<Prefix>| prefix.map(|prefix| prefix.addr.is_ipv4());
        let mixed = matches!((family(&self.source), family(&self.destination)), (Some(a), Some(b)) if a != b);
        sound(&self.source)
            && sound(&self.destination)
            && range(&self.source_ports)
            && range(&self.destination_ports)
            && !mixed
    }

    pub(super) fn pack<const N: usize>(&self, out: &mut Pack<N>) {
        out.u32(self.number);
        out.u8(self.hook as u8);
        out.u8(self.verdict as u8);
        out.u8(u8::from(self.interface.is_some()));
        out.u16(self.interface.unwrap_or(0));
        out.u8(u8::from(self.protocol.is_some()));
        out.u8(self.protocol.unwrap_or(0));
        pack_prefix(out, self.source);
        pack_prefix(out, self.destination);
        pack_ports(out, self.source_ports);
        pack_ports(out, self.destination_ports);
    }

    pub(super) fn unpack(from: &mut Unpack<'_>) -> Option<Rule> {
        let number = from.u32();
        let hook = *Hook::ALL.get(usize::from(from.u8()))?;
        let verdict = match from.u8() {
            0 => Verdict::Accept,
            1 => Verdict::Drop,
            _ => return None,
        };
        let (has, interface) = (from.u8() != 0, from.u16());
        let interface = has.then_some(interface);
        let (has, protocol) = (from.u8() != 0, from.u8());
        let protocol = has.then_some(protocol);
        let (source, destination) = (unpack_prefix(from), unpack_prefix(from));
        let (source_ports, destination_ports) = (unpack_ports(from), unpack_ports(from));
        let rule = Rule {
            number,
            hook,
            verdict,
            interface,
            protocol,
            source,
            destination,
            source_ports,
            destination_ports,
        };
        rule.is_sound().then_some(rule)
    }
}
