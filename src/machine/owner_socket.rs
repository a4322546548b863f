//! A Unix socket that nobody but its owner, and root, can reach.
//!
//! Its file has mode 0600 before anybody can connect, and whoever connects is asked for by the
//! kernel's word on who they are, because a folder of the path may be anybody's. A lock beside the
//! file says that it is served, so that what a killed process left behind is told from a socket in
//! use.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, bind, getsockopt, listen,
    shutdown, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// Why a socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OwnerSocketError {
    /// Another process, or another engine of this one, serves it.
    #[error("{} is served by another engine", .0.display())]
    Served(PathBuf),
    /// What is at the path is something else, and is left alone.
    #[error("{} is no socket, and is not written over", .0.display())]
    NoSocket(PathBuf),
    /// A system call failed.
    #[error("cannot {doing} {}: {reason}", path.display())]
    System {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

/// The folder for sockets of this user: `/run/dynamicfs` for root, else below `XDG_RUNTIME_DIR`;
/// none where that is not set.
#[must_use]
pub fn runtime_folder() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some(PathBuf::from("/run/dynamicfs"));
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty())?;
    Some(PathBuf::from(own).join("dynamicfs"))
}

/// A socket that is listened on. Its file goes with it.
#[derive(Debug)]
pub struct OwnerSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as the socket is served.
    _served: Flock<std::fs::File>,
    lock_path: PathBuf,
}

impl OwnerSocket {
    /// Makes the socket, and the last folder of its path if there is none (mode 0700).
    ///
    /// # Errors
    /// [`OwnerSocketError`].
    pub fn bind(path: &Path) -> Result<OwnerSocket, OwnerSocketError> {
        let failed = |doing: &'static str, path: &Path| {
            let path = path.to_owned();
            move |reason: io::Error| OwnerSocketError::System { doing, path, reason }
        };
        if let Some(folder) = path.parent()
            && !folder.as_os_str().is_empty()
        {
            let made = std::fs::DirBuilder::new().mode(0o700).create(folder);
            match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(failed("make the folder", folder))?,
            }
        }
        let (served, lock_path) = lock_of(path)?;
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", path)(error)),
            Ok(there) if there.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(failed("remove what is left of", path))?;
            }
            Ok(_) => return Err(OwnerSocketError::NoSocket(path.to_owned())),
        }
        let listener = listening(path).map_err(|e| failed("listen on", path)(e.into()))?;
        Ok(OwnerSocket { listener, path: path.to_owned(), _served: served, lock_path })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection of the owner or root; others are turned away without a word.
    ///
    /// # Errors
    /// The socket was [shut](OwnerSocket::shut), or a system call failed.
    pub fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept()?;
            let peer = getsockopt(&stream, sockopt::PeerCredentials)?.uid();
            if peer == 0 || peer == geteuid().as_raw() {
                return Ok(stream);
            }
        }
    }

    /// Ends [`OwnerSocket::accept`], now and for good.
    pub fn shut(&self) {
        // It fails only where it is shut already.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

impl Drop for OwnerSocket {
    fn drop(&mut self) {
        // Ours, by the lock. Left behind they are taken over by the next one.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Takes the lock beside a socket. Whoever has it removes its file at last, so that it counts only
/// while the file that was locked is still the one at the path.
fn lock_of(path: &Path) -> Result<(Flock<std::fs::File>, PathBuf), OwnerSocketError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let mut options = std::fs::OpenOptions::new();
    // Neither what a link names, nor a pipe that would be waited for.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let failed = |reason| OwnerSocketError::System { doing: "lock", path: beside.clone(), reason };
    loop {
        let file = options.open(&beside).map_err(failed)?;
        let opened = file.metadata().map_err(failed)?;
        if !opened.is_file() {
            return Err(failed(io::Error::other("it is no file")));
        }
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(OwnerSocketError::Served(path.to_owned()));
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        match std::fs::symlink_metadata(&beside) {
            Ok(there) if (there.dev(), there.ino()) == (opened.dev(), opened.ino()) => {
                return Ok((lock, beside));
            }
            // Whoever had it has removed it between our opening and locking.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Its mode is set before it has a name: the file is made with that.
fn listening(path: &Path) -> nix::Result<UnixListener> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(fd))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::machine::device::scratch::ScratchDir;

    #[test]
    fn it_is_the_owners_alone_and_one_serves_it() {
        let folder = ScratchDir::new();
        let path = folder.path().join("new").join("socket");
        let socket = OwnerSocket::bind(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let refused = OwnerSocket::bind(&path).unwrap_err();
        assert!(matches!(refused, OwnerSocketError::Served(_)), "{refused}");
        let client = UnixStream::connect(&path).unwrap();
        drop(socket.accept().unwrap());
        drop(client);
        socket.shut();
        assert!(socket.accept().is_err(), "nobody waits on a socket that is shut");
        drop(socket);
        assert!(!path.exists());
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            0,
            "nothing is left"
        );
        // What a killed process leaves is taken over.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists() && UnixStream::connect(&path).is_err());
        let socket = OwnerSocket::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        drop(socket);
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        let folder = ScratchDir::new();
        let missing = folder.path().join("a").join("b").join("socket");
        let error = OwnerSocket::bind(&missing).unwrap_err().to_string();
        assert!(error.starts_with("cannot make the folder"), "{error}");
        let long = folder.path().join("x".repeat(200));
        let error = OwnerSocket::bind(&long).unwrap_err().to_string();
        assert!(error.starts_with("cannot listen on"), "{error}");
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        let error = OwnerSocket::bind(&folder.path().join("folder")).unwrap_err().to_string();
        assert!(error.contains("is no socket"), "{error}");
        std::fs::write(folder.path().join("data"), b"precious").unwrap();
        let error = OwnerSocket::bind(&folder.path().join("data")).unwrap_err().to_string();
        assert!(error.contains("is no socket"), "{error}");
        assert_eq!(std::fs::read(folder.path().join("data")).unwrap(), b"precious");
    }
}
