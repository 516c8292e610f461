//! The official file and the diffusers folder of the same tiny model must give the same tensors, bit for bit.

use rectiflow_nn::{ParamSource, StoredMatrix};
use rectiflow_weights::{Layout, Part, PartKind, TensorFile};

use crate::craft::{fixture, load, open_as, open_model, shapes_of};

const PREFIXES: [(PartKind, &str); 5] = [
    (PartKind::Transformer, "model.diffusion_model."),
    (PartKind::Vae, "first_stage_model."),
    (PartKind::ClipL, "text_encoders.clip_l.transformer."),
    (PartKind::ClipG, "text_encoders.clip_g.transformer."),
    (PartKind::T5, "text_encoders.t5xxl.transformer."),
];

#[test]
fn every_official_tensor_is_found_in_the_diffusers_folder_bit_for_bit() {
    let raw = TensorFile::open(fixture("sd3/official.safetensors")).unwrap();
    let official = open_model(&fixture("sd3/official.safetensors")).unwrap();
    let diffusers = open_model(&fixture("sd3/model")).unwrap();
    for (kind, prefix) in PREFIXES {
        let names: Vec<&str> = raw.tensors().keys().filter_map(|name| name.strip_prefix(prefix)).collect();
        let (ours, theirs) = (official.part(kind).unwrap(), diffusers.part(kind).unwrap());
        let shapes = shapes_of(ours, &names);
        assert!(shapes.len() == names.len() && names.len() > 20, "{kind}: {} of {}", shapes.len(), names.len());

        let (expected, report) = load(ours, shapes.clone()).unwrap();
        let (found, _) = load(theirs, shapes).unwrap();
        assert_eq!(report.tensors, names.len());
        for (name, data) in &expected {
            assert_eq!(&found[name], data, "{kind}: {name}");
            let stored = raw.raw(&format!("{prefix}{name}")).unwrap();
            assert_eq!(&data.bytes()[..], stored.bytes, "{kind}: {name}");
        }
        assert_eq!(ours.inventory().parameters, theirs.inventory().parameters, "{kind}");
    }
    assert_eq!(official.part(PartKind::Vae).unwrap().layout(), Layout::Official);
    assert_eq!(diffusers.part(PartKind::Vae).unwrap().layout(), Layout::Diffusers);
}

/// What would be a copy in memory can be read again and again; what is the file itself is not.
#[test]
fn joined_matrices_are_read_where_they_are_used() {
    let [folder, file] = ["sd3/model", "sd3/official.safetensors"].map(|model| open_model(&fixture(model)).unwrap());
    let [folder, file] = [&folder, &file].map(|checkpoint| checkpoint.part(PartKind::Transformer).unwrap());
    let stored_of = |part: &Part, name: &str| {
        let source = part.source();
        source.stored(name, source.shape(name).unwrap().try_into().unwrap())
    };
    let [joined, single] = ["joint_blocks.0.x_block.attn.qkv.weight", "joint_blocks.0.x_block.mlp.fc1.weight"];
    let Some(StoredMatrix::Reread(matrix)) = stored_of(folder, joined) else { panic!("it is in three pieces") };
    let whole = stored(file, &format!("model.diffusion_model.{joined}"));
    for _ in 0..2 {
        assert!(matrix.read().bytes()[..] == whole);
    }
    for (part, name) in [(file, joined), (folder, single), (file, single)] {
        assert!(stored_of(part, name).is_none(), "{name}");
    }
}

/// Each part's file of the folder, given alone, is the part.
#[test]
fn a_file_of_the_folder_can_be_given_alone() {
    let folder = open_model(&fixture("sd3/model")).unwrap();
    for (kind, file) in [
        (PartKind::Transformer, "transformer/diffusion_pytorch_model.safetensors"),
        (PartKind::Vae, "vae/diffusion_pytorch_model.safetensors"),
        (PartKind::ClipL, "text_encoder/model.safetensors"),
        (PartKind::ClipG, "text_encoder_2/model.safetensors"),
        (PartKind::T5, "text_encoder_3"),
    ] {
        let alone = open_as(kind, &fixture("sd3/model").join(file)).unwrap();
        assert_eq!(alone.part(kind).unwrap().inventory(), folder.part(kind).unwrap().inventory(), "{kind}");
    }
}

