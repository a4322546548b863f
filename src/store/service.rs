//! A domain as a local task of its reactor: mail in, answers out.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use crate::concurrency::call_table::{CallTable, ServerKey};
use crate::concurrency::mailbox::Mailbox;
use crate::format::page::InodeRecord;
use crate::format::record::Cut;
use crate::io::op::Completion;
use crate::reactor::bell::Bell;
use crate::reactor::local::{LocalIo, LocalTask, TaskState};
use crate::store::batch::Change;
use crate::store::call::{Audit, Call, Reply};
use crate::store::change::{change, freed_by_cut};
use crate::store::checkpoint::checkpoints;
use crate::store::commit::GroupCommitCoordinator;
use crate::store::discard::discards;
use crate::store::domain::{Access, Domain, Health};
use crate::store::error::{Certainty, StoreError};
use crate::store::evacuation::{REWRITERS, evacuations, rewrites};
use crate::store::executor::Executor;
use crate::store::member::MirrorDisk;
use crate::store::mend::mending;
use crate::store::port::Port;
use crate::store::read::{no_lock, read};
use crate::store::recovery::{DomainSeed, RecoveryError, RecoveryReport, recover};
use crate::store::resync::{behind, resyncs};
use crate::store::scrub::scrubs;
use crate::store::transfers::{Seat, transfers};
use crate::store::write_back::write_home;

/// Calls to domains, on their way there and back.
pub type StoreCalls = CallTable<Call, Reply>;

/// Where other threads leave calls for a domain.
#[derive(Debug)]
pub struct Doorstep {
    pub(crate) calls: Arc<StoreCalls>,
    pub(crate) mailbox: Mailbox,
    bell: Bell,
}

impl Doorstep {
    /// Of a domain that the bell calls.
    pub fn new(calls: Arc<StoreCalls>, bell: Bell) -> Doorstep {
        Doorstep { calls, mailbox: Mailbox::default(), bell }
    }

    /// Leaves a call. The key comes back when the domain is closed.
    pub(crate) fn leave(&self, key: ServerKey) -> Result<(), ServerKey> {
        let _ = self.mailbox.push(&self.calls, key)?;
        self.bell.ring();
        Ok(())
    }
}

/// Told when the domain has been opened, or not.
pub type Opened = Box<dyn FnOnce(Result<RecoveryReport, RecoveryError>) + Send>;

struct Shared {
    doorstep: Arc<Doorstep>,
    port: Rc<Port>,
    domain: RefCell<Option<Rc<Domain>>>,
    failed: RefCell<Option<RecoveryError>>,
    closed: Cell<bool>,
    /// Callers that were answered and are still to be woken.
    wakers: RefCell<Vec<Waker>>,
}

/// Turns until requests are served and callers woken when the domain's own tasks have handed
/// something over: by then the reactor has given it to the device, and answering many takes longer
/// than that.
const TURNS_HELD: u32 = 2;

struct Service<F> {
    /// Others wait for what it says.
    _seat: Seat,
    /// Turns in which the domain's own tasks run and nothing else.
    held: u32,
    shared: Rc<Shared>,
    executor: Executor<F>,
    serve: fn(Rc<Shared>, Rc<Domain>, ServerKey, Call) -> F,
}

/// The domain as a task: made on its reactor, it recovers, tells `opened`, and serves.
pub(crate) fn domain_task(
    seed: DomainSeed,
    doorstep: Arc<Doorstep>,
    opened: Opened,
) -> Box<dyn LocalTask> {
    make(seed, doorstep, opened, serve)
}

fn make<F: Future<Output = ()> + 'static>(
    seed: DomainSeed,
    doorstep: Arc<Doorstep>,
    opened: Opened,
    serve: fn(Rc<Shared>, Rc<Domain>, ServerKey, Call) -> F,
) -> Box<dyn LocalTask> {
    let port = Rc::new(Port::default());
    let shared = Rc::new(Shared {
        doorstep,
        port,
        domain: RefCell::new(None),
        failed: RefCell::new(None),
        closed: Cell::new(false),
        wakers: RefCell::new(Vec::new()),
    });
    let mut executor = Executor::new(seed.config.requests_max);
    let opening = Rc::clone(&shared);
    let bell = shared.doorstep.bell.clone();
    let seat = Seat::take(seed.members.disks(), seed.domain, bell);
    executor.reside(Box::pin(async move {
        match open(&opening, &seed).await {
            Ok((domain, report)) => {
                *opening.domain.borrow_mut() = Some(domain);
                opened(Ok(report));
            }
            Err(error) => {
                seed.members.disks().board.leave(seed.domain);
                *opening.failed.borrow_mut() = Some(error.clone());
                opened(Err(error));
            }
        }
    }));
    Box::new(Service { _seat: seat, held: 0, shared, executor, serve })
}

