//! Memory as nicd has it where it runs: mapped.

use proto::shm::region::{Region, create_sealed};
use std::sync::Arc;

pub type Shared = Arc<Region>;

/// `size` zeroed bytes.
pub fn memory(size: usize) -> Shared {
    let file = create_sealed("axl-chip", size).expect("memory");
    Arc::new(Region::map(file, size).expect("memory"))
}
