//! The server: bound to an address first, then given a checkpoint.

use super::address::Address;
use super::check::PromptReader;
use super::history::History;
use super::queue::Queue;
use super::routes::router;
use super::shared::Shared;
use super::worker::{Worker, about};
use crate::argument::{HOST, PORT};
use crate::checkpoint::Checkpoint;
use crate::pipeline::{LoadOptions, Pipeline};
use crate::{Error, Result};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

/// Threads that read files for browsers, at most.
const READERS: usize = 4;

/// A server that listens and has no checkpoint yet, so that a port in use is known before weights
/// are read.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: Address,
}

impl Server {
    /// Listens at `port` of the address `host`; port 0 is any that is free.
    ///
    /// # Errors
    /// [`Error::Argument`] on `host` or `port` where that cannot be.
    pub fn bind(host: IpAddr, port: u16) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::new(host, port)).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                Error::argument(PORT, format!("{port} is in use; give another, or 0 for any that is free"))
            }
            std::io::ErrorKind::PermissionDenied => {
                Error::argument(PORT, format!("{port} may not be used; give another, or 0 for any that is free"))
            }
            _ => Error::argument(HOST, format!("cannot listen at {host} ({error})")),
        })?;
        let socket = listener.local_addr().map_err(Error::io("the server's address"))?;
        Ok(Self { address: Address::new(socket)?, listener })
    }

    /// The address with its token, which a browser opens.
    pub fn url(&self) -> String {
        self.address.url()
    }

    /// Whether no other machine can reach it.
    pub fn is_local(&self) -> bool {
        self.address.is_local()
    }

    /// Serves until the process ends. Runs are made with `pipeline` in the folder `out`;
    /// `checkpoint` and `load` are what it was loaded from.
    ///
    /// # Errors
    /// [`Error::Io`] where the system gives no thread or takes the listener away.
    pub fn serve(self, pipeline: Pipeline, checkpoint: Checkpoint, load: LoadOptions, out: PathBuf) -> Result<()> {
        let failed = || Error::io("the server");
        let queue = Queue::new(pipeline.interrupt().clone());
        let (reader, about) = (PromptReader::new(&pipeline, &checkpoint)?, about(&pipeline));
        let shared = Arc::new(Shared::new(self.address, queue, History::new(out), reader, about));
        let worker = Worker { pipeline, checkpoint, load, shared: Arc::clone(&shared) };
        std::thread::Builder::new().name("jobs".into()).spawn(move || worker.work()).map_err(failed())?;
        self.listener.set_nonblocking(true).map_err(failed())?;
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(READERS).build().map_err(failed())?;
        runtime
            .block_on(async {
                let listener = tokio::net::TcpListener::from_std(self.listener)?;
                axum::serve(listener, router(shared)).await
            })
            .map_err(failed())
    }
}
