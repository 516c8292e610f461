mod config;
mod encoder;

pub use config::{Activation, ClipConfig, ClipKind, Pooling};
pub use encoder::{ClipBlocks, ClipEncoder, ClipOutput, Sees};
