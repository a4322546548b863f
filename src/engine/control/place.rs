//! Where an engine's socket is.

use std::path::PathBuf;

use uuid::Uuid;

use crate::engine::engine_config::ControlSocket;
use crate::machine::owner_socket::runtime_folder;

/// The socket that an engine of that pool with such a configuration serves; none where it serves
/// none, or no folder of this user is known.
#[must_use]
pub fn socket_of(pool: Uuid, wanted: &ControlSocket) -> Option<PathBuf> {
    match wanted {
        ControlSocket::Off => None,
        ControlSocket::At(path) => Some(path.clone()),
        ControlSocket::Auto => Some(runtime_folder()?.join(format!("{pool}.sock"))),
    }
}
