//! The calls as C makes them, over a fake stack in this process.

#![expect(unsafe_code, reason = "the calls are C's")]

#[path = "../../tests/fake/mod.rs"]
mod fake;

use fake::{Fake, HOST, start_sized};
use libc::{c_int, c_short, c_void, iovec, pollfd, sockaddr, sockaddr_in, socklen_t, ssize_t};
use libnetclient::Size;
use netclient::{epoll::*, in_place::*, names::*, options::*, poll::*, transfer::*};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The default session is the process's: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

struct Stage {
    _fake: Fake,
    _turn: MutexGuard<'static, ()>,
}

fn stage() -> Stage {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (session, fake) = start_sized(Size { active: 64, passive: 64, tx_pages: 256, rx_pages: 256 });
    session.make_default();
    Stage { _fake: fake, _turn: turn }
}

fn at(host: &str, port: u16) -> sockaddr_in {
    let ip: std::net::Ipv4Addr = host.parse().expect("an address");
    // SAFETY: numbers, for which zero is a value.
    let mut addr: sockaddr_in = unsafe { std::mem::zeroed() };
    addr.sin_family = libc::AF_INET as u16;
    addr.sin_port = port.to_be();
    addr.sin_addr.s_addr = u32::from(ip).to_be();
    addr
}

const LEN: socklen_t = size_of::<sockaddr_in>() as socklen_t;

fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn failed(result: impl Into<i64>) -> c_int {
    assert_eq!(result.into(), -1);
    errno()
}

fn bind(fd: c_int, port: u16) -> c_int {
    let addr = at(HOST, port);
    // SAFETY: a local address.
    unsafe { nc_bind(fd, (&raw const addr).cast::<sockaddr>(), LEN) }
}

fn connect(fd: c_int, host: &str, port: u16) -> c_int {
    let addr = at(host, port);
    // SAFETY: a local address.
    unsafe { nc_connect(fd, (&raw const addr).cast::<sockaddr>(), LEN) }
}

fn write(fd: c_int, bytes: &[u8]) -> ssize_t {
    // SAFETY: a local buffer.
    unsafe { nc_write(fd, bytes.as_ptr().cast(), bytes.len()) }
}

fn recv(fd: c_int, len: usize, flags: c_int) -> Vec<u8> {
    let mut buf = vec![0; len];
    // SAFETY: a local buffer.
    let n = unsafe { nc_recv(fd, buf.as_mut_ptr().cast(), len, flags) };
    assert!(n >= 0, "recv: {}", errno());
    buf.truncate(n as usize);
    buf
}

fn recv_fails(fd: c_int, flags: c_int) -> c_int {
    // SAFETY: a local buffer.
    failed(unsafe { nc_recv(fd, [0u8; 8].as_mut_ptr().cast(), 8, flags) } as i64)
}

fn set(fd: c_int, level: c_int, name: c_int, value: &[c_int]) -> c_int {
    // SAFETY: a local value.
    unsafe { nc_setsockopt(fd, level, name, value.as_ptr().cast(), size_of_val(value) as socklen_t) }
}

fn get(fd: c_int, level: c_int, name: c_int) -> c_int {
    let (mut value, mut len) = (0, 4);
    // SAFETY: a local value.
    let result = unsafe { nc_getsockopt(fd, level, name, (&raw mut value).cast::<c_void>(), &mut len) };
    assert_eq!((result, len), (0, 4), "{}", errno());
    value
}

fn poll(fds: &[(c_int, c_short)], timeout: c_int) -> Vec<c_short> {
    let mut fds: Vec<pollfd> = fds.iter().map(|&(fd, events)| pollfd { fd, events, revents: 0 }).collect();
    // SAFETY: a local array.
    let found = unsafe { nc_poll(fds.as_mut_ptr(), fds.len() as u64, timeout) };
    assert_eq!(found, fds.iter().filter(|fd| fd.revents != 0).count() as c_int);
    fds.iter().map(|fd| fd.revents).collect()
}

fn listening(port: u16) -> c_int {
    let fd = nc_socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    assert!(fd >= 1 << 30);
    assert_eq!((bind(fd, port), nc_listen(fd, 16)), (0, 0));
    fd
}

