//! The connection table: what netd knows that the two ends of a connection could disagree about.
//!
//! Written by netd, read-only for sockd and netctl. A record is one cell: [`Opening`] when the
//! socket comes to be, [`Agreed`] when a handshake ends, [`State`] after every batch that changed
//! it. Stream positions are *extended sequence positions*, 64 bits, counted from the initial
//! sequence number: the SYN is 0, data byte `i` is `i + 1`, the FIN comes after the last byte.
//! Of a direction one base is stored in full, the other edges as 32-bit distances from it
//! (a window is at most 2^30 bytes, RFC 7323 §2.3).

use super::pack::{Pack, Unpack};
use crate::cell::{AGREED_SIZE, OPENING_SIZE, STATE_SIZE};
use crate::form::{Form, Share};
use crate::id::{Epoch, OpId, RecordIndex, SessionId, SlotIndex};
use core::net::SocketAddr;

/// Layout version of the region; changes with any field below.
pub const LAYOUT: u32 = 2;

/// What kind of socket a record stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A TCP connection that the client opened.
    TcpActive = 1,
    /// A TCP connection that came in through a listener.
    TcpPassive = 2,
    /// A listening TCP socket; its receive stream is the accept queue.
    TcpListener = 3,
    /// A socket of datagrams, [`Opening::form`] says which.
    Udp = 4,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Kind> {
        [Kind::TcpActive, Kind::TcpPassive, Kind::TcpListener, Kind::Udp]
            .into_iter()
            .find(|k| *k as u8 == value)
    }
}

/// What two ends agreed on in their SYNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The largest segment payload the remote takes, in bytes (RFC 9293 §3.7.1).
    pub mss: u16,
    /// Shift of windows that the remote sends (RFC 7323 §2.2).
    pub snd_wscale: u8,
    /// Shift of windows that we send.
    pub rcv_wscale: u8,
    /// Both sides do window scaling.
    pub wscale: bool,
    /// Both sides do selective acknowledgement (RFC 2018).
    pub sack: bool,
    /// Both sides do timestamps (RFC 7323 §3).
    pub timestamps: bool,
    /// Both sides do ECN (RFC 3168).
    pub ecn: bool,
}

/// Written once, when the socket comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// What it is.
    pub kind: Kind,
    /// The shard that owns it.
    pub shard: u16,
    /// Our address; unspecified for a wildcard listener or UDP socket.
    pub local: SocketAddr,
    /// The remote's address; unspecified where there is none.
    pub remote: SocketAddr,
    /// The session it belongs to.
    pub session: SessionId,
    /// The operation that asked for it; 0 for `TcpPassive`.
    pub op: OpId,
    /// Its place in the session's arena; of no meaning for `TcpPassive` before the handshake ends.
    pub slot: SlotIndex,
    /// Which use of that place.
    pub epoch: Epoch,
    /// Our initial sequence number (RFC 9293 §3.4.1).
    pub iss: u32,
    /// For `TcpPassive`: the remote's initial sequence number.
    pub irs: u32,
    /// For `TcpPassive`: what the SYN offered and we took.
    pub options: Options,
    /// Added to the clock to make our timestamps (RFC 7323 §5.4).
    pub ts_offset: u32,
    /// For `TcpPassive`: the record of its listener.
    pub listener: RecordIndex,
    /// For `TcpPassive`: which use of that record; tells the listener from a later one in its cell.
    pub listener_serial: u32,
    /// For `TcpListener`: how many connections may wait for accept; 0 for one that only has its port until its
    /// client's line says how many. For `TcpActive`: 1 when the SYN waits for
    /// the client's first word.
    pub backlog: u32,
    /// For `Udp`: what its datagrams are.
    pub form: Form,
    /// For `TcpListener` and `Udp`: with whom it shares its port.
    pub share: Share,
}

