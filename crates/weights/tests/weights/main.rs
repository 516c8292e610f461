//! The crate through its public interface, on the fixtures and on files made here.
#![allow(clippy::unwrap_used, reason = "tests")]

mod checkpoint;
mod convert;
mod craft;
mod damaged;
mod gguf;
mod gguf_damaged;
mod gguf_properties;
mod header_properties;
mod part_source;
mod same_in_every_layout;
mod write;
