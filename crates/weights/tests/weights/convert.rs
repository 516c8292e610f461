//! A model in another layout is the same model, to the bit; there and back, the same tensors.

use std::path::{Path, PathBuf};

use rectiflow_weights::{Container, Dtype, Form, PartKind, TensorFile, WeightsError, convert_model, write_safetensors};

use crate::craft::{fixture, message, open_model, safetensors, scratch, tensor, tensors_of, zeros};

const SINGLE: Form = Form::File(Container::Safetensors);
const GGUF: Form = Form::File(Container::Gguf);

fn converted(from: &Path, form: Form, to: PathBuf, dtype: Option<Dtype>) -> PathBuf {
    let converted = convert_model(&open_model(from).unwrap(), form, &to, &|_| dtype).unwrap();
    assert_eq!(converted.left_out, []);
    to
}

/// A part's tensor: name in its file, type, shape and bytes.
type Stored = (PartKind, String, &'static str, Vec<usize>, Vec<u8>);

/// All tensors of a model, by part and name.
fn tensors(model: &Path) -> Vec<Stored> {
    let checkpoint = open_model(model).unwrap();
    let parts = checkpoint.inventory().parts;
    let of = |part: &rectiflow_weights::PartInventory| {
        let kind = part.part;
        let all = part.files.iter().flat_map(|file| tensors_of(file));
        all.map(move |one| (kind, one.name, one.dtype, one.shape, one.bytes)).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = parts.iter().flat_map(of).collect();
    all.sort();
    all
}

#[test]
fn a_folder_becomes_one_file_or_gguf_and_a_folder_again_bit_for_bit() {
    let desk = tempfile::tempdir().unwrap();
    for model in ["sd3", "sd35m"] {
        let folder = fixture(&format!("{model}/model"));
        let path = |name: &str| desk.path().join(format!("{model}-{name}"));
        let original = tensors(&folder);
        assert!(original.len() > 200, "{}", original.len());
        let single = converted(&folder, SINGLE, path("x.safetensors"), None);
        let gguf = converted(&folder, GGUF, path("x.gguf"), None);
        for file in [&single, &gguf] {
            assert!(tensors(&converted(file, Form::Folder, file.with_extension("folder"), None)) == original);
        }
        let through = converted(&gguf, SINGLE, path("y.safetensors"), None);
        assert_eq!(std::fs::read(&through).unwrap(), std::fs::read(&single).unwrap());
        // In f32 and back.
        let wide = converted(&folder, GGUF, path("wide.gguf"), Some(Dtype::F32));
        assert!(tensors(&converted(&wide, Form::Folder, path("narrow"), Some(Dtype::F16))) == original);
    }
}

/// The official file among the fixtures was made by another program.
#[test]
fn the_official_file_is_what_the_folder_becomes() {
    let desk = tempfile::tempdir().unwrap();
    let single = converted(&fixture("sd3/model"), SINGLE, desk.path().join("x.safetensors"), None);
    let [found, expected] = [single, fixture("sd3/official.safetensors")].map(|file| TensorFile::open(file).unwrap());
    let names = |file: &TensorFile| file.tensors().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for name in names(&expected) {
        assert_eq!(found.raw(&name), expected.raw(&name), "{name}");
    }
}

#[test]
fn a_part_that_is_alone_has_no_prefix() {
    let desk = tempfile::tempdir().unwrap();
    let transformer = fixture("sd3/model/transformer/diffusion_pytorch_model.safetensors");
    let gguf = converted(&transformer, GGUF, desk.path().join("x.gguf"), Some(Dtype::Q8_0));
    let file = TensorFile::open(&gguf).unwrap();
    let of = |name: &str| file.tensors()[name].dtype;
    assert_eq!(of("joint_blocks.0.x_block.attn.qkv.weight"), Dtype::Q8_0);
    assert_eq!((of("joint_blocks.0.x_block.attn.qkv.bias"), of("pos_embed")), (Dtype::F16, Dtype::F16));
    assert_eq!((of("context_embedder.weight"), of("x_embedder.proj.weight")), (Dtype::F16, Dtype::F16));
    assert_eq!((&file.metadata()["general.architecture"][..], &file.metadata()["general.file_type"][..]), ("sd3", "7"));
}

/// Rows of blocks are whole, so that queries, keys and values are cut and joined without rounding again.
#[test]
fn blocks_are_rearranged_without_rounding() {
    let desk = tempfile::tempdir().unwrap();
    let path = |name: &str| desk.path().join(name);
    let transformer = fixture("sd35m/model/transformer");
    let q8 = converted(&transformer, GGUF, path("q8.gguf"), Some(Dtype::Q8_0));
    let once = converted(&q8, Form::Folder, path("once"), Some(Dtype::F32));
    let again = converted(&converted(&q8, GGUF, path("again.gguf"), None), Form::Folder, path("f"), Some(Dtype::F32));
    assert!(tensors(&once) == tensors(&again));
    // Numbers that were blocks once become the same blocks.
    let from_wide = converted(&once, GGUF, path("wide.gguf"), Some(Dtype::Q8_0));
    let matrix = "joint_blocks.1.x_block.attn.qkv.weight";
    let [one, other] =
        [&q8, &from_wide].map(|file| TensorFile::open(file).unwrap().raw(matrix).unwrap().bytes.to_vec());
    let apart = one.iter().zip(&other).filter(|(one, other)| one != other).count();
    assert!(apart * 50 < one.len(), "{apart} of {}", one.len());
}

#[test]
fn what_has_no_place_is_refused_or_said() {
    let desk = tempfile::tempdir().unwrap();
    let to = desk.path().join("out");
    let refused = |path: &Path, form, dtype| {
        let error = convert_model(&open_model(path).unwrap(), form, &to, &|_| dtype).unwrap_err();
        message(&error);
        assert!(!to.exists());
        error
    };
    // A type that the file cannot have.
    let fp8 =
        scratch("x.safetensors", &safetensors(&[tensor("joint_blocks.0.a.weight", "F8_E4M3", &[2, 2], vec![0; 4])]));
    assert!(matches!(refused(&fp8.path, GGUF, None), WeightsError::NotHeld { dtype: Dtype::F8E4M3, .. }));
    let q8 = desk.path().join("q8.gguf");
    convert_model(&open_model(&fixture("gguf/source.safetensors")).unwrap(), GGUF, &q8, &|_| Some(Dtype::Q8_0))
        .unwrap();
    assert!(matches!(refused(&q8, SINGLE, None), WeightsError::NotHeld { dtype: Dtype::Q8_0, .. }));
    // A name that diffusers' transformer does not have.
    let odd = scratch("x.safetensors", &safetensors(&[zeros("transformer_blocks.0.attn.to_x.weight", &[2, 2])]));
    assert!(matches!(refused(&odd.path, SINGLE, None), WeightsError::Nameless { .. }));
    // Queries without keys and values.
    let part = scratch("x.safetensors", &safetensors(&[zeros("transformer_blocks.0.attn.to_q.weight", &[2, 2])]));
    assert!(matches!(refused(&part.path, SINGLE, None), WeightsError::Mismatch(_)));
    // A number that 16 bits do not reach.
    let large = desk.path().join("large.safetensors");
    let data = rectiflow_nn::TensorData::new(vec![1e6_f32, 0.0], [2]);
    write_safetensors(&large, &[("joint_blocks.0.a.bias", &data)], &Default::default()).unwrap();
    assert!(matches!(refused(&large, GGUF, Some(Dtype::F16)), WeightsError::TooLargeFor { .. }));

    // A table that T5 has twice has one name in llama.cpp's layout.
    let mut t5 = tensors_of(&fixture("sd3/model/text_encoder_3/model.safetensors"));
    let table = t5.iter().find(|one| one.name == "shared.weight").unwrap().clone();
    t5.push(crate::craft::Tensor { name: "encoder.embed_tokens.weight".into(), ..table });
    let twice = scratch("t5.safetensors", &safetensors(&t5));
    let converted = convert_model(&open_model(&twice.path).unwrap(), GGUF, &to, &|_| None).unwrap();
    assert_eq!(converted.left_out[0].names, ["encoder.embed_tokens.weight"]);
}
