//! How many parameters a network has and how many operations its forward takes, from its sizes alone.
//!
//! Operations are those of products, two for each multiplication with its addition; norms and activations, a percent or
//! two, are left out. Letters: d width, t text tokens, i image tokens.

use crate::config::{Frame, MmditConfig};
use crate::network::{BaselineConfig, NetworkConfig};
use crate::uvit::UvitConfig;

/// Of the timestep's features.
const TIMESTEP_FEATURES: usize = 256;

impl NetworkConfig {
    /// Trained parameters; the positional grid is not among them.
    pub fn parameters(&self) -> usize {
        let of = |config: &BaselineConfig, blocks: usize| blocks + frame_parameters(&config.frame);
        match self {
            NetworkConfig::Mmdit(config) => mmdit_parameters(config),
            NetworkConfig::ThreeSets { sizes, .. } => {
                let (d, norm) = (sizes.frame.width, norms(sizes.qk_norm));
                let joint = 3 * (stream(d) + norm);
                let last = 2 * (last_text(d) + norm) + stream(d) + norm;
                of(sizes, (sizes.depth - 1) * joint + last)
            }
            NetworkConfig::Dit(config) => {
                of(config, config.depth * (stream(config.frame.width) + norms(config.qk_norm)))
            }
            NetworkConfig::CrossDit(config) => {
                let (d, norm) = (config.frame.width, norms(config.qk_norm));
                of(config, config.depth * (stream(d) + norm + 2 * linear(d, d) + linear(d, 2 * d) + norm))
            }
            NetworkConfig::Uvit(config) => uvit_parameters(config),
        }
    }

    /// Operations of one forward of one sample.
    pub fn operations(&self, image_tokens: usize, text_tokens: usize) -> f64 {
        let (i, t) = (image_tokens as f64, text_tokens as f64);
        match self {
            NetworkConfig::Mmdit(config) => {
                let d = config.width as f64;
                let dual = config.dual_layers.len() as f64;
                let after_last = t * 18.0 * d * d;
                let rows = 12.0 * config.depth as f64 + 3.0 * dual - 4.0;
                config.depth as f64 * block(d, i + t) - after_last
                    + dual * attention(d, i, i)
                    + dual * i * 8.0 * d * d
                    + rows * 2.0 * d * d
                    + frame_operations(&config.frame(), i, t)
            }
            NetworkConfig::ThreeSets { sizes, .. } => {
                let d = sizes.frame.width as f64;
                let rows = 18.0 * sizes.depth as f64 - 8.0;
                sizes.depth as f64 * block(d, i + t) - t * 18.0 * d * d
                    + rows * 2.0 * d * d
                    + frame_operations(&sizes.frame, i, t)
            }
            NetworkConfig::Dit(config) => dit_operations(config, i, t) + frame_operations(&config.frame, i, t),
            NetworkConfig::CrossDit(config) => {
                let d = config.frame.width as f64;
                let cross = i * 4.0 * d * d + t * 4.0 * d * d + attention(d, i, t);
                config.depth as f64 * (block(d, i) + cross + 12.0 * d * d) + frame_operations(&config.frame, i, t)
            }
            NetworkConfig::Uvit(config) => uvit_operations(config, i, t),
        }
    }
}

fn linear(inner: usize, outer: usize) -> usize {
    inner * outer + outer
}

/// Modulation rows, queries, keys, values, projection and MLP.
fn stream(d: usize) -> usize {
    linear(d, 6 * d) + linear(d, 3 * d) + linear(d, d) + linear(d, 4 * d) + linear(4 * d, d)
}

fn last_text(d: usize) -> usize {
    linear(d, 2 * d) + linear(d, 3 * d)
}

/// Of the queries and the keys of one attention.
fn norms(qk_norm: bool) -> usize {
    if qk_norm { 2 * crate::config::HEAD_WIDTH } else { 0 }
}

