//! Which calls of a program are handed over: a seccomp filter, in the kernel's classic BPF.
//!
//! Handed over are the calls that name sockets of the internet families or of netlink, those that carry an
//! address with a datagram, and the requests about interfaces. Reading and writing are not: they run on the pair. io_uring, which would
//! pass by any filter, and the entries of other architectures are refused with ENOSYS.
//!
//! Whoever knows that a call is the kernel's says so in its sixth argument, where it has none ([`board::PASS`]):
//! the preload library does. A program that lied would reach nothing but its own ends of pairs, and files:
//! sockets of the internet families are not made that way.

#![expect(unsafe_code, reason = "seccomp(2) has no safe wrapper")]

use crate::interfaces;
use libc::{c_long, sock_filter, sock_fprog};
use proto::board;
use rustix::fd::{FromRawFd, OwnedFd};
use std::io;

/// Offsets in `struct seccomp_data` (linux/seccomp.h): number, architecture, arguments.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
/// AUDIT_ARCH_X86_64 of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const NATIVE_ARCH: u32 = 0xc000_003e;
/// AUDIT_ARCH_AARCH64 of linux/audit.h.
#[cfg(target_arch = "aarch64")]
const NATIVE_ARCH: u32 = 0xc000_00b7;
/// __X32_SYSCALL_BIT of asm/unistd.h: numbers from here on are of the x32 ABI.
const X32: u32 = 0x4000_0000;

/// Calls that are always handed over.
const HANDED_OVER: [c_long; 13] = [
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
];
/// Calls that are handed over when their fifth argument, an address, is not null; a receive also when it asks
/// for one octet: so a program looks whether a socket is connected (Python's `ssl` does), which the pair is.
const WITH_ADDRESS: [c_long; 2] = [libc::SYS_sendto, libc::SYS_recvfrom];

/// Calls that open a file, each with the number of the argument that has the flags: handed over when it is
/// opened for reading alone and in the plain way, as the files of /proc are.
#[cfg(target_arch = "x86_64")]
pub const OPENS: &[(c_long, u32)] = &[(libc::SYS_open, 1), (libc::SYS_openat, 2)];
/// See there.
#[cfg(not(target_arch = "x86_64"))]
pub const OPENS: &[(c_long, u32)] = &[(libc::SYS_openat, 2)];
/// Flags of which none is set then; servers open what they send with O_NONBLOCK or look it up with O_PATH.
const NOT_PLAIN: u32 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_NONBLOCK | libc::O_DIRECTORY | libc::O_PATH) as u32;

/// The two halves of the word that lets a call pass.
const PASS: [u32; 2] = [board::PASS as u32, (board::PASS >> 32) as u32];

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const HAND_OVER: u32 = libc::SECCOMP_RET_USER_NOTIF;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

const fn load(at: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: at }
}

/// Goes on with the next instruction when equal, else skips as many.
const fn unless_equal_skip(k: u32, skip: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: skip, k }
}

/// Skips as many instructions when equal.
const fn if_equal_skip(k: u32, skip: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: skip, jf: 0, k }
}

const fn give(verdict: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: verdict }
}

/// Offset of the low half of an argument; the high half is four bytes on.
const fn argument(number: u32) -> u32 {
    ARGUMENTS + 8 * number
}

/// The program.
pub fn program() -> Vec<sock_filter> {
    let at_least = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    let and = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    let mut code = vec![
        load(ARCH),
        if_equal_skip(NATIVE_ARCH, 1),
        give(NO_SUCH_CALL),
        load(NUMBER),
        sock_filter { code: at_least, jt: 0, jf: 1, k: X32 },
        give(NO_SUCH_CALL),
        unless_equal_skip(libc::SYS_io_uring_setup as u32, 1),
        give(NO_SUCH_CALL),
        unless_equal_skip(libc::SYS_socket as u32, 6),
        load(argument(0)),
        if_equal_skip(libc::AF_INET as u32, 3),
        if_equal_skip(libc::AF_INET6 as u32, 2),
        if_equal_skip(libc::AF_NETLINK as u32, 1),
        give(ALLOW),
        give(HAND_OVER),
        // The requests about interfaces.
        unless_equal_skip(libc::SYS_ioctl as u32, 5),
        load(argument(1)),
        sock_filter { code: at_least, jt: 0, jf: 2, k: interfaces::FIRST },
        sock_filter { code: at_least, jt: 1, jf: 0, k: interfaces::LAST + 1 },
        give(HAND_OVER),
        give(ALLOW),
    ];
    for call in WITH_ADDRESS {
        let octets = if call == libc::SYS_recvfrom { 1 } else { u32::MAX };
        code.extend([
            unless_equal_skip(call as u32, 8),
            load(argument(4)),
            unless_equal_skip(0, 5),
            load(argument(4) + 4),
            unless_equal_skip(0, 3),
            load(argument(2)),
            if_equal_skip(octets, 1),
            give(ALLOW),
            give(HAND_OVER),
        ]);
    }
    // Steps that every jump to the last check goes over: the numbers below, and what allows all others.
    let to_calls = HANDED_OVER.len() + 1;
    for (n, (call, flags)) in OPENS.iter().enumerate() {
        let opens_behind = (OPENS.len() - 1 - n) * 5;
        code.extend([
            unless_equal_skip(*call as u32, 4),
            load(argument(*flags)),
            sock_filter { code: and, jt: 0, jf: 0, k: NOT_PLAIN },
            if_equal_skip(0, (1 + opens_behind + to_calls) as u8),
            give(ALLOW),
        ]);
    }
    for (n, call) in HANDED_OVER.into_iter().enumerate() {
        code.push(if_equal_skip(call as u32, (to_calls - 1 - n) as u8));
    }
    // Only here the sixth argument is looked at: what is always allowed the kernel need not ask the filter.
    code.extend([
        give(ALLOW),
        load(argument(5)),
        unless_equal_skip(PASS[0], 3),
        load(argument(5) + 4),
        unless_equal_skip(PASS[1], 1),
        give(ALLOW),
        give(HAND_OVER),
    ]);
    code
}

