//! Packet scripts against the kernel of this machine: the same texts, in real time, over a TAP.
//!
//! The kernel listens or connects on its side of the device; the script's remote is at the other. What a
//! script says of the stack's inside (deaths, records, its client's levels) has no meaning here, and what is
//! a matter of taste is not compared: windows, timestamps, pushes, whether an acknowledgement that is held
//! back leaves a little earlier, and which options a SYN offers. So what remains is what the wire shows:
//! which segments are sent, in which order, with which numbers.

use super::host::octet;
use super::parse::{Call, Fault, Opt, Question, Script, Seg, Step};
use super::wire::{self, LETTERS, Raw};
use nicd::backend::tap::{VIRTIO_HEADER_SIZE, open};
use proto::control::messages::Prefix;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
/// A real clock is late by so much, and a timer of the kernel fires in its own tick.
const SLACK: Duration = Duration::from_millis(60);
/// So long nothing more may come before a step counts as done.
const QUIET: Duration = Duration::from_millis(4);
/// So long what a step sends at once may take to come.
const PROMPT: Duration = Duration::from_millis(150);

/// How the kernel did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As the script says.
    Agrees,
    /// Not so, from this line on.
    Differs(Fault),
    /// The script is about more than the wire.
    NotAsked(&'static str),
}

/// Why a script is not for the kernel, if it isn't; `patience` is the longest it may take.
pub fn unfit(script: &Script, patience: Duration) -> Option<&'static str> {
    let mut waits = 0;
    for (_, step) in &script.steps {
        match step {
            Step::Die => return Some("a death"),
            Step::Flow(_) => return Some("a path of its own"),
            Step::Set(name, _) if name != "isn" && name != "family" => return Some("a setting of the stack"),
            Step::Call(Call::ReceiveBuffer(_)) => return Some("a receive buffer, which the kernel doubles"),
            Step::Call(
                Call::MssMax(_) | Call::Lowat(_) | Call::Congestion(_) | Call::Urge(_) | Call::Say,
            ) => {
                return Some("an option that std has no call for");
            }
            Step::Call(Call::Flag("fastopen", _)) => return Some("an option that std has no call for"),
            Step::Icmp { .. } => return Some("an ICMP error, which needs a router"),
            Step::Ask(Question::Cwnd(..)) => return Some("the congestion window"),
            Step::Ask(Question::Records(_)) => return Some("records"),
            Step::Wait(ms) | Step::Silent(ms) => waits += ms,
            Step::Expect(_, Some((_, high))) => waits += high,
            _ => {}
        }
    }
    (Duration::from_millis(waits) > patience).then_some("more time than there is")
}

/// The kernel's side of a TAP.
#[derive(Debug)]
pub struct Kernel {
    tap: OwnedFd,
    next_port: u16,
}

fn shell(words: &str) -> std::io::Result<()> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let status = Command::new(words[0]).args(&words[1..]).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other(words.join(" "))) }
}

impl Kernel {
    /// Makes the device in this network namespace, which should be a private one.
    ///
    /// # Errors
    /// No right to make it, no ip(8).
    pub fn new() -> std::io::Result<Kernel> {
        let addr = Prefix { addr: wire::STACK.into(), len: 24 };
        let tap = open("axljudge", None, 1500, &[addr], 0).map_err(std::io::Error::other)?;
        let mac = |mac: [u8; 6]| mac.map(|octet| format!("{octet:02x}")).join(":");
        shell("ip link set axljudge down")?;
        shell(&format!("ip link set axljudge address {}", mac(wire::STACK_MAC)))?;
        shell("ip link set axljudge up")?;
        shell(&format!("ip neigh replace {} lladdr {} dev axljudge", wire::REMOTE, mac(wire::REMOTE_MAC)))?;
        for (name, value) in [
            ("net/ipv6/conf/axljudge/disable_ipv6", "1"),
            // Each script is a first meeting.
            ("net/ipv4/tcp_no_metrics_save", "1"),
            ("net/ipv4/tcp_ecn", "2"),
            // A script's remote repeats itself within half a second.
            ("net/ipv4/tcp_invalid_ratelimit", "500"),
        ] {
            std::fs::write(format!("/proc/sys/{name}"), value)?;
        }
        Ok(Kernel { tap, next_port: 1000 })
    }

