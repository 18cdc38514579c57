//! virtio-net between the datapath and its virtqueues: features, queues, frames, link.
//!
//! A device that spreads flows by a hash ([`super::spread`]) has a pair of queues for each shard; any other has one pair
//! for all of them. A receive buffer is a small page of one shard at a time; a frame begins behind its header in the first.
//! A frame to send is a chain: its header, in the rings' memory, and its pages. Interrupts are asked for by position, so
//! that none comes while the rings are polled.

use super::regs::{LINK_STATUS, LINK_UP, Layout, common, feature as bit, status};
use super::ring::{BYTES, Buffer, Lied, Queue, SLOTS};
use super::spread::{self, Control};
use crate::counts::{Count, Counts};
use crate::driver::Wishes;
use crate::driver::hardware::{Hardware, RINGS_SIZE, gone, ring_iova, slab_iova, stuck};
use crate::driver::lent::{Lent, Looks};
use crate::nic::{Capabilities, Frame, HEADER_MAX, HEADER_MIN, Next, Nic, Received, Slab, Transmitted};
use crate::stock::Stock;
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

/// Bytes from one header to the next.
const HEADER_STRIDE: usize = 16;
/// Bytes of a pair's memory: its two queues, then the headers of frames to send.
const PAIR_BYTES: usize = 2 * BYTES + SLOTS as usize * HEADER_STRIDE;
/// Pairs at most.
const PAIRS: usize = 8;
/// Where the control queue lies, behind all pairs.
const CONTROL_AT: usize = PAIRS * PAIR_BYTES;

const _: () = assert!(CONTROL_AT + spread::BYTES <= RINGS_SIZE && PAIR_BYTES.is_multiple_of(0x1000));

/// §2.4.1: a reset ends at once; who takes longer than this does not come back.
const RESET_STEP: Duration = Duration::from_millis(1);
const RESET_STEPS: u32 = 100;
/// Buffers that are told of by one doorbell.
const DOORBELL_BATCH: usize = 16;

fn broken(_: Lied) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the device named a buffer that it does not have")
}

/// A queue each way.
#[derive(Debug)]
struct Pair<M> {
    receive: Queue<M>,
    transmit: Queue<M>,
    /// Places of their notification registers.
    doorbell_at: [usize; 2],
    /// Where the headers of frames to send lie in the rings' memory.
    headers_at: usize,
    /// By descriptor.
    posted: Vec<PageIndex>,
    /// By first descriptor.
    sending: Vec<Option<(u16, Frame)>>,
    /// Posted, not told.
    untold: usize,
}

impl<M: Memory + Clone> Pair<M> {
    /// Pair `number`.
    fn new(memory: &M, number: usize) -> Self {
        let at = number * PAIR_BYTES;
        Pair {
            receive: Queue::new(memory.clone(), at, SLOTS),
            transmit: Queue::new(memory.clone(), at + BYTES, SLOTS),
            doorbell_at: [0; 2],
            headers_at: at + 2 * BYTES,
            posted: vec![PageIndex(0); SLOTS.into()],
            sending: vec![None; SLOTS.into()],
            untold: 0,
        }
    }

    /// The device was reset.
    fn clear(&mut self, event_index: bool) {
        self.receive.clear(event_index);
        self.transmit.clear(event_index);
        self.sending.fill(None);
        self.untold = 0;
    }

    /// Posts what there is for it.
    fn post(&mut self, home: Option<&Slab<M>>, stock: &mut Stock) {
        let Some(home) = home else { return };
        while self.receive.room() > 0
            && let Some(page) = stock.take_small(home.shard)
        {
            let iova = slab_iova(home.shard) + home.geometry.page_at(page) as u64;
            let head = self.receive.put(&[Buffer { iova, len: SMALL_SIZE as u32, written: true }]);
            self.posted[usize::from(head)] = page;
            self.untold += 1;
        }
    }

