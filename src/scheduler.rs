//! One lane's scheduler: five classes, strict order, reserved slots, a bound on starvation.
//!
//! It is a state machine without clock, thread or device. Requests wait here, where they can be
//! overtaken, and not in the device, where they cannot:
//!
//! - **Strict order.** A free slot goes to the first class, highest first, that has work and is
//!   below its ceiling. Inside a class, first come, first served.
//! - **Descending ceilings.** Class `k` may start only while fewer than `ceilings[k]` slots are
//!   active, so that a full device always has slots that only higher classes may take. When a
//!   class is held back by the device being full, no lower class passes it.
//! - **Caps.** Writes, Background and device commands have own bounds beside. `Background` falls
//!   to a small one, in requests and in bytes, while any higher class is at the device, or arrived
//!   or ended a moment ago: what is at the device cannot be overtaken.
//! - **Ageing.** The head of a class that waited longer than `max_wait` is due. At most one in
//!   `aged_every` dispatches is a due one, earliest deadline first, and it may use any slot, also
//!   those reserved for `Critical`: were it held to a ceiling, a saturating higher class would
//!   starve it for ever. While its turn has come and it does not fit, nothing else starts.
//!   So from the moment that a request is due, a number of dispatches bounds its wait, however
//!   saturated the classes above it are: [`limits::Limits::dispatches_until_served`].
//!
//! Nothing here happens on a timer: it is asked at every arrival and completion.

pub mod limits;
pub(crate) mod queue;

use crate::io::op::{CLASSES, OpKind, Priority};
use crate::io::op_table::OpTable;
use crate::scheduler::limits::Limits;
use crate::scheduler::queue::Fifo;

/// What [`LaneScheduler::next`] chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The operation; it left its queue unless `piece` says otherwise.
    pub(crate) slot: u32,
    /// Chosen because it was due.
    pub(crate) aged: bool,
    /// Only this many bytes of it start now; it stays at the head of its queue while more of it
    /// is left.
    pub(crate) piece: Option<u64>,
}

/// Why the head of a class cannot start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// The class's own cap: lower classes may go.
    OwnCap,
    /// The device is full for this class, so for all below it.
    Full,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct LaneScheduler {
    limits: Limits,
    queues: [Fifo; CLASSES],
    /// Bit `k` is set when class `k` has work queued.
    waiting: u8,
    active_slots: u32,
    active_bytes: u64,
    /// Of `active_bytes`, those of `Background`.
    background_bytes: u64,
    active_by_class: [u32; CLASSES],
    active_commands: u32,
    since_aged: u32,
    /// When a class above `Background` last arrived or ended, nanoseconds.
    foreground_ns: u64,
    /// No head is due before this: the earliest deadline seen, or an earlier one.
    due_ns: u64,
    /// Transfers up to this are one slot and one piece.
    small_bytes: u64,
}

