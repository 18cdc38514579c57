//! The states of a connection (RFC 9293 §3.3.2) and how one ends.

/// A connection's state. LISTEN is not among them: a listener has no control block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum State {
    /// No connection: the block may be freed.
    #[default]
    Closed = 0,
    /// A SYN was sent.
    SynSent = 1,
    /// A SYN was received and answered.
    SynReceived = 2,
    /// Data flows.
    Established = 3,
    /// The local side closed; its FIN is not acknowledged.
    FinWait1 = 4,
    /// The local side's FIN is acknowledged.
    FinWait2 = 5,
    /// The remote closed.
    CloseWait = 6,
    /// Both closed at once.
    Closing = 7,
    /// The remote closed, then the local side; its FIN is not acknowledged.
    LastAck = 8,
    /// Both closed; waiting out old segments.
    TimeWait = 9,
}

impl State {
    /// From the number a record keeps.
    pub const fn from_number(number: u8) -> Option<State> {
        Some(match number {
            0 => State::Closed,
            1 => State::SynSent,
            2 => State::SynReceived,
            3 => State::Established,
            4 => State::FinWait1,
            5 => State::FinWait2,
            6 => State::CloseWait,
            7 => State::Closing,
            8 => State::LastAck,
            9 => State::TimeWait,
            _ => return None,
        })
    }

    /// The number a record keeps.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// RFC 9293 §3.3.2: whether both sides know both initial sequence numbers.
    pub const fn is_synchronised(self) -> bool {
        !matches!(self, State::Closed | State::SynSent | State::SynReceived)
    }

    /// Whether payload of the remote is taken (RFC 9293 §3.10.7.4, seventh step).
    pub const fn takes_data(self) -> bool {
        matches!(self, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Whether payload or a FIN of the local side may leave, for the first time or again.
    pub const fn sends_data(self) -> bool {
        matches!(
            self,
            State::Established | State::FinWait1 | State::CloseWait | State::Closing | State::LastAck
        )
    }

    /// Whether the remote's FIN has been received.
    pub const fn has_remote_fin(self) -> bool {
        matches!(self, State::CloseWait | State::Closing | State::LastAck | State::TimeWait)
    }
}

/// Why a connection ended other than by an orderly close: what a client finds as its error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Failure {
    /// ECONNREFUSED: the SYN was answered by a RST, or by an ICMP port unreachable.
    ConnectionRefused = 1,
    /// ECONNRESET: the remote reset the connection.
    ConnectionReset = 2,
    /// ETIMEDOUT: the remote did not answer in time.
    TimedOut = 3,
    /// EHOSTUNREACH: routers said so while nothing else was heard.
    HostUnreachable = 4,
    /// ENETUNREACH: as above, for the network.
    NetworkUnreachable = 5,
    /// The local side aborted; nobody is left to be told.
    Aborted = 6,
}

impl Failure {
    /// The errno a client finds, as Linux numbers them.
    pub const fn errno(self) -> u8 {
        match self {
            Failure::ConnectionRefused => 111,
            Failure::ConnectionReset => 104,
            Failure::TimedOut => 110,
            Failure::HostUnreachable => 113,
            Failure::NetworkUnreachable => 101,
            Failure::Aborted => 103,
        }
    }

    /// Back from the errno; `None` for 0 and for those that stand for nothing here.
    pub const fn from_errno(errno: u8) -> Option<Failure> {
        Some(match errno {
            111 => Failure::ConnectionRefused,
            104 => Failure::ConnectionReset,
            110 => Failure::TimedOut,
            113 => Failure::HostUnreachable,
            101 => Failure::NetworkUnreachable,
            103 => Failure::Aborted,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_there_and_back() {
        let mut known = 0;
        for number in 0..=u8::MAX {
            if let Some(state) = State::from_number(number) {
                assert_eq!(state.number(), number);
                known += 1;
            }
        }
        assert_eq!(known, 10);
    }
}