/// Recovers, and agrees with the other domains who has which allocation group.
async fn open(
    shared: &Shared,
    seed: &DomainSeed,
) -> Result<(Rc<Domain>, RecoveryReport), RecoveryError> {
    let (domain, report) = recover(Rc::clone(&shared.port), seed).await?;
    if seed.config.access == Access::ReadWrite {
        let agreed = domain.agree_with_others().await;
        agreed.map_err(|what| RecoveryError::Corrupt {
            domain: seed.domain,
            path: seed.members.home().path(),
            offset: 0,
            what,
        })?;
    }
    Ok((domain, report))
}

impl<F> Service<F> {
    /// Wakes the callers that were answered; calls `between` after each.
    fn wake(&mut self, mut between: impl FnMut()) {
        // Out of the cell: a waker is foreign code. The memory of the list stays.
        let mut wakers = std::mem::take(&mut *self.shared.wakers.borrow_mut());
        for waker in wakers.drain(..) {
            waker.wake();
            between();
        }
        self.shared.wakers.replace(wakers);
    }
}

impl<F: Future<Output = ()>> Service<F> {
    /// `released`: after a hold, when everybody has their turn.
    fn turn(&mut self, io: &mut LocalIo<'_>, released: bool) -> TaskState {
        self.shared.port.begin(io);
        self.shared.port.take_handed_over();
        if let Some(domain) = &*self.shared.domain.borrow()
            && domain.has_letters()
        {
            domain.changed.notify();
        }
        // A commit that has ended, and the next one, before all who wait for it: the device works
        // while they are answered.
        self.executor.run_residents();
        self.shared.port.hand_over(io);
        if self.held == 0 && !released && self.shared.port.take_handed_over() > 0 {
            self.held = TURNS_HELD;
        }
        if self.held > 0 {
            return TaskState::RunAgain;
        }
        self.serve_all(io)
    }

    fn serve_all(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        loop {
            self.take_mail();
            // The flush of a record that has been written does not wait for all of them.
            self.executor.run(|| io.advance());
            self.settle_in();
            if !self.shared.port.hand_over(io) {
                break;
            }
        }
        if self.shared.wakers.borrow().is_empty() {
            return self.state();
        }
        if self.shared.port.take_handed_over() == 0 {
            self.wake(|| io.advance());
            return self.state();
        }
        self.held = TURNS_HELD;
        TaskState::RunAgain
    }

    /// The tasks of an open domain, once.
    fn settle_in(&mut self) {
        if self.executor.residents() > 1 {
            return;
        }
        let Some(domain) = self.shared.domain.borrow().clone() else { return };
        if domain.config.access == Access::ReadOnly {
            return;
        }
        let coordinator = GroupCommitCoordinator::new(Rc::clone(&domain));
        self.executor.reside(Box::pin(coordinator.run()));
        self.executor.reside(Box::pin(checkpoints(Rc::clone(&domain))));
        self.executor.reside(Box::pin(discards(Rc::clone(&domain))));
        self.executor.reside(Box::pin(mending(Rc::clone(&domain))));
        // Those that come from here on are brought by a call.
        let behind = behind(&domain);
        self.executor.reside(Box::pin(resyncs(Rc::clone(&domain), behind)));
        self.executor.reside(Box::pin(scrubs(Rc::clone(&domain))));
        domain.know_fates();
        self.executor.reside(Box::pin(evacuations(Rc::clone(&domain))));
        for _ in 0..REWRITERS {
            self.executor.reside(Box::pin(rewrites(Rc::clone(&domain))));
        }
        if domain.members.domains() > 1 {
            self.executor.reside(Box::pin(transfers(Rc::clone(&domain))));
        }
        self.executor.reside(Box::pin(write_home(domain)));
        self.take_mail();
        self.executor.run(|| {});
    }

    fn take_mail(&mut self) {
        let doorstep = Arc::clone(&self.shared.doorstep);
        if !doorstep.mailbox.has_mail() {
            return;
        }
        let domain = self.shared.domain.borrow().clone();
        let failed = self.shared.failed.borrow().is_some() || self.shared.closed.get();
        if domain.is_none() && !failed {
            return;
        }
        for key in doorstep.mailbox.drain(&doorstep.calls) {
            let call = doorstep.calls.take_request(&key);
            match &domain {
                Some(domain) if !failed => {
                    let future =
                        (self.serve)(Rc::clone(&self.shared), Rc::clone(domain), key, call);
                    self.executor.start(future);
                }
                _ => answer(&doorstep, key, Reply::Failed(StoreError::Closing)),
            }
        }
    }

