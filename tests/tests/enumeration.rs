//! Crash-point enumeration over the code as shipped: a death at every effect, INV-T1 to INV-T9.

use tests::sim::cells;

#[test]
fn cells() {
    let points = cells::enumerate(&|| None, 24).expect("every prefix of the stores is a sound table");
    println!("enumeration: cells: {points} crash points, 0 failures");
    assert!(points > 1000, "the script was cut short");
}

#[test]
fn reader_beside_the_writer_of_a_cell() {
    let tried = cells::reader_beside_writer().expect("a reader sees what was true");
    println!("enumeration: reader beside the writer: {tried} interleavings, 0 failures");
}
