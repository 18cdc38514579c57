//! virtio-net between the datapath and its virtqueues: features, queues, frames, link.
//!
//! A receive buffer is a small page of one shard at a time; a frame begins behind its header in the first.
//! A frame to send is a chain: its header, in the rings' memory, and its pages. Interrupts are asked for by position, so
//! that none comes while the rings are polled.

use super::regs::{LINK_STATUS, LINK_UP, Layout, common, feature as bit, status};
use super::ring::{BYTES, Buffer, Lied, Queue, SLOTS};
use crate::counts::{Count, Counts};
use crate::driver::hardware::{Hardware, gone, ring_iova, slab_iova, stuck};
use crate::driver::lent::{Lent, Looks};
use crate::nic::{Capabilities, Frame, HEADER_MAX, HEADER_MIN, Nic, Received, Slab, Transmitted};
use crate::virtio_header::{self, VIRTIO_HEADER_SIZE as HEADER};
use core::time::Duration;
use proto::Instant;
use proto::control::notices::feature;
use proto::nic::descriptor::Descriptor;
use proto::nic::slab::{CHAIN_MAX, PageIndex, SMALL_SIZE};
use proto::shm::Memory;
use rustix::fd::BorrowedFd;
use std::io;

/// §4.1.2: vendor, and the modern and the transitional network device.
pub const IDS: [(u16, u16); 2] = [(0x1af4, 0x1041), (0x1af4, 0x1000)];

/// Numbers of the queues, §5.1.2.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Where the headers of frames to send lie in the rings' memory.
const HEADERS_AT: usize = 2 * BYTES;
/// Bytes from one header to the next.
const HEADER_STRIDE: usize = 16;
/// §2.4.1: a reset ends at once; who takes longer than this does not come back.
const RESET_STEP: Duration = Duration::from_millis(1);
const RESET_STEPS: u32 = 100;
/// Buffers that are told of by one doorbell.
const DOORBELL_BATCH: usize = 16;

fn broken(_: Lied) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the device named a buffer that it does not have")
}

/// A virtio network device.
#[derive(Debug)]
pub struct Virtio<H: Hardware> {
    hw: H,
    layout: Layout,
    /// Places of the notification registers of the two queues.
    doorbell_at: [usize; 2],
    rings: H::Memory,
    receive: Queue<H::Memory>,
    transmit: Queue<H::Memory>,
    /// By descriptor.
    posted: Vec<PageIndex>,
    /// By first descriptor.
    sending: Vec<Option<(u16, Frame)>>,
    /// Posted, not told.
    untold: usize,
    lent: Lent<H::Memory>,
    longest: usize,
    offload: bool,
    features: u32,
    carrier: bool,
    has_status: bool,
    /// A frame may take several buffers.
    merges: bool,
    armed: bool,
    looks: Looks,
    stops: u64,
}

impl<H: Hardware> Virtio<H> {
    /// Resets a device with registers at `layout` and agrees with it on features.
    ///
    /// # Errors
    /// When it does not answer, or does not reach memory through the IOMMU.
    pub fn new(hw: H, layout: Layout, mtu: u16, offload: bool) -> io::Result<Self> {
        let rings = hw.rings();
        let mut nic = Virtio {
            layout,
            doorbell_at: [0; 2],
            receive: Queue::new(hw.rings(), 0),
            transmit: Queue::new(hw.rings(), BYTES),
            rings,
            hw,
            posted: vec![PageIndex(0); SLOTS.into()],
            sending: vec![None; SLOTS.into()],
            untold: 0,
            lent: Lent::new(2 * usize::from(SLOTS)),
            longest: usize::from(mtu) + HEADER_MAX,
            offload,
            features: 0,
            carrier: false,
            has_status: false,
            merges: false,
            armed: false,
            looks: Looks::default(),
            stops: 0,
        };
        nic.begin()?;
        Ok(nic)
    }

    fn at(&self, register: usize) -> usize {
        self.layout.common + register
    }

