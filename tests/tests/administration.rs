//! What an administrator sees and changes of a running group: it is true, it takes effect on the
//! traffic, and it outlives a netd that is killed.

use libnetclient::{Session, Size};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::Permissions;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tests::process::caught::{self, Caught};
use tests::process::group::{Group, ProcessRow, Program, Role, Spec};
use tests::process::raw_link::RawLink;
use tests::process::{private_net, skip, wait_until};
use tests::remote::{counter, frames};

const NIC: &str = "axl14";
const STACK: &str = "10.83.0.2";
const KERNEL: &str = "10.83.0.1";
const ECHO_PORT: u16 = 7007;
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a connection may take where none can come about.
const IN_VAIN: Duration = Duration::from_millis(1200);

struct Bench {
    group: Group,
    _echo: Program,
}

fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status().expect("ip runs");
    assert!(status.success(), "ip {words:?}");
}

fn reaches(addr: &str, patience: Duration) -> bool {
    let addr: SocketAddr = format!("{addr}:{ECHO_PORT}").parse().expect("an address");
    TcpStream::connect_timeout(&addr, patience).is_ok()
}

impl Bench {
    fn set_up() -> Bench {
        let spec = Spec {
            nic: format!("tap:{NIC}"),
            addr: format!("{STACK}/24"),
            tap_addr: Some(format!("{KERNEL}/24")),
            more: Vec::new(),
        };
        let group = Group::up(&spec).expect("a group");
        let echo = group.example("echo", &[&ECHO_PORT.to_string()]).expect("the echo server");
        assert!(wait_until(PATIENCE, || reaches(STACK, IN_VAIN)), "echo does not listen");
        Bench { group, _echo: echo }
    }

    fn netctl(&self, words: &[&str]) {
        self.group.change(words);
    }

    /// The exit code and what is said of a change that can't be made.
    fn refused(&self, words: &[&str]) -> (i32, String) {
        self.group.refused(words)
    }

    fn ask(&self, verb: &str) -> Vec<Value> {
        self.group.ask(&[verb])
    }

    fn row(&self, role: Role) -> ProcessRow {
        assert!(wait_until(PATIENCE, || self.group.find(role).is_some()), "{:?}", self.group.processes());
        self.group.find(role).expect("just seen")
    }

    /// kill -9, and the successor in service.
    fn kill(&self, role: Role) {
        let before = self.row(role);
        Group::signal(&before, Signal::KILL);
        let replaced = || self.group.find(role).is_some_and(|row| row.generation > before.generation);
        assert!(wait_until(PATIENCE, replaced), "{:?}", self.group.processes());
    }

    fn session(&self) -> Session {
        self.group.session(Size::default()).expect("a session")
    }
}

#[test]
fn addresses_come_and_go() {
    private_net::test("addresses_come_and_go", || {
        let bench = Bench::set_up();
        ip(&["addr", "add", "10.84.0.1/24", "dev", NIC]);
        for (prefix, addr) in [("10.83.0.3/24", "10.83.0.3"), ("10.84.0.2/24", "10.84.0.2")] {
            bench.netctl(&["addr", "add", prefix]);
            assert!(reaches(addr, PATIENCE), "{addr} takes effect");
            bench.kill(Role::Netd);
            assert!(reaches(addr, PATIENCE), "{addr} outlives netd");
            assert!(reaches(STACK, PATIENCE));
            let listed = |bench: &Bench| bench.ask("addr").iter().any(|row| row["local"] == addr);
            assert!(listed(&bench));
            assert_eq!(bench.refused(&["addr", "add", prefix]).0, 1, "it is there already");
            bench.netctl(&["addr", "del", prefix]);
            assert!(!reaches(addr, IN_VAIN), "{addr} is gone");
            bench.kill(Role::Netd);
            assert!(!reaches(addr, IN_VAIN) && !listed(&bench), "{addr} stays gone");
            assert_eq!(bench.refused(&["addr", "del", prefix]).0, 1);
        }
        assert!(reaches(STACK, PATIENCE));
    });
}

