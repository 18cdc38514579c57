//! A script against a host.

use super::flow::Taken;
use super::host::{Host, PORT, REMOTE_PORT, octet};
use super::parse::{Call, Fault, Opt, Question, Script, Seg, Step};
use super::wire::{self, LETTERS, Raw};
use proto::Instant;
use proto::arena::line::{level, want};
use proto::hard::sysctl::Tunable;
use std::collections::VecDeque;
use std::time::Duration;

/// Control bits by their place.
const SYN: u8 = 2;
const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;
/// The place a listener has; `connect` uses it too.
const FIRST_SLOT: u32 = 0;
/// A batch that sends answers another: more than this is a loop.
const BATCHES_MAX: u32 = 1000;

pub(super) struct Play {
    pub(super) host: Host,
    v6: bool,
    /// The remote's initial sequence number.
    irs: u32,
    /// The stack's, once it has sent a SYN.
    pub(super) iss: Option<u32>,
    /// The first timestamp of the stack.
    pub(super) clock: Option<u32>,
    /// What was sent and not yet expected.
    pub(super) sent: VecDeque<(Instant, Raw)>,
    /// What the remote has said and taken.
    pub(super) taken: Taken,
    /// The last Fast Open cookie that the stack gave.
    cookie: Vec<u8>,
    /// The place of the connection.
    slot: u32,
    started: bool,
    mtu: u16,
}

/// Runs a script.
///
/// # Errors
/// Where the stack and the script part.
pub fn run(script: &Script) -> Result<(), Fault> {
    Play::of_family(false).whole(script)
}

/// Runs a script over IPv6; `None` for one that is about IPv4.
pub fn run_v6(script: &Script) -> Option<Result<(), Fault>> {
    let v4 = |step: &Step| matches!(step, Step::Icmp { .. }) || *step == Step::Set("family".into(), 4);
    let about_v4 = script.steps.iter().any(|(_, step)| v4(step));
    (!about_v4).then(|| Play::of_family(true).whole(script))
}

impl Play {
    /// A host and a remote that have not met.
    pub(super) fn new() -> Play {
        Play::of_family(false)
    }

    fn of_family(v6: bool) -> Play {
        Play {
            host: Host::of_family(1500, v6),
            v6,
            irs: 1_000_000,
            iss: None,
            clock: None,
            cookie: Vec::new(),
            sent: VecDeque::new(),
            taken: Taken::default(),
            slot: FIRST_SLOT,
            started: false,
            mtu: 1500,
        }
    }

    fn whole(mut self, script: &Script) -> Result<(), Fault> {
        for (line, step) in &script.steps {
            self.step(step).map_err(|what| Fault { line: *line, what })?;
        }
        self.nothing_waits().map_err(|what| Fault { line: script.steps.last().map_or(1, |s| s.0), what })
    }

    pub(super) fn host_mut(&mut self) -> &mut Host {
        &mut self.host
    }

    /// What was sent is not looked at.
    pub(super) fn forget_sent(&mut self) {
        self.sent.clear();
    }

