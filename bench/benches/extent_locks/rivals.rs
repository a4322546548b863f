//! What one would otherwise use, each in its best light.
//!
//! - A map in 256 shards from key to a lock of its own. The shard is the key's first byte, which
//!   is random in a random UUID: no second hash. Two locks, parking_lot's and the standard
//!   library's, and two ways to hold an entry: an `Arc`, cloned under the shard's read lock, which
//!   lets a map forget keys; or a leaked `&'static`, which saves the reference count but gives no
//!   memory back, ever. The second is the leaner rival, and no choice for a product.
//! - dashmap with the same 256 shards instead of its four per core. Its guards lock the *shard*:
//!   two keys of a shard exclude each other, and one thread that takes both can wait for itself.
//! - `scc::HashMap`. Its guards lock a *bucket* of keys, with the same reservation.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use dashmap::DashMap;
use dynamicfs_bench::micro::Side;
use foldhash::fast::FixedState;
use uuid::Uuid;

use crate::contender::{Contender, KeyedLocks};

/// Shards of every sharded map here: all values of a byte.
const SHARDS: usize = 256;

const MISSING: &str = "a key that with_keys has put into the map";

/// All rivals, ready for `keys`.
pub(crate) fn all(keys: &[Uuid]) -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(ParkingLotArc::with_keys(keys)),
        Box::new(ParkingLotLeaked::with_keys(keys)),
        Box::new(StdArc::with_keys(keys)),
        Box::new(StdLeaked::with_keys(keys)),
        Box::new(DashMapGuards::with_keys(keys)),
        Box::new(SccGuards::with_keys(keys)),
    ]
}

fn shard_of(key: &Uuid) -> usize {
    usize::from(key.as_bytes()[0])
}

/// The entries of each shard, made by `entry`.
fn shards<E>(keys: &[Uuid], entry: impl Fn() -> E) -> Vec<HashMap<Uuid, E, FixedState>> {
    let mut maps: Vec<_> =
        (0..SHARDS).map(|_| HashMap::with_hasher(FixedState::default())).collect();
    for key in keys {
        maps[shard_of(key)].insert(*key, entry());
    }
    maps
}

type ParkingLotShards<E> = Vec<CachePadded<parking_lot::RwLock<HashMap<Uuid, E, FixedState>>>>;
type StdShards<E> = Vec<CachePadded<std::sync::RwLock<HashMap<Uuid, E, FixedState>>>>;

struct ParkingLotArc {
    shards: ParkingLotShards<Arc<parking_lot::RwLock<()>>>,
}

impl ParkingLotArc {
    fn entry(&self, key: &Uuid) -> Arc<parking_lot::RwLock<()>> {
        Arc::clone(self.shards[shard_of(key)].read().get(key).expect(MISSING))
    }
}

impl KeyedLocks for ParkingLotArc {
    const NAME: &'static str = "parking_lot, Arc";
    const SIDE: Side = Side::Rival;

    fn with_keys(keys: &[Uuid]) -> Self {
        let maps = shards(keys, || Arc::new(parking_lot::RwLock::new(())));
        let padded = |map| CachePadded::new(parking_lot::RwLock::new(map));
        ParkingLotArc { shards: maps.into_iter().map(padded).collect() }
    }

    fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let entry = self.entry(key);
        let _guard = entry.read();
        work()
    }

    fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let entry = self.entry(key);
        let _guard = entry.write();
        work()
    }
}

struct ParkingLotLeaked {
    shards: ParkingLotShards<&'static parking_lot::RwLock<()>>,
}

impl ParkingLotLeaked {
    fn entry(&self, key: &Uuid) -> &'static parking_lot::RwLock<()> {
        self.shards[shard_of(key)].read().get(key).expect(MISSING)
    }
}

impl KeyedLocks for ParkingLotLeaked {
    const NAME: &'static str = "parking_lot, leaked";
    const SIDE: Side = Side::Rival;

    fn with_keys(keys: &[Uuid]) -> Self {
        let maps = shards(keys, || &*Box::leak(Box::new(parking_lot::RwLock::new(()))));
        let padded = |map| CachePadded::new(parking_lot::RwLock::new(map));
        ParkingLotLeaked { shards: maps.into_iter().map(padded).collect() }
    }

    fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.entry(key).read();
        work()
    }

    fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.entry(key).write();
        work()
    }
}

const POISONED: &str = "no thread panics under a lock";

struct StdArc {
    shards: StdShards<Arc<std::sync::RwLock<()>>>,
}

impl StdArc {
    fn entry(&self, key: &Uuid) -> Arc<std::sync::RwLock<()>> {
        Arc::clone(self.shards[shard_of(key)].read().expect(POISONED).get(key).expect(MISSING))
    }
}

impl KeyedLocks for StdArc {
    const NAME: &'static str = "std, Arc";
    const SIDE: Side = Side::Rival;

    fn with_keys(keys: &[Uuid]) -> Self {
        let maps = shards(keys, || Arc::new(std::sync::RwLock::new(())));
        let padded = |map| CachePadded::new(std::sync::RwLock::new(map));
        StdArc { shards: maps.into_iter().map(padded).collect() }
    }

    fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let entry = self.entry(key);
        let _guard = entry.read().expect(POISONED);
        work()
    }

    fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let entry = self.entry(key);
        let _guard = entry.write().expect(POISONED);
        work()
    }
}

struct StdLeaked {
    shards: StdShards<&'static std::sync::RwLock<()>>,
}

impl StdLeaked {
    fn entry(&self, key: &Uuid) -> &'static std::sync::RwLock<()> {
        self.shards[shard_of(key)].read().expect(POISONED).get(key).expect(MISSING)
    }
}

impl KeyedLocks for StdLeaked {
    const NAME: &'static str = "std, leaked";
    const SIDE: Side = Side::Rival;

    fn with_keys(keys: &[Uuid]) -> Self {
        let maps = shards(keys, || &*Box::leak(Box::new(std::sync::RwLock::new(()))));
        let padded = |map| CachePadded::new(std::sync::RwLock::new(map));
        StdLeaked { shards: maps.into_iter().map(padded).collect() }
    }

    fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.entry(key).read().expect(POISONED);
        work()
    }

    fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.entry(key).write().expect(POISONED);
        work()
    }
}

struct DashMapGuards {
    map: DashMap<Uuid, (), FixedState>,
}

impl KeyedLocks for DashMapGuards {
    const NAME: &'static str = "dashmap, 256 shards";
    const SIDE: Side = Side::Rival;

    fn with_keys(keys: &[Uuid]) -> Self {
        let hasher = FixedState::default();
        let map = DashMap::with_capacity_and_hasher_and_shard_amount(keys.len(), hasher, SHARDS);
        for key in keys {
            map.insert(*key, ());
        }
        DashMapGuards { map }
    }

    fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.map.get(key).expect(MISSING);
        work()
    }

    fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.map.get_mut(key).expect(MISSING);
        work()
    }
}

struct SccGuards {
    map: scc::HashMap<Uuid, (), FixedState>,
}

impl KeyedLocks for SccGuards {
    const NAME: &'static str = "scc";
    const SIDE: Side = Side::Rival;

    fn with_keys(keys: &[Uuid]) -> Self {
        let map = scc::HashMap::with_capacity_and_hasher(keys.len(), FixedState::default());
        for key in keys {
            map.insert_sync(*key, ()).expect("keys are distinct");
        }
        SccGuards { map }
    }

    fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        self.map.read_sync(key, |_, ()| work()).expect(MISSING)
    }

    fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.map.get_sync(key).expect(MISSING);
        work()
    }
}