/// A rule at each hook that packets go by: it keeps its port closed, counts, and outlives netd with its counts.
#[test]
fn rules_come_and_go() {
    private_net::test("rules_come_and_go", || {
        let bench = Bench::set_up();
        let port = ECHO_PORT.to_string();
        for (hook, word) in
            [("prerouting", "dport"), ("input", "dport"), ("output", "sport"), ("postrouting", "sport")]
        {
            bench.netctl(&["filter", "add", hook, "number", "5", "proto", "tcp", word, &port, "drop"]);
            bench.netctl(&["filter", "add", hook, "from", "10.83.0.0/24", "accept"]);
            assert!(!reaches(STACK, IN_VAIN), "{hook}: dropped");
            let counted = |bench: &Bench, number: u64| {
                let rules = bench.ask("filter");
                let rule = rules.iter().find(|rule| rule["number"] == number).expect("a rule");
                assert_eq!(rule["hook"], hook);
                rule["packets"].as_u64().expect("a count")
            };
            assert!(wait_until(PATIENCE, || counted(&bench, 5) > 0), "{hook}: counted");
            let before = counted(&bench, 5);
            bench.kill(Role::Netd);
            assert!(counted(&bench, 5) >= before, "{hook}: its counts outlive netd");
            assert!(!reaches(STACK, IN_VAIN), "{hook}: dropped after a death of netd");
            assert!(wait_until(PATIENCE, || counted(&bench, 5) > before), "{hook}: it goes on counting");
            assert_eq!(bench.refused(&["filter", "add", hook, "number", "5", "drop"]).0, 1);
            bench.netctl(&["filter", "del", "5"]);
            assert!(reaches(STACK, PATIENCE), "{hook}: the rule is gone");
            assert!(
                wait_until(PATIENCE, || counted(&bench, 6) > 0),
                "{hook}: the other one counts what passes"
            );
            bench.netctl(&["filter", "del", "6"]);
            assert!(bench.ask("filter").is_empty());
        }
        assert_eq!(bench.refused(&["filter", "del", "5"]).0, 1);
        assert_eq!(bench.refused(&["filter", "add", "nowhere", "drop"]).0, 2);
    });
}

/// Tunables do what they say, at once and after a death of netd, and are shown as they are.
#[test]
fn tunables_take_effect_and_outlive_netd() {
    private_net::test("tunables_take_effect_and_outlive_netd", || {
        let bench = Bench::set_up();
        let shown = |bench: &Bench, name: &str| {
            let all = bench.ask("sysctl");
            let row = all.iter().find(|row| row["name"] == name).expect("a tunable").clone();
            row["value"].as_str().expect("a value").to_owned()
        };
        // The time to live of its answers, as they arrive.
        let ttl = || {
            let ears = RawLink::open_both_ways(NIC).expect("a packet socket on our own interface");
            assert!(reaches(STACK, PATIENCE));
            let ours = |frame: &[u8]| {
                let answer = frame.get(12..14)? == [8, 0] && frame.get(26..30)? == [10, 83, 0, 2];
                answer.then(|| frame[22])
            };
            ears.receive(PATIENCE, ours).expect("an answer")
        };
        let cookies = |bench: &Bench| {
            let counted = bench.group.access().counters();
            counted.get(&(Role::Netd, "tcp_syn_cookies_sent".to_owned())).copied().unwrap_or(0)
        };
        let cookie_comes = |bench: &Bench| {
            let before = cookies(bench);
            assert!(reaches(STACK, PATIENCE));
            wait_until(PATIENCE, || cookies(bench) > before)
        };
        let (name, syncookies) = ("net.ipv4.ip_default_ttl", "net.ipv4.tcp_syncookies");
        assert_eq!((ttl(), shown(&bench, name)), (64, "64".to_owned()));
        bench.netctl(&["sysctl", "net.ipv4.ip_default_ttl=33", "net/ipv4/tcp_syncookies=2"]);
        for round in ["at once", "after a death"] {
            assert_eq!((ttl(), shown(&bench, name)), (33, "33".to_owned()), "{round}");
            assert!(cookie_comes(&bench), "{round}");
            bench.kill(Role::Netd);
        }
        for bad in
            ["net.ipv4.ip_default_ttl=0", "net.ipv4.ip_default_ttl=x", "net.ipv4.tcp_nonsense=1", "ttl"]
        {
            assert_eq!(bench.refused(&["sysctl", bad]).0, 2, "{bad}");
        }
        bench.netctl(&["sysctl", "net.ipv4.ip_default_ttl=64", "net.ipv4.tcp_congestion_control=bbr"]);
        assert_eq!((ttl(), shown(&bench, syncookies)), (64, "2".to_owned()));
        assert_eq!(shown(&bench, "net.ipv4.tcp_congestion_control"), "bbr");
    });
}