fn accept(listener: c_int) -> c_int {
    // SAFETY: no address is wanted.
    unsafe { nc_accept(listener, std::ptr::null_mut(), std::ptr::null_mut()) }
}

fn pair(listener: c_int, port: u16) -> (c_int, c_int) {
    let client = nc_socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    assert_eq!(connect(client, HOST, port), 0, "{}", errno());
    let server = accept(listener);
    assert!(server > 0);
    (client, server)
}

fn close(fds: &[c_int]) {
    fds.iter().for_each(|fd| assert_eq!(nc_close(*fd), 0));
}

#[test]
fn a_connection_in_all_its_calls() {
    let _stage = stage();
    let listener = listening(80);
    let (client, server) = pair(listener, 80);
    assert_eq!(write(client, b"hello world"), 11);
    assert_eq!(poll(&[(server, libc::POLLIN)], 5000), [libc::POLLIN]);
    assert_eq!(recv(server, 5, libc::MSG_PEEK), b"hello");
    let mut count: c_int = 0;
    // SAFETY: a local number.
    assert_eq!(unsafe { nc_ioctl(server, libc::FIONREAD, (&raw mut count).cast()) }, 0);
    assert_eq!(count, 11);
    assert_eq!(recv(server, 6, libc::MSG_TRUNC).len(), 6, "thrown away");
    assert_eq!(recv(server, 16, 0), b"world");
    assert_eq!(recv_fails(server, libc::MSG_DONTWAIT), libc::EAGAIN);
    assert_eq!(recv_fails(server, libc::MSG_OOB), libc::EINVAL);
    let name = |call: unsafe extern "C" fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int, fd| {
        let (mut addr, mut len) = (at("0.0.0.0", 0), LEN);
        // SAFETY: a local address.
        assert_eq!(unsafe { call(fd, (&raw mut addr).cast(), &mut len) }, 0);
        (u16::from_be(addr.sin_port), len)
    };
    assert_eq!(name(nc_getpeername, client), (80, LEN));
    assert_eq!(name(nc_getsockname, server), (80, LEN));
    assert_eq!(name(nc_getsockname, client).0, name(nc_getpeername, server).0);
    // The reader waits for all of it, in two writes.
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| recv(server, 200_000, libc::MSG_WAITALL));
        assert_eq!(write(client, &[7; 150_000]), 150_000, "a write that may wait takes everything");
        assert_eq!(write(client, &[8; 50_000]), 50_000);
        let all = reading.join().expect("read");
        assert_eq!((all.len(), all[149_999], all[150_000]), (200_000, 7, 8));
    });
    assert_eq!(nc_shutdown(client, libc::SHUT_WR), 0);
    assert_eq!(recv(server, 1, 0), b"");
    assert_eq!(failed(write(client, b"x") as i64), libc::EPIPE);
    assert_eq!(failed(nc_shutdown(client, 9)), libc::EINVAL);
    close(&[client, server, listener]);
    assert_eq!(failed(nc_close(client)), libc::EBADF);
    assert_eq!(recv_fails(client, 0), libc::EBADF);
}

