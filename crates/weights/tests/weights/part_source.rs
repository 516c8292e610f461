//! What a part says when a model and a file disagree, and what it gives when they agree.

use half::{bf16, f16};
use rectiflow_nn::{Init, ParamSource, TensorData};
use rectiflow_weights::{Dtype, Mismatch, PartKind, WeightsError};

use crate::craft::{
    Tensor, fixture, load, message, open_as, safetensors, scratch, shapes_of, tensor, tensors_of, zeros,
};

/// Two tensors of a T5: the smallest thing that is recognised.
fn t5(dtype: &'static str) -> Vec<Tensor> {
    let bytes_each = Dtype::from_name(dtype).unwrap().bytes_of(1).unwrap() as usize;
    [("encoder.block.0.layer.0.SelfAttention.q.weight", [16, 16]), ("shared.weight", [20, 16])]
        .map(|(name, shape)| tensor(name, dtype, &shape, vec![0; 16 * shape[0] * bytes_each]))
        .to_vec()
}

const T5_SHAPES: [(&str, [usize; 2]); 2] =
    [("encoder.block.0.layer.0.SelfAttention.q.weight", [16, 16]), ("shared.weight", [20, 16])];

fn load_t5(tensors: &[Tensor]) -> Result<(Vec<TensorData>, rectiflow_weights::LoadReport), WeightsError> {
    let file = scratch("t5.safetensors", &safetensors(tensors));
    let checkpoint = open_as(PartKind::T5, &file.path)?;
    let part = checkpoint.require(PartKind::T5)?;
    let (found, report) = load(part, T5_SHAPES.map(|(name, shape)| (name, shape.to_vec())))?;
    Ok((found.into_values().collect(), report))
}

#[track_caller]
fn mismatch<T>(result: Result<T, WeightsError>) -> Mismatch {
    match result {
        Err(WeightsError::Mismatch(mismatch)) => *mismatch,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was loaded"),
    }
}

/// The fixture's transformer in the diffusers layout with one change, loaded for the unchanged shapes.
fn load_changed(change: impl Fn(&mut Vec<Tensor>)) -> Mismatch {
    let path = fixture("sd3/model/transformer/diffusion_pytorch_model.safetensors");
    let official = fixture("sd3/official.safetensors");
    let checkpoint = open_as(PartKind::Transformer, &official).unwrap();
    let part = checkpoint.part(PartKind::Transformer).unwrap();
    let names = tensors_of(&official);
    let names: Vec<&str> = names.iter().filter_map(|t| t.name.strip_prefix("model.diffusion_model.")).collect();
    let shapes = shapes_of(part, &names);

    let mut tensors = tensors_of(&path);
    change(&mut tensors);
    let file = scratch("changed.safetensors", &safetensors(&tensors));
    let changed = open_as(PartKind::Transformer, &file.path).unwrap();
    mismatch(load(changed.part(PartKind::Transformer).unwrap(), shapes))
}

#[test]
fn a_missing_tensor_is_named_as_the_file_would_name_it() {
    let found = load_changed(|tensors| tensors.retain(|t| t.name != "transformer_blocks.0.attn.to_k.weight"));
    assert_eq!(found.missing, ["transformer_blocks.0.attn.to_k.weight"]);
    assert!(found.unexpected.is_empty() && found.misshaped.is_empty(), "{found:?}");
    let (problem, hint) = message(&found.into());
    assert!(problem.contains("1 tensors missing (`transformer_blocks.0.attn.to_k.weight`)"), "{problem}");
    assert!(hint.contains("incomplete"), "{hint}");
}

#[test]
fn an_extra_tensor_is_an_error() {
    let found = load_changed(|tensors| tensors.push(zeros("register_tokens", &[1])));
    assert_eq!(found.unexpected, ["register_tokens"]);
    assert!(found.missing.is_empty() && found.misshaped.is_empty(), "{found:?}");
}

