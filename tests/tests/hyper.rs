//! hyper on the stack: its server fetched by the kernel's curl while netd is killed, its client at a
//! server of the kernel.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;
use tests::process::group::{Group, Role, Spec};
use tests::process::{private_net, wait_until};

const STACK: &str = "10.82.0.2";
const KERNEL: &str = "10.82.0.1";
const PORT: u16 = 8080;

fn up() -> Group {
    let spec = Spec {
        nic: "tap:axl8".into(),
        addr: format!("{STACK}/24"),
        tap_addr: Some(format!("{KERNEL}/24")),
        more: Vec::new(),
    };
    Group::up(&spec).expect("a group")
}

fn curl(args: &[&str]) -> Vec<u8> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "60"]).args(args);
    let output = command.output().expect("curl");
    assert!(output.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn curl_fetches_from_hyper_under_kills() {
    private_net::test("curl_fetches_from_hyper_under_kills", || {
        let group = up();
        let _server = group.example("hyper_hello", &["serve", &PORT.to_string()]).expect("the server");
        let address: SocketAddr = format!("{STACK}:{PORT}").parse().expect("an address");
        let listening = || TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok();
        assert!(wait_until(Duration::from_secs(20), listening), "it listens");
        let url = format!("http://{STACK}:{PORT}/a/path");
        assert_eq!(curl(&[&url]), b"hello from /a/path\n");
        // Twice over one connection.
        assert_eq!(curl(&[&url, &url]), b"hello from /a/path\nhello from /a/path\n");
        // Large bodies both ways, slow enough to meet a death of netd.
        let body: Vec<u8> =
            (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let path = group.dir().join("body");
        std::fs::write(&path, &body).expect("written");
        let post = format!("@{}", path.display());
        std::thread::scope(|scope| {
            let fetching = scope.spawn(|| curl(&["--limit-rate", "3M", "--data-binary", &post, &url]));
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(150));
                assert!(wait_until(Duration::from_secs(15), || group.whole()), "the group heals");
                let row = group.find(Role::Netd).expect("netd runs");
                Group::signal(&row, rustix::process::Signal::KILL);
            }
            assert!(fetching.join().expect("fetched") == body, "every byte came back");
        });
    });
}

#[test]
fn hyper_fetches_from_a_server_of_the_kernel() {
    private_net::test("hyper_fetches_from_a_server_of_the_kernel", || {
        let group = up();
        let listener = TcpListener::bind((KERNEL, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port().to_string();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client");
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).expect("a request");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\nfrom a kernel\n";
            stream.write_all(answer).expect("answered");
            request
        });
        let mut command = group.command("examples/hyper_hello");
        let output = command.args(["get", KERNEL, &port, "/it"]).output().expect("the client");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200 OK\nfrom a kernel\n");
        assert_eq!(serving.join().expect("served"), "GET /it HTTP/1.1\r\n");
    });
}
