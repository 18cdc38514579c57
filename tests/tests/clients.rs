//! Clients that are killed in every state of a connection: their sockets end as a kernel would end
//! them, what they had sent still arrives, and the stack keeps nothing of theirs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;
use tests::process::group::{Group, Spec};
use tests::process::{private_net, wait_until};
use tests::remote::counter;

const STACK: &str = "10.79.0.2";
const REMOTE: &str = "10.79.0.1";
/// An address on the link that nobody has: a SYN to it is never answered.
const NOBODY: &str = "10.79.0.99";
const PATIENCE: Duration = Duration::from_secs(10);

/// A `victim`, killed at the latest when it is dropped.
struct Victim {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Victim {
    fn start(group: &Group, state: &str, local: &str, remote: &str) -> Victim {
        let mut command = group.command("victim");
        command.args([state, local, remote]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a victim");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        Victim { child, said }
    }

    /// Waits until it is in its state; returns what it said.
    fn ready(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a pipe");
        line.strip_prefix("ready").unwrap_or_else(|| panic!("the victim said {line:?}")).trim().to_owned()
    }

    /// Tells it to go on.
    fn go_on(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b".").expect("a pipe");
    }

    fn kill(&mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("our child");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn started(nic: &str) -> Group {
    let spec = Spec {
        nic: format!("tap:{nic}"),
        addr: format!("{STACK}/24"),
        tap_addr: Some(format!("{REMOTE}/24")),
        more: Vec::new(),
    };
    Group::up(&spec).expect("a group")
}

fn states(group: &Group) -> Vec<&'static str> {
    group.access().sockets().iter().map(|row| row.state.tcp_state.name()).collect()
}

/// Arenas that a process maps.
fn arenas(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines().filter(|line| line.contains("memfd:axolotl-arena")).count()
}

/// Nothing of a dead client is left: no record but TIME-WAIT, no arena.
fn forgotten(group: &Group) {
    let netd = group.find(tests::process::group::Role::Netd).expect("netd runs").pid;
    let clean = || states(group).iter().all(|state| *state == "TIME-WAIT") && arenas(netd) == 0;
    assert!(wait_until(PATIENCE, clean), "left: {:?}, {} arenas", states(group), arenas(netd));
}

fn in_state(group: &Group, wanted: &str) {
    let there = || states(group).contains(&wanted);
    assert!(wait_until(PATIENCE, there), "waited for {wanted}, found {:?}", states(group));
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind((REMOTE, 0)).expect("a port");
    let addr = listener.local_addr().expect("bound").to_string();
    (listener, addr)
}

/// Reads to the end; `Err` when the connection was reset.
fn rest(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

fn is_reset(result: std::io::Result<Vec<u8>>) -> bool {
    result.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[test]
fn a_client_killed_in_syn_sent_leaves_nothing() {
    private_net::test("a_client_killed_in_syn_sent_leaves_nothing", || {
        let group = started("axl2");
        let mut victim = Victim::start(&group, "syn-sent", STACK, &format!("{NOBODY}:80"));
        victim.ready();
        in_state(&group, "SYN-SENT");
        victim.kill();
        forgotten(&group);
    });
}

#[test]
fn a_listener_that_dies_resets_what_waits_for_accept() {
    private_net::test("a_listener_that_dies_resets_what_waits_for_accept", || {
        let group = started("axl3");
        let local = format!("{STACK}:7100");
        let mut victim = Victim::start(&group, "listen", &local, REMOTE);
        victim.ready();
        let waiting: Vec<TcpStream> =
            (0..3).map(|_| TcpStream::connect(&local).expect("the handshake is netd's")).collect();
        in_state(&group, "ESTAB");
        victim.kill();
        for stream in waiting {
            assert!(is_reset(rest(stream)), "inet_csk_listen_stop() resets what was not accepted");
        }
        forgotten(&group);
        let refused = TcpStream::connect(&local).map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
    });
}

#[test]
fn an_idle_connection_ends_in_order() {
    private_net::test("an_idle_connection_ends_in_order", || {
        let group = started("axl4");
        let (listener, addr) = listener();
        let mut victim = Victim::start(&group, "established", STACK, &addr);
        let (stream, _) = listener.accept().expect("the victim");
        victim.ready();
        let netd = group.find(tests::process::group::Role::Netd).expect("netd runs").pid;
        assert_eq!((states(&group), arenas(netd)), (vec!["ESTAB"], 1));
        victim.kill();
        assert_eq!(rest(stream).expect("an orderly end"), Vec::<u8>::new());
        forgotten(&group);
    });
}

#[test]
fn what_was_written_arrives_after_its_writers_death() {
    private_net::test("what_was_written_arrives_after_its_writers_death", || {
        let group = started("axl5");
        let (listener, addr) = listener();
        let mut victim = Victim::start(&group, "unsent", STACK, &addr);
        let (stream, _) = listener.accept().expect("the victim");
        let written: u64 = victim.ready().parse().expect("a number");
        assert!(written > 100_000, "the remote's window must be full: {written}");
        victim.kill();
        // Time for a stack that forgets to forget.
        std::thread::sleep(Duration::from_millis(200));
        let bytes = rest(stream).expect("every byte, then an orderly end");
        assert_eq!(bytes.len() as u64, written);
        assert_eq!(counter::wrong(11, 0, &bytes), 0);
        forgotten(&group);
    });
}

#[test]
fn unread_data_makes_the_end_a_reset() {
    private_net::test("unread_data_makes_the_end_a_reset", || {
        let group = started("axl6");
        let (listener, addr) = listener();
        let mut victim = Victim::start(&group, "unread", STACK, &addr);
        let (mut stream, _) = listener.accept().expect("the victim");
        stream.write_all(&[1; 1000]).expect("a connection");
        victim.ready();
        victim.kill();
        assert!(is_reset(rest(stream)), "RFC 2525 §2.17: closing with unread data resets");
        forgotten(&group);
    });
}

/// FIN-WAIT-1, our end not sent: it stands behind bytes that the remote has no room for.
#[test]
fn an_end_behind_unsent_bytes_outlives_its_client() {
    private_net::test("an_end_behind_unsent_bytes_outlives_its_client", || {
        let group = started("axl12");
        let (listener, addr) = listener();
        let mut victim = Victim::start(&group, "fin-behind-data", STACK, &addr);
        let (stream, _) = listener.accept().expect("the victim");
        let written: u64 = victim.ready().parse().expect("a number");
        in_state(&group, "FIN-WAIT-1");
        victim.kill();
        // Longer than it takes to notice the death; the remote still takes nothing.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(states(&group), ["FIN-WAIT-1"], "what was written is owed to the remote");
        let bytes = rest(stream).expect("every byte, then an orderly end");
        assert_eq!((bytes.len() as u64, counter::wrong(11, 0, &bytes)), (written, 0));
        forgotten(&group);
    });
}

/// FIN-WAIT-1, our end sent and lost: the remote's cable is out.
#[test]
fn an_end_that_was_lost_is_sent_again_for_a_dead_client() {
    private_net::test("an_end_that_was_lost_is_sent_again_for_a_dead_client", || {
        const NIC: &str = "axl13";
        let group = started(NIC);
        let cable = |state: &str| {
            let mut ip = std::process::Command::new("ip");
            assert!(ip.args(["link", "set", NIC, state]).status().expect("ip runs").success());
        };
        let (listener, addr) = listener();
        let mut victim = Victim::start(&group, "fin-on-demand", STACK, &addr);
        let (stream, _) = listener.accept().expect("the victim");
        victim.ready();
        in_state(&group, "ESTAB");
        cable("down");
        victim.go_on();
        victim.ready();
        let ended = || group.access().sockets().iter().any(|row| row.state.fin_sent);
        assert!(wait_until(PATIENCE, ended), "our end is sent");
        assert_eq!(states(&group), ["FIN-WAIT-1"]);
        victim.kill();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(states(&group), ["FIN-WAIT-1"], "nobody has acknowledged it");
        cable("up");
        assert_eq!(rest(stream).expect("an orderly end"), Vec::<u8>::new());
        forgotten(&group);
    });
}

#[test]
fn half_closed_connections_end_too() {
    private_net::test("half_closed_connections_end_too", || {
        let group = started("axl7");
        // FIN-WAIT-2: the remote has seen our end and keeps its own direction open.
        let (listener, addr) = listener();
        let mut victim = Victim::start(&group, "fin-wait", STACK, &addr);
        let (stream, _) = listener.accept().expect("the victim");
        victim.ready();
        in_state(&group, "FIN-WAIT-2");
        victim.kill();
        assert_eq!(rest(stream).expect("the end it had sent"), Vec::<u8>::new());
        forgotten(&group);

        // CLOSE-WAIT: the remote has ended, the victim has not.
        let mut victim = Victim::start(&group, "close-wait", STACK, &addr);
        let (stream, _) = listener.accept().expect("the victim");
        stream.shutdown(std::net::Shutdown::Write).expect("a connection");
        victim.ready();
        in_state(&group, "CLOSE-WAIT");
        victim.kill();
        assert_eq!(rest(stream).expect("an orderly end"), Vec::<u8>::new());
        forgotten(&group);

        // LAST-ACK: both have ended, and the victim's bytes wait for a remote that does not read.
        let mut victim = Victim::start(&group, "last-ack", STACK, &addr);
        let (stream, _) = listener.accept().expect("the victim");
        stream.shutdown(std::net::Shutdown::Write).expect("a connection");
        victim.ready();
        in_state(&group, "LAST-ACK");
        victim.kill();
        let bytes = rest(stream).expect("every byte, then an orderly end");
        assert_eq!(counter::wrong(11, 0, &bytes), 0);
        assert!(!bytes.is_empty());
        forgotten(&group);
    });
}

#[test]
fn a_handshake_under_way_dies_with_its_listener() {
    private_net::test("a_handshake_under_way_dies_with_its_listener", || {
        let group = started("axl8");
        let local = format!("{STACK}:7101");
        let mut victim = Victim::start(&group, "listen", &local, REMOTE);
        victim.ready();
        // What the stack answers to this address goes to a station that is not there.
        let other = "10.79.0.50";
        let run = |program: &mut std::process::Command| assert!(program.status().expect("it runs").success());
        let neighbour = ["neigh", "add", other, "lladdr", "02:00:00:00:00:99"];
        run(group.command("netctl").args(["--name", group.name()]).args(neighbour));
        run(std::process::Command::new("ip").args(["addr", "add", &format!("{other}/24"), "dev", "axl8"]));
        let mut curl = std::process::Command::new("curl")
            .args(["--interface", other, "--max-time", "20", "--silent", &format!("http://{local}/")])
            .spawn()
            .expect("curl");
        in_state(&group, "SYN-RECV");
        victim.kill();
        forgotten(&group);
        // It only ever waited.
        let _ = curl.kill();
        let _ = curl.wait();
    });
}
