//! A socket in netd: its record, its place in an arena, and the machine of its kind.

use crate::ip::groups::Sources;
use crate::ip::header_len;
use crate::socket::rx::RxPages;
use crate::tcp::control_block::ControlBlock;
use crate::tcp::state::State as TcpState;
use crate::tcp::window::ROUNDING_SLACK;
use core::net::IpAddr;
use proto::arena::line::{StackLine, level};
use proto::arena::record::{Header, record_size};
use proto::arena::wishes::Wishes;
use proto::arena::{WINDOW_MAX, line::ClientLine};
use proto::bpf::Program;
use proto::cell::Held;
use proto::control::operations::SocketRef;
use proto::hard::conns::{Agreed, Opening, State, TcpState as RecordState};

/// A socket and all that netd privately knows of it.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Its cell in the connection table; the cell's index is the socket's everywhere in the stack.
    pub held: Held,
    /// The written-once part of its record.
    pub opening: Opening,
    /// The second written-once part, when it has been committed or is about to be.
    pub agreed: Option<Agreed>,
    /// The second part, to be committed with the next batch.
    pub agreed_next: Option<Agreed>,
    /// What the cell says; `None` until the first commit.
    pub committed: Option<State>,
    /// Its place in an arena; `None` before the handshake of a passive connection ends, and after
    /// the place was left.
    pub at: Option<SocketRef>,
    /// netd's line as it stands in the arena.
    pub line: StackLine,
    /// Publish and tell the client whatever the line was before (INV-R6).
    pub told_anew: bool,
    /// What the client wrote in its line when it was last looked at.
    pub client: ClientLine,
    /// Its receive pages.
    pub rx: RxPages,
    /// It stands in the batch's list.
    pub dirty: bool,
    /// It stands in a list of those that have something to send, or of those that wait to.
    pub tx_pending: bool,
    /// Segments sent again by this incarnation.
    pub retransmits: u32,
    /// It counts among the half-open connections of its listener.
    pub half_open: bool,
    /// The client has closed it, or is gone.
    pub closed: bool,
    /// How far the client's wishes are: see [`StackLine::wishes`].
    pub granted: u32,
    /// The machine.
    pub kind: Kind,
}

/// What a socket is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A TCP connection.
    Tcp(Box<ControlBlock>),
    /// A TCP listener.
    Listener(Listener),
    /// A UDP socket.
    Udp(Udp),
}

/// A listener: its receive stream is the accept queue.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    /// Connections that wait in SYN-RECEIVED.
    pub half_open: u32,
    /// Connections ever put into the accept queue.
    pub queued: u64,
    /// Whether connections come in; before that it only has its port.
    pub listens: bool,
}

/// A UDP socket.
#[derive(Debug, Default)]
pub(crate) struct Udp {
    /// Bytes of the receive stream written.
    pub received: u64,
    /// Bytes of the send stream taken.
    pub sent: u64,
    /// Bytes of the payload of the record at `sent` that have left, of one with several segments.
    pub cut: u32,
    /// An ICMP error to be reported, as errno.
    pub error: u8,
    /// The last record: what goes on where it ends may become part of it.
    pub joint: Option<Joint>,
    /// What the client wishes beyond flags.
    pub wished: Option<Box<Wished>>,
}

/// What a client wishes of a socket, ready to be used.
#[derive(Debug)]
pub(crate) struct Wished {
    /// As it says it.
    pub wishes: Wishes,
    /// What it lets pass.
    pub filter: Program,
    /// Its groups: the interface, the group as it stands on the wire, and which sources.
    pub groups: Vec<(u16, IpAddr, Sources)>,
}

/// The last record of a receive stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joint {
    /// Where it begins.
    pub start: u64,
    /// Its header.
    pub header: Header,
}

/// Bytes of a receive stream that TCP may promise: the page table less what rounding may add.
pub(crate) const RECEIVE_LIMIT: u32 = WINDOW_MAX - ROUNDING_SLACK as u32;

/// Bytes that may be written ahead on a connection whose window is small.
const SEND_FIRST: u32 = 256 << 10;

/// Bytes of an accept record in a listener's receive stream.
pub(crate) const ACCEPT_RECORD: u64 = record_size(0) as u64;

impl Udp {
    /// Whether several datagrams may come in one record (UDP_GRO).
    pub fn joins(&self) -> bool {
        self.wished.as_ref().is_some_and(|wished| wished.wishes.runs)
    }
}

impl Listener {
    /// As its record has it: one that only has its port is closed.
    fn state(&self) -> RecordState {
        if self.listens { RecordState::Listen } else { RecordState::Closed }
    }

    /// Connections that were queued and not accepted.
    pub fn waiting(&self, consumed: u64) -> u64 {
        self.queued - consumed / ACCEPT_RECORD
    }
}

impl Socket {
    /// A socket with a cell of its own and no place yet.
    pub fn new(held: Held, opening: Opening, kind: Kind) -> Socket {
        Socket {
            held,
            opening,
            agreed: None,
            agreed_next: None,
            committed: None,
            at: None,
            line: StackLine::default(),
            told_anew: false,
            client: ClientLine::default(),
            rx: RxPages::default(),
            dirty: false,
            tx_pending: false,
            retransmits: 0,
            half_open: false,
            closed: false,
            granted: 0,
            kind,
        }
    }

