//! The same weights in every form they are published in draw the same latents, to the bit.

use half::{bf16, f16};
use safetensors::Dtype;

use crate::support::{Desk, Stored, Tensors, fixture, read, under, write};

const DRAW: &str =
    "--width 64 --height 48 --steps 2 --seed 5 --t5-length 77 --out picture.png --latents-out out.safetensors";

/// The latents that a model draws.
#[track_caller]
pub(crate) fn draw(desk: &Desk, model: &str) -> Stored {
    desk.succeed(&format!("generate apple {model} {DRAW}"));
    read(&desk.path("out.safetensors")).remove("latents").unwrap()
}

#[test]
fn official_file_and_split_files_draw_what_the_diffusers_folder_draws() {
    let desk = Desk::new();
    let folder = draw(&desk, "--model {sd3/model}");
    assert_eq!(draw(&desk, "--model {sd3/official.safetensors}"), folder);

    let official = read(&fixture("sd3/official.safetensors"));
    let without_encoders: Tensors = official
        .iter()
        .filter(|(name, _)| !name.starts_with("text_encoders."))
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    write(&desk.path("no_encoders.safetensors"), &without_encoders);
    for (file, prefix) in [
        ("mmdit", "model.diffusion_model."),
        ("vae", "first_stage_model."),
        ("clip_l", "text_encoders.clip_l.transformer."),
        ("clip_g", "text_encoders.clip_g.transformer."),
        ("t5xxl", "text_encoders.t5xxl.transformer."),
    ] {
        write(&desk.path(&format!("{file}.safetensors")), &under(&official, prefix));
    }
    let encoders = "--clip-l clip_l.safetensors --clip-g clip_g.safetensors --t5xxl t5xxl.safetensors";
    assert_eq!(draw(&desk, &format!("--model no_encoders.safetensors {encoders}")), folder);
    assert_eq!(draw(&desk, &format!("--diffusion-model mmdit.safetensors --vae vae.safetensors {encoders}")), folder);
    let underscores = "--clip_l clip_l.safetensors --clip_g clip_g.safetensors --t5xxl t5xxl.safetensors";
    assert_eq!(draw(&desk, &format!("--model mmdit.safetensors --vae vae.safetensors {underscores}")), folder);

    let diffusers_parts = "--diffusion-model {sd3/model/transformer/diffusion_pytorch_model.safetensors} \
                           --vae {sd3/model/vae/diffusion_pytorch_model.safetensors} \
                           --clip-l {sd3/model/text_encoder/model.safetensors} \
                           --clip-g {sd3/model/text_encoder_2/model.safetensors} \
                           --t5xxl {sd3/model/text_encoder_3/model.safetensors}";
    assert_eq!(draw(&desk, diffusers_parts), folder);
}

#[test]
fn a_part_given_alone_replaces_the_one_in_the_model() {
    let desk = Desk::new();
    let folder = draw(&desk, "--model {sd3/model}");
    let mut vae = read(&fixture("sd3/model/vae/diffusion_pytorch_model.safetensors"));
    let mut t5 = read(&fixture("sd3/model/text_encoder_3/model.safetensors"));
    // A decoder makes no difference to latents, a text encoder does.
    vae.get_mut("decoder.conv_out.bias").unwrap().bytes.fill(0);
    t5.get_mut("encoder.final_layer_norm.weight").unwrap().bytes.fill(0);
    write(&desk.path("vae.safetensors"), &vae);
    write(&desk.path("t5.safetensors"), &t5);
    assert_eq!(draw(&desk, "--model {sd3/model} --vae vae.safetensors"), folder);
    assert_ne!(draw(&desk, "--model {sd3/model} --t5xxl t5.safetensors"), folder);
}

/// T5 shares its token table between encoder and decoder, and files have either name or both.
#[test]
fn t5s_token_table_has_either_name_or_both() {
    let desk = Desk::new();
    let folder = draw(&desk, "--model {sd3/model}");
    let (shared, embedded) = ("shared.weight", "encoder.embed_tokens.weight");
    let mut t5 = read(&fixture("sd3/model/text_encoder_3/model.safetensors"));
    t5.insert(embedded.into(), t5[shared].clone());
    write(&desk.path("both.safetensors"), &t5);
    t5.remove(shared);
    write(&desk.path("embedded.safetensors"), &t5);
    for file in ["both.safetensors", "embedded.safetensors"] {
        assert_eq!(draw(&desk, &format!("--model {{sd3/model}} --t5xxl {file}")), folder, "{file}");
    }
}

