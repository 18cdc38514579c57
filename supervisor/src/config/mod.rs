//! The configuration of a group: command line and file, checked as a whole before anything starts.
//!
//! [`Wanted`] is what was asked for, each value with the place where it stands; [`check`] makes a
//! [`GroupConfig`] of it or says what is wrong, where, and what helps. The syntax of single values
//! is in [`spec`] and [`ports`](mod@ports), the file in [`file`].

pub mod file;
pub mod ports;
pub mod spec;

use core::fmt;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use proto::control::messages::{Backend, GroupConfig, NicConfig, Prefix};
use proto::nic::slab::SlabGeometry;
use std::path::PathBuf;
use thiserror::Error;

/// The most netd of a group: more than cores on any machine this runs on, and few enough that a
/// welcome's descriptors fit one message (SCM_MAX_FD).
pub const SHARDS_MAX: u16 = 16;
/// The most interfaces of a group.
pub const NICS_MAX: usize = 8;
/// RFC 791 §3.1: every host takes datagrams of 576 bytes.
pub const MTU_MIN: u64 = 576;
/// 65535 bytes of frame less its Ethernet header: ETH_MAX_MTU of Linux.
pub const MTU_MAX: u64 = 65_521;
/// Ethernet.
pub const MTU_DEFAULT: u16 = 1500;
/// Connections per shard unless configured: 32 MiB of address space, touched as it is used.
pub const CONNS_DEFAULT: u32 = 1 << 17;
/// One table of that many cells is 256 MiB.
pub const CONNS_MAX: u64 = 1 << 20;
/// 8 MiB of small pages and 16 MiB of large ones; in use they stay near 1 MiB, last freed first.
pub const SLAB_DEFAULT: SlabGeometry = SlabGeometry { small: 4096, large: 1024 };

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On the command line, by that flag.
    Flag(&'static str),
    /// In a file.
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Flag(flag) => f.write_str(flag),
            Place::Line { file, line } => write!(f, "{}:{line}", file.display()),
        }
    }
}

/// A value and where it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub at: Place,
}

/// What is wrong, where, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{at}: {wrong}; {remedy}")]
pub struct ConfigError {
    /// Where.
    pub at: Place,
    /// What is wrong.
    pub wrong: String,
    /// What to do about it.
    pub remedy: String,
}

/// What was asked for one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedNic {
    /// `tap:…`, `wire:…`.
    pub spec: Given<String>,
    /// The stack's addresses.
    pub addrs: Vec<Given<String>>,
    /// The kernel's addresses on a TAP.
    pub tap_addrs: Vec<Given<String>>,
    /// Default gateway.
    pub gateway: Option<Given<String>>,
    /// Hardware address.
    pub mac: Option<Given<String>>,
    /// Maximum transmission unit.
    pub mtu: Option<Given<u64>>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The interfaces.
    pub nics: Vec<WantedNic>,
    /// Number of netd.
    pub shards: Option<Given<u64>>,
    /// Connections per shard.
    pub connections: Option<Given<u64>>,
    /// Deliberate faults, `key=value`.
    pub faults: Vec<Given<String>>,
}

impl<T> Given<T> {
    fn error(&self, wrong: impl Into<String>, remedy: impl Into<String>) -> ConfigError {
        ConfigError { at: self.at.clone(), wrong: wrong.into(), remedy: remedy.into() }
    }

    /// The value, if it lies between the two, both included.
    fn within(&self, what: &str, min: u64, max: u64) -> Result<u64, ConfigError>
    where
        T: Copy + Into<u64>,
    {
        let value = self.value.into();
        if (min..=max).contains(&value) {
            return Ok(value);
        }
        Err(self.error(format!("{what} {value} is out of range"), format!("give {min} to {max}")))
    }
}

