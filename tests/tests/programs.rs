//! Unmodified programs on the stack: what they transfer is what the kernel's peer has, whoever is killed
//! meanwhile; what they return is what they would have returned.

use libnetclient::Session;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::bench::machine::cpu_seconds;
use tests::process::exec::{Running, on_the_stack, printed, servers};
use tests::process::group::{Group, Role, Spec};
use tests::process::{private_net, wait_until};
use tests::remote::fetch::Fetch;
use tests::remote::{counter, web};

const STACK: &str = "10.85.0.2";
const KERNEL: &str = "10.85.0.1";
/// Longer than any machine takes for a step, however busy it is.
const PATIENCE: Duration = Duration::from_secs(120);
/// Deaths under transfers at least: it is transferred again until there were as many.
const DEATHS: u32 = 8;
/// Bytes of the file that is transferred under kills, and how fast.
const SIZE: u64 = 24 << 20;
const RATE: u64 = 6 << 20;
/// The bytes of the file are the counter stream of this seed.
const SEED: u64 = 85;

fn started() -> Group {
    let spec = Spec {
        nic: "tap:axl14".into(),
        addr: format!("{STACK}/24"),
        tap_addr: Some(format!("{KERNEL}/24")),
        more: Vec::new(),
    };
    Group::up(&spec).expect("a group")
}

fn python(group: &Group, script: &str) -> String {
    printed(group, &["python3", "-c", script])
}

/// Serves the counter stream to whoever asks, by the kernel's sockets.
fn kernel_server() -> u16 {
    web::serve(KERNEL, SIZE, SEED, Duration::ZERO)
}

fn assert_counts(path: &Path) {
    let bytes = std::fs::read(path).expect("a file was written");
    assert_eq!(bytes.len() as u64, SIZE);
    assert_eq!(counter::wrong(SEED, 0, &bytes), 0, "bytes that are wrong");
}

/// Kills each daemon and a supervisor in turn until `over`; returns how many died.
fn kill_in_turn(group: &Group, mut over: impl FnMut() -> bool) -> u32 {
    let turn = [Role::Netd, Role::Nicd, Role::Sockd, Role::Supervisor];
    let mut killed = 0;
    while !over() {
        let role = turn[killed as usize % turn.len()];
        assert!(wait_until(PATIENCE, || group.whole()), "{:?}", group.processes());
        let row = group.find(role).expect("the group is whole");
        Group::signal(&row, rustix::process::Signal::KILL);
        killed += 1;
        let until = std::time::Instant::now() + Duration::from_millis(250);
        while std::time::Instant::now() < until && !over() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    killed
}

#[test]
fn curl_on_the_stack_gets_every_byte_while_daemons_are_killed() {
    private_net::test("curl_on_the_stack_gets_every_byte_while_daemons_are_killed", || {
        let group = started();
        let url = format!("http://{KERNEL}:{}/", kernel_server());
        let to = group.dir().join("fetched");
        let rate = RATE.to_string();
        let name = to.to_str().expect("a plain name");
        let curl =
            ["curl", "--silent", "--show-error", "--fail", "--limit-rate", &rate, "--output", name, &url];
        let mut killed = 0;
        while killed < DEATHS {
            let mut running = Running(on_the_stack(&group, &curl).spawn().expect("netexec is built"));
            killed += kill_in_turn(&group, || running.0.try_wait().expect("our child").is_some());
            let status = running.0.wait().expect("our child");
            assert!(status.success(), "{status}");
            assert_counts(&to);
        }
    });
}

#[test]
fn a_server_on_the_stack_gives_every_byte_while_daemons_are_killed() {
    private_net::test("a_server_on_the_stack_gives_every_byte_while_daemons_are_killed", || {
        let group = started();
        let mut bytes = vec![0; SIZE as usize];
        counter::fill(SEED, 0, &mut bytes);
        std::fs::write(group.dir().join("file"), &bytes).expect("room for a file");
        let dir = group.dir().to_str().expect("a plain name");
        let server = ["python3", "-m", "http.server", "8000", "--bind", STACK, "--directory", dir];
        let mut command = on_the_stack(&group, &server);
        let _server = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("built"));
        let listening =
            || TcpStream::connect_timeout(&format!("{STACK}:8000").parse().expect("one"), PATIENCE);
        assert!(wait_until(PATIENCE, || listening().is_ok()), "it does not listen");
        let to = group.dir().join("fetched");
        let mut killed = 0;
        while killed < DEATHS {
            let mut fetch = Fetch::curl(&format!("http://{STACK}:8000/file"), RATE, &to).expect("curl");
            killed += kill_in_turn(&group, || fetch.ended().is_some());
            assert_eq!(fetch.ended(), Some(Ok(())));
            assert_counts(&to);
        }
    });
}

