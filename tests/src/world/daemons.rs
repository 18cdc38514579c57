//! The daemons' loops, as the engines and servers run them: one turn of netd is one or more
//! batches and then sleep, one turn of sockd takes up everything that waits.

use super::device::{self, Marked};
use super::host::{Host, Netd, Sockd, Vaulted, Who};
use super::records;
use super::{Client, Event, GEOMETRY, World, Wrong};
use crate::crash::{CrashMemory, Death, Point, Process, SharedBytes, Use};
use netd::link::gro::Gro;
use netd::link::interface::InterfaceConfig;
use netd::stack::{LOOPBACK, Setup, Stack, Step, Watch};
use netd::wire::address::MacAddr;
use proto::Instant;
use proto::arena::Geometry;
use proto::control::client::Granted;
use proto::control::messages::{Ended, Prefix};
use proto::control::operations::{Answer, Command};
use proto::id::{OpId, Role, Seat, SessionId};
use proto::nic::packet_buf::{Marks, PacketBuf};
use proto::nic::pool::FramePool;
use proto::nic::slab::SlabGeometry;
use proto::recorder::{Breadcrumb, Crumb, Poison};
use sockd::core::{Core, Effect, Seed};
use sockd::policy::Limits;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

/// Pages of the frame slab: small ones for every frame of the cable, large ones for few super-frames more
/// than netd leaves to what is received.
const SLAB: SlabGeometry = SlabGeometry { small: 384, large: 96 };
/// Pages of the loopback interface.
const LOOPBACK_SLAB: SlabGeometry = SlabGeometry { small: 128, large: 48 };
/// Frames that netd has said to itself at a time.
const LOOPED_MAX: usize = 32;
/// Frames that nicd takes from netd at a time.
const TX_RING: usize = 64;

/// Who keeps the breadcrumb, as the engine does it (INV-T8).
struct Crumbs {
    breadcrumb: Breadcrumb<CrashMemory>,
    poison: Poison,
    wrong: Option<Wrong>,
}

impl Watch for Crumbs {
    fn begin(&mut self, crumb: &Crumb) -> bool {
        if self.poison.drops(crumb) {
            return false;
        }
        if self.wrong != Some(Wrong::NoCrumb) {
            self.breadcrumb.lay(*crumb);
        }
        if self.wrong == Some(Wrong::CrumbClearedEarly) {
            self.breadcrumb.clear();
        }
        true
    }

    fn end(&mut self) {
        self.breadcrumb.clear();
    }
}

/// What has left a netd in one turn.
#[derive(Default)]
struct Out {
    frames: Vec<(u16, Marked)>,
    answers: Vec<Answer>,
    wakes: Vec<SessionId>,
}

/// What a netd takes up in one turn.
struct In {
    frames: Vec<Marked>,
    looped: Vec<Vec<u8>>,
    commands: Vec<Command>,
    sessions: Vec<(SessionId, Geometry, CrashMemory)>,
    room: usize,
}

fn bytes_of(frame: &PacketBuf<CrashMemory>) -> Marked {
    let mut bytes = vec![0; frame.len()];
    frame.read(0, &mut bytes);
    Marked { bytes, marks: frame.marks }
}

/// Takes what a settled batch released, one effect each.
fn drain(process: &Process, stack: &mut Stack<CrashMemory>, out: &mut Out) {
    while let Some((nic, frame)) = stack.next_frame() {
        if process.effect(Point::Frame) {
            out.frames.push((nic, bytes_of(&frame)));
        }
    }
    while let Some(answer) = stack.next_answer() {
        if process.effect(Point::Operation) {
            out.answers.push(answer);
        }
    }
    while let Some(session) = stack.next_wake() {
        if process.effect(Point::Wake) {
            out.wakes.push(session);
        }
    }
}

