//! What a daemon is told with descriptors, and the memory they stand for.

use super::{Server, ServerError, doing};
use crate::facts::Pair;
use crate::layout;
use crate::vault::{Memory, Rings, Vault};
use proto::control::messages::{Access, Ended, Grant, GroupConfig, Region, ToDaemon, Welcome};
use proto::hard::processes::ProcessesWriter;
use proto::id::{Generation, Role, Seat, SessionId};
use proto::shm::region::{Region as Mapping, create_sealed, read_only};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::sync::Arc;

/// Makes all regions of a group.
pub(super) fn make_memory(vault: &mut Vault, group: &GroupConfig) -> Result<(), ServerError> {
    for region in layout::regions(group) {
        let size = layout::size(region, group);
        let writable = create_sealed(&layout::name(region), size).map_err(doing("memory for the group"))?;
        let shown = layout::is_shown(region).then(|| read_only(writable.as_fd())).transpose();
        let memory = Memory { size, read_only: shown.map_err(doing("memory to be shown"))?, writable };
        vault.memory.insert(region, memory);
    }
    Ok(())
}

/// Opens the table of processes for writing.
pub(super) fn processes(
    vault: &Vault,
    group: &GroupConfig,
) -> Result<ProcessesWriter<Arc<Mapping>>, ServerError> {
    let size = layout::size(Region::Processes, group);
    let table = Mapping::map(vault.region(Region::Processes, Access::Write), size);
    Ok(ProcessesWriter::attach(Arc::new(table.map_err(doing("the table of processes"))?))?)
}

/// Duplicates of descriptors, so that they can be sent while the vault is looked at.
fn duplicates(descriptors: &[BorrowedFd<'_>]) -> io::Result<Vec<OwnedFd>> {
    descriptors.iter().map(|descriptor| descriptor.try_clone_to_owned()).collect()
}

impl Server {
    pub(super) fn welcome(
        &mut self,
        seat: Seat,
        generation: Generation,
        predecessor: Option<Ended>,
        sessions: &[SessionId],
    ) {
        let group = self.setup.group.clone();
        let granted = layout::grants(seat, &group);
        let grant = |&(region, access): &(Region, Access)| Grant {
            region,
            access,
            size: layout::size(region, &group) as u64,
        };
        let grants = granted.iter().map(grant).collect();
        let regions: Vec<_> = granted.iter().map(|&(r, access)| self.vault.region(r, access)).collect();
        let regions = duplicates(&regions);
        let welcome = Welcome { seat, generation, predecessor, group, grants };
        self.hand(seat, &ToDaemon::Welcome(Box::new(welcome)), regions);
        if seat.role == Role::Sockd {
            let listeners = [&self.vault.keepsakes.api, &self.vault.keepsakes.admin].map(AsFd::as_fd);
            let listeners = duplicates(&listeners);
            self.hand(seat, &ToDaemon::Listeners, listeners);
        }
        if let Some(device) = self.vault.devices.get(&seat.index).filter(|_| seat.role == Role::Nicd) {
            let device = duplicates(&[device.as_fd()]);
            self.hand(seat, &ToDaemon::Device, device);
        }
        for &session in sessions {
            self.pass(seat, session);
        }
        self.say(seat, &ToDaemon::Complete, &[]);
    }

    /// Tells a netd, or a new sockd, of a session.
    pub(super) fn pass(&mut self, to: Seat, session: SessionId) {
        let facts = self.policy.facts().sessions.get(&session);
        let (Some(facts), Some(ends)) = (facts, self.vault.sessions.get(&session)) else { return };
        let geometry = facts.geometry;
        let (message, descriptors) = match to.role {
            Role::Sockd => (ToDaemon::SessionSocket { session, geometry }, ends.for_sockd()),
            _ => (ToDaemon::Session { session, geometry }, ends.for_netd(to.index)),
        };
        let descriptors = duplicates(&descriptors);
        self.hand(to, &message, descriptors);
    }

    pub(super) fn introduce(&mut self, to: Seat, peer: Seat, generation: Generation) {
        let Some(pair) = Pair::of(to, peer) else { return };
        let Some(Rings { memory, wakes_first, wakes_second }) = self.vault.rings.get(&pair) else { return };
        let (wakes_them, wakes_peer) =
            if to == pair.first { (wakes_first, wakes_second) } else { (wakes_second, wakes_first) };
        let descriptors = duplicates(&[memory, wakes_them, wakes_peer].map(AsFd::as_fd));
        self.hand(to, &ToDaemon::Introduce { peer, generation }, descriptors);
    }

    fn hand(&mut self, to: Seat, message: &ToDaemon, descriptors: io::Result<Vec<OwnedFd>>) {
        match descriptors {
            Ok(descriptors) => {
                let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                self.say(to, message, &descriptors);
            }
            Err(error) => {
                // It can't do without: started anew when there are descriptors again.
                tracing::error!("{to}: no descriptors left: {error}");
                let generation = self.daemons.get(&to).map(|daemon| daemon.generation).unwrap_or_default();
                self.events.push_back(crate::policy::Event::Broken { seat: to, generation });
            }
        }
    }
}
