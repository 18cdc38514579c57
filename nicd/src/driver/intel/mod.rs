//! Between the datapath and an Intel chip: its rings, its interrupt, its link.
//!
//! NAPI: an interrupt masks itself and is followed by rounds of polling; before it sleeps the driver
//! clears what the rounds have dealt with, looks at the ring again, and only then unmasks. The chip gets one
//! doorbell for what a round has posted and one for what it has sent.
//!
//! A chip that spreads flows over queues has a pair of rings for each shard, and puts frames into pages of the shard that
//! they are for; any other has one pair, with pages of one shard, and the datapath copies for the rest. When a
//! netd is gone the chip is brought to rest, and its rings begin anew without that netd's pages; what
//! other shards had handed down is lost with it, as in a link flap.
//!
//! The chips are one family: registers ([`regs`]), descriptors ([`desc`]) and what is done with them
//! ([`bring_up`]) are here as far as they are alike, and in a chip's own folder where they are not.

pub mod bring_up;
pub mod desc;
pub mod regs;

use super::Wishes;
use super::hardware::{Hardware, RINGS_SIZE};
use super::lent::{Lent, Looks};
use super::moderation::Moderation;
use super::offload::{prepare, wanted};
use super::receive::{self, DESCRIPTOR, ReceiveRing, Taken};
use super::transmit::{self, TransmitRing};
use crate::counts::{Count, Counts};
use crate::filter::AddressFilter;
use crate::nic::{Capabilities, Frame, HEADER_MAX, Next, Nic, Received, Slab, Transmitted};
use crate::stock::Stock;
use core::fmt::Debug;
use core::time::Duration;
use proto::Instant;
use proto::control::notices::{Mac, feature};
use proto::nic::slab::{PageIndex, SMALL_SIZE};
use proto::shm::Memory;
use rustix::fd::BorrowedFd;
use std::io;

/// Slots of the receive ring: the 82574's and 82576's drivers of Linux begin with as many.
pub const RECEIVE_SLOTS: u32 = 256;
/// Slots of the transmit ring.
pub const TRANSMIT_SLOTS: u32 = 256;
/// Pages that are posted by one doorbell: the chips fetch descriptors in such bursts.
const DOORBELL_BATCH: u32 = 16;

/// Where a ring lies.
#[derive(Debug, Clone, Copy)]
pub struct RingPlace {
    /// For the chip.
    pub iova: u64,
    /// Its size.
    pub bytes: usize,
}

/// What a chip is set up with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its address.
    pub mac: Mac,
    /// The largest payload of a frame in bytes.
    pub mtu: usize,
    /// Queues each way; with several, queue `n` is for shard `n`.
    pub queues: usize,
}

/// What an interrupt was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Causes {
    /// The chip has something to say at all.
    pub any: bool,
    /// The link came or went.
    pub link: bool,
    /// Frames came. Where frames of either way have one cause in the chip, this and `transmit` are both set.
    pub receive: bool,
    /// Frames went.
    pub transmit: bool,
    /// The ring had no page for a frame.
    pub overrun: bool,
}

/// One kind of Intel chip: its registers.
pub trait Chip: Debug + Sized {
    /// Its name for people.
    const NAME: &'static str;
    /// Queues each way at most. With more than one it spreads flows over them as netd's shards are chosen.
    const QUEUES: usize = 1;
    /// Registers of the receive ring of queue 0: base low and high, length, head, tail.
    const RECEIVE_RING: [usize; 5];
    /// Registers of the transmit ring of queue 0, as [`Chip::RECEIVE_RING`].
    const TRANSMIT_RING: [usize; 5];
    /// From the registers of a queue to those of the next one.
    const QUEUE_STRIDE: usize = 0;
    /// How it writes received frames.
    type Receive: receive::Format + Debug;
    /// How it reads frames to send.
    type Transmit: transmit::Format + Debug;

