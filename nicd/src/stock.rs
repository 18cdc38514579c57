//! Empty pages in the hands of a backend that receives by copying: last in, first out.

use crate::nic::{Frame, Slab};
use proto::nic::descriptor::Descriptor;
use proto::nic::slab::{PageIndex, SMALL_SIZE};
use proto::shm::Memory;

/// Empty pages that the netds have lent.
#[derive(Debug, Default)]
pub struct Stock {
    shards: Vec<Shelf>,
}

/// Those of one shard.
#[derive(Debug, Default)]
struct Shelf {
    small: Vec<PageIndex>,
    large: Vec<PageIndex>,
}

impl Stock {
    #[inline]
    fn shelf(&mut self, shard: u16) -> &mut Shelf {
        let shard = usize::from(shard);
        if self.shards.len() <= shard {
            self.shards.resize_with(shard + 1, Shelf::default);
        }
        &mut self.shards[shard]
    }

    /// Adds a page.
    pub fn put<M: Memory>(&mut self, slab: &Slab<M>, page: PageIndex) {
        let shelf = self.shelf(slab.shard);
        match slab.page_size(page) {
            SMALL_SIZE => shelf.small.push(page),
            _ => shelf.large.push(page),
        }
    }

    /// Moves pages of together at least `len` bytes into `frame`, which is empty, each with its whole
    /// size; false, and nothing moved, when there are too few. The first one is small where there is one:
    /// most frames need no other.
    pub fn take<M: Memory>(&mut self, slab: &Slab<M>, frame: &mut Frame, len: usize) -> bool {
        let shelf = self.shelf(slab.shard);
        let mut room = 0;
        while room < len {
            let small = frame.is_empty() || len - room <= SMALL_SIZE || shelf.large.is_empty();
            let first = if small { shelf.small.pop() } else { None };
            let page = match frame.is_full() {
                true => None,
                false => first.or_else(|| shelf.large.pop()),
            };
            let Some(page) = page else {
                first.into_iter().for_each(|page| shelf.small.push(page));
                self.take_back(slab, frame);
                return false;
            };
            let size = slab.page_size(page);
            frame.add(Descriptor::plain(page, 0, size as u32));
            room += size;
        }
        true
    }

    /// Takes one small page of a shard.
    #[inline]
    pub fn take_small(&mut self, shard: u16) -> Option<PageIndex> {
        self.shelf(shard).small.pop()
    }

    /// The pages of `frame` are empty again.
    pub fn take_back<M: Memory>(&mut self, slab: &Slab<M>, frame: &mut Frame) {
        for piece in frame.pieces().iter().rev() {
            self.put(slab, piece.page);
        }
        frame.clear();
    }

    /// Cuts `frame` to `len` bytes; pages without bytes are empty again.
    pub fn cut<M: Memory>(&mut self, slab: &Slab<M>, frame: &mut Frame, len: usize) {
        let offered = *frame;
        frame.clear();
        let mut left = len;
        for piece in offered.pieces() {
            let used = left.min(piece.len as usize);
            left -= used;
            match used {
                0 => self.put(slab, piece.page),
                _ => frame.add(Descriptor::plain(piece.page, 0, used as u32)),
            }
        }
    }

    /// [`Stock::take`], cut to `len` bytes.
    pub fn take_exactly<M: Memory>(&mut self, slab: &Slab<M>, frame: &mut Frame, len: usize) -> bool {
        let taken = self.take(slab, frame, len);
        if taken {
            self.cut(slab, frame, len);
        }
        taken
    }

    /// Forgets all pages of a shard: they belong to its netd again.
    pub fn clear(&mut self, shard: u16) {
        let shelf = self.shelf(shard);
        shelf.small.clear();
        shelf.large.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::nic::slab::{CHAIN_MAX, LARGE_SIZE, SlabGeometry};
    use proto::shm::heap::HeapMemory;

    fn slab() -> Slab<HeapMemory> {
        let geometry = SlabGeometry { small: 10, large: 5 };
        Slab { shard: 0, memory: HeapMemory::new(geometry.bytes()), geometry }
    }

    fn sizes(slab: &Slab<HeapMemory>, frame: &Frame) -> Vec<usize> {
        frame.pieces().iter().map(|piece| slab.page_size(piece.page)).collect()
    }

    #[test]
    fn a_small_frame_takes_a_small_page_and_a_large_one_few_large() {
        let slab = slab();
        let mut stock = Stock::default();
        (0..15).for_each(|page| stock.put(&slab, PageIndex(page)));
        let mut frame = Frame::default();
        assert!(stock.take(&slab, &mut frame, 1519));
        assert_eq!(sizes(&slab, &frame), [SMALL_SIZE]);
        let mut large = Frame::default();
        assert!(stock.take(&slab, &mut large, 65_554));
        assert_eq!(sizes(&slab, &large), [SMALL_SIZE, LARGE_SIZE, LARGE_SIZE, LARGE_SIZE, LARGE_SIZE]);
        stock.cut(&slab, &mut large, SMALL_SIZE + 1);
        assert_eq!(large.len(), SMALL_SIZE + 1);
        assert_eq!(sizes(&slab, &large), [SMALL_SIZE, LARGE_SIZE]);
        let mut again = Frame::default();
        assert!(stock.take(&slab, &mut again, 4 * LARGE_SIZE));
    }

    #[test]
    fn too_few_pages_move_nothing() {
        let slab = slab();
        let mut stock = Stock::default();
        (0..10).for_each(|page| stock.put(&slab, PageIndex(page)));
        let mut frame = Frame::default();
        assert!(!stock.take(&slab, &mut frame, CHAIN_MAX * SMALL_SIZE + 1) && frame.is_empty());
        assert!(!stock.take(&slab, &mut frame, 11 * SMALL_SIZE) && frame.is_empty());
        assert!(stock.take(&slab, &mut frame, CHAIN_MAX * SMALL_SIZE));
        stock.take_back(&slab, &mut frame);
        let mut pages: Vec<_> = stock.shards[0].small.iter().map(|page| page.0).collect();
        pages.sort_unstable();
        assert_eq!(pages, (0..10).collect::<Vec<_>>());
    }
}
