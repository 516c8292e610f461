//! GGUF files are read as the Python package `gguf` reads them, and it reads what is written here.
//! `scripts/make_gguf.py` made the fixtures.

use rectiflow_nn::{DType, Init, ParamSource, TensorData};
use rectiflow_weights::{Container, Dtype, Form, Layout, PartKind, TensorFile, WeightsError, convert_model, read_all};

use crate::craft::{F32, Gguf, Q8_0, array, fixture, load, message, open_as, open_model, scratch, shapes_of, text};

fn numbers(data: &TensorData) -> Vec<f32> {
    data.clone().convert_dtype(DType::F32).iter().collect()
}

#[test]
fn every_type_stands_for_the_numbers_that_the_package_reads_to_the_bit() {
    let file = TensorFile::open(fixture("gguf/tensors.gguf")).unwrap();
    let expected = read_all(fixture("gguf/tensors.safetensors")).unwrap();
    assert_eq!((file.container(), file.tensors().len()), (Container::Gguf, expected.len()));
    for (name, expected) in &expected {
        let found = file.data(name).unwrap();
        assert_eq!(found.shape().to_vec(), expected.shape().to_vec(), "{name}");
        let bits = |data: &TensorData| numbers(data).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(expected), "{name}");
        if let Some(dtype) = Dtype::from_name(name) {
            assert_eq!(file.tensors()[name].dtype, dtype);
        }
    }
    let about: Vec<_> = file.metadata().iter().map(|(key, value)| (&key[..], &value[..])).collect();
    let version = ("general.quantization_version", "2");
    let expected = [("general.architecture", "sd3"), ("general.name", "a tensor of each type"), version];
    assert_eq!(about, [&expected[..], &[("some.number", "0.5")]].concat());
}

/// The files are compared whole: they were written here once, and the package read them to what lies beside them.
#[test]
fn what_is_written_is_what_the_package_read() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = open_model(&fixture("gguf/source.safetensors")).unwrap();
    for (dtype, name) in [(Dtype::Q8_0, "q8_0"), (Dtype::Q4K, "q4_k")] {
        let written = folder.path().join(name);
        convert_model(&checkpoint, Form::File(Container::Gguf), &written, &|_| Some(dtype)).unwrap();
        let committed = fixture(&format!("gguf/written-{name}.gguf"));
        assert!(std::fs::read(&written).unwrap() == std::fs::read(committed).unwrap(), "{name}");
        let file = TensorFile::open(&written).unwrap();
        for (tensor, expected) in read_all(fixture(&format!("gguf/written-{name}.safetensors"))).unwrap() {
            let found = file.data(&tensor).unwrap();
            assert_eq!(found.shape().to_vec(), expected.shape().to_vec(), "{name}: {tensor}");
            assert_eq!(numbers(&found), numbers(&expected), "{name}: {tensor}");
        }
    }
}

#[test]
fn numbers_are_rounded_to_q8_0_as_the_package_rounds_them() {
    let file = TensorFile::open(fixture("gguf/written-q8_0.gguf")).unwrap();
    let ours = file.raw("joint_blocks.0.x_block.mlp.fc1.weight").unwrap();
    let theirs = TensorFile::open(fixture("gguf/rounded.safetensors")).unwrap();
    assert_eq!((ours.dtype, ours.bytes), (Dtype::Q8_0, theirs.raw("q8_0").unwrap().bytes));
}

/// ggml drops the ones that a shape begins with: the transformer's table of positions has one.
#[test]
fn a_table_of_positions_may_have_lost_its_first_dimension() {
    for dims in [&[64, 9][..], &[64, 9, 1]] {
        let block = "joint_blocks.0.x_block.attn.qkv.weight";
        let file = scratch("x.gguf", &Gguf::of(&[("pos_embed", dims, F32), (block, &[64, 192], Q8_0)]).bytes());
        let checkpoint = open_model(&file.path).unwrap();
        let part = checkpoint.part(PartKind::Transformer).unwrap();
        let shapes = shapes_of(part, &["pos_embed", block]);
        assert_eq!(shapes, [("pos_embed", vec![1, 9, 64]), (block, vec![192, 64])]);
        let (found, report) = load(part, shapes).unwrap();
        assert_eq!((found["pos_embed"].shape().to_vec(), report.tensors), (vec![1, 9, 64], 2));
    }
}

