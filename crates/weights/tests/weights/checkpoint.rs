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
    assert!(matches!(error, WeightsError::EitherClip { .. }), "{error}");
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

#[test]
fn a_configuration_that_is_no_object_is_an_error() {
    for path in ["vae/config.json", "transformer/config.json", "scheduler/scheduler_config.json"] {
        for content in ["[]", "null", "7", "\"{}\""] {
            let model = linked_model("sd3/model");
            let config = model.path().join(path);
            std::fs::remove_file(&config).unwrap();
            std::fs::write(&config, content).unwrap();
            let error = open_model(model.path()).unwrap_err();
            assert!(matches!(error, WeightsError::BadJson { .. }), "{error}");
            assert!(error.to_string().contains(path) && error.to_string().contains("not an object"), "{error}");
        }
    }
}

#[test]
fn a_file_where_a_folder_belongs_is_an_error() {
    for name in ["tokenizer", "tokenizer_3", "text_encoder", "text_encoder_3", "vae", "transformer", "scheduler"] {
        let model = linked_model("sd3/model");
        let path = model.path().join(name);
        std::fs::remove_dir_all(&path).unwrap();
        let check = || {
            let error = open_model(model.path()).unwrap_err();
            assert!(matches!(&error, WeightsError::NotAFolder { path: found } if *found == path), "{error}");
            assert!(message(&error).1.contains("download the folder again"), "{error}");
        };
        std::fs::write(&path, "").unwrap();
        check();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        check();
    }
}

#[test]
fn a_shift_that_is_no_number_is_an_error() {
    let model = linked_model("sd3/model");
    let config = model.path().join("scheduler/scheduler_config.json");
    std::fs::remove_file(&config).unwrap();
    for (json, shift) in [(r#"{"shift": 1.5}"#, Some(1.5)), (r#"{"shift": null}"#, None), ("{}", None)] {
        std::fs::write(&config, json).unwrap();
        assert_eq!(open_model(model.path()).unwrap().shift(), shift, "{json}");
    }
    for stated in [r#""3""#, "[3]", "true"] {
        std::fs::write(&config, format!(r#"{{"shift": {stated}}}"#)).unwrap();
        let error = open_model(model.path()).unwrap_err();
        assert!(matches!(error, WeightsError::BadJson { .. }), "{error}");
        assert!(message(&error).0.contains(&format!("`shift` is {stated}")), "{error}");
    }
}

/// A part's file with a `config.json` beside it.
fn beside(part: &Path, config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(part.canonicalize().unwrap(), folder.path().join("part.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    folder
}

#[test]
fn a_part_alone_has_the_configuration_beside_its_file() {
    for (kind, folder, file, key) in [
        (PartKind::Vae, "vae", "diffusion_pytorch_model.safetensors", "scaling_factor"),
        (PartKind::ClipL, "text_encoder", "model.safetensors", "hidden_act"),
        (PartKind::ClipG, "text_encoder_2", "model.safetensors", "hidden_act"),
        (PartKind::T5, "text_encoder_3", "model.safetensors", "d_kv"),
        (PartKind::Transformer, "transformer", "diffusion_pytorch_model.safetensors", "patch_size"),
    ] {
        let part = fixture("sd3/model").join(folder).join(file);
        let config = |checkpoint: Checkpoint| checkpoint.part(kind).unwrap().config().cloned();
        assert!(config(open_as(kind, &part).unwrap()).unwrap().get(key).is_some(), "{kind}");
        if kind != PartKind::ClipL && kind != PartKind::ClipG {
            assert!(config(open_model(&part).unwrap()).is_some(), "{kind} as a model");
        }
        let without = scratch("part.safetensors", &std::fs::read(&part).unwrap());
        assert_eq!(config(open_as(kind, &without.path).unwrap()), None, "{kind}");
    }
}

#[test]
fn a_configuration_of_something_else_is_not_the_parts() {
    let read = |part: &str| std::fs::read_to_string(fixture(part).join("config.json")).unwrap();
    let narrow = read("sd35m/model/text_encoder");
    let other_latents = read("sd3/model/vae").replace(r#""latent_channels": 16"#, r#""latent_channels": 4"#);
    for (kind, folder, file, config) in [
        (PartKind::ClipL, "text_encoder", "model.safetensors", &narrow),
        (PartKind::ClipL, "text_encoder", "model.safetensors", &read("sd3/model/text_encoder_3")),
        (PartKind::ClipG, "text_encoder_2", "model.safetensors", &read("sd3/model/vae")),
        (PartKind::T5, "text_encoder_3", "model.safetensors", &read("sd35m/model/text_encoder_3")),
        (PartKind::Vae, "vae", "diffusion_pytorch_model.safetensors", &other_latents),
        (PartKind::Vae, "vae", "diffusion_pytorch_model.safetensors", &"{".to_owned()),
        (PartKind::Vae, "vae", "diffusion_pytorch_model.safetensors", &"[1]".to_owned()),
    ] {
        let folder = beside(&fixture("sd3/model").join(folder).join(file), config);
        let checkpoint = open_as(kind, &folder.path().join("part.safetensors")).unwrap();
        assert_eq!(checkpoint.part(kind).unwrap().config(), None, "{kind}: {config}");
    }
    // An official file has several parts, and a `config.json` beside it is none of theirs.
    let folder = beside(&fixture("sd3/official.safetensors"), &read("sd3/model/vae"));
    let checkpoint = open_as(PartKind::Vae, &folder.path().join("part.safetensors")).unwrap();
    assert_eq!(checkpoint.part(PartKind::Vae).unwrap().config(), None);
}

#[test]
fn a_folder_of_loose_files_lists_them() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.safetensors", "a.safetensors", "notes.txt"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    let error = open_model(folder.path()).unwrap_err();
    let WeightsError::LooseFiles { files, .. } = &error else { panic!("{error}") };
    assert_eq!(files[..], ["a.safetensors", "b.safetensors"].map(|name| folder.path().join(name)));
    let (problem, hint) = message(&error);
    assert!(problem.contains("`a.safetensors`") && hint.contains("name one"), "{error}");
}
