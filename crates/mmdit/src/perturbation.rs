//! Ways to hinder a network, so that it says something worse that guidance can go away from.
//!
//! Sources: skip-layer guidance, Stability-AI/sd3.5 `sd3_impls.py`; perturbed attention guidance, Ahn et al. 2024,
//! arXiv:2403.17377, for joint attention as in diffusers' `PAGJointAttnProcessor2_0`.

/// What a network is hindered by. Blocks are counted from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Perturbation {
    /// Nothing.
    #[default]
    None,
    /// These blocks are left out.
    SkippedBlocks(Vec<usize>),
    /// In these blocks an image token sees itself and the text, and no other image token.
    IsolatedTokens(Vec<usize>),
}
