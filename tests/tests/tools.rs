//! The tools that people reach for, beside the kernel: captures by expression, echo requests, the routers on the
//! way. What they say is what happens, and their exit codes are those of their namesakes.

use libnetclient::{Binding, EVERY_TYPE, PacketSocket, PingSocket, RawSocket, Size};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::process::caught;
use tests::process::group::{Group, Role, Spec};
use tests::process::other_net::{OtherNet, ip};
use tests::process::{private_net, skip, wait_until};

const NIC: &str = "axl21";
const STACK: &str = "10.97.0.2";
const KERNEL: &str = "10.97.0.1";
const STACK_V6: &str = "2001:db8:97::2";
const KERNEL_V6: &str = "2001:db8:97::1";
/// Behind the kernel.
const BEYOND: &str = "10.98.0.2";
const BEYOND_V6: &str = "2001:db8:98::2";
const ECHO_PORT: u16 = 7007;
const PATIENCE: Duration = Duration::from_secs(60);

fn group() -> Group {
    let spec = Spec {
        nic: format!("tap:{NIC}"),
        addr: format!("{STACK}/24,{STACK_V6}/64"),
        tap_addr: Some(format!("{KERNEL}/24,{KERNEL_V6}/64")),
        more: ["--gateway", KERNEL].map(str::to_owned).to_vec(),
    };
    Group::up(&spec).expect("a group")
}

/// What a verb prints, and its exit code.
fn said(group: &Group, words: &[&str]) -> (i32, String) {
    let output = group.netctl(words);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("an exit"), text)
}

fn document(group: &Group, words: &[&str]) -> Value {
    let output = group.netctl(&[&["-j"], words].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {output:?}"))
}

/// Until the addresses of IPv6 are both the stack's and the kernel's.
fn wait_for_v6(group: &Group) {
    let answered = || said(group, &["ping", "-c", "1", "-W", "1", KERNEL_V6]).0 == 0;
    assert!(wait_until(PATIENCE, answered), "{:?}", said(group, &["ping", "-c", "1", KERNEL_V6]));
}

/// The kernel as a router, with a network behind it that has the stack's way back.
fn beyond() -> OtherNet {
    // As many errors as there are reasons for.
    for (tunable, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/icmp/ratelimit", "0"),
    ] {
        std::fs::write(format!("/proc/sys/{tunable}"), value).expect("this namespace's own");
    }
    let other = OtherNet::new().expect("another namespace");
    other.cable(("axlr0", "10.98.0.1/24"), ("axlr1", &format!("{BEYOND}/24"))).expect("a cable");
    ip("addr add 2001:db8:98::1/64 nodad dev axlr0").expect("an address");
    other.ip(&format!("addr add {BEYOND_V6}/64 nodad dev axlr1")).expect("an address");
    other.ip("route add default via 10.98.0.1").expect("a route");
    other.ip("-6 route add default via 2001:db8:98::1").expect("a route");
    for tunable in ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"] {
        other.run(|| std::fs::write(format!("/proc/sys/{tunable}"), "0")).expect("that namespace's own");
    }
    other
}

