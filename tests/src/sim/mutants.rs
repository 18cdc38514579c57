//! Mutants, as data: steps of the shipped settlement in another order, stores and loads of a
//! process altered on their way, engines that leave something out. The shipped code itself runs as
//! it is; an oracle that does not notice one of these proves nothing.

use super::scenario::{ALL, Outcome, Play, Scenario};
use crate::crash::{Point, SharedBytes, Store, Tamper};
use crate::world::host::Who;
use crate::world::{Part, Wrong};
use netd::stack::Step;
use proto::cell::{CELL_SIZE, STATE_SIZE, check};
use proto::hard::conns::{Kind, State, TcpState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// Where the parts of a cell lie; `proto::cell` draws it.
const OPENING_AT: usize = 8;
const STATE_AT: [usize; 2] = [128, 192];

/// Alterations of what a process stores and loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryMutant {
    /// The selector is stored before the parts that it names.
    SelectorFirst,
    /// Parts are written without their check.
    NoCheck,
    /// Every n-th commit is left out.
    CommitSkipped(u32),
    /// The state is written over the selected slot instead of beside it.
    InPlace,
    /// A successor takes the older of the two states.
    OlderSlot,
    /// A successor takes the older state where the selected one fails its check.
    OtherSlotWhenCorrupt,
    /// Payload reaches the arena at the end of the batch only.
    PayloadLate,
    /// What is stored in cells reaches memory at the end of the batch only.
    CellsLate,
    /// SND.MAX is committed as SND.UNA.
    SndMaxForgotten,
    /// The advertised edge is committed as RCV.NXT.
    EdgeForgotten,
    /// A successor does not find the advertised edge.
    EdgeLost,
    /// SND.UNA is committed further than it was acknowledged.
    SndUnaAhead,
    /// RCV.NXT is committed further than was received.
    RcvNxtAhead,
    /// A successor does not find connections in TIME-WAIT.
    TimeWaitLost,
    /// A successor does not find half-open connections.
    HalfOpenLost,
    /// A successor does not find listeners.
    ListenersLost,
    /// A successor does not find the ranges received out of order.
    RangesLost,
    /// Ranges received out of order are committed as longer than they are.
    RangesTooLong,
    /// A successor finds an accept queue shorter by one.
    AcceptTwice,
    /// An accept queue is committed as shorter by one, and the arena's cursor with it.
    AcceptLost,
}

impl MemoryMutant {
    /// The tamper that does it, for one incarnation.
    pub fn tamper(self) -> Box<dyn Tamper> {
        Box::new(Altered { mutant: self, held: Vec::new(), commits: 0, check: None })
    }
}

struct Altered {
    mutant: MemoryMutant,
    held: Vec<Store>,
    commits: u32,
    /// The check that belongs to bytes that were altered, and where it lies.
    check: Option<(usize, u32)>,
}

fn is_state(at: usize, len: usize) -> bool {
    STATE_AT.contains(&(at % CELL_SIZE)) && len == STATE_SIZE
}

fn is_check(at: usize) -> bool {
    STATE_AT.iter().any(|state| at % CELL_SIZE == state + STATE_SIZE)
}

fn selector(memory: &SharedBytes, at: usize) -> [u8; 8] {
    let mut selector = [0; 8];
    memory.peek(at - at % CELL_SIZE, &mut selector);
    selector
}

fn kind_of(memory: &SharedBytes, at: usize) -> u8 {
    let mut kind = [0];
    memory.peek(at - at % CELL_SIZE + OPENING_AT, &mut kind);
    kind[0]
}

fn is_sound(memory: &SharedBytes, cell: usize, slot: usize, serial: u32) -> bool {
    let (mut bytes, mut stored) = ([0; STATE_SIZE], [0; 4]);
    memory.peek(cell + STATE_AT[slot], &mut bytes);
    memory.peek(cell + STATE_AT[slot] + STATE_SIZE, &mut stored);
    u32::from_ne_bytes(stored) == check((cell / CELL_SIZE - 1) as u32, serial, STATE_AT[slot], &bytes)
}