/// A VLAN answers to its tag and to no other, until it is taken away; deaths of netd change nothing of it.
/// The kernel takes the tags off before a packet socket hears a frame: what leaves is told by its addresses.
#[test]
fn vlans_come_and_go() {
    private_net::test("vlans_come_and_go", || {
        const STATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
        let (ours, station) = (Ipv4Addr::new(10, 87, 0, 2), Ipv4Addr::new(10, 87, 0, 77));
        let bench = Bench::set_up();
        let links = bench.ask("link");
        let text = links[0]["mac"].as_str().expect("a link address");
        let mut mac = [0; 6];
        for (byte, part) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(part, 16).expect("a byte");
        }
        let link = RawLink::sender(NIC).expect("a packet socket on our own interface");
        let answers = |tag: &[u8], patience: Duration| {
            let ears = RawLink::open_both_ways(NIC).expect("a packet socket on our own interface");
            let echo = frames::icmp(8, 0, [0, 1, 0, 2], b"anybody there?  ");
            let frame = frames::ethernet(
                mac,
                STATION_MAC,
                frames::IPV4,
                &frames::ipv4(station, ours, frames::ICMP, &echo),
            );
            let frame = [&frame[..12], tag, &frame[12..]].concat();
            let asked = Instant::now();
            while asked.elapsed() < patience {
                link.send(&frame).expect("the interface is up");
                let reply = |frame: &[u8]| {
                    let from_us = frame.get(12..14)? == [8, 0] && frame.get(26..30)? == ours.octets();
                    (from_us && frame.get(34)? == &0).then_some(())
                };
                if ears.receive(Duration::from_millis(200), reply).is_ok() {
                    return true;
                }
            }
            false
        };
        let (seven, eight) = ([0x81, 0, 0, 7], [0x81, 0, 0, 8]);
        for _ in 0..2 {
            bench.netctl(&["link", "add", "link", "nic0", "name", "lab", "type", "vlan", "id", "7"]);
            bench.netctl(&["addr", "add", "10.87.0.2/24", "dev", "lab"]);
            bench.netctl(&["neigh", "add", "10.87.0.77", "lladdr", "02:00:00:00:00:77", "dev", "lab"]);
            for round in ["at once", "after a death"] {
                let links = bench.ask("link");
                let lab = links.iter().find(|row| row["name"] == "lab").expect("the VLAN");
                assert_eq!((&lab["vlan"], &lab["link"]), (&7.into(), &"nic0".into()));
                assert!(answers(&seven, PATIENCE), "{round}");
                assert!(!answers(&eight, IN_VAIN), "{round}");
                assert!(reaches(STACK, PATIENCE), "{round}: what has no tag is as it was");
                bench.kill(Role::Netd);
            }
            let again = ["link", "add", "link", "nic0", "name", "lab2", "type", "vlan", "id", "7"];
            assert_eq!(bench.refused(&again).0, 1, "it is there already");
            bench.netctl(&["link", "del", "lab"]);
            for round in ["at once", "after a death"] {
                assert!(!answers(&seven, IN_VAIN), "{round}: it is gone");
                assert!(!bench.ask("addr").iter().any(|row| row["local"] == "10.87.0.2"), "{round}");
                bench.kill(Role::Netd);
            }
        }
        assert_eq!(bench.refused(&["link", "del", "nic0"]).0, 1);
        for id in ["0", "4095", "x"] {
            assert_eq!(
                bench.refused(&["link", "add", "link", "nic0", "type", "vlan", "id", id]).0,
                2,
                "{id}"
            );
        }
    });
}

