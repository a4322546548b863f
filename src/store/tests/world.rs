//! A pool on simulated disks, and calls to it.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use crate::concurrency::call_table::CallerKey;
use crate::format::disk_set::DiskSet;
use crate::format::label::Label;
use crate::format::layout::Layout;
use crate::io::op::{DiskId, Priority};
use crate::machine::mapping::PagePolicy;
use crate::memory::{Arena, DmaBuf};
use crate::scheduler::limits::SchedulerConfig;
use crate::sim::{Random, SimConfig, SimDisk, SimDiskConfig, Simulation};
use crate::store::assembly::{Missing, assemble};
use crate::store::batch::Committed;
use crate::store::call::{Audit, Call, Durability, Payload, Reply, Step};
use crate::store::domain::{Access, Closing, DomainConfig, DomainStatus, Inline};
use crate::store::errand::errand;
use crate::store::error::StoreError;
use crate::store::mechanism::{Mechanism, MechanismChoice};
use crate::store::member::{Disks, Members, MirrorDisk};
use crate::store::membership::NotDurable;
use crate::store::pool::{DiskPlan, LabelCopies, PoolError, PoolPlan, adopt, format, read_labels};
use crate::store::recovery::{DomainSeed, RecoveryError, RecoveryReport};
use crate::store::service::{Doorstep, StoreCalls, domain_task};

pub(super) const DISK_BYTES: u64 = 12 << 20;
pub(super) const JOURNAL_BYTES: u64 = 1 << 20;
/// Longer than anything takes.
const SOON_NS: u64 = 60_000_000_000;

/// What a pool is made and opened with.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) disk: SimDiskConfig,
    /// Slots.
    pub(super) disks: usize,
    /// Disks of each slot.
    pub(super) mirrors: usize,
    /// Disks beside the pool's.
    pub(super) spares: usize,
    pub(super) missing: Missing,
    /// Inodes have so many copies at least and at most; none: as many as there are mirrors.
    pub(super) copies: Option<(u16, u16)>,
    /// Disks without a label may have been removed.
    pub(super) removed: bool,
    pub(super) hung_after_ns: u64,
    pub(super) hedged_reads: bool,
    /// A disk that is so many times as slow as the others.
    pub(super) slow: Option<(usize, u64)>,
    pub(super) discard_part_bytes: u64,
    pub(super) domains: u16,
    pub(super) reactors: usize,
    pub(super) config: DomainConfig,
    pub(super) scheduler: SchedulerConfig,
    pub(super) arena: Arc<Arena>,
}

impl Default for Setup {
    fn default() -> Self {
        let disk = SimDiskConfig {
            size_bytes: DISK_BYTES,
            logical_block_bytes: 512,
            ..SimDiskConfig::default()
        };
        let config = DomainConfig {
            requests_max: 64,
            pages: PagePolicy::Normal,
            table_pages_per_chunk: 16,
            locks_max: 1 << 10,
            batch_bytes_max: 256 << 10,
            write_back_bytes: 128 << 10,
            inline_when: Inline::Always,
            ..DomainConfig::default()
        };
        let arena = Arena::new(6 << 20, PagePolicy::Normal, None, 0).expect("there is memory");
        Setup {
            disk,
            disks: 1,
            mirrors: 1,
            spares: 0,
            missing: Missing::Refuse,
            copies: None,
            removed: false,
            hung_after_ns: 100_000_000,
            hedged_reads: true,
            slow: None,
            discard_part_bytes: 0,
            domains: 1,
            reactors: 1,
            config,
            scheduler: SchedulerConfig::default(),
            arena,
        }
    }
}

impl Setup {
    pub(super) fn layout(&self) -> Layout {
        Layout::plan(self.disk.size_bytes, self.domains, JOURNAL_BYTES).unwrap()
    }

