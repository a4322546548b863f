//! Tickets: waited for, awaited, dropped, from many threads; nothing is lost on the way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Waker};

use dynamicfs::reactor::local::{LocalIo, LocalTask, TaskState};
use dynamicfs::scheduler::limits::SchedulerConfig;
use dynamicfs::{
    Completion, DiskId, IoConfig, IoScheduler, Priority, Request, SubmitError, Ticket,
};

use crate::rig::{
    Gate, Numbers, alongside, assert_buffers_are_back, block_on, config, nop_disk, open, settle,
};

const DISK: DiskId = DiskId(0);
const CALLS_MAX: u32 = 64;

fn read(engine: &IoScheduler) -> Request {
    Request::read(DISK, 0, engine.buffer(4096).unwrap()).with_priority(Priority::Critical)
}

/// Every call can be open at once, and no more than there are.
fn assert_no_call_is_lost(engine: &IoScheduler) {
    let gate = Gate::hold(engine, 0);
    let tickets: Vec<Ticket> = (0..CALLS_MAX)
        .map(|n| engine.submit(read(engine)).unwrap_or_else(|error| panic!("call {n}: {error}")))
        .collect();
    assert!(matches!(engine.submit(read(engine)), Err(SubmitError::QueueFull(_))));
    gate.open();
    for ticket in tickets {
        assert_eq!(settle(ticket).result.unwrap(), 4096);
    }
}

#[test]
fn many_threads_lose_no_call_and_no_buffer() {
    let _process = alongside();
    let scheduler = SchedulerConfig { queue_max: Some(1024), ..SchedulerConfig::default() };
    let calls_max = Some(CALLS_MAX);
    let engine = open(&IoConfig { scheduler, calls_max, ..config(vec![nop_disk()]) });
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let engine = &engine;
            scope.spawn(move || use_tickets_in_every_way(engine, seed));
        }
    });
    assert_buffers_are_back(&engine);
    assert_no_call_is_lost(&engine);
    assert_buffers_are_back(&engine);
    engine.close(crate::rig::HANG).unwrap();
}

fn use_tickets_in_every_way(engine: &IoScheduler, seed: u64) {
    let mut numbers = Numbers(seed);
    for _ in 0..1500 {
        let mut ticket = engine.submit_wait(read(engine), None).unwrap();
        let completion = match numbers.below(6) {
            0 => ticket.wait().unwrap(),
            1 => block_on(ticket),
            2 => settle(ticket),
            3 => {
                drop(ticket);
                continue;
            }
            4 => {
                // Dropped while its waker is registered.
                let _ = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
                continue;
            }
            _ => {
                // Another task's waker first, then the one that counts; it may be ready already.
                match Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())) {
                    std::task::Poll::Ready(completion) => completion,
                    std::task::Poll::Pending => block_on(ticket),
                }
            }
        };
        assert_eq!(completion.result.unwrap(), 4096);
        assert_eq!(completion.buffers.into_one().unwrap().len(), 4096);
    }
}

/// Waits for a ticket, and for room, where it must not.
struct Impatient {
    ticket: Mutex<Option<Ticket>>,
    told: Sender<String>,
}

impl LocalTask for Impatient {
    fn poll(&mut self, _: &mut LocalIo<'_>) -> TaskState {
        let ticket = self.ticket.get_mut().unwrap().take().unwrap();
        let error = ticket.wait().expect_err("a reactor waits for itself");
        self.told.send(error.to_string()).unwrap();
        TaskState::Done
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

#[test]
fn waiting_on_the_reactors_own_thread_is_an_error() {
    let _process = alongside();
    let engine = open(&config(vec![nop_disk()]));
    let gate = Gate::hold(&engine, 0);
    let ticket = engine.submit(read(&engine)).unwrap();
    let (told, tells) = channel();
    engine.spawn_local(0, Box::new(Impatient { ticket: Mutex::new(Some(ticket)), told }));
    gate.open();
    let text = tells.recv_timeout(crate::rig::HANG).unwrap();
    assert!(text.contains("reactor's own thread"), "{text}");
    assert_buffers_are_back(&engine);
}