#[test]
fn routes_come_and_go() {
    private_net::test("routes_come_and_go", || {
        const FAR: &str = "192.0.2.1";
        let bench = Bench::set_up();
        ip(&["addr", "add", &format!("{FAR}/32"), "dev", "lo"]);
        let listener = TcpListener::bind((FAR, 0)).expect("a port");
        let far = listener.local_addr().expect("bound");
        let session = bench.session();
        let connects = || libnetclient::TcpStream::connect_timeout_in(&session, &far, PATIENCE);
        let unreachable = || connects().is_err_and(|error| error.kind() == ErrorKind::NetworkUnreachable);
        assert!(unreachable(), "no route yet");
        let static_routes = || -> Vec<Value> {
            bench.ask("route").into_iter().filter(|route| route["protocol"] == "static").collect()
        };
        for to in ["192.0.2.0/24", "default"] {
            bench.netctl(&["route", "add", to, "via", KERNEL]);
            connects().expect("it takes effect");
            bench.kill(Role::Netd);
            connects().expect("it outlives netd");
            let shown = static_routes();
            assert_eq!(
                (shown.len(), &shown[0]["dst"], &shown[0]["gateway"]),
                (1, &to.into(), &KERNEL.into())
            );
            bench.netctl(&["route", "del", to]);
            assert!(unreachable(), "{to} is gone");
            bench.kill(Role::Netd);
            assert!(unreachable() && static_routes().is_empty(), "{to} stays gone");
        }
        let (code, said) = bench.refused(&["route", "add", "192.0.2.0/24", "via", "172.16.0.1"]);
        assert_eq!(code, 1, "the gateway is on no link: {said}");
        let routes = bench.ask("route");
        let connected = routes.iter().find(|route| route["protocol"] == "kernel").expect("the link's own");
        assert_eq!((&connected["dst"], &connected["prefsrc"]), (&"10.83.0.0/24".into(), &STACK.into()));
        assert_eq!(connected["gateway"], Value::Null);
    });
}

#[test]
fn neighbours_come_and_go() {
    private_net::test("neighbours_come_and_go", || {
        let bench = Bench::set_up();
        let listener = TcpListener::bind((KERNEL, 0)).expect("a port");
        let remote = listener.local_addr().expect("bound");
        let session = bench.session();
        let connects = |patience| libnetclient::TcpStream::connect_timeout_in(&session, &remote, patience);
        connects(PATIENCE).expect("the kernel answers");
        // A station that is not there: what is sent to it gets nowhere.
        bench.netctl(&["neigh", "add", KERNEL, "lladdr", "02:00:00:00:00:99"]);
        assert!(connects(IN_VAIN).is_err(), "it takes effect");
        bench.kill(Role::Netd);
        assert!(connects(IN_VAIN).is_err(), "it outlives netd");
        let listed = bench.ask("neigh");
        assert_eq!((&listed[0]["dst"], &listed[0]["lladdr"]), (&KERNEL.into(), &"02:00:00:00:00:99".into()));
        bench.netctl(&["neigh", "del", KERNEL]);
        connects(PATIENCE).expect("it is asked for again");
        bench.kill(Role::Netd);
        connects(PATIENCE).expect("as before");
        let usable = |listed: &[Value]| {
            listed.len() == 1
                && listed[0]["dst"] == KERNEL
                && ["REACHABLE", "STALE", "DELAY"].iter().any(|state| listed[0]["state"] == *state)
        };
        assert!(wait_until(PATIENCE, || usable(&bench.ask("neigh"))), "{:?}", bench.ask("neigh"));
        // Whom netd knew it need not ask for again: the kernel answers nobody from here on.
        std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "8").expect("our own network's");
        bench.kill(Role::Netd);
        connects(PATIENCE).expect("at once");
    });
}

