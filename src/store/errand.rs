//! One piece of work on a reactor, with a result: formatting, reading labels.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use crate::io::op::Completion;
use crate::reactor::local::{LocalIo, LocalTask, TaskSeed, TaskState};
use crate::store::executor::Executor;
use crate::store::port::Port;

/// A future of a reactor's thread.
pub(crate) type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

struct Errand {
    port: Rc<Port>,
    executor: Executor<std::future::Ready<()>>,
}

/// A task that does `work` and tells `done`. When it is dropped before, `done` is too.
pub(crate) fn errand<T: 'static>(
    work: impl FnOnce(Rc<Port>) -> LocalFuture<T> + Send + 'static,
    done: impl FnOnce(T) + Send + 'static,
) -> TaskSeed {
    Box::new(move || {
        let port = Rc::new(Port::default());
        let mut executor = Executor::new(0);
        let work = work(Rc::clone(&port));
        executor.reside(Box::pin(async move { done(work.await) }));
        Box::new(Errand { port, executor })
    })
}

impl Errand {
    fn turn(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        self.port.begin(io);
        loop {
            self.executor.run(|| io.advance());
            if !self.port.hand_over(io) {
                break;
            }
        }
        match self.port.next_timer() {
            _ if self.executor.is_idle() => TaskState::Done,
            Some(at) => TaskState::At(at),
            None => TaskState::Idle,
        }
    }
}

impl LocalTask for Errand {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        self.turn(io)
    }

    fn complete(
        &mut self,
        io: &mut LocalIo<'_>,
        tag: u64,
        completion: Completion,
    ) -> Option<TaskState> {
        self.port.complete(tag, completion);
        Some(self.turn(io))
    }
}
