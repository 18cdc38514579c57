//! Fuzz entry points without any tool but this: mutations drawn from a seed, as long as one likes.
//!
//! One seed is one case, and the same case for ever: what fails is told with the command that plays it
//! again. A panic is the failure: the stack asserts its own invariants, the scripted remote checks the
//! checksums of all that it is sent, and a host that does not come to rest is one too.
//!
//! | target | what is mutated |
//! |---|---|
//! | `frame` | the frames of packet scripts, in whatever state the script has brought the stack to |
//! | `reassembly` | fragments of IPv4: places, lengths, order, overlaps |
//! | `options` | the options of TCP headers, in SYNs and later |
//! | `control` | operations, answers, lines of clients: what one process of the group says to another |
//! | `ring` | the arena of a client: lines, rings, tables, any word at any time |

use crate::script::{Script, folder, fuzzed, read_all};
use proto::control::operations::{Answer, Command, SLOT_SIZE, decode, encode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

pub use crate::script::fuzzed::Dice;

/// An entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Frames in any state.
    Frame,
    /// Fragments.
    Reassembly,
    /// TCP options.
    Options,
    /// Control messages.
    Control,
    /// A hostile client.
    Ring,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 5] =
        [Target::Frame, Target::Reassembly, Target::Options, Target::Control, Target::Ring];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Frame => "frame",
            Target::Reassembly => "reassembly",
            Target::Options => "options",
            Target::Control => "control",
            Target::Ring => "ring",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Target> {
        Target::ALL.into_iter().find(|target| target.name() == name)
    }
}

/// What the cases are made of, read once.
#[derive(Debug)]
pub struct Corpus(Vec<(String, Script)>);

impl Corpus {
    /// The packet scripts.
    ///
    /// # Panics
    /// When they can't be read.
    pub fn read() -> Corpus {
        let scripts: Vec<_> = read_all()
            .into_iter()
            .filter_map(|(name, text)| Script::parse(&text).ok().map(|script| (name, script)))
            .collect();
        assert!(!scripts.is_empty(), "no scripts in {}", folder().display());
        Corpus(scripts)
    }

    /// Plays one case.
    ///
    /// # Panics
    /// When it finds something.
    pub fn play(&self, target: Target, seed: u64) {
        let mut dice = Dice::new(seed);
        match target {
            Target::Frame => {
                let (_, script) = &self.0[dice.below(self.0.len() as u64) as usize];
                fuzzed::frames(script, &mut dice);
            }
            Target::Reassembly => fuzzed::fragments(&mut dice),
            Target::Options => fuzzed::options(&mut dice),
            Target::Control => control(&mut dice),
            Target::Ring => fuzzed::ring(&mut dice),
        }
    }

    /// Plays cases from `first` on for `span`; how many there were.
    ///
    /// # Errors
    /// The seed that found something, with what the panic said and how to play it again.
    pub fn play_for(&self, target: Target, first: u64, span: Duration) -> Result<u64, String> {
        let begun = Instant::now();
        let mut seed = first;
        while begun.elapsed() < span {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.play(target, seed))) {
                let said = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                return Err(format!(
                    "{} seed {seed}: {}\n  again: cargo run --release -p tests --bin fuzz -- {} 0 {seed}",
                    target.name(),
                    said.unwrap_or_default(),
                    target.name()
                ));
            }
            seed = seed.wrapping_add(1);
        }
        Ok(seed.wrapping_sub(first))
    }
}

/// Slots of the rings between sockd and netd, whatever lies in them: an answer or none, and what is
/// understood is said again in the same way.
fn control(dice: &mut Dice) {
    let mut slot = [0; SLOT_SIZE];
    let address = std::net::SocketAddr::from(([dice.draw() as u8; 4], dice.draw() as u16));
    let socket = proto::control::operations::SocketRef {
        session: proto::id::SessionId(dice.draw() as u32),
        slot: proto::id::SlotIndex(dice.draw() as u32),
        epoch: proto::id::Epoch(dice.draw() as u32),
    };
    let op = proto::id::OpId(dice.draw());
    let whole = match dice.below(4) {
        0 => {
            encode(&Command::Connect { op, socket, local: address, remote: address, hold: dice.chance(500) })
        }
        1 => encode(&Command::Listen {
            op,
            socket,
            local: address,
            backlog: dice.draw() as u32,
            share: proto::form::Share::NONE,
        }),
        2 => encode(&Answer::Done { op, local: address }),
        _ => encode(&Command::Withdraw { op, socket }),
    };
    slot.copy_from_slice(&whole);
    dice.spoil(&mut slot);
    if let Ok(command) = decode::<Command>(&slot) {
        assert_eq!(decode::<Command>(&encode(&command)).ok(), Some(command), "said again, it is another");
    }
    if let Ok(answer) = decode::<Answer>(&slot) {
        assert_eq!(decode::<Answer>(&encode(&answer)).ok(), Some(answer), "said again, it is another");
    }
    fuzzed::commands(dice);
}