    /// Resets it. It neither receives nor sends; its interrupts are masked.
    ///
    /// # Errors
    /// When it does not answer.
    fn reset<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()>;
    /// Makes it forget every descriptor; false when nothing less than a reset does. It can't access memory.
    ///
    /// # Errors
    /// When it does not answer.
    fn forget<H: Hardware>(&self, _hw: &H, _setup: &Setup) -> io::Result<bool> {
        Ok(false)
    }
    /// Programs what else there is, after a reset or when it has forgotten the former rings; where the rings lie
    /// it has been told.
    ///
    /// # Errors
    /// When it does not answer.
    fn program<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()>;
    /// Lets it receive and send. It may access memory already.
    ///
    /// # Errors
    /// When it does not answer.
    fn run<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()>;
    /// Masks all interrupts.
    fn mask<H: Hardware>(&self, hw: &H);
    /// Clears what frames have raised, and has done so when this returns. What the link raised stays.
    ///
    /// # Errors
    /// When it is gone.
    fn settle<H: Hardware>(&self, hw: &H) -> io::Result<()>;
    /// Lets interrupts through; one that is raised already comes at once.
    fn unmask<H: Hardware>(&self, hw: &H);
    /// Why it interrupted; cleared.
    fn causes<H: Hardware>(&self, hw: &H) -> Causes;
    /// So long at least between two interrupts from now on; no time is no bound.
    fn throttle<H: Hardware>(&self, hw: &H, interval: Duration);
}

/// A queue each way.
#[derive(Debug)]
struct Pair<M, C: Chip> {
    receive: ReceiveRing<M, C::Receive>,
    transmit: TransmitRing<M, C::Transmit>,
    /// The tails that the chip was told.
    receive_told: u32,
    transmit_told: u32,
}

impl<M: Memory + Clone, C: Chip> Pair<M, C> {
    /// Bytes of its rings.
    const BYTES: usize = (RECEIVE_SLOTS + TRANSMIT_SLOTS) as usize * DESCRIPTOR;

    /// Queue `number` each way, in the memory of the rings.
    fn new(memory: &M, number: usize) -> Self {
        let at = number * Self::BYTES;
        let receive = ReceiveRing::new(memory.clone(), at, RECEIVE_SLOTS);
        let transmit = TransmitRing::new(memory.clone(), at + receive.bytes(), TRANSMIT_SLOTS);
        Pair { receive, transmit, receive_told: 0, transmit_told: 0 }
    }

    /// Tells the chip where the rings of queue `number` lie.
    fn program<H: Hardware<Memory = M>>(&self, hw: &H, number: usize) {
        let registers = |ring: [usize; 5]| ring.map(|at| at + number * C::QUEUE_STRIDE);
        let place = RingPlace { iova: self.receive.iova(), bytes: self.receive.bytes() };
        bring_up::program_ring(hw, registers(C::RECEIVE_RING), place);
        let place = RingPlace { iova: self.transmit.iova(), bytes: self.transmit.bytes() };
        bring_up::program_ring(hw, registers(C::TRANSMIT_RING), place);
    }

    /// Posts what there is for it.
    fn post(&mut self, home: Option<&Slab<M>>, stock: &mut Stock) {
        let Some(home) = home else { return };
        while self.receive.room() > 0
            && let Some(page) = stock.take_small(home.shard)
        {
            self.receive.post(home, page);
        }
    }

    /// Whether the chip is to be told of pages, and of frames to send.
    fn untold(&self) -> [bool; 2] {
        let posted = self.receive.tail().wrapping_sub(self.receive_told) & (RECEIVE_SLOTS - 1);
        let known = self.receive.posted() - posted.min(self.receive.posted());
        let receive = posted >= DOORBELL_BATCH || (posted > 0 && known < RECEIVE_SLOTS / 2);
        [receive, self.transmit.tail() != self.transmit_told]
    }
}

/// An Intel chip.
#[derive(Debug)]
pub struct IntelNic<H: Hardware, C: Chip> {
    hw: H,
    chip: C,
    setup: Setup,
    filter: AddressFilter,
    pairs: Vec<Pair<H::Memory, C>>,
    lent: Lent<H::Memory>,
    features: u32,
    carrier: bool,
    masked: bool,
    looks: Looks,
    moderation: Moderation,
    /// What is counted where the datapath's counts are out of reach.
    stops: u64,
    /// It did not answer where that could not be said.
    lost: Option<io::Error>,
}

