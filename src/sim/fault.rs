//! What goes wrong: by chance, or by plan.

use std::ops::Range;

use crate::io::error::known_errnos;
use crate::io::op::OpKind;
use crate::sim::random::Random;

/// What happens to one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It completes with this errno. Any part of it may have been done, sector by sector; nothing
    /// if the errno is one that is tried again.
    Errno(i32),
    /// A transfer ends after this many bytes; they need not be whole blocks.
    Short(u64),
    /// A transfer ends at once with zero bytes.
    Zero,
    /// It never completes.
    Hang,
    /// It is reported as done and was not (a lost write; a read sees nothing of it).
    Lost,
    /// A write lands at this offset instead, and is reported as done.
    Misdirect(u64),
    /// It takes this much longer, nanoseconds.
    Slow(u64),
}

/// Chances in a million that an attempt meets a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Any errno of the table.
    pub errno: u32,
    /// A short transfer, on a block or inside one.
    pub short: u32,
    /// A transfer of zero bytes.
    pub zero: u32,
    /// No completion at all.
    pub hang: u32,
    /// A lost write.
    pub lost: u32,
    /// A misdirected write.
    pub misdirected: u32,
}

/// A planned fault: attempts that fit meet it, after the first `skip`, `times` times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRule {
    /// Only attempts of this kind; none: of any.
    pub kind: Option<OpKind>,
    /// Only attempts that touch these bytes; flushes touch all.
    pub range: Range<u64>,
    /// Attempts that fit and are let through first.
    pub skip: u64,
    /// How many attempts meet it.
    pub times: u64,
    /// What they meet.
    pub fault: Fault,
}

impl FaultRule {
    /// Every attempt of `kind` meets `fault`.
    pub fn every(kind: OpKind, fault: Fault) -> FaultRule {
        FaultRule { kind: Some(kind), range: 0..u64::MAX, skip: 0, times: u64::MAX, fault }
    }

    /// The `nth` attempt of `kind` from now, counted from 0, meets `fault`.
    pub fn nth(kind: OpKind, nth: u64, fault: Fault) -> FaultRule {
        FaultRule { skip: nth, times: 1, ..FaultRule::every(kind, fault) }
    }

    /// The same for attempts that touch these bytes.
    #[must_use]
    pub fn at(self, range: Range<u64>) -> FaultRule {
        FaultRule { range, ..self }
    }

    fn fits(&self, kind: OpKind, offset: u64, len: u64) -> bool {
        let touches = kind == OpKind::Flush
            || (offset < self.range.end && self.range.start < offset.saturating_add(len));
        self.times > 0 && self.kind.is_none_or(|wanted| wanted == kind) && touches
    }
}

/// All faults of one disk.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// By chance.
    pub rates: FaultRates,
    /// By plan; the first rule that fits decides.
    pub rules: Vec<FaultRule>,
}

impl Faults {
    /// What the next attempt meets.
    pub(crate) fn decide(
        &mut self,
        kind: OpKind,
        offset: u64,
        len: u64,
        random: &mut Random,
    ) -> Option<Fault> {
        for rule in &mut self.rules {
            if !rule.fits(kind, offset, len) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            return Some(rule.fault);
        }
        self.by_chance(kind, len, random)
    }

    fn by_chance(&self, kind: OpKind, len: u64, random: &mut Random) -> Option<Fault> {
        let rates = &self.rates;
        if random.chance(rates.errno) {
            let errnos: Vec<i32> = known_errnos().collect();
            return Some(Fault::Errno(*random.pick(&errnos)));
        }
        if random.chance(rates.hang) {
            return Some(Fault::Hang);
        }
        if kind.moves_data() && random.chance(rates.short) {
            let bytes = 1 + random.below(len - 1);
            // Half of them end on a sector.
            return Some(Fault::Short(if random.coin() { bytes } else { (bytes & !511).max(1) }));
        }
        if kind.moves_data() && random.chance(rates.zero) {
            return Some(Fault::Zero);
        }
        if kind == OpKind::Write && random.chance(rates.lost) {
            return Some(Fault::Lost);
        }
        if kind == OpKind::Write && random.chance(rates.misdirected) {
            return Some(Fault::Misdirect(random.next_u64()));
        }
        None
    }
}