impl Altered {
    /// Changes the bytes of a state on their way, and remembers the check that they then need.
    fn alter(&mut self, memory: &SharedBytes, at: usize, bytes: &mut [u8], change: impl FnOnce(&mut State)) {
        let Ok(array) = <&[u8; STATE_SIZE]>::try_from(&*bytes) else { return };
        let Some(mut state) = State::from_bytes(array) else { return };
        change(&mut state);
        bytes.copy_from_slice(&state.to_bytes());
        let selector = selector(memory, at);
        let serial = u32::from_ne_bytes([selector[4], selector[5], selector[6], selector[7]]);
        let check = check((at / CELL_SIZE - 1) as u32, serial, at % CELL_SIZE, bytes);
        self.check = Some((at + STATE_SIZE, check));
    }
}

const LISTENER: u8 = Kind::TcpListener as u8;
const ACCEPT_RECORD: u64 = proto::arena::record::record_size(0) as u64;

impl Tamper for Altered {
    fn store(&mut self, memory: &Rc<SharedBytes>, at: usize, bytes: &[u8]) -> Vec<Store> {
        use MemoryMutant::*;
        let mut this = (memory.clone(), at, bytes.to_vec());
        let point = memory.purpose.point(at);
        if point == Point::CellPart && is_state(at, bytes.len()) {
            let (index, listener) = (memory.clone(), kind_of(memory, at) == LISTENER);
            let change: Option<fn(&mut State)> = match self.mutant {
                SndMaxForgotten if !listener => Some(|state| state.snd_max = 0),
                EdgeForgotten if !listener => Some(|state| state.rcv_edge = 0),
                SndUnaAhead if !listener => Some(|state| {
                    let step = state.snd_max.min(500);
                    state.snd_una += u64::from(step);
                    state.snd_max -= step;
                    state.snd_edge = state.snd_edge.saturating_sub(step);
                }),
                RcvNxtAhead if !listener => Some(|state| {
                    if state.tcp_state == TcpState::Established {
                        state.rcv_nxt += 1;
                        state.rcv_edge -= 1;
                    }
                }),
                RangesTooLong => Some(|state| {
                    for (_, len) in state.ooo.iter_mut().filter(|(_, len)| *len > 0) {
                        *len += 100;
                    }
                }),
                AcceptLost if listener => Some(|state| {
                    state.rcv_nxt = state.rcv_nxt.saturating_sub(ACCEPT_RECORD);
                }),
                _ => None,
            };
            if let Some(change) = change {
                self.alter(&index, at, &mut this.2, change);
            }
            if self.mutant == InPlace {
                // Both slots are one: a state is overwritten while it is the truth.
                let cell = at - at % CELL_SIZE;
                let twin = STATE_AT.iter().map(|slot| cell + slot).find(|twin| *twin != at);
                return vec![this, (memory.clone(), twin.expect("there are two"), bytes.to_vec())];
            }
        }
        match (self.mutant, point) {
            (SelectorFirst, Point::CellPart) => {
                self.held.push(this);
                Vec::new()
            }
            (SelectorFirst, Point::Selector) => std::iter::once(this).chain(self.held.drain(..)).collect(),
            (CellsLate, Point::CellPart | Point::Selector) | (PayloadLate, Point::Payload) => {
                self.held.push(this);
                Vec::new()
            }
            (NoCheck, Point::CellPart) if is_check(at) => Vec::new(),
            (CommitSkipped(every), Point::Selector) => {
                self.commits += 1;
                if self.commits.is_multiple_of(every) { Vec::new() } else { vec![this] }
            }
            (InPlace, Point::CellPart) if is_check(at) => {
                let cell = at - at % CELL_SIZE;
                let part = |slot: usize| cell + STATE_AT[slot] + STATE_SIZE;
                let other = if at == part(0) { 1 } else { 0 };
                let mut state = [0; STATE_SIZE];
                memory.peek(at - STATE_SIZE, &mut state);
                let selector = selector(memory, at);
                let serial = u32::from_ne_bytes([selector[4], selector[5], selector[6], selector[7]]);
                let check = check((at / CELL_SIZE - 1) as u32, serial, STATE_AT[other], &state);
                vec![this, (memory.clone(), part(other), check.to_ne_bytes().to_vec())]
            }
            (_, Point::CellPart) => {
                if let Some((_, check)) = self.check.take_if(|(check_at, _)| *check_at == at) {
                    this.2 = check.to_ne_bytes().to_vec();
                }
                vec![this]
            }
            _ => vec![this],
        }
    }

