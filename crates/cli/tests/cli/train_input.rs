//! Recipes, data and models that cannot be trained with: what, where and what next, and nothing half written.

use crate::support::{Desk, fixture, text};
use crate::training::pictures;

const RECIPE: &str = r#"
steps = 2
batch = 3
precision = "f32"
[objective]
kind = "flow"
[model]
kind = "mmdit"
depth = 1
grid = 8
[data]
encoders = "MODEL"
source = { path = "pictures", side_px = 32 }
[schedule]
learning_rate = 1e-3
[validation]
every = 0
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    pictures(&desk.path("pictures"), 12);
    desk
}

/// Writes `recipe.toml` with a change; `NAME/model` in it stands for a fixture's path.
#[track_caller]
fn recipe(desk: &Desk, from: &str, to: &str) {
    assert!(RECIPE.contains(from), "{from}");
    let mut recipe = RECIPE.replacen(from, to, 1).replace("MODEL", "empty/model");
    for name in ["empty/model", "sd3/model"] {
        recipe = recipe.replace(name, fixture(name).to_str().unwrap());
    }
    std::fs::write(desk.path("recipe.toml"), recipe).unwrap();
}

/// The line ends with status 2, says each of `parts`, and leaves the folder as it was.
#[track_caller]
fn refused(desk: &Desk, line: &str, parts: &[&str]) {
    let before = desk.files();
    let output = desk.run(line);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for part in parts.iter().chain(&["hint: "]) {
        assert!(said.contains(part), "{line}: no {part:?} in\n{said}");
    }
    assert_eq!(desk.files(), before, "{line}");
}

#[test]
fn recipes_that_cannot_be_read_are_refused() {
    let desk = desk();
    let put = |name: &str, bytes: &[u8]| std::fs::write(desk.path(name), bytes).unwrap();
    put("latin.toml", b"# caf\xe9\nsteps = 1\n");
    put("empty.toml", b"");
    put("broken.toml", b"steps = 1\nbatch = [1\n");
    for (name, parts) in [
        ("nowhere.toml", &["nowhere.toml cannot be read", "recipes/ are examples"][..]),
        ("pictures", &["that is a folder"]),
        ("latin.toml", &["save it as UTF-8"]),
        ("empty.toml", &["empty.toml: `steps` is missing"]),
        ("broken.toml", &["broken.toml, line 2, `batch = [1`: "]),
    ] {
        refused(&desk, &format!("train {name} --out run"), parts);
        refused(&desk, &format!("cache {name} --out cache"), parts);
    }
    recipe(&desk, "", "");
    refused(&desk, "cache recipe.toml", &["the recipe names no cache", "set `data.cache`"]);
    refused(&desk, "train recipe.toml --out run --steps 0", &["`steps` is 0"]);
    let said = desk.fail("train recipe.toml --out run --checkpoint-every 0");
    assert!(said.contains("0 is not in 1.."), "{said}");
}

