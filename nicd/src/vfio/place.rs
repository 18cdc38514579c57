//! Where a PCI function stands in this machine, from sysfs(5): its group, its driver, and in words what
//! keeps this process from it.

use rustix::fs::Access;
use std::path::{Path, PathBuf};
use thiserror::Error;

const DEVICES: &str = "/sys/bus/pci/devices";
const NODES: &str = "/dev/vfio";
/// The kernel's driver that hands a function over.
pub const DRIVER: &str = "vfio-pci";

/// What stands in the way.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Obstacle {
    /// There is no such function.
    #[error("there is no PCI function {0}; `netctl nic list` shows those there are")]
    Absent(String),
    /// The machine has no IOMMU, or it is off.
    #[error(
        "{0} is in no IOMMU group; boot with intel_iommu=on or amd_iommu=on, and enable it in the firmware"
    )]
    NoIommu(String),
    /// Another driver has it.
    #[error("{bdf} belongs to {driver}; hand it over with `netctl nic bind {bdf}`")]
    OtherDriver {
        /// The function.
        bdf: String,
        /// Its driver.
        driver: String,
    },
    /// The module is not loaded.
    #[error("{0} is missing; load it with `modprobe vfio-pci`")]
    NoVfio(String),
    /// Another user's.
    #[error("{0} can't be opened by this user; `chown` it to the user that is to have the device")]
    NotPermitted(String),
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    bdf: String,
    devices: PathBuf,
    nodes: PathBuf,
}

impl Place {
    /// The function with this address, as `0000:03:00.0`.
    pub fn new(bdf: &str) -> Self {
        Place { bdf: bdf.to_owned(), devices: DEVICES.into(), nodes: NODES.into() }
    }

    /// Its directory in sysfs.
    pub fn sysfs(&self) -> PathBuf {
        self.devices.join(&self.bdf)
    }

    /// Its address.
    pub fn bdf(&self) -> &str {
        &self.bdf
    }

    fn link(&self, name: &str) -> Option<String> {
        let target = std::fs::read_link(self.sysfs().join(name)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Its driver.
    pub fn driver(&self) -> Option<String> {
        self.link("driver")
    }

    /// Its IOMMU group.
    pub fn group(&self) -> Option<String> {
        self.link("iommu_group")
    }

    /// Whether this process can have it.
    ///
    /// # Errors
    /// [`Obstacle`].
    pub fn check(&self) -> Result<(), Obstacle> {
        if !self.sysfs().exists() {
            return Err(Obstacle::Absent(self.bdf.clone()));
        }
        let Some(group) = self.group() else { return Err(Obstacle::NoIommu(self.bdf.clone())) };
        match self.driver().as_deref() {
            Some(DRIVER) => {}
            other => {
                let driver = other.unwrap_or("no driver").to_owned();
                return Err(Obstacle::OtherDriver { bdf: self.bdf.clone(), driver });
            }
        }
        for node in [self.nodes.join("vfio"), self.nodes.join(group)] {
            check_node(&node)?;
        }
        Ok(())
    }
}

fn check_node(node: &Path) -> Result<(), Obstacle> {
    let shown = || node.display().to_string();
    if !node.exists() {
        return Err(Obstacle::NoVfio(shown()));
    }
    rustix::fs::access(node, Access::READ_OK | Access::WRITE_OK).map_err(|_| Obstacle::NotPermitted(shown()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, remove_dir_all, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn every_obstacle_has_its_own_words() {
        let top = std::env::temp_dir().join(format!("axl-place-{}", std::process::id()));
        let place =
            Place { bdf: "0000:03:00.0".into(), devices: top.join("devices"), nodes: top.join("nodes") };
        let reason = || place.check().map_err(|e| e.to_string()).unwrap_err();
        assert!(reason().contains("no PCI function"));
        create_dir_all(place.sysfs()).expect("a directory");
        assert!(reason().contains("IOMMU"));
        symlink("../groups/7", place.sysfs().join("iommu_group")).expect("a link");
        assert!(reason().contains("netctl nic bind"), "{}", reason());
        symlink("../drivers/e1000e", place.sysfs().join("driver")).expect("a link");
        assert!(reason().contains("belongs to e1000e"));
        std::fs::remove_file(place.sysfs().join("driver")).expect("removed");
        symlink("../drivers/vfio-pci", place.sysfs().join("driver")).expect("a link");
        assert!(reason().contains("modprobe vfio-pci"));
        create_dir_all(&place.nodes).expect("a directory");
        write(place.nodes.join("vfio"), "").expect("a node");
        assert!(reason().contains("nodes/7"));
        write(place.nodes.join("7"), "").expect("a node");
        assert_eq!(place.check(), Ok(()));
        remove_dir_all(top).expect("cleaned up");
    }
}
