//! The way in: from any thread to a disk's reactor, with validation and back-pressure.
//!
//! The engine and the simulator share it, so that what is simulated is what runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use crate::concurrency::call_table::{CallerKey, ServerKey};
use crate::engine::error::SubmitError;
use crate::engine::ticket::Ticket;
use crate::io::backend::DiskFacts;
use crate::io::error::ErrorKind;
use crate::io::op::{InvalidRequest, Priority, Request};
use crate::placement::LaneSlot;
use crate::reactor::lane::{Lane, Peer};
use crate::reactor::shared::{Calls, LaneShared, Parcel, ReactorShared};
use crate::scheduler::limits::Limits;

/// One lane as submitters see it.
pub(crate) struct Route {
    pub(crate) reactor: usize,
    pub(crate) lane: Arc<LaneShared>,
}

/// Where an accepted request goes, and the two halves of its call.
type Accepted<'a> = (&'a Route, CallerKey, ServerKey);

/// See the module.
pub(crate) struct Gate {
    pub(crate) disks: Arc<[DiskFacts]>,
    pub(crate) limits: Vec<Limits>,
    /// Lanes of each disk.
    pub(crate) routes: Vec<Vec<Route>>,
    pub(crate) reactors: Vec<Arc<ReactorShared>>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) closing: AtomicBool,
}

// A refusal gives the request back by value, which is its purpose; boxing it would allocate.
#[allow(clippy::result_large_err)]
impl Gate {
    /// Submits one request. It never blocks.
    ///
    /// # Errors
    /// [`SubmitError`] with the request: full, malformed, closing, or failed.
    #[inline]
    pub(crate) fn submit(&self, request: Request) -> Result<Ticket, SubmitError> {
        let accepted = self.accept(request, None)?;
        self.send(accepted)
    }

    /// As [`Gate::submit`], and when there is no room the waiter is woken once there may be.
    pub(crate) fn submit_or_register(
        &self,
        request: Request,
        waiter: &Waker,
    ) -> Result<Ticket, SubmitError> {
        let accepted = self.accept(request, Some(waiter))?;
        self.send(accepted)
    }

    #[inline]
    fn send(&self, (route, caller, server): Accepted<'_>) -> Result<Ticket, SubmitError> {
        match self.reactors[route.reactor].post(server) {
            Ok(()) => Ok(Ticket::new(Arc::clone(&self.calls), caller)),
            Err(server) => Err(self.recall(route, caller, server)),
        }
    }

    /// Submits requests in order until one is refused, with one hand-over and at most one wake-up
    /// for each run of requests to one reactor. Tickets of the accepted ones are added to
    /// `tickets`.
    ///
    /// # Errors
    /// The first refusal, with its request; the requests after it are still in the iterator.
    pub(crate) fn submit_many(
        &self,
        requests: &mut dyn Iterator<Item = Request>,
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), SubmitError> {
        let mut ahead: Option<Request> = None;
        loop {
            let Some(request) = ahead.take().or_else(|| requests.next()) else { return Ok(()) };
            let (route, caller, first) = self.accept(request, None)?;
            tickets.push(Ticket::new(Arc::clone(&self.calls), caller));
            let mut refusal = None;
            let rest = std::iter::from_fn(|| {
                let request = requests.next()?;
                if !self.same_reactor(&request, route.reactor) {
                    ahead = Some(request);
                    return None;
                }
                match self.accept(request, None) {
                    Ok((_, caller, server)) => {
                        tickets.push(Ticket::new(Arc::clone(&self.calls), caller));
                        Some(server)
                    }
                    Err(error) => {
                        refusal = Some(error);
                        None
                    }
                }
            });
            let shared = &self.reactors[route.reactor];
            let refused = |key| self.fail_closed(route.reactor, key);
            shared.post_many(std::iter::once(first).chain(rest), refused);
            if let Some(error) = refusal {
                return Err(error);
            }
        }
    }

    /// Whether all of a request's disk is on this reactor.
    fn same_reactor(&self, request: &Request, reactor: usize) -> bool {
        let routes = self.routes.get(usize::from(request.disk.0));
        routes.is_some_and(|routes| routes.len() == 1 && routes[0].reactor == reactor)
    }