#[test]
fn settings_that_are_misspelt_mistyped_or_impossible_are_refused() {
    let desk = desk();
    for (from, to, parts) in [
        ("steps = 2", "stepz = 2", &["recipe.toml, line 2: `stepz` is not a setting", "did you mean `steps`?"][..]),
        ("depth = 1", "heads = 1", &["line 9: `heads` is not a setting", "depth"]),
        ("\"mmdit\"", "\"mmdi\"", &["`mmdi` is no value for this setting", "did you mean `mmdit`?"]),
        ("\"f32\"", "\"fp32\"", &["did you mean `f32`?"]),
        ("steps = 2", "steps = 2.5", &["line 2, `steps = 2.5`", "expected a whole number"]),
        ("steps = 2", "steps = -2", &["integer `-2`, expected a whole number from 0 on"]),
        ("batch = 3", "batch = 0", &["expected a whole number from 1 on"]),
        ("batch = 3", "batch = \"3\"", &["string \"3\"", "without quotes"]),
        ("side_px = 32", "side_px = \"32px\"", &["string \"32px\"", "units"]),
        ("1e-3", "\"1e-3\"", &["expected a number"]),
        ("1e-3", "0.1\nwarmup_steps = true", &["boolean `true`"]),
        ("depth = 1", "depth = 0", &["expected a whole number from 1 on"]),
        ("depth = 1", "", &["`model.depth` is missing"]),
        ("depth = 1", "depth = 1000000", &["`model.depth` is 1000000, and at most"]),
        ("\"flow\"", "\"flow\"\ndropout = 0.1", &["floating point `0.1`, expected a table"]),
        ("[schedule]", "[optimizer]\nbetas = [0.9, 0.9, 0.9]\n[schedule]", &["3 numbers where there must be 2"]),
        ("every = 0", "every = 0\n[samples]\nevery = 1\nprompts = [\"a\"]\nsteps = 9000000", &["`samples.steps`"]),
        ("batch = 3", "batch = 3\naccumulate = 2", &["`accumulate` is 2, which does not divide the batch of 3"]),
        ("\"flow\"", "\"flow\"\nformulation = \"rf/none\"", &["`objective.formulation`", "rectiflow formulations"]),
        ("\"flow\"", "\"flow\"\nshift = -1", &["`objective.shift` is -1"]),
        ("\"mmdit\"\ndepth = 1\ngrid = 8", "\"autoencoder\"", &["`model.kind` is \"autoencoder\"", "give mmdit"]),
        ("depth = 1", "depth = 1\nposition_crop = 7", &["`model.position_crop` is 7"]),
        ("depth = 1", "depth = 1\ntoken_sets = 4", &["`model.token_sets` is 4"]),
        ("depth = 1", "depth = 1\ndual_attention_layers = [1]", &["names block 1, and the depth is 1"]),
        ("\"mmdit\"", "\"dit\"\ntoken_sets = 3", &["`model.token_sets` is for mmdit"]),
        ("\"mmdit\"", "\"dit\"\ndual_attention_layers = [0]", &["`model.dual_attention_layers` is for mmdit"]),
        ("grid = 8", "grid = 1", &["`model.grid` is 1, and a picture of 32x32 px has 2 patches on a side"]),
        ("side_px = 32", "side_px = 40", &["the size 40x40 has a side that is no multiple of 16 px"]),
        (
            "side_px = 32",
            "side_px = 128, crop = \"buckets\", buckets = { ratio_max = 3 }",
            &["`model.grid` is 8, and a picture of 192x64 px has 12 patches on a side", "smaller pictures"],
        ),
        (
            "side_px = 32",
            "side_px = 40, crop = \"buckets\", buckets = [[32, 32]]",
            &["`data.source` makes pictures of 40x40 px, which are not in patches of 16 px"],
        ),
        ("side_px = 32", "side_px = 0", &["`data.source.side_px` is missing"]),
        ("every = 0", "every = 1\nsamples = 0", &["`validation.samples` is 0"]),
        ("every = 0", "every = 0\n[samples]\nevery = 1", &["`samples.prompts` is empty"]),
        ("encoders = \"MODEL\"", "", &["`data.encoders` is missing"]),
    ] {
        recipe(&desk, from, to);
        refused(&desk, "train recipe.toml --out run", parts);
    }
}

#[test]
fn models_that_are_not_there_or_do_not_fit_are_refused() {
    let desk = desk();
    let vae = "empty/model/vae/diffusion_pytorch_model.safetensors";
    let from = |path: &str| format!("from = \"{path}\"");
    for (line, to, parts) in [
        (
            "encoders = \"MODEL\"",
            "encoders = \"nowhere\"".to_owned(),
            &["`data.encoders`", "`nowhere` does not exist"][..],
        ),
        (
            "encoders = \"MODEL\"",
            "encoders = \"pictures\"".into(),
            &["`data.encoders`", "no .safetensors or .gguf file"],
        ),
        ("depth = 1", from("nowhere"), &["`model.from` cannot be used: `nowhere` does not exist"]),
        ("depth = 1", from(vae), &["`model.from` cannot be used", "hold no transformer"]),
        ("depth = 1", from("pictures"), &["`model.from`", "no .safetensors or .gguf file"]),
        ("depth = 1", from("sd3/model"), &["`model.from` takes texts of width", "of the same release"]),
        ("depth = 1", format!("{}\ndepth = 9", from("empty/model")), &["`model.depth` is 9, and the checkpoint has"]),
        ("side_px = 32", "side_px = 4096".into(), &["`model.grid` is 8", "256 patches on a side"]),
    ] {
        recipe(&desk, line, &to);
        refused(&desk, "train recipe.toml --out run", parts);
    }
    recipe(&desk, "", "");
    refused(&desk, "train recipe.toml --out pictures/run", &["`pictures/run` lies in `pictures`, its data"]);
    let inside = fixture("empty/model/tokenizer/run");
    let line = format!("train recipe.toml --out {}", inside.display());
    refused(&desk, &line, &["lies in", "the model whose encoders it takes"]);
    recipe(&desk, "encoders = \"MODEL\"", "encoders = \"nowhere\"");
    refused(&desk, "cache recipe.toml --out cache", &["`data.encoders` cannot be used: `nowhere` does not exist"]);
}

