//! Space that moves from domain to domain, an allocation group at a time.
//!
//! A domain that runs short asks the others, the one with most free blocks first, until one gives
//! it a group of which every block is free. Each step is a commit of the domain that makes it, a
//! [deed](crate::format::deed), and is durable before the next one begins:
//!
//! | who | what it writes | from then on |
//! | --- | --- | --- |
//! | the domain whose own group it is | that it gave it | nobody has it; the other may take it |
//! | the other | that it took it | it allocates from it |
//! | a domain that has another's group | that it took it no more | nobody has it |
//! | the domain whose own it is | to whom it gave it, or that it gave it no more | as above |
//!
//! A crash between two steps leaves a group without an owner, which the next opening gives to
//! whom it was given. Domains are opened one beside the other, and none serves before each has
//! seen that what it took was given to it.
//!
//! **Asking.** Ahead, when less than a group is left, and then of those that keep more than they
//! give away, so that space evens out and does not go round; urgently, when a request waits for
//! it. Who waits itself gives to lower numbers only, so that two that wait do not exchange groups
//! for ever.

mod board;

pub(crate) use self::board::{Board, Deeds, Letter};

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use crate::format::deed::{Deed, GroupId, decode, encode};
use crate::format::page::InodeRecord;
use crate::format::removals::SlotFate;
use crate::reactor::bell::Bell;
use crate::store::batch::Change;
use crate::store::domain::{Domain, Health};
use crate::store::error::{Certainty, StoreError};
use crate::store::member::Disks;
use crate::store::port::{Either, either};
use crate::store::recovery::share;

/// Homes of a page that a deed may make necessary.
const DEED_PROMISE: u64 = 2;
/// How long nobody is asked again after all have said no.
const REST_NS: u64 = 1_000_000;
/// How many times as long as a disk another domain may take to answer: it asks its disks.
const PATIENCE: u64 = 2;
/// How long to wait before looking again whether the other domains have recovered.
const LOOK_AGAIN_NS: u64 = 200_000;

/// What a domain knows of its own asking.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    /// Most blocks that a request waits for; 0: none does.
    wanted: u64,
    /// Times that all others have said no.
    refusals: u64,
    /// Nobody is asked before.
    rest_until_ns: u64,
    /// Whose answer is waited for.
    asked: Option<Asked>,
    /// Who has said no since somebody gave.
    refused: BTreeSet<u16>,
    /// Whoever has less available asks ahead; none: than a group.
    ask_below: Option<u64>,
    /// Groups that were given to it and that it has not taken.
    untaken: Vec<GroupId>,
    /// Taking one failed: the others are left until space is wanted.
    taking_failed: bool,
}

/// Who was asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    whom: u16,
    /// A request waited for it.
    urgent: bool,
    /// Who has not answered until then does not: its reactor has failed, or a disk of it.
    until_ns: u64,
}

enum Next {
    Read(Letter),
    Take(GroupId),
    Ask(u16, Letter),
    /// All have said no.
    Refused,
    End,
}

/// The place of a domain among the others: they are answered for it when this is dropped.
pub(crate) struct Seat {
    disks: Arc<Disks>,
    domain: u16,
}

impl Seat {
    /// The domain's, whom the bell calls.
    pub(crate) fn take(disks: &Arc<Disks>, domain: u16, bell: Bell) -> Seat {
        disks.board.register(domain, bell);
        Seat { disks: Arc::clone(disks), domain }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.disks.board.leave(self.domain);
    }
}

/// Gives, takes and asks until the domain is closed.
pub(crate) async fn transfers(domain: Rc<Domain>) {
    loop {
        let next = domain.changed.until(|| domain.next_transfer());
        let patience = domain.transfers.borrow().asked.map(|asked| asked.until_ns);
        let next = match patience {
            None => next.await,
            Some(until) => match either(next, domain.port.sleep_until(until)).await {
                Either::First(next) => next,
                Either::Second(()) => {
                    domain.transfers.borrow_mut().give_up_waiting();
                    continue;
                }
            },
        };
        match next {
            Next::Read(Letter::Want { from, free, urgent }) => {
                let letter = match domain.give_group(from, free, urgent).await {
                    Some(letter) => letter,
                    None => (from, Letter::Nothing { from: domain.number() }),
                };
                domain.board().send(letter.0, letter.1);
            }
            Next::Read(Letter::Nothing { from }) => {
                let mut transfers = domain.transfers.borrow_mut();
                // Who was asked ahead may say something else when a request waits.
                let asked = transfers.asked.filter(|asked| asked.whom == from);
                if transfers.wanted == 0 || asked.is_some_and(|asked| asked.urgent) {
                    transfers.refused.insert(from);
                }
                transfers.answered_by(Some(from));
            }
            Next::Read(Letter::Given(group)) => {
                domain.transfers.borrow_mut().answered_by(None);
                domain.take_group(group).await;
            }
            Next::Read(Letter::Returned { group, to, from }) => {
                domain.pass_on(group, to, from).await;
            }
            Next::Take(group) => domain.take_group(group).await,
            Next::Ask(whom, letter) => {
                let urgent = matches!(letter, Letter::Want { urgent: true, .. });
                let patience = domain.members.disks().hung_after_ns.saturating_mul(PATIENCE);
                let until_ns = domain.port.now_ns().saturating_add(patience);
                domain.transfers.borrow_mut().asked = Some(Asked { whom, urgent, until_ns });
                domain.board().send(whom, letter);
            }
            Next::Refused => domain.note_refusal(),
            Next::End => {
                domain.board().leave(domain.number());
                return;
            }
        }
    }
}

