//! Packets that wait for a neighbour's link address: short queues over one pool.
//!
//! Owned by the neighbour table. Invariants: no queue holds more than [`QUEUE_MAX`] packets, all together
//! no more than the pool; a full queue, or an empty pool, costs the queue its own oldest packet, never
//! another queue's. Nothing is allocated beyond the pool, which grows to its size once.

/// The most packets that wait for one neighbour; the place of Linux's `unres_qlen`.
pub const QUEUE_MAX: usize = 64;

const NIL: u32 = u32::MAX;

/// One neighbour's queue; its packets are in the pool.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    first: u32,
    last: u32,
    len: u32,
}

impl Queue {
    /// A queue without packets.
    pub const EMPTY: Queue = Queue { first: NIL, last: NIL, len: 0 };

    /// How many packets wait.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// True when none waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[derive(Debug)]
struct Slot<P> {
    packet: Option<P>,
    next: u32,
}

/// The packets of all queues.
#[derive(Debug)]
pub struct Pool<P> {
    slots: Vec<Slot<P>>,
    limit: usize,
    free: u32,
}

impl<P> Pool<P> {
    /// A pool for at most `limit` packets.
    pub fn new(limit: usize) -> Pool<P> {
        assert!(limit < NIL as usize);
        Pool { slots: Vec::with_capacity(limit), limit, free: NIL }
    }

    /// Appends a packet; where there is no room, the queue's oldest one, or this one itself when the queue
    /// is empty, comes back.
    pub fn push(&mut self, queue: &mut Queue, packet: P) -> Option<P> {
        let oldest = if queue.len() >= QUEUE_MAX || (self.free == NIL && self.slots.len() >= self.limit) {
            match self.pop(queue) {
                Some(oldest) => Some(oldest),
                None => return Some(packet),
            }
        } else {
            None
        };
        let place = match self.free {
            NIL => {
                self.slots.push(Slot { packet: None, next: NIL });
                (self.slots.len() - 1) as u32
            }
            free => {
                self.free = self.slots[free as usize].next;
                free
            }
        };
        self.slots[place as usize] = Slot { packet: Some(packet), next: NIL };
        match queue.last {
            NIL => queue.first = place,
            last => self.slots[last as usize].next = place,
        }
        queue.last = place;
        queue.len += 1;
        oldest
    }

    /// Takes the oldest packet.
    pub fn pop(&mut self, queue: &mut Queue) -> Option<P> {
        let place = queue.first;
        let slot = self.slots.get_mut(place as usize)?;
        let packet = slot.packet.take();
        assert!(packet.is_some(), "a queued place holds a packet");
        queue.first = core::mem::replace(&mut slot.next, self.free);
        self.free = place;
        queue.len -= 1;
        if queue.first == NIL {
            queue.last = NIL;
        }
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn they_are_queues(limit in 0usize..200, steps in prop::collection::vec((0usize..4, 0u8..5), 0..600)) {
            let mut pool = Pool::new(limit);
            let mut queues = [Queue::EMPTY; 4];
            let mut model: [VecDeque<usize>; 4] = Default::default();
            for (packet, (which, what)) in steps.into_iter().enumerate() {
                if what == 0 {
                    prop_assert_eq!(pool.pop(&mut queues[which]), model[which].pop_front());
                } else {
                    let total: usize = model.iter().map(VecDeque::len).sum();
                    model[which].push_back(packet);
                    let full = total >= limit || model[which].len() > QUEUE_MAX;
                    let expected = if full { model[which].pop_front() } else { None };
                    prop_assert_eq!(pool.push(&mut queues[which], packet), expected);
                }
                prop_assert_eq!(queues[which].len(), model[which].len());
                prop_assert_eq!(queues[which].is_empty(), model[which].is_empty());
            }
        }
    }
}
