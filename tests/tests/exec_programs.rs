//! Programs that people run, unmodified, against the kernel as the remote, while netexec's server is
//! killed again and again: each result is byte-equal to what the kernel's side has. A program that is not
//! here is skipped, and said so; where everything is asked for (`CI=true`) that is a failure.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::process::exec::{Running, ServerKiller, on_the_stack, printed, program};
use tests::process::group::{Group, Spec};
use tests::process::{fresh_seed, private_net, skip, wait_until};
use tests::remote::{counter, web};

const STACK: &str = "10.87.0.2";
const KERNEL: &str = "10.87.0.1";
/// Longer than any machine takes for a step, however busy it is.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of the file that is transferred.
const SIZE: usize = 6 << 20;
/// The bytes of the file are the counter stream of this seed.
const SEED: u64 = 87;

fn started() -> Group {
    let spec = Spec {
        nic: "tap:axl16".into(),
        addr: format!("{STACK}/24"),
        tap_addr: Some(format!("{KERNEL}/24")),
        more: Vec::new(),
    };
    Group::up(&spec).expect("a group")
}

/// Runs a test in a private network if its programs are here.
fn with(test: &str, names: &[&str], body: impl FnOnce(&[String])) {
    let found: Vec<Option<PathBuf>> = names.iter().map(|name| program(name)).collect();
    if let Some(missing) = found.iter().position(Option::is_none) {
        return skip(test, &format!("{} is not here: ./run.sh test fetches it", names[missing]), true);
    }
    let found: Vec<String> =
        found.into_iter().flatten().map(|path| path.to_str().expect("a plain name").to_owned()).collect();
    private_net::test(test, || body(&found));
}

fn file() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    counter::fill(SEED, 0, &mut bytes);
    bytes
}

fn assert_is_the_file(bytes: &[u8]) {
    assert_eq!(bytes.len(), SIZE);
    assert_eq!(counter::wrong(SEED, 0, bytes), 0, "bytes that are wrong");
}

/// Serves the file to whoever asks, by the kernel's sockets, not faster than a strike takes.
fn kernel_server() -> u16 {
    web::serve(KERNEL, SIZE as u64, SEED, Duration::from_millis(3))
}

fn killer(group: &Group) -> ServerKiller {
    let seed = fresh_seed();
    println!("seed {seed}");
    ServerKiller::start(group, Duration::from_millis(50), seed)
}

fn listens(port: u16) -> bool {
    let to = format!("{STACK}:{port}").parse().expect("an address");
    wait_until(PATIENCE, || TcpStream::connect_timeout(&to, PATIENCE).is_ok())
}