#[test]
fn what_a_program_returns_is_what_is_returned() {
    private_net::test("what_a_program_returns_is_what_is_returned", || {
        let group = started();
        let status = |command: &[&str]| {
            on_the_stack(&group, command).stderr(Stdio::null()).status().expect("netexec is built")
        };
        assert_eq!(status(&["sh", "-c", "exit 7"]).code(), Some(7));
        assert_eq!(status(&["sh", "-c", "kill -TERM $$"]).signal(), Some(15));
        assert_eq!(status(&["/nonexistent"]).code(), Some(127));
        assert_eq!(status(&["/etc/passwd"]).code(), Some(126));
        let output = on_the_stack(&group, &["sh", "-c", "echo out; echo err >&2; echo $PPID"]).output();
        let output = output.expect("netexec is built");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(out, format!("out\n{}\n", std::process::id()), "its parent is ours");
        assert_eq!(output.stderr, b"err\n", "nothing else is said");
        let mut nobody = group.command("netexec");
        let output = nobody.args(["--name", "axl-nobody", "--", "true"]).output().expect("netexec is built");
        assert_eq!(output.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&output.stderr).contains("ENETDOWN"), "{output:?}");
        assert_eq!(group.command("netexec").output().expect("built").status.code(), Some(2), "no command");
    });
}

/// A datagram socket has nobody to be read from any more; its server must not ask for ever.
#[test]
fn programs_that_outlive_their_group_cost_nothing() {
    private_net::test("programs_that_outlive_their_group_cost_nothing", || {
        let group = started();
        let script = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                      s.bind(('127.0.0.1', 0)); print('bound', flush=True); s.recv(1)";
        let mut command = on_the_stack(&group, &["python3", "-c", script]);
        let mut program = Running(command.stdout(Stdio::piped()).spawn().expect("netexec is built"));
        let mut line = String::new();
        let output = program.0.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "bound\n");
        let servers: Vec<u32> =
            servers(&group, "netexec-server").iter().map(|pid| pid.as_raw_pid() as u32).collect();
        assert_eq!(servers.len(), 1);
        drop(group);
        let rests = || {
            let before = cpu_seconds(&servers);
            std::thread::sleep(Duration::from_secs(1));
            cpu_seconds(&servers) == before
        };
        assert!(wait_until(PATIENCE, rests), "netexec's server turns for ever");
        assert!(matches!(program.0.try_wait(), Ok(None)), "the program waits on");
    });
}

