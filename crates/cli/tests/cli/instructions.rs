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
    for key in ["median_s", "gflops", "intensity", "limit_gflops", "share"] {
        assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {stdout}");
    }
    assert!(desk.fail("bench nothing").contains("linear/1357x1536x6144"));
    assert!(desk.fail("bench --runs 0").contains("5 is usual"));
    let too_many = desk.fail(&format!("bench linear/205 --runs {}", usize::MAX));
    assert!(too_many.contains("is more than 1000000") && too_many.contains("\nhint: "), "{too_many}");
}

#[test]
fn a_roofline_is_a_picture_of_the_run() {
    let desk = Desk::new();
    for precision in ["bf16", "int8"] {
        desk.succeed(&format!("bench linear/205 --runs 1 --precision {precision} --roofline roof.png"));
        let file = std::io::BufReader::new(std::fs::File::open(desk.path("roof.png")).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        assert_eq!([reader.info().width, reader.info().height], [1200, 800]);
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let dark = pixels.chunks_exact(3).filter(|pixel| pixel.iter().all(|&byte| byte < 128)).count();
        assert!((1000..100_000).contains(&dark), "{precision}: {dark} dark pixels");
    }
    assert_eq!(desk.files(), ["roof.png"], "nothing else is left behind");
}

#[test]
fn a_roofline_that_cannot_be_written_is_refused_before_anything_runs() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("folder.png")).unwrap();
    for (path, part) in [("no/such/x.png", "make it first"), ("x.svg", "ends in .png"), ("folder.png", "is a folder")] {
        let output = desk.run(&format!("bench linear/205 --runs 1 --roofline {path}"));
        let stderr = failed(path, &output);
        assert!(stderr.contains(&format!("--roofline {path}")) && stderr.contains(part), "{stderr}");
        assert!(output.stdout.is_empty() && !stderr.contains("linear/205"), "{path}: a case ran");
    }
}
