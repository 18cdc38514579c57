//! nicd
