//! nicd with a chip of its own: a guest with an emulated IOMMU and one NIC, driven there by VFIO, this machine's
//! kernel at the other end of the cable.
//!
//! Each model in turn: link, ARP and echo, files both ways with their SHA-256, and the same under SIGKILLs of
//! nicd and netd; the link pulled and plugged, the NIC unplugged and plugged in again; jumbo frames; two shards, over
//! queues of their own where the chip has them.

use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use tests::process::{private_net, skip, wait_until};
use tests::remote::ping;
use tests::vm::{Guest, prepare};

const TAP: &str = "axl97";
const KERNEL: &str = "10.97.0.1";
const STACK: &str = "10.97.0.2";
const VIRTIO: &str = "virtio-net-pci,disable-legacy=on,iommu_platform=on,mq=on,rss=on";
/// For what takes a second on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the files.
const SIZE: usize = 64 << 20;
/// Kills of each daemon during the transfers.
const KILLS: usize = 20;

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("ip(8)");
    assert!(status.success(), "ip {words}");
}

/// SHA-256 of what is written to it.
struct Sum(Child);

impl Sum {
    fn new() -> Sum {
        let mut command = Command::new("sha256sum");
        Sum(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum"))
    }

    fn input(&mut self) -> &mut ChildStdin {
        self.0.stdin.as_mut().expect("piped")
    }

    fn end(self) -> String {
        let output = self.0.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned()
    }
}

/// Bytes that follow from their position.
fn chunk(at: usize, out: &mut [u8]) {
    tests::remote::counter::fill(97, at as u64, out);
}

/// Sends a file to whoever connects; its SHA-256.
fn give(listener: TcpListener) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the stack connects");
        let (mut sum, mut bytes) = (Sum::new(), vec![0; 1 << 16]);
        for at in (0..SIZE).step_by(bytes.len()) {
            chunk(at, &mut bytes);
            sum.input().write_all(&bytes).expect("it reads");
            stream.write_all(&bytes).expect("the connection lives");
        }
        drop(stream);
        sum.end()
    })
}

/// Takes a file from whoever connects; its SHA-256 and its length.
fn take(listener: TcpListener) -> std::thread::JoinHandle<(String, usize)> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the stack connects");
        let (mut sum, mut bytes, mut len) = (Sum::new(), vec![0; 1 << 16], 0);
        loop {
            match stream.read(&mut bytes).expect("the connection lives") {
                0 => return (sum.end(), len),
                n => {
                    len += n;
                    sum.input().write_all(&bytes[..n]).expect("it reads");
                }
            }
        }
    })
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((KERNEL, 0)).expect("the TAP has its address");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

/// Echoes of several sizes; the first may wait for the link.
fn echoes() -> bool {
    let to = STACK.parse().expect("an address");
    [56, 0, 1400, 5000].into_iter().all(|len| {
        let payload = vec![0x61; len];
        (0..10).any(|_| ping::ping4(to, &payload, Duration::from_secs(2)).is_ok())
    })
}

/// Kills nicd and netd in turn while `goes_on`.
fn kill(guest: &mut Guest, goes_on: impl Fn() -> bool) -> usize {
    let mut kills = 0;
    while goes_on() && kills < 2 * KILLS {
        let victim = ["nicd", "netd"][kills % 2];
        if guest.run(&format!("kill -9 $(pidof {victim})")).status == 0 {
            kills += 1;
        }
        std::thread::sleep(Duration::from_millis(400));
    }
    kills
}

