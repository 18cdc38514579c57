//! Between nicd and netd: the frame slab, references into it, and the four rings.

pub mod descriptor;
pub mod rings;
pub mod slab;