#[test]
fn a_tensor_of_another_shape_is_an_error_even_with_as_many_values() {
    let found = load_changed(|tensors| {
        let to_v = tensors.iter_mut().find(|t| t.name == "transformer_blocks.1.attn.to_v.weight").unwrap();
        to_v.shape = vec![64, 256];
    });
    assert!(found.missing.is_empty() && found.unexpected.is_empty(), "{found:?}");
    let one = &found.misshaped[0];
    assert_eq!(
        (one.name.as_str(), &one.expected[..], &one.found[..]),
        ("transformer_blocks.1.attn.to_v.weight", &[128, 128][..], &[64, 256][..])
    );
    let (problem, _) = message(&found.into());
    assert!(problem.contains("[64, 256] instead of [128, 128]"), "{problem}");
}

#[test]
fn a_message_names_three_tensors_of_many() {
    let found = load_changed(|tensors| tensors.retain(|t| !t.name.starts_with("transformer_blocks.1.attn")));
    assert_eq!(found.missing.len(), 14);
    let (problem, _) = message(&found.into());
    assert!(problem.contains("14 tensors missing (`") && problem.contains(", ...)"), "{problem}");
    assert_eq!(problem.matches("transformer_blocks").count(), 3, "{problem}");
}

#[test]
fn an_autoencoder_with_quantisation_convolutions_is_of_another_system() {
    let mut tensors = tensors_of(&fixture("sd3/model/vae/diffusion_pytorch_model.safetensors"));
    tensors.push(zeros("quant_conv.bias", &[32]));
    let file = scratch("vae.safetensors", &safetensors(&tensors));
    let checkpoint = open_as(PartKind::Vae, &file.path).unwrap();
    let mut source = checkpoint.part(PartKind::Vae).unwrap().source();
    drop(source.claim("decoder.conv_in.weight", &[64, 16, 3, 3], Init::Zeros));
    assert!(mismatch(source.finish()).unexpected.contains(&"quant_conv.bias".to_owned()));
}

#[test]
fn tensors_that_no_model_needs_are_passed_over() {
    let mut tensors = t5("F16");
    tensors.push(zeros("encoder.embed_tokens.weight", &[20, 16]));
    let (_, report) = load_t5(&tensors).unwrap();
    assert_eq!((report.tensors, &report.not_needed[..]), (2, &["encoder.embed_tokens.weight".to_owned()][..]));

    let mut tensors = tensors_of(&fixture("sd3/model/text_encoder/model.safetensors"));
    let names: Vec<String> = tensors.iter().map(|t| t.name.clone()).collect();
    tensors.push(tensor("text_model.embeddings.position_ids", "I64", &[1, 77], vec![0; 616]));
    tensors.push(tensor("logit_scale", "F32", &[], vec![0; 4]));
    let file = scratch("clip.safetensors", &safetensors(&tensors));
    let checkpoint = open_as(PartKind::ClipL, &file.path).unwrap();
    let part = checkpoint.part(PartKind::ClipL).unwrap();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(load(part, shapes_of(part, &names)).unwrap().1.not_needed.len(), 2);
    assert_eq!(part.inventory().tensors, names.len() + 2);
}

#[test]
fn t5s_table_is_found_under_its_other_name() {
    let mut tensors = t5("F16");
    tensors[1].name = "encoder.embed_tokens.weight".to_owned();
    let (found, report) = load_t5(&tensors).unwrap();
    assert_eq!(found[1].shape().to_vec(), [20, 16]);
    assert!(report.not_needed.is_empty());
}

#[test]
fn t5s_table_is_counted_once_under_whichever_name() {
    let table = |name| zeros(name, &[20, 16]);
    let (one, other) = (table("shared.weight"), table("encoder.embed_tokens.weight"));
    for tables in [vec![one.clone()], vec![other.clone()], vec![one, other]] {
        let tensors = [&t5("F16")[..1], &tables].concat();
        let file = scratch("t5.safetensors", &safetensors(&tensors));
        let checkpoint = open_as(PartKind::T5, &file.path).unwrap();
        assert_eq!(checkpoint.inventory().parts[0].parameters, 16 * 16 + 20 * 16);
    }
}

