//! Drivers of PCI network chips, for a chip behind VFIO and for its model in software alike.
//!
//! [`hardware`] is all that a driver sees of the machine: registers, memory that the chip reaches, one
//! interrupt. A folder per chip holds its registers (`regs`), its descriptors (`desc`) and what is done
//! with them (`device`), with the sections of its data sheet. The Intel chips share rings
//! ([`receive`], [`transmit`]), what they have alike, and what stands between rings and datapath ([`intel`]).
//!
//! What a chip says is checked like a hostile peer's word: lengths, flags, counts. No page is used again
//! before the chip has provably stopped writing to it ([`hardware::Hardware::quiesce`]).

use proto::control::notices::Mac;

pub mod e1000e;
pub mod hardware;
pub mod igb;
pub mod intel;
mod lent;
mod moderation;
pub mod offload;
pub mod receive;
pub mod transmit;
pub mod virtio;

/// What a chip is wished to be.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// Its address.
    pub mac: Mac,
    /// The largest payload of a frame in bytes.
    pub mtu: u16,
    /// It fills in checksums and cuts super-frames.
    pub offload: bool,
    /// Shards of netd that use it.
    pub shards: u16,
}

impl Wishes {
    /// Queues each way, of as many as a chip has at most: one for each shard, or one for all of them.
    fn queues(&self, most: usize) -> usize {
        let shards = usize::from(self.shards.max(1));
        if shards <= most { shards } else { 1 }
    }
}