impl Netd {
    /// One batch. `true` when nothing is left to do but to wait.
    fn batch(
        &mut self,
        now: Instant,
        input: In,
        order: &[Step],
        settling: &Cell<bool>,
        out: &mut Out,
    ) -> bool {
        let stack = &mut self.stack;
        for (id, geometry, memory) in input.sessions {
            // A refusal is answered to sockd by the stack itself.
            let _ = stack.add_session(id, geometry, memory);
        }
        let mut gro = Gro::default();
        for Marked { bytes, marks } in input.frames {
            if let Ok(mut frame) = PacketBuf::alloc(&self.frames, bytes.len(), 0)
                && frame.write(0, &bytes).is_ok()
            {
                frame.marks = marks;
                gro.push(frame);
            }
            while let Some(frame) = gro.pop() {
                stack.on_frame(now, 0, frame);
            }
        }
        gro.flush();
        while let Some(frame) = gro.pop() {
            stack.on_frame(now, 0, frame);
        }
        for bytes in input.looped {
            if let Ok(mut frame) = PacketBuf::alloc(&self.loopback, bytes.len(), 0)
                && frame.write(0, &bytes).is_ok()
            {
                stack.on_frame(now, LOOPBACK, frame);
            }
        }
        for command in &input.commands {
            stack.on_command(now, command);
        }
        stack.poll_kicks(now, 64);
        stack.on_timers(now);
        stack.poll_transmit(now, &mut [input.room, LOOPED_MAX]);
        settling.set(true);
        stack.settle(now, order);
        settling.set(false);
        self.process.end_of_batch();
        drain(&self.process, stack, out);
        stack.arm(now)
    }
}

impl World {
    fn netd_time(&self, host: usize) -> Instant {
        match self.config.wrong {
            Some(Wrong::TimeIsAge) => {
                Instant::from_nanos(self.now.since(self.hosts[host].netd_began).as_nanos() as u64 + 1)
            }
            _ => self.now,
        }
    }

    pub(super) fn netd_turn(&mut self, host: usize) {
        let Some(mut netd) = self.hosts[host].netd.take() else { return };
        let process = netd.process.clone();
        let place = &mut self.hosts[host];
        place.kick_pipe.set(false);
        let count = place.nic_rx.len().min(1 + self.rng.below(self.config.batch_max as u64) as usize);
        let frames = place.nic_rx.drain(..count);
        let frames = match self.config.offload {
            true => device::receive(frames, host == 0),
            false => frames.map(|bytes| Marked { bytes, marks: Marks::default() }).collect(),
        };
        let input = In {
            frames,
            looped: place.looped.drain(..).collect(),
            commands: place.commands.drain(..).collect(),
            sessions: place.new_sessions(&process),
            room: if place.nicd { TX_RING.saturating_sub(place.nic_tx.len()) } else { 0 },
        };
        self.name_connections(host, &input.commands);
        let (now, order) = (self.netd_time(host), self.config.order.clone());
        let (settling, mut out) = (Cell::new(false), Out::default());
        let outcome = match self.config.bait.is_empty() {
            true => process.run(|| netd.batch(now, input, &order, &settling, &mut out)).map(Some),
            false => process.run_buggy(|| netd.batch(now, input, &order, &settling, &mut out)),
        };
        if std::mem::take(&mut self.hosts[host].mute) {
            out.frames.clear();
        }
        if outcome.is_err() && settling.get() {
            // What the settlement had released when it was cut short may have left already.
            while let Some((nic, frame)) = netd.stack.next_frame() {
                out.frames.push((nic, bytes_of(&frame)));
            }
            out.answers.extend(std::iter::from_fn(|| netd.stack.next_answer()));
        }
        self.watch_commits(host);
        self.release(host, out);
        match outcome {
            Ok(Some(idle)) => self.netd_rests(host, netd, idle),
            Ok(None) => {
                drop(netd);
                self.netd_panicked(host);
            }
            Err(death) => {
                drop(netd);
                self.netd_fell(host, death);
            }
        }
    }

    /// A bug has ended netd.
    fn netd_panicked(&mut self, host: usize) {
        const SIGABRT: i32 = 6;
        /// Deaths on one frame until its flow is quarantined (`proto::recorder`).
        const PANICS_MAX: u32 = 3;
        self.netd_died(host);
        let place = &mut self.hosts[host];
        place.netd_panics += 1;
        if self.config.wrong != Some(Wrong::DeathsUncounted) {
            place.netd_ended = Some(Ended::Signal(SIGABRT));
        }
        if place.netd_panics > PANICS_MAX {
            let what = format!("INV-T8: host {host}: netd has died {} times of one frame", place.netd_panics);
            self.shared.oracle.borrow_mut().fail(what);
        }
    }

