//! The syntax of single values: backends, addresses, faults.

use super::{ConfigError, Given};
use core::net::{IpAddr, Ipv4Addr};
use proto::control::messages::{Backend, Prefix, WireFaults};
use std::path::PathBuf;

/// IFNAMSIZ of linux/if.h, with its terminating zero.
const INTERFACE_NAME_MAX: usize = 15;
/// The longest delay of a wire: a minute keeps a test a test.
const DELAY_MAX_US: f64 = 60e6;

/// A specification without its `,offload=on` or `,offload=off`, and what that says; on when nothing is
/// said.
///
/// # Errors
/// What is wrong with it.
pub fn offload(given: &Given<String>) -> Result<(Given<String>, bool), ConfigError> {
    let (mut offload, mut rest) = (true, Vec::new());
    for part in given.value.split(',') {
        match part.strip_prefix("offload=") {
            Some("on") => offload = true,
            Some("off") => offload = false,
            Some(_) => return Err(given.error(format!("'{part}' is not understood"), "write offload=off")),
            None => rest.push(part),
        }
    }
    Ok((Given { value: rest.join(","), at: given.at.clone() }, offload))
}

/// `tap:IF[@NETNS]`, `xdp:IF[@NETNS]`, `packet:IF[@NETNS]`, `vfio:BDF` or `wire:PATH[,KEY=VALUE…]`.
///
/// # Errors
/// What is wrong with it.
pub fn backend(given: &Given<String>, kernel_addrs: &[Prefix]) -> Result<Backend, ConfigError> {
    let (kind, rest) = given.value.split_once(':').unwrap_or((given.value.as_str(), ""));
    match kind {
        "tap" => tap(given, rest, kernel_addrs),
        "wire" => wire(given, rest),
        "vfio" => vfio(given, rest),
        "packet" => {
            let (name, netns) = interface(given, kind, rest)?;
            Ok(Backend::Packet { name, netns })
        }
        "xdp" => {
            let (name, netns) = interface(given, kind, rest)?;
            Ok(Backend::Xdp { name, netns })
        }
        _ => Err(given.error(
            format!("'{}' is no interface", given.value),
            "write tap:NAME[@NETNS], xdp:NAME[@NETNS], packet:NAME[@NETNS], vfio:BDF or wire:PATH[,loss=1%,delay=5ms,…]",
        )),
    }
}

fn tap(given: &Given<String>, rest: &str, kernel_addrs: &[Prefix]) -> Result<Backend, ConfigError> {
    let (name, netns) = interface(given, "tap", rest)?;
    Ok(Backend::Tap { name, netns, kernel_addrs: kernel_addrs.to_vec() })
}

/// `IF[@NETNS]`: an interface of the kernel, and the network namespace that it is in.
fn interface(given: &Given<String>, kind: &str, rest: &str) -> Result<(String, Option<String>), ConfigError> {
    let (name, netns) = rest.split_once('@').map_or((rest, None), |(name, netns)| (name, Some(netns)));
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    if !(1..=INTERFACE_NAME_MAX).contains(&name.len()) || !visible(name) || name == "." || name == ".." {
        return Err(given.error(
            format!("'{name}' is no name for an interface"),
            format!("use 1 to {INTERFACE_NAME_MAX} letters or digits"),
        ));
    }
    if netns.is_some_and(|netns| netns.is_empty() || !visible(netns) || netns.starts_with('.')) {
        let remedy = format!("write {kind}:NAME@NETNS");
        return Err(given.error("the network namespace has no sound name", remedy));
    }
    Ok((name.to_owned(), netns.map(str::to_owned)))
}

/// A PCI address as sysfs writes it, `0000:03:00.0`; without a domain as lspci(8) does.
fn vfio(given: &Given<String>, rest: &str) -> Result<Backend, ConfigError> {
    let bdf = if rest.matches(':').count() == 1 { format!("0000:{rest}") } else { rest.to_owned() };
    let hex = |text: &str, digits| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    let sound = bdf.rsplit_once('.').is_some_and(|(slot, function)| {
        let parts: Vec<&str> = slot.split(':').collect();
        matches!(parts[..], [domain, bus, device] if hex(domain, 4) && hex(bus, 2) && hex(device, 2))
            && matches!(function.as_bytes(), [b'0'..=b'7'])
    });
    match sound {
        true => Ok(Backend::Vfio { bdf: bdf.to_ascii_lowercase() }),
        false => Err(given.error(format!("'{rest}' is no PCI address"), "write vfio:0000:03:00.0")),
    }
}

