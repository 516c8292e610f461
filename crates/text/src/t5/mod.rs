mod bias;
mod config;
mod decoder;
mod encoder;
mod layers;

pub use config::T5Config;
pub use decoder::T5Decoder;
pub use encoder::T5Encoder;
