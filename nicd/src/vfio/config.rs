//! Configuration space of a PCI function: command register, capabilities, requests that are pending.
//!
//! Everything that is read comes from the device: lists are followed a bounded number of steps.

use core::time::Duration;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// PCI 3.0 §6.2.1: offsets in the header.
const VENDOR: u64 = 0x00;
const DEVICE: u64 = 0x02;
const COMMAND: u64 = 0x04;
const STATUS: u64 = 0x06;
const CAPABILITIES: u64 = 0x34;
/// PCI 3.0 §6.2.2: answers to memory accesses; may access memory; no INTx.
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
/// PCI 3.0 §6.2.3: there is a list of capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// PCI Express base specification §7.8: its capability, and in it the device's status with the bit that
/// says that requests are outstanding.
const CAPABILITY_EXPRESS: u8 = 0x10;
const DEVICE_STATUS: u64 = 0x0a;
const TRANSACTIONS_PENDING: u16 = 1 << 5;
/// The longest list that fits 256 bytes.
const CAPABILITIES_MAX: usize = 48;
/// A request that is not answered ends after at most 50 ms (§2.8), and then it is no longer pending.
const PENDING_STEP: Duration = Duration::from_micros(50);
const PENDING_STEPS: u32 = 2_000;

/// The configuration space of a device that is open.
#[derive(Debug)]
pub struct ConfigSpace {
    device: File,
    offset: u64,
}

impl ConfigSpace {
    /// That lies at `offset` of the device's file.
    pub fn new(device: File, offset: u64) -> Self {
        ConfigSpace { device, offset }
    }

    /// A byte.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read8(&self, at: u64) -> io::Result<u8> {
        let mut byte = [0];
        self.device.read_exact_at(&mut byte, self.offset + at)?;
        Ok(byte[0])
    }

    fn read16(&self, at: u64) -> io::Result<u16> {
        let mut half = [0; 2];
        self.device.read_exact_at(&mut half, self.offset + at)?;
        Ok(u16::from_le_bytes(half))
    }

    fn write16(&self, at: u64, value: u16) -> io::Result<()> {
        self.device.write_all_at(&value.to_le_bytes(), self.offset + at)
    }

    /// Vendor and device.
    ///
    /// # Errors
    /// As [`ConfigSpace::read8`].
    pub fn id(&self) -> io::Result<(u16, u16)> {
        Ok((self.read16(VENDOR)?, self.read16(DEVICE)?))
    }

    /// Registers answer, memory is out of reach.
    ///
    /// # Errors
    /// Those of pread(2) and pwrite(2); `NotConnected` when it is not what was written.
    pub fn command(&self, master: bool) -> io::Result<()> {
        let before = self.read16(COMMAND)? & !COMMAND_MASTER;
        let wanted = before | COMMAND_MEMORY | if master { COMMAND_MASTER } else { 0 };
        self.write16(COMMAND, wanted)?;
        match self.read16(COMMAND)? == wanted {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::NotConnected, "the command register does not hold")),
        }
    }

    /// Where the capability `id` begins, after the one at `after` if there is one.
    ///
    /// # Errors
    /// As [`ConfigSpace::read8`].
    pub fn capability(&self, id: u8) -> io::Result<Option<u64>> {
        if self.read16(STATUS)? & STATUS_CAPABILITIES == 0 {
            return Ok(None);
        }
        let mut at = u64::from(self.read8(CAPABILITIES)? & !3);
        for _ in 0..CAPABILITIES_MAX {
            if at == 0 {
                break;
            }
            if self.read8(at)? == id {
                return Ok(Some(at));
            }
            at = u64::from(self.read8(at + 1)? & !3);
        }
        Ok(None)
    }

    /// Ends access to memory, and waits until what is under way has ended.
    ///
    /// # Errors
    /// As [`ConfigSpace::command`]; `TimedOut` when it does not end.
    pub fn quiesce(&self) -> io::Result<()> {
        self.command(false)?;
        let Some(express) = self.capability(CAPABILITY_EXPRESS)? else { return Ok(()) };
        for _ in 0..PENDING_STEPS {
            if self.read16(express + DEVICE_STATUS)? & TRANSACTIONS_PENDING == 0 {
                return Ok(());
            }
            std::thread::sleep(PENDING_STEP);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "its requests to memory do not end"))
    }
}