/// Makes a group's configuration of what was asked for.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(wanted: &Wanted, name: &str, dir: &str) -> Result<GroupConfig, ConfigError> {
    if wanted.nics.is_empty() || wanted.nics.len() > NICS_MAX {
        return Err(ConfigError {
            at: Place::Flag("--nic"),
            wrong: format!("{} interfaces", wanted.nics.len()),
            remedy: format!("give 1 to {NICS_MAX}, as --nic tap:NAME or --nic wire:PATH"),
        });
    }
    let range = |given: &Option<Given<u64>>, what, min, max, default| match given {
        Some(given) => given.within(what, min, max),
        None => Ok(default),
    };
    let shards = range(&wanted.shards, "number of shards", 1, u64::from(SHARDS_MAX), 1)?;
    let conns = range(&wanted.connections, "connections", 16, CONNS_MAX, u64::from(CONNS_DEFAULT))?;
    let nics: Vec<NicConfig> = (wanted.nics.iter().enumerate())
        .map(|(index, nic)| check_nic(nic, (dir, name, index)))
        .collect::<Result<_, _>>()?;
    only_once(&wanted.nics)?;
    let faults = wanted.faults.iter().map(spec::fault).collect::<Result<_, _>>()?;
    Ok(GroupConfig {
        name: name.to_owned(),
        dir: dir.to_owned(),
        shards: shards as u16,
        nics,
        slab: SLAB_DEFAULT,
        conns: conns as u32,
        faults,
    })
}

fn check_nic(nic: &WantedNic, identity: (&str, &str, usize)) -> Result<NicConfig, ConfigError> {
    let slaac = nic.addrs.iter().any(|given| given.value == spec::SLAAC);
    let given = nic.addrs.iter().filter(|given| given.value != spec::SLAAC);
    let addrs = given.map(spec::host_prefix).collect::<Result<Vec<_>, _>>()?;
    let kernel = nic.tap_addrs.iter().map(spec::host_prefix).collect::<Result<Vec<_>, _>>()?;
    let (spec, offload) = spec::offload(&nic.spec)?;
    let (spec, ports) = ports::ports(&spec)?;
    let backend = spec::backend(&spec, &kernel)?;
    if !ports.is_empty() {
        ports::may_share(&nic.spec, &backend, (&addrs, slaac), nic.mac.as_ref())?;
    }
    if !matches!(backend, Backend::Tap { .. })
        && let Some(given) = nic.tap_addrs.first()
    {
        return Err(given.error("only a TAP has a kernel side", "leave the address out, or use tap:NAME"));
    }
    if let Some((given, _)) =
        nic.tap_addrs.iter().zip(&kernel).find(|(_, k)| addrs.iter().any(|a| a.addr == k.addr))
    {
        return Err(given.error("the kernel and the stack can't have the same address", "give each its own"));
    }
    let gateways = nic.gateway.as_ref().map(|given| check_gateways(given, &addrs)).transpose()?;
    let mac = nic.mac.as_ref().map_or_else(|| Ok(derived_mac(identity)), spec::mac)?;
    let mtu = match &nic.mtu {
        Some(given) => given.within("MTU", MTU_MIN, MTU_MAX)? as u16,
        None => MTU_DEFAULT,
    };
    if let (Some(given), true) = (&nic.mtu, mtu < IPV6_MTU_MIN) {
        let v6 = slaac || addrs.iter().any(|prefix| prefix.addr.is_ipv6());
        if v6 {
            let remedy = format!("give at least {IPV6_MTU_MIN} (RFC 8200)");
            return Err(given.error(format!("an MTU of {mtu} does not carry IPv6"), remedy));
        }
    }
    Ok(NicConfig { backend, mac, mtu, addrs, gateways: gateways.unwrap_or_default(), slaac, offload, ports })
}

/// RFC 8200 §5.
const IPV6_MTU_MIN: u16 = 1280;

fn check_gateways(given: &Given<String>, addrs: &[Prefix]) -> Result<Vec<IpAddr>, ConfigError> {
    // From the first bit on, of either family.
    let bits = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let gateways = spec::gateways(given)?;
    for gateway in &gateways {
        let in_network = |prefix: &Prefix| {
            let (own, theirs) = (bits(prefix.addr), bits(*gateway));
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len)).unwrap_or(0);
            prefix.addr.is_ipv4() == gateway.is_ipv4() && own & mask == theirs & mask && own != theirs
        };
        // RFC 4861 §6.3.4: an IPv6 router is known by its link-local address.
        let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !link_local && !addrs.iter().any(in_network) {
            return Err(given.error(
                format!("the gateway {gateway} lies in none of the interface's networks"),
                "give one that the addresses of --addr reach",
            ));
        }
    }
    Ok(gateways)
}