    /// With the choices that change the way of a write left to chance.
    pub(super) fn varied(&self, random: &mut Random) -> Setup {
        let mut setup = self.clone();
        let config = &mut setup.config;
        let choices = [
            MechanismChoice::Fixed(Mechanism::Flush),
            MechanismChoice::Fixed(Mechanism::Dsync),
            MechanismChoice::Measured,
        ];
        config.mechanism = choices[random.below(3) as usize];
        config.inline_when = [Inline::Always, Inline::Idle][random.below(2) as usize];
        setup.discard_part_bytes = [0, 4096, 64 << 10][random.below(3) as usize];
        let config = &mut setup.config;
        config.gather_extents = 1 + random.below(12) as usize;
        config.checkpoint_percent = 20 + random.below(60);
        config.write_back_bytes = 4096 << random.below(6);
        if random.below(4) == 0 {
            config.closing = Closing::Linger { delay_ns: 1000 << random.below(12) };
            config.batch_ops_max = 1 + random.below(10) as u32;
        }
        setup
    }

    /// Disks of all slots.
    pub(super) fn disk_count(&self) -> usize {
        self.disks * self.mirrors
    }

    fn disk_config(&self, number: usize) -> SimDiskConfig {
        let mut config = self.disk.clone();
        if let Some((slow, times)) = self.slow
            && slow == number
        {
            let slower = |range: &RangeInclusive<u64>| range.start() * times..=range.end() * times;
            config.read_ns = slower(&config.read_ns);
            config.write_ns = slower(&config.write_ns);
            config.command_ns = slower(&config.command_ns);
        }
        config
    }

    fn sim_config(&self) -> SimConfig {
        SimConfig {
            disks: (0..self.disk_count() + self.spares).map(|n| self.disk_config(n)).collect(),
            reactors: self.reactors,
            lanes: vec![(0..self.reactors).collect(); self.disk_count() + self.spares],
            scheduler: self.scheduler.clone(),
            arena: Some(Arc::clone(&self.arena)),
            ..SimConfig::default()
        }
    }
}

/// A running pool.
pub(super) struct World {
    pub(super) sim: Simulation,
    pub(super) setup: Setup,
    doorsteps: Vec<Arc<Doorstep>>,
    opened: Opened,
    pub(super) reports: Vec<RecoveryReport>,
    /// When the labels were judged, and the domains began to recover.
    pub(super) judged_ns: u64,
    disks: Option<Arc<Disks>>,
}

type Opened = Arc<Mutex<Vec<(u16, Result<RecoveryReport, RecoveryError>)>>>;

type RaiseResult = Arc<Mutex<Option<Result<(), NotDurable>>>>;

/// An answer that is on its way.
pub(super) struct Asked {
    domain: usize,
    key: Option<CallerKey>,
}

/// Waits in virtual time until a slot is filled.
fn wait_for<T>(sim: &mut Simulation, slot: &Mutex<Option<T>>) -> Option<T> {
    let until = sim.now_ns() + SOON_NS;
    sim.run_until(until, |_| slot.lock().unwrap().is_some());
    slot.lock().unwrap().take()
}

/// Makes a pool on a new disk, and gives the disk.
pub(super) fn formatted(setup: &Setup, seed: u64) -> Vec<SimDisk> {
    let mut sim = Simulation::new(seed, &setup.sim_config());
    start_format(&mut sim, setup).unwrap();
    sim.crash(seed)
}

/// Formats the disks of a simulation, if nothing stops it.
pub(super) fn start_format(sim: &mut Simulation, setup: &Setup) -> Result<(), PoolError> {
    let disks = (0..setup.disk_count()).map(|number| DiskPlan {
        number: DiskId(number as u16),
        id: [8 + number as u8; 16],
        layout: setup.layout(),
        sector: setup.disk.logical_block_bytes as usize,
    });
    let (disks, mirrors) = (disks.collect(), setup.mirrors as u16);
    let plan = PoolPlan { pool: [7; 16], disks, mirrors, incarnation: 1 };
    let arena = sim.arena();
    let slot = Arc::new(Mutex::new(None));
    let result = Arc::clone(&slot);
    sim.spawn_seed(
        0,
        errand(
            move |port| Box::pin(async move { format(&port, &arena, &plan).await }),
            move |outcome| *result.lock().unwrap() = Some(outcome),
        ),
    );
    wait_for(sim, &slot).expect("formatting ends")
}

