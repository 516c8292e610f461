//! llama.cpp's names of a T5 encoder's tensors (`gguf/tensor_mapping.py` in ggml-org/llama.cpp).

/// Official and llama.cpp's names outside of the blocks, without `.weight`.
const AROUND_BLOCKS: [(&str, &str); 2] = [("shared", "token_embd"), ("encoder.final_layer_norm", "enc.output_norm")];

/// The same inside of a block.
const IN_BLOCK: [(&str, &str); 10] = [
    ("layer.0.layer_norm", "attn_norm"),
    ("layer.0.SelfAttention.q", "attn_q"),
    ("layer.0.SelfAttention.k", "attn_k"),
    ("layer.0.SelfAttention.v", "attn_v"),
    ("layer.0.SelfAttention.o", "attn_o"),
    ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
    ("layer.1.layer_norm", "ffn_norm"),
    ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
    ("layer.1.DenseReluDense.wi_1", "ffn_up"),
    ("layer.1.DenseReluDense.wo", "ffn_down"),
];

pub(super) fn t5_in_llama(official: &str) -> Option<String> {
    let stem = official.strip_suffix(".weight")?;
    if let Some((_, theirs)) = AROUND_BLOCKS.iter().find(|row| row.0 == stem) {
        return Some(format!("{theirs}.weight"));
    }
    let (index, stem) = stem.strip_prefix("encoder.block.")?.split_once('.')?;
    let (_, theirs) = IN_BLOCK.iter().find(|row| row.0 == stem)?;
    Some(format!("enc.blk.{index}.{theirs}.weight"))
}

pub(super) fn t5_from_llama(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".weight")?;
    if let Some((ours, _)) = AROUND_BLOCKS.iter().find(|row| row.1 == stem) {
        return Some(format!("{ours}.weight"));
    }
    let (index, stem) = stem.strip_prefix("enc.blk.")?.split_once('.')?;
    let (ours, _) = IN_BLOCK.iter().find(|row| row.1 == stem)?;
    Some(format!("encoder.block.{index}.{ours}.weight"))
}
