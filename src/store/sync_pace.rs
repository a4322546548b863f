//! How fast a domain reads what it brings elsewhere, as long as somebody may say otherwise.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use crate::store::domain::Domain;

/// How long it sleeps at most without looking whether it is to go on.
const LOOK_AGAIN_NS: u64 = 50_000_000;

/// See the module; the orders are those of the pool
/// ([`SyncOrders`](crate::store::member::SyncOrders)).
#[derive(Debug, Default)]
pub(crate) struct SyncPace {
    /// Not before then may more be read.
    due_ns: Cell<u64>,
}

impl SyncPace {
    /// Waits as long as it is to pause, and until as much may be read as was.
    pub(crate) async fn slow_down(&self, domain: &Domain, goes_on: impl Fn() -> bool) {
        let (port, orders) = (&domain.port, &domain.members.disks().sync);
        loop {
            let (now, paused) = (port.now_ns(), orders.paused.load(Ordering::Relaxed));
            let is_due = self.due_ns.get() <= now && !paused;
            if is_due || !goes_on() {
                return;
            }
            let due = if paused { u64::MAX } else { self.due_ns.get() };
            // An order is followed soon.
            port.sleep_until(due.min(now + LOOK_AGAIN_NS)).await;
        }
    }

    /// So many bytes were read.
    pub(crate) fn has_read(&self, domain: &Domain, bytes: u64) {
        let rate = domain.members.disks().sync.bytes_per_second.load(Ordering::Relaxed);
        let took_ns = match rate {
            0 => 0,
            rate => u128::from(bytes) * 1_000_000_000 / u128::from(rate),
        };
        let from = self.due_ns.get().max(domain.port.now_ns());
        self.due_ns.set(from.saturating_add(took_ns as u64));
    }
}
