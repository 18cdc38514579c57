//! hard