fn transfers(guest: &mut Guest, what: &str, kills: bool) {
    let (listener, port) = listen();
    let giver = give(listener);
    let begin = Instant::now();
    guest.must(&format!(
        "(/axl/nc {KERNEL} {port} </dev/null | sha256sum >/tmp/sum; touch /tmp/done) >/tmp/nc 2>&1 &"
    ));
    let mut struck = 0;
    if kills {
        struck += kill(guest, || !giver.is_finished());
    }
    let wanted = giver.join().expect("the file was sent");
    assert!(guest.until(Duration::from_secs(60), "test -e /tmp/done"), "{}", guest.autopsy());
    let got = guest.must("cat /tmp/sum /tmp/nc; rm /tmp/done");
    assert!(
        got.starts_with(&wanted),
        "{what}: the file that came in has another sum: {got} {}",
        guest.autopsy()
    );
    let inward = begin.elapsed();

    let (listener, port) = listen();
    let taker = take(listener);
    let begin = Instant::now();
    guest.must(&format!("(/axl/nc {KERNEL} {port} </tmp/file; touch /tmp/done) >/tmp/nc 2>&1 &"));
    if kills {
        struck += kill(guest, || !taker.is_finished());
    }
    let (sum, len) = taker.join().expect("the file came");
    assert!(guest.until(Duration::from_secs(60), "test -e /tmp/done"), "{}", guest.autopsy());
    guest.must("rm /tmp/done");
    let wanted = guest.must("cat /tmp/file.sum");
    assert_eq!(len, SIZE, "{what}: the file that went out");
    assert!(wanted.starts_with(&sum), "{what}: the file that went out has another sum");
    let rate = |time: Duration| SIZE as f64 / time.as_secs_f64() / 1e6;
    println!("{what}: in {:.1} MB/s, out {:.1} MB/s, {struck} kills", rate(inward), rate(begin.elapsed()));
}

/// Whether the stack answers an echo of so many bytes soon.
fn answers(len: usize) -> bool {
    let to = STACK.parse().expect("an address");
    ping::ping4(to, &vec![0x61; len], Duration::from_secs(1)).is_ok()
}

/// The cable is pulled out and plugged in again: the chip's own link, as QEMU has it.
fn flaps(guest: &mut Guest, name: &str) {
    for _ in 0..3 {
        guest.qmp("set_link", json!({ "name": "nic", "up": false }));
        assert!(wait_until(PATIENCE, || !answers(56)), "{name}: an answer without a cable");
        guest.qmp("set_link", json!({ "name": "nic", "up": true }));
        assert!(wait_until(PATIENCE, || answers(56)), "{name}: no link again\n{}", guest.autopsy());
    }
    println!("{name}: three flaps of the link");
}

/// The NIC is pulled out under a running group, and another one like it is plugged in.
fn replugged(guest: &mut Guest, name: &str) {
    let bdf = guest.bdf;
    let begin = Instant::now();
    guest.unplug();
    assert!(
        guest.until(PATIENCE, &format!("test ! -e /sys/bus/pci/devices/{bdf}")),
        "{name}: nicd keeps it\n{}",
        guest.autopsy()
    );
    guest.unplugged();
    guest.plug();
    assert!(guest.until(PATIENCE, &format!("test -e /sys/bus/pci/devices/{bdf}")), "{}", guest.autopsy());
    guest.must(&format!("netctl nic bind {bdf}"));
    assert!(wait_until(PATIENCE, || answers(56)), "{name}: no answer by the new one\n{}", guest.autopsy());
    println!("{name}: unplugged and replugged after {:.1} s", begin.elapsed().as_secs_f64());
}

/// Frames of 9000 bytes, whole.
fn jumbo(guest: &mut Guest, name: &str) {
    let bdf = guest.bdf;
    guest.must("supervisor down");
    ip(&format!("link set {TAP} mtu 9000"));
    guest.must(&format!("supervisor up --nic vfio:{bdf} --addr {STACK}/24 --mtu 9000 --detach"));
    for len in [56, 2_000, 4_000, 8_900] {
        assert!(wait_until(PATIENCE, || answers(len)), "{name}: {len} bytes\n{}", guest.autopsy());
    }
    println!("{name}: jumbo frames");
}

