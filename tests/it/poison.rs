//! A panic on a reactor: every waiter is told, later requests are refused, nothing hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dynamicfs::reactor::local::{LocalIo, LocalTask, TaskState};
use dynamicfs::{
    Buffers, Completion, DiskId, ErrorKind, IoScheduler, Request, SubmitError, Ticket,
};

use crate::rig::{Gate, HANG, alongside, config, nop_disk, open, settle};

const DISK: DiskId = DiskId(0);

fn submit(engine: &IoScheduler) -> Result<Ticket, SubmitError> {
    engine.submit(Request::read(DISK, 0, engine.buffer(4096).unwrap()))
}

fn assert_poisoned(completion: Completion) {
    let error = completion.result.expect_err("a poisoned request succeeded");
    assert_eq!(error.kind, ErrorKind::Poisoned);
    assert!(matches!(completion.buffers, Buffers::One(_)), "it never reached the device");
}

/// The engine after its reactor has panicked, with these tickets open.
fn assert_is_poisoned(engine: IoScheduler, tickets: Vec<Ticket>) {
    tickets.into_iter().map(settle).for_each(assert_poisoned);
    // The mailbox is closed by now: whoever comes later is refused at once.
    let refused = submit(&engine);
    assert!(matches!(refused, Err(SubmitError::Poisoned(_))), "{refused:?}");
    let mut tickets = Vec::new();
    let mut batch = (0..3).map(|n| Request::read(DISK, n * 4096, engine.buffer(4096).unwrap()));
    let _ = engine.submit_many(&mut batch, &mut tickets);
    tickets.into_iter().map(settle).for_each(assert_poisoned);
    drop(refused);
    let error = engine.close(HANG).expect_err("a poisoned engine closed cleanly");
    assert!(error.failed.iter().any(|text| text.contains("panicked")), "{error}");
}

#[test]
fn a_panic_in_a_task_tells_everyone() {
    let _process = alongside();
    let engine = open(&config(vec![nop_disk()]));
    let gate = Gate::hold_then_panic(&engine, 0);
    let tickets: Vec<Ticket> = (0..10).map(|_| submit(&engine).unwrap()).collect();
    gate.open();
    assert_is_poisoned(engine, tickets);
}

/// Keeps requests open and panics when one of them fails, as careless tasks do.
struct Careless {
    started: bool,
}

impl LocalTask for Careless {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        if !self.started {
            self.started = true;
            return TaskState::RunAgain;
        }
        // From here on the requests are queued behind a reactor that fails in this very turn.
        for tag in 0..4 {
            let request = Request::discard(DISK, 0, 4096);
            io.submit(tag, request).unwrap();
        }
        TaskState::Idle
    }

    fn complete(
        &mut self,
        _: &mut LocalIo<'_>,
        _: u64,
        completion: Completion,
    ) -> Option<TaskState> {
        completion.result.expect("a careless task expects success");
        None
    }
}

/// Cause: giving up on a poisoned reactor's requests calls the local tasks that made them, and a
/// task that panicked there ended the giving up.
/// Harm: every ticket after it hung for ever, and the mailbox stayed open.
/// Fix: the rest is given up on again, until nothing is left.
#[test]
fn tasks_that_panic_on_the_news_of_a_panic_hang_nobody() {
    let _process = alongside();
    let engine = open(&config(vec![nop_disk()]));
    let first = Gate::hold(&engine, 0);
    for _ in 0..3 {
        engine.spawn_local(0, Box::new(Careless { started: false }));
    }
    engine.spawn_local(0, Box::new(PanicsInItsSecondTurn(false)));
    first.open();
    // The tickets arrive before, in, and after the turn that fails; all have to end.
    let mut tickets = Vec::new();
    for _ in 0..1000 {
        match submit(&engine) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => assert!(matches!(error, SubmitError::Poisoned(_)), "{error}"),
        }
    }
    for ticket in tickets {
        match settle(ticket).result {
            Ok(bytes) => assert_eq!(bytes, 4096),
            Err(error) => assert_eq!(error.kind, ErrorKind::Poisoned),
        }
    }
    let error = engine.close(HANG).expect_err("a poisoned engine closed cleanly");
    assert!(error.failed.iter().any(|text| text.contains("panicked")), "{error}");
}

struct PanicsInItsSecondTurn(bool);

impl LocalTask for PanicsInItsSecondTurn {
    fn poll(&mut self, _: &mut LocalIo<'_>) -> TaskState {
        assert!(!self.0, "a task that panics on purpose");
        self.0 = true;
        TaskState::RunAgain
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

/// Panics when it is dropped, and says that it was.
struct PanicsWhenDropped(Arc<AtomicBool>);

impl LocalTask for PanicsWhenDropped {
    fn poll(&mut self, _: &mut LocalIo<'_>) -> TaskState {
        TaskState::Idle
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        panic!("a task that panics when dropped, on purpose");
    }
}

/// Cause: the reactor, and with it the user's tasks, was dropped outside of what catches panics.
/// Harm: the thread died without its last word, and the close said that it hung in the kernel.
/// Fix: drop it inside.
#[test]
fn a_task_that_panics_when_dropped_is_reported_as_a_panic() {
    let _process = alongside();
    let engine = open(&config(vec![nop_disk()]));
    let dropped = Arc::new(AtomicBool::new(false));
    engine.spawn_local(0, Box::new(PanicsWhenDropped(Arc::clone(&dropped))));
    settle(submit(&engine).unwrap()).result.unwrap();
    let error = engine.close(HANG).expect_err("a panic was lost");
    assert!(dropped.load(Ordering::SeqCst));
    assert!(error.failed.iter().any(|text| text.contains("panicked")), "{error}");
}
