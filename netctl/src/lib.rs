//! netctl
