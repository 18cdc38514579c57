//! Hashes under a secret, so that a remote can't choose which keys collide.

use core::fmt;
use core::hash::BuildHasher;
use siphasher::sip::SipHasher13;

/// A secret of 128 bits for SipHash; what it is drawn from is the caller's.
#[derive(Clone, Copy)]
pub struct HashKey(pub [u64; 2]);

/// Without the secret.
impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

impl HashKey {
    /// A hasher under this key.
    pub fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

/// For the standard maps.
impl BuildHasher for HashKey {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        self.hasher()
    }
}
