//! Finding the parts in what a user gives.

use std::path::Path;

use rectiflow_weights::{Checkpoint, ModelPaths, PartKind, WeightsError, Why};

use crate::craft::{fixture, message, open_as, open_model, safetensors, scratch, tensor, tensors_of, zeros};

/// The fixture's folder with links for files, so that a test can change some of it.
fn linked_model(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    link_folder(&fixture(name), copy.path());
    copy
}

fn link_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            link_folder(&entry.path(), &target);
        } else {
            std::os::unix::fs::symlink(entry.path().canonicalize().unwrap(), target).unwrap();
        }
    }
}

#[test]
fn a_diffusers_folder_has_parts_configurations_shift_and_tokenizers() {
    let checkpoint = open_model(&fixture("sd3/model")).unwrap();
    let inventory = checkpoint.inventory();
    assert_eq!((inventory.parts.len(), inventory.missing.len(), inventory.other.len()), (5, 0, 0));
    let vae = checkpoint.part(PartKind::Vae).unwrap();
    assert_eq!(vae.config().unwrap()["scaling_factor"], 1.5305);
    assert_eq!(checkpoint.shift(), Some(3.0));
    assert_eq!(checkpoint.scheduler_config().unwrap()["num_train_timesteps"], 1000);
    assert!(checkpoint.tokenizer_folder(PartKind::T5).unwrap().ends_with("tokenizer_3"));
    assert_eq!(checkpoint.tokenizer_folder(PartKind::Vae), None);
}

#[test]
fn an_official_file_has_parts_and_no_configurations() {
    let checkpoint = open_model(&fixture("sd3/official.safetensors")).unwrap();
    let inventory = checkpoint.inventory();
    assert_eq!((inventory.parts.len(), inventory.missing.len(), inventory.other.len()), (5, 0, 0));
    assert_eq!(checkpoint.shift(), None);
    assert!(checkpoint.part(PartKind::Vae).unwrap().config().is_none());
    let json = serde_json::to_value(&inventory).unwrap();
    assert_eq!(json["parts"][0]["part"], "transformer");
    assert_eq!(json["parts"][0]["layout"], "official");
    assert_eq!(json["parts"][0]["dtypes"]["F16"], inventory.parts[0].tensors);
}

/// Without the table of positions, [1, 576, 128] here.
#[test]
fn parameters_are_counted_as_papers_count_them() {
    let inventory = open_model(&fixture("sd3/official.safetensors")).unwrap().inventory();
    assert_eq!(inventory.parts[0].parameters, inventory.parts[0].bytes / 2 - 576 * 128);
    assert_eq!(inventory.parts[1].parameters, inventory.parts[1].bytes / 2);
}

#[test]
fn a_single_part_replaces_the_models_own() {
    let vae = fixture("sd35m/model/vae/diffusion_pytorch_model.safetensors");
    let paths = ModelPaths {
        model: Some(fixture("sd3/official.safetensors")),
        vae: Some(vae.clone()),
        ..ModelPaths::default()
    };
    let checkpoint = Checkpoint::open(&paths).unwrap();
    assert_eq!(checkpoint.part(PartKind::Vae).unwrap().path(), vae);
    let other = checkpoint.inventory().other;
    assert_eq!((other.len(), other[0].why), (1, Why::Unused(PartKind::Vae)));
    assert!(other[0].names.iter().all(|name| name.starts_with("first_stage_model.")));
}

#[test]
fn what_is_replaced_in_a_folder_may_be_absent_or_damaged() {
    let model = linked_model("sd3/model");
    let file = model.path().join("vae/diffusion_pytorch_model.safetensors");
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(open_model(model.path()), Err(WeightsError::NoWeights { .. })));
    std::fs::write(&file, "damaged").unwrap();
    assert!(matches!(open_model(model.path()), Err(WeightsError::BadHeader { .. })));

    let vae = Some(fixture("sd3/model/vae/diffusion_pytorch_model.safetensors"));
    let paths = ModelPaths { model: Some(model.path().to_owned()), vae, ..ModelPaths::default() };
    assert!(Checkpoint::open(&paths).unwrap().inventory().missing.is_empty());
}

#[test]
fn a_folder_without_t5_lacks_t5_and_says_how_to_give_it() {
    let model = linked_model("sd3/model");
    std::fs::remove_dir_all(model.path().join("text_encoder_3")).unwrap();
    let checkpoint = open_model(model.path()).unwrap();
    assert_eq!(checkpoint.inventory().missing, [PartKind::T5]);
    assert!(checkpoint.part(PartKind::T5).is_none());
    let error = checkpoint.require(PartKind::T5).unwrap_err();
    assert!(message(&error).1.contains("--t5xxl"), "{error}");
}

#[test]
fn a_file_with_the_wrong_flag_is_named_for_what_it_is() {
    let clip = fixture("sd3/model/text_encoder/model.safetensors");
    let vae = fixture("sd3/model/vae/diffusion_pytorch_model.safetensors");
    for (given_as, path, is, give_with) in [
        (PartKind::Vae, &clip, "CLIP", "--clip-l"),
        (PartKind::ClipL, &vae, "autoencoder", "--vae"),
        (PartKind::T5, &vae, "autoencoder", "--vae"),
        (PartKind::Transformer, &clip, "CLIP", "--clip-g"),
    ] {
        let error = open_as(given_as, path).unwrap_err();
        assert!(matches!(error, WeightsError::WrongPart { .. }), "{error}");
        let (problem, hint) = message(&error);
        assert!(problem.contains(given_as.flag()) && problem.contains(is) && hint.contains(give_with), "{error}");
    }
}