    pub(super) fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Set(name, value) => self.set(name, *value),
            Step::Inject(seg) => self.inject(seg),
            Step::Expect(seg, None) => {
                let (_, raw) = self.sent.pop_front().ok_or("the stack has sent nothing")?;
                self.compare(seg, &raw)
            }
            Step::Expect(seg, Some((low, high))) => self.expect_within(seg, *low, *high),
            Step::Silent(ms) => {
                self.nothing_waits()?;
                self.pass(Duration::from_millis(*ms));
                self.nothing_waits()
            }
            Step::Wait(ms) => {
                self.pass(Duration::from_millis(*ms));
                Ok(())
            }
            Step::Call(call) => self.call(call),
            Step::Icmp { kind, code, value, seq } => {
                self.nothing_waits()?;
                let seq = self.iss.unwrap_or(0).wrapping_add(*seq);
                let quoted = Raw { from: PORT, to: REMOTE_PORT, seq, ..Raw::default() };
                self.host.receive(&wire::icmp(*kind, *code, *value, &quoted));
                self.settle();
                Ok(())
            }
            Step::Die => {
                self.nothing_waits()?;
                self.host.die();
                self.settle();
                Ok(())
            }
            Step::Flow(flow) => self.flow(flow),
            Step::Ask(question) => self.ask(question),
        }
    }

    fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
        match name {
            // The family that it is about.
            "family" if value == 4 => {}
            "isn" => self.irs = value as u32,
            "mtu" if !self.started => {
                self.mtu = value as u16;
                self.host = Host::of_family(self.mtu, self.v6);
            }
            name => {
                let of_name = |tunable: &Tunable| {
                    tunable.about().name.rsplit('.').next().is_some_and(|end| end == name)
                };
                let tunable = Tunable::all().find(of_name).ok_or_else(|| format!("can't set {name} here"))?;
                self.host.tune(tunable, value as u32)?;
            }
        }
        Ok(())
    }

    /// Batches until the stack has no more to say now.
    pub(super) fn settle(&mut self) {
        for _ in 0..BATCHES_MAX {
            let frames = self.host.batch();
            let quiet = frames.is_empty();
            for raw in frames.iter().filter_map(|frame| wire::segment(frame)) {
                if raw.flags & SYN != 0 {
                    self.iss = Some(raw.seq);
                }
                if let Some((_, body)) = wire::options(&raw.options).into_iter().find(|(kind, _)| *kind == 8)
                {
                    self.clock.get_or_insert(long(&body, 0));
                }
                let cookie = wire::options(&raw.options).into_iter().find(|(kind, _)| *kind == 34);
                if let Some((_, body)) = cookie.filter(|(_, body)| !body.is_empty()) {
                    self.cookie = body;
                }
                self.sent.push_back((self.host.now, raw));
            }
            if quiet {
                return;
            }
        }
        panic!("the stack talks for ever");
    }

    /// The next thing that time brings, not beyond `end`; whether there was one.
    pub(super) fn tick(&mut self, end: Instant) -> bool {
        let Some(at) = self.host.deadline().filter(|at| *at <= end) else { return false };
        self.host.now = self.host.now.max(at);
        self.settle();
        true
    }

    fn pass(&mut self, span: Duration) {
        let end = self.host.now + span;
        for _ in 0..BATCHES_MAX * 10 {
            if !self.tick(end) {
                self.host.now = end;
                return;
            }
        }
        panic!("time stands still");
    }

    fn nothing_waits(&self) -> Result<(), String> {
        match self.sent.front() {
            None => Ok(()),
            Some((at, raw)) => Err(format!(
                "not expected, {} ms ago: {}",
                self.host.now.since(*at).as_millis(),
                self.show(raw)
            )),
        }
    }

    fn expect_within(&mut self, seg: &Seg, low: u64, high: u64) -> Result<(), String> {
        self.nothing_waits()?;
        let start = self.host.now;
        let end = start + Duration::from_millis(high);
        while self.sent.is_empty() && self.tick(end) {}
        let Some((at, raw)) = self.sent.pop_front() else {
            return Err(format!("the stack was silent for {high} ms"));
        };
        let after = at.since(start);
        if after < Duration::from_millis(low) {
            return Err(format!("{} came after {after:?}", self.show(&raw)));
        }
        self.compare(seg, &raw)
    }

    fn inject(&mut self, seg: &Seg) -> Result<(), String> {
        self.nothing_waits()?;
        let frame = self.frame_of(seg)?;
        self.taken.note(seg);
        self.host.receive(&frame);
        self.settle();
        Ok(())
    }

    /// A segment of the remote as it goes over the wire.
    pub(super) fn frame_of(&self, seg: &Seg) -> Result<Vec<u8>, String> {
        let first = seg.seq.wrapping_add(u32::from(seg.flags & SYN != 0)).wrapping_sub(1);
        let payload = (0..seg.len).map(|n| octet(false, u64::from(first.wrapping_add(n)))).collect();
        let options = match &seg.options {
            Some(options) => self.encode(options)?,
            None => Vec::new(),
        };
        let raw = Raw {
            from: seg.port.unwrap_or(REMOTE_PORT),
            to: PORT,
            seq: self.irs.wrapping_add(seg.seq),
            ack: seg.ack.map_or(0, |ack| self.iss.unwrap_or(0).wrapping_add(ack)),
            flags: seg.flags,
            window: seg.window.unwrap_or(u16::MAX),
            urgent: seg.urgent.unwrap_or(0),
            options,
            payload,
            ecn: seg.ecn.unwrap_or(0),
        };
        Ok(if self.v6 { wire::frame6(&raw, seg.bad_sum) } else { wire::frame(&raw, seg.bad_sum) })
    }

    fn encode(&self, options: &[Opt]) -> Result<Vec<u8>, String> {
        encode(options, self.iss.unwrap_or(0), self.clock.unwrap_or(0), &self.cookie)
    }

    /// Numbers of a segment of the stack as scripts count them.
    fn show(&self, raw: &Raw) -> String {
        let letters: String = LETTERS
            .chars()
            .enumerate()
            .filter(|(bit, _)| raw.flags & 1 << bit != 0)
            .map(|(_, l)| l)
            .collect();
        let seq = raw.seq.wrapping_sub(self.iss.unwrap_or(0));
        let ack = raw.ack.wrapping_sub(self.irs);
        let mut text = format!("> {letters} {seq}+{} ack {ack} win {}", raw.payload.len(), raw.window);
        for (kind, body) in wire::options(&raw.options) {
            text.push_str(&match kind {
                2 => format!(" mss {}", u16::from_be_bytes([body[0], body[1]])),
                3 => format!(" ws {}", body[0]),
                4 => " sack".into(),
                5 => body
                    .chunks(8)
                    .map(|b| format!(" sack {}..{}", self.edge(b, 0), self.edge(b, 4)))
                    .collect(),
                8 => {
                    format!(" ts {} {}", long(&body, 0).wrapping_sub(self.clock.unwrap_or(0)), long(&body, 4))
                }
                other => format!(" option {other} {body:x?}"),
            });
        }
        if raw.urgent != 0 {
            text.push_str(&format!(" urg {}", raw.urgent));
        }
        if raw.ecn != 0 {
            text.push_str(&format!(" ecn {}", raw.ecn));
        }
        text
    }

    fn edge(&self, block: &[u8], at: usize) -> u32 {
        long(block, at).wrapping_sub(self.irs)
    }

    pub(super) fn compare(&self, seg: &Seg, raw: &Raw) -> Result<(), String> {
        let differs = |what: &str| Err(format!("{what} differs: {}", self.show(raw)));
        // A RST for what belongs to no connection carries the remote's own number (RFC 9293 §3.10.7.1).
        let push = if seg.flags & PSH == 0 { !PSH } else { 0xff };
        if seg.flags != raw.flags & push {
            return differs("the flags");
        }
        if (raw.from, raw.to) != (PORT, seg.port.unwrap_or(REMOTE_PORT)) {
            return differs("the ports");
        }
        if raw.seq.wrapping_sub(self.iss.unwrap_or(0)) != seg.seq {
            return differs("the sequence number");
        }
        if raw.payload.len() != seg.len as usize {
            return differs("the length");
        }
        if seg.ack.is_some_and(|ack| raw.flags & ACK == 0 || raw.ack.wrapping_sub(self.irs) != ack) {
            return differs("the acknowledgement");
        }
        if seg.window.is_some_and(|window| window != raw.window) {
            return differs("the window");
        }
        if seg.urgent.is_some_and(|urgent| urgent != raw.urgent) {
            return differs("the urgent pointer");
        }
        if seg.ecn.is_some_and(|ecn| ecn != raw.ecn) {
            return differs("the ECN field");
        }
        let first = u64::from(seg.seq.saturating_sub(1));
        if raw.payload.iter().enumerate().any(|(n, byte)| *byte != octet(true, first + n as u64)) {
            return differs("the payload");
        }
        self.compare_options(seg, raw)
    }

    fn compare_options(&self, seg: &Seg, raw: &Raw) -> Result<(), String> {
        let Some(wanted) = &seg.options else { return Ok(()) };
        let found = wire::options(&raw.options);
        let body = |kind: u8| found.iter().find(|(k, _)| *k == kind).map(|(_, body)| body.as_slice());
        let clock = self.clock.unwrap_or(0);
        let fits = |option: &Opt| match option {
            Opt::Mss(value) => body(2) == Some(&value.to_be_bytes()),
            Opt::Scale(shift) => body(3) == Some(&[*shift]),
            Opt::SackPermitted => body(4).is_some(),
            Opt::NoSack => body(4).is_none() && body(5).is_none(),
            Opt::NoTimestamps => body(8).is_none(),
            Opt::NoScale => body(3).is_none(),
            Opt::NoMss => body(2).is_none(),
            Opt::NoFastOpen => body(34).is_none(),
            Opt::FastOpen(Some(cookie)) => body(34) == Some(&**cookie),
            Opt::FastOpen(None) => body(34).is_some_and(|body| !body.is_empty()),
            Opt::Timestamps(value, echo) => body(8).is_some_and(|body| {
                value.is_none_or(|value| long(body, 0).wrapping_sub(clock) == value)
                    && echo.is_none_or(|echo| long(body, 4) == echo)
            }),
            Opt::Sack(blocks) => body(5).is_some_and(|body| {
                let edges = body.chunks(8).map(|block| (self.edge(block, 0), self.edge(block, 4)));
                edges.eq(blocks.iter().copied())
            }),
            Opt::Raw(octets) => raw.options.windows(octets.len()).any(|part| part == octets),
        };
        match wanted.iter().find(|option| !fits(option)) {
            Some(option) => Err(format!("{option:?} differs: {}", self.show(raw))),
            None if wanted.is_empty() && !found.is_empty() => Err(format!("options: {}", self.show(raw))),
            None => Ok(()),
        }
    }

    fn call(&mut self, call: &Call) -> Result<(), String> {
        let slot = self.slot;
        match *call {
            Call::Listen(backlog) => self.host.listen(FIRST_SLOT, backlog),
            Call::Connect => {
                let before = self.slot;
                self.slot = if self.started { self.slot + 1 } else { FIRST_SLOT };
                self.host.like(before, self.slot);
                self.host.connect(self.slot);
            }
            Call::Accept(wanted) => match (self.host.accept(FIRST_SLOT), wanted) {
                (Some(slot), true) => self.slot = slot,
                (None, false) => {}
                (found, _) => return Err(format!("accepted: {found:?}")),
            },
            Call::Write(count) => self.host.write(slot, count, false),
            Call::Say => self.host.change(slot, |_| {}),
            Call::Urge(count) => self.host.write(slot, count, true),
            Call::MssMax(bytes) => self.configure(|line| {
                line.mss_congestion = line.mss_congestion & !0xffff | u32::from(bytes);
            }),
            Call::Lowat(bytes) => self.configure(|line| line.notsent_lowat = bytes),
            Call::Congestion(kind) => self.configure(|line| {
                line.mss_congestion = line.mss_congestion & 0xffff | u32::from(kind) << 16;
            }),
            Call::Shut => self.host.change(slot, |line| line.flags |= want::SHUT_WR),
            Call::ReadShut => self.host.change(slot, |line| line.flags |= want::SHUT_RD),
            Call::Close => self.host.change(slot, |line| line.flags |= want::CLOSE),
            Call::Abort => self.host.change(slot, |line| line.flags |= want::ABORT),
            Call::Read(count) => self.host.read(slot, count)?,
            Call::Flag(name, on) => {
                let bit = match name {
                    "nodelay" => want::NODELAY,
                    "cork" => want::CORK,
                    "fastopen" => want::FASTOPEN,
                    _ => want::QUICKACK,
                };
                self.configure(|line| line.flags = if on { line.flags | bit } else { line.flags & !bit });
            }
            Call::Keepalive(idle, interval, count) => self.configure(|line| {
                line.flags |= want::KEEPALIVE;
                line.keepalive_idle_s = idle;
                line.keepalive_interval_s = interval;
                line.keepalive_count = count;
            }),
            Call::UserTimeout(ms) => self.configure(|line| line.user_timeout_ms = ms),
            Call::ReceiveBuffer(bytes) => self.configure(|line| line.rcvbuf = bytes),
        }
        self.started |= matches!(call, Call::Listen(_) | Call::Connect);
        self.settle();
        Ok(())
    }

    fn configure(&mut self, change: impl FnOnce(&mut proto::arena::line::ClientLine)) {
        if self.started {
            self.host.change(self.slot, change);
        } else {
            self.host.prepare(self.slot, change);
        }
    }

    fn ask(&self, question: &Question) -> Result<(), String> {
        let line = self.host.stack_line(self.slot);
        let level = |bit: u32| line.flags & bit != 0;
        let (right, found) = match question {
            Question::State(name) => {
                let found = match self.host.connections().last() {
                    Some(state) => format!("{state:?}"),
                    None if self.host.listens() => "Listen".into(),
                    None => "Closed".into(),
                };
                (found.eq_ignore_ascii_case(&name.replace('-', "")), found)
            }
            Question::Error(errno) => {
                let found = if level(level::ERROR) { line.error } else { 0 };
                (found == *errno, found.to_string())
            }
            Question::End(wanted) => (level(level::END) == *wanted, format!("{:#x}", line.flags)),
            Question::Sent => (level(level::SENT), format!("{:#x}", line.flags)),
            Question::Gone => (level(level::GONE), format!("{:#x}", line.flags)),
            Question::Received(count) => (line.received == *count, line.received.to_string()),
            Question::Acked(count) => (line.acked == *count, line.acked.to_string()),
            Question::Records(count) => {
                let found = self.host.connections().len();
                (found == *count, found.to_string())
            }
            Question::Urgent(wanted) => {
                let found = level(level::URGENT).then(|| line.urgent.wrapping_add(1));
                (found == *wanted, format!("{found:?}"))
            }
            Question::Room(bytes) => {
                let room = (line.acked + u64::from(line.window)).saturating_sub(self.host.written(self.slot));
                (room == *bytes, room.to_string())
            }
            Question::Largest(octets) => (self.taken.largest == *octets, self.taken.largest.to_string()),
            Question::Cwnd(low, high) => ((*low..=*high).contains(&line.cwnd), line.cwnd.to_string()),
        };
        if right { Ok(()) } else { Err(format!("found {found}")) }
    }
}

