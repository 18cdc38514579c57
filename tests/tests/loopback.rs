//! Two programs on one host, over 127.0.0.1, ::1 and over an address of an interface: both ends of their
//! connection are in the netd that is killed.

use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;
use tests::process::group::{Group, Role, Spec};
use tests::process::{private_net, wait_until};

const PATIENCE: Duration = Duration::from_secs(15);
/// Deaths of netd in each run, and of the others.
const KILLS: u32 = 15;

struct Talker {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Talker {
    fn start(group: &Group, role: &str, addr: &str) -> Talker {
        let mut command = group.command("talker");
        command.args([role, addr]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a talker");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a pipe");
        assert_eq!(line.trim(), "ready", "{role} {addr}");
        Talker { child, said }
    }

    /// Tells it to send no more.
    fn hush(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits until both have ended; returns what it says of what it sent and received.
    fn end(mut self) -> String {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).expect("a pipe");
        let status = self.child.wait().expect("our child");
        assert!(status.success(), "{status}: {rest}");
        rest.trim().to_owned()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bytes_moved(group: &Group) -> u64 {
    let rows = group.access().sockets();
    rows.iter().map(|row| row.state.rcv_nxt).sum()
}

fn talk(group: &Group, addr: &str, victims: &[Role]) {
    let mut serving = Talker::start(group, "serve", addr);
    let mut calling = Talker::start(group, "call", addr);
    for n in 0..KILLS {
        let victim = victims[n as usize % victims.len()];
        let before = group.find(victim).expect("it runs");
        let moved = bytes_moved(group);
        assert!(wait_until(PATIENCE, || bytes_moved(group) > moved), "nothing moves before kill {n}");
        Group::signal(&before, Signal::KILL);
        let back = || group.find(victim).is_some_and(|row| row.pid != before.pid && row.in_service);
        assert!(wait_until(PATIENCE, back), "{victim} is not back");
        let moved = bytes_moved(group);
        assert!(wait_until(PATIENCE, || bytes_moved(group) > moved), "nothing moves after kill {n}");
    }
    calling.hush();
    serving.hush();
    let (called, served) = (calling.end(), serving.end());
    println!("{addr}: {KILLS} deaths of {victims:?}: call {called}; serve {served}");
}

fn netctl(group: &Group, args: &[&str]) -> Vec<u8> {
    let out = group.command("netctl").args(args).output().expect("netctl runs");
    assert!(out.status.success(), "netctl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// `lo` is among the links, its address among the addresses, its frames in captures and counters.
fn shown(group: &Group) {
    let rows = |verb: &str| -> Vec<serde_json::Value> {
        serde_json::from_slice(&netctl(group, &["-j", verb])).expect("JSON")
    };
    assert!(rows("link").iter().any(|row| row["name"] == "lo" && row["up"] == true));
    let own = |row: &serde_json::Value| row["dev"] == "lo" && row["local"] == "127.0.0.1";
    assert!(rows("addr").iter().any(own));
    let refused = group.command("netctl").args(["link", "set", "lo", "down"]).output().expect("netctl runs");
    assert!(!refused.status.success(), "lo can't be set down");
    let mut capture = group.command("netctl");
    capture.args(["capture", "-w", "-", "--count", "4"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let capture = capture.spawn().expect("netctl runs");
    let session = group.session(libnetclient::Size::default()).expect("a session");
    let socket = libnetclient::UdpSocket::bind_in(&session, "127.0.0.1:0").expect("bound");
    let own = socket.local_addr().expect("bound");
    let (mut capture, mut seen) = (capture, false);
    for _ in 0..100 {
        socket.send_to(b"to whom it may concern", own).expect("sent");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut text = [0; 64];
        assert_eq!(socket.recv(&mut text).expect("received"), 22);
        seen = capture.try_wait().expect("our child").is_some();
        if seen {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(seen, "a capture of four frames comes to an end");
    let mut caught = Vec::new();
    capture.stdout.take().expect("piped").read_to_end(&mut caught).expect("a pipe");
    let holds = |what: &[u8]| caught.windows(what.len()).any(|window| window == what);
    assert!(holds(b"to whom it may concern") && holds(b"lo"));
    let stats: serde_json::Value = serde_json::from_slice(&netctl(group, &["-j", "stats"])).expect("JSON");
    assert!(
        stats["netd_lo_frames"].as_u64().is_some_and(|frames| frames >= 4),
        "{}",
        stats["netd_lo_frames"]
    );
}

#[test]
fn two_programs_on_one_host_do_not_notice() {
    private_net::test("two_programs_on_one_host_do_not_notice", || {
        let spec = Spec {
            nic: "tap:axllo0".into(),
            addr: "10.79.1.2/24,10.79.1.3/24,10.80.0.1/16".into(),
            tap_addr: Some("10.79.1.1/24".into()),
            more: Vec::new(),
        };
        let group = Group::up(&spec).expect("a group");
        shown(&group);
        talk(&group, "127.0.0.1:7001", &[Role::Netd]);
        talk(&group, "10.80.0.1:7002", &[Role::Netd, Role::Sockd, Role::Nicd]);
        talk(&group, "[::1]:7003", &[Role::Netd]);
    });
}