/// Socket calls of every kind, as a program makes them that knows nothing; each line of the script is an
/// assertion of its own.
#[test]
fn sockets_are_what_a_program_expects() {
    private_net::test("sockets_are_what_a_program_expects", || {
        let group = started();
        let url_port = kernel_server();
        let script = format!(
            r#"
import errno, os, select, socket, threading
tcp = lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)
# A listener that does not block, seen by poll and epoll, shared by a child.
s = tcp(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', 0)); s.listen(8)
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET
at = s.getsockname(); s.setblocking(False)
try: s.accept(); assert False
except BlockingIOError: pass
ep = select.epoll(); ep.register(s, select.EPOLLIN | select.EPOLLET)
assert ep.poll(0) == []
c1, c2 = tcp(), tcp(); c1.connect(at); c2.connect(at)
assert ep.poll(5)[0][1] & select.EPOLLIN
a1, r1 = s.accept()
while True:
    try: a2, r2 = s.accept(); break
    except BlockingIOError: select.select([s], [], [], 5)
assert r1 == c1.getsockname() and r2 == c2.getsockname() and a1.getpeername() == r1, (r1, r2)
try: s.accept(); assert False
except BlockingIOError: pass
assert select.select([s], [], [], 0)[0] == []
c3 = tcp(); c3.connect(at); assert ep.poll(5)[0][1] & select.EPOLLIN, 'an edge for the next one'
s.setblocking(True); a3, _ = s.accept()
# A blocking accept in a thread, and one that runs out of time.
got = []; t = threading.Thread(target=lambda: got.append(s.accept())); t.start()
c4 = tcp(); c4.connect(at); t.join(5); assert got and got[0][1] == c4.getsockname()
s.settimeout(0.2)
try: s.accept(); assert False
except TimeoutError: pass
# Bytes, half-close, dup, a child that inherits.
c1.sendall(b'x' * 300000)
n = 0
while n < 300000: n += len(a1.recv(65536))
assert a1.fileno() >= 0 and os.dup(a1.fileno())
d = socket.socket(fileno=os.dup(c1.fileno()))
if os.fork() == 0: d.sendall(b'child'); os._exit(0)
os.wait(); assert a1.recv(100) == b'child'
c1.shutdown(socket.SHUT_WR); assert a1.recv(10) == b'', 'the end of the stream'
a1.sendall(b'still'); assert c1.recv(10) == b'still'
# An end and a reset are told apart.
a2.close(); assert c2.recv(10) == b''
a3.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1,0,0,0,0,0,0,0])); a3.close()
try: c3.recv(10); assert False
except ConnectionResetError: pass
# Nobody there: blocking, with a timeout, without waiting.
for how in (None, 5.0):
    f = tcp(); f.settimeout(how)
    try: f.connect(('127.0.0.1', 9)); assert False
    except ConnectionRefusedError: pass
f = tcp(); f.setblocking(False); assert f.connect_ex(('127.0.0.1', 9)) == errno.EINPROGRESS
p = select.poll(); p.register(f, select.POLLOUT); assert p.poll(5000)
assert f.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
assert f.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
# Not waiting for one that succeeds: not writable before it stands.
g = tcp(); g.setblocking(False)
e = g.connect_ex(('{KERNEL}', {url_port})); assert e in (0, errno.EINPROGRESS), e
assert select.select([], [g], [], 5)[1] and g.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
assert g.connect_ex(('{KERNEL}', {url_port})) == errno.EISCONN and g.getpeername() == ('{KERNEL}', {url_port})
g.setblocking(True); g.sendall(b'GET / HTTP/1.0\r\n\r\n'); assert g.recv(12) == b'HTTP/1.1 200'
# Options: real ones are kept, unknown ones refused.
g.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); assert g.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
try: g.setsockopt(socket.IPPROTO_TCP, 200, 1); assert False
except OSError as e: assert e.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP), e
g.settimeout(0.2); g.close()
# Datagrams: addresses both ways, one by one, connected, empty, too late.
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0))
v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); w = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
v.bind(('127.0.0.1', 0)); w.bind(('127.0.0.1', 0))
for i in range(20): (v if i % 2 else w).sendto(bytes([i]) * (i + 1), u.getsockname())
seen = {{}}
for i in range(20): b, a = u.recvfrom(100); seen.setdefault(a, []).append(b)
assert seen == {{v.getsockname(): [bytes([i]) * (i + 1) for i in range(1, 20, 2)], w.getsockname(): [bytes([i]) * (i + 1) for i in range(0, 20, 2)]}}, seen
u.connect(v.getsockname()); u.send(b'one'); assert v.recvfrom(10) == (b'one', u.getsockname())
v.sendto(b'', u.getsockname()); assert u.recv(10) == b''
assert u.sendmsg([b'a', b'b']) == 2; b, _, f, a = v.recvmsg(1); assert (b, a) == (b'a', u.getsockname()) and f & socket.MSG_TRUNC
u.settimeout(0.2)
try: u.recvfrom(10); assert False
except TimeoutError: pass
# What is not of the internet is the kernel's.
x, y = socket.socketpair(); x.sendmsg([b'unix']); assert y.recvmsg(10)[0] == b'unix'
print('held')
"#
        );
        assert_eq!(python(&group, &script), "held\n");
    });
}

