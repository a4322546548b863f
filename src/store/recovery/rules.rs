//! What holds of records beside their checksums: the rules of the record format, as recovery keeps
//! them.
//!
//! The rules are written down in [`record`](crate::format::record). A record that verifies and
//! breaks one was written by a bug, or by somebody who can compute checksums: what it leads to
//! cannot be trusted, so nothing is opened.

use std::collections::BTreeSet;

use crate::format::record::{
    Changes, CheckpointBody, INODE_IDS_END, RecordHead, RecordKind, is_inode_id, newest_checkpoint,
};

/// Which rule is broken, and how.
type Broken = Result<(), String>;

fn rule(holds: bool, broken: impl FnOnce() -> String) -> Broken {
    if holds { Ok(()) } else { Err(broken()) }
}

/// What holds of a head by itself.
pub(super) fn judge_head(head: &RecordHead) -> Broken {
    let RecordHead { kind, sequence, position, tail, checkpoint, accepted, .. } = *head;
    let (skipped, length) = (head.skipped, head.length);
    rule(sequence > 0, || "sequences begin with 1".into())?;
    // An open that took the place of an open accepted that one.
    let before = sequence - 1;
    let fits = accepted == before || kind == RecordKind::Open && accepted == sequence;
    rule(fits, || format!("it accepts up to {accepted}, and follows record {before}"))?;
    let newest = newest_checkpoint(head);
    rule(tail <= newest, || {
        format!("its tail is {tail}, behind the newest checkpoint at {newest}")
    })?;
    let first = sequence == 1 && checkpoint == position;
    rule(checkpoint < position || first, || {
        format!("its checkpoint is at {checkpoint}, and it is at {position}")
    })?;
    // What takes the place of a record that is out skips what that had skipped.
    let skips = match kind {
        RecordKind::Open | RecordKind::Abort => true,
        RecordKind::Batch => skipped < length,
        RecordKind::Checkpoint | RecordKind::Seal => skipped == 0,
    };
    rule(skips, || format!("it skips {skipped} bytes, and {length} would have fitted there"))
}

/// What holds of a record and the one before it; that they are neighbours is known.
pub(super) fn judge_pair(before: &RecordHead, after: &RecordHead) -> Broken {
    let same = after.incarnation == before.incarnation;
    rule(same || after.kind == RecordKind::Open, || {
        let (expected, found) = (before.incarnation, after.incarnation);
        format!("its incarnation is {found:#x}, of the record before it {expected:#x}")
    })?;
    rule(after.tail >= before.tail, || {
        format!("its tail is {}, of the record before it {}", after.tail, before.tail)
    })?;
    let newest = newest_checkpoint(before);
    rule(after.checkpoint == newest, || {
        format!("its checkpoint is at {}, the newest before it at {newest}", after.checkpoint)
    })
}

/// What holds of a checkpoint; `before` is the one before it, if that is needed too.
pub(super) fn judge_checkpoint(
    head: &RecordHead,
    body: &CheckpointBody,
    before: Option<&CheckpointBody>,
) -> Broken {
    let CheckpointBody { through, replay_from, next_inode, .. } = *body;
    let (sequence, start) = (head.sequence, head.position - u64::from(head.skipped));
    rule(through < sequence, || format!("it has records up to {through} in its pages"))?;
    rule(replay_from <= start, || format!("it replays from {replay_from}, behind itself"))?;
    rule((1..=INODE_IDS_END).contains(&next_inode), || {
        format!("its next inode is {next_inode}, which is no id")
    })?;
    let Some(before) = before else { return Ok(()) };
    for (what, found, least) in [
        ("through", through, before.through),
        ("replay_from", replay_from, before.replay_from),
        ("next_inode", next_inode, before.next_inode),
    ] {
        rule(found >= least, || format!("{what} is {found}, of the one before it {least}"))?;
    }
    Ok(())
}

/// Replay begins with the record after `through`, where the checkpoint says.
pub(super) fn judge_replay(body: &CheckpointBody, needed: &[RecordHead]) -> Broken {
    let CheckpointBody { through, replay_from, .. } = *body;
    let Some(first) = needed.iter().find(|head| head.sequence > through) else { return Ok(()) };
    let start = first.position - u64::from(first.skipped);
    rule(first.sequence == through + 1 && start == replay_from, || {
        let sequence = first.sequence;
        format!(
            "replay is from position {replay_from} after record {through}, and begins at {start} \
             with record {sequence}"
        )
    })
}