    fn load(&mut self, memory: &Rc<SharedBytes>, at: usize, bytes: &mut [u8]) {
        use MemoryMutant::*;
        let point = memory.purpose.point(at);
        match (self.mutant, point) {
            (OlderSlot, Point::Selector) if bytes[0] != 0 => bytes[1] ^= 1,
            (OtherSlotWhenCorrupt, Point::Selector) if bytes.len() == 8 && bytes[0] != 0 => {
                let serial = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                let slot = usize::from(bytes[1] & 1);
                if !is_sound(memory, at, slot, serial) && is_sound(memory, at, 1 - slot, serial) {
                    bytes[1] ^= 1;
                }
            }
            (ListenersLost, Point::Selector) if kind_of(memory, at) == LISTENER => bytes[..2].fill(0),
            (CellsLate | PayloadLate | SelectorFirst, _) => {
                // The process itself finds what it has stored.
                for (held, held_at, stored) in &self.held {
                    if Rc::ptr_eq(held, memory) {
                        overlay(bytes, at, stored, *held_at);
                    }
                }
            }
            (_, Point::CellPart) if is_state(at, bytes.len()) => {
                let change: Option<fn(&mut State)> = match self.mutant {
                    EdgeLost => Some(|state| state.rcv_edge = 0),
                    TimeWaitLost => Some(|state| {
                        if state.tcp_state == TcpState::TimeWait {
                            state.tcp_state = TcpState::Closed;
                            state.detached = true;
                        }
                    }),
                    HalfOpenLost => Some(|state| {
                        if matches!(state.tcp_state, TcpState::SynSent | TcpState::SynReceived) {
                            state.tcp_state = TcpState::Closed;
                        }
                    }),
                    RangesLost => Some(|state| state.ooo = [(0, 0); 2]),
                    AcceptTwice if kind_of(memory, at) == LISTENER => Some(|state| {
                        state.rcv_nxt = state.rcv_nxt.saturating_sub(ACCEPT_RECORD);
                    }),
                    _ => None,
                };
                if let Some(change) = change {
                    self.alter(&memory.clone(), at, bytes, change);
                }
            }
            (_, Point::CellPart) => {
                if let Some((_, check)) = self.check.take_if(|(check_at, _)| *check_at == at) {
                    bytes.copy_from_slice(&check.to_ne_bytes());
                }
            }
            _ => {}
        }
    }

    fn end_of_batch(&mut self) -> Vec<Store> {
        std::mem::take(&mut self.held)
    }
}

/// Puts the part of `stored` (at `stored_at`) that lies within `bytes` (at `at`) over them.
fn overlay(bytes: &mut [u8], at: usize, stored: &[u8], stored_at: usize) {
    let (start, end) = (at.max(stored_at), (at + bytes.len()).min(stored_at + stored.len()));
    if start < end {
        bytes[start - at..end - at].copy_from_slice(&stored[start - stored_at..end - stored_at]);
    }
}

/// What a mutant alters.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// The order of a settlement.
    Order(&'static [Step]),
    /// Stores and loads of netds.
    Netd(MemoryMutant),
    /// Stores and loads of sockds.
    Sockd(MemoryMutant),
    /// The engine.
    Engine(Wrong),
}

/// A mutant.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// Which invariant it breaks.
    pub breaks: &'static str,
    /// What is wrong.
    pub name: &'static str,
    /// How.
    pub change: Change,
    /// The stories in which it is looked for, by a part of their names.
    stories: &'static [&'static str],
    /// How the deaths come: of whom, and with what beside them.
    deaths: Deaths,
}

#[derive(Debug, Clone, Copy)]
enum Deaths {
    /// Of netd.
    Netd,
    /// Of netd, and a record is corrupted meanwhile.
    Corrupting,
    /// Of sockd.
    Sockd,
    /// Of nobody: a client runs in the middle of a batch.
    Interleaved,
    /// Of netd, by a frame that it has a bug with.
    Poison,
}

use Step::{
    CommitConnections as CC, CommitListeners as CL, Free, Notify, PublishConnections as PC,
    PublishListeners as PL, Release,
};

const fn order(
    breaks: &'static str,
    name: &'static str,
    order: &'static [Step],
    stories: &'static [&'static str],
) -> Mutant {
    Mutant { breaks, name, change: Change::Order(order), stories, deaths: Deaths::Netd }
}

const fn netd(
    breaks: &'static str,
    name: &'static str,
    mutant: MemoryMutant,
    stories: &'static [&'static str],
) -> Mutant {
    Mutant { breaks, name, change: Change::Netd(mutant), stories, deaths: Deaths::Netd }
}

