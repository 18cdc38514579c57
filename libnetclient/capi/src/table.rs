//! The numbers of sockets: a space of their own, above every number that a kernel gives out.
//!
//! Lowest free number first, as POSIX has it. Any thread may look up, open and close.

use crate::abi::{Errno, Outcome};
use crate::entry::Entry;
use libc::c_int;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The first of our numbers. The kernel's stay below `fs.nr_open`, which is 2^20 by default; a table
/// that reached this one would take 8 GiB of kernel memory.
pub const FIRST: c_int = 1 << 30;
/// Numbers given out at most: four times what an arena has places.
const COUNT_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<Slot>>,
    free: BinaryHeap<Reverse<usize>>,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    /// FD_CLOEXEC, as it was set: no socket survives exec(2) anyway.
    close_on_exec: AtomicBool,
}

static TABLE: RwLock<Table> = RwLock::new(Table { slots: Vec::new(), free: BinaryHeap::new() });

fn read() -> RwLockReadGuard<'static, Table> {
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Table> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a number is one of ours, open or not.
pub fn is_ours(fd: c_int) -> bool {
    fd >= FIRST
}

/// Gives an entry the lowest free number that is at least `least`.
///
/// # Errors
/// EMFILE.
pub fn open(entry: Arc<Entry>, least: c_int, close_on_exec: bool) -> Outcome<c_int> {
    let least = (least.max(FIRST) - FIRST) as usize;
    let slot = Slot { entry, close_on_exec: AtomicBool::new(close_on_exec) };
    let mut table = write();
    let at = match table.free.peek() {
        Some(Reverse(lowest)) if least <= *lowest => table.free.pop().map_or(0, |Reverse(at)| at),
        _ => {
            let fresh = table.slots.len().max(least);
            let lower = table.free.iter().map(|Reverse(at)| *at).filter(|at| *at >= least).min();
            match lower {
                Some(at) => {
                    table.free.retain(|Reverse(free)| *free != at);
                    at
                }
                None if fresh >= COUNT_MAX => return Err(Errno(libc::EMFILE)),
                None => {
                    let skipped = table.slots.len()..fresh;
                    table.free.extend(skipped.map(Reverse));
                    table.slots.resize_with(fresh + 1, || None);
                    fresh
                }
            }
        }
    };
    table.slots[at] = Some(slot);
    Ok(FIRST + at as c_int)
}

/// What a number stands for.
///
/// # Errors
/// EBADF.
pub fn get(fd: c_int) -> Outcome<Arc<Entry>> {
    let at = fd.checked_sub(FIRST).and_then(|at| usize::try_from(at).ok());
    let table = read();
    let slot = at.and_then(|at| table.slots.get(at)).and_then(Option::as_ref);
    slot.map(|slot| slot.entry.clone()).ok_or(Errno(libc::EBADF))
}

/// Takes a number back.
///
/// # Errors
/// EBADF.
pub fn close(fd: c_int) -> Outcome<Arc<Entry>> {
    let at = fd.checked_sub(FIRST).and_then(|at| usize::try_from(at).ok()).ok_or(Errno(libc::EBADF))?;
    let mut table = write();
    let slot = table.slots.get_mut(at).and_then(Option::take).ok_or(Errno(libc::EBADF))?;
    table.free.push(Reverse(at));
    Ok(slot.entry)
}

/// FD_CLOEXEC of a number; sets it first when `set` says so.
///
/// # Errors
/// EBADF.
pub fn close_on_exec(fd: c_int, set: Option<bool>) -> Outcome<bool> {
    let at = fd.checked_sub(FIRST).and_then(|at| usize::try_from(at).ok()).ok_or(Errno(libc::EBADF))?;
    let table = read();
    let slot = table.slots.get(at).and_then(Option::as_ref).ok_or(Errno(libc::EBADF))?;
    if let Some(on) = set {
        slot.close_on_exec.store(on, Ordering::Relaxed);
    }
    Ok(slot.close_on_exec.load(Ordering::Relaxed))
}