/// Two hundred connections of one program, then it ends: no socket, no server is left.
/// Each of these differed from a kernel once.
#[test]
fn what_is_closed_is_closed_and_what_came_is_told() {
    private_net::test("what_is_closed_is_closed_and_what_came_is_told", || {
        let group = started();
        let script = r#"
import ctypes, os, select, socket, struct, threading
S = socket.SOL_SOCKET
# A port is free when its socket is closed, whatever it was.
for n in range(40):
    s = socket.socket(); s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    if n % 2: s.listen()
    s.close()
    c = socket.socket()
    try: c.connect(('127.0.0.1', port)); assert False, 'somebody listens'
    except ConnectionRefusedError: pass
    s = socket.socket(); s.bind(('127.0.0.1', port)); s.listen(); s.close(); c.close()
    u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('127.0.0.1', 4000)); u.close()
# A datagram that is looked at stays, whoever waited for it.
for call in (lambda s, f: s.recvmsg(99, 0, f)[0], lambda s, f: s.recvfrom(99, f)[0], lambda s, f: s.recv(99, f)):
    a = socket.socket(type=socket.SOCK_DGRAM); a.bind(('127.0.0.1', 0))
    b = socket.socket(type=socket.SOCK_DGRAM)
    threading.Timer(0.05, lambda: b.sendto(b'x' * 5, a.getsockname())).start()
    assert call(a, socket.MSG_PEEK) == call(a, socket.MSG_PEEK) == call(a, 0) == b'x' * 5
# What came with it is told, what is said of it is done; IPv4 and IPv6, with one remote and with all.
for family, host, level, ask, told in (
    (socket.AF_INET6, '::1', socket.IPPROTO_IPV6, (51, 66, 49), {52: 9, 67: 12, 50: None}),
    (socket.AF_INET, '127.0.0.1', socket.IPPROTO_IP, (12, 13, 8), {2: 9, 1: 12, 8: None}),
):
    for connected in (False, True):
        a = socket.socket(family, socket.SOCK_DGRAM); a.bind((host, 0))
        b = socket.socket(family, socket.SOCK_DGRAM); b.bind((host, 0))
        if connected: a.connect(b.getsockname())
        for option in ask: a.setsockopt(level, option, 1); assert a.getsockopt(level, option) == 1
        hops, tos = (52, 67) if family == socket.AF_INET6 else (2, 1)
        control = [(level, hops, struct.pack('i', 9)), (level, tos, struct.pack('i', 12))]
        for n in range(3): b.sendmsg([b'%d' % n], control, 0, a.getsockname())
        for n in range(3):
            data, came, flags, at = a.recvmsg(9, 200)
            assert (data, flags, at[:2]) == (b'%d' % n, 0, b.getsockname()[:2]), (data, flags, at)
            came = {name: struct.unpack('i' if len(v) == 4 else 'B', v)[0] if len(v) in (1, 4) else None for _, name, v in came}
            assert came == told, came
        b.sendmsg([b'cut'], control, 0, a.getsockname())
        assert a.recvmsg(9, 18)[2] & socket.MSG_CTRUNC
        b.setsockopt(level, 16 if family == socket.AF_INET6 else 2, 7)
        b.sendto(b'own', a.getsockname())
        assert (level, hops, struct.pack('i', 7)) in a.recvmsg(9, 200)[1]
# A remote that is taken back takes the address along that was chosen for it; getaddrinfo(3) relies on that.
libc = ctypes.CDLL(None)
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
def to(family, rest): return libc.connect(u.fileno(), family.to_bytes(2, 'little') + rest, 2 + len(rest))
for _ in range(2):
    assert to(socket.AF_INET6, (80).to_bytes(2, 'big') + bytes(4) + socket.inet_pton(10, '::1') + bytes(4)) == 0
    assert u.getsockname()[0] == '::1'
    assert to(socket.AF_UNSPEC, bytes(14)) == 0 and u.getsockname()[0] == '::'
    assert to(socket.AF_INET, bytes(14)) == 0 and u.getsockname()[0] == '::ffff:127.0.0.1'
    assert to(socket.AF_UNSPEC, bytes(14)) == 0
assert len(socket.getaddrinfo(None, 0, flags=socket.AI_PASSIVE)) >= 2
# What is not connected has nothing to receive, and takes nothing.
import ssl
n = socket.socket()
for call in (lambda: n.recv(1), lambda: n.recvfrom(9), lambda: n.recvmsg(9)):
    try: call(); assert False
    except OSError as e: assert e.errno == 107, e
try: n.sendmsg([b'x'], [], socket.MSG_NOSIGNAL); assert False
except BrokenPipeError: pass
ssl.create_default_context().wrap_socket(n, server_hostname='name').close()
# An urgent octet comes where it stands.
l = socket.socket(); l.setsockopt(S, socket.SO_OOBINLINE, 1); l.bind(("127.0.0.1", 0)); l.listen()
c = socket.create_connection(l.getsockname()); s, _ = l.accept()
c.sendall(b'ab'); c.send(b'c', socket.MSG_OOB); c.sendall(b'd'); c.shutdown(socket.SHUT_WR)
assert s.makefile('rb').read() == b'abcd'
print('held')
"#;
        assert_eq!(python(&group, script), "held\n");
    });
}

/// Handed over is what the server says that it was. The interpreter itself is run: what stands for it in PATH
/// may be a script that starts any number of programs.
fn handed_over(group: &Group, way: &str, script: &str) -> usize {
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable, end='')"]).output();
    let interpreter = String::from_utf8(asked.expect("python3 is installed").stdout).expect("a path");
    let mut exec = group.command("netexec");
    let output = exec.args([way, "--verbose", "--", &interpreter, "-c", script]).output().expect("built");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && output.stdout == b"held\n", "{way}: {}\n{said}", output.status);
    said.lines().filter(|line| line.starts_with("netexec: ") && line.contains(" of ")).count()
}

