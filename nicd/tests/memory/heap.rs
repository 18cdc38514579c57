//! Memory that sees every access: what a chip and its driver share in tests.

use proto::shm::heap::HeapMemory;
use std::rc::Rc;

pub type Shared = Rc<HeapMemory>;

/// `size` zeroed bytes.
pub fn memory(size: usize) -> Shared {
    Rc::new(HeapMemory::new(size))
}
