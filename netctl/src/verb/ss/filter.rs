//! The filter language of ss(8), as far as sockets have what it asks for: states first, then conditions on ports
//! and addresses with `and`, `or`, `not` and parentheses.
//!
//! ```text
//! { state NAME | exclude NAME }… [ EXPRESSION ]
//! sport|dport OP [:]PORT      src|dst [OP] ADDRESS[/LENGTH][:PORT] | :PORT
//! OP: = == eq, != ne neq, < lt, > gt, <= le leq, >= ge geq
//! ```

use crate::group::Failure;
use std::iter::Peekable;
use std::net::{IpAddr, SocketAddr};
use std::vec::IntoIter;

/// ss's names of the states, and how they are shown.
const STATES: [(&str, &str); 11] = [
    ("established", "ESTAB"),
    ("syn-sent", "SYN-SENT"),
    ("syn-recv", "SYN-RECV"),
    ("fin-wait-1", "FIN-WAIT-1"),
    ("fin-wait-2", "FIN-WAIT-2"),
    ("time-wait", "TIME-WAIT"),
    ("closed", "UNCONN"),
    ("close-wait", "CLOSE-WAIT"),
    ("last-ack", "LAST-ACK"),
    ("listening", "LISTEN"),
    ("closing", "CLOSING"),
];

/// An address and how many of its bits count.
type Net = (IpAddr, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Local,
    Remote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    Greater,
    AtMost,
    AtLeast,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Port(Side, Comparison, u16),
    Addr(Side, Comparison, Option<Net>, Option<u16>),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
}

/// Which sockets are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// As they are shown; none for all.
    states: Vec<&'static str>,
    excluded: Vec<&'static str>,
    condition: Option<Condition>,
}

/// The states that a name means: one of them, one as the table shows it, or a class.
fn states_of(name: &str) -> Result<Vec<&'static str>, Failure> {
    let wanted = name.to_ascii_lowercase().replace('_', "-");
    let but =
        |out: &[&str]| STATES.iter().filter(|(name, _)| !out.contains(name)).map(|state| state.1).collect();
    Ok(match wanted.as_str() {
        "all" => but(&[]),
        "connected" => but(&["closed", "listening"]),
        "synchronized" => but(&["closed", "listening", "syn-sent"]),
        "bucket" => vec!["SYN-RECV", "TIME-WAIT"],
        "big" => but(&["syn-recv", "time-wait"]),
        "unconnected" => vec!["UNCONN"],
        _ => {
            let named = |(name, shown): &&(&str, &str)| {
                *name == wanted
                    || shown.eq_ignore_ascii_case(&wanted)
                    || name.replace("wait-", "wait") == wanted
            };
            let state = STATES.iter().find(named);
            vec![state.ok_or_else(|| Failure::Usage(format!("'{name}' is no state")))?.1]
        }
    })
}

/// Words and signs; `sport=:80` is three of them.
fn tokens(words: &[String]) -> Vec<String> {
    const SIGNS: &str = "()=!<>&|";
    const PAIRS: [&str; 6] = ["==", "!=", "<=", ">=", "&&", "||"];
    let mut tokens: Vec<String> = Vec::new();
    for word in words.iter().flat_map(|word| word.split_whitespace()) {
        let mut rest = word;
        while let Some(first) = rest.chars().next() {
            let len = match SIGNS.contains(first) {
                true if PAIRS.iter().any(|pair| rest.starts_with(pair)) => 2,
                true => 1,
                false => rest.find(|c| SIGNS.contains(c)).unwrap_or(rest.len()),
            };
            let (token, later) = rest.split_at(len);
            tokens.push(token.to_owned());
            rest = later;
        }
    }
    tokens
}

fn comparison(token: &str) -> Option<Comparison> {
    Some(match token {
        "=" | "==" | "eq" => Comparison::Equal,
        "!=" | "ne" | "neq" => Comparison::Unequal,
        "<" | "lt" => Comparison::Less,
        ">" | "gt" => Comparison::Greater,
        "<=" | "le" | "leq" => Comparison::AtMost,
        ">=" | "ge" | "geq" => Comparison::AtLeast,
        _ => return None,
    })
}

fn bad(what: &str, found: Option<&str>) -> Failure {
    Failure::Usage(format!("{what} in the filter, not '{}'", found.unwrap_or("its end")))
}

fn port_from(text: &str) -> Option<u16> {
    text.trim_start_matches(':').parse().ok()
}