#[test]
fn calls_that_are_the_kernels_go_there_at_once() {
    private_net::test("calls_that_are_the_kernels_go_there_at_once", || {
        let group = started();
        let script = r#"
import os, socket, sys
S = socket.SOL_SOCKET
a, b = socket.socketpair()
pairs = []
for host in '127.0.0.1', '::1':
    l = socket.create_server((host, 0), family=socket.AF_INET6 if ':' in host else socket.AF_INET)
    c = socket.create_connection(l.getsockname()[:2]); s, at = l.accept()
    assert at == c.getsockname() and c.getpeername() == l.getsockname(), at
    pairs.append((c, s))
for n in range(50):
    a.sendmsg([b'x']); assert b.recvmsg(9)[0] == b'x'
    a.send(b'y'); assert b.recv(1) == b'y'
    a.setsockopt(S, socket.SO_PASSCRED, 1); assert a.getsockopt(S, socket.SO_PASSCRED) == 1
    for c, s in pairs:
        c.sendmsg([b'z']); assert s.recvmsg(9)[0] == b'z'
        assert s.getpeername() == c.getsockname() and c.getpeername() == s.getsockname()
    os.close(os.open('/dev/null', os.O_RDONLY))
port = '%04X' % l.getsockname()[1]
assert port in open('/proc/net/tcp6').read() and port in open('/proc/self/net/tcp6').read()
# What a socket is stays true when its number is another one's, and in a child.
fd = s.fileno(); s.detach(); os.dup2(a.fileno(), fd)
other = socket.socket(fileno=fd); assert other.family == socket.AF_UNIX and other.getpeername() == ''
if os.fork() == 0: os._exit(7 if c.getpeername()[1] == c.getpeername()[1] > 0 else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
for path in b'', b'/nonexistent', b'/proc', b'/proc/self/nothing':
    try: os.close(os.open(path, os.O_RDONLY)); assert path == b'/proc'
    except FileNotFoundError: pass
print('held')
"#;
        let (all, left) =
            (handed_over(&group, "--seccomp", script), handed_over(&group, "--preload", script));
        // Of the connections alone there are ten calls a turn.
        assert!(left + 700 <= all, "{left} of {all} calls were handed over");
    });
}

#[test]
fn calls_may_be_cancelled_and_interrupted() {
    private_net::test("calls_may_be_cancelled_and_interrupted", || {
        let group = started();
        let (source, program) = (group.dir().join("threads.c"), group.dir().join("threads"));
        std::fs::write(&source, include_str!("programs/threads.c")).expect("written");
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]);
        assert!(cc.arg(&program).arg(&source).status().expect("a compiler").success());
        assert_eq!(printed(&group, &[program.to_str().expect("a plain name")]), "held\n");
        assert_eq!(Command::new(&program).output().expect("built").stdout, b"held\n", "on the kernel");
    });
}

