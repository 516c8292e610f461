//! The official layout of an MMDiT-X, made here from the diffusers folder: it draws the same latents, to the bit.

use crate::layouts::draw;
use crate::support::{Desk, Stored, Tensors, fixture, read, write};

const PARTS: &str = "--vae {sd35m/model/vae} --clip-l {sd35m/model/text_encoder} --clip-g {sd35m/model/text_encoder_2} \
                     --t5xxl {sd35m/model/text_encoder_3}";

fn transformer() -> Tensors {
    let shard = |i| format!("sd35m/model/transformer/diffusion_pytorch_model-0000{i}-of-00002.safetensors");
    [1, 2].iter().flat_map(|i| read(&fixture(&shard(i)))).collect()
}

#[test]
fn an_official_file_with_dual_attention_and_qk_norm_draws_what_the_folder_draws() {
    let desk = Desk::new();
    let folder = draw(&desk, "--model {sd35m/model}");
    write(&desk.path("official.safetensors"), &official(transformer()));
    assert_eq!(draw(&desk, &format!("--model official.safetensors {PARTS}")), folder);
    assert_eq!(draw(&desk, "--model {sd35m/model} --diffusion-model official.safetensors"), folder);
}

/// No released model has one: the image side of the first block stands in the last one too.
#[test]
fn dual_attention_in_the_last_block_draws_the_same_in_both_layouts() {
    let desk = Desk::new();
    let without = draw(&desk, "--model {sd35m/model}");
    let mut tensors = transformer();
    for (name, tensor) in tensors.clone() {
        let Some(name) = name.strip_prefix("transformer_blocks.0.") else { continue };
        let image = ["attn.to_q.", "attn.to_k.", "attn.to_v.", "attn.norm_q.", "attn.norm_k.", "attn.to_out."];
        if ["attn2.", "norm1.", "ff."].iter().chain(&image).any(|start| name.starts_with(start)) {
            tensors.insert(format!("transformer_blocks.1.{name}"), tensor);
        }
    }
    write(&desk.path("diffusers.safetensors"), &tensors);
    write(&desk.path("official.safetensors"), &official(tensors));
    let diffusers = draw(&desk, "--model {sd35m/model} --diffusion-model diffusers.safetensors");
    assert_eq!(draw(&desk, "--model {sd35m/model} --diffusion-model official.safetensors"), diffusers);
    assert_ne!(diffusers, without);
}

/// An MMDiT-X of two blocks under its official names. Every tensor must have one.
fn official(mut diffusers: Tensors) -> Tensors {
    let mut made = Tensors::new();
    let mut put = |name: &str, tensor: Stored| made.insert(format!("model.diffusion_model.{name}"), tensor);
    put("pos_embed", diffusers.remove("pos_embed.pos_embed").unwrap());
    for (theirs, ours) in layers() {
        for leaf in ["weight", "bias"] {
            let found: Vec<Stored> =
                theirs.iter().filter_map(|name| diffusers.remove(&format!("{name}.{leaf}"))).collect();
            if found.is_empty() {
                continue; // norms have no bias, and not every block has everything
            }
            assert_eq!(found.len(), theirs.len(), "{ours}");
            let whole = stacked(&found);
            put(&format!("{ours}.{leaf}"), if has_scale_first(&ours) { halves_swapped(whole) } else { whole });
        }
    }
    assert!(diffusers.is_empty(), "{:?}", diffusers.keys());
    made
}

/// diffusers' layers and the official one that they make up.
fn layers() -> Vec<(Vec<String>, String)> {
    let around = [
        ("pos_embed.proj", "x_embedder.proj"),
        ("context_embedder", "context_embedder"),
        ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
        ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
        ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
        ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
        ("norm_out.linear", "final_layer.adaLN_modulation.1"),
        ("proj_out", "final_layer.linear"),
    ];
    let in_block = [
        ("norm1.linear", "x_block.adaLN_modulation.1"),
        ("attn.to_q attn.to_k attn.to_v", "x_block.attn.qkv"),
        ("attn.norm_q", "x_block.attn.ln_q"),
        ("attn.norm_k", "x_block.attn.ln_k"),
        ("attn.to_out.0", "x_block.attn.proj"),
        ("attn2.to_q attn2.to_k attn2.to_v", "x_block.attn2.qkv"),
        ("attn2.norm_q", "x_block.attn2.ln_q"),
        ("attn2.norm_k", "x_block.attn2.ln_k"),
        ("attn2.to_out.0", "x_block.attn2.proj"),
        ("ff.net.0.proj", "x_block.mlp.fc1"),
        ("ff.net.2", "x_block.mlp.fc2"),
        ("norm1_context.linear", "context_block.adaLN_modulation.1"),
        ("attn.add_q_proj attn.add_k_proj attn.add_v_proj", "context_block.attn.qkv"),
        ("attn.norm_added_q", "context_block.attn.ln_q"),
        ("attn.norm_added_k", "context_block.attn.ln_k"),
        ("attn.to_add_out", "context_block.attn.proj"),
        ("ff_context.net.0.proj", "context_block.mlp.fc1"),
        ("ff_context.net.2", "context_block.mlp.fc2"),
    ];
    let blocks = (0..2).flat_map(|i| {
        in_block.map(|(theirs, ours)| {
            let theirs = theirs.split(' ').map(|name| format!("transformer_blocks.{i}.{name}")).collect();
            (theirs, format!("joint_blocks.{i}.{ours}"))
        })
    });
    around.map(|(theirs, ours)| (vec![theirs.to_owned()], ours.to_owned())).into_iter().chain(blocks).collect()
}

/// Where a layer only scales and shifts, diffusers stores the scale first and the official files the shift.
fn has_scale_first(ours: &str) -> bool {
    ours == "final_layer.adaLN_modulation.1" || ours == "joint_blocks.1.context_block.adaLN_modulation.1"
}

fn stacked(tensors: &[Stored]) -> Stored {
    let mut whole = tensors[0].clone();
    for tensor in &tensors[1..] {
        assert_eq!((tensor.dtype, &tensor.shape[1..]), (whole.dtype, &whole.shape[1..]));
        whole.shape[0] += tensor.shape[0];
        whole.bytes.extend_from_slice(&tensor.bytes);
    }
    whole
}

fn halves_swapped(mut tensor: Stored) -> Stored {
    let middle = tensor.bytes.len() / 2;
    tensor.bytes.rotate_left(middle);
    tensor
}
