//! `netctl rule`: the policy rules, by which a table of routes is chosen; `rule add|del [not] [from PREFIX|all]
//! [to PREFIX|all] [oif IF] [pref N] [lookup TABLE|unreachable]`, as ip-rule(8) has it.

use crate::group::{Access, Failure};
use crate::table::{Family, Form, Table, json};
use crate::verb::addr::prefix_from;
use crate::verb::{link, route};
use proto::control::messages::Prefix;
use proto::control::notices::Change;
use proto::hard::config::{Key, Value};
use proto::hard::routing::{
    Action, PRIORITY_DEFAULT, PRIORITY_MAIN, PolicyRule, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN,
};
use serde::Serialize;
use std::io::Write;

#[derive(Debug, Serialize)]
struct Shown {
    priority: u32,
    family: &'static str,
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    not: bool,
    src: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oif: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
}

/// What a person said of a rule; what was not said is `None`.
#[derive(Debug, Default)]
struct Said {
    priority: Option<u32>,
    not: bool,
    source: Option<Prefix>,
    destination: Option<Prefix>,
    interface: Option<u16>,
    action: Option<Action>,
}

fn usage(word: &str) -> Failure {
    Failure::Usage(format!(
        "'{word}': rule add|del [not] [from PREFIX|all] [to PREFIX|all] [oif IF] [pref N] \
         [lookup TABLE|unreachable]"
    ))
}

/// A prefix, one address alone among them, or `all`.
fn network_from(text: &str) -> Result<Option<Prefix>, Failure> {
    match text {
        "all" | "any" | "default" => Ok(None),
        network => prefix_from(network).map(Some),
    }
}

fn said(access: &Access, words: &[String]) -> Result<Said, Failure> {
    let mut said = Said::default();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "not" => said.not = true,
            "unreachable" => said.action = Some(Action::Unreachable),
            key => {
                let value = words.next().ok_or_else(|| usage(key))?;
                match key {
                    "from" => said.source = network_from(value)?,
                    "to" => said.destination = network_from(value)?,
                    "oif" | "dev" => said.interface = Some(link::index(access, Some(value))?),
                    "pref" | "priority" | "preference" | "order" => {
                        let number = value.parse().ok().filter(|number| *number > 0);
                        said.priority = Some(number.ok_or_else(|| usage(value))?);
                    }
                    "lookup" | "table" => said.action = Some(Action::Lookup(route::table_from(value)?)),
                    "type" if value == "unreachable" => said.action = Some(Action::Unreachable),
                    _ => return Err(usage(key)),
                }
            }
        }
    }
    Ok(said)
}

fn entered(access: &Access) -> Vec<PolicyRule> {
    let of = |record: proto::hard::config::Record| match (record.key, record.value) {
        (Key::Policy(rule), Value::Policy) => Some(rule),
        _ => None,
    };
    access.config().into_iter().filter_map(of).collect()
}

/// Of which family a rule is: its prefixes', else what `-6` says.
fn is_v6(said: &Said, family: Family) -> bool {
    let of_prefix = said.source.or(said.destination).map(|prefix| prefix.addr.is_ipv6());
    of_prefix.unwrap_or(family == Family::V6)
}

/// The change that enters a rule. Without a priority it comes before all that were entered, as with ip(8).
///
/// # Errors
/// [`Failure::Usage`].
pub fn add(access: &Access, family: Family, words: &[String]) -> Result<Change, Failure> {
    let said = said(access, words)?;
    let v6 = is_v6(&said, family);
    let action = said.action.unwrap_or(Action::Lookup(TABLE_MAIN));
    let lowest = entered(access).iter().filter(|rule| rule.v6 == v6).map(|rule| rule.priority).min();
    let priority = said.priority.unwrap_or_else(|| lowest.unwrap_or(PRIORITY_MAIN).min(PRIORITY_MAIN) - 1);
    let (not, source, destination) = (said.not, said.source, said.destination);
    let rule = PolicyRule { priority, v6, not, source, destination, interface: said.interface, action };
    if !rule.is_sound() {
        return Err(Failure::Usage("a rule that can't be: mixed families, priority 0 or table local".into()));
    }
    Ok(Change::RuleAdd { rule })
}

/// The change that takes out the first rule that is as was said; a priority alone names it.
///
/// # Errors
/// [`Failure::Usage`], when there is none.
pub fn del(access: &Access, family: Family, words: &[String]) -> Result<Change, Failure> {
    let said = said(access, words)?;
    let v6 = is_v6(&said, family);
    let alike = |rule: &PolicyRule| {
        rule.v6 == v6
            && said.priority.is_none_or(|priority| rule.priority == priority)
            && said.source.is_none_or(|source| rule.source == Some(source))
            && said.destination.is_none_or(|destination| rule.destination == Some(destination))
            && said.interface.is_none_or(|interface| rule.interface == Some(interface))
            && said.action.is_none_or(|action| rule.action == action)
            && (!said.not || rule.not)
    };
    let rule = entered(access).into_iter().find(alike);
    let rule = rule.ok_or_else(|| Failure::Usage("there is no such rule".to_owned()))?;
    Ok(Change::RuleDel { rule })
}

/// Shows the rules, those that every host has among them.
///
/// # Errors
/// When the answer can't be written.
pub fn show(access: &Access, form: Form, family: Family, out: &mut impl Write) -> Result<(), Failure> {
    let names = link::names(access);
    let own = |priority: u32, table: u32, v6: bool| PolicyRule {
        priority,
        v6,
        not: false,
        source: None,
        destination: None,
        interface: None,
        action: Action::Lookup(table),
    };
    let mut rules = entered(access);
    for v6 in [false, true] {
        rules.extend([
            own(0, TABLE_LOCAL, v6),
            own(PRIORITY_MAIN, TABLE_MAIN, v6),
            own(PRIORITY_DEFAULT, TABLE_DEFAULT, v6),
        ]);
    }
    rules.retain(|rule| match family {
        Family::Both => true,
        Family::V4 => !rule.v6,
        Family::V6 => rule.v6,
    });
    rules.sort_by_key(|rule| (rule.v6, rule.priority));
    let text = |prefix: Prefix| format!("{}/{}", prefix.addr, prefix.len);
    let shown: Vec<Shown> = rules
        .into_iter()
        .map(|rule| Shown {
            priority: rule.priority,
            family: if rule.v6 { "inet6" } else { "inet" },
            not: rule.not,
            src: rule.source.map_or_else(|| "all".to_owned(), text),
            dst: rule.destination.map(text),
            oif: rule.interface.map(|interface| {
                names.get(usize::from(interface)).cloned().unwrap_or_else(|| interface.to_string())
            }),
            table: match rule.action {
                Action::Lookup(table) => Some(route::table_name(table)),
                Action::Unreachable => None,
            },
            action: (rule.action == Action::Unreachable).then_some("unreachable"),
        })
        .collect();
    let written = match form {
        Form::Json => json(out, &shown),
        Form::Table => {
            let mut table = Table::new(&["PREF", "FAMILY", "FROM", "TO", "OIF", "ACTION"]);
            for rule in &shown {
                let from = if rule.not { format!("not {}", rule.src) } else { rule.src.clone() };
                let to = rule.dst.clone().unwrap_or_else(|| "all".to_owned());
                let lookup = rule.table.as_ref().map(|table| format!("lookup {table}"));
                let action = lookup.unwrap_or_else(|| "unreachable".to_owned());
                let oif = rule.oif.clone().unwrap_or_else(|| "-".to_owned());
                table.row([rule.priority.to_string(), rule.family.into(), from, to, oif, action]);
            }
            table.write(out)
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}