/// No two interfaces have one address or one device.
fn only_once(nics: &[WantedNic]) -> Result<(), ConfigError> {
    let mut seen: Vec<&str> = Vec::new();
    for given in nics.iter().flat_map(|nic| nic.addrs.iter().chain([&nic.spec])) {
        let key = given.value.split([',', '/'].as_slice()).next().unwrap_or_default();
        let key = if given.value.starts_with("wire:") { given.value.as_str() } else { key };
        if seen.contains(&key) && key != spec::SLAAC {
            return Err(given.error(format!("{key} is given twice"), "give it to one interface only"));
        }
        seen.push(key);
    }
    Ok(())
}

/// A locally administered unicast address that stays the same for a group's interface.
fn derived_mac(identity: (&str, &str, usize)) -> [u8; 6] {
    let mut hash = std::hash::DefaultHasher::new();
    identity.hash(&mut hash);
    let [a, b, c, d, e, ..] = hash.finish().to_le_bytes();
    [0x02, a, b, c, d, e]
}

/// A group for tests.
#[cfg(test)]
pub(crate) fn test_group(nics: usize, shards: u16) -> GroupConfig {
    let nic = |n| WantedNic {
        spec: Given { value: format!("wire:/tmp/test-wire-{n}"), at: Place::Flag("--nic") },
        addrs: vec![Given { value: format!("10.0.{n}.1/24"), at: Place::Flag("--addr") }],
        tap_addrs: Vec::new(),
        gateway: None,
        mac: None,
        mtu: None,
    };
    let shards = Some(Given { value: u64::from(shards), at: Place::Flag("--shards") });
    let wanted = Wanted { nics: (0..nics).map(nic).collect(), shards, ..Wanted::default() };
    check(&wanted, "test", "/tmp").expect("a sound configuration")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(value: &str) -> Given<String> {
        Given { value: value.to_owned(), at: Place::Flag("--addr") }
    }

    fn tap(addr: &str, kernel: &str, gateway: &str) -> Wanted {
        let nic = WantedNic {
            spec: given("tap:axl0@space"),
            addrs: vec![given(addr)],
            tap_addrs: vec![given(kernel)],
            gateway: Some(given(gateway)),
            mac: Some(given("02:00:00:00:00:01")),
            mtu: Some(Given { value: 9000, at: Place::Flag("--mtu") }),
        };
        Wanted { nics: vec![nic], ..Wanted::default() }
    }

    #[test]
    fn a_sound_one_is_taken() {
        let group = check(&tap("10.0.0.2/24", "10.0.0.1/24", "10.0.0.1"), "g", "/run").expect("sound");
        let nic = &group.nics[0];
        assert_eq!((nic.mtu, nic.mac, group.shards), (9000, [2, 0, 0, 0, 0, 1], 1));
        let Backend::Tap { name, netns, kernel_addrs } = &nic.backend else { panic!("a TAP") };
        assert_eq!((name.as_str(), netns.as_deref(), kernel_addrs.len()), ("axl0", Some("space"), 1));
    }

    #[test]
    fn wrong_ones_say_what_and_where() {
        let cases = [
            (tap("10.0.0.300/24", "10.0.0.1/24", "10.0.0.1"), "not an address"),
            (tap("10.0.0.2/33", "10.0.0.1/24", "10.0.0.1"), "0 to 32"),
            (tap("10.0.0.0/24", "10.0.0.1/24", "10.0.0.1"), "names the network"),
            (tap("10.0.0.2/24", "10.0.0.2/24", "10.0.0.1"), "same address"),
            (tap("10.0.0.2/24", "10.0.0.1/24", "10.0.1.1"), "in none of the interface's networks"),
            (Wanted::default(), "0 interfaces"),
        ];
        for (wanted, want) in cases {
            let error = check(&wanted, "g", "/run").expect_err(want).to_string();
            assert!(error.starts_with("--") && error.contains(want) && error.contains("; "), "{error}");
        }
    }

    #[test]
    fn an_address_belongs_to_one_interface() {
        let mut twice = tap("10.0.0.2/24", "10.0.0.1/24", "10.0.0.1");
        let mut second = twice.nics[0].clone();
        second.spec = given("tap:axl1");
        second.tap_addrs.clear();
        twice.nics.push(second);
        assert!(check(&twice, "g", "/run").expect_err("twice").wrong.contains("given twice"));
    }

    #[test]
    fn derived_hardware_addresses_differ_and_are_unicast() {
        let (a, b) = (derived_mac(("/run", "a", 0)), derived_mac(("/run", "b", 0)));
        assert!(a != b && a[0] == 2 && a == derived_mac(("/run", "a", 0)));
    }
}