    fn status(&self) -> io::Result<u8> {
        match self.hw.read8(self.at(common::DEVICE_STATUS)) {
            status::GONE => Err(gone("its status")),
            value if value & status::NEEDS_RESET != 0 => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the device has given up"))
            }
            value => Ok(value),
        }
    }

    /// §3.1.1: from reset to a device that works.
    fn begin(&mut self) -> io::Result<()> {
        let place = self.at(common::DEVICE_STATUS);
        self.hw.write8(place, 0);
        if !self.hw.wait_until(RESET_STEP, RESET_STEPS, |hw| hw.read8(place) == 0) {
            self.status()?;
            return Err(stuck("its reset does not end"));
        }
        self.hw.write8(place, status::ACKNOWLEDGE | status::DRIVER);
        let agreed = self.agree()?;
        let event_index = agreed & bit::EVENT_IDX != 0;
        self.receive.clear(event_index);
        self.transmit.clear(event_index);
        self.untold = 0;
        self.hw.write16(self.at(common::CONFIG_VECTOR), 0);
        self.enable(RECEIVE, self.receive.addresses())?;
        self.enable(TRANSMIT, self.transmit.addresses())?;
        self.has_status = agreed & bit::STATUS != 0;
        self.merges = agreed & bit::MRG_RXBUF != 0;
        let bits = [
            (bit::CSUM, feature::TX_CHECKSUM),
            (bit::GUEST_CSUM, feature::RX_CHECKSUM),
            (bit::HOST_TSO4, feature::TSO4),
            (bit::HOST_TSO6, feature::TSO6),
        ];
        self.features = bits.iter().filter(|(theirs, _)| agreed & theirs != 0).map(|(_, ours)| ours).sum();
        // Only now: rings of the last owner would be used otherwise.
        self.hw.start()?;
        let working = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.hw.write8(place, working);
        self.status()?;
        self.armed = false;
        self.carrier = self.link();
        Ok(())
    }

    /// §2.2, §3.1.1 steps 4 to 6.
    fn agree(&self) -> io::Result<u64> {
        let mut offered = 0;
        for half in 0..2 {
            self.hw.write32(self.at(common::DEVICE_FEATURE_SELECT), half);
            offered |= u64::from(self.hw.read32(self.at(common::DEVICE_FEATURE))) << (32 * half);
        }
        self.status()?;
        let refuse = |words| Err(io::Error::new(io::ErrorKind::Unsupported, words));
        if offered & bit::VERSION_1 == 0 {
            return refuse("a legacy device; it must offer virtio 1");
        }
        if offered & bit::ACCESS_PLATFORM == 0 {
            return refuse(
                "it does not offer ACCESS_PLATFORM: it would bypass the IOMMU and see no frame of ours",
            );
        }
        let always = bit::VERSION_1 | bit::ACCESS_PLATFORM | bit::MRG_RXBUF | bit::STATUS | bit::EVENT_IDX;
        let offloads = bit::CSUM | bit::GUEST_CSUM | bit::HOST_TSO4 | bit::HOST_TSO6;
        let mut agreed = offered & (always | if self.offload { offloads } else { 0 });
        if agreed & bit::CSUM == 0 {
            // §5.1.3.1: a device that cuts must fill in.
            agreed &= !(bit::HOST_TSO4 | bit::HOST_TSO6);
        }
        for half in 0..2 {
            self.hw.write32(self.at(common::DRIVER_FEATURE_SELECT), half);
            self.hw.write32(self.at(common::DRIVER_FEATURE), (agreed >> (32 * half)) as u32);
        }
        let step = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.hw.write8(self.at(common::DEVICE_STATUS), step);
        match self.status()? & status::FEATURES_OK {
            0 => refuse("it takes back the features that it offered"),
            _ => Ok(agreed),
        }
    }

    /// §4.1.5.1.3.
    fn enable(&mut self, queue: u16, addresses: [u64; 3]) -> io::Result<()> {
        self.hw.write16(self.at(common::QUEUE_SELECT), queue);
        if self.hw.read16(self.at(common::QUEUE_SIZE)) < SLOTS {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "its queues are shorter than ours"));
        }
        self.hw.write16(self.at(common::QUEUE_SIZE), SLOTS);
        self.hw.write16(self.at(common::QUEUE_VECTOR), 0);
        for (register, address) in common::QUEUE_ADDRESSES.into_iter().zip(addresses) {
            self.hw.write32(self.at(register), address as u32);
            self.hw.write32(self.at(register) + 4, (address >> 32) as u32);
        }
        let off = usize::from(self.hw.read16(self.at(common::QUEUE_NOTIFY_OFF)));
        self.status()?;
        self.doorbell_at[usize::from(queue)] = self.layout.notify + off * self.layout.multiplier;
        self.hw.write16(self.at(common::QUEUE_ENABLE), 1);
        Ok(())
    }

    fn link(&self) -> bool {
        !self.has_status || self.hw.read16(self.layout.device + LINK_STATUS) & LINK_UP != 0
    }

    fn post(&mut self) {
        let Some(home) = &self.lent.home else { return };
        while self.receive.room() > 0
            && let Some(page) = self.lent.stock.take_small(home.shard)
        {
            let iova = slab_iova(home.shard) + home.geometry.page_at(page) as u64;
            let head = self.receive.put(&[Buffer { iova, len: SMALL_SIZE as u32, written: true }]);
            self.posted[usize::from(head)] = page;
            self.untold += 1;
        }
    }

    /// Tells the device of what it has to look at, where it wants to be told; doorbells that it took.
    fn tell(&mut self) -> u64 {
        let known = self.receive.busy() - self.untold.min(self.receive.busy());
        let mut doorbells = 0;
        if self.untold >= DOORBELL_BATCH || (self.untold > 0 && known < usize::from(SLOTS) / 2) {
            self.untold = 0;
            if self.receive.publish() {
                self.hw.write16(self.doorbell_at[0], RECEIVE);
                doorbells += 1;
            }
        }
        if self.transmit.publish() {
            self.hw.write16(self.doorbell_at[1], TRANSMIT);
            doorbells += 1;
        }
        doorbells
    }

    /// Gives back the pages of what was sent.
    fn clean(&mut self) -> io::Result<()> {
        while let Some(used) = self.transmit.take().map_err(broken)? {
            if let Some((shard, frame)) = self.sending[usize::from(used.head)].take() {
                self.lent.give_back(shard, &frame);
            }
        }
        Ok(())
    }

    /// The next frame, in the buffers that it takes; `Some(false)` when it is none.
    fn take(&mut self, frame: &mut Frame) -> io::Result<Option<bool>> {
        let Some(home) = &self.lent.home else { return Ok(None) };
        let Some(first) = self.receive.take().map_err(broken)? else { return Ok(None) };
        let page = self.posted[usize::from(first.head)];
        let mut header = [0; HEADER];
        home.memory.read(home.geometry.page_at(page), &mut header);
        let fits = |len: u32, least: usize| (least..=SMALL_SIZE).contains(&(len as usize));
        // §5.1.6.4.1: as many buffers as it says, if the device agreed to say it.
        let buffers = if self.merges { u16::from_le_bytes([header[10], header[11]]) } else { 1 };
        let mut sound = fits(first.len, HEADER + HEADER_MIN) && (1..=CHAIN_MAX).contains(&buffers.into());
        let mut spoiled = Vec::new();
        match sound {
            true => frame.add(Descriptor::plain(page, HEADER as u16, first.len - HEADER as u32)),
            false => spoiled.push(page),
        }
        // §5.1.6.4: a frame's buffers are used together.
        for _ in 1..buffers {
            let Some(next) = self.receive.take().map_err(broken)? else { return Err(broken(Lied)) };
            let page = self.posted[usize::from(next.head)];
            match sound && fits(next.len, 1) {
                true => frame.add(Descriptor::plain(page, 0, next.len)),
                false => {
                    sound = false;
                    spoiled.push(page);
                }
            }
        }
        let len = frame.len();
        sound = sound && len <= self.longest && {
            let first = frame.first_mut().expect("a frame that is sound has bytes");
            // Nobody agreed to joined segments.
            virtio_header::decode(&header, len, first) && first.gso_size == 0
        };
        if !sound {
            let pages = frame.pieces().iter().map(|piece| piece.page).chain(spoiled);
            pages.for_each(|page| self.lent.stock.put(home, page));
            frame.clear();
            return Ok(Some(false));
        }
        Ok(Some(true))
    }
}

