//! A PCI chip in the hands of this process, by VFIO.
//!
//! The group, the container and their calls are vfio-ioctls'; here is what it leaves out: a mapped BAR
//! ([`bar`]), configuration space whose errors are seen ([`config`]), the maps of the slabs ([`device`])
//! and words for what is missing ([`place`]).
//!
//! Order: the kernel resets the chip when it is opened and when its last descriptor is closed, so also
//! when this process is killed; it reaches memory only while the driver has let it (bus mastering), and
//! only what is mapped. A chip that touches anything else faults in the IOMMU.

pub mod bar;
pub mod config;
pub mod device;
pub mod place;

pub use device::{OpenError, Vfio};
