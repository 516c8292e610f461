use burn::tensor::Tensor;

/// x `[B, L, H * E]`: B texts of L tokens, H heads of width E. Returns `[B, L, H, E]`.
pub(crate) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, width] = x.dims();
    x.reshape([batch, length, heads, width / heads])
}