#[test]
fn connects_that_fail_wait_or_are_under_way() {
    let _stage = stage();
    let fd = nc_socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    assert_eq!(failed(connect(fd, HOST, 81)), libc::ECONNREFUSED);
    let listener = listening(80);
    assert_eq!(connect(fd, HOST, 80), 0, "the same socket may try again");
    assert_eq!(failed(connect(fd, HOST, 80)), libc::EISCONN);
    let slow = nc_socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
    assert_eq!(poll(&[(slow, libc::POLLOUT)], 0), [libc::POLLOUT | libc::POLLHUP], "as Linux has it");
    assert_eq!(failed(connect(slow, "10.9.9.9", 80)), libc::EINPROGRESS);
    assert_eq!(failed(connect(slow, "10.9.9.9", 80)), libc::EALREADY);
    assert_eq!(poll(&[(slow, libc::POLLOUT)], 20), [0]);
    let refused = nc_socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
    assert_eq!(failed(connect(refused, HOST, 81)), libc::EINPROGRESS);
    let events = poll(&[(refused, libc::POLLOUT)], 5000)[0];
    assert_eq!(events, libc::POLLOUT | libc::POLLERR | libc::POLLHUP);
    assert_eq!(get(refused, libc::SOL_SOCKET, libc::SO_ERROR), libc::ECONNREFUSED);
    assert_eq!(get(refused, libc::SOL_SOCKET, libc::SO_ERROR), 0, "once");
    // SO_SNDTIMEO ends a connect that may wait.
    let timed = nc_socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    let timeout: [i64; 2] = [0, 30_000];
    // SAFETY: a local value.
    let result = unsafe {
        nc_setsockopt(
            timed,
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            timeout.as_ptr().cast(),
            size_of_val(&timeout) as u32,
        )
    };
    assert_eq!(result, 0);
    assert_eq!(failed(connect(timed, "10.9.9.9", 80)), libc::EINPROGRESS);
    assert_eq!(failed(nc_socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)), libc::EAFNOSUPPORT);
    assert_eq!(failed(nc_socket(libc::AF_INET, libc::SOCK_RAW, 0)), libc::ESOCKTNOSUPPORT);
    let taken = nc_socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    assert_eq!(failed(bind(taken, 80)), libc::EADDRINUSE);
    close(&[fd, listener, slow, refused, timed, taken]);
}

#[test]
fn options_are_kept_set_and_inherited() {
    let _stage = stage();
    let listener = listening(80);
    assert_eq!(set(listener, libc::IPPROTO_TCP, libc::TCP_NODELAY, &[1]), 0);
    assert_eq!(set(listener, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &[1]), 0);
    assert_eq!(set(listener, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &[5]), 0);
    let (client, server) = pair(listener, 80);
    assert_eq!(get(listener, libc::SOL_SOCKET, libc::SO_ACCEPTCONN), 1);
    for (level, name, there, here) in [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1, 0),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1, 0),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 5, 7200),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 9, 9),
        (libc::SOL_SOCKET, libc::SO_TYPE, libc::SOCK_STREAM, libc::SOCK_STREAM),
        (libc::SOL_SOCKET, libc::SO_DOMAIN, libc::AF_INET, libc::AF_INET),
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN, 0, 0),
    ] {
        assert_eq!((get(server, level, name), get(client, level, name)), (there, here), "{level} {name}");
    }
    assert_eq!(set(client, libc::SOL_SOCKET, libc::SO_SNDBUF, &[8192]), 0);
    assert_eq!(get(client, libc::SOL_SOCKET, libc::SO_SNDBUF), 16_384, "doubled, as Linux has it");
    assert_eq!(failed(set(client, libc::SOL_SOCKET, libc::SO_MARK, &[1])), libc::ENOPROTOOPT);
    assert_eq!(failed(set(client, libc::IPPROTO_IP, libc::IP_TTL, &[1])), libc::ENOPROTOOPT);
    assert_eq!(failed(set(client, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, &[0])), libc::EINVAL);
    // SAFETY: no pointer is passed.
    let fcntl = |command, argument| unsafe { nc_fcntl(client, command, argument) };
    assert_eq!(fcntl(libc::F_GETFL, 0), libc::O_RDWR);
    assert_eq!(fcntl(libc::F_SETFL, libc::O_NONBLOCK as u64), 0);
    assert_eq!(fcntl(libc::F_GETFL, 0), libc::O_RDWR | libc::O_NONBLOCK);
    assert_eq!(recv_fails(client, 0), libc::EAGAIN);
    let again = fcntl(libc::F_DUPFD_CLOEXEC, 0);
    assert!(again > client);
    close(&[client]);
    assert_eq!(write(again, b"over the other number"), 21);
    assert_eq!(recv(server, 64, 0).len(), 21);
    // Linger 0 resets.
    assert_eq!(set(again, libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0]), 0);
    close(&[again, server, listener]);
}

