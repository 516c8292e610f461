//! The real binary, in a temporary folder, on tiny pipelines that the reference made.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

mod bad_input;
mod bytes;
mod cache;
mod convert;
mod dataset;
mod ema;
mod evaluate;
mod formulations;
mod generate;
mod grid;
mod hub;
#[path = "../../../hub/tests/hub/server.rs"]
mod hub_server;
mod inspect;
mod instructions;
mod layouts;
mod official;
mod outputs;
mod pictures;
mod plan;
mod presets;
mod preview;
mod prompts;
mod recipes;
mod replay;
mod support;
mod threads;
mod train;
mod train_faults;
mod train_input;
mod training;
mod verify;