impl<H: Hardware, C: Chip> IntelNic<H, C> {
    /// Resets a chip and sets it up as is wished.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn new(hw: H, chip: C, wishes: &Wishes) -> io::Result<Self> {
        const { assert!(C::QUEUES * Pair::<H::Memory, C>::BYTES <= RINGS_SIZE) };
        let queues = wishes.queues(C::QUEUES);
        let memory = hw.rings();
        let features = feature::TX_CHECKSUM | feature::RX_CHECKSUM | feature::TSO4 | feature::TSO6;
        let mut nic = IntelNic {
            hw,
            chip,
            setup: Setup { mac: wishes.mac, mtu: wishes.mtu.into(), queues },
            filter: AddressFilter::new(wishes.mac),
            pairs: (0..queues).map(|number| Pair::new(&memory, number)).collect(),
            lent: Lent::new(queues, queues * TRANSMIT_SLOTS as usize),
            features: if wishes.offload { features } else { 0 },
            carrier: false,
            masked: true,
            looks: Looks::default(),
            moderation: Moderation::default(),
            stops: 0,
            lost: None,
        };
        nic.begin(true)?;
        Ok(nic)
    }

    /// The machine around it.
    pub fn hardware(&self) -> &H {
        &self.hw
    }

    /// From whatever state it is in to empty rings that are served; without a reset, which costs the link,
    /// where the chip can do without.
    fn begin(&mut self, reset: bool) -> io::Result<()> {
        for pair in &mut self.pairs {
            pair.receive.clear(|_| {});
            pair.transmit.clear(|_| {});
            (pair.receive_told, pair.transmit_told) = (0, 0);
        }
        if reset || !self.chip.forget(&self.hw, &self.setup)? {
            self.chip.reset(&self.hw, &self.setup)?;
        }
        self.pairs.iter().enumerate().for_each(|(number, pair)| pair.program(&self.hw, number));
        self.chip.program(&self.hw, &self.setup)?;
        self.chip.throttle(&self.hw, self.moderation.interval());
        // Only now: a ring of the last owner would be written to otherwise.
        self.hw.start()?;
        self.chip.run(&self.hw, &self.setup)?;
        bring_up::listen(&self.hw, Some(&self.filter), &self.setup);
        self.carrier = bring_up::answers(&self.hw)?.link_up();
        self.masked = true;
        Ok(())
    }

    /// Tells the chip of new descriptors where that is due; doorbells that it took.
    fn tell(&mut self) -> u64 {
        let mut doorbells = 0;
        for (number, pair) in self.pairs.iter_mut().enumerate() {
            let [receive, transmit] = pair.untold();
            if receive || transmit {
                // Descriptors are in memory before the chip is told of them.
                core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
            }
            if receive {
                pair.receive_told = pair.receive.tail();
                self.hw.write32(C::RECEIVE_RING[4] + number * C::QUEUE_STRIDE, pair.receive_told);
            }
            if transmit {
                pair.transmit_told = pair.transmit.tail();
                self.hw.write32(C::TRANSMIT_RING[4] + number * C::QUEUE_STRIDE, pair.transmit_told);
            }
            doorbells += u64::from(receive) + u64::from(transmit);
        }
        doorbells
    }

    /// Whether a frame is there for one of the shards in `takes`.
    fn is_ready(&self, takes: u64) -> bool {
        self.lent.rings_for(takes).any(|ring| self.pairs[ring].receive.is_ready())
    }

    fn see_link(&mut self, counts: &mut Counts) -> io::Result<()> {
        let carrier = bring_up::answers(&self.hw)?.link_up();
        if carrier != self.carrier {
            counts.count(if carrier { Count::CarrierUp } else { Count::CarrierDown });
            self.carrier = carrier;
        }
        Ok(())
    }
}