/// bind(2) takes the port, listen(2) opens it: as on the kernel, where the same script runs first; and over the
/// death of whoever keeps it.
#[test]
fn a_port_is_taken_by_bind_and_opened_by_listen() {
    private_net::test("a_port_is_taken_by_bind_and_opened_by_listen", || {
        let group = started();
        let script = r#"
import errno, socket
REUSE = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
def errno_of(call, *arguments):
    try: call(*arguments)
    except OSError as e: return e.errno
tcp = socket.socket
a = tcp(); a.bind(('127.0.0.1', 0)); at = a.getsockname(); assert at[1]
assert errno_of(a.bind, ('127.0.0.1', 0)) == errno.EINVAL
for host in ('127.0.0.1', ''): assert errno_of(tcp().bind, (host, at[1])) == errno.EADDRINUSE
assert errno_of(tcp().bind, ('192.0.2.1', 0)) == errno.EADDRNOTAVAIL
assert tcp().connect_ex(at) == errno.ECONNREFUSED, 'nobody listens'
assert errno_of(a.accept) == errno.EINVAL
print('taken', flush=True); input()
assert errno_of(tcp().bind, at) == errno.EADDRINUSE
assert tcp().connect_ex(at) == errno.ECONNREFUSED, 'nobody listens still'
a.listen(2); c = tcp(); c.connect(at); d, _ = a.accept(); a.listen(3)
b = tcp(); b.setsockopt(*REUSE); assert errno_of(b.bind, at) == errno.EADDRINUSE, 'somebody listens'
# A connection leaves from the port that was asked for, and has it alone.
e = tcp(); e.bind(('127.0.0.1', 0)); mine = e.getsockname(); e.connect(at)
assert e.getsockname() == mine and a.accept()[1] == mine
# listen keeps the port that bind chose.
g = tcp(); g.bind(('127.0.0.1', 0)); own = g.getsockname(); g.listen(); assert g.getsockname() == own
# Ports that are shared by flow.
shared = [tcp(), tcp()]
for s in shared: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
shared[0].bind(('127.0.0.1', 0))
shared[1].bind(shared[0].getsockname()); shared[1].listen()
for _ in range(8): tcp().connect(shared[0].getsockname())
# What is closed is free at once.
for _ in range(20):
    s = tcp(); s.setsockopt(*REUSE); s.bind(('127.0.0.1', 7099)); s.listen(); s.close()
print('held')
"#;
        let mut kernel = Command::new("python3");
        kernel.args(["-c", script]);
        for (mut command, on_the_stack) in
            [(kernel, false), (on_the_stack(&group, &["python3", "-c", script]), true)]
        {
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut running = Running(command.spawn().expect("python3 and netexec are there"));
            let mut said = BufReader::new(running.0.stdout.take().expect("piped")).lines();
            let mut next = || said.next().map(|line| line.expect("text"));
            assert_eq!(next().as_deref(), Some("taken"), "on the stack: {on_the_stack}");
            if on_the_stack {
                for role in [Role::Netd, Role::Sockd] {
                    assert!(wait_until(PATIENCE, || group.whole()), "{:?}", group.processes());
                    let row = group.find(role).expect("the group is whole");
                    Group::signal(&row, rustix::process::Signal::KILL);
                }
                for server in servers(&group, "netexec-server") {
                    rustix::process::kill_process(server, rustix::process::Signal::KILL).expect("it runs");
                }
            }
            running.0.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
            assert_eq!(next().as_deref(), Some("held"), "on the stack: {on_the_stack}");
        }
    });
}

#[test]
fn a_group_that_has_gone_is_a_network_that_is_down() {
    private_net::test("a_group_that_has_gone_is_a_network_that_is_down", || {
        let group = started();
        let script = r#"
import errno, socket
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(); at = l.getsockname()
c = socket.create_connection(at); a, _ = l.accept()
print('ready', flush=True); input()
try: assert c.recv(9) == b''
except ConnectionResetError: pass
try: socket.create_connection(at); assert False
except OSError as e: assert e.errno == errno.ENETDOWN, e
open('/etc/passwd').close()
print('held')
"#;
        let mut command = on_the_stack(&group, &["python3", "-c", script]);
        let mut running =
            Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("netexec is built"));
        let mut said = BufReader::new(running.0.stdout.take().expect("piped")).lines();
        let mut next = || said.next().expect("a line").expect("text");
        assert_eq!(next(), "ready");
        let down = group.command("supervisor").args(["down", "--name", group.name()]).status();
        assert!(down.expect("supervisor is built").success());
        running.0.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
        assert_eq!(next(), "held");
    });
}

#[test]
fn nothing_is_left_behind() {
    private_net::test("nothing_is_left_behind", || {
        let group = started();
        let port = kernel_server();
        let script = format!(
            "import socket\nfor i in range(200):\n  s=socket.create_connection(('{KERNEL}',{port}));s.send(b'GET / HTTP/1.0\\r\\n\\r\\n');s.recv(5);s.close()\nprint('done')"
        );
        assert_eq!(python(&group, &script), "done\n");
        let sockets = || {
            let mut netctl = group.command("netctl");
            let output = netctl.args(["-j", "ss"]).output().expect("netctl is built");
            String::from_utf8_lossy(&output.stdout).matches("\"proto\"").count()
        };
        assert!(wait_until(PATIENCE, || sockets() == 0), "{} sockets are left", sockets());
        let servers = || servers(&group, "netexec-server").len() + servers(&group, "netexec-holder").len();
        assert!(wait_until(PATIENCE, || servers() == 0), "{} servers are left", servers());
    });
}

