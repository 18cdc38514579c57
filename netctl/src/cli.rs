//! The arguments, and which verb they mean.

use crate::admin;
use crate::group::{Access, Failure};
use crate::table::{Family, Form};
use crate::verb::{
    addr, capture, crash, filter, link, manual, metrics, monitor, neigh, nic, ping, restart, route, rule, ss,
    stats, status, sysctl, top, trace,
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use proto::control::notices::Change;
use proto::hard::routing::TABLE_MAIN;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Shows and configures a running group.
#[derive(Debug, Parser)]
#[command(name = "netctl", version, infer_subcommands = true)]
pub struct Cli {
    /// The group's name; AXOLOTL, or `axolotl`, when it is not given.
    #[arg(long, global = true)]
    name: Option<String>,
    /// JSON instead of a table.
    #[arg(short, long, global = true)]
    json: bool,
    /// Only IPv4, of sockets, addresses, routes and neighbours.
    #[arg(short = '4', long = "ipv4", global = true, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Only IPv6.
    #[arg(short = '6', long = "ipv6", global = true)]
    ipv6: bool,
    /// Statistics, of links; before the verb, as ip(8) has it.
    #[arg(short = 's', long = "stats")]
    statistics: bool,
    /// A line for each, which is how it is without it too.
    #[arg(short, long)]
    oneline: bool,
    /// Numbers instead of names, which is how it is without it too.
    #[arg(short, long)]
    numeric: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The processes, connections and drops.
    Status,
    /// The sockets; all of them, unless a letter or a filter says which.
    Ss(SsArgs),
    /// Every counter.
    Stats {
        /// Also those that are 0.
        #[arg(short, long)]
        all: bool,
    },
    /// Interfaces: show, set.
    #[command(infer_subcommands = true)]
    Link {
        /// What each has moved, and how: wake-ups, polls, frames of a poll.
        #[arg(short, long)]
        statistics: bool,
        #[command(subcommand)]
        what: Option<LinkWhat>,
    },
    /// Addresses: show, add, del.
    #[command(infer_subcommands = true, alias = "address")]
    Addr {
        #[command(subcommand)]
        what: Option<AddrWhat>,
    },
    /// Routes: show, add, del.
    #[command(infer_subcommands = true)]
    Route {
        #[command(subcommand)]
        what: Option<RouteWhat>,
    },
    /// Policy rules, by which a table of routes is chosen: show, add, del.
    #[command(infer_subcommands = true)]
    Rule {
        #[command(subcommand)]
        what: Option<RuleWhat>,
    },
    /// Permanent neighbours: show, add, del.
    #[command(infer_subcommands = true, alias = "neighbour", alias = "neighbor")]
    Neigh {
        #[command(subcommand)]
        what: Option<NeighWhat>,
    },
    /// Packet filter rules: show, add, del.
    Filter {
        #[command(subcommand)]
        what: Option<FilterWhat>,
    },
    /// Tunables by Linux's names: NAME shows one, NAME=VALUE sets it, nothing shows all.
    Sysctl {
        /// What to show or set.
        words: Vec<String>,
    },
    /// Frames of both directions as pcapng; with an expression of pcap-filter(7) those that it lets pass.
    Capture(CaptureArgs),
    /// Echo requests out of the stack, as ping(8) of iputils: 0 when anybody answered, 1 when nobody did, 2 when
    /// nothing could be sent.
    Ping(PingArgs),
    /// The routers on the stack's way to a host, as traceroute(8).
    Trace(TraceArgs),
    /// PCI network functions of this machine: list, bind, unbind.
    Nic {
        #[command(subcommand)]
        what: Option<NicWhat>,
    },
    /// Counters, processes and sockets as Prometheus text, by HTTP.
    Metrics {
        /// Where to listen; port 0 lets the kernel choose. The address is printed.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// How each daemon ended last, and its flight recorder.
    Crash,
    /// A line for each change of links, addresses, routes, neighbours and processes, until it is interrupted.
    Monitor {
        /// Which of them: link, addr, route, neigh, process; all when none is named.
        objects: Vec<String>,
    },
    /// The processes and what the counters count a second, again and again.
    Top {
        /// Seconds between two pictures.
        #[arg(short, long, default_value_t = 1.0)]
        delay: f64,
        /// Ends after this many pictures.
        #[arg(short = 'n', long)]
        count: Option<u64>,
    },
    /// Writes pages for man(1), one of each verb, into a directory.
    Man {
        /// Where to; made if it is not there.
        dir: PathBuf,
    },
    /// Prints what a shell is told to complete.
    Completions {
        /// For which one.
        shell: Shell,
    },
    /// Replaces a daemon by the program that lies there now, if it fits; connections stay.
    Restart {
        /// nicd, netd or sockd.
        role: String,
        /// Which shard or interface; else all of that role, one after the other.
        #[arg(long)]
        shard: Option<u16>,
    },
}

#[derive(Debug, Subcommand)]
enum LinkWhat {
    /// All interfaces.
    Show,
    /// add link IF [name NAME] type vlan id V
    Add {
        /// What to make.
        words: Vec<String>,
    },
    /// del IF: a VLAN, with its addresses, routes and neighbours
    Del {
        /// The interface.
        dev: String,
    },
    /// set IF [up|down] [mtu N] [promisc on|off]
    Set {
        /// The interface.
        dev: String,
        /// What to set.
        words: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum NicWhat {
    /// All of them, with driver, IOMMU group, and what keeps nicd from each.
    List,
    /// Hands one to vfio-pci.
    Bind {
        /// Its address, as 0000:03:00.0.
        bdf: String,
    },
    /// Gives one back to the kernel's driver.
    Unbind {
        /// As for bind.
        bdf: String,
    },
}

#[derive(Debug, Subcommand)]
enum AddrWhat {
    /// All addresses.
    Show,
    /// add ADDRESS/LENGTH [dev IF] [dad on|off]: with `dad on` an address of IPv4 is looked for on the link first, as
    /// those of IPv6 always are
    Add(Words),
    /// del ADDRESS/LENGTH [dev IF]
    Del(Words),
}

#[derive(Debug, Subcommand)]
enum RouteWhat {
    /// All routes.
    Show,
    /// add ADDRESS/LENGTH|default [via GATEWAY] [dev IF] [metric N] [table T] [src ADDRESS]
    /// [nexthop [via GATEWAY] [dev IF] [weight N]]…
    Add(Words),
    /// del ADDRESS/LENGTH|default [via GATEWAY] [dev IF] [metric N] [table T]
    Del(Words),
}

#[derive(Debug, Subcommand)]
enum RuleWhat {
    /// All rules.
    Show,
    /// add [not] [from PREFIX|all] [to PREFIX|all] [oif IF] [pref N] [lookup TABLE|unreachable]
    Add {
        /// What it matches, and what it does.
        words: Vec<String>,
    },
    /// del, with the words of the rule, or `pref N` alone
    Del {
        /// Which one.
        words: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum NeighWhat {
    /// All permanent neighbours.
    Show,
    /// add ADDRESS lladdr MAC [dev IF]
    Add(Words),
    /// del ADDRESS [dev IF]
    Del(Words),
}

/// The letters of ss(8), and its filters.
#[derive(Debug, Args)]
struct SsArgs {
    /// TCP.
    #[arg(short, long)]
    tcp: bool,
    /// UDP.
    #[arg(short, long)]
    udp: bool,
    /// Raw sockets, and those of echo requests.
    #[arg(short = 'w', long)]
    raw: bool,
    /// Packet sockets.
    #[arg(short = '0', long)]
    packet: bool,
    /// Only those that wait for somebody.
    #[arg(short, long)]
    listening: bool,
    /// Listening or not, which is how it is without it too.
    #[arg(short, long, conflicts_with = "listening")]
    all: bool,
    /// Numbers instead of names, which is how it is without it too.
    #[arg(short, long)]
    numeric: bool,
    /// Whose they are, which is shown without it too.
    #[arg(short, long)]
    processes: bool,
    /// Also their session, and the number of the operation that opened them.
    #[arg(short, long)]
    extended: bool,
    /// What TCP knows, which is shown without it too.
    #[arg(short, long)]
    info: bool,
    /// Also how much may wait in them.
    #[arg(short, long)]
    memory: bool,
    /// How many there are, instead of which.
    #[arg(short, long, conflicts_with_all = ["listening", "filter"])]
    summary: bool,
    /// `state NAME` and `exclude NAME`, then conditions with and, or, not, parentheses: `sport = PORT`, `dport`,
    /// also with !=, <, >, <=, >=; `src ADDRESS[/LENGTH][:PORT]`, `dst`.
    filter: Vec<String>,
}

impl SsArgs {
    fn wanted(&self) -> Result<ss::Wanted, Failure> {
        let mut protos = Vec::new();
        for (asked, names) in [
            (self.tcp, &["tcp"][..]),
            (self.udp, &["udp"]),
            (self.raw, &["raw", "icmp"]),
            (self.packet, &["p_raw", "p_dgr"]),
        ] {
            protos.extend(names.iter().filter(|_| asked));
        }
        Ok(ss::Wanted { protos, listening: self.listening, filter: ss::Filter::new(&self.filter)? })
    }
}

#[derive(Debug, Subcommand)]
enum FilterWhat {
    /// All rules, with what they have counted.
    Show,
    /// add prerouting|input|forward|output|postrouting [number N] [proto P] [from PREFIX] [to PREFIX]
    /// [sport A[-B]] [dport A[-B]] [dev IF] accept|drop
    Add {
        /// Where it stands.
        hook: String,
        /// What it matches, and what it does.
        words: Vec<String>,
    },
    /// del NUMBER
    Del {
        /// The rule's number.
        number: u32,
    },
}

/// An object and pairs of words, as ip(8) takes them.
#[derive(Debug, Args)]
struct Words {
    object: String,
    pairs: Vec<String>,
}

#[derive(Debug, Args)]
struct CaptureArgs {
    /// The file to write, `-` for standard output.
    #[arg(short, long)]
    write: String,
    /// Ends after this many frames.
    #[arg(short, long)]
    count: Option<u64>,
    /// Ends after this many seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// Only frames of this interface; `any` for all, as without it.
    #[arg(short, long, value_name = "IF")]
    interface: Option<String>,
    /// Only frames of this direction: in, out or inout.
    #[arg(short = 'Q', long)]
    direction: Option<String>,
    /// An expression of pcap-filter(7), such as `tcp port 80 and host 10.7.0.1`: compiled by libpcap.
    expression: Vec<String>,
}

/// The letters of ping(8).
#[derive(Debug, Args)]
struct PingArgs {
    /// A name, or an address; `fe80::1%IF` on an interface of the stack.
    host: String,
    /// Ends after this many requests.
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Seconds between two requests.
    #[arg(short, long, default_value_t = 1.0)]
    interval: f64,
    /// Seconds to wait for answers after the last request, while none has come.
    #[arg(short = 'W', long, default_value_t = 10.0)]
    timeout: f64,
    /// Seconds after which it ends anyway.
    #[arg(short = 'w', long)]
    deadline: Option<f64>,
    /// Bytes behind the header.
    #[arg(short, long, default_value_t = 56, value_parser = clap::value_parser!(u16).range(..=i64::from(ping::SIZE_MAX)))]
    size: u16,
    /// Hops that a request may take.
    #[arg(short, long, value_parser = clap::value_parser!(u8).range(1..))]
    ttl: Option<u8>,
    /// Numbers instead of names, which is how it is without it too.
    #[arg(short, long)]
    numeric: bool,
    /// The sums alone.
    #[arg(short, long)]
    quiet: bool,
}

/// The letters of traceroute(8).
#[derive(Debug, Args)]
struct TraceArgs {
    /// A name, or an address.
    host: String,
    /// Echo requests instead of datagrams.
    #[arg(short = 'I', long)]
    icmp: bool,
    /// The hop that is asked first.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    first_hop: u8,
    /// The hop that is asked last.
    #[arg(short, long, default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..))]
    max_hops: u8,
    /// Probes of a hop.
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=10))]
    queries: u8,
    /// Seconds that a hop's answers are waited for.
    #[arg(short, long, default_value_t = 5.0)]
    wait: f64,
    /// The first datagram's port; each of the next has one more.
    #[arg(short, long, default_value_t = 33_434)]
    port: u16,
    /// Numbers instead of names, which is how it is without it too.
    #[arg(short, long)]
    numeric: bool,
}

/// A time that a person typed, in seconds.
fn seconds(value: f64, what: &str) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| Failure::Usage(format!("{what} must be a number from 0 on")))
}

impl PingArgs {
    fn plan(&self) -> Result<ping::Plan, Failure> {
        Ok(ping::Plan {
            count: self.count,
            interval: seconds(self.interval, "interval")?,
            linger: seconds(self.timeout, "timeout")?,
            deadline: self.deadline.map(|deadline| seconds(deadline, "deadline")).transpose()?,
            size: self.size,
            hops: self.ttl,
            quiet: self.quiet,
        })
    }
}

impl TraceArgs {
    fn plan(&self) -> Result<trace::Plan, Failure> {
        Ok(trace::Plan {
            icmp: self.icmp,
            first_hop: self.first_hop,
            hops_max: self.max_hops,
            queries: self.queries,
            wait: seconds(self.wait, "wait")?,
            port: self.port,
        })
    }
}

impl Words {
    /// The value behind `key`, of which `known` are all there may be.
    fn get(&self, known: &[&str], key: &str) -> Result<Option<&str>, Failure> {
        let mut found = None;
        let mut pairs = self.pairs.iter().map(String::as_str);
        while let Some(word) = pairs.next() {
            let value = pairs.next().filter(|_| known.contains(&word));
            let value =
                value.ok_or_else(|| Failure::Usage(format!("'{word}': one of {known:?} and a value")))?;
            if word == key {
                found = Some(value);
            }
        }
        Ok(found)
    }
}

fn parsed<T: core::str::FromStr>(text: Option<&str>, what: &str) -> Result<Option<T>, Failure> {
    let bad = |text: &str| Failure::Usage(format!("'{text}' is no {what}"));
    text.map(|text| text.parse().map_err(|_| bad(text))).transpose()
}

fn route_words(words: &Words) -> Result<route::Words, Failure> {
    let known = ["via", "dev", "metric", "table", "src"];
    // What stands behind each `nexthop` is that one's.
    let mut parts = words.pairs.split(|word| word == "nexthop");
    let of = |pairs: &[String]| Words { object: words.object.clone(), pairs: pairs.to_vec() };
    let words = of(parts.next().unwrap_or(&[]));
    let hops = parts.map(|pairs| {
        let (hop, known) = (of(pairs), ["via", "dev", "weight"]);
        Ok(route::HopWords {
            via: parsed(hop.get(&known, "via")?, "address")?,
            dev: hop.get(&known, "dev")?.map(str::to_owned),
            weight: parsed::<NonZeroU8>(hop.get(&known, "weight")?, "weight")?.map_or(1, NonZeroU8::get),
        })
    });
    let hops = hops.collect::<Result<_, Failure>>()?;
    Ok(route::Words {
        to: words.object.clone(),
        via: parsed(words.get(&known, "via")?, "address")?,
        dev: words.get(&known, "dev")?.map(str::to_owned),
        metric: parsed(words.get(&known, "metric")?, "metric")?.unwrap_or(0),
        table: words.get(&known, "table")?.map_or(Ok(TABLE_MAIN), route::table_from)?,
        source: parsed(words.get(&known, "src")?, "address")?,
        hops,
    })
}

/// Does what the arguments say.
///
/// # Errors
/// [`Failure`], which knows its exit code.
pub fn run(cli: &Cli, out: &mut impl Write) -> Result<(), Failure> {
    let form = if cli.json { Form::Json } else { Form::Table };
    let family = match (cli.ipv4, cli.ipv6) {
        (true, _) => Family::V4,
        (_, true) => Family::V6,
        _ => Family::Both,
    };
    match &cli.verb {
        Verb::Man { dir } => return manual::man(Cli::command(), dir),
        Verb::Completions { shell } => return manual::completions(Cli::command(), *shell, out),
        _ => {}
    }
    if let Verb::Nic { what } = &cli.verb {
        // The machine's, no group's.
        let sysfs = nic::Sysfs::default();
        return match what {
            None | Some(NicWhat::List) => nic::list(&sysfs, form, out),
            Some(NicWhat::Bind { bdf }) => sysfs.bind(bdf),
            Some(NicWhat::Unbind { bdf }) => sysfs.unbind(bdf),
        };
    }
    let name = cli.name.clone().unwrap_or_else(proto::run_dir::default_name);
    let access = Access::find(&name)?;
    let change = |change: Change| admin::change(access.place(), change);
    match &cli.verb {
        Verb::Status => status::run(&access, form, out),
        Verb::Ss(args) if args.summary => ss::summary(&access, form, family, out),
        Verb::Ss(args) => {
            let detail = ss::Detail { extended: args.extended, memory: args.memory };
            ss::run(&access, form, family, (&args.wanted()?, detail), out)
        }
        Verb::Metrics { listen } => {
            let stop = stopped_by_signals()?;
            metrics::run(&access, *listen, &stop, out)
        }
        Verb::Monitor { objects } => {
            let wanted = monitor::objects(objects)?;
            monitor::run(&access, form, family, &wanted, &*stopped_by_signals()?, out)
        }
        Verb::Top { delay, count } => {
            let pace = top::Pace { delay: seconds(*delay, "delay")?, count: *count };
            top::run(&access, &name, form, pace, &*stopped_by_signals()?, out)
        }
        Verb::Stats { all } => stats::run(&access, form, *all, out),
        Verb::Crash => crash::run(&access, form, out),
        Verb::Nic { .. } | Verb::Man { .. } | Verb::Completions { .. } => Ok(()),
        Verb::Restart { role, shard } => restart::run(&access, role, *shard),
        Verb::Capture(args) => run_capture(&access, args, out),
        Verb::Ping(args) => {
            let asked = (args.host.as_str(), args.plan()?);
            ping::run(&access, form, family, asked, &*stopped_by_signals()?, out)
        }
        Verb::Trace(args) => {
            let asked = (args.host.as_str(), args.plan()?);
            trace::run(&access, form, family, asked, &*stopped_by_signals()?, out)
        }
        Verb::Link { what: None | Some(LinkWhat::Show), statistics } if *statistics || cli.statistics => {
            link::statistics(&access, form, out)
        }
        Verb::Link { what: None | Some(LinkWhat::Show), .. } => link::show(&access, form, out),
        Verb::Link { what: Some(LinkWhat::Set { dev, words }), .. } => {
            change(link::set(&access, dev, words)?)
        }
        Verb::Link { what: Some(LinkWhat::Add { words }), .. } => change(link::add(&access, words)?),
        Verb::Link { what: Some(LinkWhat::Del { dev }), .. } => {
            change(Change::LinkDel { nic: link::index(&access, Some(dev))? })
        }
        Verb::Addr { what: None | Some(AddrWhat::Show) } => addr::show(&access, form, family, out),
        Verb::Addr { what: Some(AddrWhat::Add(words)) } => {
            let known = ["dev", "dad"];
            let nic = link::index(&access, words.get(&known, "dev")?)?;
            let dad = match words.get(&known, "dad")? {
                None | Some("off") => false,
                Some("on") => true,
                Some(other) => return Err(Failure::Usage(format!("dad on or off, not '{other}'"))),
            };
            change(Change::AddressAdd { nic, prefix: addr::prefix_from(&words.object)?, dad })
        }
        Verb::Addr { what: Some(AddrWhat::Del(words)) } => {
            let nic = link::index(&access, words.get(&["dev"], "dev")?)?;
            change(Change::AddressDel { nic, prefix: addr::prefix_from(&words.object)? })
        }
        Verb::Route { what: None | Some(RouteWhat::Show) } => route::show(&access, form, family, out),
        Verb::Route { what: Some(RouteWhat::Add(words)) } => {
            change(route::add(&access, &route_words(words)?)?)
        }
        Verb::Route { what: Some(RouteWhat::Del(words)) } => {
            change(route::del(&access, &route_words(words)?)?)
        }
        Verb::Rule { what: None | Some(RuleWhat::Show) } => rule::show(&access, form, family, out),
        Verb::Rule { what: Some(RuleWhat::Add { words }) } => change(rule::add(&access, family, words)?),
        Verb::Rule { what: Some(RuleWhat::Del { words }) } => change(rule::del(&access, family, words)?),
        Verb::Sysctl { words } => sysctl::run(&access, form, words, change, out),
        Verb::Filter { what: None | Some(FilterWhat::Show) } => filter::show(&access, form, out),
        Verb::Filter { what: Some(FilterWhat::Add { hook, words }) } => {
            change(filter::add(&access, hook, words)?)
        }
        Verb::Filter { what: Some(FilterWhat::Del { number }) } => {
            change(Change::FilterDel { number: *number })
        }
        Verb::Neigh { what: None | Some(NeighWhat::Show) } => neigh::show(&access, form, family, out),
        Verb::Neigh { what: Some(NeighWhat::Add(words)) } => {
            let known = ["lladdr", "dev"];
            let nic = link::index(&access, words.get(&known, "dev")?)?;
            let mac =
                words.get(&known, "lladdr")?.ok_or_else(|| Failure::Usage("lladdr is missing".into()))?;
            change(Change::NeighbourAdd { nic, addr: neighbour(words)?, mac: link::mac_from(mac)? })
        }
        Verb::Neigh { what: Some(NeighWhat::Del(words)) } => {
            let nic = link::index(&access, words.get(&["dev"], "dev")?)?;
            change(Change::NeighbourDel { nic, addr: neighbour(words)? })
        }
    }
}

fn neighbour(words: &Words) -> Result<IpAddr, Failure> {
    words.object.parse().map_err(|_| Failure::Usage(format!("'{}' is no address", words.object)))
}

/// Set when somebody asks the verb to end.
fn stopped_by_signals() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|e| Failure::Io("signals", e))?;
    }
    Ok(stop)
}

fn run_capture(access: &Access, args: &CaptureArgs, out: &mut impl Write) -> Result<(), Failure> {
    let stop = stopped_by_signals()?;
    let duration = args.seconds.map(|limit| seconds(limit, "seconds")).transpose()?;
    let limits = capture::Limits { count: args.count, duration };
    let (interface, direction) = (args.interface.as_deref(), args.direction.as_deref());
    let wanted = capture::Wanted::new(access, interface, direction, &args.expression)?;
    let sum = match args.write.as_str() {
        "-" => capture::run(access, &wanted, limits, &stop, &mut BufWriter::new(out))?,
        path => {
            let file = File::create(path).map_err(|e| Failure::Io("the capture's file", e))?;
            capture::run(access, &wanted, limits, &stop, &mut BufWriter::new(file))?
        }
    };
    let capture::Sum { written, passed_over, missed_slots } = sum;
    let size = proto::capture::SLOT_SIZE;
    eprintln!(
        "{written} frames captured, {passed_over} passed over, {missed_slots} slots of {size} bytes missed"
    );
    Ok(())
}
