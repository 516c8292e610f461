mod bias;
mod config;
mod encoder;

pub use config::T5Config;
pub use encoder::T5Encoder;
