//! Instructions for a frame of 64 bytes, 32 a batch, on the models of the chips, counted by valgrind: the same on every
//! machine, whatever else runs there. The interrupt of a batch is among them, what chip and netd do is not.

#[path = "../../tests/callgrind/mod.rs"]
mod callgrind;

use callgrind::instructions;

const FRAMES: u64 = 6_400;
/// What a driver may cost, in instructions a frame.
const MOST: u64 = 150;

#[test]
#[ignore = "under valgrind: cargo build --release -p nicd --example per_frame, then cargo test --release -p nicd --test per_frame -- --ignored --nocapture"]
fn a_frame_costs_a_driver_little() {
    let mut too_much = Vec::new();
    for chip in ["e1000e", "igb", "virtio"] {
        for way in ["receive", "send"] {
            let count = |function| instructions("per_frame", function, &[chip, way, &FRAMES.to_string()]);
            let (Some(driver), Some(all)) = (count("driver_work"), count("a_round")) else {
                println!("per frame: not counted, there is no valgrind");
                return;
            };
            let (driver, all) = (driver / FRAMES, all / FRAMES);
            println!("{chip}, {way}: {driver} instructions a frame in the driver, {all} in nicd");
            assert!(driver > 0 && driver <= all);
            if driver > MOST {
                too_much.push(format!("{chip} {way}: {driver}"));
            }
        }
    }
    assert!(too_much.is_empty(), "more than {MOST} instructions a frame: {too_much:?}");
}