#[test]
fn datagrams_one_by_one_and_many() {
    let _stage = stage();
    let (a, b) =
        (nc_socket(libc::AF_INET, libc::SOCK_DGRAM, 0), nc_socket(libc::AF_INET, libc::SOCK_DGRAM, 0));
    assert_eq!((bind(a, 53), bind(b, 54)), (0, 0));
    let to = at(HOST, 53);
    // SAFETY: local buffers.
    let sent = unsafe { nc_sendto(b, b"four".as_ptr().cast(), 4, 0, (&raw const to).cast(), LEN) };
    assert_eq!(sent, 4);
    let (mut from, mut len, mut buf) = (at("0.0.0.0", 0), LEN, [0u8; 2]);
    // SAFETY: local buffers.
    let got = unsafe {
        nc_recvfrom(a, buf.as_mut_ptr().cast(), 2, libc::MSG_TRUNC, (&raw mut from).cast(), &mut len)
    };
    assert_eq!((got, u16::from_be(from.sin_port), &buf), (4, 54, b"fo"), "the length it had");
    assert_eq!(connect(b, HOST, 53), 0);
    // SAFETY: structures of numbers and null pointers.
    let mut messages: [libc::mmsghdr; 3] = unsafe { std::mem::zeroed() };
    let mut texts = [*b"one..", *b"two..", *b"three"];
    let mut iov = texts.each_mut().map(|text| iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 5 });
    for (message, iov) in messages.iter_mut().zip(&mut iov) {
        (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (iov, 1);
    }
    // SAFETY: local buffers.
    assert_eq!(unsafe { nc_sendmmsg(b, messages.as_mut_ptr(), 3, 0) }, 3);
    assert_eq!(poll(&[(a, libc::POLLIN)], 5000), [libc::POLLIN]);
    let begun = Instant::now();
    let mut got = 0;
    while got < 3 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        // SAFETY: local buffers.
        let n =
            unsafe { nc_recvmmsg(a, messages.as_mut_ptr(), 3, libc::MSG_WAITFORONE, std::ptr::null_mut()) };
        assert!(n > 0, "{}", errno());
        assert!(messages[..n as usize].iter().all(|message| message.msg_len == 5));
        got += n;
    }
    assert_eq!(recv_fails(a, libc::MSG_DONTWAIT), libc::EAGAIN);
    let fresh = nc_socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
    assert_eq!(failed(write(fresh, b"x") as i64), libc::EDESTADDRREQ);
    close(&[a, b, fresh]);
}

/// A control buffer with one message.
fn control(level: c_int, kind: c_int, data: &[u8]) -> ([u8; 64], usize) {
    // SAFETY: plain arithmetic.
    let whole = unsafe { libc::CMSG_SPACE(data.len() as u32) };
    // SAFETY: as above.
    let at = unsafe { libc::CMSG_LEN(0) };
    let mut bytes = [0u8; 64];
    bytes[..8].copy_from_slice(&(at as usize + data.len()).to_ne_bytes());
    bytes[8..12].copy_from_slice(&level.to_ne_bytes());
    bytes[12..16].copy_from_slice(&kind.to_ne_bytes());
    bytes[at as usize..][..data.len()].copy_from_slice(data);
    (bytes, whole as usize)
}