impl<H: Hardware, C: Chip> Nic<H::Memory> for IntelNic<H, C> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { driver: C::NAME, features: self.features, carrier: self.carrier }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.hw.interrupt()
    }

    fn fill(&mut self, slab: &Slab<H::Memory>, page: PageIndex) {
        // Into the ring at once, where there is room: most pages come for one that was taken out of it.
        if let Some(ring) = self.lent.fills(slab.shard)
            && self.pairs[ring].receive.room() > 0
            && slab.page_size(page) == SMALL_SIZE
        {
            self.pairs[ring].receive.post(slab, page);
        } else {
            self.lent.fill(slab, page);
        }
    }

    fn next_in(&mut self, takes: u64) -> Next {
        let pairs = &self.pairs;
        self.lent.next_in(takes, |ring| pairs[ring].receive.is_ready())
    }

    fn wants_pages(&self, shard: u16) -> bool {
        let room = self.pairs[self.lent.ring_of(shard)].receive.room();
        self.lent.wanted(shard, room as usize, RECEIVE_SLOTS as usize)
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
        let (ring, longest) = (self.lent.ring_of(slab.shard), self.setup.mtu + HEADER_MAX);
        let (Some(home), stock) = self.lent.apart(ring) else { return Ok(Received::Nothing) };
        match self.pairs[ring].receive.take(frame, longest, |page| stock.put(home, page)) {
            Taken::Frame => {
                self.looks.moved(now);
                self.moderation.moved(frame.len());
                if self.features & feature::RX_CHECKSUM == 0
                    && let Some(first) = frame.first_mut()
                {
                    first.flags &= proto::nic::descriptor::flag::MORE;
                }
                Ok(Received::Frame)
            }
            Taken::Bad => {
                counts.count(Count::RxError);
                Ok(Received::Dropped)
            }
            Taken::Nothing => Ok(Received::Nothing),
        }
    }

    fn transmit(
        &mut self,
        slab: &Slab<H::Memory>,
        frame: &Frame,
        now: Instant,
        counts: &mut Counts,
    ) -> io::Result<Transmitted> {
        let ring = &mut self.pairs[self.lent.ring_of(slab.shard)].transmit;
        if !ring.has_room() {
            let done = &mut self.lent.done;
            ring.clean(|page| done.push(page));
            if !ring.has_room() {
                return Ok(Transmitted::Busy);
            }
        }
        let (Some(wanted), Some(first)) = (wanted(slab, frame), frame.first()) else {
            counts.count(Count::TxUnsupported);
            self.lent.give_back(slab.shard, frame);
            return Ok(Transmitted::Taken);
        };
        if let Some(cut) = &wanted.cut {
            prepare(slab, first, cut, frame.len());
        }
        ring.send(slab, frame, &wanted);
        self.looks.moved(now);
        self.moderation.moved(frame.len());
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
        if self.lent.done.is_empty() {
            let done = &mut self.lent.done;
            self.pairs.iter_mut().for_each(|pair| pair.transmit.clean(|page| done.push(page)));
        }
        self.lent.done.pop()
    }

    fn reset(&mut self, shard: u16) -> io::Result<()> {
        let fills = self.lent.fills(shard).is_some();
        let sends = self.pairs[self.lent.ring_of(shard)].transmit.used() > 0;
        self.lent.forget(shard);
        if !fills && !sends {
            return Ok(());
        }
        self.stops += 1;
        self.hw.quiesce()?;
        self.lent.leave(shard);
        for (number, pair) in self.pairs.iter_mut().enumerate() {
            let (home, stock) = self.lent.apart(number);
            pair.receive.clear(|page| {
                if let Some(home) = home {
                    stock.put(home, page);
                }
            });
            let done = &mut self.lent.done;
            pair.transmit.clear(|(whose, page)| {
                if whose != shard {
                    done.push((whose, page));
                }
            });
        }
        self.begin(false)
    }

    fn poll(&mut self, now: Instant, counts: &mut Counts) -> io::Result<()> {
        if let Some(error) = self.lost.take() {
            return Err(error);
        }
        self.chip.mask(&self.hw);
        self.masked = true;
        let causes = self.chip.causes(&self.hw);
        for (cause, count) in [
            (causes.any, Count::Interrupts),
            (causes.link, Count::LinkInterrupts),
            (causes.receive, Count::ReceiveInterrupts),
            (causes.transmit, Count::TransmitInterrupts),
            (causes.overrun, Count::OverrunInterrupts),
        ] {
            counts.add(count, cause.into());
        }
        if causes.any
            && let Some(interval) = self.moderation.interrupted()
        {
            self.chip.throttle(&self.hw, interval);
            counts.count(Count::Throttles);
        }
        self.see_link(counts)?;
        counts.add(Count::DeviceStops, core::mem::take(&mut self.stops));
        self.looks.looked(now);
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.looks.due()
    }

    fn may_sleep(&mut self, takes: u64) -> bool {
        if self.is_ready(takes) {
            return false;
        }
        // Nothing could be done about a frame before pages come: no interrupt needs to tell of one.
        if !self.masked || (takes == 0 && self.pairs.iter().any(|pair| pair.receive.is_ready())) {
            return true;
        }
        if let Err(error) = self.chip.settle(&self.hw) {
            // The next look says so.
            self.lost = Some(error);
            self.looks.at_once();
            return true;
        }
        // What came before this is seen now; what comes after it interrupts.
        if self.is_ready(takes) {
            return false;
        }
        self.masked = false;
        self.chip.unmask(&self.hw);
        true
    }

    fn set_filter(&mut self, filter: &AddressFilter) {
        self.filter = filter.clone();
        bring_up::listen(&self.hw, Some(filter), &self.setup);
    }

    fn recalled(&self) -> Option<BorrowedFd<'_>> {
        self.hw.recalled()
    }
}