/// Two shards, files to both of them at once. A chip with queues puts nearly every frame where it belongs.
fn shards(guest: &mut Guest, name: &str, queues: bool) {
    const FILES: usize = 4;
    const EACH: usize = 4 << 20;
    let bdf = guest.bdf;
    guest.must("supervisor down");
    ip(&format!("link set {TAP} mtu 1500"));
    guest.must(&format!("supervisor up --nic vfio:{bdf} --addr {STACK}/24 --shards 2 --detach"));
    assert!(wait_until(PATIENCE, || answers(56)), "{name}: no answer\n{}", guest.autopsy());
    let (listener, port) = listen();
    let giver = std::thread::spawn(move || {
        let mut bytes = vec![0; EACH];
        chunk(0, &mut bytes);
        let mut sum = Sum::new();
        sum.input().write_all(&bytes).expect("it reads");
        let one = |mut stream: TcpStream| stream.write_all(&bytes).expect("the connection lives");
        std::thread::scope(|all| {
            (0..FILES).for_each(|_| {
                let (stream, _) = listener.accept().expect("the stack connects");
                all.spawn(|| one(stream));
            });
        });
        sum.end()
    });
    let fetch = format!("/axl/nc {KERNEL} {port} </dev/null | sha256sum >>/tmp/sums");
    guest.must(&format!(
        "(for n in $(seq {FILES}); do ({fetch}) & done; wait; touch /tmp/done) >/tmp/nc 2>&1 &"
    ));
    assert!(guest.until(2 * PATIENCE, "test -e /tmp/done"), "{name}\n{}", guest.autopsy());
    let wanted = giver.join().expect("the files were sent");
    let sums = guest.must("cat /tmp/sums; rm /tmp/sums /tmp/done");
    let right = sums.lines().filter(|sum| sum.starts_with(&wanted)).count();
    assert_eq!(right, FILES, "{name}: files with other sums: {sums}\n{}", guest.autopsy());
    let stats = guest.must("netctl stats");
    let count = |wanted: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(wanted));
        line.map_or(0, |rest| rest.trim().parse().expect("a number"))
    };
    let (frames, copied) = (count("nicd_rx_frames "), count("nicd_rx_steered "));
    println!("{name}: two shards: {copied} of {frames} frames were copied");
    if queues {
        assert!(frames > 1_000 && copied * 20 < frames, "{name}: the chip spreads them");
    }
}

fn model(name: &str, device: &str) {
    let parts = match prepare() {
        Ok(parts) => parts,
        Err(reason) => return skip(name, &reason, true),
    };
    let queues = if device == VIRTIO { 2 } else { 1 };
    ip(&format!("tuntap add dev {TAP} mode tap{}", if queues > 1 { " multi_queue" } else { "" }));
    ip(&format!("addr add {KERNEL}/24 dev {TAP}"));
    ip(&format!("link set {TAP} up"));
    let begin = Instant::now();
    let mut guest = Guest::boot(&parts, device, TAP, queues).expect("QEMU starts");
    println!("{name}: booted after {:.1} s", begin.elapsed().as_secs_f64());
    let bdf = guest.bdf;
    let listed = guest.must("netctl nic list");
    assert!(listed.contains(bdf) && listed.contains("netctl nic bind"), "{listed}");
    guest.must(&format!("netctl nic bind {bdf}"));
    guest.must(&format!("supervisor up --nic vfio:{bdf} --addr {STACK}/24 --detach"));
    println!("{name}: link after {:.1} s", begin.elapsed().as_secs_f64());
    assert!(echoes(), "{name}: echo\n{}", guest.autopsy());
    guest.must(&format!(
        "dd if=/dev/urandom of=/tmp/file bs=1M count={} 2>/dev/null && sha256sum /tmp/file >/tmp/file.sum",
        SIZE >> 20
    ));
    transfers(&mut guest, name, false);
    transfers(&mut guest, &format!("{name} under kills"), true);
    flaps(&mut guest, name);
    replugged(&mut guest, name);
    assert!(echoes(), "{name}: echo at the end\n{}", guest.autopsy());
    let drops = guest.must("netctl stats");
    println!("{name}: after {:.1} s\n{drops}", begin.elapsed().as_secs_f64());
    jumbo(&mut guest, name);
    shards(&mut guest, name, name != "e1000e");
    guest.must("supervisor down");
    guest.must(&format!("netctl nic unbind {bdf}"));
}

#[test]
fn e1000e() {
    private_net::test("e1000e", || model("e1000e", "e1000e"));
}

#[test]
fn igb() {
    private_net::test("igb", || model("igb", "igb"));
}

#[test]
fn virtio() {
    private_net::test("virtio", || model("virtio", VIRTIO));
}