/// `10.0.0.0/8`, `10.0.0.1:80`, `[::1]:80`, `::1`, `:80`, `*`.
fn prefix_from(text: &str) -> Option<(Option<Net>, Option<u16>)> {
    let alone = |addr: IpAddr| (addr, if addr.is_ipv4() { 32 } else { 128 });
    if text == "*" {
        return Some((None, None));
    }
    if let Ok(addr) = text.parse::<IpAddr>() {
        return Some((Some(alone(addr)), None));
    }
    if let Ok(ends) = text.parse::<SocketAddr>() {
        return Some((Some(alone(ends.ip())), Some(ends.port())));
    }
    let alone_port = text.strip_prefix(':').or_else(|| text.strip_prefix("*:"));
    if let Some(port) = alone_port.and_then(|port| port.parse().ok()) {
        return Some((None, Some(port)));
    }
    let (addr, rest) = text.split_once('/')?;
    let addr: IpAddr = addr.trim_matches(['[', ']']).parse().ok()?;
    let (len, port) = match rest.split_once(':') {
        Some((len, port)) => (len, Some(port.parse().ok()?)),
        None => (rest, None),
    };
    let len = len.parse::<u8>().ok().filter(|len| *len <= alone(addr).1)?;
    Some((Some((addr, len)), port))
}

type Tokens = Peekable<IntoIter<String>>;

fn take(tokens: &mut Tokens, wanted: &[&str]) -> bool {
    tokens.next_if(|token| wanted.contains(&token.as_str())).is_some()
}

fn either(tokens: &mut Tokens) -> Result<Condition, Failure> {
    let mut left = both(tokens)?;
    while take(tokens, &["or", "|", "||"]) {
        left = Condition::Or(Box::new(left), Box::new(both(tokens)?));
    }
    Ok(left)
}

/// `and` may be left out.
fn both(tokens: &mut Tokens) -> Result<Condition, Failure> {
    let mut left = one(tokens)?;
    loop {
        let said = take(tokens, &["and", "&", "&&"]);
        let ends = tokens.peek().is_none_or(|token| matches!(token.as_str(), ")" | "or" | "|" | "||"));
        if !said && ends {
            return Ok(left);
        }
        left = Condition::And(Box::new(left), Box::new(one(tokens)?));
    }
}

fn one(tokens: &mut Tokens) -> Result<Condition, Failure> {
    let Some(token) = tokens.next() else { return Err(bad("a condition", None)) };
    let side = if token.starts_with('d') { Side::Remote } else { Side::Local };
    match token.as_str() {
        "not" | "!" => Ok(Condition::Not(Box::new(one(tokens)?))),
        "(" => {
            let inside = either(tokens)?;
            match tokens.next().as_deref() {
                Some(")") => Ok(inside),
                other => Err(bad("')'", other)),
            }
        }
        "sport" | "dport" => {
            let how = tokens.next_if(|token| comparison(token).is_some());
            let how = how.and_then(|token| comparison(&token)).unwrap_or(Comparison::Equal);
            let value = tokens.next();
            let port = value.as_deref().and_then(port_from).ok_or_else(|| bad("a port", value.as_deref()))?;
            Ok(Condition::Port(side, how, port))
        }
        "src" | "dst" => {
            let how = tokens.next_if(|token| comparison(token).is_some());
            let how = how.and_then(|token| comparison(&token)).unwrap_or(Comparison::Equal);
            let value = tokens.next();
            let ends = value.as_deref().and_then(prefix_from);
            let (net, port) = ends.ok_or_else(|| bad("an address", value.as_deref()))?;
            match how {
                Comparison::Equal | Comparison::Unequal => Ok(Condition::Addr(side, how, net, port)),
                _ => Err(bad("= or != for an address", Some("an order"))),
            }
        }
        other => Err(bad("sport, dport, src, dst, not or '('", Some(other))),
    }
}

fn within(addr: IpAddr, (net, len): Net) -> bool {
    let same = |addr: u128, net: u128, bits: u8| {
        let shift = u32::from(bits - len);
        addr.checked_shr(shift).unwrap_or(0) == net.checked_shr(shift).unwrap_or(0)
    };
    match (addr, net) {
        (IpAddr::V4(addr), IpAddr::V4(net)) => same(addr.to_bits().into(), net.to_bits().into(), 32),
        (IpAddr::V6(addr), IpAddr::V6(net)) => same(addr.to_bits(), net.to_bits(), 128),
        _ => false,
    }
}