pub(super) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The octets of the options that the remote says; `iss` is the stack's first number, `clock` its first
/// timestamp.
pub(super) fn encode(options: &[Opt], iss: u32, clock: u32, cookie: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for option in options {
        match option {
            Opt::Mss(value) => out.extend([&[2, 4][..], &value.to_be_bytes()].concat()),
            Opt::Scale(shift) => out.extend([3, 3, *shift]),
            Opt::SackPermitted => out.extend([4, 2]),
            Opt::Timestamps(value, echo) => {
                let echo = echo.map_or(0, |echo| clock.wrapping_add(echo));
                out.extend([8, 10]);
                out.extend(value.unwrap_or(0).to_be_bytes());
                out.extend(echo.to_be_bytes());
            }
            Opt::Sack(blocks) => {
                out.extend([5, 2 + 8 * blocks.len() as u8]);
                for (start, end) in blocks {
                    out.extend(iss.wrapping_add(*start).to_be_bytes());
                    out.extend(iss.wrapping_add(*end).to_be_bytes());
                }
            }
            Opt::FastOpen(body) => {
                let body = body.as_deref().unwrap_or(cookie);
                out.extend([34, 2 + body.len() as u8]);
                out.extend(body);
            }
            Opt::Raw(octets) => out.extend(octets),
            _ => return Err("only a question".into()),
        }
    }
    while out.len() % 4 != 0 {
        out.push(1);
    }
    if out.len() > 40 { Err("a header holds 40 octets of options".into()) } else { Ok(out) }
}
