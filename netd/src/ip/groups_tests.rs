use super::*;

const START: Instant = Instant::from_millis(1_000);
const ONE: Owner = Owner(1);
const OTHER: Owner = Owner(2);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn group() -> IpAddr {
    ip("239.1.2.3")
}

fn sources(mode: Mode, list: &[&str]) -> Option<Sources> {
    Some(Sources { mode, list: list.iter().map(|text| ip(text)).collect() })
}

fn groups() -> Groups {
    Groups::new(HashKey([1, 2]))
}

/// Lets everything happen; returns what was told, without repetitions in a row.
fn run(groups: &mut Groups) -> Vec<Report> {
    let mut told = Vec::new();
    while let Some(at) = groups.next_deadline() {
        groups.on_timer(at, |report| told.push(report));
    }
    told
}

fn report(kind: RecordKind, list: &[&str]) -> Report {
    let sources = list.iter().map(|text| ip(text)).collect();
    Report { kind, group: group(), sources, version: Version::Newest }
}

fn query(group: Option<IpAddr>, list: &[&str], version: Version) -> Query {
    let sources = list.iter().map(|text| ip(text)).collect();
    Query { group, sources, max_delay: Duration::from_secs(10), version }
}

#[test]
fn a_group_is_joined_and_left_and_both_are_told_twice() {
    let mut groups = groups();
    assert!(groups.set(START, ONE, group(), Some(Sources::every())));
    assert!(!groups.set(START, OTHER, group(), Some(Sources::every())), "it is listened to already");
    assert_eq!(run(&mut groups), [(); 2].map(|()| report(RecordKind::ChangeToExclude, &[])));
    assert_eq!(groups.listened().collect::<Vec<_>>(), [group()]);
    assert!(!groups.set(START, ONE, group(), None), "the other one still wants it");
    assert_eq!(run(&mut groups), []);
    assert!(groups.set(START, OTHER, group(), None));
    assert_eq!(groups.listened().count(), 0);
    assert_eq!(run(&mut groups), [(); 2].map(|()| report(RecordKind::ChangeToInclude, &[])));
    assert!(!groups.set(START, ONE, group(), None));
    assert!(groups.groups.is_empty());
}

#[test]
fn a_source_that_comes_or_goes_is_told() {
    let mut groups = groups();
    groups.set(START, ONE, group(), sources(Mode::Include, &["10.0.0.1", "10.0.0.2"]));
    let allow = report(RecordKind::AllowNewSources, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(run(&mut groups), [allow.clone(), allow]);
    groups.set(START, ONE, group(), sources(Mode::Include, &["10.0.0.2", "10.0.0.3"]));
    let (allow, block) = (
        report(RecordKind::AllowNewSources, &["10.0.0.3"]),
        report(RecordKind::BlockOldSources, &["10.0.0.1"]),
    );
    assert_eq!(run(&mut groups), [allow.clone(), block.clone(), allow, block]);
    // RFC 3376 §5.1: a change before the last was told twice is merged with it.
    groups.set(START, ONE, group(), sources(Mode::Include, &["10.0.0.2"]));
    groups.on_timer(START, |_| {});
    groups.set(START, ONE, group(), sources(Mode::Exclude, &["10.0.0.9"]));
    assert_eq!(run(&mut groups), [(); 2].map(|()| report(RecordKind::ChangeToExclude, &["10.0.0.9"])));
}

#[test]
fn what_several_want_is_merged() {
    // RFC 3376 §3.2's own examples.
    let of = |all: &[Option<Sources>]| {
        let all: Vec<Sources> = all.iter().flatten().cloned().collect();
        Sources::merged(all.iter())
    };
    let (a, b, c, d, e, f) = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6");
    let excluding = [sources(Mode::Exclude, &[a, b, c, d]), sources(Mode::Exclude, &[b, c, d, e])];
    assert_eq!(Some(of(&excluding)), sources(Mode::Exclude, &[b, c, d]));
    let mixed = [excluding[0].clone(), excluding[1].clone(), sources(Mode::Include, &[d, e, f])];
    assert_eq!(Some(of(&mixed)), sources(Mode::Exclude, &[b, c]));
    let including = [sources(Mode::Include, &[a, b, c]), sources(Mode::Include, &[b, c, d])];
    assert_eq!(Some(of(&including)), sources(Mode::Include, &[a, b, c, d]));
    assert!(of(&[]).is_none());
    assert!(of(&mixed).takes(ip(d)) && !of(&mixed).takes(ip(b)) && !of(&including).takes(ip(e)));
}

#[test]
fn queries_are_answered_in_time_and_by_what_they_ask() {
    let mut groups = groups();
    groups.set(START, ONE, group(), sources(Mode::Exclude, &["10.0.0.1"]));
    groups.set(START, OTHER, ip("239.9.9.9"), sources(Mode::Include, &["10.0.0.1"]));
    groups.set(START, Owner::HOST, ip("224.0.0.1"), Some(Sources::every()));
    run(&mut groups);
    let later = START + Duration::from_secs(100);
    assert!(groups.queried(later, &query(None, &[], Version::Newest)));
    let due = groups.next_deadline().expect("an answer");
    assert!(due >= later && due <= later + Duration::from_secs(10));
    let told = run(&mut groups);
    let other = Report { group: ip("239.9.9.9"), ..report(RecordKind::ModeIsInclude, &["10.0.0.1"]) };
    assert_eq!(told, [report(RecordKind::ModeIsExclude, &["10.0.0.1"]), other], "all hosts' is not told of");
    assert!(!groups.queried(later, &query(Some(ip("239.7.7.7")), &[], Version::Newest)));
    // RFC 3376 §5.2 rule 3: of the sources asked about, those that are wanted.
    assert!(groups.queried(later, &query(Some(group()), &["10.0.0.1", "10.0.0.2"], Version::Newest)));
    assert_eq!(run(&mut groups), [report(RecordKind::ModeIsInclude, &["10.0.0.2"])]);
    groups.queried(later, &query(Some(group()), &["10.0.0.1"], Version::Newest));
    assert_eq!(run(&mut groups), [], "it is not wanted");
}

#[test]
fn an_older_router_is_spoken_to_in_its_version() {
    let mut groups = groups();
    groups.set(START, ONE, group(), Some(Sources::every()));
    run(&mut groups);
    let later = START + Duration::from_secs(100);
    assert!(groups.queried(later, &query(None, &[], Version::Older)));
    assert!(groups.heard(later, group()), "another host has said it");
    assert_eq!(groups.next_deadline(), None);
    groups.queried(later, &query(None, &[], Version::Older));
    let told = run(&mut groups);
    assert_eq!(told, [Report { version: Version::Older, ..report(RecordKind::ModeIsExclude, &[]) }]);
    groups.set(later, ONE, group(), None);
    let left = Report { version: Version::Older, ..report(RecordKind::ChangeToInclude, &[]) };
    assert_eq!(run(&mut groups), [left.clone(), left]);
    let forgotten = later + OLDER_VERSION_PRESENT;
    groups.set(forgotten, ONE, group(), Some(Sources::every()));
    assert_eq!(run(&mut groups)[0].version, Version::Newest);
}
