//! Many clones as tasks: polled by a thread that does nothing else, or by a reactor.
//!
//! A task that is woken stands in a list, once; whoever polls takes all of the list. The first to
//! stand there rouses the poller, so a batch that was answered together costs one wake-up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use dynamicfs::Completion;
use dynamicfs::reactor::bell::Bell;
use dynamicfs::reactor::local::{LocalIo, LocalTask, TaskState};

use crate::load::store::StoreClone;

/// Looks at the list this often before the thread parks: as often as a thread looks at its ticket.
const SPINS: u32 = 1_000;

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
    clone: Option<StoreClone>,
    waker: Arc<TaskWaker>,
}

/// Clones and who of them was woken.
struct Tasks {
    tasks: Vec<Task>,
    left: usize,
    woken: Arc<Woken>,
    taken: Vec<usize>,
}

impl Tasks {
    /// All of them are polled at first.
    fn new(clones: Vec<StoreClone>, poller: Poller) -> Self {
        let (tasks, any) = (Mutex::new((0..clones.len()).collect()), AtomicBool::new(true));
        let woken = Arc::new(Woken { tasks, any, poller });
        let left = clones.len();
        let tasks = clones.into_iter().enumerate().map(|(task, clone)| {
            let waker =
                TaskWaker { task, listed: AtomicBool::new(true), woken: Arc::clone(&woken) };
            Task { clone: Some(clone), waker: Arc::new(waker) }
        });
        Self { tasks: tasks.collect(), left, woken, taken: Vec::new() }
    }

    /// Polls those that were woken, calls `between` after each; true when all are over.
    fn poll(&mut self, mut between: impl FnMut()) -> bool {
        let mut taken = std::mem::take(&mut self.taken);
        self.woken.take(&mut taken);
        for index in &taken {
            let task = &mut self.tasks[*index];
            task.waker.listed.swap(false, Ordering::AcqRel);
            let Some(clone) = &mut task.clone else { continue };
            let waker = Waker::from(Arc::clone(&task.waker));
            if clone.poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
                task.clone = None;
                self.left -= 1;
            }
            between();
        }
        self.taken = taken;
        self.left == 0
    }
}

/// Polls the clones on this thread until all are over.
pub fn drive(clones: Vec<StoreClone>) {
    let mut tasks = Tasks::new(clones, Poller::Thread(std::thread::current()));
    while !tasks.poll(|| {}) {
        let any = || tasks.woken.any.load(Ordering::Relaxed);
        let found = (0..SPINS).any(|_| {
            std::hint::spin_loop();
            any()
        });
        if !found {
            // An `unpark` since the list was taken ends this at once.
            std::thread::park();
        }
    }
}

/// The clones as a task of the reactor that the bell belongs to. To be made on its thread.
#[must_use]
pub fn on_reactor(clones: Vec<StoreClone>, bell: Bell) -> Box<dyn LocalTask> {
    Box::new(ReactorTasks(Tasks::new(clones, Poller::Reactor(bell))))
}

struct ReactorTasks(Tasks);

impl LocalTask for ReactorTasks {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        match self.0.poll(|| io.advance()) {
            true => TaskState::Done,
            false if self.0.woken.any.load(Ordering::Relaxed) => TaskState::RunAgain,
            false => TaskState::Idle,
        }
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        unreachable!("its requests go to the engine, not to the disks")
    }
}