#[test]
fn the_two_clips_are_told_apart_by_their_width() {
    for (width, right, wrong) in [(768, PartKind::ClipL, PartKind::ClipG), (1280, PartKind::ClipG, PartKind::ClipL)] {
        let tensors = [
            zeros("text_model.embeddings.token_embedding.weight", &[1, width]),
            zeros("text_model.encoder.layers.0.layer_norm1.weight", &[width]),
        ];
        let file = scratch("clip.safetensors", &safetensors(&tensors));
        assert!(open_as(right, &file.path).is_ok());
        assert!(matches!(open_as(wrong, &file.path), Err(WeightsError::WrongPart { .. })), "{width}");
        assert!(open_model(&file.path).unwrap().part(right).is_some());
    }
    // The tiny ones could be either, so as a model they are ambiguous.
    let error = open_model(&fixture("sd3/model/text_encoder/model.safetensors")).unwrap_err();
    assert!(message(&error).1.contains("`--clip-l` or `--clip-g`"), "{error}");
}

#[test]
fn a_whole_checkpoint_may_be_given_for_one_of_its_parts() {
    let checkpoint = open_as(PartKind::Vae, &fixture("sd3/official.safetensors")).unwrap();
    assert_eq!(checkpoint.inventory().parts.len(), 1);
    let unused: Vec<Why> = checkpoint.inventory().other.iter().map(|other| other.why).collect();
    assert_eq!(unused.len(), 4);
    assert!(!unused.contains(&Why::Unused(PartKind::Vae)) && !unused.contains(&Why::Unknown));
}

#[test]
fn tensors_of_no_known_part_are_listed() {
    let mut tensors = tensors_of(&fixture("sd3/official.safetensors"));
    tensors.push(tensor("text_encoders.clip_l.logit_scale", "F32", &[], vec![0; 4]));
    let file = scratch("model.safetensors", &safetensors(&tensors));
    let other = open_model(&file.path).unwrap().inventory().other;
    assert_eq!((other.len(), other[0].why, other[0].bytes), (1, Why::Unknown, 4));
    assert_eq!(other[0].names, ["text_encoders.clip_l.logit_scale"]);
}

#[test]
fn other_systems_are_recognised_and_refused() {
    for (name, is) in [
        ("model.diffusion_model.input_blocks.0.0.weight", "U-Net"),
        ("double_blocks.0.img_attn.qkv.weight", "FLUX"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "LoRA"),
        ("controlnet_blocks.0.weight", "ControlNet"),
        ("a", "not a part of Stable Diffusion 3"),
    ] {
        let tensors = [zeros(name, &[1]), zeros("transformer_blocks.0.norm.weight", &[1])];
        let file = scratch("other.safetensors", &safetensors(&tensors[..if name == "a" { 1 } else { 2 }]));
        let error = open_model(&file.path).unwrap_err();
        assert!(matches!(error, WeightsError::Unrecognised { .. }), "{error}");
        assert!(message(&error).0.contains(is), "{error}");
    }
}

#[test]
fn nothing_given_is_an_error() {
    let error = Checkpoint::open(&ModelPaths::default()).unwrap_err();
    assert!(message(&error).1.contains("--model"));
}

#[test]
fn a_missing_shard_is_named() {
    let model = linked_model("sd35m/model");
    let shard = "diffusion_pytorch_model-00002-of-00002.safetensors";
    std::fs::remove_file(model.path().join("transformer").join(shard)).unwrap();
    let error = open_model(model.path()).unwrap_err();
    assert!(matches!(&error, WeightsError::MissingShard { shard: lost, .. } if lost == shard), "{error}");
    message(&error);
}

#[test]
fn a_list_of_shards_is_not_believed() {
    let model = linked_model("sd35m/model");
    let index = model.path().join("transformer/diffusion_pytorch_model.safetensors.index.json");
    let list = std::fs::read_to_string(&index).unwrap();
    let check = |list: &str, fits: fn(&WeightsError) -> bool| {
        std::fs::remove_file(&index).unwrap();
        std::fs::write(&index, list).unwrap();
        let error = open_model(model.path()).unwrap_err();
        assert!(fits(&error), "{error}");
        message(&error);
    };
    check(&list.replace("diffusion_pytorch_model-", "../diffusion_pytorch_model-"), |error| {
        matches!(error, WeightsError::BadIndex { .. })
    });
    check(
        &list.replace("context_embedder.bias", "no.such.tensor"),
        |error| matches!(error, WeightsError::ShardLacks { tensors, .. } if tensors == &["no.such.tensor"]),
    );
    check("{", |error| matches!(error, WeightsError::BadIndex { .. }));
}

#[test]
fn a_broken_configuration_is_an_error() {
    let model = linked_model("sd3/model");
    let config = model.path().join("scheduler/scheduler_config.json");
    std::fs::remove_file(&config).unwrap();
    assert_eq!(open_model(model.path()).unwrap().shift(), None);
    std::fs::write(&config, "{").unwrap();
    let error = open_model(model.path()).unwrap_err();
    assert!(matches!(error, WeightsError::BadJson { .. }), "{error}");
}
