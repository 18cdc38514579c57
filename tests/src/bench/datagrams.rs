//! Datagrams echoed per second of processor time: two groups on a wire beside the kernel over veth.
//!
//! Processor time is that of the echoing side: the group and its client; the kernel's echo process,
//! whose system calls carry the kernel's work both ways (over veth each sender also does the
//! receiver's), and half of the threads that take over soft interrupts.

use super::load::{self, Service};
use super::paths::{Far, Server, Wired};
use super::row::{Goal, Row, Series, rounded};
use super::sockets::{Kernel, Sockets, Stack};
use super::{ROUNDS, Wanted, machine, say};
use std::io;
use std::time::Duration;

/// How long one measurement lasts.
const FLOW: Duration = Duration::from_millis(1000);
/// Echoed datagrams per processor second that must be reached.
const GOAL: f64 = 1.0e6;

/// The rows of this file.
pub const IDS: [&str; 1] = ["udp64_pps"];

/// What is asked for of [`IDS`].
///
/// # Errors
/// When a path can't be laid or a load fails.
pub fn rows(_: &Wanted) -> io::Result<Vec<Row>> {
    let far = Far::new()?;
    far.veth("axlu", "10.79.3")?;
    let kernel_echo = Server::far(&far, Service::Datagrams)?;
    let wired = Wired::lay()?;
    let stack_echo = Server::on(&wired.server, Service::Datagrams)?;
    let remote = Stack(wired.client.session(libnetclient::Size::default())?);
    let (ours, theirs) = (remote.datagrams(0)?, Kernel.datagrams(0)?);
    let to = |host: [u8; 4]| (host, Service::Datagrams.port()).into();
    let mut group: Vec<u32> = wired.server.processes().iter().map(|row| row.pid).collect();
    group.push(stack_echo.pid());
    let soft = machine::soft_interrupt_threads();
    let kernel_seconds = || machine::cpu_seconds(&[kernel_echo.pid()]) + machine::cpu_seconds(&soft) / 2.0;
    let group_seconds = || machine::cpu_seconds(&group);

    let (mut stack, mut kernel, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        say(&format!("udp64_pps: {round} of {ROUNDS}"));
        let before = group_seconds();
        let echoed = load::datagrams(&ours, to([10, 79, 4, 2]), FLOW)? as f64;
        let per_second = echoed / (group_seconds() - before).max(1e-9);
        let before = kernel_seconds();
        let by_kernel = load::datagrams(&theirs, to([10, 79, 3, 2]), FLOW)? as f64;
        let by_kernel_per_second = by_kernel / (kernel_seconds() - before).max(1e-9);
        if round > 0 {
            stack.push(per_second);
            kernel.push(by_kernel_per_second);
            rates.push((echoed / FLOW.as_secs_f64(), by_kernel / FLOW.as_secs_f64()));
        }
    }
    let ours = Series::new("stack", stack);
    let goal = Goal::new("≥ 1.0 M", ours.median() >= GOAL);
    let rate = |pick: fn(&(f64, f64)) -> f64| {
        rounded(Series::new("rate", rates.iter().map(pick).collect()).median())
    };
    Ok(vec![Row {
        id: "udp64_pps",
        unit: "1/CPU-s",
        higher: true,
        ours,
        baseline: Some(Series::new("kernel_veth", kernel)),
        goal,
        more: vec![("ours_per_second", rate(|pair| pair.0)), ("kernel_per_second", rate(|pair| pair.1))],
    }])
}
