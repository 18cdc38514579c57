//! SIGKILL of netexec's server in the middle of what unmodified programs transfer, alone and beside kills
//! of the daemons: no byte is lost or doubled, no connection lost, no call answered wrongly.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::process::exec::{Running, ServerKiller, on_the_stack, servers};
use tests::process::group::{Group, Role, Spec};
use tests::process::{fresh_seed, private_net, wait_until};
use tests::remote::counter;

const STACK: &str = "10.86.0.2";
const KERNEL: &str = "10.86.0.1";
/// Longer than any machine takes for a step, however busy it is.
const PATIENCE: Duration = Duration::from_secs(120);
/// Servers that die in every test at least, however fast the machine is.
const DEATHS: u32 = 20;

fn started() -> Group {
    let spec = Spec {
        nic: "tap:axl15".into(),
        addr: format!("{STACK}/24"),
        tap_addr: Some(format!("{KERNEL}/24")),
        more: Vec::new(),
    };
    Group::up(&spec).expect("a group")
}

fn seed() -> u64 {
    let seed = fresh_seed();
    println!("seed {seed}");
    seed
}

/// Gives back what it gets, by the kernel's sockets.
fn kernel_echo() -> u16 {
    let listener = TcpListener::bind((KERNEL, 0)).expect("the TAP has its address");
    let port = listener.local_addr().expect("bound").port();
    let echo = |mut stream: TcpStream| -> std::io::Result<()> {
        let mut chunk = vec![0; 1 << 16];
        loop {
            match stream.read(&mut chunk)? {
                0 => return stream.shutdown(Shutdown::Write),
                len => stream.write_all(&chunk[..len])?,
            }
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // What goes wrong is seen at the other end.
            std::thread::spawn(move || echo(stream).ok());
        }
    });
    port
}

/// Many connections of one program, each with bytes both ways at once, every byte compared; there are
/// connections until the file `enough` is there.
fn echoes(threads: u32, rounds: u32, port: u16, seed: u64, enough: &Path) -> String {
    let (patience, enough) = (PATIENCE.as_secs(), enough.display());
    format!(
        r#"
import os, random, select, socket, threading
def one(r):
    want = r.randbytes(r.randrange(1, 1000000)); got = bytearray()
    how = r.randrange(3)
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if how == 0:
        s.setblocking(False)
        try: s.connect(('{KERNEL}', {port}))
        except BlockingIOError: pass
        assert select.select([], [s], [], {patience})[1]; e = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR); assert e == 0, e
        s.setblocking(True)
    else: s.connect(('{KERNEL}', {port}))
    s.settimeout({patience})
    def read():
        while True:
            b = s.recv(1 + r.randrange(100000) if how == 1 else 65536)
            if not b: return
            got.extend(b)
    t = threading.Thread(target=read); t.start()
    at = 0
    while at < len(want):
        n = r.randrange(1, 70000); s.sendall(want[at:at + n]); at += n
    s.shutdown(socket.SHUT_WR); t.join({patience})
    assert bytes(got) == want, (len(got), len(want), next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), None))
    s.close()
failed = []
def many(n):
    r = random.Random({seed} + n); i = 0
    try:
        while i < {rounds} or not (failed or os.path.exists('{enough}')): one(r); i += 1
    except BaseException as e: failed.append((n, i, repr(e)))
ts = [threading.Thread(target=many, args=(n,)) for n in range({threads})]
[t.start() for t in ts]; [t.join() for t in ts]
assert not failed, failed
print('held')
"#
    )
}

