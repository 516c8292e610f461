use crate::support::Desk;

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
    assert!(text.contains("missing: T5 text encoder (zeros take its place, or give it with `--t5xxl`)"), "{text}");
}