    /// Publishes what is due; whether the device wants to be told of pages, and of frames to send.
    fn publish(&mut self) -> [bool; 2] {
        let known = self.receive.busy() - self.untold.min(self.receive.busy());
        let due = self.untold >= DOORBELL_BATCH || (self.untold > 0 && known < usize::from(SLOTS) / 2);
        if due {
            self.untold = 0;
        }
        [due && self.receive.publish(), self.transmit.publish()]
    }
}

/// A virtio network device.
#[derive(Debug)]
pub struct Virtio<H: Hardware> {
    hw: H,
    layout: Layout,
    rings: H::Memory,
    pairs: Vec<Pair<H::Memory>>,
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
    pub fn new(hw: H, layout: Layout, wishes: &Wishes) -> io::Result<Self> {
        let rings = hw.rings();
        let mut nic = Virtio {
            layout,
            rings,
            hw,
            pairs: Vec::new(),
            lent: Lent::new(1, 0),
            longest: usize::from(wishes.mtu) + HEADER_MAX,
            offload: wishes.offload,
            features: 0,
            carrier: false,
            has_status: false,
            merges: false,
            armed: false,
            looks: Looks::default(),
            stops: 0,
        };
        nic.acknowledge()?;
        let offered = nic.offered()?;
        let most =
            if offered & spread::NEEDED == spread::NEEDED { spread::queues(&nic.hw, &layout) } else { 1 };
        let pairs = wishes.queues(most.min(PAIRS));
        nic.pairs = (0..pairs).map(|number| Pair::new(&nic.rings, number)).collect();
        nic.lent = Lent::new(pairs, 2 * pairs * usize::from(SLOTS));
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

    /// §3.1.1 steps 1 to 3: reset, and there is a driver.
    fn acknowledge(&self) -> io::Result<()> {
        let place = self.at(common::DEVICE_STATUS);
        self.hw.write8(place, 0);
        if !self.hw.wait_until(RESET_STEP, RESET_STEPS, |hw| hw.read8(place) == 0) {
            self.status()?;
            return Err(stuck("its reset does not end"));
        }
        self.hw.write8(place, status::ACKNOWLEDGE | status::DRIVER);
        Ok(())
    }

    /// §3.1.1: from reset to a device that works.
    fn begin(&mut self) -> io::Result<()> {
        self.acknowledge()?;
        let agreed = self.agree()?;
        let event_index = agreed & bit::EVENT_IDX != 0;
        self.hw.write16(self.at(common::CONFIG_VECTOR), 0);
        for number in 0..self.pairs.len() {
            let pair = &mut self.pairs[number];
            pair.clear(event_index);
            let addresses = [pair.receive.addresses(), pair.transmit.addresses()];
            for (way, addresses) in addresses.into_iter().enumerate() {
                // §5.1.2: the queues of a pair stand side by side.
                let doorbell_at = self.enable((2 * number + way) as u16, SLOTS, addresses)?;
                self.pairs[number].doorbell_at[way] = doorbell_at;
            }
        }
        let control = match self.pairs.len() {
            1 => None,
            _ => {
                let control = Control::new(&self.rings, CONTROL_AT, spread::number(&self.hw, &self.layout));
                let doorbell_at = self.enable(control.number, spread::SLOTS, control.addresses())?;
                Some((control, doorbell_at))
            }
        };
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
        self.hw.write8(self.at(common::DEVICE_STATUS), working);
        self.status()?;
        if let Some((mut control, doorbell_at)) = control {
            control.spread(&self.hw, doorbell_at, self.pairs.len() as u16)?;
        }
        self.armed = false;
        self.carrier = self.link();
        Ok(())
    }

    /// What the device can do.
    fn offered(&self) -> io::Result<u64> {
        let mut offered = 0;
        for half in 0..2 {
            self.hw.write32(self.at(common::DEVICE_FEATURE_SELECT), half);
            offered |= u64::from(self.hw.read32(self.at(common::DEVICE_FEATURE))) << (32 * half);
        }
        self.status().map(|_| offered)
    }

    /// §2.2, §3.1.1 steps 4 to 6.
    fn agree(&self) -> io::Result<u64> {
        let offered = self.offered()?;
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
        let spreads = if self.pairs.len() > 1 { spread::NEEDED } else { 0 };
        let mut agreed = offered & (always | spreads | if self.offload { offloads } else { 0 });
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

    /// §4.1.5.1.3: a queue of so many slots; where its notification register is.
    fn enable(&self, queue: u16, slots: u16, addresses: [u64; 3]) -> io::Result<usize> {
        self.hw.write16(self.at(common::QUEUE_SELECT), queue);
        if self.hw.read16(self.at(common::QUEUE_SIZE)) < slots {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "its queues are shorter than ours"));
        }
        self.hw.write16(self.at(common::QUEUE_SIZE), slots);
        self.hw.write16(self.at(common::QUEUE_VECTOR), 0);
        for (register, address) in common::QUEUE_ADDRESSES.into_iter().zip(addresses) {
            self.hw.write32(self.at(register), address as u32);
            self.hw.write32(self.at(register) + 4, (address >> 32) as u32);
        }
        let off = usize::from(self.hw.read16(self.at(common::QUEUE_NOTIFY_OFF)));
        self.status()?;
        self.hw.write16(self.at(common::QUEUE_ENABLE), 1);
        Ok(self.layout.notify + off * self.layout.multiplier)
    }

