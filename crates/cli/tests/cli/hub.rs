//! Models by their id, from a hub that runs inside the test, into a cache of the test's own.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::hub_server::{COMMIT, Does, Server};
use crate::support::{Desk, failed, fixture, png, text};
use crate::training::Started;

const CACHE: &str = "home/hub/models--tiny--sd3";

/// What a test runs with that server as its hub.
struct At<'a> {
    desk: &'a Desk,
    server: &'a Server,
}

impl At<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = self.desk.command(line);
        command.env("HF_ENDPOINT", self.server.endpoint()).env("HF_HOME", self.desk.path("home"));
        command.env_remove("HF_HUB_OFFLINE");
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs a line that must succeed; returns stderr and stdout.
    #[track_caller]
    fn succeed(&self, line: &str) -> (String, String) {
        let output = self.run(line);
        assert!(output.status.success(), "{line}\n{}", text(&output.stderr));
        (text(&output.stderr), text(&output.stdout))
    }

    /// Runs a line that must fail and say all of `parts`.
    #[track_caller]
    fn refused(&self, line: &str, parts: &[&str]) {
        let stderr = failed(line, &self.run(line));
        for part in parts {
            assert!(stderr.contains(part), "{line}: no {part:?} in\n{stderr}");
        }
    }

    fn in_cache(&self, path: &str) -> PathBuf {
        self.desk.path(CACHE).join(path)
    }
}

fn model() -> Server {
    Server::of_folder(&fixture("sd3/model"))
}

const DRAW: &str = "generate a --steps 1 --width 64 --height 48";

#[test]
fn an_id_is_downloaded_once_and_draws_what_the_folder_draws() {
    let (desk, mut server) = (Desk::new(), model());
    desk.succeed(&format!("{DRAW} --model {{sd3/model}} --out folder.png"));
    let at = At { desk: &desk, server: &server };
    let (said, _) = at.succeed(&format!("{DRAW} --model tiny/sd3 --out id.png"));
    assert!(said.contains("tiny/sd3: downloading 17 files, 37.4 MB") && said.contains(" are free"), "{said}");
    let [(folder, _), (id, texts)] = ["folder.png", "id.png"].map(|name| png(&desk.path(name)));
    assert_eq!(id, folder);
    assert!(texts.iter().any(|(_, text)| text.contains("tiny/sd3")), "{texts:?}");

    server.stop();
    let at = At { desk: &desk, server: &server };
    let (said, _) = at.succeed(&format!("{DRAW} --model tiny/sd3 --out again.png"));
    assert!(said.contains("taken from the cache, as it was at commit 01234567"), "{said}");
    assert_eq!(png(&desk.path("again.png")).0, folder);
    let offline =
        at.command(&format!("{DRAW} --model tiny/sd3@{COMMIT} --out offline.png")).env("HF_HUB_OFFLINE", "1").output();
    assert!(offline.unwrap().status.success());
}

#[test]
fn parts_are_taken_singly() {
    let (desk, server) = (Desk::new(), model());
    let at = At { desk: &desk, server: &server };
    let (_, found) = at.succeed("inspect --json tiny/sd3/vae/diffusion_pytorch_model.safetensors");
    assert!(
        found.contains("\"vae\"") && at.in_cache(&format!("snapshots/{COMMIT}/vae/config.json")).is_file(),
        "{found}"
    );
    at.succeed("inspect tiny/sd3/text_encoder_3");
    assert_eq!(
        (
            server.asked("cdn/text_encoder_3/model.safetensors").len(),
            server.asked("cdn/text_encoder/model.safetensors").len()
        ),
        (1, 0)
    );
    // What an option gives is not downloaded with the model.
    let local = "--t5xxl {sd3/model/text_encoder_3} --vae tiny/sd3/vae --diffusion-model {sd3/model/transformer}";
    at.succeed(&format!("{DRAW} --model tiny/sd3 {local}"));
    assert!(server.asked("cdn/transformer/diffusion_pytorch_model.safetensors").is_empty());
    at.refused("inspect tiny/sd3/none.safetensors", &["tiny/sd3 has no `none.safetensors`", "hint: "]);
    at.refused(
        "inspect tiny/sd3/model_index.json",
        &["`model_index.json` of tiny/sd3 is no .safetensors or .gguf file"],
    );
    at.succeed("convert tiny/sd3/vae --dtype bf16 --out vae.safetensors");
}

/// Of a repository: names and contents.
type Files<'f> = &'f [(&'f str, &'f [u8])];