/// What programs ask a kernel for by netlink, sock_diag and ioctl is the stack's host.
#[test]
fn programs_see_the_host_of_the_stack() {
    private_net::test("programs_see_the_host_of_the_stack", || {
        let group = started();
        let ip = |words: &[&str]| printed(&group, words);
        let addresses = ip(&["ip", "-j", "addr"]);
        assert!(addresses.contains(STACK) && addresses.contains("127.0.0.1"), "{addresses}");
        assert!(!addresses.contains("axl14"), "the kernel's device: {addresses}");
        assert!(ip(&["ip", "-4", "-o", "addr", "show"]).contains(STACK));
        let routes = ip(&["ip", "-4", "route"]);
        assert!(routes.contains("10.85.0.0/24") && routes.contains(STACK), "{routes}");
        assert!(ip(&["ip", "-j", "link"]).contains("LOOPBACK"));
        let refused = on_the_stack(&group, &["ip", "link", "set", "lo", "down"]).output().expect("built");
        assert!(!refused.status.success(), "a change");
        let devices = ip(&["cat", "/proc/net/dev"]);
        assert!(devices.lines().count() == 4 && devices.contains("    lo:"), "{devices}");
        assert!(!devices.contains("axl14"), "the kernel's device: {devices}");
        let script = format!(
            r#"
import array, fcntl, socket, struct, subprocess
names = dict((n, i) for i, n in socket.if_nameindex()); assert names['lo'] == 1 and len(names) == 2, names
name = [n for n in names if n != 'lo'][0]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask = lambda what: fcntl.ioctl(s, what, struct.pack('256s', name.encode()))[20:24]
assert socket.inet_ntoa(ask(0x8915)) == '{STACK}' and socket.inet_ntoa(ask(0x891b)) == '255.255.255.0'
room = array.array('B', bytes(400)); conf = struct.pack('iL', 400, room.buffer_info()[0])
size = struct.unpack('iL', fcntl.ioctl(s, 0x8912, conf))[0]; assert size == 80, size
l = socket.socket(); l.bind(('{STACK}', 7001)); l.listen(5); c = socket.create_connection(('{STACK}', 7001))
out = subprocess.run(['ss', '-tn'], capture_output=True, text=True); assert out.returncode == 0, out
assert '{STACK}:7001' in out.stdout and 'ESTAB' in out.stdout, out
assert '7001' in subprocess.run(['ss', '-tln'], capture_output=True, text=True).stdout
# /proc/net: its lines are the stack's, with the inodes of this program's sockets.
import os
def hexed(host, port): return '%08X:%04X' % (struct.unpack('=I', socket.inet_aton(host))[0], port)
lines = [line.split() for line in open('/proc/self/net/tcp').readlines()[1:]]
found = {{(line[1], line[2], line[3]): int(line[9]) for line in lines}}
inode = lambda s: os.fstat(s.fileno()).st_ino
assert found[hexed('{STACK}', 7001), hexed('0.0.0.0', 0), '0A'] == inode(l), lines
at = hexed(*c.getsockname()), hexed(*c.getpeername())
assert found[at[0], at[1], '01'] == inode(c), lines
assert found[at[1], at[0], '01'] == 0, 'nobody has accepted it'
# Queues: what nobody has read, because nobody has accepted it. ss has it by sock_diag.
import time
c.sendall(bytes(1000))
def queued(): return [line.split()[4] for line in open('/proc/net/tcp') if line.split()[1:3] == [at[1], at[0]]]
for _ in range(3000):
    if queued() == ['00000000:000003E8']: break
    time.sleep(.01)
assert queued() == ['00000000:000003E8'], queued()
assert '1000' in subprocess.run(['ss', '-tn'], capture_output=True, text=True).stdout
bound = socket.socket(); bound.bind(('127.0.0.1', 0))
assert not any(':%04X ' % bound.getsockname()[1] in line for line in open('/proc/net/tcp')), 'it does not listen'
s.bind(('{STACK}', 7002)); v6 = socket.socket(socket.AF_INET6); v6.bind(('::', 7003)); v6.listen()
assert any(line.split()[9:10] == [str(inode(s))] for line in open(f'/proc/{{os.getpid()}}/net/udp'))
assert any(line.split()[9:10] == [str(inode(v6))] for line in open('/proc/net/tcp6'))
assert any(line.split()[1:3] == [hexed('10.85.0.0', 0)[:8], '00000000'] for line in open('/proc/net/route'))
assert [line.split()[5] for line in open('/proc/net/if_inet6')][0] == 'lo'
assert open('/proc/net/arp').read().startswith('IP address') and open('/proc/net/raw').read().count('\n') == 1
assert os.read(os.open('/proc/net/tcp', os.O_RDONLY), 4) == b'  sl' and os.path.exists('/proc/net/unix')
try: open('/proc/net/none'); assert False
except FileNotFoundError: pass
print('held')
"#
        );
        assert_eq!(python(&group, &script), "held\n");
    });
}