#[test]
fn data_that_is_not_there_or_not_enough_is_refused() {
    let desk = desk();
    let folder = |name: &str| std::fs::create_dir(desk.path(name)).unwrap();
    folder("nothing");
    folder("one");
    folder("silent");
    for (from, to) in [("00.png", "one/a.png"), ("00.txt", "one/a.txt"), ("00.png", "silent/a.png")] {
        std::fs::copy(desk.path("pictures").join(from), desk.path(to)).unwrap();
    }
    for (to, parts) in [
        ("path = \"nowhere\"", &["`nowhere` does not exist", "`data.source.path`"][..]),
        ("path = \"nothing\"", &["`nothing` is not a data set", "0 files"]),
        ("path = \"one\"", &["1 samples are left to train on, and a batch has 3"]),
        ("path = \"silent\"", &["no sample of `silent` has a caption", "without_caption"]),
        ("path = \"pictures\", captions = { prompt = 1 }", &["has a caption `prompt`", "`caption`"]),
        ("path = \"pictures\", kind = \"sprites\", count = 5", &["concepts.json", "assets/sprites"]),
        ("path = \"pictures\", kind = \"sprites\"", &["`count` is missing"]),
        ("path = \"pictures\", kind = \"sprites\", count = 5, flip = true", &["`flip` is set, and scenes have words"]),
        ("path = \"pictures\", count = 5", &["`count` is for scenes"]),
        ("path = \"recipe.toml\"", &["`recipe.toml` is not a data set"]),
    ] {
        recipe(&desk, "path = \"pictures\"", to);
        refused(&desk, "train recipe.toml --out run", parts);
    }
    recipe(&desk, "side_px = 32", "side_px = 64");
    refused(&desk, "train recipe.toml --out run", &["32x32 px and would be enlarged to 64x64", "set `enlarge = true`"]);
}

#[test]
fn pictures_that_are_damaged_are_left_out_and_listed() {
    let desk = desk();
    let damaged = |name: &str, bytes: &[u8]| std::fs::write(desk.path("pictures").join(name), bytes).unwrap();
    let whole = std::fs::read(desk.path("pictures/03.png")).unwrap();
    damaged("00.png", b"");
    damaged("01.png", b"hello");
    damaged("02.png", &whole[..20]);
    std::fs::remove_file(desk.path("pictures/04.txt")).unwrap();
    recipe(&desk, "", "");
    let said = text(&desk.run("train recipe.toml --out run").stderr);
    for part in ["8 samples", "4 left out", "`00.png`", "`01.png`", "`02.png`", "`04.png`", "step 2/2  finished"] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    // More than are shown, with their numbers.
    assert!(said.contains("all are listed in run/left-out.jsonl"), "{said}");
    let listed = std::fs::read_to_string(desk.path("run/left-out.jsonl")).unwrap();
    let ids: Vec<&str> = listed.lines().map(|line| line.split('"').nth(5).unwrap()).collect();
    assert_eq!(ids, ["00.png", "01.png", "02.png", "04.png"]);
    assert!(listed.ends_with("{\"sample\":4,\"id\":\"04.png\",\"reason\":\"it has no caption\"}\n"), "{listed}");

    // Damage that the header does not show is found when pixels are looked at.
    damaged("03.png", &whole[..whole.len() - 30]);
    recipe(&desk, "batch = 3", "batch = 8");
    let said = desk.fail("train recipe.toml --out all");
    assert!(said.contains("step 0: 03.png: ") && said.contains("`check = \"pixels\"`"), "{said}");
    recipe(&desk, "side_px = 32", "side_px = 32, check = \"pixels\"");
    let said = text(&desk.run("train recipe.toml --out some").stderr);
    assert!(said.contains("5 left out") && said.contains("`03.png`") && said.contains("finished"), "{said}");
}

#[test]
fn validation_that_is_smaller_than_asked_for_is_said() {
    let desk = desk();
    recipe(&desk, "every = 0", "every = 1\nsamples = 100");
    let said = text(&desk.run("train recipe.toml --out run").stderr);
    assert!(said.contains("samples kept for validation: 1 instead of 100") && said.contains("finished"), "{said}");
}

#[test]
fn caches_that_are_not_there_not_whole_or_of_something_else_are_refused() {
    let desk = desk();
    let cached = |to: &str| recipe(&desk, "encoders = \"MODEL\"", &format!("{to}\ncache = \"cache\""));
    cached("encoders = \"MODEL\"");
    refused(&desk, "train recipe.toml --out run", &["`cache` holds no cache", "`rectiflow cache`"]);
    desk.succeed("cache recipe.toml");
    for (to, part) in [
        ("encoders = \"sd3/model\"", "made with another `CLIP-G`"),
        ("encoders = \"MODEL\"\nencoding = { t5_tokens = 100 }", "made with another `kind of text features`"),
        ("encoders = \"MODEL\"\nencoding = { latent = \"mean\" }", "made with another `kind of latents`"),
    ] {
        cached(to);
        refused(&desk, "train recipe.toml --out run", &[part]);
        refused(&desk, "cache recipe.toml", &[part]);
    }
    cached("encoders = \"MODEL\"");
    std::fs::remove_file(desk.path("cache/manifest.json")).unwrap();
    refused(&desk, "train recipe.toml --out run", &["the cache in `cache` is not complete", "goes on where it ended"]);
    desk.succeed("cache recipe.toml");
    let shards = std::fs::read_dir(desk.path("cache/shards")).unwrap().map(|entry| entry.unwrap().path());
    shards.for_each(|shard| std::fs::write(shard, "half").unwrap());
    refused(&desk, "train recipe.toml --out run", &["the shard `cache/shards/", "is damaged"]);
    // Made again, it is trained on.
    desk.succeed("cache recipe.toml --verify");
    desk.succeed("train recipe.toml --out run");
}
