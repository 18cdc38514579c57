//! A script's text as steps.

use super::flow::Flow;
use super::wire::LETTERS;
use proto::arena::line::congestion;
use std::fmt;

/// Where a script and the stack part, or what can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// A script.
#[derive(Debug, Clone)]
pub struct Script {
    /// The sections it is about, as they stand in the text.
    pub sections: Vec<String>,
    /// What happens, with the line it stands on.
    pub(super) steps: Vec<(usize, Step)>,
    /// What it does, but for numbers, of which the order of magnitude is left.
    pub shape: String,
}

/// An option as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opt {
    Mss(u16),
    Scale(u8),
    SackPermitted,
    /// The value, and what is echoed (`None`: not compared, or 0).
    Timestamps(Option<u32>, Option<u32>),
    /// Edges counted from the SYN of the other side.
    Sack(Vec<(u32, u32)>),
    NoSack,
    NoTimestamps,
    NoScale,
    NoMss,
    /// Fast Open: a request, a cookie, or the last one that the stack gave (`None`).
    FastOpen(Option<Vec<u8>>),
    NoFastOpen,
    Raw(Vec<u8>),
}

/// A segment as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seg {
    pub flags: u8,
    pub seq: u32,
    pub len: u32,
    pub ack: Option<u32>,
    pub window: Option<u16>,
    pub urgent: Option<u16>,
    pub options: Option<Vec<Opt>>,
    pub bad_sum: bool,
    pub ecn: Option<u8>,
    pub port: Option<u16>,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Listen(u32),
    Connect,
    Accept(bool),
    Write(u32),
    Say,
    Urge(u32),
    MssMax(u16),
    Lowat(u32),
    Congestion(u8),
    Shut,
    ReadShut,
    Close,
    Abort,
    Read(Option<u32>),
    Flag(&'static str, bool),
    Keepalive(u32, u32, u32),
    UserTimeout(u32),
    ReceiveBuffer(u32),
}

/// What is asked of the client's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    State(String),
    Error(u32),
    End(bool),
    Received(u64),
    Acked(u64),
    Records(usize),
    Sent,
    Gone,
    Cwnd(u32, u32),
    Largest(usize),
    Urgent(Option<u32>),
    Room(u64),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Set(String, u64),
    Inject(Seg),
    Expect(Seg, Option<(u64, u64)>),
    Silent(u64),
    Wait(u64),
    Call(Call),
    Icmp { kind: u8, code: u8, value: u16, seq: u32 },
    Die,
    Flow(Flow),
    Ask(Question),
}

impl Script {
    /// Reads a text.
    ///
    /// # Errors
    /// The first line that makes no sense, or no section named.
    pub fn parse(text: &str) -> Result<Script, Fault> {
        let mut script = Script { sections: Vec::new(), steps: Vec::new(), shape: String::new() };
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let fault = |what: String| Fault { line: index + 1, what };
            if line.is_empty() {
                continue;
            }
            if let Some(section) = line.strip_prefix("rfc ") {
                script.sections.push(section.trim().to_owned());
                continue;
            }
            let step = step(line).map_err(|what| fault(format!("{what}: {line}")))?;
            script.steps.push((index + 1, step));
            script.shape.push_str(&blot(line));
            script.shape.push('\n');
        }
        if script.sections.is_empty() {
            return Err(Fault { line: 1, what: "no section is named".into() });
        }
        Ok(script)
    }
}

/// A line with every number as its order of magnitude: inside, at the edge of and beyond every window.
fn blot(line: &str) -> String {
    let mut out = String::new();
    let mut is_raw = false;
    for word in line.split_inclusive(' ') {
        if is_raw {
            out.push_str(word);
        } else {
            blot_word(word, &mut out);
        }
        is_raw = word.trim_end().ends_with("raw");
    }
    out
}

fn blot_word(mut rest: &str, out: &mut String) {
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        let end = number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len());
        out.push_str(before);
        out.push_str(match number[..end].parse::<u64>().unwrap_or(u64::MAX) {
            0 => "0",
            1 => "1",
            2..=99 => "few",
            100..=65_535 => "many",
            65_536..=0x7fff_ffff => "beyond",
            _ => "before",
        });
        rest = &number[end..];
    }
    out.push_str(rest);
}

