//! Averages of other lengths, made of those that a run kept.

use safetensors::Dtype;

use crate::support::{Desk, Tensors, fixture, read};

const RECIPE: &str = r#"
steps = 6
batch = 4
objective = { kind = "flow" }
model = { kind = "mmdit", depth = 1 }
schedule = { learning_rate = 1e-3 }
ema = [{ kind = "power", sigma_rel = 0.1 }, { kind = "power", sigma_rel = 0.05 }]
validation = { every = 0 }
checkpoint = { every = 2, keep = 1 }
[data]
encoders = "ENCODERS"
source = { path = "scenes", side_px = 32 }
"#;

/// A run of six steps with averages at three of them.
fn trained(recipe: &str) -> Desk {
    let desk = Desk::new();
    desk.succeed("dataset sprites --art {../assets/sprites} --out scenes --count 8 --size 32");
    let recipe = recipe.replace("ENCODERS", &fixture("sd3/model").display().to_string());
    std::fs::write(desk.path("recipe.toml"), recipe).unwrap();
    desk.succeed("train recipe.toml --out run");
    desk
}

fn transformer(desk: &Desk, model: &str) -> Tensors {
    read(&desk.path(model).join("transformer/diffusion_pytorch_model.safetensors"))
}

/// The largest difference of any value.
fn apart(one: &Tensors, other: &Tensors) -> f32 {
    assert!(one.keys().eq(other.keys()));
    let values = |tensors: &Tensors| -> Vec<f32> {
        let of_tensor = |tensor: &crate::support::Stored| {
            assert_eq!(tensor.dtype, Dtype::F32);
            tensor.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>()
        };
        tensors.values().flat_map(of_tensor).collect()
    };
    values(one).iter().zip(values(other)).fold(0.0, |largest, (one, other)| largest.max((one - other).abs()))
}

#[test]
fn an_average_that_was_kept_comes_back_and_others_lie_beside_it() {
    let desk = trained(RECIPE);
    let own = transformer(&desk, "run/model");
    assert_eq!(desk.succeed("ema run --sigma-rel 0.1 --out same").trim(), "same");
    assert!(apart(&own, &transformer(&desk, "same")) < 1e-7);
    desk.succeed("ema run --sigma-rel 0.15 --out longer");
    desk.succeed("ema run --sigma-rel 0.1 --step 4 --out earlier");
    assert!(apart(&own, &transformer(&desk, "longer")) > 1e-6);
    assert!(apart(&own, &transformer(&desk, "earlier")) > 1e-6);
    desk.succeed("generate cat --model longer --width 32 --height 32 --steps 1 --t5-length 77 --out cat.png");

    for (line, expected) in [
        ("ema run --sigma-rel 0.1 --out same", "`same` is there already"),
        ("ema run --sigma-rel 0.4 --out new", "a length of 0.4 is not possible"),
        ("ema run --sigma-rel 0.1 --step 7 --out new", "the last kept average is of step 6"),
        ("ema nowhere --sigma-rel 0.1 --out new", "there is no run in `nowhere`"),
        ("ema run --sigma-rel 0.1 --out run/model/new", "`run/model/new` lies in `run`, the run's own folder"),
    ] {
        let stderr = desk.fail(line);
        assert!(stderr.contains(expected), "{line}: {stderr}");
        assert!(!desk.path("new").exists());
    }
}

#[test]
fn a_run_without_such_averages_says_what_to_do() {
    let desk = trained(&RECIPE.replace("ema = [", "# ["));
    let stderr = desk.fail("ema run --sigma-rel 0.1 --out new");
    assert!(stderr.contains("no kept averages") && stderr.contains("hint: "), "{stderr}");
}
