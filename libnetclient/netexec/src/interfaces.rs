//! The requests of netdevice(7): SIOCGIFCONF, SIOCGIFADDR and their kin, from the stack's host.
//!
//! ```text
//! struct ifreq  { name [16], value [24] }      struct ifconf { len i32, (padding), where u64 }
//! ```
//! Those that would change something are EPERM.

use crate::host::{self, Host, Link};
use crate::program::{Caller, Errno};
use std::net::{IpAddr, Ipv4Addr};

/// The first and the last request that is handed over: SIOCGIFNAME to SIOCSIFTXQLEN (linux/sockios.h).
pub const FIRST: u32 = 0x8910;
/// The last one.
pub const LAST: u32 = 0x8943;

const GET_NAME: u32 = 0x8910;
const GET_CONF: u32 = 0x8912;
const GET_FLAGS: u32 = 0x8913;
const GET_ADDR: u32 = 0x8915;
const GET_DST: u32 = 0x8917;
const GET_BROADCAST: u32 = 0x8919;
const GET_MASK: u32 = 0x891b;
const GET_METRIC: u32 = 0x891d;
const GET_MTU: u32 = 0x8921;
const GET_HARDWARE: u32 = 0x8927;
const GET_INDEX: u32 = 0x8933;
const GET_QUEUE: u32 = 0x8942;
/// Those that change something.
const SETS: [u32; 11] =
    [0x8914, 0x8916, 0x8918, 0x891a, 0x891c, 0x891e, 0x8922, 0x8923, 0x8924, 0x8934, 0x8943];

const NAME: usize = 16;
const REQUEST: usize = 40;

fn v4_name(addr: Ipv4Addr) -> Vec<u8> {
    let mut name = vec![0; 16];
    name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    name[4..8].copy_from_slice(&addr.octets());
    name
}

fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

/// The first IPv4 address of an interface, and its bits.
fn v4_of(host: &mut Host, link: &Link) -> Result<(Ipv4Addr, u8), Errno> {
    let of_link = |one: host::Address| match one.addr {
        IpAddr::V4(v4) if one.index == link.index => Some((v4, one.prefix)),
        _ => None,
    };
    host.addresses().into_iter().find_map(of_link).ok_or(libc::EADDRNOTAVAIL)
}

/// The list of interfaces that have an IPv4 address.
fn configuration(host: &mut Host, caller: Caller, at: u64) -> Result<(), Errno> {
    let head = caller.read(at, 16)?;
    let room = i32::from_ne_bytes([head[0], head[1], head[2], head[3]]).max(0) as usize;
    let place =
        u64::from_ne_bytes([head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15]]);
    let links = host.links();
    let mut list = Vec::new();
    for address in host.addresses() {
        let IpAddr::V4(v4) = address.addr else { continue };
        let Some(link) = links.iter().find(|link| link.index == address.index) else { continue };
        let mut one = vec![0; REQUEST];
        let len = link.name.len().min(NAME - 1);
        one[..len].copy_from_slice(&link.name.as_bytes()[..len]);
        one[NAME..NAME + 16].copy_from_slice(&v4_name(v4));
        list.extend(one);
    }
    // Without a place only the size is asked for.
    if place != 0 {
        list.truncate(room / REQUEST * REQUEST);
        caller.write(place, &list)?;
    }
    caller.write(at, &(list.len() as i32).to_ne_bytes())
}

/// Does a request of a program.
///
/// # Errors
/// ENODEV for no such interface, EADDRNOTAVAIL, EPERM for a change, EOPNOTSUPP for what is not answered.
pub fn request(host: &mut Host, caller: Caller, request: u32, at: u64) -> Result<(), Errno> {
    if SETS.contains(&request) {
        return Err(libc::EPERM);
    }
    if request == GET_CONF {
        return configuration(host, caller, at);
    }
    let asked = caller.read(at, REQUEST)?;
    let links = host.links();
    let number = u32::from_ne_bytes([asked[NAME], asked[NAME + 1], asked[NAME + 2], asked[NAME + 3]]);
    let name = asked[..NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    // An alias (`eth0:1`) is its interface.
    let name = name.split(|byte| *byte == b':').next().unwrap_or_default();
    let found = links.iter().find(|link| match request {
        GET_NAME => link.index == number,
        _ => link.name.as_bytes() == name,
    });
    let link = found.ok_or(libc::ENODEV)?;
    if request == GET_NAME {
        let mut name = [0; NAME];
        let len = link.name.len().min(NAME - 1);
        name[..len].copy_from_slice(&link.name.as_bytes()[..len]);
        return caller.write(at, &name);
    }
    let value = match request {
        GET_FLAGS => (link.flags as u16).to_ne_bytes().to_vec(),
        GET_ADDR | GET_DST => v4_name(v4_of(host, link)?.0),
        GET_BROADCAST => {
            let (addr, prefix) = v4_of(host, link)?;
            v4_name(addr | !mask(prefix))
        }
        GET_MASK => v4_name(mask(v4_of(host, link)?.1)),
        GET_METRIC => 0i32.to_ne_bytes().to_vec(),
        GET_MTU => link.mtu.to_ne_bytes().to_vec(),
        GET_QUEUE => 1000i32.to_ne_bytes().to_vec(),
        GET_INDEX => link.index.to_ne_bytes().to_vec(),
        GET_HARDWARE => {
            const ETHER: u16 = 1;
            const LOOPBACK: u16 = 772;
            let kind = if link.is_loopback() { LOOPBACK } else { ETHER };
            let mut name = vec![0; 16];
            name[..2].copy_from_slice(&kind.to_ne_bytes());
            name[2..8].copy_from_slice(&link.mac);
            name
        }
        _ => return Err(libc::EOPNOTSUPP),
    };
    caller.write(at + NAME as u64, &value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers_and_a_change_does_not() {
        let us = Caller { tid: rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned() };
        let mut host = Host::default();
        let ask = |host: &mut Host, what: u32, name: &str| {
            let asked: [std::cell::Cell<u8>; REQUEST] =
                std::array::from_fn(|n| std::cell::Cell::new(name.as_bytes().get(n).copied().unwrap_or(0)));
            request(host, us, what, asked.as_ptr() as u64)
                .map(|()| asked.iter().map(std::cell::Cell::get).collect::<Vec<u8>>())
        };
        let addr = ask(&mut host, GET_ADDR, "lo").expect("an address");
        assert_eq!(addr[NAME + 4..NAME + 8], [127, 0, 0, 1]);
        assert_eq!(ask(&mut host, GET_MASK, "lo").expect("a mask")[NAME + 4..NAME + 8], [255, 0, 0, 0]);
        assert_eq!(ask(&mut host, GET_INDEX, "lo").expect("a number")[NAME], 1);
        assert_eq!(ask(&mut host, GET_INDEX, "eth9"), Err(libc::ENODEV));
        assert_eq!(ask(&mut host, 0x8914, "lo"), Err(libc::EPERM));
        assert_eq!(ask(&mut host, 0x8940, "lo"), Err(libc::EOPNOTSUPP));
    }
}
