//! Calls that were handed over (seccomp_unotify(2)): taken, looked at, answered.
//!
//! A notice is answered at most once, and not at all when its caller was interrupted or has died: the
//! kernel then says ENOENT, which is no failure.

#![expect(unsafe_code, reason = "ioctls of the seccomp listener, which no library has")]

use crate::ledger::{Ledger, NOTICE_SIZE};
use libc::{c_int, c_ulong, seccomp_notif, seccomp_notif_addfd, seccomp_notif_resp};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::io;

/// linux/seccomp.h: SECCOMP_IOCTL_NOTIF_RECV, _SEND, _ID_VALID, _ADDFD and _SET_FLAGS.
const RECV: c_ulong = 0xc050_2100;
const SEND: c_ulong = 0xc018_2101;
const ID_VALID: c_ulong = 0x4008_2102;
const ADDFD: c_ulong = 0x4018_2103;
const SET_FLAGS: c_ulong = 0x4008_2104;
/// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP of linux/seccomp.h.
const SYNC_WAKE_UP: u64 = 1;
const _: () = assert!(size_of::<seccomp_notif>() == 0x50);
const _: () = assert!(size_of::<seccomp_notif_resp>() == 0x18);
const _: () = assert!(size_of::<seccomp_notif_addfd>() == 0x18);

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Its name, for as long as its caller waits.
    pub id: u64,
    /// The thread that called.
    pub tid: u32,
    /// The number of the call.
    pub call: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl Notice {
    /// From `struct seccomp_notif`; `None` when there is none in it.
    pub fn from_bytes(bytes: &[u8; NOTICE_SIZE]) -> Option<Notice> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let half = |at: usize| (word(at & !7) >> (8 * (at & 7))) as u32;
        let arguments = core::array::from_fn(|n| word(32 + n * 8));
        let call = half(16).cast_signed().into();
        (word(0) != 0).then(|| Notice { id: word(0), tid: half(8), call, arguments })
    }
}

/// Where calls come in.
#[derive(Debug)]
pub struct Notices(OwnedFd);

impl Notices {
    /// Of the filter's descriptor.
    pub fn new(listener: OwnedFd) -> Notices {
        Notices(listener)
    }

    /// Tells the kernel that a caller waits for its answer at once: whoever answers it is woken on the core that
    /// the caller leaves, and the other way round. A kernel before 6.6 can't, and wakes as it does otherwise.
    pub fn answer_on_the_callers_core(&self) {
        // The flags are an argument by value.
        // SAFETY: no pointer is passed.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
    }

    /// The descriptor: readable when a call waits, hung up when nobody is behind the filter any more.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        use rustix::fd::AsFd;
        self.0.as_fd()
    }

    fn ioctl<T>(&self, request: c_ulong, argument: &mut T) -> io::Result<c_int> {
        // SAFETY: each request is used with the structure that linux/seccomp.h gives it, which the
        // kernel reads and writes within its size.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, core::ptr::from_mut(argument)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    /// The next call, put by the kernel where a successor finds it; `None` when its caller went away
    /// before it was taken.
    ///
    /// # Errors
    /// Those of the ioctl. It blocks when no call waits.
    pub fn take(&self, ledger: &Ledger) -> io::Result<Option<Notice>> {
        let room = ledger.notice_room().cast::<seccomp_notif>();
        // SAFETY: zeroed room of that size in the ledger, which the kernel fills in.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), RECV, room) };
        let outcome = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        match outcome {
            Ok(()) => Ok(ledger.notice()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the caller still waits: what was learned of it after this was `true` before it is its own.
    pub fn is_valid(&self, id: u64) -> bool {
        let mut id = id;
        self.ioctl(ID_VALID, &mut id).is_ok()
    }

    fn send(&self, id: u64, val: i64, error: c_int, flags: u32) {
        let mut answer = seccomp_notif_resp { id, val, error, flags };
        // A caller that has gone needs no answer.
        let _ = self.ioctl(SEND, &mut answer);
    }

    /// The call returns `value`.
    pub fn answer(&self, id: u64, value: i64) {
        self.send(id, value, 0, 0);
    }

    /// The call fails with `errno`.
    pub fn refuse(&self, id: u64, errno: c_int) {
        self.send(id, 0, -errno, 0);
    }

    /// The kernel does the call itself.
    pub fn pass_on(&self, id: u64) {
        self.send(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// The call returns a new descriptor of the caller, for what `fd` stands for.
    ///
    /// # Errors
    /// EMFILE when the caller has too many; ENOENT when it is gone.
    pub fn answer_with(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<()> {
        let mut add = seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        self.ioctl(ADDFD, &mut add).map(drop)
    }
}