/// Written once, when the handshake ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreed {
    /// `TcpActive`: what the SYN-ACK brought.
    Active {
        /// The remote's initial sequence number.
        irs: u32,
        /// What both sides do.
        options: Options,
    },
    /// `TcpPassive`: where the connection went.
    Passive {
        /// Its place in the session's arena.
        slot: SlotIndex,
        /// Which use of that place.
        epoch: Epoch,
        /// Its number in the listener's accept queue, from 0 (INV-T9: handed over once).
        accept_index: u64,
    },
}

/// Where a connection stands in RFC 9293 §3.3.2. LISTEN is a record of its own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum TcpState {
    Closed = 0,
    SynSent = 1,
    SynReceived = 2,
    Established = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    CloseWait = 6,
    Closing = 7,
    LastAck = 8,
    TimeWait = 9,
    Listen = 10,
}

impl TcpState {
    /// From the number in a record or a socket's line.
    pub fn from_u8(value: u8) -> Option<TcpState> {
        use TcpState::*;
        [
            Closed,
            SynSent,
            SynReceived,
            Established,
            FinWait1,
            FinWait2,
            CloseWait,
            Closing,
            LastAck,
            TimeWait,
            Listen,
        ]
        .into_iter()
        .find(|s| *s as u8 == value)
    }

    /// The name as `ss` writes it.
    pub const fn name(self) -> &'static str {
        use TcpState::*;
        match self {
            Closed => "UNCONN",
            SynSent => "SYN-SENT",
            SynReceived => "SYN-RECV",
            Established => "ESTAB",
            FinWait1 => "FIN-WAIT-1",
            FinWait2 => "FIN-WAIT-2",
            CloseWait => "CLOSE-WAIT",
            Closing => "CLOSING",
            LastAck => "LAST-ACK",
            TimeWait => "TIME-WAIT",
            Listen => "LISTEN",
        }
    }
}

/// The part that changes; committed after each batch, before anything of the batch leaves netd.
///
/// For UDP `snd_una` and `rcv_nxt` are the freed and the received cursor; for a listener `rcv_nxt`
/// is the accept queue's written cursor. There positions are plain stream offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// RFC 9293 §3.3.2; `Closed` for UDP.
    pub tcp_state: TcpState,
    /// Oldest unacknowledged position (SND.UNA): what is committed here may be freed (INV-T2).
    pub snd_una: u64,
    /// Largest position ever sent, as a distance from `snd_una`.
    pub snd_max: u32,
    /// Right edge of the remote's window, as a distance from `snd_una`.
    pub snd_edge: u32,
    /// Next position expected (RCV.NXT): what is committed here may be acknowledged (INV-T1).
    pub rcv_nxt: u64,
    /// Largest right edge ever advertised, as a distance from `rcv_nxt`; never withdrawn (INV-T4).
    pub rcv_edge: u32,
    /// TS.Recent (RFC 7323 §4.3).
    pub ts_recent: u32,
    /// Our FIN was sent: it is the position before `snd_max`.
    pub fin_sent: bool,
    /// The remote's FIN was received: it is the position before `rcv_nxt`.
    pub fin_received: bool,
    /// No client is there any more: nothing is delivered, the arena place is not looked at.
    pub detached: bool,
    /// A mark of a router is still to be echoed (RFC 3168 §6.1.3).
    pub ecn_echo: bool,
    /// errno with which the connection ended, 0 while it has not; published before it is freed.
    pub error: u8,
    /// Smoothed round-trip time in units of 64 µs, saturating (4.19 s); 0 when unknown.
    pub srtt_64us: u16,
    /// Congestion window in segments, saturating.
    pub cwnd_segments: u16,
    /// Up to two ranges received out of order, as (distance from `rcv_nxt`, length); length 0 is none.
    /// A range that stands here stays acknowledged (INV-T6).
    pub ooo: [(u32, u32); 2],
    /// Path MTU in bytes; 0 when the interface's holds.
    pub pmtu: u16,
    /// The remote's urgent octet that the client has not passed, as a distance from `rcv_nxt`: it may be
    /// still to come. Within ±[`URGENT_MAX`].
    pub urgent: Option<i32>,
}

