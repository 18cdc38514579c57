//! VLANs (IEEE 802.1Q): interfaces that share the device of another one, told apart by a tag behind the
//! link addresses.
//!
//! ```text
//! │ destination │ source │ 0x8100 │ priority, VLAN │ type │ packet │
//! ```
//!
//! An interface of this kind has addresses, neighbours and groups of its own, and the link address, frame pages
//! and ring of the one below. What its device could do for the stack is not asked for: checksums are summed
//! here. A tag within a tag (802.1ad) is nobody's.

use super::Link;
use super::interface::{InterfaceConfig, NO_VLAN};
use crate::frame::Frame;
use crate::wire::drop_reason::DropReason;
use crate::wire::ethernet::{EtherType, EthernetHeader};
use proto::Instant;
use proto::hard::config::Vlan;
use proto::nic::packet_buf::PacketBuf;
use proto::nic::pool::NoPages;
use proto::shm::Memory;

/// Bytes of a tag.
const TAG_LEN: usize = 4;
/// Bytes of the two addresses before it.
const ADDRESSES_LEN: usize = 12;
/// The bits of a tag that say which VLAN.
const ID_MASK: u16 = 0x0fff;
/// VLANs of a host at most: each has a neighbour table of its own.
pub const VLANS_MAX: usize = 64;

/// Puts a tag into a frame.
pub(super) fn tag<M: Memory>(frame: &mut PacketBuf<M>, vlan: Vlan) -> Result<(), NoPages> {
    let mut addresses = [0; ADDRESSES_LEN];
    frame.read_up_to(0, &mut addresses);
    frame.push(TAG_LEN)?;
    frame.write(0, &addresses)?;
    frame.write(ADDRESSES_LEN, &EtherType::VLAN.0.to_be_bytes())?;
    frame.write(ADDRESSES_LEN + 2, &vlan.id.to_be_bytes())
}

impl<M: Memory + Clone> Link<M> {
    /// The interface that a tagged frame is for, and its header without the tag. VLAN 0 is none: such a tag
    /// says a priority alone (IEEE 802.1Q §6.9).
    pub(super) fn untag(
        &self,
        index: u16,
        header: EthernetHeader,
        frame: &mut Frame<M>,
    ) -> Result<(u16, EthernetHeader), DropReason> {
        let Some([high, low, kind @ ..]) = frame.head().first_chunk::<TAG_LEN>().copied() else {
            return Err(DropReason::PktTooSmall);
        };
        let id = u16::from_be_bytes([high, low]) & ID_MASK;
        let to = match id {
            0 => index,
            id => self.vlan_of(Vlan { below: index, id }).ok_or(DropReason::UnhandledProto)?,
        };
        frame.pull(TAG_LEN);
        Ok((to, EthernetHeader { ethertype: EtherType(u16::from_be_bytes(kind)), ..header }))
    }

    /// The interface that is that VLAN.
    pub fn vlan_of(&self, vlan: Vlan) -> Option<u16> {
        let vlans = self.interfaces.iter().skip(self.devices);
        vlans
            .into_iter()
            .position(|interface| interface.vlan == Some(vlan))
            .map(|n| (self.devices + n) as u16)
    }

    /// How many interfaces have devices: they are the first.
    pub const fn devices(&self) -> usize {
        self.devices
    }

    /// The interface whose device an interface sends by.
    pub fn device_of(&self, index: u16) -> u16 {
        self.interface(index).and_then(|interface| interface.vlan).map_or(index, |vlan| vlan.below)
    }

    /// Whether there is an interface of that index: not one whose index is free.
    pub fn is_there(&self, index: u16) -> bool {
        self.interface(index).is_some_and(|interface| interface.vlan != Some(NO_VLAN))
    }

    /// An interface and the VLANs of its device.
    pub fn with_vlans(&self, index: u16) -> Vec<u16> {
        let numbers = 0..self.interfaces.len() as u16;
        let above = numbers.filter(|n| *n != index && self.device_of(*n) == index);
        core::iter::once(index).chain(above).collect()
    }

    /// Makes a VLAN of that index, or makes nothing of it ([`NO_VLAN`]).
    ///
    /// # Panics
    /// When the index is not that of a VLAN nor the first that is free, or when there is no such device.
    pub fn set_vlan(&mut self, now: Instant, index: u16, vlan: Vlan) {
        assert!(usize::from(index) >= self.devices, "devices stay");
        let below = usize::from(if vlan == NO_VLAN { 0 } else { vlan.below });
        let (mac, mtu, frames) = {
            let below = &self.interfaces[..self.devices][below];
            (below.mac, below.mtu, below.frames.clone())
        };
        let config = InterfaceConfig { mac, mtu, vlan: Some(vlan), ..InterfaceConfig::default() };
        self.set(now, usize::from(index), &config, frames);
    }
}
