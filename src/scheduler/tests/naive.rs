//! The model: what the text of [`crate::scheduler`] says, the slow way.

use crate::io::op::{OpKind, Priority};
use crate::scheduler::limits::Limits;
use crate::scheduler::tests::Started;

/// A request that has not wholly started.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) class: Priority,
    pub(super) kind: OpKind,
    pub(super) arrived: u64,
    /// Bytes not started.
    pub(super) left: u64,
    /// Lengths of the vectors not started; none for one contiguous buffer.
    pub(super) vectors: Vec<u64>,
    pub(super) begun: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Naive {
    limits: Limits,
    /// In the order of arrival.
    pub(super) waiting: Vec<Waiting>,
    active: Vec<Started>,
    since_aged: u32,
    /// When a class above Background last arrived or ended.
    foreground: u64,
}

impl Naive {
    pub(super) fn new(limits: Limits) -> Naive {
        Naive { limits, waiting: Vec::new(), active: Vec::new(), since_aged: 0, foreground: 0 }
    }

    pub(super) fn arrive(&mut self, request: Waiting, now: u64) {
        self.saw(request.class, now);
        self.waiting.push(request);
    }

    pub(super) fn ended(&mut self, started: Started, now: u64) {
        self.saw(started.class, now);
        let position = self.active.iter().position(|other| *other == started).unwrap();
        self.active.remove(position);
    }

    fn saw(&mut self, class: Priority, now: u64) {
        if class != Priority::Background {
            self.foreground = self.foreground.max(now);
        }
    }

    fn slots(&self, started: &Started) -> u32 {
        (started.bytes.div_ceil(self.limits.slot_bytes) as u32).max(1)
    }

    pub(super) fn active_slots(&self) -> u32 {
        self.active.iter().map(|started| self.slots(started)).sum()
    }

    pub(super) fn active_slots_of(&self, class: Priority) -> u32 {
        let own = self.active.iter().filter(|started| started.class == class);
        own.map(|started| self.slots(started)).sum()
    }

    fn head(&self, class: Priority) -> Option<&Waiting> {
        self.waiting.iter().find(|request| request.class == class)
    }

    /// What would start now if this request did.
    fn portion(&self, request: &Waiting, aged: bool) -> Started {
        let split = self.limits.split_bytes;
        let low = matches!(request.class, Priority::Write | Priority::Background)
            && request.kind.is_plain();
        let bytes = if !request.kind.moves_data() {
            0
        } else if !low || request.left <= split {
            request.left
        } else if request.vectors.is_empty() {
            split
        } else {
            let fits = |count: usize| request.vectors[..count].iter().sum::<u64>() <= split;
            let count = (1..=request.vectors.len()).rev().find(|count| fits(*count)).unwrap_or(1);
            request.vectors[..count].iter().sum()
        };
        Started { id: request.id, class: request.class, kind: request.kind, bytes, aged }
    }

    fn commands_full(&self, portion: &Started) -> bool {
        let commands = self.active.iter().filter(|started| !started.kind.moves_data()).count();
        !portion.kind.moves_data() && commands >= self.limits.commands_active_max as usize
    }

    fn device_is_full_for(&self, portion: &Started) -> bool {
        let slots = self.active_slots() + self.slots(portion);
        let bytes = self.active.iter().map(|started| started.bytes).sum::<u64>() + portion.bytes;
        !self.active.is_empty()
            && (slots > self.limits.ceilings[portion.class.index()]
                || bytes > self.limits.active_bytes_max)
    }

    fn own_cap_reached(&self, portion: &Started, now: u64) -> bool {
        let own = self.active_slots_of(portion.class);
        let background = portion.class == Priority::Background;
        let foreground_active =
            self.active.iter().any(|started| started.class != Priority::Background);
        let a_moment_ago = now < self.foreground.saturating_add(self.limits.background_idle_ns);
        let cap = if background && (foreground_active || a_moment_ago) {
            self.limits.background_busy_max.min(self.limits.caps[portion.class.index()])
        } else {
            self.limits.caps[portion.class.index()]
        };
        let own_bytes: u64 = self
            .active
            .iter()
            .filter(|started| started.class == Priority::Background)
            .map(|started| started.bytes)
            .sum();
        let heavy = background
            && (foreground_active || a_moment_ago)
            && own_bytes > 0
            && own_bytes + portion.bytes > self.limits.background_busy_bytes;
        (own > 0 && own + self.slots(portion) > cap) || heavy || self.commands_full(portion)
    }

    /// Deadline of the head of a class, if it is due.
    fn due(&self, class: Priority, now: u64) -> Option<(u64, Priority)> {
        let deadline = self.head(class)?.arrived + self.limits.max_wait_ns[class.index()];
        (deadline < now).then_some((deadline, class))
    }

    pub(super) fn next(&mut self, now: u64) -> Option<Started> {
        let portion = self.choose(now)?;
        self.since_aged = if portion.aged { 0 } else { self.since_aged + 1 };
        let position = self.waiting.iter().position(|request| request.id == portion.id).unwrap();
        let request = &mut self.waiting[position];
        request.begun = true;
        request.left -= portion.bytes;
        let mut gone = portion.bytes;
        while gone > 0 && !request.vectors.is_empty() {
            gone -= request.vectors.remove(0);
        }
        if request.left == 0 || !request.kind.moves_data() {
            self.waiting.remove(position);
        }
        self.active.push(portion);
        Some(portion)
    }

    fn choose(&self, now: u64) -> Option<Started> {
        let due = Priority::ALL.iter().filter_map(|class| self.due(*class, now)).min();
        if let Some((_, class)) = due
            && self.since_aged >= self.limits.aged_every
        {
            let portion = self.portion(self.head(class)?, true);
            let fits = self.active.is_empty()
                || self.active_slots() + self.slots(&portion) <= self.limits.depth;
            return (fits && !self.commands_full(&portion)).then_some(portion);
        }
        for class in Priority::ALL {
            let Some(head) = self.head(class) else { continue };
            let portion = self.portion(head, false);
            if self.device_is_full_for(&portion) {
                return None;
            }
            if !self.own_cap_reached(&portion, now) {
                return Some(portion);
            }
        }
        None
    }

    /// Takes out the first head that may move and has not begun, highest class first.
    pub(super) fn give_away(&mut self, may_move: impl Fn(u64) -> bool) -> Option<u64> {
        let movable = |request: &&Waiting| !request.begun && may_move(request.id);
        let class =
            Priority::ALL.iter().find(|class| self.head(**class).as_ref().is_some_and(movable))?;
        let id = self.head(*class)?.id;
        self.waiting.retain(|request| request.id != id);
        Some(id)
    }
}
