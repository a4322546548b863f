//! What is said over the control socket: one line of JSON each way, at most so long.
//!
//! A request is `{"version":1,"request":"status"}` or, with arguments,
//! `{"version":1,"request":{"scrub":{"order":"start","mib_per_second":100}}}`; an answer is
//! `{"version":1,"answer":{..}}` or `{"version":1,"error":{"kind":"..","message":".."}}`. A
//! connection may carry any number of requests, one after another. What is not known is refused,
//! never passed over; in answers, fields may be added without a new version.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::control::snapshot::Snapshot;
use crate::engine::storage_engine::{DiskPlace, GrownSlot, MirrorReport, SlotRemoval};
use crate::store::scrub::{ScrubOrder, ScrubReport};

/// Version of the protocol.
pub const VERSION: u32 = 1;
/// Bytes of a request at most, its end of line included.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Bytes of an answer at most: some kilobytes for each disk of a pool.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What is asked of a running engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Everything that is known of it, and its counters.
    Status,
    /// Its scrub is told something, and reports.
    Scrub(ScrubRequest),
    /// How disks are brought into sync from here on.
    Sync(SyncRequest),
    /// A disk comes.
    Attach(AttachRequest),
    /// A slot comes.
    Add(AddRequest),
    /// What disks have grown by is to be used.
    Grow,
    /// A slot leaves, or stays after all.
    Remove(RemoveRequest),
}

/// What a scrub is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubRequest {
    /// What.
    pub order: ScrubVerb,
    /// For `start`: MiB a second that all domains together read at most; absent: as fast as the
    /// background goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mib_per_second: Option<u32>,
    /// For `start`: extents that lie in pieces are written anew, where there is room for them in a
    /// row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub coalesce: bool,
}

/// See [`ScrubOrder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubVerb {
    /// Only a report.
    Status,
    /// Begin, or go on.
    Start,
    /// Stay where it is.
    Pause,
    /// End.
    Stop,
}

impl ScrubRequest {
    /// What `status`, `pause` and `stop` are, and a `start` without wishes.
    #[must_use]
    pub fn plain(order: ScrubVerb) -> ScrubRequest {
        ScrubRequest { order, mib_per_second: None, coalesce: false }
    }

    /// As a domain is told, of a pool with so many; none when a wish stands where it says nothing,
    /// or a rate is 0.
    #[must_use]
    pub fn order(&self, domains: u64) -> Option<ScrubOrder> {
        let order = match (self.order, self.mib_per_second) {
            (_, Some(0)) => return None,
            (verb, _) if self.coalesce && verb != ScrubVerb::Start => return None,
            (ScrubVerb::Start, rate) => {
                let share = |mib: u32| ((u64::from(mib) << 20) / domains.max(1)).max(1);
                let (bytes_per_second, coalesce) = (rate.map_or(0, share), self.coalesce);
                ScrubOrder::Start { bytes_per_second, coalesce }
            }
            (_, Some(_)) => return None,
            (ScrubVerb::Status, None) => ScrubOrder::Look,
            (ScrubVerb::Pause, None) => ScrubOrder::Pause,
            (ScrubVerb::Stop, None) => ScrubOrder::Stop,
        };
        Some(order)
    }
}

/// How disks are brought into sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// Whether it waits; absent: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// MiB a second that all domains together read at most, 0: as fast as the background goes;
    /// absent: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mib_per_second: Option<u32>,
}

/// Which disk comes, and to which place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The disk, by its absolute path.
    pub path: PathBuf,
    /// Its place; absent: where it says itself that it belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<DiskPlace>,
    /// Whether what it carries may be destroyed.
    #[serde(default)]
    pub overwrite: bool,
}

/// Which disks are the pool's next slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// The disks, by their absolute paths: as many as each slot has.
    pub paths: Vec<PathBuf>,
    /// Whether what they carry may be destroyed.
    #[serde(default)]
    pub overwrite: bool,
}

