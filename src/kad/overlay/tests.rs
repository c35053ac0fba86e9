//! Tests of the overlay as a whole; each of its parts has its own beside it.

use super::*;
use crate::kad::routing_table::BucketPolicy;
use crate::limits::CHALLENGE_AFTER_MS;

fn contact(n: u16) -> Contact {
    Contact { id: Id::hash_of(&[&n.to_be_bytes()]), addr: ([127, 0, 0, 1], n).into() }
}

fn overlay() -> Overlay {
    let policy = OverlayPolicy { bucket_policy: BucketPolicy::Even, probes_own_reachability: true };
    Overlay::new(contact(1), Parameters::default(), policy, 7, Time::ZERO)
}

/// The overlay of a dialect whose answers name the asker.
fn named_overlay() -> Overlay {
    let policy = OverlayPolicy { bucket_policy: BucketPolicy::FirstCome, probes_own_reachability: false };
    Overlay::new(contact(1), Parameters::default(), policy, 7, Time::ZERO)
}

fn asks(overlay: &mut Overlay, now: Time) -> Vec<Ask> {
    std::iter::from_fn(|| overlay.poll_ask(now)).collect()
}

#[test]
fn bootstrap_backs_off_while_nobody_answers_and_never_spins() {
    let mut overlay = overlay();
    overlay.add_bootstrap(contact(2), Time::ZERO);
    let mut now = Time::ZERO;
    let mut tries = Vec::new();
    while now < Time::from_ms(300_000) {
        overlay.on_timeout(now);
        for ask in asks(&mut overlay, now) {
            let Ask::Find { lookup, contact, .. } = ask else { panic!("only the bootstrap is asked") };
            tries.push(now.as_ms());
            overlay.failed(lookup, contact);
        }
        asks(&mut overlay, now);
        assert!(overlay.next_deadline() > now, "no busy loop");
        now = overlay.next_deadline();
    }
    assert!((8..20).contains(&tries.len()), "{tries:?}");
    assert_eq!(overlay.tallies().bootstraps_failed, tries.len() as u64);
}