/// What a program of the kernel's side prints.
fn output(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().expect("it is here");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = (text(&output.stdout[..output.stdout.len().min(2000)]), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {} {said:?}", output.status);
    output.stdout
}

#[test]
fn downloads() {
    with("downloads", &["wget", "busybox", "bash"], |programs| {
        let group = started();
        let [wget, busybox, bash] = programs else { panic!("three programs") };
        let port = kernel_server();
        let url = format!("http://{KERNEL}:{port}/");
        let to = group.dir().join("fetched");
        let name = to.to_str().expect("a plain name");
        let by_hand = format!(
            "exec 3<>/dev/tcp/{KERNEL}/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; \
             while IFS= read -r line <&3 && [ \"$line\" != $'\\r' ]; do :; done; exec cat <&3 >{name}"
        );
        let commands = [
            vec![wget.as_str(), "-q", "-O", name, &url],
            vec![busybox.as_str(), "wget", "-q", "-O", name, &url],
            vec![bash.as_str(), "-c", &by_hand],
        ];
        for command in commands {
            let killer = killer(&group);
            printed(&group, &command);
            println!("{}: {} servers died", command[0], killer.killed());
            assert_is_the_file(&std::fs::read(&to).expect("a file"));
            std::fs::remove_file(&to).expect("it was there");
        }
    });
}

#[test]
fn nginx_serves_passes_on_and_reloads() {
    with("nginx_serves_passes_on_and_reloads", &["nginx", "curl", "wrk"], |programs| {
        let group = started();
        let [nginx, curl, wrk] = programs else { panic!("three programs") };
        let dir = group.dir().join("nginx");
        std::fs::create_dir_all(dir.join("logs")).expect("a directory");
        std::fs::write(dir.join("file"), file()).expect("room");
        std::fs::write(dir.join("small"), [b'x'; 512]).expect("room");
        let (top, port) = (dir.display(), kernel_server());
        let text = format!(
            "user root; worker_processes 2; daemon off; pid {top}/pid; error_log {top}/error;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; keepalive_timeout 60;\n\
               client_body_temp_path {top}/a; proxy_temp_path {top}/b; fastcgi_temp_path {top}/c;\n\
               uwsgi_temp_path {top}/d; scgi_temp_path {top}/e;\n\
               upstream kernel {{ server {KERNEL}:{port}; keepalive 4; }}\n\
               server {{ listen {STACK}:8080; root {top};\n\
                 location /through {{ proxy_pass http://kernel/; proxy_http_version 1.1; }} }} }}\n"
        );
        std::fs::write(dir.join("conf"), text).expect("room");
        let conf = dir.join("conf");
        let conf = conf.to_str().expect("a plain name");
        let server = ["-p", &top.to_string(), "-c", conf].map(str::to_owned);
        let mut words = vec![nginx.as_str()];
        words.extend(server.iter().map(String::as_str));
        // Workers outlive a master that is killed: nobody waits for what they might print.
        let (out, err) = (Stdio::null(), Stdio::null());
        let server = on_the_stack(&group, &words).stdout(out).stderr(err).spawn();
        let mut server = Running(server.expect("netexec is built"));
        assert!(listens(8080), "{:?}", std::fs::read_to_string(dir.join("error")));
        let get = |path: &str| {
            let url = format!("http://{STACK}:8080{path}");
            output(Command::new(curl).args(["-s", "-S", "-f", "--limit-rate", "8M", &url]))
        };
        let killer = killer(&group);
        assert_is_the_file(&get("/file"));
        assert_is_the_file(&get("/through"));
        let pid = std::fs::read_to_string(dir.join("pid")).expect("a pid");
        output(Command::new("kill").args(["-HUP", pid.trim()]));
        assert_is_the_file(&get("/file"));
        assert_is_the_file(&get("/through"));
        let url = format!("http://{STACK}:8080/small");
        let said = output(Command::new(wrk).args(["-t2", "-c64", "-d2", "--timeout", "100s", &url]));
        let said = String::from_utf8_lossy(&said).into_owned();
        println!("{said}{} servers died", killer.killed());
        assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
        drop(killer);
        output(Command::new("kill").args(["-TERM", pid.trim()]));
        let gone = || server.0.try_wait().is_ok_and(|status| status.is_some());
        assert!(wait_until(PATIENCE, gone), "nginx does not end");
    });
}

#[test]
fn redis_under_its_benchmark() {
    with("redis_under_its_benchmark", &["redis-server", "redis-benchmark"], |programs| {
        let group = started();
        let [server, benchmark] = programs else { panic!("two programs") };
        let words = [server, "--bind", STACK, "--port", "6380", "--save", "", "--protected-mode", "no"];
        let mut command = on_the_stack(&group, &words);
        let _server = Running(
            command.stdout(Stdio::null()).current_dir(group.dir()).spawn().expect("netexec is built"),
        );
        assert!(listens(6380), "it does not listen");
        let killer = killer(&group);
        let load =
            ["-h", STACK, "-p", "6380", "-c", "500", "-n", "20000", "-q", "-t", "set,get", "-d", "100"];
        let said = output(Command::new(benchmark).args(load));
        println!("{}{} servers died", String::from_utf8_lossy(&said), killer.killed());
        assert_eq!(String::from_utf8_lossy(&said).matches("requests per second").count(), 2);
    });
}

#[test]
fn iperf3_both_ways() {
    with("iperf3_both_ways", &["iperf3"], |programs| {
        let group = started();
        let iperf3 = &programs[0];
        let serve =
            Command::new(iperf3).args(["-s", "-B", KERNEL, "-p", "5202"]).stdout(Stdio::null()).spawn();
        let _server = Running(serve.expect("it is here"));
        let killer = killer(&group);
        for more in [&["-P", "1"][..], &["-P", "8", "-R"], &["-P", "8"]] {
            let mut words = vec![iperf3.as_str(), "-c", KERNEL, "-p", "5202", "-t", "1", "-J"];
            words.extend(more);
            let mut said = String::new();
            // Its server may not listen yet. A connection that asks for nothing would make it listen anew.
            wait_until(PATIENCE, || {
                said = printed(&group, &words);
                !said.contains("unable to connect to server: Connection refused")
            });
            assert!(said.contains("\"sum_received\"") && !said.contains("\"error\""), "{said}");
        }
        println!("{} servers died", killer.killed());
    });
}

/// Without kills: what asks for a test of datagrams is a datagram, which a kill may lose.
#[test]
fn iperf3_sends_and_receives_datagrams() {
    with("iperf3_sends_and_receives_datagrams", &["iperf3"], |programs| {
        let group = started();
        let iperf3 = &programs[0];
        // Its server is not looked at by a connection: one that asks for nothing makes it listen anew.
        let received = |client: &mut dyn FnMut() -> Command| {
            let mut said = String::new();
            let done = wait_until(PATIENCE, || {
                let output = client().stdin(Stdio::null()).output().expect("it is here");
                said = String::from_utf8_lossy(&output.stdout).into_owned();
                output.status.success() && !said.contains("\"error\"")
            });
            assert!(done, "{said}");
            let report: serde_json::Value = serde_json::from_str(&said).expect("a report");
            assert!(report["end"]["sum_received"]["bytes"].as_u64() > Some(0), "{said}");
        };
        let load = ["-u", "-b", "10M", "-t", "1", "-J"];
        let mut serve = Command::new(iperf3);
        let _server =
            Running(quiet(serve.args(["-s", "-B", KERNEL, "-p", "5203"])).spawn().expect("it is here"));
        for more in [&[][..], &["-R"]] {
            let words = [&[iperf3.as_str(), "-c", KERNEL, "-p", "5203"][..], &load, more].concat();
            received(&mut || on_the_stack(&group, &words));
        }
        let mut serve = on_the_stack(&group, &[iperf3, "-s", "-B", STACK, "-p", "5204"]);
        let _server = Running(quiet(&mut serve).spawn().expect("netexec is built"));
        received(&mut || {
            let mut client = Command::new(iperf3);
            client.args(["-c", STACK, "-p", "5204"]).args(load);
            client
        });
    });
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

#[test]
fn git_clones_over_http() {
    with("git_clones_over_http", &["git", "python3"], |programs| {
        let group = started();
        let [git, python3] = programs else { panic!("two programs") };
        let here = group.dir().join("git");
        let (work, bare) = (here.join("work"), here.join("bare.git"));
        std::fs::create_dir_all(&work).expect("a directory");
        std::fs::write(work.join("file"), file()).expect("room");
        let text = |path: &Path| path.to_str().expect("a plain name").to_owned();
        let run = |words: &[&str]| {
            let author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*"];
            output(Command::new(git).args(author).args(words).current_dir(&work).env("HOME", &here))
        };
        run(&["init", "-q"]);
        run(&["add", "file"]);
        run(&["commit", "-q", "-m", "one"]);
        run(&["clone", "-q", "--bare", &text(&work), &text(&bare)]);
        run(&["--git-dir", &text(&bare), "update-server-info"]);
        let serve = ["-m", "http.server", "8001", "--bind", KERNEL, "--directory", &text(&here)];
        let mut server = Command::new(python3);
        server.args(serve).stdout(Stdio::null()).stderr(Stdio::null());
        let _server = Running(server.spawn().expect("it is here"));
        let to: std::net::SocketAddr = format!("{KERNEL}:8001").parse().expect("an address");
        assert!(wait_until(PATIENCE, || TcpStream::connect_timeout(&to, PATIENCE).is_ok()));
        let killer = killer(&group);
        let (url, clone) = (format!("http://{KERNEL}:8001/bare.git"), here.join("clone"));
        printed(&group, &[git, "clone", "-q", &url, &text(&clone)]);
        println!("{} servers died", killer.killed());
        assert_is_the_file(&std::fs::read(clone.join("file")).expect("a file"));
    });
}

/// Go's runtime makes its system calls itself.
#[test]
fn a_go_program_serves_and_asks() {
    with("a_go_program_serves_and_asks", &["caddy", "curl"], |programs| {
        let group = started();
        let [caddy, curl] = programs else { panic!("two programs") };
        let dir = group.dir().join("caddy");
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("file"), file()).expect("room");
        let (top, port) = (dir.display(), kernel_server());
        let text = format!(
            "{{\n admin off\n auto_https off\n}}\nhttp://{STACK}:8083 {{\n handle /through {{\n  \
             reverse_proxy {KERNEL}:{port}\n }}\n handle {{\n  root * {top}\n  file_server\n }}\n}}\n"
        );
        let conf = dir.join("conf");
        std::fs::write(&conf, text).expect("room");
        let conf = conf.to_str().expect("a plain name");
        let mut command = on_the_stack(&group, &[caddy, "run", "--config", conf, "--adapter", "caddyfile"]);
        command.env("HOME", &dir).stdout(Stdio::null()).stderr(Stdio::null());
        let _server = Running(command.spawn().expect("netexec is built"));
        assert!(listens(8083), "it does not listen");
        let killer = killer(&group);
        for path in ["/file", "/through"] {
            let url = format!("http://{STACK}:8083{path}");
            assert_is_the_file(&output(Command::new(curl).args(["-s", "-S", "-f", &url])));
        }
        println!("{} servers died", killer.killed());
    });
}

/// Logging in needs the rights of root, a user for what sshd does before, and a directory of its own.
#[test]
fn sshd_and_scp() {
    const TEST: &str = "sshd_and_scp";
    let user = std::fs::read_to_string("/etc/passwd").is_ok_and(|text| text.contains("\nsshd:"));
    if !rustix::process::geteuid().is_root() || !user {
        return skip(TEST, "sshd wants root and its own user", false);
    }
    if ["sshd", "scp", "ssh-keygen"].iter().any(|name| program(name).is_none()) {
        return skip(TEST, "openssh-server or openssh-client is not here", false);
    }
    with(TEST, &["sshd", "scp", "ssh-keygen", "unshare"], |programs| {
        let group = started();
        let [sshd, scp, keygen, unshare] = programs else { panic!("four programs") };
        let dir = group.dir().join("ssh");
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = |name: &str| dir.join(name).to_str().expect("a plain name").to_owned();
        for key in ["host", "user"] {
            output(Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]));
        }
        std::fs::write(path("file"), file()).expect("room");
        let serve = |address: &str| {
            let text = format!(
                "Port 2222\nListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile {}\n\
                 StrictModes no\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
                path("host"),
                path("user.pub"),
                path(address),
            );
            std::fs::write(path("conf"), text).expect("room");
            // The machine's own /run stays as it is.
            let enter = "mount -t tmpfs none /run && mkdir /run/sshd && exec \"$@\"".to_owned();
            [unshare, "--mount", "sh", "-c", &enter, "sh", sshd, "-D", "-f", &path("conf")].map(str::to_owned)
        };
        let copy = |from: &str, to: &str| {
            let words = format!(
                "-q -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -P 2222 \
                 {from} {to}",
                path("user")
            );
            words.split(' ').map(str::to_owned).collect::<Vec<_>>()
        };
        let is_there = |name: &str| {
            assert_is_the_file(&std::fs::read(path(name)).expect("a file"));
            std::fs::remove_file(path(name)).expect("it was there");
        };
        let quiet = |mut command: Command| {
            Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("a program"))
        };
        let (there, file) = (path("there"), path("file"));
        {
            let words = serve(STACK);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let _server = quiet(on_the_stack(&group, &words));
            assert!(listens(2222), "it does not listen");
            let killer = killer(&group);
            output(Command::new(scp).args(copy(&file, &format!("root@{STACK}:{there}"))));
            is_there("there");
            output(Command::new(scp).args(copy(&format!("root@{STACK}:{file}"), &there)));
            is_there("there");
            println!("{} servers died", killer.killed());
        }
        let words = serve(KERNEL);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let _server = quiet(command);
        let to: std::net::SocketAddr = format!("{KERNEL}:2222").parse().expect("an address");
        assert!(wait_until(PATIENCE, || TcpStream::connect_timeout(&to, PATIENCE).is_ok()));
        let killer = killer(&group);
        for (from, to) in [
            (file.clone(), format!("root@{KERNEL}:{there}")),
            (format!("root@{KERNEL}:{file}"), there.clone()),
        ] {
            let words = copy(&from, &to);
            let words: Vec<&str> =
                [scp.as_str()].into_iter().chain(words.iter().map(String::as_str)).collect();
            printed(&group, &words);
            is_there("there");
        }
        println!("{} servers died", killer.killed());
    });
}

