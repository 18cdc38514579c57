use super::*;
use crate::wire::ndp::NdpMessage;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
const START: Instant = Instant::from_millis(1_000_000);
const SECOND: Duration = Duration::from_secs(1);

struct Host {
    autoconf: Autoconf,
    acts: Vec<Act>,
    now: Instant,
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn prefix(text: &str, len: u8) -> Prefix {
    Prefix { addr: IpAddr::V6(v6(text)), len }
}

impl Host {
    fn new(slaac: bool) -> Host {
        Host { autoconf: Autoconf::new(0, MAC, HashKey([1, 2]), slaac), acts: Vec::new(), now: START }
    }

    fn on(slaac: bool) -> Host {
        let mut host = Host::new(slaac);
        host.call(|autoconf, now, sink| autoconf.switch_on(now, &mut |act| sink(act)));
        host
    }

    fn call(&mut self, call: impl FnOnce(&mut Autoconf, Instant, &mut dyn FnMut(Act))) {
        let acts = &mut self.acts;
        call(&mut self.autoconf, self.now, &mut |act| acts.push(act));
    }

    /// Lets `span` pass; returns what was asked for in it.
    fn pass(&mut self, span: Duration) -> Vec<Act> {
        let end = self.now + span;
        while let Some(at) = self.autoconf.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.call(|autoconf, now, sink| autoconf.on_timer(now, &mut |act| sink(act)));
        }
        self.now = end;
        core::mem::take(&mut self.acts)
    }

    fn assigned(acts: &[Act]) -> Vec<Ipv6Addr> {
        let addr = |act: &Act| match act {
            Act::Assign(LearnedAddress { prefix: Prefix { addr: IpAddr::V6(addr), .. }, .. }, _) => {
                Some(*addr)
            }
            _ => None,
        };
        acts.iter().filter_map(addr).collect()
    }