fn number<T: std::str::FromStr>(word: Option<&str>) -> Result<T, String> {
    let word = word.ok_or("a number is missing")?;
    word.parse().map_err(|_| format!("no number: {word}"))
}

fn step(line: &str) -> Result<Step, String> {
    let mut words = line.split_whitespace();
    let first = words.next().ok_or("nothing")?;
    Ok(match first {
        "<" => Step::Inject(seg(line[1..].trim())?),
        ">" => Step::Expect(seg(line[1..].trim())?, None),
        "in" => {
            let span = words.next().ok_or("when?")?;
            let (low, high) = span.split_once("..").ok_or("a span is LOW..HIGH")?;
            let (_, rest) = line.split_once('>').ok_or("a segment is missing")?;
            Step::Expect(seg(rest.trim())?, Some((number(Some(low))?, number(Some(high))?)))
        }
        "silent" => Step::Silent(words.next().map_or(Ok(0), |w| number(Some(w)))?),
        "wait" => Step::Wait(number(words.next())?),
        "set" => {
            let name = words.next().ok_or("set what?")?.to_owned();
            Step::Set(name, number(words.next())?)
        }
        "die" => Step::Die,
        "flow" => Step::Flow(Flow::parse(&words.collect::<Vec<_>>())?),
        "icmp" => {
            let (kind, code) = (number(words.next())?, number(words.next())?);
            let rest: Vec<&str> = words.collect();
            let (value, seq) = match rest[..] {
                ["seq", seq] => (0, number(Some(seq))?),
                [value, "seq", seq] => (number(Some(value))?, number(Some(seq))?),
                _ => return Err("icmp TYPE CODE [VALUE] seq N".into()),
            };
            Step::Icmp { kind, code, value, seq }
        }
        "?" => Step::Ask(question(&words.collect::<Vec<_>>())?),
        _ => Step::Call(call(&line.split_whitespace().collect::<Vec<_>>())?),
    })
}

fn call(words: &[&str]) -> Result<Call, String> {
    let on = |word: &str| match word {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("on or off, not {other}")),
    };
    Ok(match *words {
        ["listen"] => Call::Listen(8),
        ["listen", backlog] => Call::Listen(number(Some(backlog))?),
        ["connect"] => Call::Connect,
        ["accept"] => Call::Accept(true),
        ["no", "accept"] => Call::Accept(false),
        ["write", count] => Call::Write(number(Some(count))?),
        ["urge", count] => Call::Urge(number(Some(count))?),
        ["maxseg", bytes] => Call::MssMax(number(Some(bytes))?),
        ["lowat", bytes] => Call::Lowat(number(Some(bytes))?),
        ["congestion", "cubic"] => Call::Congestion(congestion::CUBIC),
        ["congestion", "reno"] => Call::Congestion(congestion::RENO),
        ["congestion", "bbr"] => Call::Congestion(congestion::BBR),
        ["shut"] => Call::Shut,
        ["readshut"] => Call::ReadShut,
        ["close"] => Call::Close,
        ["abort"] => Call::Abort,
        ["read"] => Call::Read(None),
        ["read", count] => Call::Read(Some(number(Some(count))?)),
        ["nodelay", word] => Call::Flag("nodelay", on(word)?),
        ["cork", word] => Call::Flag("cork", on(word)?),
        ["fastopen", word] => Call::Flag("fastopen", on(word)?),
        ["say"] => Call::Say,
        ["quickack", word] => Call::Flag("quickack", on(word)?),
        ["keepalive", idle, interval, count] => {
            Call::Keepalive(number(Some(idle))?, number(Some(interval))?, number(Some(count))?)
        }
        ["usertimeout", ms] => Call::UserTimeout(number(Some(ms))?),
        ["rcvbuf", bytes] => Call::ReceiveBuffer(number(Some(bytes))?),
        _ => return Err("no such call".into()),
    })
}