fn u16_at(frame: &[u8], at: usize) -> u16 {
    frame.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// An expression, the direction that is asked for with it, and what a frame must be to be let through.
type Case = (&'static str, &'static str, fn(&[u8]) -> bool);

const CASES: &[Case] = &[
    ("udp dst port 7101", "inout", |frame| {
        let v4 = u16_at(frame, 12) == 0x800 && frame[23] == 17 && u16_at(frame, 36) == 7101;
        v4 || u16_at(frame, 12) == 0x86dd && frame[20] == 17 && u16_at(frame, 56) == 7101
    }),
    ("tcp and port 7007", "out", |frame| {
        u16_at(frame, 12) == 0x800 && frame[23] == 6 && u16_at(frame, 34) == ECHO_PORT
    }),
    ("tcp[tcpflags] & tcp-push != 0", "in", |frame| {
        u16_at(frame, 12) == 0x800 && frame[23] == 6 && u16_at(frame, 36) == ECHO_PORT && frame[47] & 8 != 0
    }),
    ("ip6 and udp and not port 7101", "in", |frame| {
        u16_at(frame, 12) == 0x86dd && frame[20] == 17 && u16_at(frame, 56) == 7102
    }),
];

#[test]
fn a_capture_holds_what_its_expression_lets_through() {
    const TEST: &str = "a_capture_holds_what_its_expression_lets_through";
    private_net::test(TEST, || {
        const FRAMES: usize = 25;
        let group = group();
        let (code, text) = said(&group, &["capture", "-w", "-", "-c", "1", "--seconds", "0", "tcp"]);
        if code == 5 {
            assert!(text.contains("libpcap0.8"), "the remedy: {text}");
            return skip(TEST, &text, false);
        }
        assert_eq!(code, 0, "{text}");
        // What can't be compiled says why, in libpcap's words.
        for (bad, why) in [("tcp port", "syntax error"), ("port 70000", "port"), ("ip broadcast", "netmask")]
        {
            let (code, text) = said(&group, &["capture", "-w", "-", bad]);
            assert!(code == 2 && text.contains(bad) && text.contains(why), "{bad}: {code} {text}");
        }
        for bad in [["-Q", "sideways"], ["-i", "nic7"]] {
            let (code, text) = said(&group, &[&["capture", "-w", "-"], &bad[..]].concat());
            assert!(code == 2 && text.contains(bad[1]), "{bad:?}: {code} {text}");
        }
        wait_for_v6(&group);
        let _echo = group.example("echo", &[&ECHO_PORT.to_string()]).expect("the echo server");
        let mut stream = None;
        assert!(wait_until(PATIENCE, || {
            stream = TcpStream::connect((STACK, ECHO_PORT)).ok();
            stream.is_some()
        }));
        let mut stream = stream.expect("just connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let captures: Vec<_> = CASES
            .iter()
            .map(|(expression, direction, _)| {
                let mut capture = group.command("netctl");
                capture.args(["capture", "-w", "-", "-i", "nic0", "-Q", direction]);
                capture.args(["-c", &FRAMES.to_string(), expression]);
                let capture =
                    capture.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("netctl runs");
                std::thread::spawn(move || capture.wait_with_output().expect("our child"))
            })
            .collect();
        let (v4, v6) = (UdpSocket::bind((KERNEL, 0)), UdpSocket::bind((KERNEL_V6, 0)));
        let (v4, v6) = (v4.expect("a socket"), v6.expect("a socket"));
        let deadline = Instant::now() + PATIENCE;
        while captures.iter().any(|capture| !capture.is_finished()) {
            assert!(Instant::now() < deadline, "the captures do not end");
            stream.write_all(b"text").expect("a connection");
            stream.read_exact(&mut [0; 4]).expect("an echo");
            for port in [7101, 7102] {
                // A port that nobody has is told, sometimes.
                let _ = (v4.send_to(b"four", (STACK, port)), v6.send_to(b"six", (STACK_V6, port)));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for (capture, (expression, direction, lets_through)) in captures.into_iter().zip(CASES) {
            let output = capture.join().expect("no panic");
            assert!(output.status.success(), "{expression}: {output:?}");
            let frames = caught::parsed(&output.stdout);
            assert_eq!(frames.len(), FRAMES, "{expression}");
            let wrong = frames.iter().find(|frame| {
                let way = *direction == "inout" || frame.inbound == (*direction == "in");
                !way || !lets_through(&frame.bytes)
            });
            assert!(wrong.is_none(), "{expression} {direction}: {wrong:02x?}");
            let summed = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                summed.contains("passed over") && !summed.contains(" 0 passed over"),
                "{expression}: {summed}"
            );
        }
    });
}

#[test]
fn ping_says_what_ping_says() {
    private_net::test("ping_says_what_ping_says", || {
        let group = group();
        let _other = beyond();
        wait_for_v6(&group);
        let (code, text) = said(&group, &["ping", "-c", "3", "-i", "0.05", KERNEL]);
        assert_eq!(code, 0, "{text}");
        assert!(text.starts_with(&format!("PING {KERNEL} ({KERNEL}) 56(84) bytes of data.\n")), "{text}");
        for seq in 1..=3 {
            let line = format!("64 bytes from {KERNEL}: icmp_seq={seq} ttl=64 time=");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("3 packets transmitted, 3 received, 0% packet loss, time "), "{text}");
        assert!(text.contains("rtt min/avg/max/mdev = "), "{text}");
        let (code, text) =
            said(&group, &["-6", "ping", "-q", "-c", "2", "-i", "0.05", "-s", "4000", KERNEL_V6]);
        assert!(code == 0 && text.contains("2 received") && !text.contains("icmp_seq"), "{text}");
        assert!(text.starts_with(&format!("PING {KERNEL_V6}({KERNEL_V6}) 4000 data bytes\n")), "{text}");

        let answer = document(&group, &["ping", "-c", "2", "-i", "0.05", "-s", "4000", KERNEL]);
        assert_eq!(
            (&answer["schema"], &answer["transmitted"], &answer["received"]),
            (&1.into(), &2.into(), &2.into())
        );
        let first = &answer["replies"][0];
        assert_eq!((&first["seq"], &first["bytes"], &first["ttl"]), (&1.into(), &4008.into(), &64.into()));
        let (least, time) = (answer["rtt_ms"]["min"].as_f64(), first["time_ms"].as_f64());
        assert!(least > Some(0.0) && time >= least, "{answer}");

        // Beyond the router: with hops enough, and with one too few.
        assert_eq!(said(&group, &["ping", "-c", "1", BEYOND]).0, 0);
        let (code, text) = said(&group, &["ping", "-c", "2", "-i", "0.05", "-t", "1", BEYOND]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(&format!("From {KERNEL} icmp_seq=1 Time to live exceeded\n")), "{text}");
        assert!(text.contains("2 packets transmitted, 0 received, +2 errors, 100% packet loss"), "{text}");

        // Nobody, no way, no such name, not enough in time.
        let (code, text) = said(&group, &["ping", "-c", "1", "-W", "0.3", "10.97.0.99"]);
        assert!(code == 1 && text.contains("1 packets transmitted, 0 received"), "{text}");
        assert!(!text.contains("rtt"), "{text}");
        let (code, text) = said(&group, &["ping", "-c", "1", "2001:db8:ffff::1"]);
        assert!(code == 2 && text.contains("unreachable"), "{code} {text}");
        assert_eq!(said(&group, &["ping", "-c", "1", "nobody.invalid"]).0, 2);
        assert_eq!(said(&group, &["-6", "ping", "-c", "1", KERNEL]).0, 2, "none of that family");
        assert_eq!(said(&group, &["ping", "-s", "65508", KERNEL]).0, 2);
        let (code, text) = said(&group, &["ping", "-c", "1000", "-i", "0.1", "-w", "1", KERNEL]);
        assert!(code == 1 && !text.contains(" 0 received"), "{text}");

        // An interrupt ends it with its sums; before that netd dies and comes back.
        let mut endless = group.command("netctl");
        endless.args(["ping", "-i", "0.02", KERNEL]).stdout(Stdio::piped());
        let mut endless = endless.spawn().expect("netctl runs");
        let mut lines = BufReader::new(endless.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut answers =
            |count: usize| lines.by_ref().filter(|line| line.contains("icmp_seq=")).take(count).count();
        assert_eq!(answers(3), 3);
        let before = group.find(Role::Netd).expect("netd runs");
        Group::signal(&before, Signal::KILL);
        let replaced = || group.find(Role::Netd).is_some_and(|now| now.generation > before.generation);
        assert!(wait_until(PATIENCE, replaced));
        assert_eq!(answers(20), 20, "answers after a death too");
        kill_process(Pid::from_child(&endless), Signal::INT).expect("it runs");
        let rest: Vec<String> = lines.collect();
        assert!(rest.iter().any(|line| line.contains("packets transmitted")), "{rest:?}");
        assert!(endless.wait().expect("our child").success());
    });
}

/// Sockets of every kind, by ss's letters and filters.
#[test]
fn ss_finds_what_is_asked_for() {
    private_net::test("ss_finds_what_is_asked_for", || {
        let group = group();
        let session = group.session(Size::default()).expect("a session");
        let any = "0.0.0.0".parse().expect("an address");
        let _raw = RawSocket::open_in(&session, any, 253).expect("a raw socket");
        let _ping = PingSocket::open_in(&session, false).expect("a ping socket");
        let _packet = PacketSocket::open_in(&session, EVERY_TYPE, 0, false).expect("a packet socket");
        let udp = libnetclient::UdpSocket::bind_in(&session, "0.0.0.0:7301").expect("a socket");
        udp.set_receive_buffer(100_000).expect("an option");
        let listener = libnetclient::TcpListener::bind_in(&session, "0.0.0.0:7300").expect("a port");
        let reserved = "0.0.0.0:7302".parse().expect("an address");
        let reserved = libnetclient::TcpListener::reserve_in(&session, reserved, Binding::default());
        let reserved = reserved.expect("a port");
        let caller = TcpStream::connect((STACK, 7300)).expect("a connection");
        let port = caller.local_addr().expect("bound").port();
        let _accepted = listener.accept().expect("a connection");
        let found = |words: &[&str]| {
            let rows = group.ask(&[&["ss"], words].concat());
            let name = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
            let mut found: Vec<_> =
                rows.iter().map(|row| format!("{} {}", name(row, "proto"), name(row, "state"))).collect();
            found.sort();
            found
        };
        let (stream, waiting, udp) = ("tcp ESTAB", "tcp LISTEN", "udp UNCONN");
        assert_eq!(
            found(&[]),
            ["icmp UNCONN", "p_raw UNCONN", "raw UNCONN", stream, waiting, "tcp UNCONN", udp]
        );
        let (dport, sport) = (format!("dport = :{port}"), "sport = :7300");
        let dport = dport.as_str();
        for (words, expected) in [
            (&["-t"][..], &[stream, waiting, "tcp UNCONN"][..]),
            (&["-u"], &[udp]),
            (&["-w"], &["icmp UNCONN", "raw UNCONN"]),
            (&["-0"], &["p_raw UNCONN"]),
            (&["-uw"], &["icmp UNCONN", "raw UNCONN", udp]),
            (&["-tnl", "exclude", "closed"], &[waiting]),
            (&["-tuwlnpeim", "state", "listening"], &[waiting]),
            (&["-a", "state", "connected"], &[stream]),
            (&["-t", dport], &[stream]),
            (&["-t", dport, "and", "not", sport], &[]),
            (&["-tn", "state", "established", "(", sport, "or", "sport = 1", ")"], &[stream]),
            (&["sport >= 7300 and sport <= 7301"], &[stream, waiting, udp]),
            (&["dst", "10.97.0.0/24"], &[stream]),
        ] {
            assert_eq!(found(words), expected, "{words:?}");
        }
        for bad in [&["state", "open"][..], &["sport", "=", "x"], &["-l", "-a"]] {
            assert_eq!(group.refused(&[&["ss"], bad].concat()).0, 2, "{bad:?}");
        }
        let text = said(&group, &["ss", "-em", "-u"]).1;
        assert!(text.contains("skmem:(r0,rb100000,t0,tb") && text.contains(" session:"), "{text}");
        assert!(!said(&group, &["ss"]).1.contains("skmem"));
        let sum = document(&group, &["ss", "-s"]);
        let counts = ["total", "estab", "closed", "timewait"].map(|key| sum[key].as_u64().expect("a count"));
        assert_eq!((counts, &sum["tcp"]["ipv4"], &sum["udp"]["total"]), ([7, 1, 1, 0], &3.into(), &1.into()));
        assert!(
            said(&group, &["ss", "-s"]).1.contains("TCP:   3 (estab 1, closed 1, orphaned 0, timewait 0)")
        );
        // What was only reserved listens when it is told to, with as many places.
        reserved.listen(5).expect("a session");
        let opened = group.ask(&["ss", "sport = 7302"]);
        assert_eq!((&opened[0]["state"], &opened[0]["send_q"]), (&"LISTEN".into(), &5.into()));
    });
}

/// Hops as `(address, note)` of each probe; an empty address for one of which nothing was heard.
fn hops(document: &Value) -> Vec<Vec<(String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let probes = |hop: &Value| {
        let probes = hop["probes"].as_array().expect("probes");
        probes.iter().map(|probe| (text(&probe["from"]), text(&probe["note"]))).collect()
    };
    document["hops"].as_array().expect("hops").iter().map(probes).collect()
}

#[test]
fn a_trace_shows_the_routers_on_the_way() {
    private_net::test("a_trace_shows_the_routers_on_the_way", || {
        let group = group();
        let _other = beyond();
        wait_for_v6(&group);
        group.change(&["route", "add", "default", "via", KERNEL_V6]);
        // What is beyond must have been looked for once: the first packets may go astray.
        for far in [BEYOND, BEYOND_V6] {
            assert!(
                wait_until(PATIENCE, || said(&group, &["ping", "-c", "1", "-W", "1", far]).0 == 0),
                "{far}"
            );
        }
        for (far, router) in [(BEYOND, KERNEL), (BEYOND_V6, KERNEL_V6)] {
            let hop = |addr: &str| vec![(addr.to_owned(), String::new()); 3];
            for how in [&["trace"][..], &["trace", "-I"]] {
                let document = document(&group, &[how, &["-w", "30", far]].concat());
                assert_eq!(hops(&document), [hop(router), hop(far)], "{how:?}: {document}");
                assert_eq!(document["reached"], true);
            }
        }
        let (code, text) = said(&group, &["trace", "-n", "-q", "1", "-m", "1", "-w", "30", BEYOND]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((code, lines.len()), (0, 2), "no more hops than asked for: {text}");
        assert_eq!(lines[0], format!("trace to {BEYOND} ({BEYOND}), 1 hops max, 60 byte packets"));
        assert!(lines[1].starts_with(&format!(" 1  {KERNEL}  ")) && lines[1].ends_with(" ms"), "{text}");
        // Nobody there: the router says so after a while. And a hop that says nothing.
        let document = document(&group, &["trace", "-q", "1", "-f", "2", "-w", "30", "10.98.0.77"]);
        assert_eq!(hops(&document), [[(KERNEL.to_owned(), "!H".to_owned())]], "{document}");
        assert_eq!(document["reached"], false);
        let (code, text) = said(&group, &["trace", "-q", "2", "-m", "1", "-w", "0.2", "10.97.0.99"]);
        assert!(code == 0 && text.ends_with(" 1  * *\n"), "{code} {text}");
    });
}