    /// Checks a request, reserves its place in a queue and a slot for its reply. What is full is
    /// looked at again after the waiter, if there is one, was registered there.
    #[inline]
    fn accept(
        &self,
        mut request: Request,
        waiter: Option<&Waker>,
    ) -> Result<Accepted<'_>, SubmitError> {
        let disk = usize::from(request.disk.0);
        let Some(facts) = self.disks.get(disk) else {
            let disks = self.disks.len();
            let why = InvalidRequest::NoSuchDisk { disk: request.disk.0, disks };
            return Err(SubmitError::Invalid(request, why));
        };
        if let Err(why) = request.check(facts) {
            return Err(SubmitError::Invalid(request, why));
        }
        if self.closing.load(Ordering::Relaxed) {
            return Err(SubmitError::ShuttingDown(request));
        }
        let route = self.route(&request);
        let watermark = self.limits[disk].watermark(request.priority);
        let reserved = route.lane.reserve(watermark)
            || waiter.is_some_and(|waiter| {
                route.lane.wait_for_room(waiter);
                route.lane.reserve(watermark)
            });
        if !reserved {
            return Err(self.refuse_full(route, request));
        }
        let mut opened = self.calls.open(Parcel { request, queued_ns: 0 });
        if let (Err(_), Some(waiter)) = (&opened, waiter) {
            self.calls.wait_for_slot(waiter);
            opened = opened.or_else(|parcel| self.calls.open(parcel));
        }
        match opened {
            Ok((caller, server)) => Ok((route, caller, server)),
            Err(parcel) => {
                route.lane.take_back();
                Err(self.refuse_full(route, parcel.request))
            }
        }
    }

    /// There is no room; or there never will be, because the reactor failed with its queue full.
    #[cold]
    fn refuse_full(&self, route: &Route, request: Request) -> SubmitError {
        if self.reactors[route.reactor].poisoned.load(Ordering::Acquire) {
            return SubmitError::Poisoned(request);
        }
        route.lane.metrics.classes[request.priority.index()].shed.add_shared(1);
        SubmitError::QueueFull(request)
    }

    /// The lane for a request: of several, the one with the fewest waiting.
    #[inline]
    fn route(&self, request: &Request) -> &Route {
        let routes = &self.routes[usize::from(request.disk.0)];
        match routes.as_slice() {
            [only] => only,
            several => several
                .iter()
                .min_by_key(|route| route.lane.waiting.load(Ordering::Relaxed))
                .unwrap_or_else(|| unreachable!("every disk has a lane")),
        }
    }

    /// The reactor has ended: takes the request back out of the call.
    #[cold]
    fn recall(&self, route: &Route, caller: CallerKey, server: ServerKey) -> SubmitError {
        let request = self.calls.take_request(&server).request;
        route.lane.take_back();
        self.calls.cancel(caller, server);
        if self.reactors[route.reactor].poisoned.load(Ordering::Acquire) {
            SubmitError::Poisoned(request)
        } else {
            SubmitError::ShuttingDown(request)
        }
    }

    /// The reactor has ended while a batch was on its way: its tickets say so.
    #[cold]
    fn fail_closed(&self, reactor: usize, key: ServerKey) {
        let request = self.calls.take_request(&key).request;
        // Not `route`: by now another lane of the disk may have fewer waiting than the one whose
        // place was reserved.
        let mut routes = self.routes[usize::from(request.disk.0)].iter();
        if let Some(route) = routes.find(|route| route.reactor == reactor) {
            route.lane.take_back();
        }
        let poisoned = self.reactors[reactor].poisoned.load(Ordering::Acquire);
        let kind = if poisoned { ErrorKind::Poisoned } else { ErrorKind::ShuttingDown };
        let path = self.disks[usize::from(request.disk.0)].path.clone();
        if let Some(waker) = self.calls.complete(key, request.fail(kind, path)) {
            waker.wake();
        }
    }
}

pub(crate) type Lanes = (Vec<Vec<Lane>>, Vec<Vec<Route>>);

/// Lanes by reactor, and routes by disk.
pub(crate) fn make_lanes(
    plan: &[LaneSlot],
    single_class: Option<Priority>,
    disks: &Arc<[DiskFacts]>,
    limits: &[Limits],
    shared: &[Arc<ReactorShared>],
) -> Lanes {
    let mut lanes: Vec<Vec<Lane>> = shared.iter().map(|_| Vec::new()).collect();
    let mut routes: Vec<Vec<Route>> = disks.iter().map(|_| Vec::new()).collect();
    for slot in plan {
        let lane = Arc::new(LaneShared::default());
        routes[slot.disk].push(Route { reactor: slot.reactor, lane: Arc::clone(&lane) });
        let limits = limits[slot.disk].clone();
        let mut lane = Lane::new(disks[slot.disk].clone(), slot.lane, limits, lane);
        if let Some(class) = single_class {
            lane.flatten(class);
        }
        lanes[slot.reactor].push(lane);
    }
    for (slot, lane) in plan.iter().zip(lane_order(plan, shared.len())) {
        let peers = routes[slot.disk].iter().enumerate().filter(|(n, _)| *n as u32 != slot.lane);
        let peers = peers.map(|(number, route)| Peer {
            lane_number: number as u32,
            shared: Arc::clone(&route.lane),
            reactor: Arc::clone(&shared[route.reactor]),
        });
        lanes[slot.reactor][lane].peers = peers.collect();
    }
    (lanes, routes)
}

/// Position of each of the plan's lanes on its reactor.
fn lane_order(plan: &[LaneSlot], reactors: usize) -> Vec<usize> {
    let mut counts = vec![0; reactors];
    let positions = plan.iter().map(|slot| {
        counts[slot.reactor] += 1;
        counts[slot.reactor] - 1
    });
    positions.collect()
}