#[test]
fn repositories_of_something_else_say_what_they_have() {
    let desk = Desk::new();
    let flux = br#"{"_class_name":"FluxPipeline"}"#;
    let cases: [(Files<'_>, &[&str]); 4] = [
        (
            &[("model.onnx", b"ONNX"), ("README.md", b"#")],
            &["it has `model.onnx` (4 B), `README.md`", "no .safetensors or .gguf file"],
        ),
        (
            &[("a.safetensors", b"a"), ("b.safetensors", b"b")],
            &["several .safetensors or .gguf files", "hint: name one of them"],
        ),
        (&[("model_index.json", flux), ("transformer/model.safetensors", b"x")], &["it is a `FluxPipeline`"]),
        (&[("unet/model.bin", b"x")], &["`unet/model.bin` (1 B)", "no .safetensors or .gguf file"]),
    ];
    for (files, parts) in cases {
        let server = Server::start(files);
        At { desk: &desk, server: &server }.refused("inspect tiny/sd3", parts);
    }
    let lora: Files<'_> = &[("lora.safetensors", &lora())];
    At { desk: &desk, server: &Server::start(lora) }
        .refused(&format!("{DRAW} --model tiny/sd3"), &["but a LoRA", "hint: "]);
}

/// A file with one tensor, as LoRAs name theirs.
fn lora() -> Vec<u8> {
    let header = r#"{"transformer.x.lora_A.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat()
}

#[test]
fn a_hub_that_refuses_is_said_with_what_to_do() {
    let (desk, server) = (Desk::new(), model());
    let at = At { desk: &desk, server: &server };
    server.fault("model_index.json", Does::Refuse(401, "GatedRepo"), 1);
    at.refused(&format!("{DRAW} --model tiny/sd3"), &["tiny/sd3 is gated", "hint: accept it on", "HF_TOKEN"]);
    at.refused(&format!("{DRAW} --model tiny/none"), &["there is no file or folder `tiny/none`, and no repository"]);
    at.refused(&format!("{DRAW} --model tiny/sd3@v9"), &["no branch, tag or commit `v9`"]);
    server.fault("cdn/vae/diffusion_pytorch_model.safetensors", Does::Damage, 1);
    at.refused(
        "inspect tiny/sd3/vae",
        &["`vae/diffusion_pytorch_model.safetensors` of tiny/sd3 was damaged on its way"],
    );
    let mut command = at.command("inspect tiny/sd3");
    let output = command.env("HF_ENDPOINT", "hub").output().unwrap();
    assert!(failed("HF_ENDPOINT=hub", &output).contains("`HF_ENDPOINT` is `hub`"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_download_that_is_gone_on_with() {
    let (desk, server) = (Desk::new(), model());
    let at = At { desk: &desk, server: &server };
    const FILE: &str = "cdn/text_encoder_3/model.safetensors";
    server.fault(FILE, Does::Stall(1_000_000), 1);
    let line = "inspect tiny/sd3/text_encoder_3";
    let mut started = Started::of(&mut at.command(line));
    let has_begun = || {
        let blobs = std::fs::read_dir(at.in_cache("blobs"));
        blobs
            .is_ok_and(|mut blobs| blobs.any(|blob| blob.unwrap().metadata().is_ok_and(|file| file.len() == 1_000_000)))
    };
    started.until("a part of the file", has_begun);
    started.signal("INT");
    assert!(!started.wait().status.success());
    let (said, _) = at.succeed(line);
    assert!(said.contains("8.0 MB (1.0 MB are there)"), "{said}");
    assert_eq!(server.asked(FILE), ["", "bytes=1000000-"]);
}

#[test]
fn a_training_takes_encoders_by_their_id_and_keeps_to_the_commit() {
    let (desk, server) = (Desk::new(), model());
    let at = At { desk: &desk, server: &server };
    let art = fixture("../assets/sprites");
    let recipe = format!(
        "steps = 1\nbatch = 2\nobjective = {{ kind = \"flow\" }}\nmodel = {{ kind = \"mmdit\", depth = 1, grid = 8 }}\n\
         schedule = {{ learning_rate = 1e-3 }}\nvalidation = {{ every = 0 }}\n\
         data = {{ encoders = \"tiny/sd3\", source = {{ kind = \"sprites\", path = \"{}\", count = 4, side_px = 32 }} }}",
        art.display()
    );
    std::fs::write(desk.path("recipe.toml"), recipe).unwrap();
    at.succeed("train recipe.toml --out run");
    let plan = std::fs::read_to_string(desk.path("run/plan.toml")).unwrap();
    assert!(plan.contains(&format!("models--tiny--sd3/snapshots/{COMMIT}")), "{plan}");
    assert!(server.asked("cdn/transformer/diffusion_pytorch_model.safetensors").is_empty());
    // The model stands without the cache.
    std::fs::remove_dir_all(desk.path("home")).unwrap();
    desk.succeed("inspect run/model");
}