    fn netd_rests(&mut self, host: usize, netd: Netd, idle: bool) {
        let place = &mut self.hosts[host];
        let room = if place.nicd { TX_RING.saturating_sub(place.nic_tx.len()) } else { 0 };
        let more = !idle || !place.nic_rx.is_empty() || netd.stack.wants_transmit(&[room, LOOPED_MAX]);
        let deadline = netd.stack.next_deadline();
        place.netd = Some(netd);
        if more {
            self.wake(host, Who::Netd);
        }
        if let Some(at) = deadline {
            let at = match self.config.wrong {
                Some(Wrong::TimeIsAge) => self.hosts[host].netd_began + at.since(Instant::ZERO),
                _ => at,
            };
            self.due(host, Who::Netd, at);
        }
    }

    /// What a netd let go reaches nicd, sockd and the clients.
    fn release(&mut self, host: usize, out: Out) {
        let as_sent = |(nic, frame)| device::send(frame).into_iter().map(move |bytes| (nic, bytes));
        for (nic, frame) in out.frames.into_iter().flat_map(as_sent) {
            let place = &self.hosts[host];
            self.watch[host].frame(self.now, &frame, place, &self.shared);
            if nic == LOOPBACK {
                self.hosts[host].looped.push_back(frame);
                self.wake(host, Who::Netd);
            } else if place.nicd {
                self.hosts[host].nic_tx.push_back(frame);
            }
        }
        self.feed_device(host);
        if !out.answers.is_empty() {
            self.hosts[host].answers.extend(out.answers);
            self.wake(host, Who::Sockd);
        }
        for session in out.wakes {
            if let Some(vaulted) = self.hosts[host].vault.get(&session) {
                let client = vaulted.client;
                self.hosts[host].clients[client].borrow().pipe.set(true);
                self.wake(host, Who::Client(client));
            }
        }
    }

    fn watch_commits(&mut self, host: usize) {
        let place = &self.hosts[host];
        let linked = self.hosts.iter().all(|host| host.nicd);
        self.watch[host].commits(self.now, place, linked, &self.shared);
    }

    fn netd_fell(&mut self, host: usize, death: Death) {
        self.count_death("netd", Some(death.before));
        self.netd_died(host);
    }

    pub(super) fn netd_died(&mut self, host: usize) {
        const SIGKILL: i32 = 9;
        let place = &mut self.hosts[host];
        place.netd = None;
        place.netd_ended = Some(Ended::Signal(SIGKILL));
        // Rings belong to a pair of generations; what lies in them is gone.
        place.commands.clear();
        place.answers.clear();
        place.nic_rx.clear();
        place.looped.clear();
        place.due.remove(&Who::Netd);
        if let Some(sockd) = &mut place.sockd {
            sockd.core.detached(0);
            sockd.attached = false;
        }
        self.watch_commits(host);
        let place = &self.hosts[host];
        self.watch[host].death(place, &self.shared);
        self.corrupt_a_record(host);
        self.restart(host, Who::Netd);
    }

    pub(super) fn sockd_died(&mut self, host: usize) {
        let place = &mut self.hosts[host];
        place.sockd = None;
        place.commands.clear();
        place.answers.clear();
        place.kept.clear();
        place.dropped.clear();
        place.due.remove(&Who::Sockd);
        self.restart(host, Who::Sockd);
    }

    pub(super) fn start(&mut self, host: usize, who: Who) {
        if self.now < self.hosts[host].supervisor_back {
            let at = self.hosts[host].supervisor_back;
            return self.at(at, Event::Start { host, who });
        }
        match who {
            Who::Netd => self.start_netd(host),
            Who::Sockd => self.start_sockd(host),
            Who::Nicd => {
                self.hosts[host].nicd = true;
                self.watch.iter_mut().for_each(|watch| watch.linked(self.now, host));
                if let Some(netd) = &mut self.hosts[host].netd {
                    netd.stack.device_replaced(self.now, 0);
                }
                self.hosts[host].device_free = self.now;
                self.wake(host, Who::Netd);
            }
            Who::Supervisor | Who::Client(_) => {}
        }
    }

