//! System calls under load: those of a TAP for its frames, and a few for each batch. A Group of real
//! processes that carries a stream both ways, with strace(1) counting.

use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::bench::paths::stack_spec;
use tests::process::group::{Group, Role};
use tests::process::{private_net, skip, wait_until};

const TEST: &str = "system_calls_are_those_of_the_tap_and_a_few_for_each_batch";
const STACK: &str = "10.79.7.2";
const ECHO: u16 = 7007;
/// How long is counted.
const SPAN: Duration = Duration::from_secs(3);
/// Calls beside the frames' own that a batch may take: look, yield, sleep, wake a peer, drain a pipe
/// of a client, wake it. A batch ends with one epoll_wait.
const PER_BATCH: u64 = 8;

/// Calls by name: all, and those that failed.
type Calls = BTreeMap<String, (u64, u64)>;

/// strace at work on one process.
struct Tracer(Child, PathBuf);

impl Tracer {
    fn attach(pid: u32, report: PathBuf) -> Result<Tracer, String> {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-o"]).arg(&report).args(["-p", &pid.to_string()]);
        let child = strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let mut tracer = Tracer(child, report);
        let mut line = String::new();
        let said = tracer.0.stderr.take().ok_or("no standard error")?;
        BufReader::new(said).read_line(&mut line).map_err(|e| e.to_string())?;
        if line.contains("attached") { Ok(tracer) } else { Err(line.trim().to_owned()) }
    }

    /// Lets go; what was counted.
    fn end(mut self) -> Calls {
        let pid = Pid::from_child(&self.0);
        rustix::process::kill_process(pid, Signal::INT).expect("our own child");
        self.0.wait().expect("our own child");
        parse(&std::fs::read_to_string(&self.1).expect("strace's report"))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of `strace -c`: share, seconds, time of each, calls, perhaps errors, name.
fn parse(report: &str) -> Calls {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.last().filter(|name| **name != "total")?;
        let calls = words.get(3)?.parse().ok()?;
        let failed = if words.len() == 6 { words[4].parse().ok()? } else { 0 };
        Some(((*name).to_owned(), (calls, failed)))
    };
    report.lines().filter_map(line).collect()
}

#[test]
fn a_report_is_understood() {
    let calls = parse(
        "% time     seconds  usecs/call     calls    errors syscall\n\
         ------ ----------- ----------- --------- --------- ----------------\n \
         62.57    0.221922          31      7012       710 readv\n  \
         5.68    0.020155          33       606           write\n\
         100.00    0.354692          32     11030       710 total\n",
    );
    let wanted = [("readv".to_owned(), (7012, 710)), ("write".to_owned(), (606, 0))];
    assert_eq!(calls, BTreeMap::from(wanted));
}

/// Sends as fast as it goes and reads what comes back, until told to stop.
fn carry(to: &str, stop: &AtomicBool) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let mut back = stream.try_clone()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while back.read(&mut chunk).is_ok_and(|n| n > 0) {}
        });
        let chunk = vec![7; 64 * 1024];
        while !stop.load(Ordering::Relaxed) {
            stream.write_all(&chunk)?;
        }
        stream.shutdown(std::net::Shutdown::Write)
    })
}

fn frames(group: &Group) -> u64 {
    let counters = group.access().counters();
    let of = |name: &str| counters.get(&(Role::Nicd, name.to_owned())).copied().unwrap_or(0);
    of("rx_frames") + of("tx_frames")
}

fn count(group: &Group, dir: &Path) -> Result<(u64, Calls, Calls), String> {
    let pid = |role| group.find(role).map(|row| row.pid).ok_or_else(|| format!("no {role}"));
    let nicd = Tracer::attach(pid(Role::Nicd)?, dir.join("nicd.strace"))?;
    let netd = Tracer::attach(pid(Role::Netd)?, dir.join("netd.strace"))?;
    let before = frames(group);
    std::thread::sleep(SPAN);
    let moved = frames(group) - before;
    Ok((moved, nicd.end(), netd.end()))
}

#[test]
fn system_calls_are_those_of_the_tap_and_a_few_for_each_batch() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip(TEST, "strace is not installed", false);
    }
    private_net::test(TEST, || {
        let group = Group::up(&stack_spec("tap:axlc0".into(), &format!("{STACK}/24"), Some("10.79.7.1/24")))
            .expect("a group");
        let _echo = group.example("echo", &[&ECHO.to_string()]).expect("an echo server");
        let to = format!("{STACK}:{ECHO}");
        assert!(wait_until(Duration::from_secs(10), || TcpStream::connect(&to).is_ok()), "it listens");
        let stop = AtomicBool::new(false);
        let counted = std::thread::scope(|scope| {
            let carrier = scope.spawn(|| carry(&to, &stop));
            std::thread::sleep(Duration::from_millis(500));
            let counted = count(&group, group.dir());
            stop.store(true, Ordering::Relaxed);
            carrier.join().expect("no panic").expect("a stream that flows");
            counted
        });
        let (frames, nicd, netd) = match counted {
            Ok(counted) => counted,
            Err(why) => return skip(TEST, &format!("strace can't attach: {why}"), false),
        };
        println!("{frames} frames\nnicd {nicd:?}\nnetd {netd:?}");
        assert!(frames > 500, "{frames} frames");
        let all = |calls: &Calls| calls.values().map(|(count, _)| count).sum::<u64>();
        let of = |calls: &Calls, name: &str| calls.get(name).copied().unwrap_or_default();
        let good = |(count, failed): (u64, u64)| count - failed;
        let taps_own = good(of(&nicd, "readv")) + good(of(&nicd, "writev"));
        // The counters are looked at a moment after strace begins and before it ends.
        assert!(taps_own <= frames + frames / 4 + 200, "{taps_own} calls for {frames} frames");
        for (name, calls, own) in [("nicd", &nicd, taps_own), ("netd", &netd, 0)] {
            let batches = of(calls, "epoll_wait").0;
            let rest = all(calls) - own;
            assert!(rest <= PER_BATCH * batches.max(1), "{name}: {rest} calls in {batches} batches");
            assert!(batches < frames, "{name}: {batches} batches for {frames} frames");
        }
    });
}
