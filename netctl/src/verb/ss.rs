//! `netctl ss`: the sockets, in ss's words and columns.

use crate::group::{Access, Failure, Queues, SocketRow};
use crate::table::{Family, Form, Table, json};
use proto::arena::record::record_size;
use proto::hard::conns::{Agreed, Kind, State};
use proto::id::OpId;
use proto::zone;
use serde::Serialize;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Write;
use std::net::IpAddr;

#[derive(Debug, Serialize)]
struct Socket {
    proto: &'static str,
    state: &'static str,
    recv_q: u64,
    send_q: u64,
    local: String,
    remote: String,
    uid: Option<u32>,
    pid: Option<u32>,
    cwnd: Option<u16>,
    rtt_us: Option<u32>,
    retrans: Option<u32>,
    mss: Option<u16>,
}

/// Bytes that wait behind a hole, where no ordered read reaches them.
fn out_of_order(state: &State) -> u64 {
    state.ooo.iter().map(|&(_, len)| u64::from(len)).sum()
}

/// Recv-Q and Send-Q as ss(8) shows them: bytes not read and bytes not acknowledged; of a listener
/// the connections that wait for accept and how many may. Of a socket without a client what its
/// record says.
fn both_queues(row: &SocketRow, queues: Option<Queues>) -> (u64, u64) {
    let waiting = queues.unwrap_or_default();
    match row.opening.kind {
        Kind::TcpListener => (waiting.received / record_size(0) as u64, row.opening.backlog.into()),
        Kind::Udp => (waiting.received, waiting.sent),
        Kind::TcpActive | Kind::TcpPassive => {
            let unacknowledged = queues.map_or(u64::from(row.state.snd_max), |queues| queues.sent);
            (waiting.received + out_of_order(&row.state), unacknowledged)
        }
    }
}

fn socket(row: &SocketRow, queues: Option<Queues>) -> Socket {
    let (opening, state) = (&row.opening, &row.state);
    let (recv_q, send_q) = both_queues(row, queues);
    let tcp = opening.kind != Kind::Udp;
    let connection = matches!(opening.kind, Kind::TcpActive | Kind::TcpPassive);
    let options = match row.agreed {
        Some(Agreed::Active { options, .. }) => options,
        _ => opening.options,
    };
    let known = |value: u16| (connection && value != 0).then_some(value);
    Socket {
        proto: if tcp { "tcp" } else { "udp" },
        state: state_name(row),
        recv_q,
        send_q,
        local: zone::to_client(opening.local).to_string(),
        remote: match opening.remote.port() {
            0 => "*:*".into(),
            _ => zone::to_client(opening.remote).to_string(),
        },
        uid: row.owner.map(|(uid, _)| uid),
        pid: row.owner.map(|(_, pid)| pid),
        cwnd: known(state.cwnd_segments),
        rtt_us: known(state.srtt_64us).map(|units| u32::from(units) * 64),
        retrans: queues.filter(|_| connection).map(|queues| queues.retransmits),
        mss: known(options.mss),
    }
}

/// One condition of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// `state NAME`, as ss(8) or the table writes it.
    State(String),
    /// `sport = PORT`.
    LocalPort(u16),
    /// `dport = PORT`.
    RemotePort(u16),
    /// `src ADDRESS`.
    Local(IpAddr),
    /// `dst ADDRESS`.
    Remote(IpAddr),
}

/// Which sockets are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
    /// Only those that wait for somebody.
    pub listening: bool,
    /// All of these hold.
    pub tests: Vec<Test>,
}

/// The conditions in a filter's words: `and` and `=` may stand between them.
///
/// # Errors
/// [`Failure::Usage`] for a word that is none.
pub fn tests(words: &[String]) -> Result<Vec<Test>, Failure> {
    let mut tests = Vec::new();
    let mut words =
        words.iter().map(String::as_str).filter(|word| !matches!(*word, "=" | "==" | "eq" | "and"));
    while let Some(word) = words.next() {
        let bad = |value: &str| Failure::Usage(format!("'{word} {value}' is no filter"));
        let value = words.next().ok_or_else(|| bad(""))?;
        let port = || value.trim_start_matches(':').parse::<u16>().map_err(|_| bad(value));
        let addr = || value.parse::<IpAddr>().map_err(|_| bad(value));
        tests.push(match word {
            "state" => Test::State(value.to_ascii_lowercase().replace('_', "-")),
            "sport" => Test::LocalPort(port()?),
            "dport" => Test::RemotePort(port()?),
            "src" => Test::Local(addr()?),
            "dst" => Test::Remote(addr()?),
            _ => return Err(bad(value)),
        });
    }
    Ok(tests)
}