    fn tamper_with(&self, process: &Process, who: Who) {
        if let Some(tamper) = &self.tamper {
            process.tamper(tamper(who));
        }
    }

    fn start_netd(&mut self, host: usize) {
        let process = self.hosts[host].incarnation(Who::Netd);
        self.tamper_with(&process, Who::Netd);
        self.hosts[host].netd_generation += 1;
        self.hosts[host].netd_began = self.now;
        let (now, wrong, bait) = (self.netd_time(host), self.config.wrong, self.config.bait.clone());
        let place = &mut self.hosts[host];
        let (stats, ended) = (place.stats.map(&process), place.netd_ended.take());
        place.new_sessions.clear();
        let frames = Rc::new(FramePool::new(CrashMemory::soft(&process, SLAB.bytes()), SLAB));
        let loopback =
            Rc::new(FramePool::new(CrashMemory::soft(&process, LOOPBACK_SLAB.bytes()), LOOPBACK_SLAB));
        let config = InterfaceConfig {
            mac: MacAddr(place.mac),
            mtu: self.config.mtu,
            vlan: None,
            addrs: vec![Prefix { addr: place.ip(), len: if place.ip().is_ipv4() { 24 } else { 64 } }],
            tentative: Vec::new(),
            gateways: Vec::new(),
            slaac: false,
            learned: Default::default(),
        };
        let entropy: [u8; netd::secrets::ENTROPY_SIZE] = core::array::from_fn(|_| self.rng.next() as u8);
        if self.config.wrong == Some(Wrong::KeysLost) {
            place.secrets = SharedBytes::new(Use::Other, netd::secrets::REGION_SIZE);
        }
        let mut conns = place.conns.clone();
        if self.config.wrong == Some(Wrong::FramesBeforeTable) && place.netd_generation > 1 {
            conns = SharedBytes::new(Use::Cells, conns.size());
        }
        let setup = |conns: &Rc<SharedBytes>| Setup {
            shard: 0,
            shards: 1,
            interfaces: vec![config.clone()],
            frames: vec![frames.clone()],
            loopback: loopback.clone(),
            conns: conns.map(&process),
            conns_capacity: super::host::CONNS,
            secrets: place.secrets.map(&process),
            watch: None,
            bait: bait.clone(),
            entropy,
        };
        let sessions: Vec<_> = place
            .vault
            .iter()
            .map(|(id, vaulted)| (*id, vaulted.geometry, vaulted.arena.map(&process)))
            .collect();
        let (order, offload) = (self.config.order.clone(), self.config.offload);
        let (settling, mut out) = (Cell::new(false), Out::default());
        let (_, unreadable) = records::scan(&place.conns);
        let outcome = process.run(|| {
            if wrong == Some(Wrong::CorruptCellKills) && !unreadable.is_empty() {
                return None;
            }
            let mut setup = setup(&conns);
            if !bait.is_empty() {
                let attached = Breadcrumb::attach(stats, Seat::new(Role::Netd, 0), ended);
                let (breadcrumb, poison) = (attached.breadcrumb, attached.poison);
                setup.watch = Some(Box::new(Crumbs { breadcrumb, poison, wrong }));
            }
            let mut stack = Stack::attach(now, setup, sessions).expect("the regions are sound");
            if offload {
                stack.set_features(0, device::FEATURES);
            }
            settling.set(true);
            stack.settle(now, &order);
            settling.set(false);
            process.end_of_batch();
            drain(&process, &mut stack, &mut out);
            stack.arm(now);
            Some(stack)
        });
        match outcome {
            Ok(Some(stack)) => {
                self.hosts[host].mute = wrong == Some(Wrong::FirstWordsLost);
                self.watch_commits(host);
                let place = &self.hosts[host];
                self.watch[host].resumed(self.now, place, &self.shared);
                self.release(host, out);
                self.netd_rests(host, Netd { process, stack, frames, loopback }, false);
                self.wake(host, Who::Sockd);
            }
            Ok(None) => {
                self.shared.oracle.borrow_mut().fail("INV-T7: a corrupt cell kills netd");
            }
            Err(death) => {
                self.release(host, out);
                self.netd_fell(host, death);
            }
        }
    }