/// MMDiT-X, sharded. Its names are listed here as the model's code has them.
#[test]
fn every_tensor_of_a_sharded_mmdit_x_has_an_official_name() {
    let checkpoint = open_model(&fixture("sd35m/model")).unwrap();
    let part = checkpoint.part(PartKind::Transformer).unwrap();
    assert_eq!(part.inventory().files.len(), 2);

    let names = mmdit_x_names(2);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (found, report) = load(part, shapes_of(part, &names)).unwrap();
    assert_eq!(report.tensors, part.inventory().tensors);

    let has = |name: &str| found.contains_key(name);
    assert!(has("joint_blocks.0.x_block.attn2.ln_q.weight") && !has("joint_blocks.1.x_block.attn2.ln_q.weight"));
    assert!(has("joint_blocks.0.context_block.attn.proj.bias") && !has("joint_blocks.1.context_block.attn.proj.bias"));
    let bytes = |name: &str| found[name].bytes().to_vec();
    let [q, k, v] = ["q", "k", "v"].map(|one| stored(part, &format!("transformer_blocks.0.attn2.to_{one}.weight")));
    assert_eq!(bytes("joint_blocks.0.x_block.attn2.qkv.weight"), [q, k, v].concat());
    let [q, k, v] = ["q", "k", "v"].map(|one| stored(part, &format!("transformer_blocks.1.attn.add_{one}_proj.bias")));
    assert_eq!(bytes("joint_blocks.1.context_block.attn.qkv.bias"), [q, k, v].concat());
}

/// diffusers puts the scale first in the two layers that have no gate, and only there.
#[test]
fn the_last_modulations_halves_are_swapped_and_no_others() {
    let checkpoint = open_model(&fixture("sd35m/model")).unwrap();
    let part = checkpoint.part(PartKind::Transformer).unwrap();
    let names = mmdit_x_names(2);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (found, _) = load(part, shapes_of(part, &names)).unwrap();

    for (official, diffusers, swapped) in [
        ("final_layer.adaLN_modulation.1", "norm_out.linear", true),
        ("joint_blocks.1.context_block.adaLN_modulation.1", "transformer_blocks.1.norm1_context.linear", true),
        ("joint_blocks.0.context_block.adaLN_modulation.1", "transformer_blocks.0.norm1_context.linear", false),
        ("joint_blocks.1.x_block.adaLN_modulation.1", "transformer_blocks.1.norm1.linear", false),
    ] {
        for leaf in ["weight", "bias"] {
            let mut expected = stored(part, &format!("{diffusers}.{leaf}"));
            if swapped {
                let middle = expected.len() / 2;
                expected.rotate_left(middle);
            }
            assert_eq!(found[&format!("{official}.{leaf}")].bytes().to_vec(), expected, "{official}.{leaf}");
        }
    }
}

fn stored(part: &Part, name: &str) -> Vec<u8> {
    let files = part.inventory().files;
    let files = files.iter().map(|path| TensorFile::open(path).unwrap());
    let found: Vec<_> = files.filter_map(|file| Some(file.raw(name)?.bytes.to_vec())).collect();
    found.concat()
}

fn mmdit_x_names(depth: usize) -> Vec<String> {
    let around = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "y_embedder.mlp.0", "y_embedder.mlp.2"];
    let last = ["context_embedder", "final_layer.linear", "final_layer.adaLN_modulation.1"];
    let attention = ["qkv", "proj", "ln_q", "ln_k"];
    let in_block = attention
        .map(|part| format!("attn.{part}"))
        .into_iter()
        .chain(attention.map(|part| format!("attn2.{part}")))
        .chain(["adaLN_modulation.1", "mlp.fc1", "mlp.fc2"].map(str::to_owned));
    let stems = in_block.flat_map(|part| {
        let side = move |side| (0..depth).map(move |i| (i, side));
        side("x_block").chain(side("context_block")).map(move |(i, side)| format!("joint_blocks.{i}.{side}.{part}"))
    });
    let stems = stems.chain(around.into_iter().chain(last).map(str::to_owned));
    let leaves = stems.flat_map(|stem| ["weight", "bias"].map(|leaf| format!("{stem}.{leaf}")));
    leaves.chain(["pos_embed".to_owned()]).collect()
}