    fn state(&self) -> TaskState {
        match self.shared.port.next_timer() {
            Some(at) => TaskState::At(at),
            None => TaskState::Idle,
        }
    }
}

impl<F: Future<Output = ()>> LocalTask for Service<F> {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        let held = self.held > 0;
        self.held = self.held.saturating_sub(1);
        let released = held && self.held == 0;
        if released {
            self.wake(|| io.advance());
        }
        self.turn(io, released)
    }

    fn complete(
        &mut self,
        _: &mut LocalIo<'_>,
        tag: u64,
        completion: Completion,
    ) -> Option<TaskState> {
        self.shared.port.complete(tag, completion);
        // One turn for all that completed together.
        Some(TaskState::RunAgain)
    }
}

impl<F> Drop for Service<F> {
    fn drop(&mut self) {
        self.wake(|| {});
        // Whoever still waits is told.
        let doorstep = &self.shared.doorstep;
        for key in doorstep.mailbox.close(&doorstep.calls) {
            drop(doorstep.calls.take_request(&key));
            answer(doorstep, key, Reply::Failed(StoreError::Closing));
        }
    }
}

fn answer(doorstep: &Doorstep, key: ServerKey, reply: Reply) {
    if let Some(waker) = doorstep.calls.complete(key, reply) {
        waker.wake();
    }
}

/// Answers a call when it is dropped before it was answered: with its domain, or by a panic. What
/// changes something may have reached the journal by then.
struct Answer<'a> {
    doorstep: &'a Doorstep,
    key: Option<ServerKey>,
    unanswered: Certainty,
}

impl Answer<'_> {
    fn give(mut self, reply: Reply, wakers: &RefCell<Vec<Waker>>) {
        if let Some(key) = self.key.take() {
            wakers.borrow_mut().extend(self.doorstep.calls.complete(key, reply));
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let error = match self.unanswered {
                Certainty::Out => StoreError::Closing,
                certainty => {
                    let reason = "its domain ended before the answer".into();
                    StoreError::CommitFailed { reason, certainty }
                }
            };
            answer(self.doorstep, key, Reply::Failed(error));
        }
    }
}

async fn serve(shared: Rc<Shared>, domain: Rc<Domain>, key: ServerKey, call: Call) {
    let unanswered = match &call {
        Call::Create { .. } | Call::Delete { .. } | Call::Change { .. } | Call::Sync => {
            Certainty::Unknown
        }
        _ => Certainty::Out,
    };
    let answer = Answer { doorstep: &shared.doorstep, key: Some(key), unanswered };
    let reply = match call {
        Call::Create { tag, copies } => create(&domain, tag, copies).await,
        Call::Delete { inode } => delete(&domain, inode).await,
        Call::Stat { inode } => stat(&domain, inode).await,
        Call::List { from, max } => Ok(Reply::List(domain.table.borrow().inodes(from, max))),
        Call::Read { inode, offset, buffer, len, priority } => {
            read(&domain, inode, offset, (buffer, len), priority).await.map(Reply::Read)
        }
        Call::Change { inode, steps, durability } => {
            change(&domain, inode, steps, durability).await.map(Reply::Changed)
        }
        Call::Sync => sync(&domain).await,
        Call::Status => Ok(Reply::Status(Box::new(domain.status()))),
        Call::Scrub(order) => Ok(Reply::Scrub(Box::new(domain.scrub_order(order)))),
        Call::Audit => Ok(Reply::Audit(audit(&domain))),
        Call::Bring(mirror) => bring(&domain, mirror),
        Call::Widen(slot) | Call::Grow(slot) => Ok(know_slot(&domain, slot)),
        Call::Fates => {
            domain.know_fates();
            Ok(Reply::Done)
        }
        Call::Close => close(&shared, &domain).await,
    };
    answer.give(reply.unwrap_or_else(Reply::Failed), &shared.wakers);
}

/// A disk that has come gets what there is, as long as the domain serves.
fn bring(domain: &Domain, mirror: Arc<MirrorDisk>) -> Result<Reply, StoreError> {
    match &*domain.health.borrow() {
        Health::Stopped(reason) => return Err(StoreError::ReadOnly { reason: Arc::clone(reason) }),
        Health::Closed => return Err(StoreError::Closing),
        Health::Serving | Health::Aborting => {}
    }
    domain.to_bring.borrow_mut().push_back(mirror);
    domain.changed.notify();
    Ok(Reply::Done)
}

