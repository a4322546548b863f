//! Every short sequence of operations, and a crash after every step of it.

use crate::sim::for_each_seed;
use crate::store::call::{Call, Durability, Step};
use crate::store::tests::model::{Content, ModelStep, apply, read_all};
use crate::store::tests::world::{Asked, Setup, World, formatted};

/// The alphabet; each letter is of one inode, which exists.
fn letters() -> Vec<Option<ModelStep>> {
    let write = |offset, len, byte| Some(ModelStep::Write { offset, bytes: vec![byte; len] });
    vec![
        // In the record; unaligned; directly; over two extents; shorter; a hole; gone.
        write(0, 4096, 1),
        write(3000, 3000, 2),
        write(0, 40_000, 3),
        write(60_000, 10_000, 4),
        Some(ModelStep::Truncate { size: 5000 }),
        Some(ModelStep::Zero { offset: 4096, len: 70_000 }),
        None,
    ]
}

fn send(world: &mut World, inode: u64, letter: &Option<ModelStep>) -> Asked {
    let step = match letter {
        None => return world.ask(0, Call::Delete { inode }),
        Some(ModelStep::Write { offset, bytes }) => Step::Write(world.payload(*offset, bytes)),
        Some(ModelStep::Zero { offset, len }) => Step::Zero { offset: *offset, len: *len },
        Some(ModelStep::Truncate { size }) => Step::Truncate { size: *size },
    };
    world.ask(0, Call::Change { inode, steps: vec![step], durability: Durability::Committed })
}

/// The states that a sequence goes through; none when the inode is gone.
fn states(sequence: &[usize]) -> Vec<Option<Content>> {
    let letters = letters();
    let mut states = vec![Some(Content::new())];
    for letter in sequence {
        let next = match (states.last().cloned().flatten(), &letters[*letter]) {
            (Some(mut content), Some(step)) => {
                apply(&mut content, std::slice::from_ref(step));
                Some(content)
            }
            _ => None,
        };
        states.push(next);
    }
    states
}

/// Runs a sequence until `steps` steps are over, crashes, opens, and compares. True when the
/// sequence was over before.
fn crash_after(setup: &Setup, sequence: &[usize], steps: u64, seed: u64) -> bool {
    let mut world = World::open(setup, seed, formatted(setup, 1)).unwrap();
    let inode = world.create(0).unwrap();
    let (letters, states) = (letters(), states(sequence));
    let mut done = 0;
    let mut asked: Option<Asked> = None;
    let mut left = steps;
    while left > 0 && (done < sequence.len() || asked.is_some()) {
        match asked.take() {
            None => asked = Some(send(&mut world, inode, &letters[sequence[done]])),
            Some(mut waiting) => {
                if !world.sim.step() {
                    let now = world.sim.now_ns();
                    world.sim.run_until(now + 1_000_000, |_| false);
                }
                left -= 1;
                match world.answer(&mut waiting) {
                    Some(_) => done += 1,
                    None => asked = Some(waiting),
                }
            }
        }
    }
    let over = done == sequence.len() && asked.is_none();
    let disks = world.sim.crash(seed ^ steps);
    let mut world = World::open(setup, seed, disks).unwrap();
    let found = match world.inodes().contains(&inode) {
        true => Some(read_all(&mut world, inode)),
        false => None,
    };
    let allowed = &states[done..(done + 1 + usize::from(asked.is_some())).min(states.len())];
    assert!(
        allowed.contains(&found),
        "{sequence:?} after {steps} steps, {done} of it acknowledged"
    );
    world.audit();
    over
}

fn every_sequence(length: u32, seed: u64) {
    let setup = Setup::default();
    let letters = letters().len();
    for number in 0..letters.pow(length) {
        let digits = (0..length).map(|digit| number / letters.pow(digit) % letters);
        let sequence: Vec<usize> = digits.collect();
        let mut steps = 1;
        while !crash_after(&setup, &sequence, steps, seed) {
            steps += 1;
        }
    }
}

#[test]
fn every_operation_and_every_crash() {
    for_each_seed("every_operation_and_every_crash", 2, |seed| every_sequence(1, seed));
}

/// Takes a minute: part of the full run.
#[test]
#[ignore = "takes a minute; tests/run does it"]
fn every_two_operations_and_every_crash() {
    for_each_seed("every_two_operations_and_every_crash", 1, |seed| every_sequence(2, seed));
}

/// Takes minutes: part of the full run.
#[test]
#[ignore = "takes minutes; tests/run does it"]
fn every_three_operations_and_every_crash() {
    for_each_seed("every_three_operations_and_every_crash", 1, |seed| every_sequence(3, seed));
}
