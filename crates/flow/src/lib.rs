//! The mathematics of rectified flow: noise levels, shift, noise.
