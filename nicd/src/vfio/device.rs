//! A chip behind VFIO as [`Hardware`]: opened, reset, with its BAR, its maps and its interrupt.
//!
//! The device's descriptors live as long as the process: with the last of them the kernel ends all DMA and
//! resets the chip. (Dropping vfio-ioctls' device would ask sysfs, which panics once it is unplugged.)

#![expect(unsafe_code, reason = "memory is given to a device, a descriptor is borrowed")]

use super::bar::Bar;
use super::config::ConfigSpace;
use super::place::{Obstacle, Place};
use crate::driver::hardware::{Hardware, RINGS_IOVA, RINGS_SIZE, slab_iova};
use crate::nic::Slab;
use core::mem::ManuallyDrop;
use core::time::Duration;
use proto::shm::region::{Region, create_sealed};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::fs::File;
use std::io;
use std::sync::Arc;
use thiserror::Error;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The smallest page that an IOMMU maps.
const PAGE: usize = 4096;

/// Why a chip can't be had.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It is not ours to take.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// VFIO refuses.
    #[error("cannot {step} of {bdf}: {source}{}", hint(.source))]
    Vfio {
        /// What was being done.
        step: &'static str,
        /// The function.
        bdf: String,
        /// What it says.
        source: VfioError,
    },
    /// The kernel refuses.
    #[error("cannot {step} of {bdf}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The function.
        bdf: String,
        /// What it says.
        source: io::Error,
    },
    /// No driver knows it.
    #[error("{bdf} is {vendor:04x}:{device:04x}; there are drivers for {known}")]
    Unknown {
        /// The function.
        bdf: String,
        /// Its vendor.
        vendor: u16,
        /// Its device number.
        device: u16,
        /// What there is.
        known: &'static str,
    },
}

/// What an administrator can do about it.
fn hint(error: &VfioError) -> &'static str {
    let text = format!("{error:?}");
    let has = |words: &str| text.contains(words);
    if has("IommuDmaMap") && (has("(12)") || has("ENOMEM")) {
        "; raise the limit of locked memory (`ulimit -l`), it must hold the frame slabs"
    } else if has("ContainerSetIOMMU") && (has("(1)") || has("EPERM")) {
        "; the machine's IOMMU does not remap interrupts"
    } else if has("GroupViable") {
        "; every function of its IOMMU group must be bound to vfio-pci"
    } else if has("(16)") {
        "; somebody else has it open"
    } else {
        ""
    }
}

/// A chip, opened.
pub struct Vfio {
    bar: Bar,
    config: ConfigSpace,
    rings: Arc<Region>,
    interrupt: EventFd,
    recall: EventFd,
    _device: ManuallyDrop<VfioDevice>,
    _container: ManuallyDrop<Arc<VfioContainer>>,
    /// What is mapped for it stays mapped.
    _slabs: Vec<Slab<Arc<Region>>>,
}

/// A function that is open, before it is known which registers it has.
pub struct Opened {
    bdf: String,
    container: Arc<VfioContainer>,
    device: ManuallyDrop<VfioDevice>,
    config: ConfigSpace,
}