/// Runs that program until `strike`, asked again and again, says that it was enough.
fn echo_until(group: &Group, threads: u32, rounds: u32, seed: u64, mut strike: impl FnMut() -> bool) {
    let enough = group.dir().join("enough");
    let script = echoes(threads, rounds, kernel_echo(), seed, &enough);
    let mut command = on_the_stack(group, &["python3", "-c", &script]);
    let mut running = Running(command.stdout(Stdio::piped()).spawn().expect("netexec is built"));
    while running.0.try_wait().expect("our child").is_none() {
        if strike() {
            std::fs::write(&enough, "").expect("room");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut text = String::new();
    running.0.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    assert_eq!(text, "held\n");
}

#[test]
fn kills_of_the_server_lose_and_double_no_byte_and_no_connection() {
    private_net::test("kills_of_the_server_lose_and_double_no_byte_and_no_connection", || {
        let group = started();
        let seed = seed();
        let killer = ServerKiller::start(&group, Duration::from_millis(25), seed);
        echo_until(&group, 8, 60, seed, || killer.killed() >= DEATHS);
        println!("{} servers died", killer.killed());
        drop(killer);
        let all = || servers(&group, "netexec-server").len() + servers(&group, "netexec-holder").len();
        assert!(wait_until(PATIENCE, || all() == 0), "{} are left", all());
    });
}

#[test]
fn kills_of_the_server_beside_kills_of_the_daemons() {
    private_net::test("kills_of_the_server_beside_kills_of_the_daemons", || {
        let group = started();
        let seed = seed();
        let killer = ServerKiller::start(&group, Duration::from_millis(60), seed);
        let turn = [Role::Netd, Role::Nicd, Role::Sockd, Role::Supervisor];
        let (mut daemons, mut last) = (0, Instant::now());
        echo_until(&group, 6, 40, seed, || {
            // Each has some time to be of use, or nothing would ever move.
            if daemons < 24 && last.elapsed() > Duration::from_millis(100) && group.whole() {
                let row = group.find(turn[daemons % turn.len()]).expect("the group is whole");
                Group::signal(&row, rustix::process::Signal::KILL);
                (daemons, last) = (daemons + 1, Instant::now());
            }
            killer.killed() >= DEATHS && daemons >= 8
        });
        println!("{} servers and {daemons} daemons died", killer.killed());
    });
}

/// A server on the stack, whose accepts are struck too: each client of the kernel gets its own bytes.
#[test]
fn kills_of_the_server_lose_no_accepted_connection() {
    private_net::test("kills_of_the_server_lose_no_accepted_connection", || {
        let group = started();
        let seed = seed();
        let script = format!(
            r#"
import os, socket, threading
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('{STACK}', 7000)); s.listen(64)
def echo(c):
    while True:
        b = c.recv(65536)
        if not b: break
        c.sendall(b)
    c.close()
os.fork()
while True:
    c, a = s.accept(); assert c.getpeername() == a
    threading.Thread(target=echo, args=(c,), daemon=True).start()
"#
        );
        let _server = Running(on_the_stack(&group, &["python3", "-c", &script]).spawn().expect("built"));
        let to = format!("{STACK}:7000").parse().expect("an address");
        let connect = move || TcpStream::connect_timeout(&to, PATIENCE);
        assert!(wait_until(PATIENCE, || connect().is_ok()), "it does not listen");
        let killer = ServerKiller::start(&group, Duration::from_millis(25), seed);
        let enough = Arc::new(AtomicBool::new(false));
        let over = enough.clone();
        let client = move |n: u64| -> std::io::Result<u64> {
            let mut wrong = 0;
            for round in (0..).take_while(|round| *round < 150 || !over.load(Ordering::Relaxed)) {
                let stream = seed ^ (n << 32 | round);
                let mut bytes = vec![0; 1 + (stream % 600_000) as usize];
                counter::fill(stream, 0, &mut bytes);
                let mut socket = connect()?;
                socket.set_read_timeout(Some(PATIENCE))?;
                let mut writer = socket.try_clone()?;
                let sent = bytes.clone();
                let writing = std::thread::spawn(move || {
                    writer.write_all(&sent).and_then(|()| writer.shutdown(Shutdown::Write))
                });
                let mut got = Vec::new();
                socket.read_to_end(&mut got)?;
                writing.join().expect("a writer")?;
                wrong += u64::from(got != bytes);
            }
            Ok(wrong)
        };
        let client = |n| {
            let client = client.clone();
            std::thread::spawn(move || client(n))
        };
        let clients: Vec<_> = (0..6).map(client).collect();
        assert!(wait_until(PATIENCE, || killer.killed() >= DEATHS), "only {} died", killer.killed());
        enough.store(true, Ordering::Relaxed);
        for client in clients {
            assert_eq!(client.join().expect("a client").expect("every connection stands"), 0, "bytes differ");
        }
        println!("{} servers died", killer.killed());
    });
}
