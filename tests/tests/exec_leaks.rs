//! Connections by the thousand through an unmodified program, in both directions, ended in every way: nothing
//! of them is left, neither descriptors nor records, memory or arena pages, in whichever process.
//!
//! Ten thousand, a hundred thousand with `AXOLOTL_EVERY=1`.

use rustix::process::Pid;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;
use tests::process::exec::{Running, on_the_stack, servers};
use tests::process::group::{Group, Role, Spec};
use tests::process::{private_net, wait_until};

const STACK: &str = "10.96.0.2";
const KERNEL: &str = "10.96.0.1";
const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(300);
/// Connections of each direction before anything is counted.
const FIRST: usize = 1000;
/// What a process, or all shared memory, may differ by: an allocator keeps some. A byte of each connection that is
/// left, and its record or page, is far more.
const SLACK: u64 = 1 << 20;

/// A program that echoes to whoever connects, and connects as often as it is told. It never ends a connection
/// first: that one would stay in TIME-WAIT for a minute.
const PROGRAM: &str = r#"
import socket, sys, threading
def drain(s, answer):
    try:
        while True:
            data = s.recv(4096)
            if not data: break
            if answer: s.sendall(data)
    except (ConnectionResetError, BrokenPipeError): pass
    s.close()
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], int(sys.argv[2]))); listener.listen(64)
def serve():
    while True: drain(listener.accept()[0], True)
threading.Thread(target=serve, daemon=True).start()
print('ready', flush=True)
for line in sys.stdin:
    for n in range(int(line)):
        s = socket.create_connection((sys.argv[3], int(sys.argv[4])))
        s.sendall(b'%064d' % n)
        drain(s, False)
    print('done', flush=True)
"#;

/// Ends a connection so that none of its ports stays taken: by a reset, or as the side that ends first.
fn end(stream: TcpStream, number: usize) {
    if number.is_multiple_of(2) {
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("an option");
    } else {
        let _ = stream.shutdown(Shutdown::Write);
        // The program ends it too: until then the stack holds it.
        let _ = std::io::copy(&mut &stream, &mut std::io::sink());
    }
}

fn heard(stream: &mut TcpStream) {
    let mut room = [0; 64];
    match stream.read_exact(&mut room) {
        Ok(()) => {}
        Err(e) => assert!(matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{e}"),
    }
}

/// The kernel's server, for ever.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            heard(&mut stream);
            stream.write_all(&[b'x'; 64]).expect("a connection");
            end(stream, number);
        }
    });
}

fn call(count: usize) {
    let to: SocketAddr = format!("{STACK}:{PORT}").parse().expect("an address");
    for number in 0..count {
        let mut stream = TcpStream::connect(to).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(&[b'y'; 64]).expect("a connection");
        heard(&mut stream);
        end(stream, number);
    }
}

/// What is held at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    /// Descriptors of each process.
    descriptors: BTreeMap<String, usize>,
    /// Bytes of its own of each process.
    private: BTreeMap<String, u64>,
    /// Bytes of all memory that the group's processes share.
    shared: u64,
    /// Records of sockets.
    sockets: usize,
}

fn descriptors(pid: Pid) -> Vec<std::path::PathBuf> {
    let found = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("ours");
    found.flatten().map(|entry| entry.path()).collect()
}

fn private_bytes(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("ours");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

impl Held {
    fn now(group: &Group) -> Held {
        let mut processes: Vec<(String, Pid)> = Vec::new();
        for row in group.processes() {
            let pid = Pid::from_raw(row.pid.cast_signed()).expect("it runs");
            processes.push((format!("{} {}", row.role, row.index), pid));
        }
        for comm in ["netexec-server", "netexec-holder"] {
            let pids = servers(group, comm);
            processes.extend(pids.into_iter().enumerate().map(|(n, pid)| (format!("{comm} {n}"), pid)));
        }
        let supervisor = group.find(Role::Supervisor).expect("it runs").pid;
        let vault = descriptors(Pid::from_raw(supervisor.cast_signed()).expect("it runs"));
        let is_shared = |path: &std::path::PathBuf| {
            std::fs::read_link(path).is_ok_and(|name| name.to_string_lossy().starts_with("/memfd:"))
        };
        let blocks = vault.into_iter().filter(is_shared).filter_map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.blocks() * 512))
        });
        Held {
            descriptors: processes
                .iter()
                .map(|(name, pid)| (name.clone(), descriptors(*pid).len()))
                .collect(),
            private: processes.iter().map(|(name, pid)| (name.clone(), private_bytes(*pid))).collect(),
            // Several descriptors of one region are one.
            shared: blocks.collect::<BTreeMap<_, _>>().values().sum(),
            sockets: group.access().sockets().len(),
        }
    }

    /// Whether nothing more is held than before.
    fn is_no_more_than(&self, before: &Held) -> bool {
        let all_private = self
            .private
            .iter()
            .all(|(name, bytes)| before.private.get(name).is_some_and(|before| *bytes <= before + SLACK));
        self.descriptors == before.descriptors
            && self.sockets <= before.sockets
            && self.shared <= before.shared + SLACK
            && all_private
    }
}

#[test]
fn nothing_is_left_of_connections() {
    private_net::test("nothing_is_left_of_connections", || {
        let all = if std::env::var_os("AXOLOTL_EVERY").is_some() { 100_000 } else { 10_000 };
        // Ports of the kernel that wait after an end may be had again, and are many.
        for (tunable, value) in [("tcp_tw_reuse", "1"), ("ip_local_port_range", "10000 65000")] {
            std::fs::write(format!("/proc/sys/net/ipv4/{tunable}"), value).expect("this namespace's own");
        }
        let spec = Spec {
            nic: "tap:axl22".into(),
            addr: format!("{STACK}/24"),
            tap_addr: Some(format!("{KERNEL}/24")),
            more: Vec::new(),
        };
        let group = Group::up(&spec).expect("a group");
        let listener = TcpListener::bind((KERNEL, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port().to_string();
        serve(listener);
        let own = PORT.to_string();
        let mut program = on_the_stack(&group, &["python3", "-c", PROGRAM, STACK, &own, KERNEL, &port]);
        let program = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("netexec is built");
        let mut program = Running(program);
        let mut tell = program.0.stdin.take().expect("piped");
        let mut said = BufReader::new(program.0.stdout.take().expect("piped")).lines();
        let mut next = || said.next().expect("a line").expect("text");
        assert_eq!(next(), "ready");
        let mut both_ways = |count: usize| {
            writeln!(tell, "{count}").expect("it reads");
            call(count);
            assert_eq!(next(), "done");
        };
        both_ways(FIRST);
        // Its listener is left, and spares come when they come.
        let at_rest = || group.whole() && group.access().sockets().len() == 1;
        assert!(wait_until(PATIENCE, at_rest), "{:?}", group.access().sockets());
        let before = Held::now(&group);
        let begun = std::time::Instant::now();
        both_ways(all / 2);
        println!("{all} connections in {:.1} s", begun.elapsed().as_secs_f64());
        assert!(
            wait_until(PATIENCE, || Held::now(&group).is_no_more_than(&before)),
            "before: {before:#?}\nafter: {:#?}",
            Held::now(&group)
        );
    });
}
