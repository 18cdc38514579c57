//! Opening what lies in another network namespace.
//!
//! A thread of its own enters the namespace, opens and ends; a descriptor works from anywhere.

use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;
use std::io;
use std::path::Path;
use thiserror::Error;

/// Where ip-netns(8) keeps namespaces by name.
const NAMESPACES: &str = "/run/netns";

/// Why a device of the kernel can't be had.
#[derive(Debug, Error)]
#[error("cannot {step}: {source}")]
pub struct OpenError {
    /// What failed.
    pub step: String,
    /// What the kernel says.
    pub source: io::Error,
}

/// What failed, around what the kernel says.
pub(super) fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> OpenError {
    move |source| OpenError { step: step.into(), source: source.into() }
}

/// Runs `open` in namespace `netns`; in the caller's own, when there is none.
///
/// # Errors
/// Those of `open`; no such namespace, or no right to enter it.
pub(super) fn inside<T: Send>(
    netns: Option<&str>,
    open: impl FnOnce() -> Result<T, OpenError> + Send,
) -> Result<T, OpenError> {
    let Some(netns) = netns else { return open() };
    std::thread::scope(|scope| {
        let body = || {
            enter(netns)?;
            open()
        };
        let opener = std::thread::Builder::new().name("opener".to_owned()).spawn_scoped(scope, body);
        let outcome = opener.map_err(failed("make a thread"))?.join();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter(netns: &str) -> Result<(), OpenError> {
    let path = Path::new(NAMESPACES).join(netns);
    let step = format!("enter network namespace {netns}");
    let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(step.clone()))?;
    let kind = Some(LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).map_err(failed(step))
}
