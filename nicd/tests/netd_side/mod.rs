//! netd's end of the rings, as the tests need it: lends pages, sends and receives whole frames.

use proto::PeerCorrupt;
use proto::nic::descriptor::Descriptor;
use proto::nic::packet_buf::{Assembly, Marks, PacketBuf};
use proto::nic::pool::FramePool;
use proto::nic::rings::{LENT_MAX, StackEnd};
use proto::nic::slab::{PageIndex, SMALL_SIZE, SlabGeometry};
use proto::shm::Memory;
use std::rc::Rc;

pub struct NetdSide<M: Memory> {
    pub rings: StackEnd<M>,
    pub pool: Rc<FramePool<M>>,
    assembly: Assembly<M>,
    /// Pages lent on the fill ring: small and large.
    lent: [usize; 2],
    /// Descriptors with nicd to be sent.
    sending: u32,
}

impl<M: Memory + Clone> NetdSide<M> {
    pub fn new(rings: M, slab: M, geometry: SlabGeometry) -> Self {
        let pool = Rc::new(FramePool::new(slab, geometry));
        let assembly = Assembly::new(&pool);
        NetdSide { rings: StackEnd::new(rings), pool, assembly, lent: [0; 2], sending: 0 }
    }

    /// Lends until nicd has `small` and `large` pages to fill; true when it must be woken.
    pub fn lend(&mut self, small: usize, large: usize) -> Result<bool, PeerCorrupt> {
        assert!(small + large <= LENT_MAX as usize);
        for (size, wanted) in [small, large].into_iter().enumerate() {
            while self.lent[size] < wanted {
                let page = if size == 0 { self.pool.lend_small() } else { self.pool.lend_large() };
                let Some(page) = page else { break };
                assert!(
                    self.rings.fill.push(&Descriptor::plain(page, 0, 0).to_slot())?,
                    "the ring holds all"
                );
                self.lent[size] += 1;
            }
        }
        Ok(self.rings.fill.publish())
    }

    /// Sends a frame; `None` when there is no page or room, else whether nicd must be woken.
    pub fn send(&mut self, bytes: &[u8]) -> Result<Option<bool>, PeerCorrupt> {
        self.send_marked(bytes, Marks::default())
    }

    /// [`NetdSide::send`], with what the device is to do.
    pub fn send_marked(&mut self, bytes: &[u8], marks: Marks) -> Result<Option<bool>, PeerCorrupt> {
        let Ok(mut buf) = PacketBuf::alloc(&self.pool, bytes.len(), 0) else { return Ok(None) };
        buf.marks = marks;
        buf.write(0, bytes).expect("private");
        let pages = buf.pages() as u32;
        if self.rings.transmit.room()? < pages || self.sending + pages > LENT_MAX {
            return Ok(None);
        }
        let transmit = &mut self.rings.transmit;
        buf.into_descriptors(|d| assert_eq!(transmit.push(&d.to_slot()), Ok(true)));
        self.sending += pages;
        Ok(Some(transmit.publish()))
    }

    /// Takes what nicd has given: completions first, then frames.
    pub fn take(&mut self) -> Result<Vec<Vec<u8>>, PeerCorrupt> {
        Ok(self.take_marked()?.into_iter().map(|(bytes, _)| bytes).collect())
    }

    /// [`NetdSide::take`], with what nicd says of each frame.
    pub fn take_marked(&mut self) -> Result<Vec<(Vec<u8>, Marks)>, PeerCorrupt> {
        while let Some(slot) = self.rings.completion.pop()? {
            let page: PageIndex = Descriptor::from_slot(&slot, self.pool.geometry())?.page;
            self.pool.completed(page)?;
            self.sending -= 1;
        }
        self.rings.completion.release();
        let mut frames = Vec::new();
        while let Some(slot) = self.rings.receive.pop()? {
            let descriptor = Descriptor::from_slot(&slot, self.pool.geometry())?;
            let size = self.pool.geometry().page_size(descriptor.page).expect("a checked page");
            self.lent[usize::from(size != SMALL_SIZE)] -= 1;
            if let Some(buf) = self.assembly.push(descriptor)? {
                let mut bytes = vec![0; buf.len()];
                buf.read(0, &mut bytes);
                frames.push((bytes, buf.marks));
            }
        }
        self.rings.receive.release();
        Ok(frames)
    }

    /// Arms both rings from nicd: true when there is nothing to take.
    pub fn may_sleep(&mut self) -> Result<bool, PeerCorrupt> {
        Ok(self.rings.completion.arm()? && self.rings.receive.arm()?)
    }

    pub fn sending(&self) -> u32 {
        self.sending
    }

    pub fn lent(&self) -> usize {
        self.lent.iter().sum()
    }
}