/// A slot has come, or its disks have grown: it has blocks for the domain.
fn know_slot(domain: &Domain, slot: u16) -> Reply {
    domain.know_slot(slot);
    domain.changed.notify();
    Reply::Done
}

/// Counts from the table what the allocator counts by itself.
fn audit(domain: &Domain) -> Audit {
    domain.give_what_was_answered();
    let late = domain.all_late_blocks();
    let (table, space) = (domain.table.borrow(), domain.space.borrow());
    let inodes = table.inodes(0, usize::MAX);
    let data = inodes.iter().map(|inode| {
        let extents = table.extents_of(inode.id, 0, u64::MAX, usize::MAX);
        extents.iter().map(|(_, extent)| extent.existing().count() as u64).sum::<u64>()
    });
    let data = data.sum();
    let pages = table.pages.homes().count() as u64;
    let (blocks, free) = (space.blocks(), space.free_blocks());
    let on_the_way = blocks.wrapping_sub(free + data + pages + late);
    Audit { blocks, free, data, pages, on_the_way, promised: space.promised() }
}

async fn stat(domain: &Domain, inode: u64) -> Result<Reply, StoreError> {
    domain.settle_buffered(inode).await;
    let record = domain.table.borrow().inode(inode).copied();
    let missing = || domain.missing(inode, None).unwrap_or(StoreError::NoSuchInode { inode });
    record.map(Reply::Stat).ok_or_else(missing)
}

/// A new inode needs a place on a page, which may be new.
const CREATE_PROMISE: u64 = 2;

async fn create(domain: &Domain, tag: [u8; 64], copies: Option<u16>) -> Result<Reply, StoreError> {
    domain.check_writable()?;
    let mirrors = domain.members.disks().label().mirror.count;
    let flags = match copies {
        None => 0,
        Some(copies) if (1..=mirrors).contains(&copies) => copies % mirrors,
        Some(copies) => return Err(StoreError::Copies { copies, mirrors }),
    };
    domain.has_space(CREATE_PROMISE).await?;
    domain.check_writable()?;
    domain.space.borrow_mut().promise(CREATE_PROMISE);
    let inode = domain.new_inode_id();
    let record =
        InodeRecord { id: inode, tag, flags: flags.into(), ..bytemuck::Zeroable::zeroed() };
    let change = Change { inode: Some(record), promised: CREATE_PROMISE, ..Change::default() };
    let committed = domain.join(change).decided().await?;
    Ok(Reply::Created { inode, committed })
}

async fn delete(domain: &Domain, inode: u64) -> Result<Reply, StoreError> {
    domain.check_writable()?;
    let alone = domain.inode_locks.write(inode).await.map_err(|refusal| no_lock(&refusal))?;
    domain.newest_inode(inode)?;
    domain.check_writable()?;
    let mut freed = Vec::new();
    freed_by_cut(domain, &Cut { inode, from: 0, to: u64::MAX }, &mut freed);
    let change = Change { deletes: vec![inode], freed, ..Change::default() };
    let fate = domain.join(change);
    drop(alone);
    fate.decided().await.map(|committed| Reply::Changed(Some(committed)))
}

/// What was answered before is durable: everything that has joined is.
async fn sync(domain: &Domain) -> Result<Reply, StoreError> {
    domain.hurry.set(true);
    domain.changed.notify();
    let fate = domain.pipe.borrow().newest_fate();
    if let Some(fate) = fate {
        let outcome = fate.decided().await;
        outcome?;
    }
    match &*domain.lost.borrow() {
        Some(error) => Err(error.clone()),
        None => Ok(Reply::Done),
    }
}

/// Commits what has joined, writes home what is in memory, and a checkpoint, so that the next
/// opening has nothing to do.
async fn close(shared: &Shared, domain: &Domain) -> Result<Reply, StoreError> {
    let synced = sync(domain).await;
    domain.closing.set(true);
    domain.checkpoint_wanted.set(true);
    domain.changed.notify();
    let stopped = |domain: &Domain| matches!(&*domain.health.borrow(), Health::Stopped(_));
    domain
        .changed
        .until(|| {
            let idle = domain.pipe.borrow().ops() == 0 && domain.ram.borrow().len() == 0;
            (idle && !domain.checkpoint_wanted.get() || stopped(domain)).then_some(())
        })
        .await;
    if !stopped(domain) {
        *domain.health.borrow_mut() = Health::Closed;
    }
    domain.changed.notify();
    shared.closed.set(true);
    synced
}