fn conditioner_parameters(frame: &Frame) -> usize {
    let d = frame.width;
    linear(frame.context_width, d) + linear(TIMESTEP_FEATURES, d) + linear(frame.pooled_width, d) + 2 * linear(d, d)
}

fn frame_parameters(frame: &Frame) -> usize {
    let (d, pixels) = (frame.width, frame.patch * frame.patch);
    conditioner_parameters(frame)
        + linear(pixels * frame.channels_in, d)
        + linear(d, 2 * d)
        + linear(d, pixels * frame.channels_out)
}

fn mmdit_parameters(config: &MmditConfig) -> usize {
    let (d, norm) = (config.width, norms(config.qk_norm));
    let second = linear(d, 3 * d) + linear(d, 3 * d) + linear(d, d) + norm;
    let joint = 2 * (stream(d) + norm);
    let last = last_text(d) + norm + stream(d) + norm;
    (config.depth - 1) * joint + last + config.dual_layers.len() * second + frame_parameters(&config.frame())
}

fn uvit_parameters(config: &UvitConfig) -> usize {
    let UvitConfig { middle, level_widths, level_blocks } = config;
    let (frame, d) = (&middle.frame, middle.frame.width);
    let conv = |from: usize, to: usize| 9 * from * to + to;
    let levels = level_widths.iter().enumerate().map(|(level, &c)| {
        let block = linear(d, 3 * c) + 4 * c + 2 * conv(c, c);
        2 * level_blocks * block + conv(c, config.below(level)) + conv(config.below(level), c)
    });
    levels.sum::<usize>()
        + middle.depth * (stream(d) + norms(middle.qk_norm))
        + conditioner_parameters(frame)
        + conv(frame.channels_in, config.top())
        + linear(d, 2 * config.top())
        + linear(config.top(), frame.channels_out)
}

/// Logits and mixing of `queries` over `keys`.
fn attention(d: f64, queries: f64, keys: f64) -> f64 {
    4.0 * queries * keys * d
}

/// Queries, keys, values, their mixing, projection and MLP of `tokens`.
fn block(d: f64, tokens: f64) -> f64 {
    24.0 * tokens * d * d + attention(d, tokens, tokens)
}

fn dit_operations(config: &BaselineConfig, i: f64, t: f64) -> f64 {
    let d = config.frame.width as f64;
    config.depth as f64 * (block(d, i + t) + 12.0 * d * d)
}

fn conditioner_operations(frame: &Frame, t: f64) -> f64 {
    let d = frame.width as f64;
    let vectors = TIMESTEP_FEATURES as f64 + frame.pooled_width as f64 + 2.0 * d;
    2.0 * d * (t * frame.context_width as f64 + vectors)
}

fn frame_operations(frame: &Frame, i: f64, t: f64) -> f64 {
    let d = frame.width as f64;
    let ends = (frame.patch * frame.patch * (frame.channels_in + frame.channels_out)) as f64;
    conditioner_operations(frame, t) + 2.0 * i * d * ends + 4.0 * d * d
}

fn uvit_operations(config: &UvitConfig, i: f64, t: f64) -> f64 {
    let UvitConfig { middle, level_widths, level_blocks } = config;
    let (frame, top) = (&middle.frame, config.top() as f64);
    let channels = (frame.channels_in * 9 + frame.channels_out) as f64;
    let mut sum = dit_operations(middle, i, t) + conditioner_operations(frame, t);
    let pixels = |level: usize| i * ((frame.patch >> level) as f64).powi(2);
    sum += 2.0 * pixels(0) * top * channels + 4.0 * frame.width as f64 * top;
    for (level, &c) in level_widths.iter().enumerate() {
        let (c, below) = (c as f64, config.below(level) as f64);
        let block = 2.0 * pixels(level) * 18.0 * c * c + 6.0 * frame.width as f64 * c;
        // One convolution gives the smaller picture, one the larger.
        let resize = 2.0 * 9.0 * c * below * (pixels(level + 1) + pixels(level));
        sum += 2.0 * *level_blocks as f64 * block + resize;
    }
    sum
}