/// A folder has tokenizers of its own, in which CLIP-G's padding token is `!`; the official file has none.
#[test]
fn each_reference_reads_its_padding_token_alike_in_every_layout() {
    let desk = Desk::new();
    let draw = |layout: &str, compat: &str| {
        desk.succeed(&format!("generate wow!cat --model {layout} --compat {compat} --guidance 4 --shift 3 {DRAW}"));
        read(&desk.path("out.safetensors")).remove("latents").unwrap()
    };
    for compat in ["diffusers", "stability"] {
        assert_eq!(draw("{sd3/model}", compat), draw("{sd3/official.safetensors}", compat), "{compat}");
    }
}

/// Heads of 8, in a file of 32 channels, are known only from its `config.json`.
#[test]
fn what_tensors_cannot_tell_is_read_from_the_configuration_beside_the_file() {
    let desk = Desk::new();
    let folder = draw(&desk, "--model {sd35m/model}");
    let clip = "sd35m/model/text_encoder/model.safetensors";
    assert_eq!(draw(&desk, &format!("--model {{sd35m/model}} --clip-l {{{clip}}}")), folder);

    std::fs::copy(fixture(clip), desk.path("clip.safetensors")).unwrap();
    let line = format!("generate apple --model {{sd35m/model}} --clip-l clip.safetensors {DRAW}");
    assert!(desk.fail(&line).contains("put its config.json beside the file"));
    std::fs::copy(fixture("sd35m/model/text_encoder/config.json"), desk.path("config.json")).unwrap();
    assert_eq!(draw(&desk, "--model {sd35m/model} --clip-l clip.safetensors"), folder);
}

#[test]
fn every_type_that_holds_the_same_values_draws_the_same() {
    let desk = Desk::new();
    let official = read(&fixture("sd3/official.safetensors"));
    let values: Vec<(&String, &Stored, Vec<f32>)> = official
        .iter()
        .map(|(name, tensor)| {
            let halves = tensor.bytes.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32());
            (name, tensor, halves.map(to_e4m3_grid).collect())
        })
        .collect();
    let mut drawn = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8_E4M3] {
        let tensors: Tensors = values
            .iter()
            .map(|(name, tensor, values)| {
                let bytes = values.iter().flat_map(|&v| encode(v, dtype)).collect();
                ((*name).clone(), Stored { dtype, shape: tensor.shape.clone(), bytes })
            })
            .collect();
        write(&desk.path("model.safetensors"), &tensors);
        drawn.push(draw(&desk, "--model model.safetensors"));
    }
    assert!(drawn.windows(2).all(|pair| pair[0] == pair[1]));
}

/// The nearest number that float8 e4m3fn has: 3 bits after the point, exponents from -6 to 8.
fn to_e4m3_grid(value: f32) -> f32 {
    if value == 0.0 {
        return 0.0;
    }
    let exponent = (value.abs().log2().floor() as i32).clamp(-6, 8);
    let quantum = 2.0_f32.powi(exponent - 3);
    ((value / quantum).round() * quantum).clamp(-448.0, 448.0)
}

fn encode(value: f32, dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::F8_E4M3 => vec![e4m3_bits(value)],
        other => unreachable!("{other:?}"),
    }
}

/// Bits of a value on the grid: sign, 4 of exponent with bias 7, 3 of mantissa.
fn e4m3_bits(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let size = value.abs();
    if size == 0.0 {
        return sign;
    }
    let exponent = (size.log2().floor() as i32).clamp(-6, 8);
    let eighths = (size / 2.0_f32.powi(exponent - 3)) as u8;
    // Below 8 eighths the number is subnormal and its exponent field 0.
    if eighths < 8 { sign | eighths } else { sign | (((exponent + 7) as u8) << 3) | (eighths - 8) }
}
