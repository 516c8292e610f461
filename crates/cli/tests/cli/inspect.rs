use crate::support::{Desk, Tensors, fixture, read, under, write};

#[test]
fn a_folder_and_a_file_say_what_they_are() {
    let desk = Desk::new();
    let folder = desk.succeed("inspect {sd35m/model}");
    assert!(folder.contains("MMDiT, depth 2, width 128, QK-norm, 1 dual-attention layers"), "{folder}");
    assert!(folder.contains("diffusers") && folder.contains("complete"), "{folder}");
    let file = desk.succeed("inspect {sd3/official.safetensors}");
    assert!(file.contains("official") && file.contains("F16") && file.contains("complete"), "{file}");
}

#[test]
fn json_counts_parameters_as_the_reference_does() {
    // The autoencoder of the fixture, counted by hand from its config: see the sum of its tensors' shapes.
    let desk = Desk::new();
    let json = desk.succeed("inspect --json {sd3/model}");
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let parts = report["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 5);
    for part in parts {
        let file = part["files"][0].as_str().unwrap();
        let tensors = crate::support::read(file.as_ref());
        let counted: usize = tensors
            .iter()
            .filter(|(name, _)| !name.contains("pos_embed.pos_embed"))
            .map(|(_, tensor)| tensor.shape.iter().product::<usize>())
            .sum();
        assert_eq!(part["parameters"], counted, "{part}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let desk = Desk::new();
    let text = desk.succeed("inspect {sd3/model/transformer/diffusion_pytorch_model.safetensors}");
    assert!(text.contains("missing: autoencoder (needed to draw; give it with `--vae`)"), "{text}");
    // `generate` wants one of the three.
    for (encoder, flag) in [("CLIP-L", "--clip-l"), ("CLIP-G", "--clip-g"), ("T5", "--t5xxl")] {
        let need =
            format!("missing: {encoder} text encoder (at least one text encoder is needed; give it with `{flag}`)");
        assert!(text.contains(&need), "{text}");
    }

    let mut official = read(&fixture("sd3/official.safetensors"));
    official.retain(|name, _| !name.starts_with("text_encoders.t5xxl.") && !name.starts_with("text_encoders.clip_g."));
    write(&desk.path("clip_l_only.safetensors"), &official);
    let text = desk.succeed("inspect clip_l_only.safetensors");
    assert!(text.contains("missing: T5 text encoder (zeros take its place, or give it with `--t5xxl`)"), "{text}");
    assert!(text.contains("enough") && !text.contains("complete"), "{text}");
}

/// What `generate` would refuse is no complete model.
#[test]
fn parts_that_do_not_fit_are_not_called_complete() {
    let desk = Desk::new();
    let official = read(&fixture("sd3/official.safetensors"));
    let prefix = "model.diffusion_model.";
    let check = |change: &dyn Fn(&mut Tensors), parts: &[&str]| {
        let mut tensors = official.clone();
        change(&mut tensors);
        write(&desk.path("x.safetensors"), &tensors);
        let text = desk.succeed("inspect x.safetensors");
        for part in parts.iter().chain(&["x.safetensors", "wrong: ", "hint: ", "autoencoder"]) {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains("complete:") && !text.contains("`rectiflow inspect`"), "{text}");
        desk.fail("generate a --model x.safetensors");
        let json: serde_json::Value = serde_json::from_str(&desk.succeed("inspect --json x.safetensors")).unwrap();
        assert_eq!((&json["can_draw"], json["wrong"].as_array().unwrap().len()), (&false.into(), 1), "{json}");
    };
    let lost = "joint_blocks.0.x_block.mlp.fc1.weight";
    check(&|tensors| drop(tensors.remove(&format!("{prefix}{lost}"))), &[lost, "1 tensors missing"]);
    let bias = "text_encoders.t5xxl.transformer.encoder.final_layer_norm.weight";
    check(&|tensors| tensors.get_mut(bias).unwrap().shape.push(1), &[bias, "1 of another shape"]);
    let embedder = "x_embedder.proj.weight";
    check(
        &|tensors| drop(tensors.remove(&format!("{prefix}{embedder}"))),
        &[embedder, "unknown transformer", "not an SD3 transformer"],
    );
    // Each part is whole, and they are not of one model.
    let other = read(&fixture("sd35m/model/text_encoder_3/model.safetensors"));
    check(
        &|tensors| {
            for (name, tensor) in &other {
                tensors.insert(format!("text_encoders.t5xxl.transformer.{name}"), tensor.clone());
            }
        },
        &["T5's tokens"],
    );
}

/// Values are not read: that a tensor is not finite is for `generate` to find.
#[test]
fn values_are_not_looked_at() {
    let desk = Desk::new();
    let mut official = read(&fixture("sd3/official.safetensors"));
    official.get_mut("model.diffusion_model.pos_embed").unwrap().bytes.fill(0xff);
    write(&desk.path("x.safetensors"), &official);
    assert!(desk.succeed("inspect x.safetensors").contains("complete"));
}

#[test]
fn names_from_a_file_cannot_command_the_terminal() {
    let desk = Desk::new();
    let mut official = read(&fixture("sd3/official.safetensors"));
    let one = official["model.diffusion_model.x_embedder.proj.bias"].clone();
    official.insert("\u{1b}[2J\u{7}unknown".into(), one.clone());
    official.insert("model.diffusion_model.joint_blocks.0.\u{1b}[2J".into(), one);
    write(&desk.path("x.safetensors"), &official);
    let text = desk.succeed("inspect x.safetensors");
    assert!(text.contains("1 more tensors (unknown)") && text.contains("1 unexpected"), "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn a_clip_of_unusual_width_has_a_table_too() {
    let desk = Desk::new();
    let official = read(&fixture("sd3/official.safetensors"));
    for encoder in ["clip_l", "clip_g"] {
        write(&desk.path("x.safetensors"), &under(&official, &format!("text_encoders.{encoder}.transformer.")));
        let text = desk.succeed("inspect x.safetensors");
        assert!(text.contains("CLIP text encoder") && text.contains("F16 x"), "{text}");
        assert!(text.contains("one of the two CLIP text encoders, of unusual width"), "{text}");
        assert!(!text.contains("wrong") && !text.contains("CLIP-L") && !text.contains("CLIP-G"), "{text}");
        let stderr = desk.fail("generate a --model x.safetensors");
        assert!(stderr.contains("`--clip-l` or `--clip-g`"), "{stderr}");
    }
}

#[test]
fn a_folder_of_loose_files_has_each_of_them_reported() {
    let desk = Desk::new();
    let official = read(&fixture("sd3/official.safetensors"));
    std::fs::create_dir(desk.path("models")).unwrap();
    write(&desk.path("models/vae.safetensors"), &under(&official, "first_stage_model."));
    write(&desk.path("models/t5.safetensors"), &under(&official, "text_encoders.t5xxl.transformer."));
    std::fs::write(desk.path("models/broken.safetensors"), "x").unwrap();
    let text = desk.succeed("inspect models");
    for part in ["models/vae.safetensors: ", "autoencoder", "T5 text encoder", "models/broken.safetensors: ", "1 bytes"]
    {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&desk.succeed("inspect --json models")).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3);
    assert_eq!(json[1]["parts"][0]["part"], "t5");
    let stderr = desk.fail("generate a --model models");
    assert!(stderr.contains("`t5.safetensors`") && stderr.contains("hint: name one of the files"), "{stderr}");
}

#[test]
fn a_text_is_not_an_interrupted_download() {
    let desk = Desk::new();
    std::fs::write(desk.path("README.md"), "# Rectiflow\n\nStable Diffusion 3 on your own machine\n").unwrap();
    let stderr = desk.fail("inspect README.md");
    assert!(stderr.contains("is not a safetensors file") && !stderr.contains("interrupted"), "{stderr}");
}