    /// Runs a script that may take `patience`, which is so `busy` a machine: what real time adds is waited for
    /// that many times as long.
    pub fn run(&mut self, script: &Script, patience: Duration, busy: u32) -> Verdict {
        if let Some(reason) = unfit(script, patience) {
            return Verdict::NotAsked(reason);
        }
        self.next_port += 1;
        let mut play = Play {
            tap: &self.tap,
            port: self.next_port,
            irs: 1_000_000,
            iss: None,
            clock: None,
            sent: VecDeque::new(),
            listener: None,
            stream: None,
            written: 0,
            consumed: 0,
            prepared: Vec::new(),
            acked: 0,
            early: false,
            busy,
        };
        for (line, step) in &script.steps {
            if let Err(what) = play.step(step) {
                return Verdict::Differs(Fault { line: *line, what });
            }
        }
        play.quiet();
        let left = play.nothing_waits();
        play.leave();
        match left {
            Ok(()) => Verdict::Agrees,
            Err(what) => Verdict::Differs(Fault { line: script.steps.last().map_or(1, |s| s.0), what }),
        }
    }
}

struct Play<'a> {
    tap: &'a OwnedFd,
    port: u16,
    irs: u32,
    iss: Option<u32>,
    clock: Option<u32>,
    sent: VecDeque<(Instant, Raw)>,
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
    written: u64,
    consumed: u64,
    /// Options set before there is a socket.
    prepared: Vec<Call>,
    /// What the kernel has acknowledged so far, and whether by an acknowledgement that nobody asked for.
    acked: u32,
    early: bool,
    busy: u32,
}