impl LaneScheduler {
    pub(crate) fn new(limits: Limits) -> LaneScheduler {
        LaneScheduler {
            small_bytes: limits.slot_bytes.min(limits.split_bytes),
            due_ns: u64::MAX,
            limits,
            queues: [Fifo::default(); CLASSES],
            waiting: 0,
            active_slots: 0,
            active_bytes: 0,
            background_bytes: 0,
            active_by_class: [0; CLASSES],
            active_commands: 0,
            since_aged: 0,
            foreground_ns: 0,
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Requests waiting, all classes.
    pub(crate) fn queued(&self) -> u32 {
        self.queues.iter().map(|queue| queue.len).sum()
    }

    /// Requests waiting in one class.
    pub(crate) fn queued_in(&self, class: Priority) -> u32 {
        self.queues[class.index()].len
    }

    #[inline(always)]
    pub(crate) fn has_queued(&self) -> bool {
        self.waiting != 0
    }

    /// Slots counted against the depth target.
    #[cfg(test)]
    pub(crate) fn active_slots(&self) -> u32 {
        self.active_slots
    }

    /// Operations at the device, as slots, of one class.
    #[cfg(test)]
    pub(crate) fn active_in(&self, class: Priority) -> u32 {
        self.active_by_class[class.index()]
    }

    /// Takes an accepted operation in.
    #[inline]
    pub(crate) fn enqueue(&mut self, ops: &mut OpTable, slot: u32) {
        let (class, queued_ns) = (ops.op(slot).class, ops.op(slot).queued_ns);
        if class != Priority::Background {
            // Not backwards: a request from another lane arrived there, earlier.
            self.foreground_ns = self.foreground_ns.max(queued_ns);
        }
        let deadline = queued_ns.saturating_add(self.limits.max_wait_ns[class.index()]);
        self.due_ns = self.due_ns.min(deadline);
        self.queues[class.index()].push(ops, slot);
        self.waiting |= 1 << class.index();
    }

    /// Whether a transfer that has just arrived goes to the device without waiting; counts it as
    /// active if so. What [`LaneScheduler::enqueue`] and [`LaneScheduler::next`] would do when
    /// nothing waits, in fewer steps.
    #[inline(always)]
    pub(crate) fn start_at_once(&mut self, class: Priority, bytes: u64, now: u64) -> bool {
        if self.waiting != 0
            || bytes > self.small_bytes
            || class == Priority::Background
            || !self.has_room(class.index(), bytes)
        {
            return false;
        }
        self.foreground_ns = now;
        self.count_small(class.index(), bytes);
        true
    }

    /// The next operation to hand to the device, if one may start now.
    #[inline]
    pub(crate) fn next(&mut self, ops: &mut OpTable, now: u64) -> Option<Choice> {
        if self.waiting == 0 {
            return None;
        }
        if now > self.due_ns
            && self.since_aged >= self.limits.aged_every
            && let Some(class) = self.due(ops, now)
        {
            return self.start_aged(ops, class);
        }
        let mut classes = self.waiting;
        while classes != 0 {
            let class = classes.trailing_zeros() as usize;
            classes &= classes - 1;
            if let Some(slot) = self.start_small(ops, class) {
                return Some(Choice { slot, aged: false, piece: None });
            }
            match self.obstacle(ops, class, now) {
                None => return Some(self.start(ops, class)),
                Some(Obstacle::OwnCap) => {}
                Some(Obstacle::Full) => return None,
            }
        }
        None
    }

    /// The plain case of a choice in one pass: a transfer of one slot and one piece, of a class
    /// whose cap does not change with time. None in every other case, and then nothing changed.
    #[inline(always)]
    fn start_small(&mut self, ops: &OpTable, class: usize) -> Option<u32> {
        let slot = self.queues[class].head()?;
        let op = ops.op(slot);
        let bytes = op.len;
        if class == Priority::Background.index()
            || bytes > self.small_bytes
            || !op.kind.moves_data()
            || !self.has_room(class, bytes)
        {
            return None;
        }
        self.queues[class].advance(op.next);
        if self.queues[class].len == 0 {
            self.waiting &= !(1 << class);
        }
        self.count_small(class, bytes);
        Some(slot)
    }

    #[inline(always)]
    fn has_room(&self, class: usize, bytes: u64) -> bool {
        self.active_slots < self.limits.ceilings[class]
            && self.active_by_class[class] < self.limits.caps[class]
            && self.active_bytes + bytes <= self.limits.active_bytes_max
    }

    #[inline(always)]
    fn count_small(&mut self, class: usize, bytes: u64) {
        self.since_aged = self.since_aged.saturating_add(1);
        self.active_slots += 1;
        self.active_bytes += bytes;
        self.active_by_class[class] += 1;
    }

    /// Class of the due head with the earliest deadline.
    #[cold]
    fn due(&mut self, ops: &OpTable, now: u64) -> Option<usize> {
        let mut earliest: Option<(u64, usize)> = None;
        for class in 0..CLASSES {
            let Some(head) = self.queues[class].head() else { continue };
            let deadline = ops.op(head).queued_ns.saturating_add(self.limits.max_wait_ns[class]);
            if earliest.is_none_or(|(other, _)| deadline < other) {
                earliest = Some((deadline, class));
            }
        }
        self.due_ns = earliest.map_or(u64::MAX, |(deadline, _)| deadline);
        earliest.filter(|(deadline, _)| *deadline < now).map(|(_, class)| class)
    }

    /// A due head may use every slot; if even those do not suffice, all wait for it.
    fn start_aged(&mut self, ops: &mut OpTable, class: usize) -> Option<Choice> {
        let head = self.queues[class].head()?;
        let (slots, _) = self.cost(ops, head);
        let fits = self.active_slots + slots <= self.limits.depth || self.active_slots == 0;
        if !fits || self.commands_full(ops, head) {
            return None;
        }
        self.since_aged = 0;
        let mut choice = self.take_head(ops, class);
        choice.aged = true;
        Some(choice)
    }

    #[inline]
    fn start(&mut self, ops: &mut OpTable, class: usize) -> Choice {
        self.since_aged = self.since_aged.saturating_add(1);
        self.take_head(ops, class)
    }

    /// Takes the head of a class, or a piece of it, and counts it as active.
    #[inline(always)]
    fn take_head(&mut self, ops: &mut OpTable, class: usize) -> Choice {
        let slot = self.queues[class].head().unwrap_or_else(|| unreachable!("the class has work"));
        let (slots, bytes) = self.cost(ops, slot);
        let op = ops.op(slot);
        let (left, kind) = (op.len - op.issued, op.kind);
        let piece = (kind.is_plain() && (bytes < left || op.issued > 0)).then_some(bytes);
        if piece.is_none() || bytes == left {
            self.queues[class].pop(ops);
            if self.queues[class].len == 0 {
                self.waiting &= !(1 << class);
            }
        }
        self.active_slots += slots;
        self.active_bytes += bytes;
        if class == Priority::Background.index() {
            self.background_bytes += bytes;
        }
        self.active_by_class[class] += slots;
        self.active_commands += u32::from(!kind.moves_data());
        Choice { slot, aged: false, piece }
    }

    /// Slots and bytes that the head would take now.
    #[inline(always)]
    fn cost(&self, ops: &mut OpTable, slot: u32) -> (u32, u64) {
        let op = ops.op(slot);
        if !op.kind.moves_data() {
            return (1, 0);
        }
        let mut bytes = op.len - op.issued;
        if bytes > self.limits.split_bytes && op.class >= Priority::Write && op.kind.is_plain() {
            bytes = self.piece_bytes(ops, slot);
        }
        (self.slots_of(bytes), bytes)
    }

    /// Slots of a transfer of `bytes`.
    #[inline]
    pub(crate) fn slots_of(&self, bytes: u64) -> u32 {
        let quantum = self.limits.slot_bytes;
        if bytes <= quantum { 1 } else { bytes.div_ceil(quantum).min(u64::from(u32::MAX)) as u32 }
    }

    /// Length of the next piece of a large operation: `split_bytes`, or for a vectored one as many
    /// whole vectors as fit (at least one).
    #[cold]
    fn piece_bytes(&self, ops: &mut OpTable, slot: u32) -> u64 {
        let first = ops.op(slot).vectors.0;
        let Some(lengths) = ops.vector_lengths(slot, first) else {
            return self.limits.split_bytes;
        };
        let mut bytes = 0;
        for length in lengths {
            if bytes > 0 && bytes + length > self.limits.split_bytes {
                break;
            }
            bytes += length;
        }
        bytes
    }

    #[inline]
    fn commands_full(&self, ops: &OpTable, slot: u32) -> bool {
        self.active_commands >= self.limits.commands_active_max && !ops.op(slot).kind.moves_data()
    }

    #[inline(always)]
    fn obstacle(&self, ops: &mut OpTable, class: usize, now: u64) -> Option<Obstacle> {
        let slot = self.queues[class].head()?;
        let (slots, bytes) = self.cost(ops, slot);
        let idle = self.active_slots == 0;
        if !idle
            && (self.active_slots + slots > self.limits.ceilings[class]
                || self.active_bytes + bytes > self.limits.active_bytes_max)
        {
            return Some(Obstacle::Full);
        }
        let own = self.active_by_class[class];
        let beside = class == Priority::Background.index() && self.foreground_busy(now);
        let cap = if beside {
            self.limits.background_busy_max.min(self.limits.caps[class])
        } else {
            self.limits.caps[class]
        };
        let heavy = beside
            && self.background_bytes > 0
            && self.background_bytes + bytes > self.limits.background_busy_bytes;
        if (own > 0 && own + slots > cap) || heavy || self.commands_full(ops, slot) {
            return Some(Obstacle::OwnCap);
        }
        None
    }

    /// Whether a class above `Background` is at the device, or was a moment ago.
    #[inline]
    fn foreground_busy(&self, now: u64) -> bool {
        let background = self.active_by_class[Priority::Background.index()];
        let quiet = self.foreground_ns.saturating_add(self.limits.background_idle_ns);
        self.active_slots > background || now < quiet
    }

    /// Counts an operation (or piece) of `bytes` as no longer at the device.
    #[inline]
    pub(crate) fn ended(&mut self, class: Priority, kind: OpKind, bytes: u64, now: u64) {
        if class != Priority::Background {
            self.foreground_ns = now;
        }
        self.uncount(class, kind, bytes);
    }

    #[inline(always)]
    fn uncount(&mut self, class: Priority, kind: OpKind, bytes: u64) {
        let (slots, bytes) = if kind.moves_data() { (self.slots_of(bytes), bytes) } else { (1, 0) };
        self.active_slots -= slots;
        self.active_bytes -= bytes;
        if class == Priority::Background {
            self.background_bytes -= bytes;
        }
        self.active_by_class[class.index()] -= slots;
        self.active_commands -= u32::from(!kind.moves_data());
    }

    /// Undoes a choice that could not be carried out for lack of room in the table.
    pub(crate) fn put_back(&mut self, ops: &mut OpTable, choice: Choice) {
        let op = ops.op(choice.slot);
        let (class, kind, left) = (op.class, op.kind, op.len - op.issued);
        let bytes = choice.piece.unwrap_or(left);
        if choice.piece.is_none_or(|piece| piece == left) {
            self.queues[class.index()].push_front(ops, choice.slot);
            self.waiting |= 1 << class.index();
        }
        // It was no dispatch: a due head keeps its turn, and another is not nearer to one.
        self.since_aged =
            if choice.aged { self.limits.aged_every } else { self.since_aged.saturating_sub(1) };
        self.uncount(class, kind, bytes);
    }

    /// Takes a whole waiting operation out for another lane, highest class first; `may_move` says
    /// whether a head may go.
    pub(crate) fn give_away(
        &mut self,
        ops: &mut OpTable,
        may_move: impl Fn(&OpTable, u32) -> bool,
    ) -> Option<u32> {
        for class in 0..CLASSES {
            let Some(head) = self.queues[class].head() else { continue };
            if ops.op(head).issued == 0 && may_move(ops, head) {
                self.queues[class].pop(ops);
                if self.queues[class].len == 0 {
                    self.waiting &= !(1 << class);
                }
                return Some(head);
            }
        }
        None
    }

    /// Takes a partly issued operation out. Only the head of a class is ever issued in part.
    pub(crate) fn withdraw_head(&mut self, ops: &mut OpTable, slot: u32) {
        let class = ops.op(slot).class.index();
        assert_eq!(self.queues[class].head(), Some(slot), "a split operation stays at the head");
        self.queues[class].pop(ops);
        if self.queues[class].len == 0 {
            self.waiting &= !(1 << class);
        }
    }

    /// Takes every waiting operation out; those with pieces at the device are named too.
    pub(crate) fn take_all(&mut self, ops: &mut OpTable) -> Vec<u32> {
        let mut taken = Vec::new();
        for queue in &mut self.queues {
            while let Some(slot) = queue.pop(ops) {
                taken.push(slot);
            }
        }
        self.waiting = 0;
        taken
    }

    /// Whether an operation of these classes is at the device: then the reactor does not trade
    /// latency for larger batches.
    #[inline]
    pub(crate) fn urgent_active(&self) -> bool {
        self.active_by_class[Priority::Critical.index()] > 0
            || self.active_by_class[Priority::HighRead.index()] > 0
    }
}

#[cfg(test)]
mod tests;