impl<H: Hardware> Nic<H::Memory> for Virtio<H> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { driver: "virtio-net", features: self.features, carrier: self.carrier }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.hw.interrupt()
    }

    fn fill(&mut self, slab: &Slab<H::Memory>, page: PageIndex) {
        self.lent.fill(slab, page);
    }

    fn lies_in(&self) -> Option<u16> {
        self.lent.lies_in()
    }

    fn wants_pages(&self, shard: u16) -> bool {
        self.lent.wanted(shard, self.receive.room(), SLOTS.into())
    }

    fn pages(&mut self, slab: &Slab<H::Memory>, frame: &mut Frame, len: usize) -> bool {
        self.lent.stock.take_exactly(slab, frame, len)
    }

    fn receive(
        &mut self,
        _: &Slab<H::Memory>,
        frame: &mut Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Received> {
        Ok(match self.take(frame)? {
            None => Received::Nothing,
            Some(true) => {
                self.looks.moved(now);
                Received::Frame
            }
            Some(false) => {
                counts.count(Count::RxError);
                Received::Dropped
            }
        })
    }

    fn transmit(
        &mut self,
        slab: &Slab<H::Memory>,
        frame: &Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Transmitted> {
        if self.transmit.room() <= CHAIN_MAX {
            self.clean()?;
            if self.transmit.room() <= CHAIN_MAX {
                return Ok(Transmitted::Busy);
            }
        }
        let head = self.transmit.next_head();
        let header_at = HEADERS_AT + usize::from(head) * HEADER_STRIDE;
        self.rings.write(header_at, &virtio_header::of_frame(slab, frame));
        let header = Buffer { iova: ring_iova(header_at), len: HEADER as u32, written: false };
        let mut chain = [header; CHAIN_MAX + 1];
        for (buffer, piece) in chain[1..].iter_mut().zip(frame.pieces()) {
            let (at, len) = slab.piece(piece);
            *buffer = Buffer { iova: slab_iova(slab.shard) + at as u64, len: len as u32, written: false };
        }
        self.transmit.put(&chain[..frame.pieces().len() + 1]);
        self.sending[usize::from(head)] = Some((slab.shard, *frame));
        self.looks.moved(now);
        counts.count(Count::TxFrames);
        counts.add(Count::TxBytes, frame.len() as u64);
        Ok(Transmitted::Taken)
    }

    fn flush(&mut self, _: Instant, counts: &mut Counts) {
        self.post();
        counts.add(Count::Doorbells, self.tell());
    }

    fn complete(&mut self) -> Option<(u16, PageIndex)> {
        if self.lent.done.is_empty() && self.clean().is_err() {
            // The next look says so: it is a device that can't be trusted any more.
            self.looks.at_once();
        }
        self.lent.done.pop()
    }

    fn reset(&mut self, shard: u16) -> io::Result<()> {
        let ours = self.lies_in() == Some(shard);
        self.lent.forget(shard);
        if !ours && self.transmit.busy() == 0 {
            return Ok(());
        }
        self.stops += 1;
        self.hw.quiesce()?;
        for (whose, frame) in self.sending.iter_mut().filter_map(Option::take) {
            if whose != shard {
                self.lent.give_back(whose, &frame);
            }
        }
        // Pages of another shard that were posted: its netd has lent them to us for good, until it takes them
        // back as a whole; those in use are known by what is not in the stock.
        if let Some(home) = self.lent.home.take().filter(|home| home.shard != shard) {
            for page in self.receive.heads().map(|head| self.posted[usize::from(head)]) {
                self.lent.stock.put(&home, page);
            }
            self.lent.home = Some(home);
        }
        self.begin()
    }

    fn poll(&mut self, now: Instant, counts: &mut Counts) -> io::Result<()> {
        self.status()?;
        if core::mem::take(&mut self.armed) {
            counts.count(Count::Interrupts);
        }
        self.receive.quiet();
        self.transmit.quiet();
        self.clean()?;
        let carrier = self.link();
        if carrier != self.carrier {
            counts.count(if carrier { Count::CarrierUp } else { Count::CarrierDown });
            self.carrier = carrier;
        }
        counts.add(Count::DeviceStops, core::mem::take(&mut self.stops));
        self.looks.looked(now);
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.looks.due()
    }

    fn may_sleep(&mut self) -> bool {
        self.armed = true;
        let nothing_came = self.receive.arm();
        let nothing_went = self.transmit.busy() == 0 || self.transmit.arm();
        nothing_came && nothing_went
    }

    fn recalled(&self) -> Option<BorrowedFd<'_>> {
        self.hw.recalled()
    }
}