impl Condition {
    fn holds(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        let end = |side: Side| if side == Side::Local { local } else { remote };
        match self {
            Condition::Port(side, how, port) => {
                let own = end(*side).port();
                match how {
                    Comparison::Equal => own == *port,
                    Comparison::Unequal => own != *port,
                    Comparison::Less => own < *port,
                    Comparison::Greater => own > *port,
                    Comparison::AtMost => own <= *port,
                    Comparison::AtLeast => own >= *port,
                }
            }
            Condition::Addr(side, how, net, port) => {
                let own = end(*side);
                let found =
                    net.is_none_or(|net| within(own.ip(), net)) && port.is_none_or(|port| own.port() == port);
                found == (*how == Comparison::Equal)
            }
            Condition::Not(inside) => !inside.holds(local, remote),
            Condition::And(left, right) => left.holds(local, remote) && right.holds(local, remote),
            Condition::Or(left, right) => left.holds(local, remote) || right.holds(local, remote),
        }
    }
}

impl Filter {
    /// From the words of a person.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what is no filter.
    pub fn new(words: &[String]) -> Result<Filter, Failure> {
        let mut tokens = tokens(words).into_iter().peekable();
        let mut filter = Filter::default();
        while let Some(word) = tokens.next_if(|token| matches!(token.as_str(), "state" | "exclude")) {
            let name = tokens.next().ok_or_else(|| bad("a state", None))?;
            let named = states_of(&name)?;
            if word == "state" {
                filter.states.extend(named)
            } else {
                filter.excluded.extend(named)
            }
            // `state established and dport = 443`, as one would say it.
            take(&mut tokens, &["and"]);
        }
        if tokens.peek().is_some() {
            filter.condition = Some(either(&mut tokens)?);
            if let Some(rest) = tokens.next() {
                return Err(bad("and, or", Some(&rest)));
            }
        }
        Ok(filter)
    }

    /// Whether a socket in a state as it is shown, with these ends, is one of them.
    pub fn lets_through(&self, state: &str, local: SocketAddr, remote: SocketAddr) -> bool {
        (self.states.is_empty() || self.states.contains(&state))
            && !self.excluded.contains(&state)
            && self.condition.as_ref().is_none_or(|condition| condition.holds(local, remote))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Result<Filter, Failure> {
        Filter::new(&text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>())
    }

    fn passes(text: &str, state: &str, local: &str, remote: &str) -> bool {
        let addr = |text: &str| text.parse().expect("an address");
        filter(text).unwrap_or_else(|e| panic!("{text}: {e}")).lets_through(state, addr(local), addr(remote))
    }

    #[test]
    fn filters_are_those_of_ss() {
        let (web, far) = ("10.0.0.1:443", "192.0.2.7:50000");
        for (text, yes) in [
            ("", true),
            ("state established", true),
            ("state ESTAB", true),
            ("state listening", false),
            ("state listening state established", true),
            ("state connected exclude established", false),
            ("state synchronized", true),
            ("state bucket", false),
            ("sport = :443", true),
            ("sport=443", true),
            ("sport 443", true),
            ("sport != 443", false),
            ("sport >= :443 and sport <= 443", true),
            ("sport > 443 or dport lt 1024", false),
            ("dport gt 1024 dport < 60000", true),
            ("state established and dport = 50000 src 10.0.0.1", true),
            ("src 10.0.0.0/8", true),
            ("src 10.0.0.0/8:80", false),
            ("src = 10.0.0.1:443", true),
            ("src != 10.0.0.1", false),
            ("dst :50000", true),
            ("dst [::1]:443", false),
            ("dst ::/0", false),
            ("dst 0.0.0.0/0", true),
            ("not sport = 80", true),
            ("! ( sport = 80 or sport = 443 )", false),
            ("( sport = 80 || sport = 443 ) && dst 192.0.2.0/24", true),
            ("sport = 80 or sport = 443 and dport = 1", false),
        ] {
            assert_eq!(passes(text, "ESTAB", web, far), yes, "{text}");
        }
        assert!(passes("dst 2001:db8::/32", "ESTAB", "[::1]:1", "[2001:db8::5]:9"));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in [
            "state",
            "state open",
            "sport = x",
            "sport = 65536",
            "colour = red",
            "src 10.0.0",
            "src 10.0.0.0/33",
            "src > 10.0.0.1",
            "( sport = 1",
            "sport = 1 )",
            "not",
            "sport = 1 or",
            "sport = 1 state established",
        ] {
            assert!(matches!(filter(text), Err(Failure::Usage(_))), "{text}");
        }
    }
}