#[test]
fn node_serves_and_asks() {
    with("node_serves_and_asks", &["node", "curl"], |programs| {
        let group = started();
        let [node, curl] = programs else { panic!("two programs") };
        let path = group.dir().join("file");
        std::fs::write(&path, file()).expect("room");
        let (path, port) = (path.display(), kernel_server());
        let script = format!(
            "const http = require('http'), fs = require('fs');\n\
             http.createServer((q, a) => q.url == '/through'\n\
               ? http.get('http://{KERNEL}:{port}/', r => r.pipe(a)) : fs.createReadStream('{path}').pipe(a))\n\
             .listen(8081, '{STACK}');\n\
             if (!Object.values(require('os').networkInterfaces()).flat().some(i => i.address == '{STACK}'))\n\
               process.exit(9);"
        );
        let _server = Running(on_the_stack(&group, &[node, "-e", &script]).spawn().expect("built"));
        assert!(listens(8081), "it does not listen");
        let killer = killer(&group);
        for path in ["/", "/through"] {
            let url = format!("http://{STACK}:8081{path}");
            assert_is_the_file(&output(Command::new(curl).args(["-s", "-S", "-f", &url])));
        }
        println!("{} servers died", killer.killed());
    });
}

#[test]
fn asyncio_on_both_sides() {
    with("asyncio_on_both_sides", &["python3"], |programs| {
        let group = started();
        let port = kernel_server();
        let script = format!(
            r#"
import asyncio, hashlib
async def fetch(host, port):
    r, w = await asyncio.open_connection(host, port); w.write(b'GET / HTTP/1.0\r\n\r\n'); await w.drain()
    await r.readuntil(b'\r\n\r\n'); b = await r.read(-1); w.close(); return b
async def echo(r, w):
    while b := await r.read(65536): w.write(b); await w.drain()
    w.close()
async def back(port, bytes):
    r, w = await asyncio.open_connection('{STACK}', port)
    async def write(): w.write(bytes); await w.drain(); w.write_eof()
    _, got = await asyncio.gather(write(), r.read(-1)); w.close(); assert got == bytes, (len(got), len(bytes))
async def main():
    server = await asyncio.start_server(echo, '{STACK}', 8082)
    file = await fetch('{KERNEL}', {port})
    await asyncio.gather(*(back(8082, file[n * 1000:n * 1000 + 300000]) for n in range(20)))
    print(len(file), hashlib.sha256(file).hexdigest())
asyncio.run(main())
"#
        );
        let killer = killer(&group);
        let said = printed(&group, &[&programs[0], "-c", &script]);
        println!("{} servers died", killer.killed());
        let path = group.dir().join("file");
        std::fs::write(&path, file()).expect("room");
        let sum = output(Command::new("sha256sum").arg(&path));
        let sum = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();
        assert_eq!(said, format!("{SIZE} {sum}\n"));
    });
}