    fn start_sockd(&mut self, host: usize) {
        let process = self.hosts[host].incarnation(Who::Sockd);
        self.tamper_with(&process, Who::Sockd);
        let seed = Seed {
            ports: core::array::from_fn(|_| [self.rng.next(), self.rng.next()]),
            numbers: [self.rng.next(), self.rng.next()],
        };
        let registry = self.hosts[host].registry.map(&process);
        // Whoever knocked at the dead one and is not in the vault knocks again.
        let place = &mut self.hosts[host];
        let known: HashSet<usize> = place.vault.values().map(|vaulted| vaulted.client).collect();
        let alive = |n: &usize| !place.clients[*n].borrow().process.is_dead();
        place.knocking = (0..place.clients.len()).filter(|n| !known.contains(n)).filter(alive).collect();
        let parked: Vec<_> = place.vault.iter().map(|(id, vaulted)| (*id, vaulted.geometry)).collect();
        let outcome = process.run(|| {
            let mut core = Core::recover(registry, 1, Limits::of_group(1), seed).expect("a sound registry");
            let mut effects = Vec::new();
            for (id, geometry) in parked {
                effects.extend(core.parked(id, geometry));
            }
            effects.extend(core.vault_complete());
            (core, effects)
        });
        match outcome {
            Ok((core, effects)) => {
                let hung_up = Default::default();
                let sockd = Sockd { process, core, hung_up, attached: false };
                self.sockd_does(host, sockd, effects);
            }
            Err(death) => {
                self.count_death("sockd", Some(death.before));
                self.sockd_died(host);
            }
        }
    }

    pub(super) fn sockd_turn(&mut self, host: usize) {
        let Some(sockd) = self.hosts[host].sockd.take() else { return };
        self.sockd_does(host, sockd, Vec::new());
    }

    /// sockd carries effects out and takes up what waits, until nothing does.
    fn sockd_does(&mut self, host: usize, mut sockd: Sockd, first: Vec<Effect>) {
        let process = sockd.process.clone();
        let now = self.now;
        let outcome = {
            let place = RefCell::new(&mut self.hosts[host]);
            process.run(|| {
                let mut effects = first;
                loop {
                    for effect in effects.drain(..) {
                        place.borrow_mut().carry_out(&process, now, effect);
                    }
                    let next = place.borrow_mut().next_for_sockd(&mut sockd);
                    match next {
                        Some(next) => effects = next,
                        None => break,
                    }
                }
                process.end_of_batch();
            })
        };
        match outcome {
            Ok(()) => self.hosts[host].sockd = Some(sockd),
            Err(death) => {
                drop(sockd);
                self.count_death("sockd", Some(death.before));
                self.sockd_died(host);
            }
        }
        if !self.hosts[host].commands.is_empty() || !self.hosts[host].new_sessions.is_empty() {
            self.wake(host, Who::Netd);
        }
        for n in 0..self.hosts[host].clients.len() {
            if !self.hosts[host].clients[n].borrow().replies.is_empty() {
                self.wake(host, Who::Client(n));
            }
        }
    }

    /// Connections get their names when netd is told to open them, before their first SYN.
    fn name_connections(&mut self, host: usize, commands: &[Command]) {
        for command in commands {
            let Command::Connect { socket, local, remote, .. } = command else { continue };
            let Some(vaulted) = self.hosts[host].vault.get(&socket.session) else { continue };
            let pending = self.hosts[host].clients[vaulted.client].borrow().pending_connect();
            if let Some(conn) = pending {
                let local = std::net::SocketAddr::new(self.hosts[host].ip(), local.port());
                self.shared.name(local, *remote, conn);
            }
        }
    }
}

