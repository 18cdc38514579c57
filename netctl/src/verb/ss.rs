//! `netctl ss`: the sockets, in ss's words and columns; `ss -s`: how many there are.

mod filter;

pub use filter::Filter;

use crate::group::{Access, Failure, HostSocket};
use crate::table::{Family, Form, Table, json};
use proto::arena::WINDOW_MAX;
use proto::form::Form as Datagrams;
use proto::hard::conns::{Agreed, Kind};
use proto::zone;
use serde::Serialize;
use std::io::Write;
use std::net::SocketAddr;

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
    /// The operation that opened it, the same in every shard; `None` for a connection that came in.
    cookie: Option<u64>,
    /// The session that it belongs to.
    session: u32,
    /// Bytes that may wait to be read.
    rcvbuf: Option<u32>,
    /// Bytes that may wait to be acknowledged.
    sndbuf: Option<u32>,
}

/// Our side as ss(8) writes it: of a raw socket its protocol stands in the place of a port, of a packet socket
/// the type of frames.
fn local_text(local: SocketAddr, form: Datagrams) -> String {
    match form {
        Datagrams::Udp | Datagrams::Ping => local.to_string(),
        Datagrams::Raw { protocol } if local.is_ipv6() => format!("[{}]:{protocol}", local.ip()),
        Datagrams::Raw { protocol } => format!("{}:{protocol}", local.ip()),
        Datagrams::Packet { ethertype: Datagrams::EVERY_TYPE, .. } => "*:*".into(),
        Datagrams::Packet { ethertype, .. } => format!("{ethertype:#06x}:*"),
    }
}

fn socket(one: &HostSocket) -> Socket {
    let HostSocket { row, queues } = one;
    let opening = &row.opening;
    let (recv_q, send_q) = one.both_queues();
    let connection = matches!(opening.kind, Kind::TcpActive | Kind::TcpPassive);
    let options = match row.agreed {
        Some(Agreed::Active { options, .. }) => options,
        _ => opening.options,
    };
    let known = |value: u16| (connection && value != 0).then_some(value);
    let waits = queues.filter(|_| opening.kind != Kind::TcpListener);
    Socket {
        proto: row.proto(),
        state: row.state_name(),
        recv_q,
        send_q,
        local: local_text(zone::to_client(opening.local), opening.form),
        remote: match opening.remote.port() {
            0 => "*:*".into(),
            _ => zone::to_client(opening.remote).to_string(),
        },
        uid: row.owner.map(|(uid, _)| uid),
        pid: row.owner.map(|(_, pid)| pid),
        cwnd: known(row.state.cwnd_segments),
        rtt_us: known(row.state.srtt_64us).map(|units| u32::from(units) * 64),
        retrans: queues.filter(|_| connection).map(|queues| queues.retransmits),
        mss: known(options.mss),
        cookie: (opening.op.0 != 0).then_some(opening.op.0),
        session: opening.session.0,
        rcvbuf: waits.map(|queues| if queues.receive_limit == 0 { WINDOW_MAX } else { queues.receive_limit }),
        sndbuf: waits.map(|queues| queues.send_limit),
    }
}

/// Which sockets are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The protocols, as [`SocketRow::proto`](crate::group::SocketRow::proto) names them; none for all.
    pub protos: Vec<&'static str>,
    /// Only those that wait for somebody.
    pub listening: bool,
    /// What else must hold.
    pub filter: Filter,
}

/// What is shown of each beyond ss's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Detail {
    /// Whose session it is, and which operation opened it (`-e`).
    pub extended: bool,
    /// Its queues and how long they may grow (`-m`).
    pub memory: bool,
}

impl Wanted {
    fn shows(&self, one: &HostSocket) -> bool {
        let row = &one.row;
        let (local, remote) = (zone::to_client(row.opening.local), zone::to_client(row.opening.remote));
        let state = row.state_name();
        (self.protos.is_empty() || self.protos.contains(&row.proto()))
            && (!self.listening || matches!(state, "LISTEN" | "UNCONN"))
            && self.filter.lets_through(state, local, remote)
    }
}