#[test]
fn datagrams_say_where_they_came_in_and_where_they_leave() {
    let _stage = stage();
    let (a, b) =
        (nc_socket(libc::AF_INET, libc::SOCK_DGRAM, 0), nc_socket(libc::AF_INET, libc::SOCK_DGRAM, 0));
    assert_eq!((bind(a, 53), bind(b, 54)), (0, 0));
    assert_eq!(set(a, libc::IPPROTO_IP, libc::IP_PKTINFO, &[1]), 0);
    assert_eq!(get(a, libc::IPPROTO_IP, libc::IP_PKTINFO), 1);
    assert_eq!(connect(b, HOST, 53), 0);
    let host = HOST.parse::<std::net::Ipv4Addr>().expect("an address").octets();
    let send = |level: c_int, kind: c_int, data: &[u8]| {
        let ((mut bytes, len), mut text) = (control(level, kind, data), *b"hello");
        let mut iov = iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 5 };
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut iov, 1);
        (message.msg_control, message.msg_controllen) = (bytes.as_mut_ptr().cast(), len);
        // SAFETY: local buffers.
        unsafe { nc_sendmsg(b, &raw const message, 0) }
    };
    let info = |source: [u8; 4]| [[0; 4], source, [0; 4]].concat();
    assert_eq!(send(libc::IPPROTO_IP, libc::IP_PKTINFO, &info(host)), 5);
    assert_eq!(failed(send(libc::IPPROTO_IP, libc::IP_PKTINFO, &info([10, 9, 9, 9])) as i64), libc::EINVAL);
    assert_eq!(failed(send(libc::IPPROTO_IP, libc::IP_PKTINFO, &[0; 4]) as i64), libc::EINVAL);
    assert_eq!(failed(send(libc::IPPROTO_IP, libc::IP_TTL, &[0, 0, 0, 0]) as i64), libc::EINVAL);
    assert_eq!(failed(send(libc::SOL_SOCKET, libc::SO_MARK, &[0; 4]) as i64), libc::EINVAL);
    assert_eq!(send(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[0; 4]), 5, "as Linux: not for us");
    for room in [64, 8] {
        let (mut bytes, mut text) = ([0u8; 64], [0u8; 8]);
        let mut iov = iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 8 };
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut iov, 1);
        (message.msg_control, message.msg_controllen) = (bytes.as_mut_ptr().cast(), room);
        // SAFETY: local buffers.
        assert_eq!(unsafe { nc_recvmsg(a, &raw mut message, 0) }, 5);
        let expected = control(libc::IPPROTO_IP, libc::IP_PKTINFO, &[[0; 4], host, host].concat());
        match room {
            64 => assert_eq!((bytes, message.msg_controllen, message.msg_flags), (expected.0, expected.1, 0)),
            _ => assert_eq!((message.msg_controllen, message.msg_flags), (0, libc::MSG_CTRUNC)),
        }
    }
    let all = at("255.255.255.255", 9);
    // SAFETY: local buffers.
    let to_all = || unsafe { nc_sendto(a, b"x".as_ptr().cast(), 1, 0, (&raw const all).cast(), LEN) };
    assert_eq!(failed(to_all() as i64), libc::EACCES);
    assert_eq!(set(a, libc::SOL_SOCKET, libc::SO_BROADCAST, &[1]), 0);
    assert_eq!((get(a, libc::SOL_SOCKET, libc::SO_BROADCAST), to_all()), (1, 1));
    let tcp = nc_socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    assert_eq!(failed(set(tcp, libc::IPPROTO_IP, libc::IP_PKTINFO, &[1])), libc::ENOPROTOOPT);
    assert_eq!(set(tcp, libc::SOL_SOCKET, libc::SO_REUSEPORT, &[1]), 0);
    assert_eq!(get(tcp, libc::SOL_SOCKET, libc::SO_REUSEPORT), 1);
    assert_eq!(failed(set(tcp, libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[1])), libc::ENOPROTOOPT);
    close(&[a, b, tcp]);
}

#[test]
fn bytes_in_place_and_files() {
    let _stage = stage();
    let listener = listening(80);
    let (client, server) = pair(listener, 80);
    let empty = || [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 4];
    let (mut iov, mut count) = (empty(), 4);
    // SAFETY: a local array.
    let room = unsafe { nc_send_reserve(client, 40_000, iov.as_mut_ptr(), &mut count) };
    assert_eq!((room, count), (40_000, 3));
    assert_eq!(failed(write(client, b"x") as i64), libc::EBUSY);
    for piece in &iov[..count as usize] {
        // SAFETY: reserved for us.
        unsafe { std::ptr::write_bytes(piece.iov_base.cast::<u8>(), 9, piece.iov_len) };
    }
    assert_eq!(failed(nc_send_commit(client, 40_001)), libc::EINVAL);
    assert_eq!(nc_send_commit(client, 40_000), 0);
    let mut got = 0;
    while got < 40_000 {
        (iov, count) = (empty(), 4);
        // SAFETY: a local array.
        let n = unsafe { nc_recv_peek(server, iov.as_mut_ptr(), &mut count) };
        assert!(n > 0);
        for piece in &iov[..count as usize] {
            // SAFETY: bytes that were received and not consumed.
            let bytes = unsafe { std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len) };
            assert!(bytes.iter().all(|byte| *byte == 9));
        }
        assert_eq!(nc_recv_consume(server, n as usize), 0);
        got += n;
    }
    assert_eq!(failed(nc_recv_consume(server, 1)), libc::EINVAL);
    // A file, from an offset.
    let file = std::fs::File::open(std::env::current_exe().expect("a path")).expect("a file");
    let raw = std::os::fd::AsRawFd::as_raw_fd(&file);
    let mut offset = 1000;
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| recv(server, 300_000, libc::MSG_WAITALL));
        // SAFETY: a local offset.
        assert_eq!(unsafe { nc_sendfile(client, raw, &mut offset, 300_000) }, 300_000);
        let mut expected = vec![0; 300_000];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut expected, 1000).expect("read");
        assert!(reading.join().expect("read") == expected);
    });
    assert_eq!(offset, 301_000);
    close(&[client, server, listener]);
}