/// An urgent octet further away than this is not kept; windows and pointers are shorter.
pub const URGENT_MAX: i32 = (1 << 23) - 1;

/// Three bytes: the distance and this; 0 stands for none.
const URGENT_BIAS: i32 = 1 << 23;

const WSCALE: u8 = 1;
const SACK: u8 = 2;
const TIMESTAMPS: u8 = 4;
const ECN: u8 = 8;

const FIN_SENT: u8 = 1;
const FIN_RECEIVED: u8 = 2;
const DETACHED: u8 = 4;
const ECN_ECHO: u8 = 8;

impl Options {
    fn pack<const N: usize>(&self, out: &mut Pack<N>) {
        out.u16(self.mss);
        out.u8(self.snd_wscale);
        out.u8(self.rcv_wscale);
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        out.u8(bit(self.wscale, WSCALE)
            | bit(self.sack, SACK)
            | bit(self.timestamps, TIMESTAMPS)
            | bit(self.ecn, ECN));
    }

    fn unpack(from: &mut Unpack<'_>) -> Options {
        let (mss, snd_wscale, rcv_wscale, flags) = (from.u16(), from.u8(), from.u8(), from.u8());
        Options {
            mss,
            snd_wscale,
            rcv_wscale,
            wscale: flags & WSCALE != 0,
            sack: flags & SACK != 0,
            timestamps: flags & TIMESTAMPS != 0,
            ecn: flags & ECN != 0,
        }
    }
}

impl Opening {
    /// To the bytes of a cell.
    pub fn to_bytes(&self) -> [u8; OPENING_SIZE] {
        let mut out = Pack::new();
        out.u8(self.kind as u8);
        out.u8(self.share.to_bits());
        out.u16(self.shard);
        out.socket_addr(self.local);
        out.socket_addr(self.remote);
        out.u32(self.session.0);
        out.u64(self.op.0);
        out.u32(self.slot.0);
        out.u32(self.epoch.0);
        out.u32(self.iss);
        out.u32(self.irs);
        out.u32(self.ts_offset);
        out.u32(self.listener.0);
        out.u32(self.listener_serial);
        out.u32(self.backlog);
        self.options.pack(&mut out);
        let (tag, number) = self.form.to_parts();
        out.u8(tag);
        out.u16(number);
        out.finish()
    }

    /// From the bytes of a cell that matched its check; `None` when this binary does not know it.
    pub fn from_bytes(bytes: &[u8; OPENING_SIZE]) -> Option<Opening> {
        let mut from = Unpack::new(bytes);
        let kind = Kind::from_u8(from.u8())?;
        let share = Share::from_bits(from.u8())?;
        let opening = Opening {
            kind,
            share,
            form: Form::default(),
            shard: from.u16(),
            local: from.socket_addr(),
            remote: from.socket_addr(),
            session: SessionId(from.u32()),
            op: OpId(from.u64()),
            slot: SlotIndex(from.u32()),
            epoch: Epoch(from.u32()),
            iss: from.u32(),
            irs: from.u32(),
            ts_offset: from.u32(),
            listener: RecordIndex(from.u32()),
            listener_serial: from.u32(),
            backlog: from.u32(),
            options: Options::unpack(&mut from),
        };
        Some(Opening { form: Form::from_parts(from.u8(), from.u16())?, ..opening })
    }
}

impl Agreed {
    /// To the bytes of a cell.
    pub fn to_bytes(&self) -> [u8; AGREED_SIZE] {
        let mut out = Pack::new();
        match self {
            Agreed::Active { irs, options } => {
                out.u32(*irs);
                options.pack(&mut out);
            }
            Agreed::Passive { slot, epoch, accept_index } => {
                out.u32(slot.0);
                out.u32(epoch.0);
                out.u64(*accept_index);
            }
        }
        out.finish()
    }

