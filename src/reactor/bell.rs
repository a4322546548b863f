//! [`Bell`]: how any thread makes a local task run.

use std::sync::Arc;

use crate::concurrency::bells::Bells;
use crate::reactor::ReactorState;
use crate::reactor::local::{TaskSeed, TaskState};
use crate::reactor::shared::{Control, ReactorShared};

/// Makes one local task be polled, from any thread. Rings are not counted: several before a poll
/// are one poll, and a poll always follows a ring, with all that was written before it in sight.
///
/// It is made by `IoScheduler::bell` and tied to a task by `IoScheduler::spawn_seed_with_bell`. A
/// ring before the task started is not lost either, since a task is polled when it starts; after
/// the task has ended, or its reactor has, a ring does nothing.
///
/// ```no_run
/// # fn example(engine: &dynamicfs::IoScheduler, seed: dynamicfs::reactor::local::TaskSeed) {
/// let bell = engine.bell(0).expect("fewer than 64 bells on this reactor");
/// engine.spawn_seed_with_bell(&bell, seed);
/// std::thread::spawn(move || bell.ring());
/// # }
/// ```
#[derive(Clone)]
pub struct Bell {
    reactor: Arc<ReactorShared>,
    number: u32,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bell({})", self.number)
    }
}

impl Bell {
    /// Most bells of one reactor. They are not given back.
    pub const PER_REACTOR: u32 = Bells::MAX;

    pub(crate) fn new(reactor: &Arc<ReactorShared>) -> Option<Bell> {
        let number = reactor.bells.give()?;
        Some(Bell { reactor: Arc::clone(reactor), number })
    }

    /// Rings: the task is polled after this. It never waits.
    #[inline]
    pub fn ring(&self) {
        self.reactor.ring(self.number);
    }

    /// Starts a task that this bell calls from now on.
    pub(crate) fn plant(&self, seed: TaskSeed) {
        self.reactor.order(Control::Plant { seed, bell: Some(self.number) });
    }
}

/// Which task each bell of a reactor calls.
pub(crate) struct BellTable([Option<u16>; Bells::MAX as usize]);

impl BellTable {
    pub(crate) fn new() -> BellTable {
        BellTable([None; Bells::MAX as usize])
    }

    pub(crate) fn tie(&mut self, bell: u32, task: u16) {
        self.0[bell as usize] = Some(task);
    }

    /// The task has ended; its slot may become another's.
    pub(crate) fn untie(&mut self, task: u16) {
        for tied in &mut self.0 {
            if *tied == Some(task) {
                *tied = None;
            }
        }
    }
}

impl ReactorState {
    /// Lets the tasks whose bells were rung run in this turn.
    pub(crate) fn answer_bells(&mut self) {
        let mut rung = self.shared.bells.take();
        while rung != 0 {
            let bell = rung.trailing_zeros() as usize;
            rung &= rung - 1;
            let Some(task) = self.bells.0[bell] else { continue };
            let slot = &mut self.tasks[usize::from(task)];
            if slot.state != TaskState::Done {
                slot.state = TaskState::RunAgain;
            }
        }
        self.note_event();
    }
}
