//! Between the datapath and an Intel chip: its two rings, its interrupt, its link.
//!
//! NAPI: an interrupt masks itself and is followed by rounds of polling; before it sleeps the driver
//! clears what the rounds have dealt with, looks at the ring again, and only then unmasks. The chip gets one
//! doorbell for what a round has posted and one for what it has sent.
//!
//! Pages: those of one shard at a time lie in the receive ring; the datapath copies for the others. When a
//! netd is gone the chip is brought to rest, and its rings begin anew without that netd's pages; what
//! other shards had handed down is lost with it, as in a link flap.
//!
//! The chips are one family: registers ([`regs`]), descriptors ([`desc`]) and what is done with them
//! ([`bring_up`]) are here as far as they are alike, and in a chip's own folder where they are not.

pub mod bring_up;
pub mod desc;
pub mod regs;

use super::hardware::Hardware;
use super::lent::{Lent, Looks};
use super::moderation::Moderation;
use super::offload::{prepare, wanted};
use super::receive::{self, ReceiveRing, Taken};
use super::transmit::{self, TransmitRing};
use crate::counts::{Count, Counts};
use crate::filter::AddressFilter;
use crate::nic::{Capabilities, Frame, HEADER_MAX, Nic, Received, Slab, Transmitted};
use core::time::Duration;
use proto::Instant;
use proto::control::notices::{Mac, feature};
use proto::nic::slab::{PageIndex, SMALL_SIZE};
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
    /// The receive ring.
    pub receive: RingPlace,
    /// The transmit ring.
    pub transmit: RingPlace,
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
pub trait Chip: Sized {
    /// Its name for people.
    const NAME: &'static str;
    /// Registers of its receive ring: base low and high, length, head, tail.
    const RECEIVE_RING: [usize; 5];
    /// Registers of its transmit ring, as [`Chip::RECEIVE_RING`].
    const TRANSMIT_RING: [usize; 5];
    /// How it writes received frames.
    type Receive: receive::Format;
    /// How it reads frames to send.
    type Transmit: transmit::Format;