/// Unambiguous beginnings of netctl's verbs, ss's letters and filters, and counters by HTTP.
#[test]
fn netctl_speaks_as_iproute2_does_and_serves_its_counters() {
    private_net::test("netctl_speaks_as_iproute2_does_and_serves_its_counters", || {
        let group = started();
        let said = |words: &[&str]| {
            let output = group.command("netctl").args(words).output().expect("netctl is built");
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        assert_eq!(said(&["-j", "a", "s"]), said(&["-j", "addr", "show"]));
        assert_eq!(said(&["ne"]), said(&["neigh", "show"]));
        assert_eq!(said(&["-o", "-n", "addr"]), said(&["addr", "show"]));
        assert!(said(&["-s", "link"]).1.contains(said(&["link", "-s"]).1.lines().next().expect("a head")));
        assert_eq!(said(&["st"]).0, Some(2), "status or stats");
        let top = said(&["top", "-n", "2", "--delay", "0.2"]);
        assert_eq!((top.0, top.1.matches("connections").count()), (Some(0), 2), "{}", top.1);
        assert!(top.1.contains("sockd") && top.1.contains("A SECOND"), "{}", top.1);
        let json = said(&["-j", "top", "-n", "1", "-d", "0"]).1;
        assert!(json.contains("\"cpu\":") && json.ends_with("]}\n"), "{json}");
        let mut monitor = group.command("netctl");
        monitor.args(["monitor", "addr", "process"]).stdout(Stdio::piped());
        let mut monitor = Running(monitor.spawn().expect("netctl is built"));
        let mut lines = BufReader::new(monitor.0.stdout.take().expect("piped")).lines();
        // What changes before it has begun to look is not told: so it changes until something is.
        let told = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            let seen = told.clone();
            let said = &said;
            scope.spawn(move || {
                for what in ["add", "del"].iter().cycle() {
                    if seen.load(Ordering::Relaxed) {
                        break;
                    }
                    assert_eq!(said(&["addr", what, "10.85.9.9/32"]).0, Some(0));
                    std::thread::sleep(Duration::from_millis(300));
                }
            });
            let mut next = || lines.next().expect("a line").expect("text");
            let line = next();
            assert!(line.starts_with("[addr]") && line.contains("local 10.85.9.9"), "{line}");
            let row = group.find(Role::Nicd).expect("it runs");
            Group::signal(&row, rustix::process::Signal::KILL);
            while !next().starts_with("[process]") {}
            told.store(true, Ordering::Relaxed);
        });
        let held = Session::at(&group.dir().join(group.name()).join("api.sock"), Default::default());
        let session = held.expect("a session");
        let address = format!("{STACK}:7070");
        let _listener = libnetclient::TcpListener::bind_in(&session, address.as_str()).expect("a port");
        let _datagrams = libnetclient::UdpSocket::bind_in(&session, address.as_str()).expect("a port");
        let shown = |words: &[&str]| {
            let (code, text) = said(words);
            assert_eq!(code, Some(0), "{words:?}");
            (text.matches("\"tcp\"").count(), text.matches("\"udp\"").count())
        };
        assert_eq!(shown(&["-j", "ss"]), (1, 1));
        assert_eq!(shown(&["-j", "ss", "-tln"]), (1, 0));
        assert_eq!(shown(&["-j", "ss", "-u"]), (0, 1));
        assert_eq!(shown(&["-j", "ss", "state", "established"]), (0, 0));
        assert_eq!(shown(&["-j", "ss", "sport", "=", ":7070"]), (1, 1));
        assert_eq!(shown(&["-j", "ss", "sport", "=", "7071"]), (0, 0));
        assert_eq!(said(&["ss", "colour", "red"]).0, Some(2));
        let mut netctl = group.command("netctl");
        netctl.args(["metrics", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut serving = Running(netctl.spawn().expect("netctl is built"));
        let mut line = String::new();
        BufReader::new(serving.0.stdout.take().expect("piped")).read_line(&mut line).expect("its address");
        let to = line.trim().trim_start_matches("http://").trim_end_matches("/metrics").to_owned();
        let get = |path: &str| {
            let mut stream = TcpStream::connect(&to).expect("it listens");
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("an answer");
            text
        };
        let text = get("/metrics");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.contains("axolotl_process_in_service{role=\"netd\",index=\"0\"} 1"), "{text}");
        assert!(text.contains("axolotl_sockets{proto=\"tcp\",state=\"LISTEN\"} 1"), "{text}");
        assert!(!text.contains("7070"), "nothing of one socket");
        assert!(get("/else").starts_with("HTTP/1.1 404"));
    });
}
