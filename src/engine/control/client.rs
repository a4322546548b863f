//! The other side: asks a running engine.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::control::protocol::{
    ANSWER_BYTES_MAX, Answer, Refusal, RefusalKind, Request, read_answer, write_request,
};

/// How long an engine may take to answer: longer than it gives itself.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// And until a disk that comes is one of the pool: its journals are cleared, at its own speed.
const ATTACH_TIME: Duration = Duration::from_secs(3600);

/// A running engine was not reached, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody serves the socket.
    #[error("no engine answers at {}: {reason}", path.display())]
    NoEngine {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The connection broke.
    #[error("the engine at {} stopped answering: {reason}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// It answered that it did not.
    #[error("the engine did not do it: {}", .0.message)]
    Refused(Refusal),
    /// What it answered cannot be understood.
    #[error("the engine's answer cannot be understood: {0}")]
    Answer(String),
}

/// A connection to a running engine.
///
/// ```no_run
/// use dynamicfs::control::{Answer, ControlClient, Request};
///
/// let mut engine = ControlClient::connect("/run/dynamicfs/pool.sock")?;
/// if let Answer::Status(status) = engine.ask(&Request::Status)? {
///     println!("{} bytes free", status.free_bytes);
/// }
/// # Ok::<(), dynamicfs::control::ControlError>(())
/// ```
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
    path: PathBuf,
}

impl ControlClient {
    /// Connects to an engine's socket.
    ///
    /// # Errors
    /// [`ControlError::NoEngine`].
    pub fn connect(path: impl AsRef<Path>) -> Result<ControlClient, ControlError> {
        let path = path.as_ref().to_owned();
        let connected = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_TIME))?;
            stream.set_write_timeout(Some(ANSWER_TIME))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(ControlClient { stream, path }),
            Err(reason) => Err(ControlError::NoEngine { path, reason }),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ControlError`]; after another one than [`ControlError::Refused`] the connection is of no
    /// use any more.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ControlError> {
        let line = write_request(request).map_err(|e| ControlError::Answer(e.to_string()))?;
        let path = self.path.clone();
        let broken = move |reason| ControlError::Broken { path, reason };
        let patience = match request {
            Request::Attach(_) => ATTACH_TIME,
            _ => ANSWER_TIME,
        };
        self.stream.set_read_timeout(Some(patience)).map_err(broken.clone())?;
        let sent = self.stream.write_all(&line);
        // An engine that turned us away said why before it went.
        let answer = self.line().map_err(broken.clone())?;
        if answer.is_empty() {
            return Err(broken(sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())));
        }
        read_answer(&answer).map_err(|refusal| match refusal.kind {
            RefusalKind::BadRequest => ControlError::Answer(refusal.message),
            _ => ControlError::Refused(refusal),
        })
    }

    /// Up to the end of a line; nothing when the other side has gone.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut piece = [0; 64 << 10];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(Vec::new()),
                Ok(read) => line.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if line.ends_with(b"\n") {
                line.pop();
                return Ok(line);
            }
            if line.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::other("the answer does not end"));
            }
        }
    }
}
