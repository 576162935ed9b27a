//! The expiry queue under times that a test sets: never early, never forgotten.

use super::*;
use crate::watch::tests::Chance;

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A leading queue with these (id, ttl), granted at `now`.
fn leading(now: Instant, leases: &[(i64, i64)]) -> ExpiryQueue {
    let mut queue = ExpiryQueue::default();
    queue.lead(now, Duration::ZERO);
    leases.iter().for_each(|(id, ttl)| queue.insert(LeaseId(*id), *ttl, now));
    queue
}

#[test]
fn a_lease_is_due_at_its_end_and_not_before() {
    let now = Instant::now();
    let mut queue = leading(now, &[(1, 2), (2, 5)]);
    assert!(queue.take_due(now + second(2) - Duration::from_nanos(1), 10).is_empty());
    assert_eq!(queue.take_due(now + second(2), 10), [LeaseId(1)]);
    assert!(queue.take_due(now + second(2), 10).is_empty(), "taken once");
    assert_eq!(queue.take_due(now + second(9), 10), [LeaseId(2)]);
}

#[test]
fn a_renewed_lease_has_its_full_ttl_from_the_renewal() {
    let now = Instant::now();
    let mut queue = leading(now, &[(1, 2)]);
    assert_eq!(queue.renew(LeaseId(1), now + second(1)), Renewal::Renewed(2));
    assert!(queue.take_due(now + second(2), 10).is_empty());
    assert_eq!(queue.take_due(now + second(3), 10), [LeaseId(1)]);
}

#[test]
fn an_expired_lease_cannot_be_renewed_whether_taken_or_not() {
    let now = Instant::now();
    let mut queue = leading(now, &[(1, 2)]);
    assert_eq!(queue.renew(LeaseId(1), now + second(2)), Renewal::Expired);
    queue.take_due(now + second(2), 10);
    assert_eq!(queue.renew(LeaseId(1), now + second(2)), Renewal::Expired);
    queue.remove(LeaseId(1));
    assert_eq!(queue.renew(LeaseId(1), now + second(2)), Renewal::Unknown);
}

#[test]
fn a_lost_revoke_comes_back_at_its_time_and_one_that_is_not_lost_never() {
    let now = Instant::now();
    let mut queue = leading(now, &[(1, 2), (2, 2)]);
    assert_eq!(queue.take_due(now + second(2), 10).len(), 2);
    queue.lost(LeaseId(1), now + second(5));
    assert!(queue.take_due(now + second(4), 10).is_empty());
    assert_eq!(queue.take_due(now + second(5), 10), [LeaseId(1)]);
    assert!(queue.take_due(now + second(500), 10).is_empty());
}

#[test]
fn a_lost_revoke_of_a_lease_that_is_gone_or_granted_anew_changes_nothing() {
    let now = Instant::now();
    let mut queue = leading(now, &[(1, 2), (2, 2)]);
    queue.take_due(now + second(2), 10);
    queue.remove(LeaseId(1));
    queue.insert(LeaseId(2), 10, now + second(2));
    queue.lost(LeaseId(1), now + second(3));
    queue.lost(LeaseId(2), now + second(3));
    assert!(queue.take_due(now + second(11), 10).is_empty());
    assert_eq!(queue.take_due(now + second(12), 10), [LeaseId(2)]);
}

#[test]
fn a_look_takes_no_more_than_it_may_and_the_earliest_first() {
    let now = Instant::now();
    let mut queue = leading(now, &[(1, 4), (2, 3), (3, 2)]);
    assert_eq!(queue.take_due(now + second(9), 2), [LeaseId(3), LeaseId(2)]);
    assert_eq!(queue.take_due(now + second(9), 2), [LeaseId(1)]);
}

#[test]
fn a_new_leader_gives_every_lease_its_full_ttl_and_a_follower_ends_none() {
    let now = Instant::now();
    let mut queue = leading(now, &[(1, 20)]);
    queue.follow();
    assert_eq!(queue.renew(LeaseId(1), now), Renewal::NotLeading);
    assert!(queue.take_due(now + second(1000), 10).is_empty());
    let later = now + second(9);
    queue.lead(later, second(1));
    assert_eq!(queue.remaining(LeaseId(1), later + second(1)).unwrap().seconds, 20);
    assert!(queue.take_due(later + second(21) - Duration::from_nanos(1), 10).is_empty());
    assert_eq!(queue.take_due(later + second(21), 10), [LeaseId(1)]);
}