/// A name server on the kernel's side: A and AAAA of `host.axl.test`, a long answer by TCP alone.
fn name_server() -> std::thread::JoinHandle<()> {
    fn answer(query: &[u8], by_tcp: bool) -> Vec<u8> {
        let mut at = 12;
        let mut name = Vec::new();
        while let Some(len) = query.get(at).copied().filter(|len| *len > 0) {
            name.extend_from_slice(&query[at + 1..at + 1 + usize::from(len)]);
            name.push(b'.');
            at += 1 + usize::from(len);
        }
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let question = &query[12..at + 5];
        let name = String::from_utf8_lossy(&name).to_lowercase();
        let (count, data): (u8, &[u8]) = match (name.as_str(), kind) {
            ("host.axl.test.", 1) => (1, &[10, 87, 0, 1]),
            ("host.axl.test.", 28) => (1, &[0xfd, 0, 0, 0, 0, 0x87, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            ("long.axl.test.", 1) => (60, &[10, 87, 9, 0]),
            ("long.axl.test.", _) => (0, &[]),
            _ => (0, &[]),
        };
        let known = name == "host.axl.test." || name == "long.axl.test.";
        let cut = count > 20 && !by_tcp;
        let mut out = query[..2].to_vec();
        out.extend([0x85 | if cut { 2 } else { 0 }, if known { 0x80 } else { 0x83 }]);
        out.extend([0, 1, 0, if cut { 0 } else { count }, 0, 0, 0, 0]);
        out.extend_from_slice(question);
        for n in 0..if cut { 0 } else { count } {
            out.extend([0xc0, 12]);
            out.extend(kind.to_be_bytes());
            out.extend([0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            out.extend_from_slice(data);
            if count > 1 {
                *out.last_mut().expect("an address") = n + 1;
            }
        }
        out
    }
    let udp = UdpSocket::bind((KERNEL, 53)).expect("port 53");
    let tcp = TcpListener::bind((KERNEL, 53)).expect("port 53");
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut serve = || -> std::io::Result<()> {
                loop {
                    let mut len = [0; 2];
                    stream.read_exact(&mut len)?;
                    let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
                    stream.read_exact(&mut query)?;
                    let answer = answer(&query, true);
                    stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat())?;
                }
            };
            // The end of a connection is an error of read_exact.
            let _ = serve();
        }
    });
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((len, from)) = udp.recv_from(&mut query) {
            // A query that is lost is asked again.
            let _ = udp.send_to(&answer(&query[..len], false), from);
        }
    })
}

