//! What /proc says of processes: memory, processor time, context switches.

use std::path::{Path, PathBuf};

/// Nanoseconds to seconds.
const NANOS: f64 = 1e-9;

fn tasks(pid: u32) -> Vec<PathBuf> {
    let found = std::fs::read_dir(format!("/proc/{pid}/task"));
    found.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn number_after(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn read(path: &Path) -> String {
    // A process that is gone says nothing.
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Context switches of all threads of these processes so far, voluntary or not.
pub fn switches(pids: &[u32]) -> u64 {
    let of = |task: PathBuf| {
        let text = read(&task.join("status"));
        number_after(&text, "voluntary_ctxt_switches:") + number_after(&text, "nonvoluntary_ctxt_switches:")
    };
    pids.iter().flat_map(|pid| tasks(*pid)).map(of).sum()
}

/// Processor time that all threads of these processes have had, in seconds (schedstat of proc(5)).
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    let of = |task: PathBuf| {
        let text = read(&task.join("schedstat"));
        text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) as f64
    };
    pids.iter().flat_map(|pid| tasks(*pid)).map(of).sum::<f64>() * NANOS
}

/// The kernel's threads that do soft interrupts when there are too many.
pub fn soft_interrupt_threads() -> Vec<u32> {
    let found = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = found.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| read(Path::new(&format!("/proc/{pid}/comm"))).starts_with("ksoftirqd/")).collect()
}

/// Proportional set size of these processes together, in bytes.
pub fn pss(pids: &[u32]) -> u64 {
    let of = |pid: &u32| number_after(&read(Path::new(&format!("/proc/{pid}/smaps_rollup"))), "Pss:") * 1024;
    pids.iter().map(of).sum()
}

/// Kernel memory of the whole machine that sockets and descriptors live in, in bytes: slab and
/// page tables and kernel stacks (/proc/meminfo).
pub fn kernel_memory() -> u64 {
    let text = read(Path::new("/proc/meminfo"));
    ["Slab:", "PageTables:", "KernelStack:"].iter().map(|key| number_after(&text, key)).sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_time_and_switches() {
        let us = [std::process::id()];
        let before = switches(&us);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(switches(&us) > before, "sleeping is a switch");
        assert!(cpu_seconds(&us) > 0.0 && pss(&us) > 100_000 && kernel_memory() > 1_000_000);
    }
}
