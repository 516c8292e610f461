//! Matrix products `A B^T`, and what follows them while the sums are still near.
//!
//! Letters: M rows of A and of the result, N rows of B and columns of the result, K the inner width.
//!
//! ```text
//! B [N, K] --pack--> panels of 16 columns      once for a weight, once a call for anything else, [`Blocks`] among it
//! A [M, K] --------> rows, 64-byte steps of K  rounded and padded where it is not so already
//! tile of A x panels -> sums in f32 -> Epilogue -> out
//! ```
//!
//! One driver ([`multiply`]) cuts the work into blocks that stay in the second-level cache; what differs between
//! instruction sets is one function for a tile (the module `micro`).

mod blocks;
mod driver;
mod epilogue;
mod gradient;
mod int8;
mod loose;
mod matrix;
mod micro;
mod panels;
mod transpose;

pub use blocks::{BlockType, Blocks, UNIT};
pub(crate) use driver::{Direct, Ends, Panels, Product, RowSource, Segment, Widened, lines};
pub use driver::{Factor, Factored, multiply, multiply_keeping};
pub(crate) use epilogue::SharedOutput;
pub use epilogue::{Activation, Epilogue, Output, Residual};
pub(crate) use gradient::chunks;
pub use gradient::{Branch, EpilogueGradients, epilogue_backward};
pub use int8::{Int8Factor, multiply_int8};
pub use matrix::{Matrix, Values};
pub(crate) use micro::{Kernel, Tile, bf16_kernel, f32_kernel};
pub use panels::{PANEL, Packed, PackedShape};
pub(crate) use panels::{STEP, copy_rows, pack_panel, read_run, round};

#[cfg(test)]
mod tests;
