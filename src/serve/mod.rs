//! A local page that keeps a checkpoint warm. A prompt is checked while it is typed; its image is
//! seen forming, and is compared with another run by itself.
//!
//! A [`Server`] binds an address of this machine. One thread answers browsers; another owns the
//! checkpoint and does one job at a time. What a job makes are ordinary run folders, made as
//! `generate` and `explain` make them.

mod address;
mod caches;
mod changes;
mod check;
mod events;
mod guard;
mod history;
mod listen;
mod live;
mod page;
mod queue;
mod request;
mod routes;
mod server;
mod shared;
mod side;
mod tested;
mod worker;

pub use server::Server;