#[test]
fn what_is_left_is_rounded_down_and_not_above_zero_once_it_is_over() {
    let now = Instant::now();
    let queue = leading(now, &[(1, 20)]);
    let left = |at| queue.remaining(LeaseId(1), at).unwrap();
    assert_eq!(left(now), Remaining { seconds: 20, granted: 20 });
    assert_eq!(left(now + Duration::from_millis(1)).seconds, 19);
    assert_eq!(left(now + second(20)).seconds, 0);
    assert_eq!(left(now + second(22)).seconds, -2);
    assert_eq!(queue.remaining(LeaseId(2), now), None);
}

#[test]
fn ids_come_in_the_order_in_which_the_leases_end() {
    let now = Instant::now();
    let mut queue = leading(now, &[(1, 30), (2, 10), (3, 20)]);
    assert_eq!(queue.ids(), [LeaseId(2), LeaseId(3), LeaseId(1)]);
    queue.renew(LeaseId(2), now + second(9));
    queue.renew(LeaseId(3), now + second(1));
    assert_eq!(queue.ids(), [LeaseId(2), LeaseId(3), LeaseId(1)]);
    queue.follow();
    assert_eq!(queue.ids(), [LeaseId(1), LeaseId(2), LeaseId(3)]);
}

#[test]
fn the_largest_ttl_is_a_time() {
    let now = Instant::now();
    let queue = leading(now, &[(1, 9_000_000_000)]);
    assert_eq!(queue.remaining(LeaseId(1), now).unwrap().seconds, 9_000_000_000);
}

#[test]
fn many_leases_that_would_end_together_under_a_new_leader_are_spread() {
    let now = Instant::now();
    let mut queue = ExpiryQueue::default();
    (1..=3000).for_each(|id| queue.insert(LeaseId(id), 10, now));
    queue.lead(now, Duration::ZERO);
    assert_eq!(queue.take_due(now + second(10), usize::MAX).len(), 750);
    let mut most = 0;
    for half in 21..=60 {
        most = most.max(queue.take_due(now + Duration::from_millis(500 * half), usize::MAX).len());
    }
    assert!((100..=400).contains(&most), "{most} ended in half a second");
    assert_eq!(queue.looks.len(), 0, "all ended within 30 s");
}

/// Random grants, renewals, changes of leader and lost revokes, against the plain rule: never before the TTL since the
/// last grant, renewal or beginning of a leadership; and always at a look after it.
#[test]
fn no_lease_ever_ends_early_and_none_is_forgotten() {
    for seed in 0..200 {
        let mut chance = Chance::new(seed);
        let mut now = Instant::now();
        let mut queue = ExpiryQueue::default();
        let mut plain: HashMap<LeaseId, (i64, Instant)> = HashMap::new();
        let mut in_flight: Vec<LeaseId> = Vec::new();
        let mut is_leading = false;
        for _ in 0..300 {
            now += Duration::from_millis(chance.below(1500));
            let id = LeaseId(chance.below(8) as i64);
            match chance.below(8) {
                0 | 1 if !plain.contains_key(&id) => {
                    let ttl = 2 + chance.below(6) as i64;
                    queue.insert(id, ttl, now);
                    plain.insert(id, (ttl, now));
                    in_flight.retain(|other| *other != id);
                }
                2 => {
                    if let Renewal::Renewed(ttl) = queue.renew(id, now) {
                        assert!(is_leading);
                        let (granted, since) = plain.get_mut(&id).unwrap();
                        assert_eq!(ttl, *granted);
                        assert!(now < *since + seconds(*granted), "seed {seed}: renewed after its end");
                        *since = now;
                    }
                }
                3 if chance.below(3) == 0 => {
                    is_leading = !is_leading;
                    in_flight.clear();
                    if is_leading {
                        queue.lead(now, Duration::ZERO);
                        plain.values_mut().for_each(|(_, since)| *since = now);
                    } else {
                        queue.follow();
                    }
                }
                4 if !in_flight.is_empty() => {
                    let id = in_flight.swap_remove(0);
                    if chance.below(2) == 0 {
                        queue.lost(id, now + RETRY_AFTER);
                    } else {
                        queue.remove(id);
                        plain.remove(&id);
                    }
                }
                _ => {
                    for id in queue.take_due(now, 3) {
                        assert!(is_leading, "seed {seed}: a follower ends nothing");
                        let (ttl, since) = plain[&id];
                        assert!(now >= since + seconds(ttl), "seed {seed}: {id} ends early");
                        assert!(!in_flight.contains(&id), "seed {seed}: {id} is proposed twice");
                        in_flight.push(id);
                    }
                }
            }
        }
        if !is_leading {
            queue.lead(now, Duration::ZERO);
            in_flight.clear();
        }
        let mut due = queue.take_due(now + second(100), usize::MAX);
        due.extend(in_flight);
        due.sort_unstable();
        let mut all: Vec<LeaseId> = plain.keys().copied().collect();
        all.sort_unstable();
        assert_eq!(due, all, "seed {seed}: a lease is forgotten");
    }
}
