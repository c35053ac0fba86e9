//! Whether others can find this node, and which contact to ask in a dialect whose answers never name the asker. Part
//! of [`super::Overlay`]; sends nothing, and never doubts what it has once learned.

use crate::contact::Contact;
use crate::limits::{REACHABILITY_CHECK_MS, REACHABILITY_DOUBLINGS};
use crate::time::Time;

/// Learns whether others have named us.
#[derive(Debug)]
pub(super) struct Reachability {
    /// No answer names the asker, so the node must ask without saying who it is.
    needs_checks: bool,
    /// Another node has named us.
    is_confirmed: bool,
    /// When to check next; `None` once another node has named us, and while no contact is known.
    check_at: Option<Time>,
    /// Checks so far: decides the contact whose turn it is, and the pause.
    checks: usize,
    /// The contact that [`Reachability::poll_check`] has yet to hand out.
    wanted: Option<Contact>,
}

impl Reachability {
    /// Nobody has named us yet. Checks are made only if the dialect `needs_checks`.
    pub fn new(needs_checks: bool) -> Reachability {
        Reachability { needs_checks, is_confirmed: false, check_at: None, checks: 0, wanted: None }
    }

    /// Whether another node has named us.
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// Another node has named us.
    pub fn confirm(&mut self) {
        self.is_confirmed = true;
    }

    /// A contact has responded, so there is one to ask.
    pub fn on_response(&mut self, now: Time) {
        if self.needs_checks && !self.is_confirmed {
            self.check_at.get_or_insert(now.after(REACHABILITY_CHECK_MS));
        }
    }

    /// When [`Reachability::on_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        self.check_at
    }

    /// If a check is due at `now`, picks the next contact of `nearest` by turns. `nearest` yields the contacts nearest
    /// to us, which are the likeliest to list us; if there are none, the checks rest until a contact responds.
    pub fn on_timeout(&mut self, nearest: impl FnOnce() -> Vec<Contact>, now: Time) {
        if self.check_at.take_if(|at| *at <= now).is_none() || self.is_confirmed {
            return;
        }
        let nearest = nearest();
        let Some(contact) = nearest.get(self.checks % nearest.len().max(1)) else {
            return;
        };
        self.wanted = Some(*contact);
        self.checks += 1;
        let doublings = self.checks.min(REACHABILITY_DOUBLINGS);
        self.check_at = Some(now.after(REACHABILITY_CHECK_MS << doublings));
    }

    /// The contact to ask now, if any, in a way that does not tell it who asks.
    pub fn poll_check(&mut self) -> Option<Contact> {
        self.wanted.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    fn contacts(n: u8) -> Vec<Contact> {
        (1..=n).map(|n| Contact { id: Id([n; 32]), addr: ([127, 0, 0, 1], u16::from(n)).into() }).collect()
    }

    /// Makes the next check; when that was, and the contact that was asked.
    fn next(reachability: &mut Reachability, known: u8) -> (Time, Option<Contact>) {
        let now = reachability.deadline().expect("a check is to come");
        reachability.on_timeout(|| contacts(known), now);
        assert!(reachability.deadline().is_none_or(|at| at > now), "no busy loop");
        (now, reachability.poll_check())
    }

    #[test]
    fn the_nearest_contacts_are_asked_by_turns() {
        let mut reachability = Reachability::new(true);
        reachability.on_response(Time::ZERO);
        let asked: Vec<Contact> = (0..6).filter_map(|_| next(&mut reachability, 3).1).collect();
        assert_eq!(asked, [contacts(3), contacts(3)].concat());
        assert_eq!(reachability.poll_check(), None, "each check is handed out once");
    }

    #[test]
    fn the_pause_doubles_five_times() {
        let mut reachability = Reachability::new(true);
        reachability.on_response(Time::ZERO);
        let at: Vec<u64> = (0..9).map(|_| next(&mut reachability, 2).0.as_ms()).collect();
        let pauses: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let first = REACHABILITY_CHECK_MS;
        assert_eq!(at[0], first);
        assert_eq!(pauses, [2, 4, 8, 16, 32, 32, 32, 32].map(|times| times * first));
    }

    #[test]
    fn checks_end_once_another_node_has_named_us() {
        let mut reachability = Reachability::new(true);
        reachability.on_response(Time::ZERO);
        assert!(!reachability.is_confirmed());
        reachability.confirm();
        assert_eq!(next(&mut reachability, 3).1, None);
        reachability.on_response(Time::from_ms(60_000));
        assert_eq!((reachability.deadline(), reachability.is_confirmed()), (None, true));
    }

    #[test]
    fn without_contacts_the_checks_rest_until_one_responds() {
        let mut reachability = Reachability::new(true);
        reachability.on_response(Time::ZERO);
        assert_eq!(next(&mut reachability, 0).1, None);
        assert_eq!(reachability.deadline(), None);
        reachability.on_response(Time::from_ms(9_000));
        reachability.on_response(Time::from_ms(9_100));
        let due = Time::from_ms(9_000 + REACHABILITY_CHECK_MS);
        assert_eq!(next(&mut reachability, 1), (due, Some(contacts(1)[0])), "later responses postpone nothing");
    }

    #[test]
    fn nobody_is_asked_early_nor_where_answers_name_the_asker() {
        let mut reachability = Reachability::new(true);
        reachability.on_response(Time::ZERO);
        reachability.on_timeout(|| panic!("nothing is due"), Time::from_ms(REACHABILITY_CHECK_MS - 1));
        assert_eq!(reachability.poll_check(), None);
        let mut reachability = Reachability::new(false);
        reachability.on_response(Time::ZERO);
        assert_eq!(reachability.deadline(), None);
    }
}
