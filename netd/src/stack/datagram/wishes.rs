//! What a client wishes of a socket beyond flags: read out of the arena, checked, done
//! ([`proto::arena::wishes`]).

use super::super::Stack;
use super::super::socket::{Kind, Wished};
use crate::ip::groups::{Owner, Sources};
use core::net::IpAddr;
use proto::arena::line::ClientLine;
use proto::arena::wishes::{Granted, Membership, Wishes};
use proto::bpf::Program;
use proto::control::operations::SocketRef;
use proto::shm::Memory;
use proto::{Instant, PeerCorrupt, zone};
use rustix::io::Errno;

/// The interface of an index of [`proto::arena::record::interface_index`]; `None` for loopback's and for none.
fn number_of(index: u32) -> Option<u16> {
    index.checked_sub(2).and_then(|number| u16::try_from(number).ok())
}

/// Whose memberships those of a socket are: its place names it through every change of its record.
fn owner(at: SocketRef) -> Owner {
    Owner(u64::from(at.session.0) << 32 | u64::from(at.slot.0))
}

impl<M: Memory + Clone> Stack<M> {
    /// A client's line names wishes that were not looked at yet.
    pub(in super::super) fn take_wishes(
        &mut self,
        now: Instant,
        index: u32,
        client: &ClientLine,
    ) -> Result<(), PeerCorrupt> {
        let Some(at) = self.sockets.get(index).and_then(|socket| socket.at) else { return Ok(()) };
        let session = self.sessions.get(&at.session).expect("a place lies in a session");
        let (number, page) = client.wishes();
        let wishes = Wishes::load(&session.memory, &session.geometry, page)?;
        let done = self.grant(now, index, at, wishes);
        let errno = done.err().map_or(0, |errno| errno.raw_os_error().unsigned_abs() as u16);
        let socket = self.sockets.get_mut(index).expect("looked at above");
        socket.granted = Granted { number: number as u16, errno }.to_word();
        Ok(())
    }

    fn grant(&mut self, now: Instant, index: u32, at: SocketRef, wishes: Wishes) -> Result<(), Errno> {
        let filter = Program::new(&wishes.filter).map_err(|_| Errno::INVAL)?;
        if wishes.device > 1 {
            let number = number_of(wishes.device).ok_or(Errno::NODEV)?;
            self.ip.link.interface(number).ok_or(Errno::NODEV)?;
        }
        let mut groups = Vec::with_capacity(wishes.memberships.len());
        for membership in &wishes.memberships {
            groups.push(self.place_membership(membership)?);
        }
        let socket = self.sockets.get_mut(index).expect("the caller has found it");
        let Kind::Udp(udp) = &mut socket.kind else { return Err(Errno::OPNOTSUPP) };
        let wished = Box::new(Wished { wishes, filter, groups });
        let before = udp.wished.replace(wished).map_or(Vec::new(), |before| before.groups);
        let after = udp.wished.as_ref().expect("just set").groups.clone();
        for (nic, group, _) in &before {
            if !after.iter().any(|(other, same, _)| (other, same) == (nic, group)) {
                self.ip.listen(now, *nic, owner(at), *group, None);
            }
        }
        for (nic, group, sources) in after {
            if !before.contains(&(nic, group, sources.clone())) {
                self.ip.listen(now, nic, owner(at), group, Some(sources));
            }
        }
        Ok(())
    }

    /// On which interface a group is joined (ip(7), IP_ADD_MEMBERSHIP): that of the wish, or where the
    /// routes lead.
    fn place_membership(&self, wish: &Membership) -> Result<(u16, IpAddr, Sources), Errno> {
        if !wish.group.is_multicast() {
            return Err(Errno::INVAL);
        }
        let group = zone::ip_without(wish.group);
        if wish.sources.iter().any(|source| source.is_ipv4() != group.is_ipv4()) {
            return Err(Errno::INVAL);
        }
        let nic = match wish.interface {
            0 => self.ip.way(wish.group, None).map(|way| way.nic),
            index => number_of(index),
        };
        let nic =
            nic.filter(|nic| self.ip.link.interfaces().len() > usize::from(*nic)).ok_or(Errno::NODEV)?;
        let list = wish.sources.iter().copied().collect();
        Ok((nic, group, Sources { mode: wish.mode, list }))
    }

    /// A socket leaves all its groups.
    pub(super) fn leave_groups(&mut self, now: Instant, index: u32) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        let (Kind::Udp(udp), Some(at)) = (&mut socket.kind, socket.at) else { return };
        let groups = udp.wished.as_mut().map_or(Vec::new(), |wished| core::mem::take(&mut wished.groups));
        for (nic, group, _) in groups {
            self.ip.listen(now, nic, owner(at), group, None);
        }
    }
}

impl Wished {
    /// Whether what `source` sends to a group by an interface is for this socket: its own membership says
    /// which sources; without one, IP_MULTICAST_ALL says whether others' groups are its own.
    pub(super) fn hears(&self, nic: u16, group: IpAddr, source: IpAddr) -> bool {
        let group = zone::ip_without(group);
        match self.groups.iter().find(|(there, known, _)| (*there, *known) == (nic, group)) {
            Some((_, _, sources)) => sources.takes(source),
            None => self.wishes.all_groups,
        }
    }

    /// Whether what comes in by an interface of that index may be for this socket (SO_BINDTODEVICE).
    pub(super) fn is_bound_to(&self, index: u32) -> bool {
        self.wishes.device == 0 || self.wishes.device == index
    }
}