fn wire(given: &Given<String>, rest: &str) -> Result<Backend, ConfigError> {
    let mut parts = rest.split(',');
    let path = parts.next().filter(|path| !path.is_empty());
    let Some(path) = path.and_then(|path| std::path::absolute(PathBuf::from(path)).ok()) else {
        return Err(given.error("a wire needs a path", "write wire:/tmp/NAME; both ends name the same path"));
    };
    let Some(path) = path.to_str() else {
        return Err(given.error("the path is not text", "use one that is UTF-8"));
    };
    let mut faults = WireFaults::default();
    for part in parts {
        let wrong = |remedy: &str| given.error(format!("'{part}' is not understood"), remedy);
        let (key, value) = part.split_once('=').ok_or_else(|| wrong("write KEY=VALUE"))?;
        let rate = || ppm(value).ok_or_else(|| wrong("give a share as 1% or 0.01"));
        match key {
            "loss" => faults.loss_ppm = rate()?,
            "dup" => faults.dup_ppm = rate()?,
            "reorder" => faults.reorder_ppm = rate()?,
            "corrupt" => faults.corrupt_ppm = rate()?,
            "delay" => {
                faults.delay_us = delay_us(value).ok_or_else(|| wrong("give a time as 5ms or 100us"))?
            }
            "seed" => faults.seed = value.parse().map_err(|_| wrong("give a whole number"))?,
            _ => return Err(wrong("the keys are loss, delay, reorder, dup, corrupt and seed")),
        }
    }
    Ok(Backend::Wire { path: path.to_owned(), faults })
}

/// A share, as `1%` or `0.01`, in parts per million.
fn ppm(text: &str) -> Option<u32> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1e6), |number| (number, 1e4));
    let share: f64 = number.parse().ok()?;
    let ppm = share * unit;
    (0.0..=1e6).contains(&ppm).then_some(ppm.round() as u32)
}

/// A time, as `5ms`, `100us` or `1s`; without a unit in milliseconds. In microseconds.
fn delay_us(text: &str) -> Option<u32> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("", 1e3)];
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let us = number.parse::<f64>().ok()? * unit;
    (0.0..=DELAY_MAX_US).contains(&us).then_some(us.round() as u32)
}

/// The address of a host with the length of its network.
///
/// # Errors
/// What is wrong with it.
pub fn host_prefix(given: &Given<String>) -> Result<Prefix, ConfigError> {
    let text = given.value.as_str();
    let example = "write ADDRESS/LENGTH, as 10.0.0.2/24";
    let (addr, len) =
        text.split_once('/').ok_or_else(|| given.error(format!("'{text}' has no length"), example))?;
    let addr: IpAddr =
        addr.parse().map_err(|_| given.error(format!("'{addr}' is not an address"), example))?;
    let bits = if addr.is_ipv4() { 32 } else { 128 };
    let len = len.parse().ok().filter(|len| *len <= bits);
    let len: u8 =
        len.ok_or_else(|| given.error(format!("'{text}' has no sound length"), format!("give 0 to {bits}")))?;
    if addr.is_multicast()
        || addr.is_unspecified()
        || addr.is_loopback()
        || addr == IpAddr::V4(Ipv4Addr::BROADCAST)
    {
        return Err(given.error(format!("{addr} is no address of a host"), example));
    }
    if let IpAddr::V4(v4) = addr {
        let host_bits = u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
        let host = u32::from(v4) & host_bits;
        // RFC 3021: a /31 has two hosts and neither a network's name nor a broadcast.
        if len < 31 && (host == 0 || host == host_bits) {
            return Err(given.error(format!("{addr} names the network or all of its hosts"), example));
        }
    }
    Ok(Prefix { addr, len })
}

/// In place of an address: IPv6 addresses and routers are learned from the link.
pub const SLAAC: &str = "slaac";

/// Default gateways, one of a family at most, with commas between them.
///
/// # Errors
/// What is wrong with them.
pub fn gateways(given: &Given<String>) -> Result<Vec<IpAddr>, ConfigError> {
    let one = |text: &str| {
        let wrong = || given.error(format!("'{text}' is not an address"), "write it as 10.0.0.1");
        text.parse().map_err(|_| wrong())
    };
    let all: Vec<IpAddr> = given.value.split(',').map(one).collect::<Result<_, _>>()?;
    if all.iter().filter(|addr| addr.is_ipv4()).count() > 1 || all.iter().filter(|a| a.is_ipv6()).count() > 1
    {
        return Err(given.error("two gateways of one family", "give one of IPv4 and one of IPv6"));
    }
    Ok(all)
}

