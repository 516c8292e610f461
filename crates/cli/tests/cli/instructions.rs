//! Every set of instructions that this machine has computes the same networks.

use rectiflow_kernels::{ISA_VARIABLE, Isa};

use crate::support::{Desk, failed, text};

#[test]
fn every_instruction_set_is_near_the_reference() {
    for isa in Isa::available() {
        for (name, precision) in [("sd35m", "f32"), ("sd35m", "bf16"), ("deep-unicode", "bf16"), ("sd3", "int8")] {
            let desk = Desk::new();
            let golden = format!("{{{name}/golden.safetensors}}");
            let line = format!("verify --model {{{name}/model}} --golden {golden} --precision {precision}");
            let output = desk.command(&line).env(ISA_VARIABLE, isa.to_string()).output().unwrap();
            assert!(output.status.success(), "{isa} {name} {precision}: {}", text(&output.stdout));
        }
    }
}

#[test]
fn instructions_that_are_not_there_are_refused() {
    let desk = Desk::new();
    let line = "generate a --model {empty/model} --width 32 --height 32 --steps 1";
    let output = desk.command(line).env(ISA_VARIABLE, "mmx").output().unwrap();
    let stderr = failed(line, &output);
    assert!(stderr.contains("mmx names no instruction set") && stderr.contains("hint: it takes portable"), "{stderr}");
    assert!(desk.files().is_empty());
}

#[test]
fn a_bench_checks_measures_and_compares_with_the_limit() {
    let desk = Desk::new();
    let stdout = desk.succeed("bench linear/205 --runs 1 --json");
    let row: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&row["name"], &row["runs"]), (&"linear/205x512x2048".into(), &1.into()));
    for key in ["median_s", "gflops", "limit_gflops", "share"] {
        assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {stdout}");
    }
    assert!(desk.fail("bench nothing").contains("linear/1357x1536x6144"));
    assert!(desk.fail("bench --runs 0").contains("5 is usual"));
}
