//! Linux as judge: the packet scripts that are about the wire alone, against the kernel of this machine.
//!
//! What differs is listed in docs/DIFFERENCES.md with the reason; a difference that is not listed fails, and
//! so does a listed one that has gone. `AXOLOTL_SCRIPT=part` runs those whose path contains it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::process::private_net;
use tests::script::judge::{Kernel, Verdict};
use tests::script::{Script, read_all};

/// The longest script in real time.
const PATIENCE: Duration = Duration::from_millis(1500);
/// So often one that the list does not name may differ, with patience that varies, before it does.
const TRIES: u32 = 8;
const LIST: &str = "docs/DIFFERENCES.md";

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace above").to_owned()
}

/// The scripts that the list names in lines of its tables: folder and name, as no other test is named there.
fn listed(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    names.filter(|name| name.contains('/')).map(str::to_owned).collect()
}

#[test]
fn the_kernel_says_the_same_on_the_wire() {
    private_net::test("the_kernel_says_the_same_on_the_wire", || {
        // The kernel's timers run whether or not this thread does. Who may not ask for it is late more often.
        let _ = rustix::process::setpriority_process(None, -20);
        let part = std::env::var("AXOLOTL_SCRIPT").unwrap_or_default();
        let known = listed(&fs::read_to_string(top().join(LIST)).unwrap_or_default());
        let mut kernel = Kernel::new().expect("a TAP");
        let (mut agrees, mut differs, mut not_asked) = (0, BTreeMap::new(), BTreeMap::new());
        for (name, text) in read_all().iter().filter(|(name, _)| name.contains(&part)) {
            let script = Script::parse(text).unwrap_or_else(|fault| panic!("{name}.pkt: {fault}"));
            // A busy machine is late, which is no answer of the kernel's: one that agrees once does agree.
            let tries = if known.contains(name) { 1 } else { TRIES };
            let mut verdict = kernel.run(&script, PATIENCE, 1);
            for again in 1..tries {
                if matches!(verdict, Verdict::Differs(_)) {
                    // Waiting longer helps where the machine is late, and harms where a timer runs meanwhile.
                    verdict = kernel.run(&script, PATIENCE, if again % 2 == 0 { 1 } else { again });
                }
            }
            match verdict {
                Verdict::Agrees => agrees += 1,
                Verdict::Differs(fault) => drop(differs.insert(name.clone(), fault)),
                Verdict::NotAsked(reason) => *not_asked.entry(reason).or_insert(0) += 1,
            }
        }
        println!("judge: {agrees} agree, {} differ, not asked: {not_asked:?}", differs.len());
        let mut faults = Vec::new();
        for (name, fault) in &differs {
            println!("{} {name}: {fault}", if known.contains(name) { "known " } else { "DIFFERS" });
            if !known.contains(name) {
                faults.push(format!("{name}: {fault}"));
            }
        }
        let all = read_all();
        faults.extend(
            known
                .iter()
                .filter(|name| !all.contains_key(*name))
                .map(|name| format!("{name}: no such script")),
        );
        assert!(faults.is_empty(), "not in {LIST}:\n{}", faults.join("\n"));
        assert!(agrees > 0 || !part.is_empty());
    });
}
