//! Writers as tasks: polled by a thread that does nothing else, or by the inode's reactor.
//!
//! A task that is woken stands in a list, once; whoever polls takes all of the list. The first to
//! stand there rouses the poller, so a batch that was answered together costs one wake-up.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use ::dynamicfs::reactor::bell::Bell;
use ::dynamicfs::reactor::local::{LocalIo, LocalTask, TaskState};
use ::dynamicfs::{Acknowledged, Completion, InodeId, StorageEngine, StoreTicket};

use crate::args::Shape;
use crate::contestants::dynamicfs::failed;
use crate::failure::Failure;
use crate::writer::Writer;

/// Looks at the list this often before the thread parks.
const SPINS: u32 = 1_000;

type Ended = Result<Vec<Writer>, Failure>;

/// Runs the writers as tasks of the calling thread.
pub(super) fn on_this_thread(
    engine: Arc<StorageEngine>,
    inode: InodeId,
    shape: Shape,
    writers: Vec<Writer>,
) -> Ended {
    let poller = Poller::Thread(std::thread::current());
    let mut tasks = Tasks::new(Target { engine, inode, shape }, writers, poller);
    while !tasks.poll() {
        let found = (0..SPINS).any(|_| {
            std::hint::spin_loop();
            tasks.woken.any.load(Ordering::Relaxed)
        });
        if !found {
            // An `unpark` since the list was taken ends this at once.
            std::thread::park();
        }
    }
    tasks.end()
}

/// Runs the writers as a task of the inode's reactor, and waits for its end.
pub(super) fn on_reactor(
    engine: Arc<StorageEngine>,
    inode: InodeId,
    shape: Shape,
    writers: Vec<Writer>,
) -> Ended {
    let (ended, end) = channel();
    let target = Target { engine: Arc::clone(&engine), inode, shape };
    let make = move |bell| -> Box<dyn LocalTask> {
        let tasks = Tasks::new(target, writers, Poller::Reactor(bell));
        Box::new(ReactorTasks { tasks: Some(tasks), ended })
    };
    if !engine.spawn_near(inode, make) {
        return Err(Failure::new("the reactor has no bell left", "use fewer --rounds"));
    }
    end.recv().unwrap_or_else(|_| Err(Failure::store("its tasks", "the reactor dropped them")))
}

/// Where the tasks write.
struct Target {
    engine: Arc<StorageEngine>,
    inode: InodeId,
    shape: Shape,
}

/// Who polls.
enum Poller {
    Thread(Thread),
    Reactor(Bell),
}

/// Tasks that were woken.
struct Woken {
    tasks: Mutex<Vec<usize>>,
    /// Whether there are any; only a hint, for looking without the mutex.
    any: AtomicBool,
    poller: Poller,
}

impl Woken {
    fn push(&self, task: usize) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(task);
        if tasks.len() == 1 {
            self.any.store(true, Ordering::Relaxed);
            drop(tasks);
            match &self.poller {
                Poller::Thread(thread) => thread.unpark(),
                Poller::Reactor(bell) => bell.ring(),
            }
        }
    }

    /// Exchanges the list for an empty one.
    fn take(&self, into: &mut Vec<usize>) {
        into.clear();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Relaxed);
        std::mem::swap(&mut *tasks, into);
    }
}

struct TaskWaker {
    task: usize,
    /// It stands in the list.
    listed: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Acquire and release pair with `Tasks::poll`: what was written before a wake-up that finds
        // the task listed is seen by the poll that takes it off the list.
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.woken.push(self.task);
        }
    }
}

struct Task {
    writer: Writer,
    under_way: Option<StoreTicket<Acknowledged>>,
    /// How it ended.
    ended: Option<Result<(), Failure>>,
    waker: Arc<TaskWaker>,
}

impl Task {
    /// Goes on as far as it can; ready when its window is over, or a write failed.
    fn poll(&mut self, target: &Target) -> Poll<Result<(), Failure>> {
        let waker = Waker::from(Arc::clone(&self.waker));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Some(ticket) = &mut self.under_way {
                match Pin::new(ticket).poll(&mut context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(failed(error))),
                    Poll::Ready(Ok(_)) => self.writer.acknowledge(),
                }
                self.under_way = None;
            }
            let Some(key) = self.writer.begin() else { return Poll::Ready(Ok(())) };
            let (offset, value) = (target.shape.offset(key), self.writer.value());
            self.under_way = Some(target.engine.write(target.inode, offset, value));
        }
    }
}

/// The tasks, and who of them was woken.
struct Tasks {
    target: Target,
    tasks: Vec<Task>,
    left: usize,
    woken: Arc<Woken>,
    taken: Vec<usize>,
}

impl Tasks {
    /// All of them are polled at first.
    fn new(target: Target, writers: Vec<Writer>, poller: Poller) -> Self {
        let (tasks, any) = (Mutex::new((0..writers.len()).collect()), AtomicBool::new(true));
        let woken = Arc::new(Woken { tasks, any, poller });
        let left = writers.len();
        let tasks = writers.into_iter().enumerate().map(|(task, writer)| {
            let (listed, woken) = (AtomicBool::new(true), Arc::clone(&woken));
            let waker = Arc::new(TaskWaker { task, listed, woken });
            Task { writer, under_way: None, ended: None, waker }
        });
        Self { target, tasks: tasks.collect(), left, woken, taken: Vec::new() }
    }

    /// Polls those that were woken; true when all are over.
    fn poll(&mut self) -> bool {
        let mut taken = std::mem::take(&mut self.taken);
        self.woken.take(&mut taken);
        for index in &taken {
            let task = &mut self.tasks[*index];
            task.waker.listed.swap(false, Ordering::AcqRel);
            if task.ended.is_none()
                && let Poll::Ready(outcome) = task.poll(&self.target)
            {
                task.ended = Some(outcome);
                self.left -= 1;
            }
        }
        self.taken = taken;
        self.left == 0
    }

    /// The writers, or the first failure.
    fn end(self) -> Ended {
        let end = |task: Task| task.ended.unwrap_or(Ok(())).map(|()| task.writer);
        self.tasks.into_iter().map(end).collect()
    }
}

struct ReactorTasks {
    /// None when it is done.
    tasks: Option<Tasks>,
    ended: Sender<Ended>,
}

impl LocalTask for ReactorTasks {
    fn poll(&mut self, _: &mut LocalIo<'_>) -> TaskState {
        let Some(tasks) = &mut self.tasks else { return TaskState::Done };
        if !tasks.poll() {
            let again = tasks.woken.any.load(Ordering::Relaxed);
            return if again { TaskState::RunAgain } else { TaskState::Idle };
        }
        if let Some(tasks) = self.tasks.take() {
            // Nobody waits for it any more if this fails.
            drop(self.ended.send(tasks.end()));
        }
        TaskState::Done
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        unreachable!("its requests go to the engine, not to the disks")
    }
}
