//! Links and ways of a host that has several: VLANs, with the kernel as their other member.

use libnetclient::{Session, Size};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use tests::process::access_port::AccessPort;
use tests::process::group::{Group, Program, Role, Spec, kernel_sockets};
use tests::process::{private_net, wait_until};
use tests::remote::counter;
use tests::remote::fleet::{Fleet, Load};

const NIC: &str = "axl31";
const STACK: &str = "10.91.0.2";
const KERNEL: &str = "10.91.0.1";
const ECHO_PORT: u16 = 7007;
const PATIENCE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

struct Host {
    group: Group,
    _echo: Program,
}

impl Host {
    /// A group on a TAP, with an echo server on all its addresses.
    fn set_up() -> Host {
        let spec = Spec {
            nic: format!("tap:{NIC}"),
            addr: format!("{STACK}/24"),
            tap_addr: Some(format!("{KERNEL}/24")),
            more: Vec::new(),
        };
        let group = Group::up(&spec).expect("a group");
        let echo = group.example("echo", &[&ECHO_PORT.to_string()]).expect("the echo server");
        let host = Host { group, _echo: echo };
        assert!(wait_until(PATIENCE, || reaches(STACK)), "echo does not listen");
        host
    }

    fn netctl(&self, words: &str) {
        let output = self.group.command("netctl").args(words.split_whitespace()).output().expect("it runs");
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn session(&self) -> Session {
        self.group.session(Size::default()).expect("a session")
    }

    /// kill -9, and the successor in service.
    fn kill(&self, role: Role) {
        let before = self.group.find(role).expect("it runs");
        Group::signal(&before, Signal::KILL);
        let replaced = || self.group.find(role).is_some_and(|row| row.pid != before.pid && row.in_service);
        assert!(wait_until(PATIENCE, replaced), "{:?}", self.group.processes());
    }
}

fn reaches(addr: &str) -> bool {
    let addr = SocketAddr::new(addr.parse().expect("an address"), ECHO_PORT);
    TcpStream::connect_timeout(&addr, SECOND).is_ok()
}

/// The kernel is the other member of a VLAN: connections both ways, full segments and all, while every daemon
/// that could forget the VLAN dies.
#[test]
fn the_kernel_in_a_vlan_loses_nothing() {
    private_net::test("the_kernel_in_a_vlan_loses_nothing", || {
        const KILLED: [Role; 8] = [
            Role::Netd,
            Role::Nicd,
            Role::Netd,
            Role::Sockd,
            Role::Supervisor,
            Role::Netd,
            Role::Nicd,
            Role::Netd,
        ];
        let host = Host::set_up();
        host.netctl("link add link nic0 name lab type vlan id 7");
        host.netctl("addr add 10.92.0.2/24 dev lab");
        let _port = AccessPort::open(NIC, 7, "10.92.0.1/24").expect("the kernel in the VLAN");
        assert!(wait_until(PATIENCE, || reaches("10.92.0.2")), "nothing goes by the VLAN");
        let addr = "10.92.0.2:7007".parse().expect("an address");
        let streams = kernel_sockets(8, addr).expect("connections");
        let load = Load { loaded: 8, ahead: 64 * 1024, rate: 1 << 20, murmur_every: SECOND, seed: 11 };
        let fleet = Fleet::launch(streams, load).expect("a fleet");
        for (kill, role) in KILLED.into_iter().enumerate() {
            let moved = fleet.bytes();
            assert!(wait_until(PATIENCE, || fleet.bytes() > moved), "nothing moves before kill {kill}");
            host.kill(role);
        }
        let report = fleet.finish(2 * PATIENCE).expect("a report");
        assert_eq!(report.lost, Vec::<String>::new());
        assert_eq!((report.clean, report.bytes_wrong), (8, 0));
        // The other way, begun by the stack.
        let listener = TcpListener::bind(("10.92.0.1", 0)).expect("a port");
        let session = host.session();
        let to = listener.local_addr().expect("bound");
        let mut sender = libnetclient::TcpStream::connect_in(&session, to).expect("the kernel answers");
        let (mut receiver, from) = listener.accept().expect("a connection");
        assert_eq!(from.ip().to_string(), "10.92.0.2");
        let sent = std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 20];
            counter::fill(3, 0, &mut bytes);
            sender.write_all(&bytes)
        });
        receiver.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        host.kill(Role::Netd);
        let mut got = vec![0; 1 << 20];
        receiver.read_exact(&mut got).expect("all of it");
        sent.join().expect("no panic").expect("written");
        assert_eq!(counter::wrong(3, 0, &got), 0);
        assert!(reaches(STACK), "what has no tag is as it was");
    });
}