impl Opened {
    /// Opens the function at `place`. The kernel has reset it; it can't reach memory.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(place: &Place) -> Result<Opened, OpenError> {
        place.check()?;
        let bdf = place.bdf().to_owned();
        let vfio = |step, source| OpenError::Vfio { step, bdf: place.bdf().to_owned(), source };
        let system = |step, source| OpenError::Io { step, bdf: place.bdf().to_owned(), source };
        let container = Arc::new(VfioContainer::new(None).map_err(|e| vfio("open the container", e))?);
        let device =
            VfioDevice::new(&place.sysfs(), container.clone(), false).map_err(|e| vfio("take hold", e))?;
        let device = ManuallyDrop::new(device);
        // SAFETY: the descriptor is the device's, which is never dropped.
        let borrowed = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
        let file = borrowed.try_clone_to_owned().map_err(|e| system("duplicate the descriptor", e))?;
        let config =
            ConfigSpace::new(File::from(file), device.get_region_offset(VFIO_PCI_CONFIG_REGION_INDEX));
        config.command(false).map_err(|e| system("write the command register", e))?;
        device.reset();
        config.command(false).map_err(|e| system("write the command register", e))?;
        Ok(Opened { bdf, container, device, config })
    }

    /// Its vendor and device number.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn id(&self) -> Result<(u16, u16), OpenError> {
        self.config.id().map_err(|e| self.system("read the configuration space", e))
    }

    /// Its configuration space.
    pub fn config(&self) -> &ConfigSpace {
        &self.config
    }

    /// Its address.
    pub fn bdf(&self) -> &str {
        &self.bdf
    }

    fn system(&self, step: &'static str, source: io::Error) -> OpenError {
        OpenError::Io { step, bdf: self.bdf.clone(), source }
    }

    fn vfio(&self, step: &'static str, source: VfioError) -> OpenError {
        OpenError::Vfio { step, bdf: self.bdf.clone(), source }
    }

    /// With its registers in BAR `bar`, `vectors` interrupts that are one, and the slabs in its reach.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn set_up(self, bar: u32, vectors: usize, slabs: &[Slab<Arc<Region>>]) -> Result<Vfio, OpenError> {
        let system = |step| move |source: io::Error| (step, source);
        let made = || -> Result<_, (&'static str, io::Error)> {
            if self.device.get_region_flags(bar) & VFIO_REGION_INFO_FLAG_MMAP == 0 {
                return Err(("map the registers", io::ErrorKind::Unsupported.into()));
            }
            // SAFETY: the descriptor is the device's, which is never dropped.
            let device = unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) };
            let size = self.device.get_region_size(bar) as usize;
            let bar = Bar::map(device, self.device.get_region_offset(bar), size)
                .map_err(system("map the registers"))?;
            let memory = create_sealed("axl-rings", RINGS_SIZE).map_err(system("make the rings"))?;
            let rings = Region::map(memory, RINGS_SIZE).map_err(system("map the rings"))?;
            let eventfd = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(system("make an eventfd"));
            Ok((bar, Arc::new(rings), eventfd()?, eventfd()?))
        };
        let (bar, rings, interrupt, recall) = made().map_err(|(step, e)| self.system(step, e))?;
        self.reach(RINGS_IOVA, &rings, RINGS_SIZE)?;
        for slab in slabs {
            let pages = slab.geometry.bytes().next_multiple_of(PAGE);
            self.reach(slab_iova(slab.shard), &slab.memory, pages)?;
        }
        self.hear(&interrupt, vectors)?;
        // Old kernels do not say it: then the device is lost when it is gone.
        if self.device.get_irq_info(VFIO_PCI_REQ_IRQ_INDEX).is_some_and(|irq| irq.count > 0) {
            let asked = self.device.enable_irq(VFIO_PCI_REQ_IRQ_INDEX, vec![&recall]);
            asked.map_err(|e| self.vfio("ask to be told of an unplug", e))?;
        }
        Ok(Vfio {
            bar,
            config: self.config,
            rings,
            interrupt,
            recall,
            _device: self.device,
            _container: ManuallyDrop::new(self.container),
            _slabs: slabs.to_vec(),
        })
    }

    fn reach(&self, iova: u64, memory: &Region, size: usize) -> Result<(), OpenError> {
        let address = memory.pointer(0, size.min(proto::shm::Memory::size(memory)));
        // SAFETY: the region stays mapped as long as the device is open (it is kept beside it, or in
        // `_slabs`), no reference into it is ever made, and it is shared with other processes anyway.
        let mapped = unsafe { self.container.vfio_dma_map(iova, size, address) };
        mapped.map_err(|e| self.vfio("map memory for the DMA", e))
    }

    /// All vectors raise one eventfd: there is one thread to hear them.
    fn hear(&self, interrupt: &EventFd, vectors: usize) -> Result<(), OpenError> {
        for (index, wanted) in [(VFIO_PCI_MSIX_IRQ_INDEX, vectors), (VFIO_PCI_MSI_IRQ_INDEX, 1)] {
            let there = self.device.get_irq_info(index).map_or(0, |irq| irq.count as usize);
            if there >= wanted {
                let enabled = self.device.enable_irq(index, vec![interrupt; wanted]);
                return enabled.map_err(|e| self.vfio("enable the interrupts", e));
            }
        }
        Err(self.system("enable the interrupts", io::ErrorKind::Unsupported.into()))
    }
}

impl core::fmt::Debug for Vfio {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Vfio").field("bar", &self.bar).finish_non_exhaustive()
    }
}

impl Hardware for Vfio {
    type Memory = Arc<Region>;

    fn read32(&self, at: usize) -> u32 {
        self.bar.read32(at)
    }

    fn write32(&self, at: usize, value: u32) {
        self.bar.write32(at, value);
    }

    fn read16(&self, at: usize) -> u16 {
        self.bar.read16(at)
    }

    fn write16(&self, at: usize, value: u16) {
        self.bar.write16(at, value);
    }

    fn read8(&self, at: usize) -> u8 {
        self.bar.read8(at)
    }

    fn write8(&self, at: usize, value: u8) {
        self.bar.write8(at, value);
    }

    fn config8(&self, at: usize) -> u8 {
        self.config.read8(at as u64).unwrap_or(0xff)
    }

    fn rings(&self) -> Arc<Region> {
        self.rings.clone()
    }

    fn interrupt(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.interrupt.as_raw_fd()) }
    }

    fn recalled(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: as above.
        Some(unsafe { BorrowedFd::borrow_raw(self.recall.as_raw_fd()) })
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn start(&self) -> io::Result<()> {
        self.config.command(true)
    }

    fn quiesce(&self) -> io::Result<()> {
        self.config.quiesce()
    }
}