/// Runs it.
///
/// # Errors
/// When sockd does not say where the queues are, or the answer can't be written.
pub fn run(
    access: &Access,
    form: Form,
    family: Family,
    (wanted, detail): (&Wanted, Detail),
    out: &mut impl Write,
) -> Result<(), Failure> {
    let found = access.host_sockets()?;
    let shown = found.iter().filter(|one| family.shows(one.row.opening.local.ip()) && wanted.shows(one));
    let mut sockets: Vec<Socket> = shown.map(socket).collect();
    sockets.sort_by(|a, b| (a.proto, &a.local, &a.remote).cmp(&(b.proto, &b.local, &b.remote)));
    write(&sockets, form, detail, out).map_err(|e| Failure::Io("standard output", e))
}

fn write(sockets: &[Socket], form: Form, detail: Detail, out: &mut impl Write) -> std::io::Result<()> {
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
        if detail.extended {
            process.push(format!("session:{}", socket.session));
            process.extend(socket.cookie.map(|cookie| format!("sk:{cookie:x}")));
        }
        if detail.memory
            && let (Some(rcvbuf), Some(sndbuf)) = (socket.rcvbuf, socket.sndbuf)
        {
            process.push(format!("skmem:(r{},rb{rcvbuf},t{},tb{sndbuf})", socket.recv_q, socket.send_q));
        }
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

/// Sockets of a protocol, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
struct Count {
    total: u64,
    ipv4: u64,
    ipv6: u64,
}

/// The summary of `ss -s`.
#[derive(Debug, PartialEq, Eq, Default, Serialize)]
struct Summary {
    schema: u32,
    total: u64,
    estab: u64,
    closed: u64,
    /// Whose client is gone.
    orphaned: u64,
    timewait: u64,
    raw: Count,
    udp: Count,
    tcp: Count,
}

impl Summary {
    fn of(found: &[HostSocket], family: Family) -> Summary {
        let mut summary = Summary { schema: 1, ..Summary::default() };
        for HostSocket { row, .. } in found.iter().filter(|one| family.shows(one.row.opening.local.ip())) {
            summary.total += 1;
            let count = match row.proto() {
                "tcp" => {
                    match row.state_name() {
                        "ESTAB" => summary.estab += 1,
                        "TIME-WAIT" => {
                            (summary.timewait, summary.closed) = (summary.timewait + 1, summary.closed + 1)
                        }
                        "UNCONN" => summary.closed += 1,
                        _ => {}
                    }
                    summary.orphaned += u64::from(row.state.detached);
                    &mut summary.tcp
                }
                "udp" => &mut summary.udp,
                "raw" | "icmp" => &mut summary.raw,
                _ => continue,
            };
            count.total += 1;
            *(if row.opening.local.is_ipv4() { &mut count.ipv4 } else { &mut count.ipv6 }) += 1;
        }
        summary
    }
}

/// Counts them, as `ss -s` does.
///
/// # Errors
/// As [`run`].
pub fn summary(access: &Access, form: Form, family: Family, out: &mut impl Write) -> Result<(), Failure> {
    let sum = Summary::of(&access.host_sockets()?, family);
    let written = match form {
        Form::Json => json(out, &sum),
        Form::Table => {
            let Summary { total, estab, closed, orphaned, timewait, raw, udp, tcp, .. } = sum;
            let head = writeln!(
                out,
                "Total: {total}\nTCP:   {} (estab {estab}, closed {closed}, orphaned {orphaned}, timewait {timewait})\n",
                tcp.total
            );
            let mut table = Table::new(&["Transport", "Total", "IP", "IPv6"]);
            for (name, count) in [("RAW", raw), ("UDP", udp), ("TCP", tcp)] {
                let Count { total, ipv4, ipv6 } = count;
                table.row([name.into(), total.to_string(), ipv4.to_string(), ipv6.to_string()]);
            }
            head.and_then(|()| table.write(out))
        }
    };
    written.map_err(|e| Failure::Io("standard output", e))
}