    /// A router fe80::1 advertises itself and 2001:db8:1::/64.
    fn hear(&mut self, lifetime_s: u16, valid: u32, preferred: u32) {
        let mut bytes = vec![134, 0, 0, 0, 99, 0];
        bytes.extend(lifetime_s.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend([3, 4, 64, 0xc0]);
        bytes.extend(valid.to_be_bytes());
        bytes.extend(preferred.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(v6("2001:db8:1::").octets());
        bytes.extend([5, 1, 0, 0, 0, 0, 5, 0x14]);
        bytes.extend([25, 3, 0, 0, 0, 0, 0, 60]);
        bytes.extend(v6("2001:db8::53").octets());
        let router = v6("fe80::1");
        let ends = crate::wire::address::AddressPair::V6 { src: router, dst: crate::wire::ndp::ALL_NODES };
        let (message, options) = NdpMessage::parse(&bytes, &ends).unwrap();
        let NdpMessage::RouterAdvertisement(said) = message else { panic!("an advertisement") };
        self.call(|autoconf, now, sink| {
            autoconf.advertised(now, zone::with(router, 1), &said, options, &mut |act| sink(act));
        });
    }
}

#[test]
fn a_link_local_address_is_made_and_looked_for() {
    let mut host = Host::on(false);
    let acts = host.pass(5 * SECOND);
    let [addr] = Host::assigned(&acts)[..] else { panic!("{acts:?}") };
    assert!(addr.is_unicast_link_local() && zone::of(&addr) == 1);
    let order = |wanted: Act| acts.iter().position(|act| *act == wanted).unwrap();
    assert!(order(Act::Join(solicited_node(addr))) < order(Act::Probe(addr)));
    assert!(!acts.contains(&Act::SolicitRouters), "only where addresses are learned");
    assert_eq!(Host::assigned(&Host::on(false).pass(5 * SECOND)), [addr], "the same again (RFC 7217)");
    assert_eq!(host.autoconf.next_deadline(), None, "idle costs nothing");
}

#[test]
fn a_taken_address_is_made_anew_three_times() {
    let mut host = Host::on(false);
    let mut seen = Vec::new();
    for _ in 0..=RETRIES_MAX {
        while !host.acts.iter().any(|act| matches!(act, Act::Probe(_))) {
            let at = host.autoconf.next_deadline().expect("a probe");
            host.now = at;
            host.call(|autoconf, now, sink| autoconf.on_timer(now, &mut |act| sink(act)));
        }
        let probed = host.acts.drain(..).find_map(|act| if let Act::Probe(a) = act { Some(a) } else { None });
        let addr = probed.unwrap();
        assert!(!seen.contains(&addr) && host.autoconf.is_tentative(addr));
        seen.push(addr);
        host.call(|autoconf, now, sink| autoconf.conflict(now, addr, &mut |act| sink(act)));
        assert!(host.acts.contains(&Act::Leave(solicited_node(addr))));
    }
    let acts = host.pass(10 * SECOND);
    assert!(Host::assigned(&acts).is_empty(), "given up");
}

#[test]
fn a_given_address_that_somebody_has_stays_out() {
    let mut host = Host::new(false);
    let given = prefix("2001:db8::5", 64);
    host.call(|autoconf, now, sink| assert!(autoconf.give(now, given, &mut |act| sink(act))));
    host.call(|autoconf, now, sink| assert!(!autoconf.give(now, given, &mut |act| sink(act))));
    host.call(|autoconf, now, sink| autoconf.conflict(now, v6("2001:db8::5"), &mut |act| sink(act)));
    assert!(host.acts.contains(&Act::Duplicate(given)));
    let assigned = Host::assigned(&host.pass(10 * SECOND));
    assert_eq!(assigned.len(), 1, "the link-local one");
    host.call(|autoconf, now, sink| assert!(autoconf.give(now, given, &mut |act| sink(act)), "tried again"));
    assert_eq!(Host::assigned(&host.pass(10 * SECOND)), [v6("2001:db8::5")]);
    host.call(|autoconf, _, sink| assert!(autoconf.take(given, &mut |act| sink(act))));
    assert!(host.acts.contains(&Act::Withdraw(given)));
}

#[test]
fn routers_are_asked_for_three_times() {
    let mut host = Host::on(true);
    let asked = |acts: &[Act]| acts.iter().filter(|act| **act == Act::SolicitRouters).count();
    assert_eq!(asked(&host.pass(60 * SECOND)), 3);
    let mut host = Host::on(true);
    host.hear(1800, 3600, 1800);
    assert_eq!(asked(&host.pass(60 * SECOND)), 0, "one has spoken");
}

#[test]
fn an_advertised_network_gives_an_address_and_routes() {
    let mut host = Host::on(true);
    host.hear(1800, 3600, 1800);
    let acts = host.pass(5 * SECOND);
    let [_, global] = Host::assigned(&acts)[..] else { panic!("{acts:?}") };
    assert_eq!(global.segments()[..4], [0x2001, 0xdb8, 1, 0]);
    let routes: Vec<_> = acts
        .iter()
        .filter_map(|act| if let Act::AddRoute(r) = act { Some(r.to.len) } else { None })
        .collect();
    assert_eq!(routes, [0, 64]);
    let link = Act::Link { hop_limit: Some(99), reachable: None, mtu: Some(1300) };
    assert!(acts.contains(&link));
    assert_eq!(host.autoconf.resolvers().collect::<Vec<_>>(), [v6("2001:db8::53")]);
    // Deprecated after half an hour, gone after an hour; the router before that.
    let acts = host.pass(1800 * SECOND);
    assert!(acts.iter().any(|act| matches!(act, Act::Renew(_, true))));
    assert!(acts.iter().any(|act| matches!(act, Act::RemoveRoute(route) if route.to.len == 0)));
    assert_eq!(host.autoconf.resolvers().count(), 0);
    let acts = host.pass(1800 * SECOND);
    assert!(acts.iter().any(|act| matches!(act, Act::Withdraw(_))));
    assert!(acts.iter().any(|act| matches!(act, Act::RemoveRoute(route) if route.to.len == 64)));
}

#[test]
fn nobody_shortens_a_life_below_two_hours() {
    let mut host = Host::on(true);
    host.hear(1800, 86_400, 86_400);
    host.pass(5 * SECOND);
    host.hear(1800, 1, 1);
    let left = host.autoconf.addresses.iter().find_map(|address| address.valid).unwrap();
    assert_eq!(left, host.now + SHORTENED_TO);
    host.hear(1800, 1, 1);
    assert_eq!(host.autoconf.addresses.iter().find_map(|address| address.valid), Some(left));
    host.hear(0, 86_400, 86_400);
    assert!(host.acts.iter().any(|act| matches!(act, Act::RemoveRoute(route) if route.to.len == 0)));
}

#[test]
fn what_was_learned_is_taken_over_without_a_probe() {
    let mut host = Host::new(true);
    let learned = Learned {
        addresses: vec![LearnedAddress { prefix: prefix("fe80::77", 64), valid: None, preferred: None }],
        routes: Vec::new(),
    };
    let given = [prefix("2001:db8::9", 64)];
    host.call(|autoconf, _, sink| autoconf.restore(&given, &learned, &mut |act| sink(act)));
    host.call(|autoconf, now, sink| autoconf.switch_on(now, &mut |act| sink(act)));
    let acts = host.pass(20 * SECOND);
    assert!(!acts.iter().any(|act| matches!(act, Act::Probe(_) | Act::Assign(..))));
    assert_eq!(acts.iter().filter(|act| matches!(act, Act::Join(_))).count(), 2);
}

#[test]
fn redirects_are_bounded_and_forgotten() {
    let mut host = Host::on(false);
    for n in 0..2 * REDIRECTS_MAX as u128 {
        let destination = Ipv6Addr::from_bits((0x2001 << 112) + n);
        host.call(|autoconf, now, sink| {
            autoconf.redirected(now, destination, v6("fe80:1::2"), &mut |act| sink(act));
        });
    }
    assert_eq!(host.autoconf.redirects.len(), REDIRECTS_MAX);
    host.pass(REDIRECT_LIFETIME + SECOND);
    assert!(host.autoconf.redirects.is_empty());
}