#[test]
fn a_bootstrap_that_answers_ends_in_refreshes_and_a_named_self() {
    let mut overlay = overlay();
    overlay.add_bootstrap(contact(2), Time::ZERO);
    overlay.on_timeout(Time::ZERO);
    assert!(overlay.counts_itself(), "alone");
    let [Ask::Find { lookup, contact: seed, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
    overlay.named(lookup, seed, &[contact(1), contact(3)], |_| true, Time::ZERO);
    assert!(overlay.counts_itself(), "named");
    let [Ask::Find { lookup, contact: third, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
    assert_eq!(third, contact(3));
    let others: Vec<Contact> = (10..60).map(contact).collect();
    overlay.named(lookup, third, &others, |_| true, Time::ZERO);
    let mut targets = std::collections::BTreeSet::new();
    for _ in 0..100 {
        for ask in asks(&mut overlay, Time::ZERO) {
            let Ask::Find { lookup, contact, target, .. } = ask else { panic!("nothing else is asked") };
            overlay.named(lookup, contact, &[], |_| true, Time::ZERO);
            targets.insert(target);
        }
        assert!(overlay.lookups_in_flight() <= REFRESHES);
    }
    assert!(targets.len() >= overlay.table().bucket_count(), "the buckets are filled one after the other");
    assert!(overlay.table().len() > 20);
}

#[test]
fn named_contacts_are_not_believed_before_they_answer() {
    let mut overlay = overlay();
    overlay.alive(contact(2), Time::ZERO);
    let lookup = overlay.start_lookup(Id::default(), Goal::Nodes(20), 1, Key::from_bits(0), &[]);
    asks(&mut overlay, Time::ZERO);
    let martian = Contact { addr: "224.0.0.1:5".parse().unwrap(), ..contact(9) };
    overlay.named(lookup, contact(2), &[contact(3), martian], |_| true, Time::ZERO);
    let find = Ask::Find { lookup, contact: contact(3), target: Id::default(), goal: Goal::Nodes(20) };
    assert_eq!(asks(&mut overlay, Time::ZERO), [find]);
    overlay.failed(lookup, contact(3));
    asks(&mut overlay, Time::ZERO);
    assert_eq!(overlay.poll_ended().unwrap().closest, [contact(2)]);
    assert_eq!((overlay.table().len(), overlay.tallies().martians), (1, 1));
}

/// Answers every request of `overlay` with no contacts, until `end`. Returns the addresses that were asked about its
/// own id meanwhile.
fn asked_about_itself(overlay: &mut Overlay, now: &mut Time, end: Time) -> Vec<SocketAddr> {
    let mut asked = Vec::new();
    while overlay.next_deadline() <= end {
        *now = overlay.next_deadline();
        overlay.on_timeout(*now);
        while let Some(ask) = overlay.poll_ask(*now) {
            if let Ask::Find { lookup, contact, target, .. } = ask {
                overlay.named(lookup, contact, &[], |_| true, *now);
                if target == overlay.own().id {
                    asked.push(contact.addr);
                }
            }
        }
    }
    asked
}

/// Three nodes that joined through the first at once never learned of each other (tests/connections.rs); of two
/// swarms that lost each other while their machines were restarted, neither did (found by the swarm).
#[test]
fn after_a_join_neighbours_are_asked_again_soon_and_an_island_asks_its_bootstraps() {
    let mut overlay = overlay();
    let mut now = Time::ZERO;
    overlay.add_bootstrap(contact(2), now);
    overlay.add_bootstrap(contact(3), now);
    let asked = asked_about_itself(&mut overlay, &mut now, Time::from_ms(8_000));
    assert_eq!(asked.len(), 2 * 3, "at once, after about a second and about five");
    let gone = contact(3);
    overlay.dead(gone);
    overlay.dead(gone);
    assert_eq!(overlay.table().len(), 1);
    let asked = asked_about_itself(&mut overlay, &mut now, Time::from_ms(120_000));
    assert!(asked.contains(&gone.addr), "the one that was lost is found again");
}

#[test]
fn our_own_address_is_not_asked_under_another_id() {
    let mut overlay = overlay();
    overlay.alive(contact(2), Time::ZERO);
    let lookup = overlay.start_lookup(Id::default(), Goal::Value, 1, Key::from_bits(0), &[]);
    asks(&mut overlay, Time::ZERO);
    let disguised = Contact { addr: contact(1).addr, ..contact(9) };
    overlay.named(lookup, contact(2), &[disguised], |_| true, Time::ZERO);
    assert!(asks(&mut overlay, Time::ZERO).is_empty());
    assert_eq!(overlay.tallies().martians, 1);
}

#[test]
fn a_node_checks_its_reachability_until_another_has_named_it() {
    let mut overlay = overlay();
    overlay.alive(contact(2), Time::ZERO);
    assert!(!overlay.counts_itself());
    let mut now = Time::ZERO;
    for _ in 0..4 {
        now = now.after(20_000);
        overlay.on_timeout(now);
        assert!(asks(&mut overlay, now).contains(&Ask::CheckReachability { contact: contact(2) }));
    }
    overlay.confirm_reachable();
    assert!(overlay.counts_itself());
    now = now.after(20_000);
    overlay.on_timeout(now);
    assert!(!asks(&mut overlay, now).contains(&Ask::CheckReachability { contact: contact(2) }));
}

#[test]
fn an_unconfirmed_contact_is_probed_and_listed_once_it_answers() {
    let mut overlay = named_overlay();
    overlay.unconfirmed(contact(2), false, Time::ZERO);
    overlay.unconfirmed(contact(3), true, Time::ZERO);
    let probe = |n| Ask::Probe { contact: contact(n), verify: true };
    assert_eq!(asks(&mut overlay, Time::ZERO), [probe(3), probe(2)], "first who has proved its address");
    assert_eq!(overlay.table().len(), 0, "nothing is named that has not answered");
    overlay.alive(contact(2), Time::from_ms(1));
    overlay.probe_ended(contact(2), true, Time::from_ms(1));
    overlay.probe_ended(contact(3), false, Time::from_ms(2_000));
    assert_eq!((overlay.table().len(), overlay.tallies().probes_failed), (1, 1));
    overlay.unconfirmed(contact(2), false, Time::from_ms(3_000));
    overlay.unconfirmed(contact(3), false, Time::from_ms(3_000));
    assert_eq!(asks(&mut overlay, Time::from_ms(3_000)), [], "one is listed, the other has failed");
}

#[test]
fn a_full_bucket_asks_its_oldest_and_those_that_are_silent_make_room() {
    let far: Vec<Contact> = (10..2_000).map(contact).filter(|c| c.id.0[0] >> 7 != contact(1).id.0[0] >> 7).collect();
    let mut overlay = named_overlay();
    far[..20].iter().zip(0..).for_each(|(c, n)| overlay.alive(*c, Time::from_ms(n)));
    // The bucket of the other half of all ids no longer splits once there is one of the own half.
    let near = (10..2_000).map(contact).find(|c| c.id.0[0] >> 7 == contact(1).id.0[0] >> 7).unwrap();
    let old = Time::from_ms(CHALLENGE_AFTER_MS);
    overlay.alive(near, old);
    let known: Vec<Contact> = overlay.table().oldest_beside(&far[0].id, 3);
    assert_eq!(known, far[..3]);
    let newcomer = far[20];
    overlay.unconfirmed(newcomer, false, Time::from_ms(CHALLENGE_AFTER_MS - 1));
    assert_eq!(asks(&mut overlay, old), [], "none has been silent for long");
    overlay.unconfirmed(newcomer, false, old.after(CHALLENGE_AFTER_MS));
    let asked: Vec<Ask> = asks(&mut overlay, old);
    assert_eq!(asked.len(), 4);
    assert!(asked.contains(&Ask::Probe { contact: newcomer, verify: true }));
    overlay.alive(newcomer, old.after(CHALLENGE_AFTER_MS));
    assert!(overlay.table().get(&newcomer.id).is_none(), "all may be alive");
    overlay.dead(known[0]);
    assert!(overlay.table().get(&newcomer.id).is_some(), "it waited in the cache");
}

#[test]
fn an_address_is_asked_first_and_counts_for_nothing() {
    let mut overlay = named_overlay();
    let seed = contact(9).addr;
    overlay.add_bootstrap_at(seed, Time::ZERO);
    let lookup = overlay.start_lookup(Id::default(), Goal::Value, 1, Key::from_bits(0), &[]);
    let [Ask::Find { contact: asked, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
    assert_eq!(asked.addr, seed);
    overlay.named_as(lookup, asked, None, &[contact(3)], Time::ZERO);
    assert_eq!(overlay.referrer(lookup, &contact(3)), Some(seed));
    let [Ask::Find { contact: next, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
    assert_eq!(next, contact(3));
    // Another node answers at its address, too.
    overlay.named_as(lookup, next, Some(contact(4)), &[], Time::ZERO);
    let [Ask::Find { contact: real, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
    assert_eq!(real, contact(4), "a contact counts once it has answered under the id it was asked as");
    overlay.named(lookup, real, &[], |_| true, Time::ZERO);
    asks(&mut overlay, Time::ZERO);
    assert_eq!(overlay.poll_ended().unwrap().closest, [contact(4)]);
    assert_eq!(overlay.table().len(), 1);
}

#[test]
fn unconfirmed_contacts_keep_no_node_from_bootstrapping() {
    let mut overlay = named_overlay();
    overlay.unconfirmed(contact(5), false, Time::ZERO);
    overlay.add_bootstrap_at(contact(9).addr, Time::ZERO);
    assert_eq!(overlay.next_deadline(), Time::ZERO);
    overlay.on_timeout(Time::ZERO);
    let asked = asks(&mut overlay, Time::ZERO);
    assert!(asked.iter().any(|ask| matches!(ask, Ask::Find { contact: c, .. } if c.addr == contact(9).addr)));
}

#[test]
fn a_request_of_a_known_id_from_elsewhere_has_its_old_address_asked() {
    let mut overlay = named_overlay();
    overlay.alive(contact(5), Time::ZERO);
    overlay.unconfirmed(Contact { addr: contact(6).addr, ..contact(5) }, false, Time::ZERO);
    assert_eq!(asks(&mut overlay, Time::ZERO), [Ask::Probe { contact: contact(5), verify: false }]);
    assert_eq!(overlay.table().get(&contact(5).id).unwrap().contact, contact(5), "the confirmed entry stays");
}

#[test]
fn a_candidate_is_probed_only_if_the_table_wants_it_and_its_address_is_one() {
    let mut overlay = overlay();
    overlay.alive(contact(5), Time::ZERO);
    overlay.candidate(contact(5), Time::ZERO);
    overlay.candidate(Contact { addr: "224.0.0.1:6".parse().unwrap(), ..contact(6) }, Time::ZERO);
    overlay.candidate(contact(7), Time::ZERO);
    assert_eq!(asks(&mut overlay, Time::ZERO), [Ask::Probe { contact: contact(7), verify: true }]);
    overlay.probe_ended(contact(7), false, Time::ZERO);
    assert_eq!((overlay.tallies().martians, overlay.tallies().probes_failed), (1, 1));
    assert_eq!(overlay.table().len(), 1, "a probe that fails adds nothing and costs no entry its place");
}

/// What each part does by its deadline depends on the others: a swarm of reports must never leave one behind.
#[test]
fn after_a_timeout_the_next_deadline_lies_ahead_whatever_was_reported() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut overlay = if seed % 2 == 0 { overlay() } else { named_overlay() };
        let mut now = Time::ZERO;
        let mut waiting = Vec::new();
        for _ in 0..400 {
            let stranger = contact(random.u16(2..300));
            match random.u8(..8) {
                0 => drop(overlay.add_bootstrap(stranger, now)),
                1 => overlay.unconfirmed(stranger, random.bool(), now),
                2 => overlay.candidate(stranger, now),
                3 => overlay.alive(stranger, now),
                4 => overlay.dead(stranger),
                _ => {}
            }
            waiting.extend(asks(&mut overlay, now));
            while waiting.len() > 10 {
                match (waiting.swap_remove(random.usize(..waiting.len())), random.bool()) {
                    (Ask::Find { lookup, contact, .. }, true) => {
                        overlay.named(lookup, contact, &[stranger], |_| true, now);
                    }
                    (Ask::Find { lookup, contact, .. }, false) => overlay.failed(lookup, contact),
                    (Ask::Probe { contact, verify: true }, answered) => overlay.probe_ended(contact, answered, now),
                    (Ask::Probe { contact, .. }, true) => overlay.alive(contact, now),
                    (Ask::Probe { contact, .. }, false) => overlay.dead(contact),
                    (Ask::CheckReachability { .. }, _) => {}
                }
            }
            now = if random.bool() { overlay.next_deadline().max(now) } else { now.after(random.u64(..20_000)) };
            overlay.on_timeout(now);
            assert!(overlay.next_deadline() > now, "seed {seed}");
        }
    }
}

#[test]
fn a_failure_at_another_address_costs_an_entry_nothing() {
    let mut overlay = overlay();
    overlay.alive(contact(5), Time::ZERO);
    let elsewhere = Contact { addr: contact(6).addr, ..contact(5) };
    for _ in 0..5 {
        overlay.dead(elsewhere);
        overlay.gone(elsewhere);
    }
    assert_eq!(overlay.table().get(&contact(5).id).unwrap().failures, 0);
    overlay.gone(contact(5));
    assert_eq!((overlay.table().len(), overlay.tallies().contacts_lost), (0, 1));
}

#[test]
fn a_node_that_has_lost_all_its_contacts_joins_again_at_the_next_upkeep() {
    let mut overlay = overlay();
    let mut now = Time::ZERO;
    overlay.add_bootstrap(contact(2), now);
    asked_about_itself(&mut overlay, &mut now, Time::ZERO);
    assert_eq!(overlay.table().len(), 1, "it has joined");
    overlay.gone(contact(2));
    let end = now.after(2 * UPKEEP_MS);
    let mut asked = Vec::new();
    while asked.is_empty() && overlay.next_deadline() <= end {
        now = overlay.next_deadline();
        overlay.on_timeout(now);
        assert!(overlay.next_deadline() > now, "what the upkeep finds due is started at once");
        asked.extend(asks(&mut overlay, now));
    }
    assert!(matches!(asked[..], [Ask::Find { contact: again, .. }] if again == contact(2)), "{asked:?}");
}