/// What is to become of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Which.
    pub slot: u16,
    /// It stays, although it was to leave.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To a status.
    Status(Box<Snapshot>),
    /// To a scrub: of each domain.
    Scrub(Vec<ScrubReport>),
    /// To a disk that came.
    Attached(MirrorReport),
    /// To a slot that came: its disks.
    Added(Vec<MirrorReport>),
    /// Slots that have grown.
    Grown(Vec<GrownSlot>),
    /// To a slot that is to leave: how far it is.
    Removed(SlotRemoval),
    /// To whatever is only done.
    Done,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request cannot be read, or makes no sense.
    BadRequest,
    /// It is of another version of the protocol.
    UnsupportedVersion,
    /// Too many are connected.
    Busy,
    /// The engine is being closed.
    Closing,
    /// The engine could not do it.
    Failed,
}

/// A request that was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why, for programs.
    pub kind: RefusalKind,
    /// Why, in words.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(kind: RefusalKind, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: message.into() }
    }
}

#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine {
    version: u32,
    request: Request,
}

#[derive(Serialize, Deserialize)]
struct AnswerLine {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Refusal>,
}

/// A line for a request.
///
/// # Errors
/// JSON cannot say it.
pub fn write_request(request: &Request) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(&RequestLine { version: VERSION, request: request.clone() })?;
    line.push(b'\n');
    Ok(line)
}

/// The request of a line, whatever its bytes are.
///
/// # Errors
/// What is wrong with it.
pub fn read_request(line: &[u8]) -> Result<Request, Refusal> {
    let bad = |error: serde_json::Error| Refusal::new(RefusalKind::BadRequest, error.to_string());
    // The version first: what else is on the line is the business of that version.
    let AnyVersion { version } = serde_json::from_slice(line).map_err(bad)?;
    if version != VERSION {
        let message = format!("version {version} is not spoken here, only {VERSION}");
        return Err(Refusal::new(RefusalKind::UnsupportedVersion, message));
    }
    let line: RequestLine = serde_json::from_slice(line).map_err(bad)?;
    Ok(line.request)
}

/// A line for an answer.
#[must_use]
pub fn write_answer(answer: Result<Answer, Refusal>) -> Vec<u8> {
    let said = |answer: Result<Answer, Refusal>| {
        let (answer, error) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(refusal) => (None, Some(refusal)),
        };
        serde_json::to_vec(&AnswerLine { version: VERSION, answer, error })
    };
    let mut line = match said(answer) {
        Ok(line) if line.len() < ANSWER_BYTES_MAX => line,
        Ok(_) => refusal_line("the answer is too long"),
        Err(error) => refusal_line(&error.to_string()),
    };
    line.push(b'\n');
    line
}

/// Made of plain text, so that it cannot fail.
fn refusal_line(message: &str) -> Vec<u8> {
    let message: String =
        message.chars().filter(|c| !c.is_control() && !"\\\"".contains(*c)).collect();
    let error = format!(r#"{{"kind":"failed","message":"{message}"}}"#);
    format!(r#"{{"version":{VERSION},"error":{error}}}"#).into_bytes()
}

/// The answer of a line.
///
/// # Errors
/// A refusal that stands there, or what is wrong with the line.
pub fn read_answer(line: &[u8]) -> Result<Answer, Refusal> {
    let bad = |message: String| Refusal::new(RefusalKind::BadRequest, message);
    let AnyVersion { version } =
        serde_json::from_slice(line).map_err(|error| bad(error.to_string()))?;
    if version != VERSION {
        let message = format!("the engine speaks version {version}, this program {VERSION}");
        return Err(Refusal::new(RefusalKind::UnsupportedVersion, message));
    }
    let line: AnswerLine = serde_json::from_slice(line).map_err(|error| bad(error.to_string()))?;
    match (line.answer, line.error) {
        (Some(answer), None) => Ok(answer),
        (None, Some(refusal)) => Err(refusal),
        _ => Err(bad("it has neither an answer nor an error, or both".to_owned())),
    }
}
