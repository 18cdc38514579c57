//! ICMP errors about a connection (RFC 9293 §3.9.2.2, RFC 1122 §4.2.3.9, RFC 5927).
//!
//! The IP layer finds the connection from the packet that the error quotes, and hands on what kind
//! it was and the quoted sequence number. Anybody can forge such a packet: only one that quotes a
//! number in flight is looked at (RFC 5927 §4.1), and none of them ends a synchronised connection
//! (RFC 5927 §5.2).

use proto::time::Instant;

use super::control_block::ControlBlock;
use super::reaction::Reaction;
use super::seq::{Position, SeqNum};
use super::settings::MSS_MIN;
use super::state::{Failure, State};

/// What an ICMP error says, the same for both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// Network unreachable or prohibited.
    NetworkUnreachable,
    /// Host unreachable or prohibited, or time exceeded on the way.
    HostUnreachable,
    /// Protocol or port unreachable.
    PortUnreachable,
    /// A packet was too big: octets the path carries behind IP header and a TCP header without
    /// options.
    PacketTooBig {
        /// The next hop's MTU less IP header less 20.
        path_mss: u16,
    },
}

impl IcmpError {
    fn failure(self) -> Failure {
        match self {
            IcmpError::NetworkUnreachable => Failure::NetworkUnreachable,
            IcmpError::HostUnreachable | IcmpError::PacketTooBig { .. } => Failure::HostUnreachable,
            IcmpError::PortUnreachable => Failure::ConnectionRefused,
        }
    }
}

impl ControlBlock {
    /// An ICMP error quotes a segment of this connection with sequence number `seq`.
    pub fn on_icmp(&mut self, now: Instant, error: IcmpError, seq: SeqNum) -> Reaction {
        // RFC 5927 §4.1: the quoted number is in flight.
        let in_flight = Position::near(seq, self.iss, self.send.una)
            .is_some_and(|place| self.send.una <= place && place < self.send.nxt);
        if !in_flight || self.state == State::Closed {
            return Reaction::none();
        }
        match error {
            IcmpError::PacketTooBig { path_mss } => {
                self.hear_path_mss(now, path_mss);
                Reaction::none()
            }
            // As Linux and BSD (RFC 5461 §4.1): while nothing is agreed, an error ends the try, so
            // that the client can take the next address.
            _ if self.state == State::SynSent => self.finish(error.failure()),
            // RFC 1122 §4.2.3.9: what is soft, and by RFC 5927 §5.2 here all is, is only remembered
            // as the reason should the connection time out.
            _ => {
                self.soft_failure = Some(match error.failure() {
                    Failure::ConnectionRefused => Failure::HostUnreachable,
                    soft => soft,
                });
                Reaction::none()
            }
        }
    }

    /// The path's segment size, as path MTU discovery or a route change has it; it may grow here.
    pub fn set_path_mss(&mut self, path_mss: u16) {
        self.path_mss = path_mss.max(MSS_MIN).min(self.advertised_mss);
    }
}
