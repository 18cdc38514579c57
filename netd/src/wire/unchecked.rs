//! What a transport header says before its checksum has been looked at, and what goes into the checksum
//! field on the way out.
//!
//! The sum of a payload is taken while it is copied, or by the device, so a parser can't verify it
//! itself. Its answer is therefore an [`Unchecked`] value, which can't be used before somebody has either
//! verified it or said that the device or the sender on this host vouches for it.

use super::checksum::Sum;
use super::drop_reason::DropReason;

/// A parsed header whose checksum still has to be verified.
#[derive(Debug, Clone, Copy)]
#[must_use = "a header whose checksum nobody looks at must not be used"]
pub struct Unchecked<T> {
    value: T,
    covered: usize,
    pseudo: Sum,
    present: bool,
    reason: DropReason,
}

impl<T> Unchecked<T> {
    pub(super) const fn new(value: T, covered: usize, pseudo: Sum, reason: DropReason) -> Unchecked<T> {
        Unchecked { value, covered, pseudo, present: true, reason }
    }

    /// The sender computed no checksum, and may do so.
    pub(super) fn without_checksum(self) -> Unchecked<T> {
        Unchecked { present: false, ..self }
    }

    /// How many bytes the checksum covers, from the first byte of this header on; 0 when the sender
    /// computed none, so that nothing needs to be summed.
    pub const fn covered(&self) -> usize {
        if self.present { self.covered } else { 0 }
    }

    /// What the header says before anybody vouches for it: enough to decide where its payload is copied to
    /// while it is summed, where that can be taken back. Nothing else may follow from it.
    pub const fn peek(&self) -> &T {
        &self.value
    }

    /// The header, when `sum`, taken over the first [`covered`](Unchecked::covered) bytes, is right.
    ///
    /// # Errors
    /// The protocol's checksum reason.
    pub fn verify(self, sum: Sum) -> Result<T, DropReason> {
        if !self.present || self.pseudo.then_sum(sum).is_valid() { Ok(self.value) } else { Err(self.reason) }
    }

    /// [`verify`](Unchecked::verify) for a message that lies in one piece.
    ///
    /// # Errors
    /// The protocol's checksum reason; also when `bytes` are fewer than the checksum covers.
    pub fn verify_bytes(self, bytes: &[u8]) -> Result<T, DropReason> {
        match bytes.get(..self.covered()) {
            Some(covered) => self.verify(Sum::of(covered)),
            None => Err(self.reason),
        }
    }

    /// The header, its checksum verified by the device, or never computed because the packet has not left
    /// this host.
    pub fn trust(self) -> T {
        self.value
    }
}

/// What goes into a checksum field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The whole checksum; the payload's bytes have this sum.
    Full(Sum),
    /// The pseudo header's sum alone: the device adds the rest (virtio `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Device,
}

impl Checksum {
    /// The field's value for a header that was written with zero in the field.
    pub(super) fn field(self, pseudo: Sum, header: &[u8]) -> u16 {
        match self {
            Checksum::Full(payload) => pseudo.then(header).then_sum(payload).field(),
            Checksum::Device => pseudo.folded(),
        }
    }
}