/// Why a pool did not open.
#[derive(Debug)]
// Looked at by what a failing test prints.
#[allow(dead_code)]
pub(super) enum OpenFailure {
    Pool(PoolError),
    Labels(NotDurable),
    Recovery(RecoveryError),
}

impl World {
    /// A new pool.
    pub(super) fn new(setup: &Setup, seed: u64) -> World {
        World::open(setup, seed, formatted(setup, seed)).expect("a new pool opens")
    }

    /// Opens the pool on these disks.
    pub(super) fn open(
        setup: &Setup,
        seed: u64,
        disks: Vec<SimDisk>,
    ) -> Result<World, OpenFailure> {
        World::boot(setup, seed, disks).recover(seed)
    }

    /// Opens the pool on the disks that it was booted with.
    pub(super) fn recover(mut self, seed: u64) -> Result<World, OpenFailure> {
        self.recover_here(seed).map(|()| self)
    }

    /// The same; a failure ends in a crash.
    pub(super) fn recover_or_crash(mut self, seed: u64) -> Result<World, Vec<SimDisk>> {
        match self.recover_here(seed) {
            Ok(()) => Ok(self),
            Err(_) => Err(self.sim.crash(seed)),
        }
    }

    fn recover_here(&mut self, seed: u64) -> Result<(), OpenFailure> {
        let disks = self.shared_disks()?;
        self.judged_ns = self.sim.now_ns();
        self.start_domains(seed, disks);
        self.wait_until_open().map_err(OpenFailure::Recovery)
    }

    /// Judges the labels, and raises their epoch.
    fn shared_disks(&mut self) -> Result<Arc<Disks>, OpenFailure> {
        let (disks, in_sync) = self.judged_disks()?;
        if self.setup.config.access == Access::ReadWrite {
            let slot = self.start_raise(&disks, in_sync);
            let raised = wait_for(&mut self.sim, &slot).expect("labels are written");
            raised.map_err(OpenFailure::Labels)?;
        }
        Ok(disks)
    }

    /// Boots, and raises the labels' epoch for so many steps only.
    pub(super) fn raise_in_part(
        setup: &Setup,
        seed: u64,
        disks: Vec<SimDisk>,
        steps: u64,
    ) -> Vec<SimDisk> {
        let mut world = World::boot(setup, seed, disks);
        let (disks, in_sync) = world.judged_disks().expect("the labels are whole");
        let slot = world.start_raise(&disks, in_sync);
        for _ in 0..steps {
            if slot.lock().unwrap().is_some() || !world.sim.step() {
                break;
            }
        }
        world.sim.crash(seed)
    }

    fn judged_disks(&mut self) -> Result<(Arc<Disks>, DiskSet), OpenFailure> {
        let (mut labels, mut there) = (Vec::new(), Vec::new());
        for disk in 0..self.setup.disk_count() {
            match self.label(DiskId(disk as u16)) {
                Ok((label, copies)) => {
                    assert!(label.layout.disk_bytes() <= self.setup.disk.size_bytes);
                    labels.push((format!("sim-{disk}").into(), label));
                    there.push((disk, copies));
                }
                // As a disk that is not there.
                Err(PoolError::Unusable { .. } | PoolError::NoPool { .. })
                    if self.setup.mirrors > 1 || self.setup.removed => {}
                Err(error) => return Err(OpenFailure::Pool(error)),
            }
        }
        let assembly = assemble(&labels, self.setup.missing).map_err(OpenFailure::Pool)?;
        let (arena, sector) = (self.sim.arena(), self.setup.disk.logical_block_bytes as usize);
        let disks = Disks::new(&assembly, |number, state| {
            let (path, label) = labels[number].clone();
            let (disk, copies) = there[number].clone();
            let memory = arena.take(sector).expect("the arena has room");
            let named = (DiskId(disk as u16), path);
            let disk = MirrorDisk::new(named, (label, copies), state, memory);
            Ok::<_, PoolError>((disk, self.setup.discard_part_bytes))
        });
        let mut disks = disks.map_err(OpenFailure::Pool)?;
        disks.hung_after_ns = self.setup.hung_after_ns;
        disks.hedged_reads = self.setup.hedged_reads;
        Ok((Arc::new(disks), assembly.in_sync))
    }