const fn engine(
    breaks: &'static str,
    name: &'static str,
    wrong: Wrong,
    stories: &'static [&'static str],
) -> Mutant {
    Mutant { breaks, name, change: Change::Engine(wrong), stories, deaths: Deaths::Netd }
}

const fn poison(name: &'static str, wrong: Wrong) -> Mutant {
    let change = Change::Engine(wrong);
    Mutant { breaks: "INV-T8", name, change, stories: &["two at once"], deaths: Deaths::Poison }
}

const fn sockd(breaks: &'static str, name: &'static str, mutant: MemoryMutant) -> Mutant {
    let stories = &["open and close", "two at once", "a listener comes and goes"];
    Mutant { breaks, name, change: Change::Sockd(mutant), stories, deaths: Deaths::Sockd }
}

const OPEN: &[&str] = &["open and close", "two at once"];
const DATA: &[&str] = &["both ways", "send", "receive", "a window's worth"];

/// Every mutant.
pub const MUTANTS: &[Mutant] = &[
    order("INV-T1", "publish before commit", &[PC, CC, PL, CL, Notify, Free, Release], DATA),
    order("INV-T1", "frames leave before commit", &[Release, CC, PC, CL, PL, Notify, Free, Release], DATA),
    order("INV-T1", "no commit of connections", &[PC, CL, PL, Notify, Free, Release], DATA),
    netd("INV-T1", "payload after commit", MemoryMutant::PayloadLate, DATA),
    netd("INV-T1", "rcv.nxt ahead of the payload", MemoryMutant::RcvNxtAhead, DATA),
    netd("INV-T2", "snd.max not committed", MemoryMutant::SndMaxForgotten, DATA),
    netd("INV-T2", "snd.una committed unacknowledged", MemoryMutant::SndUnaAhead, DATA),
    order(
        "INV-T2",
        "frames leave between commit and the rest",
        &[CL, Release, CC, PC, PL, Notify, Free, Release],
        DATA,
    ),
    netd("INV-T3", "selector before the state", MemoryMutant::SelectorFirst, DATA),
    netd("INV-T3", "state in place", MemoryMutant::InPlace, DATA),
    netd("INV-T3", "no check written", MemoryMutant::NoCheck, DATA),
    netd("INV-T3", "every fifth commit skipped", MemoryMutant::CommitSkipped(5), DATA),
    netd("INV-T3", "cells at the end of the batch", MemoryMutant::CellsLate, DATA),
    netd("INV-T3", "the older state chosen", MemoryMutant::OlderSlot, DATA),
    engine("INV-T4", "frames before the table", Wrong::FramesBeforeTable, DATA),
    netd("INV-T4", "advertised edge not committed", MemoryMutant::EdgeForgotten, DATA),
    netd("INV-T4", "advertised edge not recovered", MemoryMutant::EdgeLost, &["a slow reader", "both ways"]),
    engine("INV-T5", "time is the process's age", Wrong::TimeIsAge, DATA),
    engine("INV-T5", "keys drawn anew", Wrong::KeysLost, OPEN),
    netd("INV-T5", "TIME-WAIT not recovered", MemoryMutant::TimeWaitLost, OPEN),
    netd("INV-T5", "half-open not recovered", MemoryMutant::HalfOpenLost, OPEN),
    netd("INV-T5", "listeners not recovered", MemoryMutant::ListenersLost, OPEN),
    engine("INV-T6", "first words not sent", Wrong::FirstWordsLost, DATA),
    netd("INV-T6", "ranges out of order forgotten", MemoryMutant::RangesLost, &["a window's worth"]),
    netd("INV-T6", "ranges out of order too long", MemoryMutant::RangesTooLong, &["a window's worth"]),
    Mutant {
        breaks: "INV-T7",
        name: "a corrupt cell kills the daemon",
        change: Change::Engine(Wrong::CorruptCellKills),
        stories: OPEN,
        deaths: Deaths::Corrupting,
    },
    Mutant {
        breaks: "INV-T7",
        name: "the other state where one is corrupt",
        change: Change::Netd(MemoryMutant::OtherSlotWhenCorrupt),
        stories: DATA,
        deaths: Deaths::Corrupting,
    },
    poison("no breadcrumb", Wrong::NoCrumb),
    poison("the breadcrumb cleared before the work", Wrong::CrumbClearedEarly),
    poison("deaths by a bug not counted", Wrong::DeathsUncounted),
    order("INV-T9", "answer before commit", &[Release, CC, PC, CL, PL, Notify, Free, Release], OPEN),
    order(
        "INV-T9",
        "record freed before its end is published",
        &[CC, Free, PC, CL, PL, Notify, Release],
        OPEN,
    ),
    order("INV-T9", "accept queue before its connections", &[CL, PL, CC, PC, Notify, Free, Release], OPEN),
    order("INV-T9", "records never freed", &[CC, PC, CL, PL, Notify, Release], OPEN),
    netd("INV-T9", "an accept handed over twice", MemoryMutant::AcceptTwice, OPEN),
    netd("INV-T9", "an accept lost", MemoryMutant::AcceptLost, OPEN),
    sockd("INV-T9", "outcome after the reply", MemoryMutant::CellsLate),
    sockd("INV-T9", "every third record of the registry skipped", MemoryMutant::CommitSkipped(3)),
    sockd("INV-T9", "the registry's older state", MemoryMutant::OlderSlot),
    order("INV-R6", "nobody is told", &[CC, PC, CL, PL, Free, Release], OPEN),
    Mutant {
        breaks: "INV-R6",
        name: "told before it is published",
        change: Change::Order(&[CC, Notify, PC, CL, PL, Free, Release]),
        stories: DATA,
        deaths: Deaths::Interleaved,
    },
];

