//! The stack beside the kernel on one interface: servers of both, what passes between them and a remote
//! in [`OtherNet`], and kills of the stack's processes with connections to both open.

use super::group::{Group, Program, Role, kernel_sockets};
use super::other_net::OtherNet;
use super::strike::{Plan, Strikes, table};
use super::{fresh_seed, wait_until};
use crate::remote::fleet::{Fleet, Load};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An address of TCP or UDP.
///
/// # Panics
/// When `host` is no address.
pub fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().expect("an address"), port)
}

/// A counter of the kernel's, of the calling thread's network namespace, by its table and its name in
/// /proc/net/snmp (proc_pid_net(5)).
///
/// # Panics
/// When there is none.
pub fn kernel_counter(table: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("counters of the kernel");
    let mut rows = text.lines().filter(|line| line.starts_with(table)).map(str::split_whitespace);
    let (Some(names), Some(values)) = (rows.next(), rows.next()) else { panic!("no {table} in {text}") };
    let found = names.zip(values).find(|(known, _)| *known == name);
    found.and_then(|(_, value)| value.parse().ok()).expect("a count")
}

/// A server of the kernel that echoes; ends with its connections.
///
/// # Panics
/// When it can't listen.
pub fn kernel_echo(on: SocketAddr, connections: usize) {
    let listener = TcpListener::bind(on).expect("the kernel's listener");
    std::thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut out = stream.try_clone().expect("a second handle");
                std::io::copy(&mut stream, &mut out)
            });
        }
    });
}

/// The echo server on the stack, once the remote reaches it at `on`.
///
/// # Panics
/// When it does not listen.
pub fn stack_echo(group: &Group, other: &OtherNet, on: SocketAddr) -> Program {
    let server = group.example("echo", &[&on.port().to_string()]).expect("the echo server");
    let listening = || TcpStream::connect_timeout(&on, Duration::from_secs(2)).is_ok();
    other.run(|| assert!(wait_until(PATIENCE, listening), "echo does not listen"));
    server
}

/// Some bytes there and back over one connection, by its two ends.
///
/// # Panics
/// When other bytes arrive.
pub fn talk(mut one: impl Read + Write + Send, mut other: impl Read + Write + Send) {
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    pass(&sent, &mut one, &mut other);
    pass(&sent, &mut other, &mut one);
}

fn pass(sent: &[u8], from: &mut (impl Write + Send), to: &mut impl Read) {
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(sent).expect("written"));
        let mut got = vec![0; sent.len()];
        to.read_exact(&mut got).expect("read");
        assert!(got == sent, "other bytes arrived");
    });
}

/// Connections of the remote's: to the stack, how many of those are under load, and to the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// The stack's server, and its connections.
    pub stack: (SocketAddr, usize),
    /// Of those, the ones under load.
    pub loaded: usize,
    /// The kernel's server, and its connections.
    pub kernel: (SocketAddr, usize),
}

/// Kills the stack's processes in the order of `roles`, `AXOLOTL_INTERFACE_KILLS` (24) in all, with
/// connections to the stack and to the kernel open: none is lost, and `answers`, what the kernel has said
/// for what is the stack's, stays as it is. `AXOLOTL_STORM_SEED` (random) decides when.
///
/// # Panics
/// When a connection or a byte is lost.
pub fn kills(
    group: &Group,
    other: &OtherNet,
    crowd: Crowd,
    roles: &[Role],
    answers: impl Fn() -> (u64, u64),
) {
    let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = setting("AXOLOTL_STORM_SEED").unwrap_or_else(fresh_seed);
    println!("AXOLOTL_STORM_SEED={seed}");
    let Crowd { stack: (server, connections), loaded, kernel: (kernels, beside) } = crowd;
    let _server = stack_echo(group, other, server);
    kernel_echo(kernels, beside);
    let streams = other.run(|| kernel_sockets(connections, server)).expect("every connection opens");
    let others = other.run(|| kernel_sockets(beside, kernels)).expect("the kernel accepts");
    let load =
        Load { loaded, ahead: 128 * 1024, rate: u64::MAX, murmur_every: Duration::from_millis(20), seed };
    let fleet = Fleet::launch(streams, load).expect("a fleet");
    // The kernel's own goes on at a pace that leaves the cable to the stack.
    let slow = Load { loaded: beside, rate: 1 << 20, seed: !seed, ..load };
    let kernels = Fleet::launch(others, slow).expect("a fleet");
    let before = answers();
    let pause = Duration::from_millis(20)..Duration::from_millis(120);
    let mut strikes = Strikes::new(group, &fleet, || fleet.bytes(), seed, pause);
    for n in 0..setting("AXOLOTL_INTERFACE_KILLS").unwrap_or(24) as usize {
        let plan = Plan::one(roles[n % roles.len()]);
        strikes.strike(&plan).expect("the group heals and bytes move");
        assert_eq!((fleet.lost(), fleet.wrong()), (0, 0), "after {plan:?}");
    }
    strikes.end();
    let tallies = strikes.tallies().clone();
    drop(strikes);
    assert_eq!(answers(), before, "the kernel answered for what is the stack's");
    let went_on = kernels.bytes();
    assert!(wait_until(PATIENCE, || kernels.bytes() > went_on), "the kernel's own connections go on");
    let report = fleet.finish(PATIENCE).expect("a report");
    println!("{}", table(&tallies, connections as u64, &report.silences));
    assert_eq!(report.lost, Vec::<String>::new());
    assert_eq!((report.clean, report.bytes_wrong), (connections, 0));
    let report = kernels.finish(PATIENCE).expect("a report");
    assert_eq!((report.lost, report.bytes_wrong), (Vec::new(), 0), "the kernel's own connections");
}

/// Tests in a network namespace of their own, by name and body.
#[macro_export]
macro_rules! tests {
    ($($name:ident = $body:expr;)*) => {
        $(#[test]
        fn $name() {
            $crate::process::private_net::test(stringify!($name), || $body);
        })*
    };
}
