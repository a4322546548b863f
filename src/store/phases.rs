//! Which changes were under way when something happened, and whether they have ended.
//!
//! A change is counted in the phase in which it began. Who wants to know that all that had begun
//! have ended starts the next phase, and waits for the one before to be empty: what begins later
//! does not hold that up.

use std::cell::Cell;

use crate::store::port::Changed;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Phases {
    /// Which of the two counts those that begin.
    odd: Cell<bool>,
    under_way: [Cell<u64>; 2],
    /// Somebody waits.
    wanted: Cell<bool>,
}

/// A change that is under way.
pub(crate) struct UnderWay<'a> {
    phases: &'a Phases,
    changed: &'a Changed,
    odd: bool,
}

impl Phases {
    /// One begins; `changed` is told of its end when somebody waits.
    pub(crate) fn begin<'a>(&'a self, changed: &'a Changed) -> UnderWay<'a> {
        let odd = self.odd.get();
        let count = self.of(odd);
        count.set(count.get() + 1);
        UnderWay { phases: self, changed, odd }
    }

    fn of(&self, odd: bool) -> &Cell<u64> {
        &self.under_way[usize::from(odd)]
    }

    /// Waits until all that are under way now have ended. Who comes while another waits does so
    /// after it.
    pub(crate) async fn all_have_ended(&self, changed: &Changed) {
        changed.until(|| (!self.wanted.get()).then_some(())).await;
        let before = self.odd.get();
        // The one before that is empty: whoever waited for it has seen it so.
        self.odd.set(!before);
        self.wanted.set(true);
        changed.until(|| (self.of(before).get() == 0).then_some(())).await;
        self.wanted.set(false);
        changed.notify();
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let count = self.phases.of(self.odd);
        count.set(count.get() - 1);
        if count.get() == 0 && self.phases.wanted.get() {
            self.changed.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn what_began_before_is_waited_for_and_nothing_else() {
        let (phases, changed) = (Phases::default(), Changed::default());
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let (first, second) = (phases.begin(&changed), phases.begin(&changed));
            let mut ended = pin!(phases.all_have_ended(&changed));
            assert_eq!(ended.as_mut().poll(&mut context), Poll::Pending);
            let later = phases.begin(&changed);
            drop(first);
            assert_eq!(ended.as_mut().poll(&mut context), Poll::Pending);
            drop(second);
            assert_eq!(ended.as_mut().poll(&mut context), Poll::Ready(()));
            // The next one waits for it.
            let mut ended = pin!(phases.all_have_ended(&changed));
            assert_eq!(ended.as_mut().poll(&mut context), Poll::Pending);
            let mut third = pin!(phases.all_have_ended(&changed));
            assert_eq!(third.as_mut().poll(&mut context), Poll::Pending, "one after another");
            drop(later);
            assert_eq!(ended.as_mut().poll(&mut context), Poll::Ready(()));
            assert_eq!(third.as_mut().poll(&mut context), Poll::Ready(()));
        }
    }
}
