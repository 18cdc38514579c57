//! TCP's reasons under the names that all counters share.

use crate::tcp::reaction::DropReason as Tcp;
use crate::wire::drop_reason::DropReason;

impl From<Tcp> for DropReason {
    fn from(reason: Tcp) -> Self {
        match reason {
            Tcp::NoConnection => DropReason::NoSocket,
            Tcp::OutsideWindow => DropReason::TcpInvalidSequence,
            Tcp::OldData => DropReason::TcpOldData,
            Tcp::Paws => DropReason::TcpRfc7323Paws,
            Tcp::BlindReset | Tcp::IgnoredReset => DropReason::TcpInvalidRst,
            Tcp::BlindSyn => DropReason::TcpInvalidSyn,
            Tcp::BadAck => DropReason::TcpAckUnsentData,
            Tcp::NoAck | Tcp::Unexpected | Tcp::BadFlags => DropReason::TcpFlags,
            Tcp::OutOfOrderFull => DropReason::TcpOfoDrop,
            Tcp::AfterClose | Tcp::AfterFin => DropReason::TcpClose,
            Tcp::BacklogFull => DropReason::TcpListenOverflow,
            Tcp::BadCookie => DropReason::TcpCookieInvalid,
        }
    }
}
