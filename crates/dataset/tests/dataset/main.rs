//! Data sets made file by file, good and bad, and read through the public interface.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bad_bytes;
mod digest;
mod folder;
mod jsonl;
mod open;
mod parquet;
mod pictures;
mod sprites;
mod support;
mod texts;
mod webdataset;
