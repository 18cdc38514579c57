//! The machine as a whole: dialogues by hand, two blocks over a bad network, and hostile input.

mod dialogues;
mod harness;
mod hostile;
mod reordering;
mod transfer;
