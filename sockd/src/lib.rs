//! sockd
