//! Answers whoever connects.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::control::protocol::{
    Answer, REQUEST_BYTES_MAX, Refusal, RefusalKind, RemoveRequest, Request, read_request,
    write_answer,
};
use crate::engine::control::snapshot::Snapshot;
use crate::engine::storage_engine::{EngineError, OpenPool, Overwrite, StorageEngine};
use crate::machine::owner_socket::{OwnerSocket, OwnerSocketError};
use crate::store::error::StoreError;

/// Who may be connected at once.
const CONNECTIONS_MAX: usize = 8;
/// How long a connection may be silent.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// How long a request may take from its first byte to its last.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long the engine may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long the other side may take to take an answer.
const WRITE_TIME: Duration = Duration::from_secs(5);
/// How long to wait when the system has no descriptor or thread to give.
const SCARCE: Duration = Duration::from_millis(100);

/// One connection: its stream, to end it, and its thread.
struct Connection {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

/// What the threads of a server share.
struct Shared {
    socket: OwnerSocket,
    /// Dropped with the engine, which a server does not keep open.
    engine: Weak<OpenPool>,
    /// None when the server is being ended.
    connections: Mutex<Option<Vec<Connection>>>,
}

/// A socket that is served; dropped, no longer.
pub(crate) struct ControlServer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// Threads of a server that is served no longer. What they ask of the engine is answered, or
/// refused when that closes.
pub(crate) struct Leaving(Vec<JoinHandle<()>>);

impl Leaving {
    /// Waits for them until then; those that go on, as with a disk that does not answer, are left
    /// to end by themselves.
    pub(crate) fn wait_until(self, until: Instant) {
        let mut left = self.0;
        loop {
            let (ended, going): (Vec<_>, Vec<_>) =
                left.into_iter().partition(JoinHandle::is_finished);
            ended.into_iter().for_each(|thread| drop(thread.join()));
            if going.is_empty() || Instant::now() >= until {
                return;
            }
            left = going;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl ControlServer {
    /// Begins to serve.
    pub(crate) fn start(
        engine: &Arc<OpenPool>,
        path: &Path,
    ) -> Result<ControlServer, OwnerSocketError> {
        let socket = OwnerSocket::bind(path)?;
        let connections = Mutex::new(Some(Vec::new()));
        let shared = Arc::new(Shared { socket, engine: Arc::downgrade(engine), connections });
        let serving = Arc::clone(&shared);
        let named = std::thread::Builder::new().name("dynamicfs-ctl".to_owned());
        let thread = named.spawn(move || serving.serve()).map_err(|reason| {
            let path = path.to_owned();
            OwnerSocketError::System { doing: "start a thread for", path, reason }
        })?;
        Ok(ControlServer { shared, thread })
    }

    /// Serves no longer: nobody can connect, and who is connected hears nothing more.
    pub(crate) fn end(self) -> Leaving {
        let ControlServer { shared, thread } = self;
        shared.socket.shut();
        let mut connections = shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = connections.take().unwrap_or_default();
        drop(connections);
        for connection in &ended {
            // It fails where the other side has gone.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        let threads = ended.into_iter().map(|connection| connection.thread);
        Leaving(threads.chain([thread]).collect())
    }

    /// The socket.
    pub(crate) fn path(&self) -> PathBuf {
        self.shared.socket.path().to_owned()
    }
}

impl Shared {
    fn serve(self: Arc<Shared>) {
        loop {
            let stream = match self.socket.accept() {
                Ok(stream) => stream,
                Err(_) if self.has_ended() => return,
                // Out of descriptors, or a connection that was given up meanwhile.
                Err(_) => {
                    std::thread::sleep(SCARCE);
                    continue;
                }
            };
            if !self.take_in(stream) {
                return;
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Gives a connection its thread; false when the server is being ended.
    fn take_in(self: &Arc<Shared>, stream: UnixStream) -> bool {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(connections) = connections.as_mut() else { return false };
        connections.retain(|connection| !connection.thread.is_finished());
        if connections.len() >= CONNECTIONS_MAX {
            let message = format!("{CONNECTIONS_MAX} are connected already; try again later");
            refuse(stream, Refusal::new(RefusalKind::Busy, message));
            return true;
        }
        let Ok(kept) = stream.try_clone() else { return true };
        let shared = Arc::clone(self);
        let named = std::thread::Builder::new().name("dynamicfs-ctl".to_owned());
        if let Ok(thread) = named.spawn(move || shared.converse(stream)) {
            connections.push(Connection { stream: kept, thread });
        }
        true
    }

    /// One request after another, until the other side goes or says what cannot be understood.
    fn converse(&self, mut stream: UnixStream) {
        if stream.set_write_timeout(Some(WRITE_TIME)).is_ok() {
            self.answer_all(&mut stream);
        }
        // The server has it too, until it takes in another: the other side is to know now.
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn answer_all(&self, stream: &mut UnixStream) {
        let mut lines = Lines::default();
        loop {
            let (answer, goes_on) = match lines.next(stream) {
                Ok(Some(line)) => (self.answer(&line), true),
                Ok(None) => return,
                Err(refusal) => (Err(refusal), false),
            };
            let written = stream.write_all(&write_answer(answer));
            if written.is_err() || !goes_on {
                return;
            }
        }
    }

    fn answer(&self, line: &[u8]) -> Result<Answer, Refusal> {
        let request = read_request(line)?;
        let closing = || Refusal::new(RefusalKind::Closing, "the engine is being closed");
        let open = self.engine.upgrade().ok_or_else(closing)?;
        if self.has_ended() {
            return Err(closing());
        }
        carry_out(&StorageEngine::guest(open), &request)
    }
}

fn carry_out(engine: &StorageEngine, request: &Request) -> Result<Answer, Refusal> {
    let until = Instant::now() + ANSWER_TIME;
    let failed = |error: StoreError| {
        let kind = match error {
            StoreError::Closing => RefusalKind::Closing,
            _ => RefusalKind::Failed,
        };
        Refusal::new(kind, error.to_string())
    };
    match request {
        Request::Status => {
            let snapshot = Snapshot::take(engine, until).map_err(failed)?;
            Ok(Answer::Status(Box::new(snapshot)))
        }
        Request::Scrub(wish) => {
            let domains = engine.pool_report().domains;
            let Some(order) = wish.order(domains.into()) else {
                let message = "mib_per_second and coalesce are for `start` alone, and no rate is 0";
                return Err(Refusal::new(RefusalKind::BadRequest, message));
            };
            let silent = |_| {
                let message =
                    "a domain does not answer: a disk hangs, or the machine is overloaded";
                Refusal::new(RefusalKind::Failed, message)
            };
            let reports = engine.scrub_ticket(order).wait_until(until).map_err(silent)?;
            Ok(Answer::Scrub(reports.map_err(failed)?))
        }
        Request::Attach(wish) => {
            let overwrite = may_come(std::slice::from_ref(&wish.path), wish.overwrite)?;
            let attached = engine.attach_disk(&wish.path, wish.place, overwrite);
            Ok(Answer::Attached(attached.map_err(did_not_come)?))
        }
        Request::Add(wish) => {
            let overwrite = may_come(&wish.paths, wish.overwrite)?;
            let added = engine.add_disks(&wish.paths, overwrite);
            Ok(Answer::Added(added.map_err(did_not_come)?))
        }
        Request::Grow => Ok(Answer::Grown(engine.grow().map_err(did_not_come)?)),
        Request::Remove(RemoveRequest { slot, keep: false }) => {
            Ok(Answer::Removed(engine.remove_slot(*slot).map_err(did_not_come)?))
        }
        Request::Remove(RemoveRequest { slot, keep: true }) => {
            engine.keep_slot(*slot).map_err(did_not_come)?;
            Ok(Answer::Done)
        }
        Request::Sync(wish) => {
            engine.sync_order(wish.paused, wish.mib_per_second);
            Ok(Answer::Done)
        }
    }
}

fn did_not_come(error: EngineError) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string())
}

/// Refuses paths that mean something else to the engine.
fn may_come(paths: &[PathBuf], overwrite: bool) -> Result<Overwrite, Refusal> {
    if paths.iter().any(|path| !path.is_absolute()) {
        let message = "a disk's path has to be absolute: the engine has another folder";
        return Err(Refusal::new(RefusalKind::BadRequest, message));
    }
    Ok(if overwrite { Overwrite::Yes } else { Overwrite::No })
}

fn refuse(mut stream: UnixStream, refusal: Refusal) {
    // A line fits into the socket's buffer; whoever does not read it is not waited for.
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(&write_answer(Err(refusal)));
}

/// Lines of a stream, none longer and none slower than allowed.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// The next line without its end; none when the other side has gone, or was silent for long.
    fn next(&mut self, stream: &mut UnixStream) -> Result<Option<Vec<u8>>, Refusal> {
        let mut until = (!self.bytes.is_empty()).then(|| Instant::now() + REQUEST_TIME);
        let mut searched = 0;
        loop {
            if let Some(end) = self.bytes[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.bytes, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.bytes.len();
            if searched >= REQUEST_BYTES_MAX {
                let message = format!("the request is longer than {REQUEST_BYTES_MAX} bytes");
                return Err(Refusal::new(RefusalKind::BadRequest, message));
            }
            let left = match until {
                None => SILENT_MAX,
                Some(until) => until.saturating_duration_since(Instant::now()),
            };
            let slow = || {
                let message = format!("the request did not come within {REQUEST_TIME:?}");
                Err(Refusal::new(RefusalKind::BadRequest, message))
            };
            if left.is_zero() {
                return slow();
            }
            if stream.set_read_timeout(Some(left)).is_err() {
                return Ok(None);
            }
            let mut piece = [0; 4096];
            let room = piece.len().min(REQUEST_BYTES_MAX - searched);
            match stream.read(&mut piece[..room]) {
                Ok(0) => return Ok(None),
                Ok(read) => self.bytes.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if until.is_none() => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return slow(),
                Err(_) => return Ok(None),
            }
            until = until.or(Some(Instant::now() + REQUEST_TIME));
        }
    }
}