/// What holds of a batch by itself.
pub(super) fn judge_changes(head: &RecordHead, changes: &Changes) -> Broken {
    let sequence = head.sequence;
    let mut inodes = BTreeSet::new();
    for inode in &changes.inodes {
        let (id, generation) = (inode.id, inode.generation);
        rule(generation == sequence, || format!("inode {id} is of generation {generation}"))?;
        rule(inodes.insert(id), || format!("it puts inode {id} twice"))?;
    }
    let mut extents = BTreeSet::new();
    for put in &changes.extents {
        let (inode, index) = (put.inode, put.index);
        rule(inodes.contains(&inode), || {
            format!("it puts extent {index} of inode {inode} without the inode")
        })?;
        rule(is_inode_id(inode), || {
            format!("it puts extent {index} of {inode:#x}, which is no inode")
        })?;
        rule(extents.insert((inode, index)), || {
            format!("it puts extent {index} of inode {inode} twice")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::page::Child;

    const BEFORE: RecordHead = RecordHead {
        kind: RecordKind::Batch,
        sequence: 40,
        incarnation: 7,
        previous: 1,
        position: 80 << 12,
        skipped: 0,
        length: 4096,
        tail: 60 << 12,
        checkpoint: 70 << 12,
        accepted: 39,
        checksum: 2,
    };
    const AFTER: RecordHead = RecordHead {
        sequence: 41,
        previous: 2,
        position: 81 << 12,
        accepted: 40,
        checksum: 3,
        ..BEFORE
    };

    /// Each lie breaks one rule; the rest of the head is right.
    #[test]
    fn every_rule_of_a_head_is_kept() {
        type Lie = (&'static str, fn(&mut RecordHead));
        let lies: [Lie; 8] = [
            ("begin with 1", |head| head.sequence = 0),
            ("accepts up to 39", |head| head.accepted = 39),
            ("accepts up to 41", |head| head.accepted = 41),
            ("accepts up to 42", |head| {
                (head.kind, head.accepted) = (RecordKind::Open, 42);
            }),
            ("its tail is", |head| head.tail = head.checkpoint + 4096),
            ("its checkpoint is at", |head| head.checkpoint = head.position),
            ("it skips", |head| head.skipped = head.length),
            ("it skips", |head| (head.kind, head.skipped) = (RecordKind::Seal, 4096)),
        ];
        for (named, lie) in lies {
            let mut head = AFTER;
            lie(&mut head);
            let broken = judge_head(&head).unwrap_err();
            assert!(broken.contains(named), "{broken}");
        }
        let open =
            |accepted| RecordHead { kind: RecordKind::Open, accepted, skipped: 8192, ..AFTER };
        let checkpoint = RecordHead { kind: RecordKind::Checkpoint, tail: 81 << 12, ..AFTER };
        let first = RecordHead {
            kind: RecordKind::Checkpoint,
            sequence: 1,
            position: 0,
            tail: 0,
            checkpoint: 0,
            accepted: 0,
            ..AFTER
        };
        for head in [BEFORE, AFTER, open(40), open(41), checkpoint, first] {
            assert_eq!(judge_head(&head), Ok(()), "{head:?}");
        }
    }

    #[test]
    fn every_rule_of_neighbours_is_kept() {
        let checkpoint = RecordHead { kind: RecordKind::Checkpoint, ..BEFORE };
        let after = RecordHead { checkpoint: BEFORE.position, ..AFTER };
        let open = RecordHead { kind: RecordKind::Open, incarnation: 8, ..AFTER };
        let risen = RecordHead { tail: 61 << 12, ..AFTER };
        for (before, after) in
            [(BEFORE, AFTER), (checkpoint, after), (BEFORE, open), (BEFORE, risen)]
        {
            assert_eq!(judge_pair(&before, &after), Ok(()), "{after:?}");
        }
        let other = RecordHead { incarnation: 8, ..AFTER };
        let fallen = RecordHead { tail: 59 << 12, ..AFTER };
        let older = RecordHead { checkpoint: 69 << 12, ..AFTER };
        for (named, before, after) in [
            ("incarnation is 0x8", BEFORE, other),
            ("its tail is", BEFORE, fallen),
            ("its checkpoint is at", BEFORE, older),
            ("its checkpoint is at", BEFORE, after),
            ("its checkpoint is at", checkpoint, AFTER),
        ] {
            let broken = judge_pair(&before, &after).unwrap_err();
            assert!(broken.contains(named), "{broken}");
        }
    }

    #[test]
    fn every_rule_of_a_checkpoint_is_kept() {
        let head = RecordHead { kind: RecordKind::Checkpoint, ..AFTER };
        let body = CheckpointBody {
            through: 39,
            replay_from: 80 << 12,
            next_inode: 12,
            pages: 0,
            levels: 0,
            root: Child::NONE,
            lifetime: crate::format::record::Lifetime::default(),
        };
        assert_eq!(judge_checkpoint(&head, &body, Some(&body)), Ok(()));
        assert_eq!(judge_replay(&body, &[BEFORE, AFTER]), Ok(()));
        let lies: [fn(&mut CheckpointBody); 7] = [
            |body| body.through = 41,
            |body| body.through = 38,
            |body| body.replay_from = 82 << 12,
            |body| body.replay_from = 79 << 12,
            |body| body.next_inode = 0,
            |body| body.next_inode = INODE_IDS_END + 1,
            |body| body.next_inode = 11,
        ];
        for (number, lie) in lies.into_iter().enumerate() {
            let mut lying = body;
            lie(&mut lying);
            let broken = judge_checkpoint(&head, &lying, Some(&body));
            assert!(broken.is_err(), "lie {number}");
        }
        for (through, replay_from) in [(38, 80 << 12), (39, 79 << 12), (40, 80 << 12)] {
            let lying = CheckpointBody { through, replay_from, ..body };
            assert!(judge_replay(&lying, &[BEFORE, AFTER]).is_err(), "{through}");
        }
    }
}
