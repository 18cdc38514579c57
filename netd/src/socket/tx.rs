//! A socket's send stream: what the client has written, checked, and where its bytes lie.

use super::session::Session;
use proto::PeerCorrupt;
use proto::arena::WINDOW_MAX;
use proto::arena::place::{Direction, pieces};
use proto::id::SlotIndex;
use proto::shm::Memory;

/// Takes over the client's word for how much it has written.
///
/// # Errors
/// [`PeerCorrupt`] when the cursor went backwards or beyond the window it was given.
pub fn check_written(written: u64, before: u64, acked: u64) -> Result<u64, PeerCorrupt> {
    if written < before || written.saturating_sub(acked) > u64::from(WINDOW_MAX) {
        return Err(PeerCorrupt::new("written cursor moved backwards or past the window"));
    }
    Ok(written)
}

/// Calls `each` with the arena offset and length of every piece of the send stream's bytes
/// `offset..offset + len`, in order. The caller has checked the range against the cursors.
///
/// # Errors
/// [`PeerCorrupt`] when the client's page table names no page of the arena.
pub fn for_each_piece<M: Memory + Clone>(
    session: &Session<M>,
    slot: SlotIndex,
    offset: u64,
    len: usize,
    mut each: impl FnMut(usize, usize),
) -> Result<(), PeerCorrupt> {
    for piece in pieces(offset, len) {
        let page = Direction::Tx.page(&session.memory, &session.geometry, slot, piece.entry)?;
        each(Direction::Tx.byte_at(&session.geometry, page, piece.within), piece.len);
    }
    Ok(())
}
