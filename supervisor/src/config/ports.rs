//! Which ports of the kernel's own addresses are the stack's: `ports=` of an interface that is shared.

use super::{ConfigError, Given};
use core::net::IpAddr;
use proto::control::messages::{Backend, PortRange, Prefix};

/// Ranges of an interface at most, and addresses: a program over each frame asks for one after the other.
const RANGES_MAX: usize = 16;
const ADDRESSES_MAX: usize = 16;

/// A specification without its `,ports=8080+20000-20999`, and what that says; none when nothing is said.
///
/// # Errors
/// What is wrong with it.
pub fn ports(given: &Given<String>) -> Result<(Given<String>, Vec<PortRange>), ConfigError> {
    let (mut ports, mut rest) = (Vec::new(), Vec::new());
    for part in given.value.split(',') {
        match part.strip_prefix("ports=") {
            Some(text) => {
                for range in text.split('+') {
                    ports.push(one(range).ok_or_else(|| {
                        given.error(format!("'{range}' is no port"), "write ports=8080+20000-20999")
                    })?);
                }
            }
            None => rest.push(part),
        }
    }
    ports.sort_unstable();
    if ports.len() > RANGES_MAX {
        return Err(given.error("too many ranges of ports", format!("give {RANGES_MAX} at most")));
    }
    if let Some(pair) = ports.windows(2).find(|pair| pair[0].last >= pair[1].first) {
        return Err(given.error(format!("port {} is given twice", pair[1].first), "give it once"));
    }
    Ok((Given { value: rest.join(","), at: given.at.clone() }, ports))
}

fn one(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some(PortRange { first, last })
}

/// Whether the rest of an interface's configuration allows that it shares ports with the kernel.
///
/// # Errors
/// What does not.
pub fn may_share(
    given: &Given<String>,
    backend: &Backend,
    (addrs, slaac): (&[Prefix], bool),
    mac: Option<&Given<String>>,
) -> Result<(), ConfigError> {
    if !matches!(backend, Backend::Packet { .. } | Backend::Xdp { .. }) {
        let remedy = "leave ports= out, or use xdp:IF or packet:IF";
        return Err(given.error("the kernel has no share in such an interface", remedy));
    }
    if let Some(mac) = mac {
        let remedy = "leave the hardware address out, or ports=";
        return Err(mac.error("with ports= the interface's own hardware address is used", remedy));
    }
    if addrs.is_empty() || addrs.len() > ADDRESSES_MAX {
        let remedy = format!("give 1 to {ADDRESSES_MAX} addresses that the kernel has on it");
        return Err(given.error("ports= is about addresses", remedy));
    }
    if slaac || addrs.iter().any(|prefix| matches!(prefix.addr, IpAddr::V6(_))) {
        let remedy = "give it addresses of its own, without ports=, or of IPv4 only";
        return Err(given.error("addresses of IPv6 are not shared by ports", remedy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    fn given(value: &str) -> Given<String> {
        Given { value: value.to_owned(), at: Place::Flag("--nic") }
    }

    #[test]
    fn ports_are_taken_out_of_the_specification() {
        let range = |first, last| PortRange { first, last };
        let (rest, found) = ports(&given("xdp:eth0,ports=20000-20999+8080,offload=off")).expect("sound");
        assert_eq!(rest.value, "xdp:eth0,offload=off");
        assert_eq!(found, [range(8080, 8080), range(20_000, 20_999)]);
        assert_eq!(ports(&given("xdp:eth0")).expect("sound").1, []);
    }

    #[test]
    fn unsound_ports_are_refused() {
        let long = (1..=17).map(|n| (10 * n).to_string()).collect::<Vec<_>>().join("+");
        for text in ["", "0", "http", "9-8", "70000", "80+80", "80-90+85", long.as_str()] {
            assert!(ports(&given(&format!("xdp:eth0,ports={text}"))).is_err(), "{text}");
        }
    }
}