    fn link(&self) -> bool {
        !self.has_status || self.hw.read16(self.layout.device + LINK_STATUS) & LINK_UP != 0
    }

    /// Tells the device of what it has to look at, where it wants to be told; doorbells that it took.
    fn tell(&mut self) -> u64 {
        let mut doorbells = 0;
        for (number, pair) in self.pairs.iter_mut().enumerate() {
            for (way, wanted) in pair.publish().into_iter().enumerate() {
                if wanted {
                    self.hw.write16(pair.doorbell_at[way], (2 * number + way) as u16);
                    doorbells += 1;
                }
            }
        }
        doorbells
    }

    /// Gives back the pages of what pair `number` has sent.
    fn clean(&mut self, number: usize) -> io::Result<()> {
        let pair = &mut self.pairs[number];
        while let Some(used) = pair.transmit.take().map_err(broken)? {
            if let Some((shard, frame)) = pair.sending[usize::from(used.head)].take() {
                self.lent.give_back(shard, &frame);
            }
        }
        Ok(())
    }

    fn clean_all(&mut self) -> io::Result<()> {
        (0..self.pairs.len()).try_for_each(|number| self.clean(number))
    }

    /// Whether a frame is there for one of the shards in `takes`.
    fn is_ready(&self, takes: u64) -> bool {
        self.lent.rings_for(takes).any(|ring| self.pairs[ring].receive.is_ready())
    }