/// Puts this process, and whatever it starts or becomes, behind the filter; returns where its calls are
/// handed over. Also sets no_new_privs, without which an ordinary user may not.
///
/// # Errors
/// Those of prctl(2) and seccomp(2): EBUSY when somebody else already takes calls of this process.
pub fn install() -> io::Result<OwnedFd> {
    let mut code = program();
    let program = sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: no pointer is passed.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let (set, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the program and its instructions live until the call returns; the kernel copies them.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const program) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says of a call, by the rules of BPF.
    fn verdict(arch: u32, number: c_long, arguments: [u64; 6]) -> u32 {
        let word = |at: u32| match at {
            NUMBER => number as u32,
            ARCH => arch,
            at => {
                let argument = arguments[((at - ARGUMENTS) / 8) as usize];
                if (at - ARGUMENTS).is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (code, mut at, mut a) = (program(), 0, 0);
        loop {
            let step = code[at];
            at += 1;
            match u32::from(step.code) {
                c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => a = word(step.k),
                c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    at += usize::from(if a == step.k { step.jt } else { step.jf });
                }
                c if c == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                    at += usize::from(if a >= step.k { step.jt } else { step.jf });
                }
                c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => a &= step.k,
                c if c == libc::BPF_RET | libc::BPF_K => return step.k,
                other => panic!("instruction {other}"),
            }
        }
    }

    #[test]
    fn only_what_names_sockets_of_the_internet_is_handed_over() {
        let of = |number, arguments| verdict(NATIVE_ARCH, number, arguments);
        for (family, want) in [
            (libc::AF_INET, HAND_OVER),
            (libc::AF_INET6, HAND_OVER),
            (libc::AF_UNIX, ALLOW),
            (libc::AF_NETLINK, HAND_OVER),
            (libc::AF_PACKET, ALLOW),
        ] {
            assert_eq!(of(libc::SYS_socket, [family as u64, 0, 0, 0, 0, 0]), want, "family {family}");
        }
        for call in HANDED_OVER {
            assert_eq!(of(call, [0; 6]), HAND_OVER, "call {call}");
        }
        for (request, want) in [(0x5421, ALLOW), (0x8910, HAND_OVER), (0x8933, HAND_OVER), (0x8944, ALLOW)] {
            assert_eq!(of(libc::SYS_ioctl, [3, request, 1, 0, 0, 0]), want, "request {request:x}");
        }
        for call in WITH_ADDRESS {
            assert_eq!(of(call, [3, 1, 2, 0, 0, 0]), ALLOW);
            let one = if call == libc::SYS_recvfrom { HAND_OVER } else { ALLOW };
            assert_eq!(of(call, [3, 1, 1, 0, 0, 0]), one);
            assert_eq!(of(call, [3, 1, 1, 0, 0x7fff_0000_0000, 16]), HAND_OVER, "high half alone");
            assert_eq!(of(call, [3, 1, 1, 0, 0x1000, 16]), HAND_OVER);
        }
        for (flags, want) in [
            (libc::O_RDONLY | libc::O_CLOEXEC, HAND_OVER),
            (libc::O_RDWR, ALLOW),
            (libc::O_RDONLY | libc::O_NONBLOCK, ALLOW),
            (libc::O_PATH, ALLOW),
            (libc::O_WRONLY | libc::O_CREAT, ALLOW),
        ] {
            assert_eq!(of(libc::SYS_openat, [0, 1, flags as u64, 0, 0, 0]), want, "flags {flags:o}");
        }
        for call in HANDED_OVER.into_iter().chain([libc::SYS_openat]) {
            assert_eq!(of(call, [3, 1, 0, 0, 0, board::PASS]), ALLOW, "call {call} that is the kernel's");
            for almost in [board::PASS ^ 1, board::PASS ^ 1 << 40] {
                assert_eq!(of(call, [3, 1, 0, 0, 0, almost]), HAND_OVER, "call {call}");
            }
        }
        for call in WITH_ADDRESS {
            assert_eq!(of(call, [3, 1, 2, 0, 0x1000, board::PASS]), HAND_OVER, "it has six arguments");
        }
        assert_eq!(of(libc::SYS_socket, [libc::AF_INET as u64, 0, 0, 0, 0, board::PASS]), HAND_OVER);
        for call in [libc::SYS_read, libc::SYS_write, libc::SYS_close, libc::SYS_execve, libc::SYS_shutdown] {
            assert_eq!(of(call, [3, 1, 1, 1, 1, 1]), ALLOW, "call {call}");
        }
    }

    #[test]
    fn what_would_pass_by_the_filter_does_not_exist() {
        assert_eq!(verdict(NATIVE_ARCH, libc::SYS_io_uring_setup, [0; 6]), NO_SUCH_CALL);
        assert_eq!(verdict(NATIVE_ARCH, c_long::from(X32) + 45, [0; 6]), NO_SUCH_CALL);
        assert_eq!(verdict(0x4000_0003, 102, [0; 6]), NO_SUCH_CALL, "socketcall of i386");
    }
}