    /// From the bytes of a cell of kind `kind`; `None` when that kind has no handshake.
    pub fn from_bytes(kind: Kind, bytes: &[u8; AGREED_SIZE]) -> Option<Agreed> {
        let mut from = Unpack::new(bytes);
        match kind {
            Kind::TcpActive => Some(Agreed::Active { irs: from.u32(), options: Options::unpack(&mut from) }),
            Kind::TcpPassive => Some(Agreed::Passive {
                slot: SlotIndex(from.u32()),
                epoch: Epoch(from.u32()),
                accept_index: from.u64(),
            }),
            Kind::TcpListener | Kind::Udp => None,
        }
    }
}

impl State {
    /// A socket on which nothing has happened.
    pub const fn new(tcp_state: TcpState) -> State {
        State {
            tcp_state,
            snd_una: 0,
            snd_max: 0,
            snd_edge: 0,
            rcv_nxt: 0,
            rcv_edge: 0,
            ts_recent: 0,
            fin_sent: false,
            fin_received: false,
            detached: false,
            ecn_echo: false,
            error: 0,
            srtt_64us: 0,
            cwnd_segments: 0,
            ooo: [(0, 0); 2],
            pmtu: 0,
            urgent: None,
        }
    }

    /// To the bytes of a state slot.
    pub fn to_bytes(&self) -> [u8; STATE_SIZE] {
        let mut out = Pack::new();
        out.u64(self.snd_una);
        out.u64(self.rcv_nxt);
        out.u32(self.snd_max);
        out.u32(self.snd_edge);
        out.u32(self.rcv_edge);
        out.u32(self.ts_recent);
        out.u8(self.tcp_state as u8);
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        out.u8(bit(self.fin_sent, FIN_SENT)
            | bit(self.fin_received, FIN_RECEIVED)
            | bit(self.detached, DETACHED)
            | bit(self.ecn_echo, ECN_ECHO));
        out.u8(self.error);
        let urgent =
            self.urgent.filter(|at| at.abs() <= URGENT_MAX).map_or(0, |at| (at + URGENT_BIAS) as u32);
        out.u8((urgent >> 16) as u8);
        out.u16(self.srtt_64us);
        out.u16(self.cwnd_segments);
        for (start, len) in self.ooo {
            out.u32(start);
            out.u32(len);
        }
        out.u16(self.pmtu);
        out.u16(urgent as u16);
        out.finish()
    }

    /// From the bytes of a state slot; `None` when this binary does not know it.
    pub fn from_bytes(bytes: &[u8; STATE_SIZE]) -> Option<State> {
        let mut from = Unpack::new(bytes);
        let (snd_una, rcv_nxt) = (from.u64(), from.u64());
        let (snd_max, snd_edge, rcv_edge, ts_recent) = (from.u32(), from.u32(), from.u32(), from.u32());
        let tcp_state = TcpState::from_u8(from.u8())?;
        let (flags, error, urgent) = (from.u8(), from.u8(), from.u8());
        let (srtt_64us, cwnd_segments) = (from.u16(), from.u16());
        let ooo = [(from.u32(), from.u32()), (from.u32(), from.u32())];
        let (pmtu, urgent_low) = (from.u16(), from.u16());
        let urgent = i32::from(urgent) << 16 | i32::from(urgent_low);
        Some(State {
            tcp_state,
            snd_una,
            snd_max,
            snd_edge,
            rcv_nxt,
            rcv_edge,
            ts_recent,
            fin_sent: flags & FIN_SENT != 0,
            fin_received: flags & FIN_RECEIVED != 0,
            detached: flags & DETACHED != 0,
            ecn_echo: flags & ECN_ECHO != 0,
            error,
            srtt_64us,
            cwnd_segments,
            ooo,
            pmtu,
            urgent: (urgent != 0).then_some(urgent - URGENT_BIAS),
        })
    }
}
