//! A socket as the ledger has it, and back.

use crate::bridge::{Bridge, State};
use crate::ledger::{Head, Record, flag, phase, what};
use crate::native;
use crate::program::Errno;
use libnetclient::resume::Place;
use netclient::resume::{OPTIONS_SIZE, Snapshot, What};
use proto::id::{Epoch, SlotIndex};
use std::net::{Ipv4Addr, SocketAddr};
use zerocopy::FromZeros;

/// A connection that was just taken off the queue of the listener `listener`.
/// It has the options of that one.
pub fn returned(
    (listener, options): (usize, [u8; OPTIONS_SIZE]),
    family: i32,
    place: Place,
    peer: SocketAddr,
) -> Record {
    let what = What::Stream { place, peer, begun: false };
    let record = Record {
        phase: phase::RETURNED,
        family,
        kind: libc::SOCK_STREAM,
        ours: -1,
        listener: listener as u32 + 1,
        options,
        ..Record::new_zeroed()
    };
    with_what(record, what)
}

/// The record of a bridge as it stands.
///
/// # Errors
/// EBADF.
pub fn of(bridge: &Bridge) -> Result<Record, Errno> {
    if let State::Netlink(protocol) = bridge.state {
        return Ok(Record {
            phase: phase::LIVES,
            family: libc::AF_NETLINK,
            kind: protocol.number(),
            what: what::NETLINK,
            socket: bridge.socket,
            caller: bridge.caller.tid,
            ..bridge.written
        });
    }
    let Snapshot { family, kind, what, options } = native::snapshot(bridge.native)?;
    let (mut flags, mut head, mut filled) = (0, Head::new_zeroed(), 0);
    match &bridge.state {
        State::Connecting { filled: bytes, .. } => filled = *bytes as u64,
        State::Stream => flags |= flag::STREAM,
        State::Datagram { bound, connected, head: from, .. } => {
            flags |= if *bound { flag::BOUND } else { 0 } | if *connected { flag::CONNECTED } else { 0 };
            head = from.as_deref().into();
        }
        State::Fresh | State::Listening { .. } | State::Netlink(_) => {}
    }
    let record = Record {
        phase: if matches!(bridge.state, State::Connecting { .. }) {
            phase::CONNECTING
        } else {
            phase::LIVES
        },
        flags,
        family,
        kind,
        socket: bridge.socket,
        error: bridge.error.unwrap_or(0),
        head,
        options,
        base: bridge.base,
        filled,
        notice: bridge.done.0,
        answer: bridge.done.1,
        caller: bridge.caller.tid,
        ..bridge.written
    };
    Ok(with_what(record, what))
}

/// The two ends of a socket as the stack shows them, the second if there is one; `None` of one that has no
/// place.
pub fn ends(what: What) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let plain = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    match what {
        What::Fresh => None,
        What::Listener { place, .. } => Some((place.local, None)),
        What::Stream { place, peer, .. } => Some((plain(place.local), Some(plain(peer)))),
        What::Datagram { place, peer } => Some((plain(place.local), peer.map(plain))),
    }
}

fn with_what(mut record: Record, what: What) -> Record {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    let (number, place, peer, more) = match what {
        What::Fresh => (what::FRESH, None, None, 0),
        What::Listener { place, listening } => {
            (what::LISTENER, Some(place), None, bit(listening, flag::LISTENING))
        }
        What::Stream { place, peer, begun } => {
            (what::STREAM, Some(place), Some(peer), bit(begun, flag::BEGUN))
        }
        What::Datagram { place, peer } => (what::DATAGRAM, Some(place), peer, 0),
    };
    (record.what, record.flags) = (number, record.flags | more | bit(peer.is_some(), flag::PEER));
    record.peer = peer.into();
    if let Some(Place { slot, epoch, shard, local }) = place {
        (record.slot, record.epoch, record.shard) = (slot.0, epoch.0, shard.into());
        record.local = Some(local).into();
    }
    record
}

/// What the session's socket of a record was.
pub fn snapshot(record: &Record) -> Snapshot {
    let has = |bit: u32| record.flags & bit != 0;
    let local = Option::<SocketAddr>::from(record.local);
    let peer = Option::<SocketAddr>::from(record.peer);
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let place = Place {
        slot: SlotIndex(record.slot),
        epoch: Epoch(record.epoch),
        shard: record.shard as u16,
        local: local.unwrap_or(nowhere),
    };
    let what = match record.what {
        what::LISTENER => What::Listener { place, listening: has(flag::LISTENING) },
        what::STREAM => What::Stream { place, peer: peer.unwrap_or(nowhere), begun: has(flag::BEGUN) },
        what::DATAGRAM => What::Datagram { place, peer },
        _ => What::Fresh,
    };
    Snapshot { family: record.family, kind: record.kind, what, options: record.options }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_socket_is_comes_back_from_its_record() {
        let local = "10.0.0.1:80".parse().expect("an address");
        let peer: SocketAddr = "[2001:db8::1]:9".parse().expect("an address");
        let place = Place { slot: SlotIndex(7), epoch: Epoch(9), shard: u16::MAX, local };
        let all = [
            What::Fresh,
            What::Listener { place, listening: true },
            What::Listener { place, listening: false },
            What::Stream { place, peer, begun: true },
            What::Stream { place, peer, begun: false },
            What::Datagram { place, peer: None },
            What::Datagram { place, peer: Some(peer) },
        ];
        for what in all {
            assert_eq!(snapshot(&with_what(Record::new_zeroed(), what)).what, what);
        }
    }
}
