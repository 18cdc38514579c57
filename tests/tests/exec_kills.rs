//! SIGKILL of netexec's server in the middle of what unmodified programs transfer, alone and beside kills
//! of the daemons: no byte is lost or doubled, no connection lost, no call answered wrongly.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;
use tests::process::exec::{Running, ServerKiller, on_the_stack, printed, servers};
use tests::process::group::{Group, Role, Spec};
use tests::process::{fresh_seed, private_net, wait_until};
use tests::remote::counter;

const STACK: &str = "10.86.0.2";
const KERNEL: &str = "10.86.0.1";
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Many connections of one program, each with bytes both ways at once, every byte compared.
fn echoes(threads: u32, rounds: u32, most: u32, port: u16, seed: u64) -> String {
    format!(
        r#"
import random, select, socket, threading
def one(r):
    want = r.randbytes(r.randrange(1, {most})); got = bytearray()
    how = r.randrange(3)
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if how == 0:
        s.setblocking(False)
        try: s.connect(('{KERNEL}', {port}))
        except BlockingIOError: pass
        assert select.select([], [s], [], 20)[1]; e = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR); assert e == 0, e
        s.setblocking(True)
    else: s.connect(('{KERNEL}', {port}))
    s.settimeout(20)
    def read():
        while True:
            b = s.recv(1 + r.randrange(100000) if how == 1 else 65536)
            if not b: return
            got.extend(b)
    t = threading.Thread(target=read); t.start()
    at = 0
    while at < len(want):
        n = r.randrange(1, 70000); s.sendall(want[at:at + n]); at += n
    s.shutdown(socket.SHUT_WR); t.join(20)
    assert bytes(got) == want, (len(got), len(want), next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), None))
    s.close()
failed = []
def many(n):
    r = random.Random({seed} + n)
    try:
        for i in range({rounds}): one(r)
    except BaseException as e: failed.append((n, i, repr(e)))
ts = [threading.Thread(target=many, args=(n,)) for n in range({threads})]
[t.start() for t in ts]; [t.join() for t in ts]
assert not failed, failed
print('held')
"#
    )
}

#[test]
fn kills_of_the_server_lose_and_double_no_byte_and_no_connection() {
    private_net::test("kills_of_the_server_lose_and_double_no_byte_and_no_connection", || {
        let group = started();
        let seed = seed();
        let script = echoes(8, 60, 1_000_000, kernel_echo(), seed);
        let killer = ServerKiller::start(&group, Duration::from_millis(25), seed);
        assert_eq!(printed(&group, &["python3", "-c", &script]), "held\n");
        let killed = killer.killed();
        println!("{killed} servers died");
        assert!(killed >= 20, "only {killed} died meanwhile");
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
        let script = echoes(6, 40, 1_000_000, kernel_echo(), seed);
        let killer = ServerKiller::start(&group, Duration::from_millis(60), seed);
        let mut command = on_the_stack(&group, &["python3", "-c", &script]);
        let mut running = Running(command.stdout(Stdio::piped()).spawn().expect("netexec is built"));
        let turn = [Role::Netd, Role::Nicd, Role::Sockd, Role::Supervisor];
        let mut daemons = 0;
        while running.0.try_wait().expect("our child").is_none() {
            if group.whole() && daemons < 24 {
                let row = group.find(turn[daemons % turn.len()]).expect("the group is whole");
                Group::signal(&row, rustix::process::Signal::KILL);
                daemons += 1;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut text = String::new();
        running.0.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
        assert_eq!(text, "held\n");
        println!("{} servers and {daemons} daemons died", killer.killed());
        assert!(killer.killed() >= 20 && daemons >= 8);
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
        let client = move |n: u64| -> std::io::Result<u64> {
            let mut wrong = 0;
            for round in 0..150 {
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
        let clients: Vec<_> = (0..6).map(|n| std::thread::spawn(move || client(n))).collect();
        for client in clients {
            assert_eq!(client.join().expect("a client").expect("every connection stands"), 0, "bytes differ");
        }
        println!("{} servers died", killer.killed());
        assert!(killer.killed() >= 20, "only {} died meanwhile", killer.killed());
    });
}
