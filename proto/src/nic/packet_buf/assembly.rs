//! From the descriptors of the receive ring to packet buffers. What nicd wrote is checked here (INV-R1).

use super::{Csum, Gso, Marks, PacketBuf, Piece};
use crate::error::PeerCorrupt;
use crate::nic::descriptor::{Descriptor, flag};
use crate::nic::pool::FramePool;
use crate::nic::slab::CHAIN_MAX;
use crate::shm::Memory;
use std::rc::Rc;

const BAD_FLAGS: PeerCorrupt = PeerCorrupt::new("descriptor flags that contradict each other");
const EMPTY_PIECE: PeerCorrupt = PeerCorrupt::new("descriptor without bytes");
const LONG_CHAIN: PeerCorrupt = PeerCorrupt::new("frame of too many pages");

/// Puts the descriptors of the receive ring together to frames.
///
/// Dropped with the ring; a frame of which a part is missing goes with it.
#[derive(Debug)]
pub struct Assembly<M: Memory> {
    part: PacketBuf<M>,
}

impl<M: Memory> Assembly<M> {
    /// Nothing received yet.
    pub fn new(pool: &Rc<FramePool<M>>) -> Self {
        Assembly { part: PacketBuf::empty(pool) }
    }

    /// Takes the next descriptor of the ring (checked by [`Descriptor::from_slot`]); returns the
    /// frame when it was its last.
    ///
    /// # Errors
    /// [`PeerCorrupt`] when the page was not lent, or the descriptor contradicts itself or those before
    /// it; final for the ring.
    pub fn push(&mut self, descriptor: Descriptor) -> Result<Option<PacketBuf<M>>, PeerCorrupt> {
        let part = &mut self.part;
        let len = u16::try_from(descriptor.len).map_err(|_| EMPTY_PIECE)?;
        if len == 0 {
            return Err(EMPTY_PIECE);
        }
        if usize::from(part.count) == CHAIN_MAX {
            return Err(LONG_CHAIN);
        }
        if part.count == 0 {
            part.marks = marks(&descriptor)?;
        } else if descriptor.flags & !flag::MORE != 0 {
            return Err(BAD_FLAGS);
        }
        part.pool.filled(descriptor.page)?;
        part.add(Piece { page: descriptor.page, offset: descriptor.offset, len });
        if descriptor.flags & flag::MORE != 0 {
            return Ok(None);
        }
        part.check_marks()?;
        let empty = PacketBuf::empty(&part.pool);
        Ok(Some(core::mem::replace(part, empty)))
    }
}

fn marks(descriptor: &Descriptor) -> Result<Marks, PeerCorrupt> {
    let has = |bit: u16| descriptor.flags & bit != 0;
    let csum = match (has(flag::CSUM_VALID), has(flag::CSUM_PARTIAL)) {
        (false, false) => Csum::Unknown,
        (true, false) => Csum::Valid,
        (false, true) => Csum::Partial { start: descriptor.csum_start.into(), udp: has(flag::UDP) },
        (true, true) => return Err(BAD_FLAGS),
    };
    let size = descriptor.gso_size;
    let gso = match (has(flag::GSO_TCP4), has(flag::GSO_TCP6)) {
        (false, false) => None,
        (v4, v6) if v4 != v6 => Some(Gso { size, v6 }),
        _ => return Err(BAD_FLAGS),
    };
    Ok(Marks { csum, gso, elsewhere: has(flag::ELSEWHERE) })
}
