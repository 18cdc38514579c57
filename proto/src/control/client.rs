//! What a client asks of sockd: one SEQPACKET record a request, one a reply, bincode with a limit.
//!
//! A session has one request in flight at a time. sockd looks at it (MSG_PEEK), writes its intent
//! down, does it, replies, and only then takes it off the socket: a sockd that dies in between is
//! followed by one that finds the request again. A client may therefore see a reply twice, and
//! drops the one whose number it no longer waits for.

use crate::arena::Geometry;
use crate::form::{Form, Share};
use crate::id::{Epoch, SessionId, SlotIndex};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// The protocol's version; sockd refuses a client of another one by EPROTONOSUPPORT.
pub const VERSION: u32 = 2;
/// The largest request or reply in bytes.
pub const MESSAGE_MAX: u64 = 512;

/// A request with its number, which counts up from 1 in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its number.
    pub number: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What a client can ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Open the session; first, once. Numbers of 0 take the defaults; sockd may give less.
    Open {
        /// [`VERSION`] of the client.
        version: u32,
        /// How many sockets it will open itself.
        active: u32,
        /// How many connections it will accept at a time.
        passive: u32,
        /// Send pages.
        tx_pages: u32,
        /// Receive pages.
        rx_pages: u32,
    },
    /// Connect to a remote. Port 0 of `local` lets sockd choose; so does an unspecified address.
    Connect {
        /// Our side.
        local: SocketAddr,
        /// The remote.
        remote: SocketAddr,
        /// The SYN waits for the client's first word: its options count for it, and its data may go in it.
        hold: bool,
    },
    /// Listen for connections.
    Listen {
        /// Our side.
        local: SocketAddr,
        /// How many connections may wait for accept.
        backlog: u32,
        /// With whom it shares its port.
        share: Share,
    },
    /// Open a socket of datagrams.
    Datagram {
        /// Our side. Of a packet socket the port is the index of its interface, 0 for all.
        local: SocketAddr,
        /// What its datagrams are.
        form: Form,
        /// With whom it shares its port.
        share: Share,
    },
    /// Give an open UDP socket its only remote; unspecified undoes it.
    DatagramConnect {
        /// The socket's place.
        slot: SlotIndex,
        /// The remote.
        remote: SocketAddr,
    },
}

impl Ask {
    /// A UDP socket that shares its port with nobody.
    pub const fn udp(local: SocketAddr) -> Ask {
        Ask::Datagram { local, form: Form::Udp, share: Share::NONE }
    }

    /// A listener that shares its port with nobody.
    pub const fn listen(local: SocketAddr, backlog: u32) -> Ask {
        Ask::Listen { local, backlog, share: Share::NONE }
    }
}

/// A reply to the request of that number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's number.
    pub number: u64,
    /// The answer; errno on failure.
    pub result: Result<Granted, u32>,
}

/// What was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Granted {
    /// The session. Descriptors: the arena; the reading end of the pipe that wakes the client; for
    /// each shard the writing end of the pipe that wakes it.
    Session {
        /// Its name.
        session: SessionId,
        /// How the arena is divided.
        geometry: Geometry,
    },
    /// A socket. A connection is under way, not yet established.
    Socket {
        /// Its place.
        slot: SlotIndex,
        /// Which use of that place.
        epoch: Epoch,
        /// The shard that owns it, or [`EVERY_SHARD`](crate::arena::EVERY_SHARD): then it lies in a row of
        /// places from `slot` on, one of each shard, all of the same epoch.
        shard: u16,
        /// Our side.
        local: SocketAddr,
    },
}