/// A unicast hardware address.
///
/// # Errors
/// What is wrong with it.
pub fn mac(given: &Given<String>) -> Result<[u8; 6], ConfigError> {
    let octet = |text: &str| (text.len() == 2).then(|| u8::from_str_radix(text, 16).ok()).flatten();
    let octets: Option<Vec<u8>> = given.value.split(':').map(octet).collect();
    let mac: Option<[u8; 6]> = octets.and_then(|octets| octets.try_into().ok());
    match mac {
        Some(mac) if mac[0] & 1 == 0 && mac != [0; 6] => Ok(mac),
        _ => Err(given.error(
            format!("'{}' is no hardware address of a host", given.value),
            "write six pairs of hex digits, the first of them even, as 02:00:00:00:00:01",
        )),
    }
}

/// `KEY=VALUE`; the value of `poison` is bytes in hex.
///
/// # Errors
/// What is wrong with it.
pub fn fault(given: &Given<String>) -> Result<(String, String), ConfigError> {
    let parts = given.value.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty());
    let (key, value) =
        parts.ok_or_else(|| given.error(format!("'{}' is no fault", given.value), "write KEY=VALUE"))?;
    let hex = value.len().is_multiple_of(2) && value.bytes().all(|b| b.is_ascii_hexdigit());
    if key == "poison" && !hex {
        return Err(given.error(format!("'{value}' is not hex"), "write bytes as pairs of hex digits"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    fn given(value: &str) -> Given<String> {
        Given { value: value.to_owned(), at: Place::Flag("--nic") }
    }

    #[test]
    fn a_wire_with_faults() {
        let spec = given("wire:/tmp/w,loss=1%,dup=0.5,reorder=0.001,corrupt=0,delay=1.5ms,seed=42");
        let faults = WireFaults {
            loss_ppm: 10_000,
            dup_ppm: 500_000,
            reorder_ppm: 1_000,
            corrupt_ppm: 0,
            delay_us: 1_500,
            seed: 42,
        };
        assert_eq!(backend(&spec, &[]), Ok(Backend::Wire { path: "/tmp/w".to_owned(), faults }));
    }

    #[test]
    fn offloads_are_on_unless_somebody_says_off() {
        let plain = |value: &str| offload(&given(value)).map(|(spec, on)| (spec.value, on));
        assert_eq!(plain("tap:axl0@ns"), Ok(("tap:axl0@ns".to_owned(), true)));
        assert_eq!(plain("tap:axl0@ns,offload=off"), Ok(("tap:axl0@ns".to_owned(), false)));
        assert_eq!(plain("wire:/w,offload=off,loss=1%"), Ok(("wire:/w,loss=1%".to_owned(), false)));
        assert!(plain("wire:/w,offload=maybe").is_err());
    }

    #[test]
    fn an_interface_may_be_in_a_namespace() {
        let packet = |name: &str, netns: Option<&str>| Backend::Packet {
            name: name.to_owned(),
            netns: netns.map(str::to_owned),
        };
        assert_eq!(backend(&given("packet:eth0"), &[]), Ok(packet("eth0", None)));
        assert_eq!(backend(&given("packet:eth0@blue"), &[]), Ok(packet("eth0", Some("blue"))));
        let xdp = Backend::Xdp { name: "eth0".to_owned(), netns: Some("blue".to_owned()) };
        assert_eq!(backend(&given("xdp:eth0@blue"), &[]), Ok(xdp));
    }

    #[test]
    fn bad_backends_are_refused() {
        for bad in [
            "tap",
            "tap:",
            "tap:a/b",
            "tap:0123456789abcdef",
            "tap:a@",
            "tap:a@../x",
            "wire:",
            "wire:/w,loss",
            "wire:/w,loss=2",
            "wire:/w,loss=nan",
            "wire:/w,delay=-1ms",
            "wire:/w,colour=1",
            "packet:",
            "packet:eth0@",
            "xdp:",
            "pcap:eth0",
            "eth0",
        ] {
            assert!(backend(&given(bad), &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(
            ["7us", "7ms", "7s", "7"].map(delay_us),
            [Some(7), Some(7_000), Some(7_000_000), Some(7_000)]
        );
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(mac(&given("02:00:5e:10:00:ff")), Ok([2, 0, 0x5e, 0x10, 0, 0xff]));
        for bad in
            ["01:00:00:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00", "2:0:0:0:0:1", "02-00-00-00-00-01"]
        {
            assert!(mac(&given(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_addresses() {
        for good in ["10.0.0.1/31", "10.0.0.0/31", "10.1.2.3/8", "192.0.2.1/32", "fd00::1/64"] {
            assert!(host_prefix(&given(good)).is_ok(), "{good}");
        }
        for bad in
            ["10.0.0.1", "10.0.0.255/24", "224.0.0.1/4", "0.0.0.0/0", "127.0.0.1/8", "fd00::1/129", "x/8"]
        {
            assert!(host_prefix(&given(bad)).is_err(), "{bad}");
        }
    }
}
