//! The few patterns into which a run's attention falls: non-negative factorisation of all heads'
//! maps.
//!
//! Every head of every site has a map for each word. [`factorise`] writes them all as sums of a few
//! maps, none of which is ever taken away ([`nmf`](mod@nmf)). Each of these [`Component`]s has a
//! picture, the heads and words that are made of it, and a name: the word that it follows most.

pub mod nmf;
mod of_trace;

pub use of_trace::{Component, Components, MOST, Maps, factorise, head_maps};