#[test]
fn an_interface_that_is_set_down_stays_down() {
    private_net::test("an_interface_that_is_set_down_stays_down", || {
        let bench = Bench::set_up();
        let mut stream = TcpStream::connect((STACK, ECHO_PORT)).expect("a connection");
        let is_up = || bench.ask("link")[0]["up"] == true;
        let dropped = || bench.group.access().counters()[&(Role::Netd, "drop_dev_down".into())];
        bench.netctl(&["link", "set", "nic0", "down"]);
        let before = dropped();
        assert!(!is_up() && !reaches(STACK, IN_VAIN), "it takes effect");
        assert!(dropped() > before, "what comes is dropped for its reason");
        // Neither a new netd nor a new nicd, with a carrier of its own, brings it up again.
        for role in [Role::Netd, Role::Nicd, Role::Netd] {
            bench.kill(role);
            assert!(!is_up() && !reaches(STACK, IN_VAIN), "{role} came, and the interface with it");
        }
        assert!(bench.ask("route").iter().all(|route| route["protocol"] != "kernel"));
        stream.write_all(b"while it was down").expect("the kernel keeps it");
        bench.netctl(&["link", "set", "nic0", "up"]);
        assert!(is_up() && reaches(STACK, PATIENCE), "up again");
        let mut heard = [0; 17];
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.read_exact(&mut heard).expect("the connection was kept");
        assert_eq!(&heard, b"while it was down");
        assert_eq!(bench.refused(&["link", "set", "nic0", "mtu", "60"]).0, 1);
        assert_eq!(bench.refused(&["link", "set", "nic7", "up"]).0, 2);
    });
}

