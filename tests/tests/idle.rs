//! A group that has nothing to do does nothing: no timer ticks in any of its processes, with no
//! connection and with a thousand idle ones. A Group of real processes, counted by the kernel.

use std::fmt::Write;
use tests::bench::idle::{CONNECTIONS, Idle, SWITCHES_MAX};
use tests::bench::machine;
use tests::process::private_net;

/// Context switches of every process in the span of [`Idle::switches`], told one by one.
fn told(idle: &Idle) -> (u64, String) {
    let before: Vec<(String, u32, u64)> = idle
        .processes()
        .into_iter()
        .map(|(name, pid)| {
            let count = machine::switches(&[pid]);
            (name, pid, count)
        })
        .collect();
    let sum = idle.switches();
    let mut text = String::new();
    for (name, pid, count) in before {
        // A string takes whatever is written to it.
        let _ = write!(text, "{name} {}, ", machine::switches(&[pid]) - count);
    }
    (sum, text)
}

#[test]
fn idle_is_zero() {
    private_net::test("idle_is_zero", || {
        let mut idle = Idle::start().expect("a group");
        let (switches, by_process) = told(&idle);
        println!("without connections: {by_process}");
        assert_eq!(switches, 0, "{by_process}");
        idle.connect(CONNECTIONS).expect("connections");
        let (switches, by_process) = told(&idle);
        println!("with {CONNECTIONS} idle connections: {by_process}");
        assert!(switches <= SWITCHES_MAX, "{by_process}");
    });
}