    fn start_raise(&mut self, disks: &Arc<Disks>, in_sync: DiskSet) -> RaiseResult {
        let slot = Arc::new(Mutex::new(None));
        let (result, disks) = (Arc::clone(&slot), Arc::clone(disks));
        let seed = errand(
            move |port| Box::pin(async move { disks.raise(&port, in_sync).await }),
            move |raised| *result.lock().unwrap() = Some(raised),
        );
        self.sim.spawn_seed(0, seed);
        slot
    }

    /// A machine with these disks, and nothing running.
    pub(super) fn boot(setup: &Setup, seed: u64, disks: Vec<SimDisk>) -> World {
        let sim = Simulation::with_disks(seed, &setup.sim_config(), disks);
        let (doorsteps, opened, reports) = (Vec::new(), Opened::default(), Vec::new());
        let (setup, judged_ns) = (setup.clone(), 0);
        World { sim, setup, doorsteps, opened, reports, judged_ns, disks: None }
    }

    /// The same, to be kept.
    pub(super) fn shared(&self) -> Arc<Disks> {
        Arc::clone(self.disks.as_ref().expect("the pool was opened"))
    }

    /// A new disk for the place of one that is not in sync.
    pub(super) fn replaced(
        setup: &Setup,
        seed: u64,
        disks: &mut Vec<SimDisk>,
        number: usize,
    ) -> SimDisk {
        let new = SimDisk::new(setup.disk.clone());
        World::replaced_with(setup, seed, disks, (number, Some(new)))
    }

    /// The same, with a disk that has been something else; without one, what is there.
    pub(super) fn replaced_with(
        setup: &Setup,
        seed: u64,
        disks: &mut Vec<SimDisk>,
        (number, with): (usize, Option<SimDisk>),
    ) -> SimDisk {
        let mut all = std::mem::take(disks);
        let there = std::mem::replace(&mut all[number], SimDisk::new(setup.disk.clone()));
        let mut world = World::boot(setup, seed, all);
        let (judged, _) = world.judged_disks().expect("the others are a pool");
        world.sim.with_disk(DiskId(number as u16), |disk| *disk = with.unwrap_or(there));
        let good = judged.members.iter().flat_map(|member| member.mirrors.iter()).next().unwrap();
        let mut label = good.label;
        (label.slot, label.disk) = ((number / setup.mirrors) as u16, [99; 16]);
        label.mirror.number = (number % setup.mirrors) as u16;
        let (arena, sector) = (world.sim.arena(), setup.disk.logical_block_bytes as usize);
        let (disk, slot) = (DiskId(number as u16), Arc::new(Mutex::new(None)));
        let result = Arc::clone(&slot);
        let seed = errand(
            move |port| Box::pin(async move { adopt(&port, &arena, (disk, sector), &label).await }),
            move |adopted| *result.lock().unwrap() = Some(adopted),
        );
        world.sim.spawn_seed(0, seed);
        wait_for(&mut world.sim, &slot).expect("labels are written").unwrap();
        *disks = world.sim.kill();
        disks[number].clone()
    }

    /// What the domains share of the disks.
    pub(super) fn disks(&self) -> &Disks {
        self.disks.as_ref().expect("the pool was opened")
    }

    /// A disk's label, and its copies.
    fn label(&mut self, disk: DiskId) -> Result<(Label, LabelCopies), PoolError> {
        let (arena, slot) = (self.sim.arena(), Arc::new(Mutex::new(None)));
        let (bytes, sector) =
            (self.setup.disk.size_bytes, self.setup.disk.logical_block_bytes as usize);
        let result = Arc::clone(&slot);
        let seed = errand(
            move |port| {
                Box::pin(async move { read_labels(&port, &arena, disk, bytes, sector).await })
            },
            move |copies| *result.lock().unwrap() = Some(copies),
        );
        self.sim.spawn_seed(0, seed);
        let copies = wait_for(&mut self.sim, &slot).expect("labels are read");
        let copies = copies?;
        let label = copies.verdict(&format!("sim-{}", disk.0).into(), bytes)?;
        Ok((label, copies))
    }

