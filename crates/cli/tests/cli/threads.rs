//! How many threads compute is for the user to say, and changes no result.

use crate::support::{Desk, failed, text};

#[test]
fn any_number_of_threads_writes_the_same_files() {
    for (model, precision) in [("sd35m", "f32"), ("sd3", "bf16"), ("deep-unicode", "int8")] {
        let desk = Desk::new();
        let line = format!(
            "generate apple --model {{{model}/model}} --width 80 --height 64 --steps 2 --precision {precision} --count 2"
        );
        let draw = |options: &str, name: &str| {
            desk.succeed(&format!("{line} {options} --out {name}.png --latents-out {name}.safetensors"));
            let paths = [format!("{name}-1.png"), format!("{name}-2.png"), format!("{name}.safetensors")];
            paths.map(|path| std::fs::read(desk.path(&path)).unwrap())
        };
        let one = draw("--threads 1", "one");
        for (options, name) in [("--threads 2", "two"), ("-t 5", "five")] {
            let others = draw(options, name);
            assert!(one == others, "{model} {precision}: {options} wrote other files than --threads 1");
        }
    }
}

/// The number of threads that a bench says it ran on.
fn threads(desk: &Desk, line: &str, variable: Option<&str>) -> serde_json::Value {
    let mut command = desk.command(line);
    command.env_remove("RAYON_NUM_THREADS");
    if let Some(variable) = variable {
        command.env("RECTIFLOW_THREADS", variable);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}\n{}", text(&output.stderr));
    serde_json::from_str::<serde_json::Value>(&text(&output.stdout)).unwrap()["threads"].clone()
}

#[test]
fn the_option_and_the_variable_set_the_number_and_the_option_goes_first() {
    let desk = Desk::new();
    let bench = "bench linear/205 --runs 1 --json";
    assert_eq!(threads(&desk, &format!("{bench} --threads 3"), None), 3);
    assert_eq!(threads(&desk, &format!("--threads 3 {bench}"), Some("2")), 3);
    assert_eq!(threads(&desk, bench, Some("2")), 2);
}

#[test]
fn what_is_no_number_of_threads_is_refused() {
    let desk = Desk::new();
    let draw = "generate a --model {empty/model} --width 32 --height 32 --steps 1";
    for wrong in ["0", "-1", "many", "1000000"] {
        let stderr = desk.fail(&format!("{draw} --threads={wrong}"));
        assert!(stderr.contains(&format!("`{wrong}` is not a number of threads; give 1 to 4096")), "{stderr}");
        let output = desk.command(draw).env("RECTIFLOW_THREADS", wrong).output().unwrap();
        let stderr = failed(draw, &output);
        assert!(stderr.contains("RECTIFLOW_THREADS: `") && stderr.contains("\nhint: "), "{stderr}");
    }
    assert!(desk.files().is_empty());
}