/// What a product takes as it is.
#[test]
fn matrices_in_blocks_are_given_as_blocks() {
    let (block, vector) = ("joint_blocks.0.x_block.attn.qkv.weight", "joint_blocks.0.x_block.attn.qkv.bias");
    let changed = array(5, 2, &[[64, 0, 0, 0], [32, 0, 0, 0]].concat());
    let file = Gguf::of(&[(block, &[64, 192], Q8_0), (vector, &[192], F32), ("odd.weight", &[256, 8], Q8_0)]).value(
        "comfy.gguf.orig_shape.odd.weight",
        9,
        &changed,
    );
    let file = scratch("x.gguf", &file.bytes());
    let checkpoint = open_model(&file.path).unwrap();
    let mut source = checkpoint.part(PartKind::Transformer).unwrap().source();
    let read = source.claim(block, &[192, 64], Init::Zeros);
    assert_eq!(source.stored(block, [192, 64]).unwrap().shape(), [192, 64]);
    assert!(source.stored(block, [64, 192]).is_none() && source.stored(vector, [192, 1]).is_none());
    assert_eq!(read().dtype(), DType::F32, "and may be read all the same");
    // Its rows had 32 numbers before they became 256.
    assert_eq!(source.shape("odd.weight"), Some(vec![64, 32]));
}

#[test]
fn t5_with_llama_cpps_names_is_the_t5_that_it_was_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let safetensors = fixture("sd3/model/text_encoder_3");
    let original = open_model(&safetensors).unwrap();
    let gguf = folder.path().join("t5.gguf");
    convert_model(&original, Form::File(Container::Gguf), &gguf, &|_| None).unwrap();
    let file = TensorFile::open(&gguf).unwrap();
    assert_eq!(file.metadata()["general.architecture"], "t5encoder");
    let theirs = TensorFile::open(safetensors.join("model.safetensors")).unwrap();
    for (llama, official) in [
        ("token_embd", "shared"),
        ("enc.output_norm", "encoder.final_layer_norm"),
        ("enc.blk.0.attn_rel_b", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
        ("enc.blk.2.attn_norm", "encoder.block.2.layer.0.layer_norm"),
        ("enc.blk.2.attn_q", "encoder.block.2.layer.0.SelfAttention.q"),
        ("enc.blk.2.attn_k", "encoder.block.2.layer.0.SelfAttention.k"),
        ("enc.blk.2.attn_v", "encoder.block.2.layer.0.SelfAttention.v"),
        ("enc.blk.2.attn_o", "encoder.block.2.layer.0.SelfAttention.o"),
        ("enc.blk.2.ffn_norm", "encoder.block.2.layer.1.layer_norm"),
        ("enc.blk.2.ffn_gate", "encoder.block.2.layer.1.DenseReluDense.wi_0"),
        ("enc.blk.2.ffn_up", "encoder.block.2.layer.1.DenseReluDense.wi_1"),
        ("enc.blk.2.ffn_down", "encoder.block.2.layer.1.DenseReluDense.wo"),
    ] {
        let [llama, official] = [llama, official].map(|stem| format!("{stem}.weight"));
        assert_eq!(file.raw(&llama), theirs.raw(&official), "{llama}");
    }
    let (original, llama) = (open_as(PartKind::T5, &safetensors).unwrap(), open_as(PartKind::T5, &gguf).unwrap());
    let [original, llama] = [&original, &llama].map(|checkpoint| checkpoint.part(PartKind::T5).unwrap());
    assert_eq!(llama.layout(), Layout::LlamaCpp);
    let names = read_all(safetensors.join("model.safetensors")).unwrap();
    let names: Vec<&str> = names.keys().map(String::as_str).collect();
    let [expected, found] = [original, llama].map(|part| load(part, shapes_of(part, &names)).unwrap().0);
    assert_eq!((expected.len(), &expected), (names.len(), &found));
}

#[test]
fn a_type_that_is_not_read_is_named() {
    let file = scratch("x.gguf", &Gguf::of(&[("a", &[256], 20)]).bytes());
    let error = TensorFile::open(&file.path).unwrap_err();
    assert!(matches!(error, WeightsError::BadGguf { .. }));
    let (problem, hint) = message(&error);
    assert!(problem.contains("IQ4_NL") && hint.contains("Q8_0"), "{error}");
}

#[test]
fn blocks_with_a_scale_that_is_no_number_are_damaged() {
    let block = "joint_blocks.0.x_block.attn.qkv.weight";
    let mut gguf = Gguf::of(&[(block, &[64, 3], Q8_0)]).value("general.architecture", 8, &text("sd3"));
    gguf.data[34..36].copy_from_slice(&[0, 0x7c]);
    let file = scratch("x.gguf", &gguf.bytes());
    let checkpoint = open_model(&file.path).unwrap();
    let error = load(checkpoint.part(PartKind::Transformer).unwrap(), [(block, vec![3, 64])]).unwrap_err();
    assert!(message(&error).0.contains("32 values of `joint_blocks.0.x_block.attn.qkv.weight`"), "{error}");
}