/// Whether a state is the one of a filter: ss's long names and short ones, and its classes.
fn is_state(shown: &str, wanted: &str) -> bool {
    let shown = shown.to_ascii_lowercase();
    match wanted {
        "all" => true,
        "established" => shown == "estab",
        "listening" => shown == "listen",
        "unconnected" => shown == "unconn",
        "connected" => !matches!(shown.as_str(), "listen" | "unconn" | "closed"),
        "synchronized" => !matches!(shown.as_str(), "listen" | "unconn" | "closed" | "syn-sent"),
        wanted => shown == wanted || shown == wanted.replace("fin-wait-", "fin-wait"),
    }
}

impl Wanted {
    fn shows(&self, row: &SocketRow) -> bool {
        let (local, remote) = (zone::to_client(row.opening.local), zone::to_client(row.opening.remote));
        let state = state_name(row);
        let is_tcp = row.opening.kind != Kind::Udp;
        let waits = matches!(state, "LISTEN" | "UNCONN");
        (if is_tcp { self.tcp } else { self.udp })
            && (waits || !self.listening)
            && self.tests.iter().all(|test| match test {
                Test::State(wanted) => is_state(state, wanted),
                Test::LocalPort(port) => local.port() == *port,
                Test::RemotePort(port) => remote.port() == *port,
                Test::Local(addr) => local.ip() == *addr,
                Test::Remote(addr) => remote.ip() == *addr,
            })
    }
}

fn state_name(row: &SocketRow) -> &'static str {
    match row.opening.kind {
        Kind::TcpListener => "LISTEN",
        Kind::Udp if row.opening.remote.port() == 0 => "UNCONN",
        Kind::Udp => "ESTAB",
        _ => row.state.tcp_state.name(),
    }
}

/// Runs it.
///
/// # Errors
/// When the answer can't be written.
pub fn run(
    access: &Access,
    form: Form,
    family: Family,
    wanted: &Wanted,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut rows = access.sockets();
    rows.retain(|row| family.shows(row.opening.local.ip()) && wanted.shows(row));
    let queues = access.queues(&rows)?;
    let mut sockets: Vec<Socket> = Vec::new();
    // What lies in every shard has one operation and one line.
    let mut lines: HashMap<OpId, usize> = HashMap::new();
    for (row, queues) in rows.iter().zip(queues) {
        let socket = socket(row, queues);
        let everywhere = matches!(row.opening.kind, Kind::TcpListener | Kind::Udp);
        match lines.entry(row.opening.op) {
            Entry::Occupied(line) if everywhere => {
                let line = &mut sockets[*line.get()];
                line.recv_q += socket.recv_q;
                line.send_q += socket.send_q;
            }
            entry => {
                if everywhere {
                    entry.or_insert(sockets.len());
                }
                sockets.push(socket);
            }
        }
    }
    sockets.sort_by(|a, b| (a.proto, &a.local, &a.remote).cmp(&(b.proto, &b.local, &b.remote)));
    write(&sockets, form, out).map_err(|e| Failure::Io("standard output", e))
}

fn write(sockets: &[Socket], form: Form, out: &mut impl Write) -> std::io::Result<()> {
    if form == Form::Json {
        return json(out, &sockets);
    }
    let mut table = Table::new(&[
        "Netid",
        "State",
        "Recv-Q",
        "Send-Q",
        "Local Address:Port",
        "Peer Address:Port",
        "Process",
    ]);
    for socket in sockets {
        let mut process: Vec<String> = Vec::new();
        process.extend(socket.pid.map(|pid| format!("pid={pid}")));
        process.extend(socket.uid.map(|uid| format!("uid={uid}")));
        process.extend(socket.cwnd.map(|cwnd| format!("cwnd:{cwnd}")));
        process.extend(socket.rtt_us.map(|rtt| format!("rtt:{:.3}", f64::from(rtt) / 1000.0)));
        process.extend(socket.mss.map(|mss| format!("mss:{mss}")));
        process.extend(socket.retrans.filter(|n| *n > 0).map(|n| format!("retrans:{n}")));
        table.row([
            socket.proto.into(),
            socket.state.into(),
            socket.recv_q.to_string(),
            socket.send_q.to_string(),
            socket.local.clone(),
            socket.remote.clone(),
            process.join(" "),
        ]);
    }
    table.write(out)
}

#[cfg(test)]
mod filter_tests {
    use super::*;

    #[test]
    fn filters_are_words_of_ss() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let found = tests(&words("state established and dport = :443 src 10.0.0.1")).expect("a filter");
        let src = Test::Local([10, 0, 0, 1].into());
        assert_eq!(found, [Test::State("established".into()), Test::RemotePort(443), src]);
        for bad in ["state", "sport = x", "colour = red", "src 10.0.0", "sport = 65536"] {
            assert!(tests(&words(bad)).is_err(), "{bad}");
        }
        assert!(is_state("ESTAB", "established") && is_state("LISTEN", "listening"));
        assert!(is_state("TIME-WAIT", "time-wait") && !is_state("LISTEN", "connected"));
    }
}