fn question(words: &[&str]) -> Result<Question, String> {
    Ok(match *words {
        ["state", name] => Question::State(name.to_owned()),
        ["error", errno] => Question::Error(number(Some(errno))?),
        ["end"] => Question::End(true),
        ["no", "end"] => Question::End(false),
        ["received", count] => Question::Received(number(Some(count))?),
        ["acked", count] => Question::Acked(number(Some(count))?),
        ["records", count] => Question::Records(number(Some(count))?),
        ["urgent", place] => Question::Urgent(Some(number(Some(place))?)),
        ["no", "urgent"] => Question::Urgent(None),
        ["room", bytes] => Question::Room(number(Some(bytes))?),
        ["sent"] => Question::Sent,
        ["gone"] => Question::Gone,
        ["largest", octets] => Question::Largest(number(Some(octets))?),
        ["cwnd", low, high] => Question::Cwnd(number(Some(low))?, number(Some(high))?),
        _ => return Err("no such question".into()),
    })
}

fn seg(text: &str) -> Result<Seg, String> {
    let mut seg = Seg::default();
    let (head, tail) = match text.split_once('<') {
        Some((head, tail)) => {
            let (inside, after) = tail.split_once('>').ok_or("options are not closed")?;
            seg.options = Some(options(inside)?);
            (head, after)
        }
        None => (text, ""),
    };
    let mut words = head.split_whitespace();
    for letter in words.next().ok_or("flags are missing")?.chars().filter(|letter| *letter != '-') {
        let bit = LETTERS.find(letter).ok_or(format!("no flag: {letter}"))?;
        seg.flags |= 1 << bit;
    }
    let place = words.next().ok_or("a place is missing")?;
    let (seq, len) = place.split_once('+').unwrap_or((place, "0"));
    (seg.seq, seg.len) = (number(Some(seq))?, number(Some(len))?);
    let mut words = words.chain(tail.split_whitespace());
    while let Some(word) = words.next() {
        match word {
            "ack" => seg.ack = Some(number(words.next())?),
            "win" => seg.window = Some(number(words.next())?),
            "urg" => seg.urgent = Some(number(words.next())?),
            "port" => seg.port = Some(number(words.next())?),
            "badsum" => seg.bad_sum = true,
            "ce" => seg.ecn = Some(3),
            "ect0" => seg.ecn = Some(2),
            "notect" => seg.ecn = Some(0),
            other => return Err(format!("not understood: {other}")),
        }
    }
    Ok(seg)
}

fn options(text: &str) -> Result<Vec<Opt>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| option(&part.split_whitespace().collect::<Vec<_>>())).collect()
}

fn option(words: &[&str]) -> Result<Opt, String> {
    let maybe = |word: &str| if word == "*" { Ok(None) } else { number(Some(word)).map(Some) };
    Ok(match *words {
        ["mss", value] => Opt::Mss(number(Some(value))?),
        ["ws", shift] => Opt::Scale(number(Some(shift))?),
        ["sack"] => Opt::SackPermitted,
        ["sack", ref blocks @ ..] => {
            let edges = blocks.iter().map(|block| {
                let (start, end) = block.split_once("..").ok_or("a block is START..END")?;
                Ok((number(Some(start))?, number(Some(end))?))
            });
            Opt::Sack(edges.collect::<Result<_, String>>()?)
        }
        ["ts", value, echo] => Opt::Timestamps(maybe(value)?, maybe(echo)?),
        ["nosack"] => Opt::NoSack,
        ["nots"] => Opt::NoTimestamps,
        ["nows"] => Opt::NoScale,
        ["nomss"] => Opt::NoMss,
        ["nofo"] => Opt::NoFastOpen,
        ["fo"] => Opt::FastOpen(Some(Vec::new())),
        ["fo", "own"] => Opt::FastOpen(None),
        ["fo", hex] => Opt::FastOpen(Some(octets_of(hex)?)),
        ["raw", hex] => Opt::Raw(octets_of(hex)?),
        _ => return Err(format!("no option: {}", words.join(" "))),
    })
}

fn octets_of(hex: &str) -> Result<Vec<u8>, String> {
    let octet = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let octets = (0..hex.len()).step_by(2).map(octet).collect::<Option<Vec<u8>>>();
    octets.ok_or_else(|| "not hexadecimal".to_owned())
}
