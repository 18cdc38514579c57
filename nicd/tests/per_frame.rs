//! Instructions for a frame of 64 bytes, 32 a batch, on the models of the chips, counted by valgrind: the same on every
//! machine, whatever else runs there. The interrupt of a batch is among them, what chip and netd do is not; the driver is
//! counted with what its model does about registers and without, as a register of a chip is one instruction.

#[path = "../../tests/callgrind/mod.rs"]
mod callgrind;

use callgrind::instructions;

const FRAMES: u64 = 3_200;
/// What a driver may cost, in instructions a frame.
const MOST: u64 = 150;

#[test]
#[ignore = "under valgrind: cargo build --release -p nicd --example per_frame, then cargo test --release -p nicd --test per_frame -- --ignored --nocapture"]
fn a_frame_costs_a_driver_little() {
    let mut too_much = Vec::new();
    for chip in ["e1000e", "igb", "virtio"] {
        for way in ["receive", "send"] {
            let count = |function, except| {
                let of = |frames: u64| {
                    instructions("per_frame", function, except, &[chip, way, &frames.to_string()])
                };
                // What is done once, before the first frame, is in both.
                Some((of(2 * FRAMES)? - of(FRAMES)?) / FRAMES)
            };
            let Some(driver) = count("driver_work", Some("register_access")) else {
                println!("per frame: not counted, there is no valgrind");
                return;
            };
            let with_model = count("driver_work", None).expect("counted before");
            let all = count("a_round", Some("register_access")).expect("counted before");
            println!(
                "{chip}, {way}: {driver} instructions a frame in the driver, {with_model} with the model's registers, {all} in nicd"
            );
            assert!(driver > 0 && driver <= with_model && driver <= all);
            if driver > MOST {
                too_much.push(format!("{chip} {way}: {driver}"));
            }
        }
    }
    assert!(too_much.is_empty(), "more than {MOST} instructions a frame: {too_much:?}");
}
