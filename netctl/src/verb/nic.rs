//! `netctl nic list`: the PCI network functions of this machine, with driver, group, and what stands in the way
//! of driving one from user space. `nic bind BDF` hands one to vfio-pci, `nic unbind BDF` gives it back to the
//! driver that the kernel has for it.
//!
//! Needs no group that runs. All of it is sysfs(5).

use crate::group::Failure;
use crate::table::{Form, Table, json};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The kernel's driver that hands a function over.
const VFIO: &str = "vfio-pci";
/// PCI code and ID assignment specification §1.3: base class of network controllers.
const CLASS_NETWORK: &str = "0x02";
/// linux/if.h: the interface is up.
const IFF_UP: u32 = 1;

/// Where the kernel shows its devices.
#[derive(Debug, Clone)]
pub struct Sysfs {
    pci: PathBuf,
    nodes: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Sysfs { pci: "/sys/bus/pci".into(), nodes: "/dev/vfio".into() }
    }
}

/// One function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Function {
    bdf: String,
    id: String,
    driver: Option<String>,
    group: Option<String>,
    /// Interfaces of the kernel on it.
    interfaces: Vec<String>,
    /// What stands in the way; empty when nicd can have it.
    obstacle: Option<String>,
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn target(path: &Path) -> Option<String> {
    Some(std::fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

impl Sysfs {
    fn device(&self, bdf: &str) -> PathBuf {
        self.pci.join("devices").join(bdf)
    }

    fn function(&self, bdf: &str) -> Option<Function> {
        let place = self.device(bdf);
        let hex = |name| Some(text(&place.join(name))?.trim_start_matches("0x").to_owned());
        let mut function = Function {
            bdf: bdf.to_owned(),
            id: format!("{}:{}", hex("vendor")?, hex("device")?),
            driver: target(&place.join("driver")),
            group: target(&place.join("iommu_group")),
            interfaces: names(&place.join("net")),
            obstacle: None,
        };
        function.obstacle = self.obstacle(&function);
        Some(function)
    }

    fn obstacle(&self, function: &Function) -> Option<String> {
        let Some(group) = &function.group else {
            return Some("no IOMMU group: boot with intel_iommu=on or amd_iommu=on".into());
        };
        let others: Vec<String> = names(&self.device(&function.bdf).join("iommu_group/devices"))
            .into_iter()
            .filter(|other| *other != function.bdf)
            .filter(|other| target(&self.device(other).join("driver")).is_some_and(|driver| driver != VFIO))
            .filter(|other| !text(&self.device(other).join("class")).is_some_and(|c| c.starts_with("0x06")))
            .collect();
        if !others.is_empty() {
            return Some(format!("its group has other functions in use: {}", others.join(" ")));
        }
        if function.driver.as_deref() != Some(VFIO) {
            return Some(match self.pci.join("drivers").join(VFIO).exists() {
                true => format!("not handed over: netctl nic bind {}", function.bdf),
                false => format!("the kernel has no {VFIO}: modprobe {VFIO}"),
            });
        }
        let node = self.nodes.join(group);
        let access = std::fs::OpenOptions::new().read(true).write(true).open(&node);
        match access.map_err(|e| e.kind()) {
            Err(io::ErrorKind::PermissionDenied) => {
                Some(format!("{} is another user's: chown it", node.display()))
            }
            Err(io::ErrorKind::NotFound) => Some(format!("{} is missing", node.display())),
            Err(io::ErrorKind::ResourceBusy) => Some("in use".into()),
            _ => None,
        }
    }

    /// Every network function.
    pub fn functions(&self) -> Vec<Function> {
        let is_network = |bdf: &String| {
            text(&self.device(bdf).join("class")).is_some_and(|class| class.starts_with(CLASS_NETWORK))
        };
        let found = names(&self.pci.join("devices")).into_iter().filter(is_network);
        found.filter_map(|bdf| self.function(&bdf)).collect()
    }

    fn known(&self, bdf: &str) -> Result<Function, Failure> {
        let missing =
            || Failure::Usage(format!("there is no PCI function {bdf}; netctl nic list shows them"));
        if bdf.contains('/') || bdf.starts_with('.') {
            return Err(missing());
        }
        self.function(bdf).ok_or_else(missing)
    }

    fn rebind(&self, function: &Function, to: &str) -> Result<(), Failure> {
        let write = |path: PathBuf, words: &str| {
            std::fs::write(&path, words).map_err(|e| Failure::Refused(format!("{}: {e}", path.display())))
        };
        let place = self.device(&function.bdf);
        write(place.join("driver_override"), &format!("{to}\n"))?;
        if function.driver.is_some() {
            write(place.join("driver/unbind"), &function.bdf)?;
        }
        write(self.pci.join("drivers_probe"), &function.bdf)
    }

    /// Hands a function to vfio-pci.
    ///
    /// # Errors
    /// [`Failure`]: what stands in the way.
    pub fn bind(&self, bdf: &str) -> Result<(), Failure> {
        let function = self.known(bdf)?;
        if function.driver.as_deref() == Some(VFIO) {
            return Ok(());
        }
        let refuse = |words: String| Err(Failure::Refused(format!("{bdf}: {words}")));
        if function.group.is_none() {
            return refuse("no IOMMU group: boot with intel_iommu=on or amd_iommu=on".into());
        }
        if !self.pci.join("drivers").join(VFIO).exists() {
            return refuse(format!("the kernel has no {VFIO}: modprobe {VFIO}"));
        }
        let up = |name: &&String| {
            let flags = text(&self.device(bdf).join("net").join(name).join("flags"));
            flags.and_then(|f| u32::from_str_radix(f.trim_start_matches("0x"), 16).ok()).unwrap_or(0) & IFF_UP
                != 0
        };
        if let Some(name) = function.interfaces.iter().find(up) {
            return refuse(format!("{name} is up and would vanish: ip link set {name} down"));
        }
        self.rebind(&function, VFIO)?;
        match self.known(bdf)?.driver.as_deref() {
            Some(VFIO) => Ok(()),
            now => refuse(format!("{VFIO} did not take it; its driver is {}", now.unwrap_or("none"))),
        }
    }

    /// Gives a function back to the kernel's own driver.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn unbind(&self, bdf: &str) -> Result<(), Failure> {
        let function = self.known(bdf)?;
        if function.driver.as_deref() != Some(VFIO) {
            return Err(Failure::Refused(format!("{bdf} is not bound to {VFIO}")));
        }
        self.rebind(&function, "")?;
        match self.known(bdf)?.driver.as_deref() {
            Some(VFIO) => Err(Failure::Refused(format!("{VFIO} did not let go of {bdf}"))),
            _ => Ok(()),
        }
    }
}

/// Shows the functions.
///
/// # Errors
/// When the answer can't be written.
pub fn list(sysfs: &Sysfs, form: Form, out: &mut impl Write) -> Result<(), Failure> {
    let functions = sysfs.functions();
    let written = match form {
        Form::Json => json(out, &functions),
        Form::Table => {
            let mut table = Table::new(&["ADDRESS", "ID", "DRIVER", "GROUP", "INTERFACES", "IN THE WAY"]);
            let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            for function in &functions {
                let interfaces = function.interfaces.join(" ");
                table.row([
                    function.bdf.clone(),
                    function.id.clone(),
                    or(&function.driver),
                    or(&function.group),
                    if interfaces.is_empty() { "-".into() } else { interfaces },
                    or(&function.obstacle),
                ]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, remove_dir_all, remove_file, write};
    use std::os::unix::fs::symlink;

    const BDF: &str = "0000:03:00.0";

    /// A machine with one NIC, in files.
    fn machine(name: &str) -> (Sysfs, PathBuf) {
        let top = std::env::temp_dir().join(format!("axl-nic-{name}-{}", std::process::id()));
        let sysfs = Sysfs { pci: top.join("pci"), nodes: top.join("vfio") };
        let place = sysfs.device(BDF);
        for dir in [place.join("net/eth7"), sysfs.pci.join("drivers/e1000e"), sysfs.nodes.clone()] {
            create_dir_all(dir).expect("a directory");
        }
        for (file, words) in [("vendor", "0x8086\n"), ("device", "0x10d3\n"), ("class", "0x020000\n")] {
            write(place.join(file), words).expect("a file");
        }
        write(place.join("net/eth7/flags"), "0x1003\n").expect("a file");
        symlink(sysfs.pci.join("drivers/e1000e"), place.join("driver")).expect("a link");
        (sysfs, top)
    }

    fn refused(outcome: Result<(), Failure>) -> String {
        outcome.expect_err("refused").to_string()
    }

    #[test]
    fn what_stands_in_the_way_is_said_one_after_the_other() {
        let (sysfs, top) = machine("way");
        let place = sysfs.device(BDF);
        assert!(refused(sysfs.bind("0000:04:00.0")).contains("no PCI function"));
        assert!(refused(sysfs.bind("../x")).contains("no PCI function"));
        assert!(refused(sysfs.bind(BDF)).contains("IOMMU"));
        create_dir_all(top.join("groups/9/devices")).expect("a directory");
        symlink(top.join("groups/9"), place.join("iommu_group")).expect("a link");
        assert!(refused(sysfs.bind(BDF)).contains("modprobe"));
        create_dir_all(sysfs.pci.join("drivers/vfio-pci")).expect("a directory");
        assert!(refused(sysfs.bind(BDF)).contains("eth7 is up"));
        write(place.join("net/eth7/flags"), "0x1002\n").expect("a file");
        // Files bind nothing: the driver that stays is noticed.
        assert!(refused(sysfs.bind(BDF)).contains("did not take it"));
        assert_eq!(text(&place.join("driver_override")).as_deref(), Some(VFIO));
        assert_eq!(text(&sysfs.pci.join("drivers/e1000e/unbind")).as_deref(), Some(BDF));
        assert_eq!(text(&sysfs.pci.join("drivers_probe")).as_deref(), Some(BDF));
        assert!(refused(sysfs.unbind(BDF)).contains("not bound"));
        remove_file(place.join("driver")).expect("removed");
        symlink(sysfs.pci.join("drivers/vfio-pci"), place.join("driver")).expect("a link");
        sysfs.bind(BDF).expect("it is bound already");
        assert!(sysfs.functions()[0].obstacle.as_deref().is_some_and(|words| words.contains("is missing")));
        write(sysfs.nodes.join("9"), "").expect("a node");
        assert_eq!(sysfs.functions()[0].obstacle, None);
        remove_dir_all(top).expect("cleaned up");
    }

    #[test]
    fn the_list_names_driver_group_and_interfaces() {
        let (sysfs, top) = machine("list");
        let mut out = Vec::new();
        list(&sysfs, Form::Table, &mut out).expect("written");
        let shown = String::from_utf8(out).expect("text");
        for word in [BDF, "8086:10d3", "e1000e", "eth7", "intel_iommu=on"] {
            assert!(shown.contains(word), "{word} in {shown}");
        }
        write(sysfs.device(BDF).join("class"), "0x030000\n").expect("a file");
        assert!(sysfs.functions().is_empty(), "a display is no NIC");
        remove_dir_all(top).expect("cleaned up");
    }
}