impl Host {
    fn new_sessions(&mut self, process: &Rc<Process>) -> Vec<(SessionId, Geometry, CrashMemory)> {
        let new = std::mem::take(&mut self.new_sessions);
        new.iter()
            .filter_map(|id| self.vault.get(id).map(|v| (*id, v.geometry, v.arena.map(process))))
            .collect()
    }

    /// The next input that waits for sockd, and the effects of taking it up.
    fn next_for_sockd(&mut self, sockd: &mut Sockd) -> Option<Vec<Effect>> {
        if !sockd.attached && self.netd.is_some() {
            sockd.attached = true;
            return Some(sockd.core.attached(0, &self.known_operations()));
        }
        if let Some(session) = self.kept.pop_front() {
            return Some(sockd.core.kept(session));
        }
        if let Some(session) = self.dropped.pop_front() {
            sockd.core.dropped(session);
            return Some(Vec::new());
        }
        if let Some(client) = self.knocking.pop_front() {
            self.let_in(sockd, client);
            return Some(Vec::new());
        }
        if let Some(answer) = self.answers.pop_front() {
            return Some(sockd.core.answer(0, answer));
        }
        for (id, vaulted) in &self.vault {
            let client = self.clients[vaulted.client].borrow();
            if client.process.is_dead() {
                if sockd.hung_up.insert(*id) {
                    return Some(sockd.core.hung_up(*id));
                }
            } else if let Some(request) = client.socket.front() {
                let effects = sockd.core.request(*id, request);
                if !effects.is_empty() {
                    return Some(effects);
                }
            }
        }
        None
    }

    /// Operations that have a socket in the connection table.
    fn known_operations(&self) -> HashSet<OpId> {
        let (records, _) = records::scan(&self.conns);
        let open = records.iter().filter(|record| !record.state.detached);
        open.map(|record| record.opening.op).filter(|op| *op != OpId(0)).collect()
    }

    /// A client's first request: its session, its arena, the vault.
    fn let_in(&mut self, sockd: &mut Sockd, number: usize) {
        let client = self.clients[number].clone();
        if client.borrow().process.is_dead() {
            return;
        }
        let request = client.borrow().socket.front().cloned();
        let Some(request) = request else { return };
        match sockd.core.open(1000, number as u32, &request) {
            Ok((id, geometry)) => {
                assert_eq!(geometry, GEOMETRY, "the session is as the client wished");
                let arena = SharedBytes::new(Use::Arena(geometry), geometry.bytes());
                if sockd.process.effect(Point::Message) {
                    self.vault.insert(id, Vaulted { geometry, arena, client: number });
                    self.new_sessions.push_back(id);
                    self.kept.push_back(id);
                }
            }
            Err(errno) => panic!("a session was refused by {errno}"),
        }
    }

    fn carry_out(&mut self, process: &Process, _now: Instant, effect: Effect) {
        match effect {
            Effect::Command { command, .. } => {
                if process.effect(Point::Operation) && self.netd.is_some() {
                    self.commands.push_back(command);
                }
            }
            Effect::Reply { session, reply } => {
                let Some(vaulted) = self.vault.get(&session) else { return };
                let mut client = self.clients[vaulted.client].borrow_mut();
                let opens = matches!(reply.result, Ok(Granted::Session { .. }));
                let number = reply.number;
                if process.effect(Point::Message) && !client.process.is_dead() {
                    if opens && !client.has_session() {
                        let memory = vaulted.arena.map(&client.process);
                        client.attach(session, vaulted.geometry, memory);
                    }
                    client.replies.push_back(reply);
                }
                // Only now the request is taken off the socket.
                if process.effect(Point::Message)
                    && client.socket.front().is_some_and(|request| request.number == number)
                {
                    client.socket.pop_front();
                }
            }
            Effect::End { session, reason } => {
                let Some(vaulted) = self.vault.get(&session) else { return };
                let client: &Rc<RefCell<Client>> = &self.clients[vaulted.client];
                if process.effect(Point::Message) && !client.borrow().process.is_dead() {
                    client.borrow_mut().sent_away(reason);
                }
            }
            Effect::Drop { session } => {
                if process.effect(Point::Message) {
                    self.vault.remove(&session);
                    self.dropped.push_back(session);
                }
            }
        }
    }
}