impl Play<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Set(name, value) if name == "isn" => self.irs = *value as u32,
            Step::Set(..) => {}
            Step::Inject(seg) => {
                self.quiet();
                self.nothing_waits()?;
                self.inject(seg)?;
                self.quiet();
            }
            Step::Expect(seg, span) => self.expect(seg, *span)?,
            Step::Silent(ms) => {
                self.quiet();
                self.nothing_waits()?;
                // Its end is as uncertain as a deadline behind it.
                self.look(Duration::from_millis(*ms).mul_f32(0.9));
                self.nothing_waits()?;
            }
            Step::Wait(ms) => self.look(Duration::from_millis(*ms)),
            Step::Call(call) => {
                self.call(call)?;
                self.quiet();
            }
            Step::Ask(question) => self.ask(question)?,
            Step::Icmp { .. } | Step::Die | Step::Flow(_) => return Err("not for the kernel".into()),
        }
        Ok(())
    }

    /// Takes what the kernel sends at once.
    fn quiet(&mut self) {
        self.look(QUIET * self.busy);
    }

    /// Takes what the kernel sends for so long.
    fn look(&mut self, span: Duration) {
        let end = Instant::now() + span;
        loop {
            let mut bytes = [0; 70_000];
            while let Ok(len) = rustix::io::read(self.tap, &mut bytes) {
                self.take(&bytes[VIRTIO_HEADER_SIZE.min(len)..len]);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let _ = poll(&mut [PollFd::new(self.tap, PollFlags::IN)], Some(&time));
        }
    }

    fn take(&mut self, frame: &[u8]) {
        if frame.get(12..14) != Some(&[8, 0]) {
            return;
        }
        let Some(raw) = wire::segment(frame).filter(|raw| raw.from == self.port) else { return };
        if raw.flags & SYN != 0 {
            self.iss = Some(raw.seq);
        }
        if let Some((_, body)) = wire::options(&raw.options).into_iter().find(|(kind, _)| *kind == 8) {
            self.clock.get_or_insert(long(&body, 0));
        }
        self.sent.push_back((Instant::now(), raw));
    }

    /// Whether the first segment that waits is an acknowledgement of news and nothing else: how long one is
    /// held back, and of how many segments, is each host's own affair (RFC 9293 §3.8.6.3).
    fn drop_early(&mut self) -> bool {
        let Some((_, raw)) = self.sent.front() else { return false };
        let reports = wire::options(&raw.options).iter().any(|(kind, _)| *kind == 5);
        let ack = raw.ack.wrapping_sub(self.irs);
        let news = raw.flags & !PSH == ACK && raw.payload.is_empty() && !reports && ack > self.acked;
        if news {
            (self.acked, self.early) = (ack, true);
            self.sent.pop_front();
        }
        news
    }

    fn nothing_waits(&mut self) -> Result<(), String> {
        while self.drop_early() {}
        match self.sent.front() {
            None => Ok(()),
            Some((_, raw)) => Err(format!("not expected: {}", self.show(raw))),
        }
    }

    fn expect(&mut self, seg: &Seg, span: Option<(u64, u64)>) -> Result<(), String> {
        let start = Instant::now();
        let is_ack = seg.flags == ACK && seg.len == 0;
        if is_ack
            && seg.options.is_none()
            && self.early
            && seg.ack == Some(self.acked)
            && self.sent.is_empty()
        {
            self.early = false;
            return Ok(());
        }
        let slack = SLACK * self.busy;
        let most = span.map_or(PROMPT * self.busy, |(_, high)| Duration::from_millis(high) + slack);
        while self.sent.is_empty() && start.elapsed() < most {
            self.look(Duration::from_millis(1));
        }
        let differs =
            |raw: &Raw| seg.len as usize != raw.payload.len() || seg.flags & !PSH != raw.flags & !PSH;
        while self.sent.front().is_some_and(|(_, raw)| differs(raw)) && self.drop_early() {
            while self.sent.is_empty() && start.elapsed() < most {
                self.look(Duration::from_millis(1));
            }
        }
        let (at, raw) = self.sent.pop_front().ok_or("the kernel has sent nothing")?;
        if raw.flags & ACK != 0 {
            (self.acked, self.early) = (self.acked.max(raw.ack.wrapping_sub(self.irs)), false);
        }
        if let Some((low, _)) = span.filter(|_| !is_ack) {
            let after = at.saturating_duration_since(start);
            if after + slack < Duration::from_millis(low) {
                return Err(format!("{} came after {after:?}", self.show(&raw)));
            }
        }
        self.compare(seg, &raw)
    }

    fn inject(&mut self, seg: &Seg) -> Result<(), String> {
        let first = seg.seq.wrapping_add(u32::from(seg.flags & SYN != 0)).wrapping_sub(1);
        let payload = (0..seg.len).map(|n| octet(false, u64::from(first.wrapping_add(n)))).collect();
        let options = match &seg.options {
            Some(options) => self.encode(options)?,
            None => Vec::new(),
        };
        let raw = Raw {
            from: seg.port.unwrap_or(super::host::REMOTE_PORT),
            to: self.port,
            seq: self.irs.wrapping_add(seg.seq),
            ack: seg.ack.map_or(0, |ack| self.iss.unwrap_or(0).wrapping_add(ack)),
            flags: seg.flags,
            window: seg.window.unwrap_or(u16::MAX),
            urgent: seg.urgent.unwrap_or(0),
            options,
            payload,
            ecn: seg.ecn.unwrap_or(0),
        };
        let mut frame = vec![0; VIRTIO_HEADER_SIZE];
        frame.extend(wire::frame(&raw, seg.bad_sum));
        rustix::io::write(self.tap, &frame).map_err(|e| format!("the TAP: {e}"))?;
        Ok(())
    }

    fn encode(&self, options: &[Opt]) -> Result<Vec<u8>, String> {
        super::play::encode(options, self.iss.unwrap_or(0), self.clock.unwrap_or(0), &[])
    }

    fn show(&self, raw: &Raw) -> String {
        let letters: String = LETTERS
            .chars()
            .enumerate()
            .filter(|(bit, _)| raw.flags & 1 << bit != 0)
            .map(|(_, letter)| letter)
            .collect();
        let seq = raw.seq.wrapping_sub(self.iss.unwrap_or(0));
        let ack = raw.ack.wrapping_sub(self.irs);
        format!("> {letters} {seq}+{} ack {ack}", raw.payload.len())
    }

    fn compare(&self, seg: &Seg, raw: &Raw) -> Result<(), String> {
        let differs = |what: &str| Err(format!("{what} differs: {}", self.show(raw)));
        if seg.flags & !PSH != raw.flags & !PSH {
            return differs("the flags");
        }
        // A RST says what it must; where both say it, its numbers are compared.
        if raw.seq.wrapping_sub(self.iss.unwrap_or(0)) != seg.seq {
            return differs("the sequence number");
        }
        if raw.payload.len() != seg.len as usize {
            return differs("the length");
        }
        let ack_counts = raw.flags & ACK != 0 && (raw.flags & RST == 0 || seg.ack.is_some());
        if seg.ack.is_some_and(|ack| ack_counts && raw.ack.wrapping_sub(self.irs) != ack) {
            return differs("the acknowledgement");
        }
        if seg.urgent.is_some_and(|urgent| urgent != raw.urgent) {
            return differs("the urgent pointer");
        }
        let first = u64::from(seg.seq.saturating_sub(1));
        if raw.payload.iter().enumerate().any(|(n, byte)| *byte != octet(true, first + n as u64)) {
            return differs("the payload");
        }
        let found = wire::options(&raw.options);
        for option in seg.options.iter().flatten() {
            let body = |kind: u8| found.iter().find(|(k, _)| *k == kind).map(|(_, body)| body.as_slice());
            let edge = |block: &[u8], at| long(block, at).wrapping_sub(self.irs);
            let right = match option {
                Opt::Sack(blocks) => body(5).is_some_and(|body| {
                    body.chunks(8).map(|b| (edge(b, 0), edge(b, 4))).eq(blocks.iter().copied())
                }),
                Opt::NoSack if raw.flags & SYN == 0 => body(5).is_none(),
                Opt::NoTimestamps => body(8).is_none(),
                Opt::NoScale => body(3).is_none(),
                Opt::Timestamps(_, Some(echo)) => body(8).is_some_and(|body| long(body, 4) == *echo),
                _ => true,
            };
            if !right {
                return differs(&format!("{option:?}"));
            }
        }
        Ok(())
    }

    fn call(&mut self, call: &Call) -> Result<(), String> {
        let text = |e: std::io::Error| e.to_string();
        let local = SocketAddr::new(wire::STACK.into(), self.port);
        match call {
            Call::Listen(backlog) => {
                let listener = rustix::net::socket(
                    rustix::net::AddressFamily::INET,
                    rustix::net::SocketType::STREAM,
                    None,
                )
                .map_err(|e| e.to_string())?;
                sockopt::set_socket_reuseaddr(&listener, true).map_err(|e| e.to_string())?;
                rustix::net::bind(&listener, &local).map_err(|e| e.to_string())?;
                rustix::net::listen(&listener, *backlog as i32).map_err(|e| e.to_string())?;
                let listener = TcpListener::from(listener);
                listener.set_nonblocking(true).map_err(text)?;
                self.listener = Some(listener);
            }
            Call::Connect => {
                use rustix::net::{AddressFamily, SocketFlags, SocketType};
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
                    .map_err(|e| e.to_string())?;
                sockopt::set_socket_reuseaddr(&socket, true).map_err(|e| e.to_string())?;
                rustix::net::bind(&socket, &local).map_err(|e| e.to_string())?;
                let remote = SocketAddr::new(wire::REMOTE.into(), super::host::REMOTE_PORT);
                let stream = TcpStream::from(socket);
                for option in std::mem::take(&mut self.prepared) {
                    set(&stream, &option)?;
                }
                match rustix::net::connect(&stream, &remote) {
                    Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
                    Err(errno) => return Err(errno.to_string()),
                }
                self.stream = Some(stream);
            }
            Call::Accept(wanted) => {
                let listener = self.listener.as_ref().ok_or("no listener")?;
                match (listener.accept(), wanted) {
                    (Ok((stream, _)), true) => {
                        stream.set_nonblocking(true).map_err(text)?;
                        sockopt::set_socket_oobinline(&stream, true).map_err(|e| e.to_string())?;
                        for option in std::mem::take(&mut self.prepared) {
                            set(&stream, &option)?;
                        }
                        self.stream = Some(stream);
                    }
                    (Err(e), false) if e.kind() == ErrorKind::WouldBlock => {}
                    (Ok(_), false) => return Err("accepted one".into()),
                    (Err(e), _) => return Err(format!("accept: {e}")),
                }
            }
            Call::Write(count) => {
                let bytes: Vec<u8> = (0..u64::from(*count)).map(|n| octet(true, self.written + n)).collect();
                let mut stream = self.stream.as_ref().ok_or("no connection")?;
                let done = stream.write(&bytes).map_err(text)?;
                if done != bytes.len() {
                    return Err("the kernel took a part".into());
                }
                self.written += done as u64;
            }
            Call::Read(count) => {
                let mut stream = self.stream.as_ref().ok_or("no connection")?;
                let mut bytes = vec![0; count.map_or(1 << 21, |count| count as usize)];
                let mut done = 0;
                // A read stops at an urgent octet.
                while done < bytes.len() {
                    match stream.read(&mut bytes[done..]) {
                        Ok(0) => break,
                        Ok(more) => done += more,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => return Err(text(e)),
                    }
                }
                if count.is_some_and(|count| done != count as usize) {
                    return Err(format!("{done} octets are there"));
                }
                self.consumed += done as u64;
            }
            Call::Shut => self.shutdown(Shutdown::Write)?,
            Call::ReadShut => self.shutdown(Shutdown::Read)?,
            Call::Close => drop(self.stream.take().map(|_| ()).or_else(|| self.listener.take().map(|_| ()))),
            Call::Abort => {
                let stream = self.stream.take().ok_or("no connection")?;
                sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).map_err(|e| e.to_string())?;
            }
            option => match &self.stream {
                Some(stream) => set(stream, option)?,
                None => self.prepared.push(option.clone()),
            },
        }
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), String> {
        self.stream.as_ref().ok_or("no connection")?.shutdown(how).map_err(|e| e.to_string())
    }

    /// The state of the connection as /proc/net/tcp has it; the listener's where there is no other.
    fn state(&self) -> String {
        const NAMES: [&str; 12] = [
            "",
            "Established",
            "SynSent",
            "SynReceived",
            "FinWait1",
            "FinWait2",
            "TimeWait",
            "Closed",
            "CloseWait",
            "LastAck",
            "Listen",
            "Closing",
        ];
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
        let mut found = "Closed";
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let port = words.get(1).and_then(|local| local.split(':').nth(1));
            if port.and_then(|port| u16::from_str_radix(port, 16).ok()) != Some(self.port) {
                continue;
            }
            let state = words.get(3).and_then(|state| usize::from_str_radix(state, 16).ok()).unwrap_or(0);
            let name = NAMES.get(state).copied().unwrap_or("");
            if name != "Listen" || found == "Closed" {
                found = name;
            }
        }
        found.into()
    }

    fn ask(&mut self, question: &Question) -> Result<(), String> {
        self.quiet();
        let found = match question {
            Question::State(name) => {
                let found = self.state();
                // Where the connection is gone, the listener is what is found.
                let gone = name.eq_ignore_ascii_case("closed") && found == "Listen";
                if gone || found.eq_ignore_ascii_case(&name.replace('-', "")) {
                    return Ok(());
                }
                found
            }
            Question::Error(errno) => {
                let Some(stream) = &self.stream else { return Ok(()) };
                let found = stream.take_error().ok().flatten().and_then(|e| e.raw_os_error()).unwrap_or(0);
                if found == *errno as i32 {
                    return Ok(());
                }
                found.to_string()
            }
            Question::Received(count) => {
                let Some(stream) = &self.stream else { return Ok(()) };
                let found = rustix::io::ioctl_fionread(stream).unwrap_or(0) + self.consumed;
                if found == *count {
                    return Ok(());
                }
                found.to_string()
            }
            // The inside of the stack, or what its client sees of it.
            _ => return Ok(()),
        };
        Err(format!("found {found}"))
    }

    /// Whatever is left goes, without a word to the next script.
    fn leave(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
        self.listener = None;
        self.quiet();
    }
}

fn set(stream: &TcpStream, option: &Call) -> Result<(), String> {
    let outcome = match *option {
        Call::Flag("nodelay", on) => sockopt::set_tcp_nodelay(stream, on),
        Call::Flag("cork", on) => sockopt::set_tcp_cork(stream, on),
        Call::Flag(_, on) => sockopt::set_tcp_quickack(stream, on),
        Call::Keepalive(idle, interval, count) => sockopt::set_socket_keepalive(stream, true)
            .and_then(|()| sockopt::set_tcp_keepidle(stream, Duration::from_secs(idle.into())))
            .and_then(|()| sockopt::set_tcp_keepintvl(stream, Duration::from_secs(interval.into())))
            .and_then(|()| sockopt::set_tcp_keepcnt(stream, count)),
        Call::UserTimeout(ms) => sockopt::set_tcp_user_timeout(stream, ms),
        _ => return Err("no such option".into()),
    };
    outcome.map_err(|errno| errno.to_string())
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
