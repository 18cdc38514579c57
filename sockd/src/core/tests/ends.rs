//! The end of a session beside the deaths of those who have it.

use super::*;

/// netd dies when it has said that a session is gone and the vaults still hold it, so that its
/// successor has the session: it must learn of the end, whichever is first, it or the vaults, and also
/// when sockd dies in between.
#[test]
fn a_successor_learns_of_ends_that_its_predecessor_answered() {
    for (vaults_first, sockd_dies) in [(false, false), (true, false), (true, true), (false, true)] {
        let memory = Mortal::new();
        let recovered = || Core::recover(memory.clone(), 1, limits(1), SEED).expect("a sound registry");
        let mut core = recovered();
        let _ = core.vault_complete();
        assert_eq!(core.attached(0, &HashSet::new()), []);
        let (session, _) = core.open(1000, 7, &Request { number: 1, ask: hello() }).expect("a session");
        let _ = core.kept(session);
        let ends = |effects: &[Effect]| {
            let end = |effect: &Effect| match effect {
                Effect::Command { command: Command::EndSession { session, .. }, .. } => Some(*session),
                _ => None,
            };
            effects.iter().filter_map(end).collect::<Vec<_>>()
        };
        assert_eq!(ends(&core.hung_up(session)), [session]);
        let gone = Answer::SessionGone { session };
        assert_eq!(core.answer(0, gone), [Effect::Drop { session }]);
        core.detached(0);
        if vaults_first {
            core.dropped(session);
        }
        let dropping = !vaults_first && !sockd_dies;
        if sockd_dies {
            core = recovered();
            if !vaults_first {
                assert!(matches!(core.parked(session, limits(1).default)[..], [Effect::End { .. }]));
            }
            assert_eq!(core.vault_complete(), []);
        }
        assert_eq!(ends(&core.attached(0, &HashSet::new())), [session], "vaults first: {vaults_first}");
        let again = if dropping { vec![] } else { vec![Effect::Drop { session }] };
        assert_eq!(core.answer(0, gone), again, "the vaults are asked once by each incarnation");
        core.dropped(session);
        assert_eq!(core.sessions(), 0);
        core.detached(0);
        assert_eq!(core.attached(0, &HashSet::new()), [], "that end is over");
    }
}