    /// Starts the domains' tasks; they recover.
    fn start_domains(&mut self, seed: u64, disks: Arc<Disks>) {
        let opened = Opened::default();
        self.disks = Some(Arc::clone(&disks));
        for domain in 0..self.setup.domains {
            let reactor = usize::from(domain) % self.setup.reactors;
            let bell = self.sim.bell(reactor).unwrap();
            let calls = Arc::new(StoreCalls::new(self.setup.config.requests_max as u32));
            let doorstep = Arc::new(Doorstep::new(calls, bell.clone()));
            self.doorsteps.push(Arc::clone(&doorstep));
            let seed = DomainSeed {
                members: Members::new(Arc::clone(&disks), disks.home_of(domain)),
                pool: [7; 16],
                domain,
                incarnation: Random::new(seed ^ u64::from(domain) << 48).next_u64(),
                config: self.setup.config.clone(),
                arena: self.sim.arena(),
            };
            let opened = Arc::clone(&opened);
            let tell = Box::new(move |result| opened.lock().unwrap().push((domain, result)));
            let task = Box::new(move || domain_task(seed, doorstep, tell));
            self.sim.spawn_seed_with_bell(&bell, task);
        }
        self.opened = opened;
    }

    /// Runs until every domain is open.
    fn wait_until_open(&mut self) -> Result<(), RecoveryError> {
        let (opened, domains) = (Arc::clone(&self.opened), usize::from(self.setup.domains));
        let until = self.sim.now_ns() + SOON_NS;
        self.sim.run_until(until, |_| opened.lock().unwrap().len() == domains);
        let mut results = std::mem::take(&mut *opened.lock().unwrap());
        assert_eq!(results.len(), domains, "every domain opens or says why not");
        results.sort_by_key(|(domain, _)| *domain);
        for (_, result) in results {
            self.reports.push(result?);
        }
        Ok(())
    }

    /// Boots, and runs recovery for so many steps only; true when it was over before.
    pub(super) fn recover_in_part(
        setup: &Setup,
        seed: u64,
        disks: Vec<SimDisk>,
        steps: u64,
    ) -> (Vec<SimDisk>, bool) {
        let mut world = World::boot(setup, seed, disks);
        let now = world.shared_disks().expect("the labels are whole");
        world.start_domains(seed, now);
        let domains = usize::from(setup.domains);
        for _ in 0..steps {
            if world.opened.lock().unwrap().len() == domains || !world.sim.step() {
                return (world.sim.crash(seed), true);
            }
        }
        (world.sim.crash(seed), false)
    }

    pub(super) fn domain_of(&self, inode: u64) -> usize {
        (inode % u64::from(self.setup.domains)) as usize
    }

    pub(super) fn ask(&mut self, domain: usize, call: Call) -> Asked {
        let doorstep = &self.doorsteps[domain];
        let (caller, server) = doorstep.calls.open(call).expect("there is a slot");
        assert!(doorstep.leave(server).is_ok(), "the domain is there");
        Asked { domain, key: Some(caller) }
    }

    /// The answer, if it is there.
    pub(super) fn answer(&mut self, asked: &mut Asked) -> Option<Reply> {
        let key = asked.key.take()?;
        match self.doorsteps[asked.domain].calls.take_reply(key) {
            Ok(reply) => Some(reply),
            Err(key) => {
                asked.key = Some(key);
                None
            }
        }
    }

    /// Runs until the answer is there.
    pub(super) fn wait(&mut self, mut asked: Asked) -> Reply {
        let until = self.sim.now_ns() + SOON_NS;
        let calls = Arc::clone(&self.doorsteps[asked.domain].calls);
        let key = asked.key.as_ref().unwrap();
        self.sim.run_until(until, |_| calls.is_done(key));
        self.answer(&mut asked).expect("every call is answered")
    }

    pub(super) fn call(&mut self, domain: usize, call: Call) -> Reply {
        let asked = self.ask(domain, call);
        self.wait(asked)
    }

