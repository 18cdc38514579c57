//! Drivers of PCI network chips, for a chip behind VFIO and for its model in software alike.
//!
//! [`hardware`] is all that a driver sees of the machine: registers, memory that the chip reaches, one
//! interrupt. A folder per chip holds its registers (`regs`), its descriptors (`desc`) and what is done
//! with them (`device`), with the sections of its data sheet. The Intel chips share rings
//! ([`receive`], [`transmit`]), what they have alike, and what stands between rings and datapath ([`intel`]).
//!
//! What a chip says is checked like a hostile peer's word: lengths, flags, counts. No page is used again
//! before the chip has provably stopped writing to it ([`hardware::Hardware::quiesce`]).

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