    /// The next frame of pair `number`, in the buffers that it takes; `Some(false)` when it is none.
    fn take(&mut self, number: usize, frame: &mut Frame) -> io::Result<Option<bool>> {
        let (Some(home), stock) = self.lent.apart(number) else { return Ok(None) };
        let Pair { receive, posted, .. } = &mut self.pairs[number];
        let Some(first) = receive.take().map_err(broken)? else { return Ok(None) };
        let page = posted[usize::from(first.head)];
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
            let Some(next) = receive.take().map_err(broken)? else { return Err(broken(Lied)) };
            let page = posted[usize::from(next.head)];
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
            pages.for_each(|page| stock.put(home, page));
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

    fn next_in(&mut self, takes: u64) -> Next {
        let pairs = &self.pairs;
        self.lent.next_in(takes, |ring| pairs[ring].receive.is_ready())
    }

    fn wants_pages(&self, shard: u16) -> bool {
        self.lent.wanted(shard, self.pairs[self.lent.ring_of(shard)].receive.room(), SLOTS.into())
    }

    fn pages(&mut self, slab: &Slab<H::Memory>, frame: &mut Frame, len: usize) -> bool {
        self.lent.stock.take_exactly(slab, frame, len)
    }

    fn receive(
        &mut self,
        slab: &Slab<H::Memory>,
        frame: &mut Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Received> {
        Ok(match self.take(self.lent.ring_of(slab.shard), frame)? {
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
        let number = self.lent.ring_of(slab.shard);
        if self.pairs[number].transmit.room() <= CHAIN_MAX {
            self.clean(number)?;
            if self.pairs[number].transmit.room() <= CHAIN_MAX {
                return Ok(Transmitted::Busy);
            }
        }
        let pair = &mut self.pairs[number];
        let head = pair.transmit.next_head();
        let header_at = pair.headers_at + usize::from(head) * HEADER_STRIDE;
        self.rings.write(header_at, &virtio_header::of_frame(slab, frame));
        let header = Buffer { iova: ring_iova(header_at), len: HEADER as u32, written: false };
        let mut chain = [header; CHAIN_MAX + 1];
        for (buffer, piece) in chain[1..].iter_mut().zip(frame.pieces()) {
            let (at, len) = slab.piece(piece);
            *buffer = Buffer { iova: slab_iova(slab.shard) + at as u64, len: len as u32, written: false };
        }
        pair.transmit.put(&chain[..frame.pieces().len() + 1]);
        pair.sending[usize::from(head)] = Some((slab.shard, *frame));
        self.looks.moved(now);
        counts.count(Count::TxFrames);
        counts.add(Count::TxBytes, frame.len() as u64);
        Ok(Transmitted::Taken)
    }

    fn flush(&mut self, _: Instant, counts: &mut Counts) {
        for (number, pair) in self.pairs.iter_mut().enumerate() {
            let (home, stock) = self.lent.apart(number);
            pair.post(home, stock);
        }
        self.lent.take_turns();
        counts.add(Count::Doorbells, self.tell());
    }

    fn complete(&mut self) -> Option<(u16, PageIndex)> {
        if self.lent.done.is_empty() && self.clean_all().is_err() {
            // The next look says so: it is a device that can't be trusted any more.
            self.looks.at_once();
        }
        self.lent.done.pop()
    }

    fn reset(&mut self, shard: u16) -> io::Result<()> {
        let fills = self.lent.fills(shard).is_some();
        let sends = self.pairs[self.lent.ring_of(shard)].transmit.busy() > 0;
        self.lent.forget(shard);
        if !fills && !sends {
            return Ok(());
        }
        self.stops += 1;
        self.hw.quiesce()?;
        self.lent.leave(shard);
        for (number, pair) in self.pairs.iter_mut().enumerate() {
            for (whose, frame) in pair.sending.iter_mut().filter_map(Option::take) {
                if whose != shard {
                    self.lent.give_back(whose, &frame);
                }
            }
            // Pages of other shards that were posted are lent to us still: those in use are known by what is not
            // in the stock.
            if let (Some(home), stock) = self.lent.apart(number) {
                pair.receive.heads().for_each(|head| stock.put(home, pair.posted[usize::from(head)]));
            }
        }
        self.begin()
    }

    fn poll(&mut self, now: Instant, counts: &mut Counts) -> io::Result<()> {
        self.status()?;
        if core::mem::take(&mut self.armed) {
            counts.count(Count::Interrupts);
        }
        for pair in &mut self.pairs {
            pair.receive.quiet();
            pair.transmit.quiet();
        }
        self.clean_all()?;
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

    fn may_sleep(&mut self, takes: u64) -> bool {
        self.armed = true;
        let mut nothing_went = true;
        for pair in &mut self.pairs {
            pair.receive.arm();
            nothing_went &= pair.transmit.busy() == 0 || pair.transmit.arm();
        }
        nothing_went && !self.is_ready(takes)
    }

    fn recalled(&self) -> Option<BorrowedFd<'_>> {
        self.hw.recalled()
    }
}