#[test]
fn an_epoll_of_both_kinds() {
    let _stage = stage();
    let (epoll, listener) = (nc_epoll_create1(0), listening(80));
    let mut pipe = [0; 2];
    // SAFETY: a local array.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let control = |operation, fd, events: c_int, token| {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: a local event.
        unsafe { nc_epoll_ctl(epoll, operation, fd, &mut event) }
    };
    let wait = |most: c_int, timeout| {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        // SAFETY: a local array.
        let n = unsafe { nc_epoll_wait(epoll, events.as_mut_ptr(), most, timeout) };
        assert!(n >= 0, "{}", errno());
        let mut found: Vec<(u64, u32)> = events[..n as usize].iter().map(|e| (e.u64, e.events)).collect();
        found.sort_unstable();
        found
    };
    // Registered before it has a place.
    let client = nc_socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
    assert_eq!(control(libc::EPOLL_CTL_ADD, client, libc::EPOLLOUT | libc::EPOLLET, 1), 0);
    assert_eq!(failed(control(libc::EPOLL_CTL_ADD, client, libc::EPOLLOUT, 1)), libc::EEXIST);
    assert_eq!(control(libc::EPOLL_CTL_ADD, listener, libc::EPOLLIN, 2), 0);
    assert_eq!(control(libc::EPOLL_CTL_ADD, pipe[0], libc::EPOLLIN, 3), 0);
    assert_eq!(wait(8, 20), []);
    assert_eq!(failed(connect(client, HOST, 80)), libc::EINPROGRESS);
    let (mut seen, begun) = (std::collections::BTreeSet::new(), Instant::now());
    while seen.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(5), "{seen:?}");
        seen.extend(wait(8, 5000));
    }
    assert_eq!(Vec::from_iter(seen), [(1, libc::EPOLLOUT as u32), (2, libc::EPOLLIN as u32)]);
    // SAFETY: a local buffer.
    assert_eq!(unsafe { nc_write(pipe[1], b"x".as_ptr().cast(), 1) }, 1, "the kernel's are passed on");
    let both = [(2, libc::EPOLLIN as u32), (3, libc::EPOLLIN as u32)];
    assert_eq!(wait(8, 5000), both);
    let one_by_one: std::collections::BTreeSet<_> = (0..8).flat_map(|_| wait(1, 5000)).collect();
    assert_eq!(Vec::from_iter(one_by_one), both, "neither kind starves");
    assert_eq!(poll(&[(pipe[0], libc::POLLIN), (listener, libc::POLLIN), (-1, 0)], -1), [1, 1, 0]);
    let server = accept(listener);

    // SAFETY: a local buffer.
    assert_eq!(unsafe { nc_read(pipe[0], [0u8; 1].as_mut_ptr().cast(), 1) }, 1);
    // A thread that sleeps in it hears of both.
    std::thread::scope(|scope| {
        for fd in [pipe[1], server] {
            let waiting = scope.spawn(|| poll(&[(pipe[0], libc::POLLIN), (client, libc::POLLIN)], 5000));
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(write(fd, b"x"), 1);
            let found = waiting.join().expect("waited");
            assert!(found.contains(&libc::POLLIN), "{found:?}");
        }
    });
    assert_eq!(control(libc::EPOLL_CTL_DEL, listener, 0, 0), 0);
    assert_eq!(failed(control(libc::EPOLL_CTL_DEL, listener, 0, 0)), libc::ENOENT);
    assert_eq!(failed(control(libc::EPOLL_CTL_ADD, epoll, libc::EPOLLIN, 9)), libc::EINVAL);
    close(&[client, server, listener, epoll, pipe[0], pipe[1]]);
}