#[test]
fn eight_bit_floats_become_bf16() {
    let mut tensors = t5("F8_E4M3");
    let finite = (0..=u8::MAX).map(|byte| if byte & 0x7f == 0x7f { 0 } else { byte });
    tensors[0].bytes = finite.clone().collect();
    let (found, report) = load_t5(&tensors).unwrap();
    assert_eq!(report.dtypes, [(Dtype::F8E4M3, 2)].into());
    let values = found[0].as_slice::<bf16>().unwrap();
    assert_eq!((values[0x38], values[0x7e], values[0xbc]), (bf16::ONE, bf16::from_f32(448.0), bf16::from_f32(-1.5)));
}

#[test]
fn scaled_eight_bit_floats_are_refused_with_a_hint() {
    let mut tensors = t5("F8_E4M3");
    tensors.push(tensor("encoder.block.0.layer.0.SelfAttention.q.scale_weight", "F32", &[1], vec![0; 4]));
    let found = mismatch(load_t5(&tensors));
    assert!(message(&found.into()).1.contains("scaled fp8"));
}

#[test]
fn other_types_are_named() {
    let error = load_t5(&t5("F8_E5M2")).unwrap_err();
    assert!(matches!(&error, WeightsError::UnsupportedDtype { dtype: Dtype::F8E5M2, .. }), "{error}");
    assert!(message(&error).0.contains("`encoder.block.0.layer.0.SelfAttention.q.weight`"), "{error}");
}

#[test]
fn values_that_are_no_numbers_are_counted_and_named() {
    type Spoil = (&'static str, Vec<u8>);
    let spoils: [Spoil; 4] = [
        ("F32", f32::NEG_INFINITY.to_le_bytes().to_vec()),
        ("F16", f16::NAN.to_le_bytes().to_vec()),
        ("BF16", bf16::INFINITY.to_le_bytes().to_vec()),
        ("F8_E4M3", vec![0xff]),
    ];
    for (dtype, bad) in spoils {
        let mut tensors = t5(dtype);
        let (first, last) = (0, tensors[1].bytes.len() - bad.len());
        for at in [first, last] {
            tensors[1].bytes[at..at + bad.len()].copy_from_slice(&bad);
        }
        let error = load_t5(&tensors).unwrap_err();
        let WeightsError::NotFinite { tensors, .. } = &error else { panic!("{dtype}: {error}") };
        assert_eq!(tensors[..], [("shared.weight".to_owned(), 2)], "{dtype}");
        assert!(message(&error).0.contains("2 values of `shared.weight`"), "{error}");
    }
}

/// A header may have any length, so a tensor may begin at an odd byte.
#[test]
fn values_are_the_same_at_every_alignment() {
    let values: Vec<u8> = (0..320_u16).flat_map(|i| f16::from_f32(f32::from(i)).to_le_bytes()).collect();
    for pad in 0..4 {
        let mut tensors = t5("F16");
        tensors[1].bytes = values.clone();
        tensors.push(tensor("logit_scale", "U8", &[pad], vec![0; pad]));
        tensors.rotate_right(1);
        let file = scratch("t5.safetensors", &safetensors(&tensors));
        let checkpoint = open_as(PartKind::T5, &file.path).unwrap();
        let mut source = checkpoint.part(PartKind::T5).unwrap().source();
        let data = source.claim("shared.weight", &[20, 16], Init::Zeros)();
        assert_eq!(data.bytes().to_vec(), values, "{pad}");
        // This is what a misaligned buffer would fail.
        assert_eq!(data.as_slice::<f16>().unwrap()[319].to_f32(), 319.0, "{pad}");
    }
}

#[test]
fn an_aligned_tensor_is_the_map_itself() {
    let path = fixture("sd3/official.safetensors");
    let checkpoint = open_as(PartKind::ClipL, &path).unwrap();
    let part = checkpoint.part(PartKind::ClipL).unwrap();
    let name = "text_model.final_layer_norm.weight";
    // Both are alive, so equal addresses mean that neither is a copy.
    let [one, other] = [0, 1].map(|_| part.source().claim(name, &[64], Init::Zeros)());
    assert_eq!(one.bytes().as_ptr(), other.bytes().as_ptr());
}
