//! The other end of a service's readiness message: what systemd does for `Type=notify`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixDatagram;

use super::error::{Context, LabError, Result};
use super::wait::within;

/// systemd's own messages are shorter.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A socket that a program reports its readiness to.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    path: PathBuf,
    socket: UnixDatagram,
}

impl NotifySocket {
    /// Makes the socket; one left by an earlier program is replaced.
    pub(crate) fn bind(path: PathBuf) -> Result<Self> {
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).during(|| path.display().to_string())?;
        Ok(Self { path, socket })
    }

    /// What goes into `NOTIFY_SOCKET`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for `READY=1`.
    pub(crate) async fn ready(&self, deadline: Duration) -> Result<()> {
        let wait = async {
            let mut message = vec![0; MESSAGE_BYTES_MAX];
            loop {
                let bytes =
                    self.socket.recv(&mut message).await.during(|| "NOTIFY_SOCKET".to_owned())?;
                let text = String::from_utf8_lossy(&message[..bytes]);
                if text.lines().any(|line| line == "READY=1") {
                    return Ok::<_, LabError>(());
                }
            }
        };
        within("READY=1", deadline, wait).await?
    }
}