#[test]
fn a_capture_shows_both_directions_and_goes_on_over_a_death() {
    private_net::test("a_capture_shows_both_directions_and_goes_on_over_a_death", || {
        const FRAMES: usize = 600;
        let bench = Bench::set_up();
        let since_1970 = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let begun = since_1970();
        let mut capture = bench.group.command("netctl");
        capture.args(["capture", "-w", "-", "--count", &FRAMES.to_string()]);
        let capture = capture.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("netctl runs");
        let reader = std::thread::spawn(move || capture.wait_with_output());
        let mut stream = TcpStream::connect((STACK, ECHO_PORT)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let port = stream.local_addr().expect("bound").port();
        let (mut rounds, mut killed_at) = (0u32, None);
        while !reader.is_finished() {
            let text = rounds.to_be_bytes();
            stream.write_all(&text).expect("a connection");
            let mut echo = [0; 4];
            stream.read_exact(&mut echo).expect("an echo");
            assert_eq!(echo, text);
            rounds += 1;
            if rounds == 60 {
                bench.kill(Role::Netd);
                killed_at = Some(since_1970());
            }
            // Lets the reader of the ring keep up.
            std::thread::sleep(Duration::from_millis(1));
            assert!(rounds < 20_000, "the capture does not end");
        }
        let output = reader.join().expect("no panic").expect("our child");
        assert!(output.status.success());
        let (ended, killed_at) = (since_1970(), killed_at.expect("in the middle"));
        let caught = caught::parsed(&output.stdout);
        assert_eq!(caught.len(), FRAMES);
        let ours = |frame: &&Caught| {
            let (from, to) = if frame.inbound { (port, ECHO_PORT) } else { (ECHO_PORT, port) };
            let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
            frame.bytes.get(12..14) == Some(&[8, 0]) && frame.bytes.get(34..38) == Some(&ports[..])
        };
        for inbound in [true, false] {
            let way: Vec<&Caught> =
                caught.iter().filter(ours).filter(|frame| frame.inbound == inbound).collect();
            assert!(way.len() > FRAMES / 5, "inbound {inbound}: {} frames", way.len());
            assert!(way.iter().all(|frame| begun <= frame.at && frame.at <= ended), "the wall clock's time");
            assert!(way.iter().any(|frame| frame.at > killed_at), "inbound {inbound}: after the death too");
            // Texts of rounds, as they stand on the wire, whenever the capture began.
            let shown = |round: &u32| way.iter().any(|frame| frame.bytes.ends_with(&round.to_be_bytes()));
            assert!((1..rounds).filter(shown).count() > FRAMES / 10, "inbound {inbound}");
        }
    });
}

/// Somebody else on the machine may use the stack, but not administer it, and not take a low port.
#[test]
fn another_user_may_not_administer_nor_take_a_low_port() {
    const TEST: &str = "another_user_may_not_administer_nor_take_a_low_port";
    if !rustix::process::geteuid().is_root() {
        return skip(TEST, "only root can become somebody else", false);
    }
    private_net::test(TEST, || {
        const SOMEBODY: u32 = 61_347;
        let bench = Bench::set_up();
        // Programs where anybody may run them.
        let open = |path: &Path| {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("ours");
        };
        open(bench.group.dir());
        let run = |program: &str, words: &[&str]| {
            let from = Path::new(bench.group.command(program).get_program()).to_owned();
            let to = bench.group.dir().join(Path::new(program).file_name().expect("a name"));
            std::fs::copy(from, &to).expect("room");
            open(&to);
            let mut command = Command::new(to);
            command.env("AXOLOTL", bench.group.name()).env("AXOLOTL_DIR", bench.group.dir());
            let output = command.args(words).uid(SOMEBODY).gid(SOMEBODY).output().expect("it may be run");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        for words in [&["stats"][..], &["route", "add", "default", "via", KERNEL]] {
            let (code, said) = run("netctl", words);
            assert!(code == Some(1) && said.contains("not permitted"), "{words:?}: {code:?} {said}");
        }
        let (code, said) = run("examples/echo", &["80"]);
        assert!(code == Some(1) && said.contains("Permission denied"), "{code:?} {said}");
    });
}

#[test]
fn the_queues_of_live_sockets_are_shown_as_they_are() {
    private_net::test("the_queues_of_live_sockets_are_shown_as_they_are", || {
        let bench = Bench::set_up();
        let session = bench.session();
        let socket = |local: &str, state: &str| -> Value {
            let found =
                bench.ask("ss").into_iter().find(|row| row["local"] == local && row["state"] == state);
            found.unwrap_or_else(|| panic!("no {state} at {local}: {:?}", bench.ask("ss")))
        };
        let eventually = |what: &str, local: &str, key: &str, wanted: u64| {
            let there = || socket(local, "ESTAB")[key] == wanted;
            assert!(
                wait_until(PATIENCE, there),
                "{what}: {} instead of {wanted}",
                socket(local, "ESTAB")[key]
            );
        };

        // A listener: connections that wait for accept, and how many may.
        let any = format!("{STACK}:7300");
        let listener =
            libnetclient::TcpListener::bind_with_backlog_in(&session, any.as_str(), 5).expect("a port");
        let waiting: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(&any).expect("a place")).collect();
        let queued = || socket(&any, "LISTEN")["recv_q"] == 2;
        assert!(wait_until(PATIENCE, queued), "{}", socket(&any, "LISTEN"));
        assert_eq!(socket(&any, "LISTEN")["send_q"], 5);
        let accepted = [listener.accept().expect("one"), listener.accept().expect("two")];
        assert!(wait_until(PATIENCE, || socket(&any, "LISTEN")["recv_q"] == 0));
        drop((waiting, accepted));

        // A connection: what the client has not read, what the remote has not acknowledged.
        let remote = TcpListener::bind((KERNEL, 0)).expect("a port");
        let addr = remote.local_addr().expect("bound");
        let mut stream = libnetclient::TcpStream::connect_in(&session, addr).expect("a connection");
        let local = stream.local_addr().expect("bound").to_string();
        let (mut kernel, _) = remote.accept().expect("the client");
        let row = socket(&local, "ESTAB");
        assert_eq!((&row["recv_q"], &row["send_q"], &row["retrans"]), (&0.into(), &0.into(), &0.into()));
        assert_eq!(row["pid"], std::process::id());
        assert_eq!(row["uid"], rustix::process::geteuid().as_raw());
        kernel.write_all(&[7; 5000]).expect("a connection");
        eventually("unread", &local, "recv_q", 5000);
        // Also while netd is away: the cursors are the client's and the record's.
        bench.kill(Role::Netd);
        eventually("unread after a death", &local, "recv_q", 5000);
        stream.read_exact(&mut [0; 3000]).expect("unread bytes");
        eventually("some read", &local, "recv_q", 2000);
        stream.read_exact(&mut [0; 2000]).expect("unread bytes");
        eventually("all read", &local, "recv_q", 0);

        // The remote's cable is out: everything stays, and is sent again and again to a neighbour that
        // nobody has to ask for.
        ip(&["link", "set", NIC, "address", "02:00:00:00:00:01"]);
        bench.netctl(&["neigh", "add", KERNEL, "lladdr", "02:00:00:00:00:01"]);
        ip(&["link", "set", NIC, "down"]);
        let mut text = vec![0; 30_000];
        counter::fill(9, 0, &mut text);
        stream.write_all(&text).expect("room");
        eventually("unacknowledged", &local, "send_q", 30_000);
        let retransmits = || socket(&local, "ESTAB")["retrans"].as_u64().expect("a number");
        assert!(wait_until(PATIENCE, || retransmits() >= 2), "{} sent again", retransmits());
        bench.kill(Role::Netd);
        assert!(retransmits() >= 2, "a new netd goes on counting");
        bench.kill(Role::Sockd);
        eventually("unacknowledged, after a new sockd", &local, "send_q", 30_000);
        ip(&["link", "set", NIC, "up"]);
        let mut heard = vec![0; 30_000];
        kernel.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        kernel.read_exact(&mut heard).expect("every byte");
        assert_eq!(counter::wrong(9, 0, &heard), 0);
        eventually("acknowledged", &local, "send_q", 0);
    });
}

/// The receive ring's tail as nicd publishes it, overwritten until netd looks: proto::nic::rings.
#[test]
fn a_nicd_that_breaks_a_rule_is_replaced_and_traffic_goes_on() {
    private_net::test("a_nicd_that_breaks_a_rule_is_replaced_and_traffic_goes_on", || {
        use proto::nic::rings::REGION_SIZE;
        let bench = Bench::set_up();
        let mut stream = TcpStream::connect((STACK, ECHO_PORT)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (nicd, netd) = (bench.row(Role::Nicd), bench.row(Role::Netd));
        // The vaults hold the rings too.
        let vault = std::fs::read_dir(format!("/proc/{}/fd", bench.row(Role::Supervisor).pid)).expect("ours");
        let is_rings = |path: &std::path::Path| {
            let name = std::fs::read_link(path).unwrap_or_default();
            let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
            name.as_os_str() == "/memfd:axolotl-rings (deleted)" && size == REGION_SIZE as u64
        };
        let rings = vault.flatten().map(|entry| entry.path()).find(|path| is_rings(path)).expect("its rings");
        let rings = std::fs::File::options().write(true).open(rings).expect("same user");
        let done = Arc::new(AtomicBool::new(false));
        let stop = done.clone();
        let vandal = std::thread::spawn(move || {
            let deadline = Instant::now() + PATIENCE;
            while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
                rings.write_all_at(&0x8000_0000u32.to_ne_bytes(), REGION_SIZE as u64 / 4).expect("memory");
            }
        });
        let talk = |stream: &mut TcpStream| {
            stream.write_all(b"still there?").expect("a connection");
            let mut heard = [0; 12];
            stream.read_exact(&mut heard).expect("an echo");
            assert_eq!(&heard, b"still there?");
        };
        let replaced = || bench.group.find(Role::Nicd).is_some_and(|row| row.generation > nicd.generation);
        // Frames make netd look.
        stream.write_all(b"x").expect("a connection");
        assert!(wait_until(PATIENCE, replaced), "{:?}", bench.group.processes());
        done.store(true, Ordering::Relaxed);
        vandal.join().expect("no panic");
        stream.read_exact(&mut [0]).expect("an echo");
        talk(&mut stream);
        assert_eq!(bench.row(Role::Netd).pid, netd.pid, "who found out goes on");
        let crash = bench.ask("crash");
        let netd = crash.iter().find(|row| row["role"] == "netd").expect("netd");
        let events = netd["events"].as_array().expect("a list");
        let corrupt = events.iter().find(|event| event["kind"] == "corrupt").expect("it is in the recorder");
        assert!(corrupt["text"].as_str().is_some_and(|text| text.contains("ring tail")), "{corrupt}");
    });
}