/// How a mutant was found out.
#[derive(Debug, Clone)]
pub struct Caught {
    /// After how many plays.
    pub plays: u64,
    /// In which story.
    pub story: &'static str,
    /// What the oracle said.
    pub failure: String,
}

/// Plays of one mutant at most.
const PLAYS_MAX: u64 = 4000;

impl Mutant {
    fn play(&self, host: usize, weather: usize, fuse: Option<u64>) -> Play {
        let mut play = Play {
            seed: weather as u64,
            fates: super::scenario::WEATHER[weather].to_vec(),
            ..Play::default()
        };
        let fuses: Vec<u64> = fuse.into_iter().collect();
        match self.deaths {
            Deaths::Netd => play.deaths = Some((host, Who::Netd, fuses)),
            Deaths::Sockd => play.deaths = Some((host, Who::Sockd, fuses)),
            Deaths::Corrupting => {
                play.deaths = Some((host, Who::Netd, fuses));
                play.corrupt = Some(Part::State);
            }
            Deaths::Poison => {
                play.deaths = Some((host, Who::Netd, fuses));
                play.poison = true;
            }
            Deaths::Interleaved => {
                play.deaths = Some((host, Who::Netd, Vec::new()));
                play.interrupt = fuse.map(|fuse| (host, 0, fuse));
            }
        }
        match self.change {
            Change::Order(order) => play.order = Some(order),
            Change::Engine(wrong) => play.wrong = Some(wrong),
            Change::Netd(mutant) => {
                play.tamper = Some(Rc::new(move |who| (who == Who::Netd).then(|| mutant.tamper())));
            }
            Change::Sockd(mutant) => {
                play.tamper = Some(Rc::new(move |who| (who == Who::Sockd).then(|| mutant.tamper())));
            }
        }
        play
    }

    /// Plays stories until an oracle notices; `None` when none does within the plays allowed.
    pub fn hunt(&self) -> Option<Caught> {
        let mut plays = 0;
        for (step, weather) in [(7, 0), (5, 4), (5, 8), (3, 1), (1, 0)] {
            for story in ALL.iter().filter(|story| self.stories.contains(&story.name)) {
                for host in 0..2 {
                    let mut fuse = None;
                    loop {
                        let outcome = attempt(story, &self.play(host, weather, fuse));
                        plays += 1;
                        if let Some(failure) = outcome.failures.first() {
                            let failure = failure.lines().next().unwrap_or_default().to_owned();
                            return Some(Caught { plays, story: story.name, failure });
                        }
                        let next = fuse.map_or(0, |fuse| fuse + step);
                        // The first play, without a death, says how many points there are.
                        if fuse.is_some() && !outcome.struck || plays >= PLAYS_MAX {
                            break;
                        }
                        fuse = Some(next);
                    }
                }
            }
            if plays >= PLAYS_MAX {
                return None;
            }
        }
        None
    }
}

/// Plays a story; a panic of the code under test is a failure like any other.
fn attempt(story: &Scenario, play: &Play) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| story.play(play))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Outcome { failures: vec![format!("a panic: {text}")], ..Outcome::default() }
    })
}