#[test]
fn names_are_looked_up_through_the_stack() {
    with("names_are_looked_up_through_the_stack", &["python3", "unshare"], |programs| {
        let group = started();
        let _server = name_server();
        let (resolv, hosts) = (group.dir().join("resolv.conf"), group.dir().join("hosts"));
        let text =
            format!("nameserver {KERNEL}\nsearch nowhere.test axl.test\noptions timeout:20 attempts:3\n");
        std::fs::write(&resolv, text).expect("room");
        std::fs::write(&hosts, "127.0.0.1 localhost\n10.87.0.77 only-in-hosts\n").expect("room");
        let netexec = group.command("netexec");
        let script = r#"
import socket
of = lambda name, family: sorted({a[4][0] for a in socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM)})
assert of('only-in-hosts', socket.AF_INET) == ['10.87.0.77'], 'the hosts file'
assert of('host.axl.test', socket.AF_INET) == ['10.87.0.1'], 'A'
assert of('host.axl.test', socket.AF_INET6) == ['fd00:0:87::1'], 'AAAA'
assert of('host', socket.AF_INET) == ['10.87.0.1'], 'the search list'
assert set(of('host.axl.test', socket.AF_UNSPEC)) >= {'10.87.0.1'}
assert len(of('long.axl.test', socket.AF_INET)) == 60, 'by TCP'
try: socket.getaddrinfo('missing.axl.test', 80); assert False
except socket.gaierror: pass
print('held')
"#;
        // The files are this program's alone.
        let enter = format!(
            "mount --bind {} /etc/resolv.conf && mount --bind {} /etc/hosts && exec {} -- {} -c \"$0\"",
            resolv.display(),
            hosts.display(),
            netexec.get_program().to_str().expect("a plain name"),
            programs[0]
        );
        let mut command = Command::new(&programs[1]);
        command.args(["--mount", "sh", "-c", &enter, script]);
        command.envs(netexec.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert_eq!(String::from_utf8_lossy(&output(&mut command)), "held\n");
    });
}
