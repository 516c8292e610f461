mod bias;
mod config;
mod decoder;
mod encoder;
mod layers;
mod spans;

pub use config::T5Config;
pub use decoder::T5Decoder;
pub use encoder::T5Encoder;
pub use spans::{Corrupted, Sentinels, SpanCorruption};
