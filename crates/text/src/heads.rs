use burn::tensor::Tensor;

/// x `[B, L, H * E]`: B texts of L tokens, H heads of width E. Returns `[B, H, L, E]`.
pub(crate) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, width] = x.dims();
    x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
}

/// x `[B, H, L, E]`. Returns `[B, L, H * E]`.
pub(crate) fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, head_width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, length, heads * head_width])
}
