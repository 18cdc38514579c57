//! Between nicd and netd: the frame slab, references into it, and the four rings.

pub mod descriptor;
pub mod packet_buf;
pub mod pool;
pub mod rings;
pub mod slab;
pub mod steering;
