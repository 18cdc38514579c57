//! Which regions a group has, how large they are, and who may map which (DESIGN §1: least mapping).
//!
//! The sizes are those of the modules that own the layouts. ARCHITECTURE.md shows the table, and a
//! test holds the running processes to it.

use crate::facts::Pair;
use proto::capture;
use proto::cell::table_size;
use proto::control::messages::{Access, GroupConfig, Region};
use proto::control::operations;
use proto::hard::{config, processes, registry};
use proto::id::{Role, Seat};
use proto::nic::rings;
use proto::stats;

/// Keys of netd: two hundred bytes are in use, a region is at least a page.
const SECRETS_SIZE: usize = 4096;
/// A lock's file needs no bytes; a region is at least a page.
const LOCK_SIZE: usize = 4096;

/// The size of a region in bytes.
pub fn size(region: Region, group: &GroupConfig) -> usize {
    match region {
        Region::Lock(_) => LOCK_SIZE,
        Region::Slab { .. } => group.slab.bytes(),
        Region::Conns(_) => table_size(group.conns),
        Region::Secrets => SECRETS_SIZE,
        Region::Config => config::REGION_SIZE,
        Region::Registry => registry::REGION_SIZE,
        Region::Stats(_) => stats::REGION_SIZE,
        Region::Processes => processes::REGION_SIZE,
        Region::Capture(_) => capture::REGION_SIZE,
    }
}

/// The name of a region's memfd, as /proc/PID/maps shows it: for people, and for the test that
/// holds the running processes to the table in ARCHITECTURE.md.
pub fn name(region: Region) -> String {
    match region {
        Region::Lock(seat) => format!("axolotl-lock-{seat}"),
        Region::Slab { nic, shard } => format!("axolotl-slab-{nic}-{shard}"),
        Region::Conns(shard) => format!("axolotl-conns-{shard}"),
        Region::Secrets => "axolotl-secrets".into(),
        Region::Config => "axolotl-config".into(),
        Region::Registry => "axolotl-registry".into(),
        Region::Stats(seat) => format!("axolotl-stats-{seat}"),
        Region::Processes => "axolotl-processes".into(),
        Region::Capture(shard) => format!("axolotl-capture-{shard}"),
    }
}

/// All regions of a group.
pub fn regions(group: &GroupConfig) -> Vec<Region> {
    let seats: Vec<Seat> = crate::facts::seats(group).collect();
    let mut all = vec![Region::Processes, Region::Secrets, Region::Config, Region::Registry];
    all.extend(seats.iter().map(|&seat| Region::Lock(seat)));
    all.extend(seats.iter().map(|&seat| Region::Stats(seat)));
    for nic in 0..group.nics.len() as u16 {
        all.extend((0..group.shards).map(|shard| Region::Slab { nic, shard }));
    }
    all.extend((0..group.shards).map(Region::Conns));
    all.extend((0..group.shards).map(Region::Capture));
    all
}

/// Whether somebody gets a read-only description of it.
pub fn is_shown(region: Region) -> bool {
    match region {
        Region::Conns(_)
        | Region::Config
        | Region::Registry
        | Region::Stats(_)
        | Region::Processes
        | Region::Capture(_) => true,
        Region::Lock(_) | Region::Slab { .. } | Region::Secrets => false,
    }
}

/// What a seat may map; its lock comes first.
pub fn grants(seat: Seat, group: &GroupConfig) -> Vec<(Region, Access)> {
    let mut grants = vec![(Region::Lock(seat), Access::Write), (Region::Stats(seat), Access::Write)];
    match seat.role {
        Role::Nicd => {
            let slabs = (0..group.shards).map(|shard| Region::Slab { nic: seat.index, shard });
            grants.extend(slabs.map(|slab| (slab, Access::Write)));
        }
        Role::Netd => {
            let writes_config = if seat.index == 0 { Access::Write } else { Access::Read };
            let slabs = (0..group.nics.len() as u16).map(|nic| Region::Slab { nic, shard: seat.index });
            grants.extend(slabs.map(|slab| (slab, Access::Write)));
            grants.push((Region::Conns(seat.index), Access::Write));
            grants.push((Region::Capture(seat.index), Access::Write));
            grants.push((Region::Secrets, Access::Write));
            grants.push((Region::Config, writes_config));
        }
        Role::Sockd => {
            grants.push((Region::Registry, Access::Write));
            let shown = regions(group).into_iter().filter(|&region| is_shown(region));
            // It reads the connection tables; all else it only hands to netctl.
            grants.extend(shown.map(|region| match region {
                Region::Conns(_) => (region, Access::Read),
                _ => (region, Access::Pass),
            }));
        }
        Role::Supervisor | Role::Standby => {}
    }
    grants
}

/// The size of the rings of a pair in bytes.
pub fn rings_size(pair: Pair) -> usize {
    match pair.first.role {
        Role::Nicd => rings::REGION_SIZE,
        _ => operations::REGION_SIZE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_group;

    #[test]
    fn every_grant_is_a_region_and_read_only_ones_are_shown() {
        let group = test_group(2, 2);
        let all = regions(&group);
        for seat in crate::facts::seats(&group) {
            let grants = grants(seat, &group);
            assert_eq!(grants[0], (Region::Lock(seat), Access::Write));
            for (region, access) in grants {
                assert!(all.contains(&region), "{region:?}");
                assert!(access == Access::Write || is_shown(region), "{region:?}");
            }
        }
    }

    #[test]
    fn sockd_has_no_frame_and_no_key() {
        let group = test_group(2, 2);
        let grants = grants(Seat::new(Role::Sockd, 0), &group);
        let forbidden = |region: &Region| matches!(region, Region::Slab { .. } | Region::Secrets);
        assert!(!grants.iter().any(|(region, _)| forbidden(region)));
        let written: Vec<_> = grants.iter().filter(|(_, access)| *access == Access::Write).collect();
        assert_eq!(written.len(), 3, "its lock, its statistics, the registry");
    }
}
