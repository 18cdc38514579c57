//! `netctl filter`: the packet filter's rules and what they have counted; `filter add HOOK WORDS accept|drop`,
//! `filter del NUMBER`.

use crate::group::{Access, Failure};
use crate::table::{Form, Table, json};
use crate::verb::addr::prefix_from;
use crate::verb::link;
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use proto::hard::config::{Key, Value};
use proto::hard::filter::{Hook, Rule, Verdict};
use serde::Serialize;
use std::io::Write;

#[derive(Debug, Serialize)]
struct Shown {
    number: u32,
    hook: &'static str,
    proto: Option<String>,
    from: Option<String>,
    to: Option<String>,
    sport: Option<String>,
    dport: Option<String>,
    dev: Option<String>,
    verdict: &'static str,
    packets: u64,
    bytes: u64,
}

fn text_of(prefix: Prefix) -> String {
    format!("{}/{}", prefix.addr, prefix.len)
}

fn range_of((low, high): (u16, u16)) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

const PROTOCOLS: [(&str, u8); 4] = [("icmp", 1), ("tcp", 6), ("udp", 17), ("ipv6-icmp", 58)];

fn protocol_of(number: u8) -> String {
    let known = PROTOCOLS.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

fn usage(word: &str, what: &str) -> Failure {
    Failure::Usage(format!("'{word}' is no {what}"))
}

/// A rule of words: `number N`, `proto P`, `from PREFIX`, `to PREFIX`, `sport A[-B]`, `dport A[-B]`, `dev IF`,
/// in any order, and at the end `accept` or `drop`.
fn rule_from(access: &Access, hook: &str, words: &[String]) -> Result<Rule, Failure> {
    let hook = Hook::ALL.into_iter().find(|known| known.name() == hook).ok_or_else(|| usage(hook, "hook"))?;
    let (verdict, pairs) = match words.split_last() {
        Some((word, pairs)) if word == "drop" => (Verdict::Drop, pairs),
        Some((word, pairs)) if word == "accept" => (Verdict::Accept, pairs),
        _ => return Err(Failure::Usage("a rule ends with accept or drop".to_owned())),
    };
    let mut rule = Rule { hook, verdict, ..Rule::default() };
    let ports = |word: &str| {
        let (low, high) = word.split_once('-').unwrap_or((word, word));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) if low <= high => Ok((low, high)),
            _ => Err(usage(word, "port or range of ports")),
        }
    };
    for pair in pairs.chunks(2) {
        let [key, value] = pair else { return Err(usage(&pair[0], "pair of words")) };
        match key.as_str() {
            "number" => rule.number = value.parse().map_err(|_| usage(value, "number"))?,
            "proto" => {
                let known = PROTOCOLS.iter().find(|(name, _)| name == value).map(|(_, number)| *number);
                let number = known.or_else(|| value.parse().ok());
                rule.protocol = Some(number.ok_or_else(|| usage(value, "protocol"))?);
            }
            "from" => rule.source = Some(prefix_from(value)?),
            "to" => rule.destination = Some(prefix_from(value)?),
            "sport" => rule.source_ports = Some(ports(value)?),
            "dport" => rule.destination_ports = Some(ports(value)?),
            "dev" => rule.interface = Some(link::index(access, Some(value))?),
            _ => return Err(usage(key, "word of a rule")),
        }
    }
    Ok(rule)
}

fn rules(access: &Access) -> Vec<(Rule, u64, u64)> {
    let of = |record: proto::hard::config::Record| match (record.key, record.value) {
        (Key::Filter(rule), Value::Filter { packets, bytes }) => Some((rule, packets, bytes)),
        _ => None,
    };
    let mut rules: Vec<_> = access.config().into_iter().filter_map(of).collect();
    rules.sort_by_key(|(rule, ..)| (rule.hook, rule.number));
    rules
}

/// The change that adds a rule; without a number it comes last.
///
/// # Errors
/// [`Failure::Usage`].
pub fn add(access: &Access, hook: &str, words: &[String]) -> Result<Change, Failure> {
    let mut rule = rule_from(access, hook, words)?;
    if rule.number == 0 {
        rule.number = rules(access).iter().map(|(known, ..)| known.number).max().unwrap_or(0) + 1;
    }
    Ok(Change::FilterAdd { rule })
}

/// Shows the rules.
///
/// # Errors
/// When the answer can't be written.
pub fn show(access: &Access, form: Form, out: &mut impl Write) -> Result<(), Failure> {
    let names = link::names(access);
    let shown: Vec<Shown> = rules(access)
        .into_iter()
        .map(|(rule, packets, bytes)| Shown {
            number: rule.number,
            hook: rule.hook.name(),
            proto: rule.protocol.map(protocol_of),
            from: rule.source.map(text_of),
            to: rule.destination.map(text_of),
            sport: rule.source_ports.map(range_of),
            dport: rule.destination_ports.map(range_of),
            dev: rule
                .interface
                .map(|index| names.get(usize::from(index)).cloned().unwrap_or_else(|| index.to_string())),
            verdict: if rule.verdict == Verdict::Drop { "drop" } else { "accept" },
            packets,
            bytes,
        })
        .collect();
    let written = match form {
        Form::Json => json(out, &shown),
        Form::Table => {
            let mut table = Table::new(&[
                "NUMBER", "HOOK", "PROTO", "FROM", "TO", "SPORT", "DPORT", "DEV", "VERDICT", "PACKETS",
                "BYTES",
            ]);
            for rule in shown {
                let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
                table.row([
                    rule.number.to_string(),
                    rule.hook.to_owned(),
                    dash(rule.proto),
                    dash(rule.from),
                    dash(rule.to),
                    dash(rule.sport),
                    dash(rule.dport),
                    dash(rule.dev),
                    rule.verdict.to_owned(),
                    rule.packets.to_string(),
                    rule.bytes.to_string(),
                ]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}
