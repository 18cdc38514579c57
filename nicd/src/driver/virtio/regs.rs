//! Where a virtio function keeps its registers (§4.1.4), and what they are.

/// Vendor-specific capability: PCI 3.0 appendix H.
const CAPABILITY_VENDOR: u8 = 0x09;
/// PCI 3.0 §6.2: where the list of capabilities begins.
const CAPABILITIES: usize = 0x34;
/// The longest list that fits 256 bytes.
const CAPABILITIES_MAX: usize = 48;

/// Where the structures lie in the one BAR that has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// Which BAR.
    pub bar: u8,
    /// Common configuration, §4.1.4.3.
    pub common: usize,
    /// Notifications, §4.1.4.4.
    pub notify: usize,
    /// Bytes between the notification registers of two queues.
    pub multiplier: usize,
    /// Configuration of the network device, §5.1.4.
    pub device: usize,
}

impl Layout {
    /// From the function's configuration space; `None` when it has no modern registers, or has them in
    /// several BARs.
    pub fn find(read8: impl Fn(usize) -> u8) -> Option<Layout> {
        let read32 = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| read8(at + n)));
        let (mut layout, mut found, mut bars) = (Layout::default(), 0u8, Vec::new());
        let mut at = usize::from(read8(CAPABILITIES) & !3);
        for _ in 0..CAPABILITIES_MAX {
            // §4.1.4: the last byte that is looked at is 19 behind.
            if !(0x40..=0xec).contains(&at) {
                break;
            }
            if read8(at) == CAPABILITY_VENDOR {
                let (kind, bar, offset) = (read8(at + 3), read8(at + 4), read32(at + 8) as usize);
                // The first one of a kind is the one to use.
                if matches!(kind, 1 | 2 | 4) && found >> kind & 1 == 0 {
                    found |= 1 << kind;
                    bars.push(bar);
                    match kind {
                        1 => layout.common = offset,
                        2 => (layout.notify, layout.multiplier) = (offset, read32(at + 16) as usize),
                        _ => layout.device = offset,
                    }
                }
            }
            at = usize::from(read8(at + 1) & !3);
        }
        layout.bar = *bars.first()?;
        (bars.len() == 3 && bars.iter().all(|bar| *bar == layout.bar) && layout.bar < 6).then_some(layout)
    }
}

/// §4.1.4.3: offsets in the common configuration.
pub mod common {
    /// Which 32 feature bits of the device are shown.
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    /// They.
    pub const DEVICE_FEATURE: usize = 4;
    /// Which 32 feature bits of the driver are written.
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    /// They.
    pub const DRIVER_FEATURE: usize = 12;
    /// Vector of a change of the configuration, 16 bits.
    pub const CONFIG_VECTOR: usize = 16;
    /// 8 bits.
    pub const DEVICE_STATUS: usize = 20;
    /// Which queue the rest is of, 16 bits.
    pub const QUEUE_SELECT: usize = 22;
    /// 16 bits.
    pub const QUEUE_SIZE: usize = 24;
    /// 16 bits.
    pub const QUEUE_VECTOR: usize = 26;
    /// 16 bits.
    pub const QUEUE_ENABLE: usize = 28;
    /// 16 bits.
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    /// Descriptors, what is available, what is used: 64 bits each, low half first.
    pub const QUEUE_ADDRESSES: [usize; 3] = [32, 40, 48];
}

/// §2.1: bits of the device's status.
pub mod status {
    /// A driver has seen it.
    pub const ACKNOWLEDGE: u8 = 1;
    /// There is one that knows it.
    pub const DRIVER: u8 = 2;
    /// It works.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed.
    pub const FEATURES_OK: u8 = 8;
    /// The device has given up.
    pub const NEEDS_RESET: u8 = 64;
    /// Read of a function that is gone.
    pub const GONE: u8 = 0xff;
}

/// §5.1.3, §6: feature bits.
pub mod feature {
    /// The device fills in checksums.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes frames without checksums.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device cuts TCP of IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device cuts TCP of IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// A frame may take several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// There is a link status.
    pub const STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// There are several queues each way.
    pub const MQ: u64 = 1 << 22;
    /// Notices are asked for by position.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// It is not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
    /// It reaches memory through the IOMMU.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// It spreads flows over its queues by a hash.
    pub const RSS: u64 = 1 << 60;
}

/// §5.1.4: the link's status in the network configuration, 16 bits, and its bit.
pub const LINK_STATUS: usize = 6;
/// As [`LINK_STATUS`].
pub const LINK_UP: u16 = 1;
/// §5.1.4: pairs of queues at most, 16 bits.
pub const PAIRS_MAX: usize = 8;
/// §5.1.4: bytes of a key at most, 8 bits.
pub const RSS_KEY_MAX: usize = 17;
/// §5.1.4: entries of a table at most, 16 bits.
pub const RSS_TABLE_MAX: usize = 18;
/// §5.1.4: kinds of hashes that it knows, 32 bits.
pub const RSS_HASHES: usize = 20;

/// §5.1.6.4.3.1: what is hashed: addresses of IPv4, with ports of TCP, with ports of UDP; the same of IPv6.
pub const HASHES: u32 = 0x3f;

/// §5.1.6.5: what is said on the control queue.
pub mod control {
    /// Class and command of the configuration of RSS, §5.1.6.5.6.
    pub const RSS_CONFIG: [u8; 2] = [4, 1];
    /// The answer to what was done.
    pub const OK: u8 = 0;
}