    pub(super) fn create(&mut self, domain: usize) -> Result<u64, StoreError> {
        self.create_with(domain, None)
    }

    pub(super) fn create_with(
        &mut self,
        domain: usize,
        copies: Option<u16>,
    ) -> Result<u64, StoreError> {
        match self.call(domain, Call::Create { tag: [0; 64], copies }) {
            Reply::Created { inode, .. } => Ok(inode),
            Reply::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn payload(&self, offset: u64, bytes: &[u8]) -> Payload {
        let start = (offset % 4096) as usize;
        let whole = (start + bytes.len()).next_multiple_of(4096);
        let mut buffer = self.sim.buffer(whole).expect("the arena has room");
        buffer.fill(0xee);
        buffer[start..start + bytes.len()].copy_from_slice(bytes);
        Payload { offset, len: bytes.len(), buffer }
    }

    pub(super) fn change(
        &mut self,
        inode: u64,
        steps: Vec<Step>,
    ) -> Result<Option<Committed>, StoreError> {
        let durability = Durability::Committed;
        match self.call(self.domain_of(inode), Call::Change { inode, steps, durability }) {
            Reply::Changed(committed) => Ok(committed),
            Reply::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn write(
        &mut self,
        inode: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Option<Committed>, StoreError> {
        let payload = self.payload(offset, bytes);
        self.change(inode, vec![Step::Write(payload)])
    }

    pub(super) fn read_call(&self, inode: u64, offset: u64, len: usize) -> Call {
        let whole = ((offset % 4096) as usize + len).next_multiple_of(4096).max(4096);
        let buffer: DmaBuf = self.sim.buffer(whole).expect("the arena has room");
        Call::Read { inode, offset, buffer, len, priority: Priority::NormalRead }
    }

    pub(super) fn read(
        &mut self,
        inode: u64,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let call = self.read_call(inode, offset, len);
        match self.call(self.domain_of(inode), call) {
            Reply::Read(bytes) => Ok(bytes.to_vec()),
            Reply::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn size(&mut self, inode: u64) -> Result<u64, StoreError> {
        match self.call(self.domain_of(inode), Call::Stat { inode }) {
            Reply::Stat(record) => Ok(record.size_bytes),
            Reply::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn delete(&mut self, inode: u64) -> Result<(), StoreError> {
        match self.call(self.domain_of(inode), Call::Delete { inode }) {
            Reply::Changed(_) => Ok(()),
            Reply::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn inodes(&mut self) -> Vec<u64> {
        let mut all = Vec::new();
        for domain in 0..self.doorsteps.len() {
            match self.call(domain, Call::List { from: 0, max: usize::MAX }) {
                Reply::List(inodes) => all.extend(inodes.iter().map(|inode| inode.id)),
                other => panic!("{other:?}"),
            }
        }
        all.sort_unstable();
        all
    }

    pub(super) fn status(&mut self, domain: usize) -> DomainStatus {
        match self.call(domain, Call::Status) {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Every block has one owner, as soon as groups that go from domain to domain have come.
    pub(super) fn audit(&mut self) -> Audit {
        let until = self.sim.now_ns() + 1_000_000_000;
        loop {
            let audits = self.audits();
            let is_settled = |audit: &Audit| (audit.on_the_way, audit.promised) == (0, 0);
            if audits.iter().all(is_settled) {
                return audits[0];
            }
            assert!(self.sim.now_ns() < until, "{audits:?}");
            let now = self.sim.now_ns();
            self.sim.run_until(now + 10_000_000, |_| false);
        }
    }

    fn audits(&mut self) -> Vec<Audit> {
        let domains = 0..self.doorsteps.len();
        let audit = |domain| match self.call(domain, Call::Audit) {
            Reply::Audit(audit) => audit,
            other => panic!("{other:?}"),
        };
        domains.map(audit).collect()
    }

    pub(super) fn close(&mut self) -> Vec<Reply> {
        (0..self.doorsteps.len()).map(|domain| self.call(domain, Call::Close)).collect()
    }
}