impl Transfers {
    /// Somebody has answered; none: whoever it was.
    fn answered_by(&mut self, whom: Option<u16>) {
        if whom.is_none() || self.asked.map(|asked| asked.whom) == whom {
            self.asked = None;
        }
    }

    /// Silence is a no. What it gives after all is taken.
    fn give_up_waiting(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.refused.insert(asked.whom);
        }
    }
}

impl Domain {
    fn board(&self) -> &Board {
        &self.members.disks().board
    }

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.journal.borrow().id.domain
    }

    /// Whether another domain has told it something.
    pub(crate) fn has_letters(&self) -> bool {
        self.board().has_mail(self.number())
    }

    /// Blocks that data may have.
    pub(crate) fn available(&self) -> u64 {
        let pages = self.table.borrow().pages.blocks_wanted();
        self.space.borrow().available(pages)
    }

    fn next_transfer(&self) -> Option<Next> {
        let own = self.number();
        if matches!(&*self.health.borrow(), Health::Closed) {
            return Some(Next::End);
        }
        if let Some(letter) = self.board().take(own) {
            return Some(Next::Read(letter));
        }
        if self.check_writable().is_err() {
            return None;
        }
        let available = self.available();
        self.board().say_free(own, available);
        let mut transfers = self.transfers.borrow_mut();
        let urgent = transfers.wanted > available;
        if !urgent {
            transfers.wanted = 0;
        }
        let ahead = transfers.ask_below.unwrap_or_else(|| self.space.borrow().group_blocks_max());
        let wants = urgent || available < ahead;
        if (wants || !transfers.taking_failed)
            && let Some(group) = transfers.untaken.pop()
        {
            return Some(Next::Take(group));
        }
        if transfers.asked.is_some() || !wants {
            return None;
        }
        let passes = |domain| domain != own && !transfers.refused.contains(&domain);
        let Some(whom) = self.board().freest(passes) else { return Some(Next::Refused) };
        let free = self.space.borrow().room();
        Some(Next::Ask(whom, Letter::Want { from: own, free, urgent }))
    }

    fn note_refusal(&self) {
        let available = self.available();
        let mut transfers = self.transfers.borrow_mut();
        transfers.refusals += 1;
        transfers.refused.clear();
        transfers.wanted = 0;
        transfers.rest_until_ns = self.port.now_ns() + REST_NS;
        transfers.ask_below = Some(available / 2);
        drop(transfers);
        self.changed.notify();
    }

    /// Waits until so many blocks are available, or no other domain has a group to give.
    pub(crate) async fn gets_space(&self, blocks: u64) -> bool {
        let refusals = {
            let mut transfers = self.transfers.borrow_mut();
            if self.members.domains() == 1 || self.port.now_ns() < transfers.rest_until_ns {
                return false;
            }
            if transfers.wanted == 0 {
                transfers.refused.clear();
            }
            transfers.wanted = transfers.wanted.max(blocks);
            transfers.refusals
        };
        self.changed.notify();
        let is_decided = || {
            if self.available() >= blocks {
                return Some(true);
            }
            if self.transfers.borrow().refusals != refusals || self.check_writable().is_err() {
                return Some(false);
            }
            // There was enough for a moment, and others took it.
            let mut transfers = self.transfers.borrow_mut();
            if transfers.wanted < blocks {
                transfers.wanted = blocks;
                drop(transfers);
                self.changed.notify();
            }
            None
        };
        self.changed.until(is_decided).await
    }

    /// Has space in slots up to this one, and as much of them as their disks have. It is there,
    /// durably: another domain may be told before this one.
    pub(crate) fn know_slot(&self, slot: u16) {
        let mut space = self.space.borrow_mut();
        let all = (0..=slot).zip(self.members.all().iter());
        for (slot, member) in all.filter(|(_, member)| member.is_there()) {
            if space.add_disk(slot, &share(member)) {
                space.set_fate(slot, member.fate());
            }
            space.grow(slot, member.layout());
        }
    }

    /// Makes a deed durable, or takes one away.
    async fn commit_deed(&self, group: GroupId, deed: Option<Deed>) -> Result<(), StoreError> {
        self.check_writable()?;
        let deletes = if deed.is_none() { vec![group.deed_id()] } else { Vec::new() };
        let inode: Option<InodeRecord> = deed.map(|deed| encode(group, deed));
        // What is kept for pages is enough for this one: a group comes, or one is free.
        self.space.borrow_mut().promise(DEED_PROMISE);
        let change = Change { inode, deletes, promised: DEED_PROMISE, ..Change::default() };
        self.join(change).decided().await.map(|_| ())
    }

    /// Gives a group away, durably; none when there is none to give. Whom to tell, and what.
    async fn give_group(&self, to: u16, free: u64, urgent: bool) -> Option<(u16, Letter)> {
        let (own, available) = (self.number(), self.available());
        self.check_writable().ok()?;
        if self.transfers.borrow().wanted > available && to > own {
            return None;
        }
        let group = {
            let mut space = self.space.borrow_mut();
            let group = space.find_free_group()?;
            let blocks = space.group_blocks(group.slot);
            let keeps_more = space.room() >= free + 2 * blocks;
            if available < blocks + DEED_PROMISE || !urgent && !keeps_more {
                return None;
            }
            space.part_with(group)?;
            group
        };
        let of = group.domain(self.members.domains());
        let deed = (of == own).then_some(Deed::GivenTo(to));
        match self.commit_deed(group, deed).await {
            Ok(()) if of == own => Some((to, Letter::Given(group))),
            Ok(()) => Some((of, Letter::Returned { group, to, from: own })),
            Err(error) => {
                // When it is unknown, only the next opening knows whose it is.
                if error.certainty() == Certainty::Out {
                    self.space.borrow_mut().gain(group);
                }
                None
            }
        }
    }

    /// Takes a group that was given to it.
    async fn take_group(&self, group: GroupId) {
        let from = group.domain(self.members.domains());
        match self.commit_deed(group, Some(Deed::TakenFrom(from))).await {
            Ok(()) => self.has_gained(group),
            Err(error) => {
                if error.certainty() == Certainty::Out {
                    let mut transfers = self.transfers.borrow_mut();
                    transfers.untaken.push(group);
                    transfers.taking_failed = true;
                }
                // Who waits is not to wait for this one: there may be no other.
                self.note_refusal();
            }
        }
    }

    fn has_gained(&self, group: GroupId) {
        self.know_slot(group.slot);
        let gained = self.space.borrow_mut().gain(group);
        assert!(gained.is_some(), "{group} was here, and came");
        let mut transfers = self.transfers.borrow_mut();
        transfers.refused.clear();
        (transfers.ask_below, transfers.taking_failed) = (None, false);
        drop(transfers);
        self.counters.borrow_mut().groups_gained += 1;
        self.changed.notify();
    }

    /// A group of its own came back, and is for whom it was wanted by. What fails leaves it to whom
    /// had it, at the next opening.
    async fn pass_on(&self, group: GroupId, to: u16, from: u16) {
        let own = self.number();
        let deed = (to != own).then_some(Deed::GivenTo(to));
        let committed = self.commit_deed(group, deed).await.is_ok();
        if to == own {
            self.transfers.borrow_mut().answered_by(Some(from));
            match committed {
                true => self.has_gained(group),
                false => self.note_refusal(),
            }
            return;
        }
        let letter = if committed { Letter::Given(group) } else { Letter::Nothing { from } };
        self.board().send(to, letter);
    }

    /// Waits for the other domains to recover, and holds its deeds against theirs.
    ///
    /// # Errors
    /// When it has taken what was not given to it.
    pub(crate) async fn agree_with_others(&self) -> Result<(), String> {
        let domains = self.members.domains();
        if domains == 1 {
            return Ok(());
        }
        let (own, board) = (self.number(), self.board());
        let deeds = |domain: &Domain| -> Deeds {
            domain.table.borrow().deeds().filter_map(|record| decode(record).ok()).collect()
        };
        board.has_recovered(own, deeds(self));
        let all = loop {
            match board.all_deeds() {
                Some(Ok(all)) => break all,
                Some(Err(other)) => {
                    // The pool is not opened, and nothing of it is to be written.
                    self.stop(&format!("domain {other} could not be opened"));
                    return Ok(());
                }
                None => self.port.sleep_until(self.port.now_ns() + LOOK_AGAIN_NS).await,
            }
        };
        for (group, deed) in &all[usize::from(own)] {
            if let Deed::TakenFrom(from) = deed
                && !all[usize::from(*from)].contains(&(*group, Deed::GivenTo(own)))
            {
                return Err(format!(
                    "it has taken {group} from domain {from}, which has not given it to it"
                ));
            }
        }
        let taken: BTreeSet<GroupId> = all[usize::from(own)].iter().map(|(id, _)| *id).collect();
        let others = all.iter().flatten();
        let given = others.filter(|(_, deed)| *deed == Deed::GivenTo(own)).map(|(id, _)| *id);
        let space = self.space.borrow();
        let is_there = |id: &GroupId| space.fate(id.slot) != SlotFate::Gone;
        let untaken = given.filter(|id| !taken.contains(id) && is_there(id)).collect();
        drop(space);
        self.transfers.borrow_mut().untaken = untaken;
        Ok(())
    }
}