    /// The bytes that may be read, as the committed record or the coming one says.
    pub fn received(&self) -> u64 {
        match &self.kind {
            Kind::Tcp(block) => block.received(),
            Kind::Listener(listener) => listener.queued * ACCEPT_RECORD,
            Kind::Udp(udp) => udp.received,
        }
    }

    /// The end of everything that lies in the receive pages.
    pub fn highest(&self) -> u64 {
        match &self.kind {
            Kind::Tcp(block) => block.received_highest(),
            _ => self.received(),
        }
    }

    /// The bytes of the send stream that are done with.
    pub fn acked(&self) -> u64 {
        match &self.kind {
            Kind::Tcp(block) => block.acknowledged(),
            Kind::Listener(_) => 0,
            Kind::Udp(udp) => udp.sent,
        }
    }

    /// The record's state as it is to be committed.
    pub fn state(&self) -> State {
        let mut state = match &self.kind {
            Kind::Tcp(block) => block.state_values(header_len(self.opening.remote.ip()) as u16),
            Kind::Listener(_) | Kind::Udp(_) => {
                let tcp_state = match &self.kind {
                    Kind::Listener(listener) => listener.state(),
                    _ => RecordState::Closed,
                };
                let error = if let Kind::Udp(udp) = &self.kind { udp.error } else { 0 };
                State { snd_una: self.acked(), rcv_nxt: self.received(), error, ..State::new(tcp_state) }
            }
        };
        state.detached = self.at.is_none() && self.has_had_place() || self.leaving_place();
        state
    }

    fn has_had_place(&self) -> bool {
        match &self.kind {
            Kind::Tcp(_) => self.opening.op.0 != 0 || self.agreed.is_some() || self.agreed_next.is_some(),
            _ => true,
        }
    }

    /// netd's line as the socket now is.
    pub fn line_now(&self) -> StackLine {
        let mut line =
            StackLine { received: self.received(), acked: self.acked(), window: WINDOW_MAX, ..self.line };
        let mut flags = self.line.flags & level::OPEN;
        match &self.kind {
            Kind::Tcp(block) => {
                if block.state().is_synchronised() {
                    flags |= level::OPEN;
                }
                if block.remote_end().is_some() {
                    flags |= level::END;
                }
                if let Some(failure) = block.failure() {
                    line.error = u32::from(failure.errno());
                    flags |= level::ERROR;
                }
                if block.local_end_acknowledged() {
                    flags |= level::SENT;
                }
                line.urgent = 0;
                if let Some(octet) = block.urgent_offset() {
                    line.urgent = octet as u32;
                    flags |= level::URGENT;
                }
                // As Linux (tcp_sndbuf_expand): twice the window, so that it is never lack of data that limits
                // it; less where nothing is gained by more.
                line.window = block.cwnd().saturating_mul(2).clamp(SEND_FIRST, WINDOW_MAX);
                // TCP_NOTSENT_LOWAT (tcp(7)): so much more may be written than has left.
                if self.client.notsent_lowat != 0 {
                    let ahead = block.in_flight() + u64::from(self.client.notsent_lowat);
                    line.window = line.window.min(u32::try_from(ahead).unwrap_or(u32::MAX));
                }
                let figures = block.figures();
                line.srtt_us = figures.srtt_us;
                line.rttvar_us = figures.rttvar_us;
                line.cwnd = figures.cwnd;
                line.retransmits = self.retransmits;
                line.mss_state = u32::from(figures.mss) | u32::from(block.state().number()) << 16;
            }
            Kind::Listener(listener) => {
                flags = if listener.listens { level::OPEN } else { 0 };
                line.mss_state = (listener.state() as u32) << 16;
            }
            Kind::Udp(udp) => {
                flags |= level::OPEN;
                line.set_wishes(self.granted);
                if udp.error != 0 {
                    line.error = u32::from(udp.error);
                    flags |= level::ERROR;
                }
            }
        }
        if self.leaving_place() {
            flags |= level::GONE;
        }
        line.flags = flags;
        line
    }

    /// Whether the arena place is not needed any more: the client has closed the socket, and
    /// everything it wrote is acknowledged or the connection is over.
    pub fn leaving_place(&self) -> bool {
        self.at.is_some()
            && self.closed
            && match &self.kind {
                Kind::Tcp(block) => block.state() == TcpState::Closed || block.local_end_acknowledged(),
                Kind::Listener(_) => true,
                // What was written before the close still leaves.
                Kind::Udp(udp) => udp.sent == self.client.written,
            }
    }

    /// Whether nothing is left to be done and the record may go.
    pub fn is_over(&self) -> bool {
        self.at.is_none()
            && match &self.kind {
                Kind::Tcp(block) => block.state() == TcpState::Closed,
                Kind::Listener(_) | Kind::Udp(_) => true,
            }
    }
}
