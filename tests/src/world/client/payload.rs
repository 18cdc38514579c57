//! Bytes between a client's pages and its streams.

use super::Client;
use crate::oracle::{ConnId, Side, Stream};
use proto::arena::PAGE_SIZE;
use proto::arena::place::{Direction, entry_of, pieces};
use proto::id::SlotIndex;
use proto::shm::Memory;

impl Client {
    pub(super) fn copy_out(&self, slot: SlotIndex, offset: u64, len: usize) -> Vec<u8> {
        let open = self.open.as_ref().expect("sockets belong to a session");
        let direction = Direction::Rx { shard: 0 };
        let mut bytes = vec![0; len];
        let mut at = 0;
        for piece in pieces(offset, len) {
            let page = direction.page(&open.memory, &open.geometry, slot, piece.entry);
            let Ok(page) = page else {
                let what = format!("place {slot}: no page behind offset {offset}");
                self.shared.oracle.borrow_mut().fail(what);
                break;
            };
            let from = direction.byte_at(&open.geometry, page, piece.within);
            open.memory.read(from, &mut bytes[at..at + piece.len]);
            at += piece.len;
        }
        bytes
    }

    /// Sees to it that bytes from `offset` on have send pages; returns how many do, up to `len`.
    pub(super) fn cover(&mut self, slot: SlotIndex, offset: u64, len: u64) -> u64 {
        let open = self.open.as_mut().expect("sockets belong to a session");
        let socket = open.sockets.get_mut(&slot.0).expect("the caller has found it");
        let last = (offset + len - 1) / PAGE_SIZE as u64;
        while socket.first_page + (socket.pages.len() as u64) <= last {
            let number = socket.first_page + socket.pages.len() as u64;
            let Some(page) = open.tx_free.pop() else {
                return (number * PAGE_SIZE as u64).saturating_sub(offset);
            };
            socket.pages.push_back(page);
            let entry = entry_of(number * PAGE_SIZE as u64);
            Direction::Tx.set_page(&open.memory, &open.geometry, slot, entry, page);
        }
        len
    }

    pub(super) fn put(&self, slot: SlotIndex, offset: u64, bytes: &[u8]) {
        let open = self.open.as_ref().expect("sockets belong to a session");
        let socket = &open.sockets[&slot.0];
        let (mut at, mut rest) = (offset, bytes);
        for piece in pieces(offset, bytes.len()) {
            let page = socket.pages[(at / PAGE_SIZE as u64 - socket.first_page) as usize];
            let (now, later) = rest.split_at(piece.len);
            open.memory.write(Direction::Tx.byte_at(&open.geometry, page, piece.within), now);
            (rest, at) = (later, at + piece.len as u64);
        }
    }

    /// Writes bytes of the stream into pages; returns how many found room.
    pub(super) fn copy_in(
        &mut self,
        slot: SlotIndex,
        conn: ConnId,
        side: Side,
        offset: u64,
        len: u64,
    ) -> u64 {
        if len == 0 {
            return 0;
        }
        let len = self.cover(slot, offset, len);
        let mut bytes = vec![0; len as usize];
        Stream { conn, writer: side }.fill(offset, &mut bytes);
        self.put(slot, offset, &bytes);
        len
    }
}