    /// Resets it. It neither receives nor sends; its interrupts are masked.
    ///
    /// # Errors
    /// When it does not answer.
    fn reset<H: Hardware>(&self, hw: &H, setup: &Setup) -> io::Result<()>;
    /// Makes it forget every descriptor; false when nothing less than a reset does. It can't access memory.
    ///
    /// # Errors
    /// When it does not answer.
    fn forget<H: Hardware>(&self, _hw: &H) -> io::Result<bool> {
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

/// An Intel chip.
#[derive(Debug)]
pub struct IntelNic<H: Hardware, C: Chip> {
    hw: H,
    chip: C,
    setup: Setup,
    filter: AddressFilter,
    receive: ReceiveRing<H::Memory, C::Receive>,
    transmit: TransmitRing<H::Memory, C::Transmit>,
    /// Posted, but not told.
    receive_told: u32,
    transmit_told: u32,
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
    /// Resets a chip and sets it up. With `offload` it fills in checksums and cuts super-frames.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn new(hw: H, chip: C, mac: Mac, mtu: u16, offload: bool) -> io::Result<Self> {
        let receive = ReceiveRing::new(hw.rings(), 0, RECEIVE_SLOTS);
        let transmit = TransmitRing::new(hw.rings(), receive.bytes(), TRANSMIT_SLOTS);
        let setup = Setup {
            mac,
            mtu: mtu.into(),
            receive: RingPlace { iova: receive.iova(), bytes: receive.bytes() },
            transmit: RingPlace { iova: transmit.iova(), bytes: transmit.bytes() },
        };
        let features = feature::TX_CHECKSUM | feature::RX_CHECKSUM | feature::TSO4 | feature::TSO6;
        let mut nic = IntelNic {
            hw,
            chip,
            setup,
            filter: AddressFilter::new(mac),
            receive,
            transmit,
            receive_told: 0,
            transmit_told: 0,
            lent: Lent::new(TRANSMIT_SLOTS as usize),
            features: if offload { features } else { 0 },
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
        self.receive.clear(|_| {});
        self.transmit.clear(|_| {});
        (self.receive_told, self.transmit_told) = (0, 0);
        if reset || !self.chip.forget(&self.hw)? {
            self.chip.reset(&self.hw, &self.setup)?;
        }
        bring_up::program_ring(&self.hw, C::RECEIVE_RING, self.setup.receive);
        bring_up::program_ring(&self.hw, C::TRANSMIT_RING, self.setup.transmit);
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

    /// Posts what there is.
    fn post(&mut self) {
        let Some(home) = &self.lent.home else { return };
        while self.receive.room() > 0
            && let Some(page) = self.lent.stock.take_small(home.shard)
        {
            self.receive.post(home, page);
        }
    }

    /// Tells the chip of new descriptors where that is due; doorbells that it took.
    fn tell(&mut self) -> u64 {
        let posted = self.receive.tail().wrapping_sub(self.receive_told) & (RECEIVE_SLOTS - 1);
        let known = self.receive.posted() - posted.min(self.receive.posted());
        let receive = posted >= DOORBELL_BATCH || (posted > 0 && known < RECEIVE_SLOTS / 2);
        let transmit = self.transmit.tail() != self.transmit_told;
        if receive || transmit {
            // Descriptors are in memory before the chip is told of them.
            core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        }
        if receive {
            self.receive_told = self.receive.tail();
            self.hw.write32(C::RECEIVE_RING[4], self.receive_told);
        }
        if transmit {
            self.transmit_told = self.transmit.tail();
            self.hw.write32(C::TRANSMIT_RING[4], self.transmit_told);
        }
        u64::from(receive) + u64::from(transmit)
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
        if self.lent.lies_in() == Some(slab.shard)
            && self.receive.room() > 0
            && slab.page_size(page) == SMALL_SIZE
        {
            self.receive.post(slab, page);
        } else {
            self.lent.fill(slab, page);
        }
    }

    fn lies_in(&self) -> Option<u16> {
        self.lent.lies_in()
    }

    fn wants_pages(&self, shard: u16) -> bool {
        self.lent.wanted(shard, self.receive.room() as usize, RECEIVE_SLOTS as usize)
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
        let Some(home) = &self.lent.home else { return Ok(Received::Nothing) };
        let (stock, longest) = (&mut self.lent.stock, self.setup.mtu + HEADER_MAX);
        match self.receive.take(frame, longest, |page| stock.put(home, page)) {
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
        if !self.transmit.has_room() {
            let done = &mut self.lent.done;
            self.transmit.clean(|page| done.push(page));
            if !self.transmit.has_room() {
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
        self.transmit.send(slab, frame, &wanted);
        self.looks.moved(now);
        self.moderation.moved(frame.len());
        counts.count(Count::TxFrames);
        counts.add(Count::TxBytes, frame.len() as u64);
        Ok(Transmitted::Taken)
    }

    fn flush(&mut self, _: Instant, counts: &mut Counts) {
        self.post();
        counts.add(Count::Doorbells, self.tell());
    }

    fn complete(&mut self) -> Option<(u16, PageIndex)> {
        if self.lent.done.is_empty() {
            let done = &mut self.lent.done;
            self.transmit.clean(|page| done.push(page));
        }
        self.lent.done.pop()
    }

    fn reset(&mut self, shard: u16) -> io::Result<()> {
        let ours = self.lies_in() == Some(shard);
        let sends = self.transmit.used() > 0;
        self.lent.forget(shard);
        if !ours && !sends {
            return Ok(());
        }
        self.stops += 1;
        self.hw.quiesce()?;
        let Lent { stock, done, home } = &mut self.lent;
        let kept = home.take().filter(|home| home.shard != shard);
        self.receive.clear(|page| {
            if let Some(home) = &kept {
                stock.put(home, page);
            }
        });
        self.transmit.clear(|(whose, page)| {
            if whose != shard {
                done.push((whose, page));
            }
        });
        *home = kept;
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

    fn may_sleep(&mut self) -> bool {
        if self.receive.is_ready() {
            return false;
        }
        if !self.masked {
            return true;
        }
        if let Err(error) = self.chip.settle(&self.hw) {
            // The next look says so.
            self.lost = Some(error);
            self.looks.at_once();
            return true;
        }
        // What came before this is seen now; what comes after it interrupts.
        if self.receive.is_ready() {
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
