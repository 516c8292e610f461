use crate::support::{Desk, copy_folder, fixture, png, read, said, text};

const SMALL: &str = "--width 64 --height 48 --steps 2";

#[test]
fn a_picture_holds_its_settings_and_the_same_seed_draws_it_again() {
    let desk = Desk::new();
    let line = format!("generate apple --model {{sd3/model}} {SMALL} -n blurry --guidance 4.5");
    assert_eq!(desk.succeed(&format!("{line} --seed 7 --out a.png")), "a.png\n");
    desk.succeed(&format!("{line} --seed 7 --out b.png"));
    desk.succeed(&format!("{line} --seed 8 --out c.png"));
    let [(a, texts), (b, _), (c, _)] = ["a.png", "b.png", "c.png"].map(|name| png(&desk.path(name)));
    assert_eq!(a.len(), 3 * 64 * 48);
    assert!(a == b && a != c);
    assert_eq!(texts[0].0, "parameters");
    assert!(texts[0].1.starts_with("apple\nNegative prompt: blurry\nSteps: 2, Sampler: euler"), "{}", texts[0].1);
    let settings: serde_json::Value = serde_json::from_str(&texts[1].1).unwrap();
    assert_eq!(
        (&settings["seed"], &settings["shift"], &settings["compat"], &settings["device"]),
        (&7.into(), &3.0.into(), &"diffusers".into(), &"cpu".into())
    );
    assert_eq!(desk.files(), ["a.png", "b.png", "c.png"], "nothing else is left behind");
}

#[test]
fn several_prompts_and_counts_have_seeds_in_a_row() {
    let desk = Desk::new();
    let stdout = desk.succeed(&format!("generate a b --count 2 --model {{sd3/model}} {SMALL} --seed 3 --out x.png"));
    assert_eq!(stdout, "x-1.png\nx-2.png\nx-3.png\nx-4.png\n");
    desk.succeed(&format!("generate b --model {{sd3/model}} {SMALL} --seed 6 --out y.png"));
    assert_eq!(png(&desk.path("x-4.png")).0, png(&desk.path("y.png")).0, "picture 4 is prompt b with seed 3 + 3");
}

#[test]
fn pictures_without_a_name_never_replace_one_another() {
    let desk = Desk::new();
    for name in ["./rectiflow-0.png\n", "./rectiflow-0-1.png\n"] {
        assert_eq!(desk.succeed("generate a --model {empty/model} --width 32 --height 32 --steps 1"), name);
    }
}

#[test]
fn runs_at_the_same_time_keep_every_picture() {
    let desk = Desk::new();
    let line = "generate a --count 3 --model {empty/model} --width 32 --height 32 --steps 1 --out new/";
    let start = |_| desk.command(line).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let runs: Vec<_> = (0..4).map(start).collect();
    let mut named: Vec<String> = runs
        .into_iter()
        .flat_map(|run| text(&run.wait_with_output().unwrap().stdout).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    named.sort();
    named.dedup();
    assert_eq!(named.len(), 12, "each run got names of its own: {named:?}");
    assert!(named.iter().all(|name| desk.path(name).is_file()), "{named:?}");
    assert_eq!(std::fs::read_dir(desk.path("new")).unwrap().count(), 12);
}

#[test]
fn names_that_other_tools_have_draw_the_same_picture() {
    let desk = Desk::new();
    let model = "--model {sd3/model} --width 64 --height 48";
    let ours = "apple pear -n blurry --guidance 4.5 --steps 3 --count 2 --solver dpmpp_2m --out a.png";
    desk.succeed(&format!("generate {model} {ours}"));
    for (name, theirs) in [
        (
            "b",
            "apple -p pear --negative-prompt blurry --guidance-scale 4.5 --num-inference-steps 3 --batch-count 2 \
               --sampler dpm++2m --output b.png",
        ),
        (
            "c",
            "--prompt apple --prompt pear --negative_prompt blurry --cfg-scale 4.5 --steps 3 -c 2 \
               --sampling-method dpmpp2m -o c.png",
        ),
        ("d", "-p pear apple --negative blurry --guidance 4.5 --steps 3 --count 2 --solver dpm++_2m --out d.png"),
    ] {
        desk.succeed(&format!("generate {model} {theirs}"));
        for picture in 1..=4 {
            let [a, other] = ["a", name].map(|name| png(&desk.path(&format!("{name}-{picture}.png"))).0);
            assert!(a == other, "{name}-{picture}");
        }
    }
}

#[test]
fn a_random_seed_is_said_and_draws_the_picture_again() {
    let desk = Desk::new();
    let line = format!("generate a --model {{sd3/model}} {SMALL}");
    let mut seeds = Vec::new();
    for random in ["-1", "random"] {
        let output = desk.run(&format!("{line} --seed {random} --out a.png"));
        let stderr = text(&output.stderr);
        let (_, after) = stderr.split_once(", seed ").unwrap();
        let seed = after.split(',').next().unwrap().to_owned();
        desk.succeed(&format!("{line} --seed {seed} --out b.png"));
        assert!(png(&desk.path("a.png")).0 == png(&desk.path("b.png")).0, "{seed}");
        seeds.push(seed);
    }
    assert_ne!(seeds[0], seeds[1]);
}

#[test]
fn what_of_the_files_has_no_effect_is_said() {
    let desk = Desk::new();
    let mut tensors = read(&crate::support::fixture("sd3/official.safetensors"));
    let odd = tensors["first_stage_model.decoder.conv_out.bias"].clone();
    tensors.insert("control_model.x".into(), odd);
    tensors.remove("model.diffusion_model.pos_embed");
    crate::support::write(&desk.path("x.safetensors"), &tensors);
    let stderr = said(&desk, &format!("generate a --model x.safetensors {SMALL} --out a.png"));
    assert!(stderr.contains("1 tensors that no part of SD3 has are not used, first \"control_model.x\""), "{stderr}");
    assert!(stderr.contains("no `pos_embed`: the positions are computed"), "{stderr}");

    let stderr = said(&desk, &format!("generate a --model {{sd3/model}} {SMALL} --out a.png"));
    let own = "tokens by the model's own tables, not the built-in ones: CLIP-L, CLIP-G, T5";
    assert!(stderr.contains(own) && stderr.contains("computes in f32 on cpu"), "{stderr}");
    let stderr = said(&desk, "generate a --model {empty/model} --steps 1 --out a.png");
    assert!(!stderr.contains("note:"), "nothing to say: {stderr}");
}

#[test]
fn weights_in_a_prompt_are_read_and_said() {
    let desk = Desk::new();
    let drawn = |prompt: &str, how: &str| {
        let line = format!("generate --model {{sd3/model}} {SMALL} --t5-length 32 --guidance 1 {how} --out a.png");
        let output = desk.command(&line).arg(prompt).output().unwrap();
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        (png(&desk.path("a.png")).0, stderr)
    };
    let (plain, _) = drawn("a cat", "");
    let (weighed, stderr) = drawn("a (cat:1.3)", "");
    assert!(stderr.contains("note: what counts other than once: \"cat\" 1.300"), "{stderr}");
    assert_ne!(weighed, plain);
    assert_eq!(drawn("a (cat:1.0)", "").0, plain, "once is once");
    let (bracketed, stderr) = drawn("a (cat:1.3)", "--prompt-syntax plain");
    assert!(bracketed != weighed && bracketed != plain && !stderr.contains("counts other"), "{stderr}");
    assert_eq!(drawn(r"a \(cat:1.3\)", "").0, bracketed);
    let (_, stderr) = drawn("a cat :) [a|b] <lora:x:1>", "");
    assert!(stderr.contains("a `)` has no partner") && stderr.contains("\"<lora:x:1>\" has no meaning"), "{stderr}");
    let (_, stderr) = drawn("a BREAK b", "");
    assert!(stderr.contains("BREAK has no effect without `--long-prompts chunks`"), "{stderr}");
}

#[test]
fn autoguidance_leads_away_from_another_model_and_not_from_itself() {
    let desk = Desk::new();
    let drawn = |how: &str| {
        desk.succeed(&format!("generate apple --model {{sd3/model}} {SMALL} --guidance 1 {how} --out a.png"));
        png(&desk.path("a.png"))
    };
    let (alone, _) = drawn("");
    assert_eq!(drawn("--autoguidance {sd3/model}").0, alone, "nothing lies between a model and itself");
    desk.succeed("convert {sd3/model} --dtype fp8 --out worse");
    let (led, texts) = drawn("--autoguidance worse");
    assert_ne!(led, alone);
    assert!(
        texts[1].1.contains("\"worse_model\"") && texts[1].1.contains("\"autoguidance\":\"worse\""),
        "{}",
        texts[1].1
    );
    assert_eq!(drawn("--autoguidance worse --autoguidance-scale 1").0, alone);
    let stderr =
        desk.fail(&format!("generate apple --model {{sd3/model}} {SMALL} --autoguidance {{deep-unicode/model}}"));
    assert!(stderr.contains("[16, 16, 2, 48, 48]") && stderr.contains("of the same encoders"), "{stderr}");
    let vae = "{sd3/model/vae/diffusion_pytorch_model.safetensors}";
    let stderr = desk.fail(&format!("generate apple --model {{sd3/model}} {SMALL} --autoguidance {vae} --out b.png"));
    assert!(stderr.contains("--autoguidance") && stderr.contains("transformer"), "{stderr}");
}

#[test]
fn a_tiny_decoder_decodes_and_says_so() {
    let desk = Desk::new();
    let taesd = "--taesd {vae/tiny_decoder.safetensors}";
    let stderr = said(&desk, &format!("generate apple --model {{sd3/model}} {SMALL} {taesd} --out a.png"));
    assert!(stderr.contains("decode with the tiny decoder"), "{stderr}");
    let (pixels, texts) = png(&desk.path("a.png"));
    assert_eq!(pixels.len(), 3 * 64 * 48);
    assert!(texts[1].1.contains("\"decoder\":\"tiny\""), "{}", texts[1].1);
    let wrong = "--taesd {sd3/model/vae/diffusion_pytorch_model.safetensors}";
    let stderr = desk.fail(&format!("generate apple --model {{sd3/model}} {SMALL} {wrong} --out b.png"));
    assert!(stderr.contains("not a tiny decoder") && stderr.contains("taesd3_decoder.safetensors"), "{stderr}");
}

#[test]
fn clip_reads_a_long_prompt_in_chunks_where_that_is_asked_for() {
    let desk = Desk::new();
    let line = format!("generate --model {{sd3/model}} {SMALL} --guidance 1 --out a.png");
    let prompt = format!("{}the last WORDS of all", "one two three ".repeat(30));
    let drawn = |how: &str| {
        let output = desk.command(&format!("{line} {how}")).arg(&prompt).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (png(&desk.path("a.png")).0, text(&output.stderr).contains("does not see"))
    };
    let (cut, is_said) = drawn("--long-prompts cut");
    assert!(is_said);
    let (whole, is_said) = drawn("--long-prompts chunks");
    assert!(!is_said && whole != cut);
}

#[test]
fn pictures_that_are_drawn_at_once_are_those_that_are_drawn_alone() {
    let desk = Desk::new();
    // Stability's T5 reads as many tokens as there are, so these prompts cannot all be told at once.
    let long = "word ".repeat(90);
    for compat in ["diffusers", "stability"] {
        let drawn = |how: &str, name: &str| {
            let line = format!(
                "generate a b --count 2 --seed 3 --model {{sd3/model}} {SMALL} --compat {compat} {how} --out {name}-.png"
            );
            let output = desk.command(&line).args(["--prompt", &long]).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            (1..=6).map(|number| png(&desk.path(&format!("{name}--{number}.png"))).0).collect::<Vec<_>>()
        };
        let alone = drawn("", &format!("{compat}-1"));
        assert_eq!(drawn("--batch-size 4", &format!("{compat}-4")), alone, "{compat}");
    }
    let stderr = desk.fail("generate a --count 2 --model {sd3/model} --batch-size 2 --solver dopri5");
    assert!(stderr.contains("depend on each other") && stderr.contains("hint"), "{stderr}");
}

#[test]
fn latents_go_out_and_come_back_in() {
    let desk = Desk::new();
    let golden = crate::support::fixture("sd3/golden.safetensors");
    let noise = read(&golden).remove("noise").unwrap();
    crate::support::write(&desk.path("noise.safetensors"), &[("latents".to_string(), noise.clone())].into());
    // The golden noise is torch's for seed 0 of that fixture, so both ways start from the same.
    let seed = "--seed 0";
    desk.succeed(&format!("generate a --model {{sd3/model}} {SMALL} {seed} --out a.png --latents-out a.safetensors"));
    desk.succeed(
        "generate a --model {sd3/model} --steps 2 --latents-in noise.safetensors --out b.png --latents-out b.safetensors",
    );
    let [a, b] = ["a", "b"].map(|name| read(&desk.path(&format!("{name}.safetensors"))).remove("latents").unwrap());
    assert_eq!(a.shape, [1, 16, 6, 8]);
    assert_eq!(a, b);
    assert_ne!(a, noise);
}

#[test]
fn without_guidance_the_negative_prompt_is_not_encoded() {
    let desk = Desk::new();
    let negative = "one two three ".repeat(30);
    for (guidance, is_encoded) in [("1", false), ("4", true)] {
        let mut command = desk.command(&format!("generate a --model {{sd3/model}} {SMALL} --out a.png"));
        let output = command.args(["--guidance", guidance, "-n", &negative]).output().unwrap();
        let stderr = text(&output.stderr);
        // An encoder says what it does not see of a text that it is given.
        assert_eq!(stderr.contains("warning: CLIP-L does not see"), is_encoded, "guidance {guidance}: {stderr}");
        assert!(output.status.success() && stderr.contains("guidance"), "{stderr}");
    }
}

#[test]
fn each_encoder_may_be_absent_and_that_is_said() {
    let desk = Desk::new();
    let parts = "--diffusion-model {sd3/model/transformer/diffusion_pytorch_model.safetensors} \
                 --vae {sd3/model/vae/diffusion_pytorch_model.safetensors}";
    let encoders = [
        "--clip-l {sd3/model/text_encoder/model.safetensors}",
        "--clip-g {sd3/model/text_encoder_2/model.safetensors}",
        "--t5xxl {sd3/model/text_encoder_3/model.safetensors}",
    ];
    for (left_out, name) in ["CLIP-L", "CLIP-G", "T5"].into_iter().enumerate() {
        let kept: Vec<_> = encoders.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, e)| *e).collect();
        let output = desk.run(&format!("generate a {parts} {} {SMALL} --out a.png", kept.join(" ")));
        let stderr = text(&output.stderr);
        assert!(output.status.success() && stderr.contains(&format!("without {name}: zeros")), "{stderr}");
    }
    let stderr = desk.fail(&format!("generate a {parts} {SMALL}"));
    assert!(stderr.contains("no text encoder") && stderr.contains("--clip-l"), "{stderr}");
}

#[test]
fn what_is_cut_from_a_prompt_is_said_with_the_lost_words() {
    let desk = Desk::new();
    let mut command = desk.command(&format!("generate --model {{sd3/model}} {SMALL} --t5-length 77 --out a.png"));
    let prompt = format!("{}the last WORDS of all", "one two three ".repeat(30));
    let output = command.arg(prompt).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for encoder in ["CLIP-L", "CLIP-G", "T5"] {
        let line = stderr.lines().find(|line| line.contains(&format!("warning: {encoder} does not see")));
        assert!(line.is_some_and(|line| line.contains("the last WORDS of all")), "{encoder}: {stderr}");
    }
}

#[test]
fn every_solver_and_both_references_draw_their_own_picture() {
    let desk = Desk::new();
    let mut pictures = Vec::new();
    let solvers = "euler heun midpoint rk4 dopri5(0.01) dpmpp_2m dpmpp_2m_flow dpmpp_2m_sde dpmpp_3m_sde uni_pc deis \
                   ipndm euler_a lcm";
    let solvers = solvers.split_whitespace().map(|solver| format!("--solver {solver}"));
    for how in solvers.chain(["--compat stability".to_owned()]) {
        desk.succeed(&format!(
            "generate apple --model {{sd35m/model}} --width 64 --height 64 --steps 4 {how} --out a.png"
        ));
        pictures.push(png(&desk.path("a.png")).0);
    }
    for i in 0..pictures.len() {
        assert!(pictures[..i].iter().all(|other| *other != pictures[i]), "picture {i} repeats an earlier one");
    }
}

#[test]
fn noise_levels_are_those_that_were_asked_for() {
    let desk = Desk::new();
    let draw = |how: &str| {
        let said =
            said(&desk, &format!("generate apple --model {{sd3/model}} --width 64 --height 48 --out a.png {how}"));
        let (picture, texts) = png(&desk.path("a.png"));
        (said, picture, texts)
    };
    let mut pictures = Vec::new();
    for schedule in ["released", "simple", "karras", "exponential", "beta", "linear-quadratic"] {
        let (said, picture, texts) = draw(&format!("--steps 4 --schedule {schedule}"));
        assert_eq!(said.contains(&format!("schedule {schedule}")), schedule != "released", "{said}");
        assert!(texts[1].1.contains(&format!("\"schedule\":\"{schedule}\"")), "{texts:?}");
        assert!(pictures.iter().all(|other| *other != picture), "{schedule} repeats an earlier one");
        pictures.push(picture);
    }
    assert!(draw("--steps 2 --schedule karras").2[0].1.contains("Schedule type: Karras"));
    // Steps of one's own are those that a schedule has, if they are.
    let levels = "--sigmas 1,0.857692,0.602151,0.0089286";
    let (said, picture, texts) = draw(levels);
    assert!(said.contains("4 steps of euler, noise levels of your own"), "{said}");
    assert!(texts[1].1.contains("\"sigmas\":[1.0,0.857692,0.602151,0.0089286,0.0]"), "{texts:?}");
    let far = picture.iter().zip(&pictures[0]).filter(|(a, b)| a.abs_diff(**b) > 2).count();
    assert!(far * 100 < picture.len(), "{far} of {}", picture.len());
    let (said, dynamic, _) = draw("--steps 4 --shift dynamic");
    assert!(said.contains("shift 1.58") && dynamic != pictures[0], "{said}");
}

#[test]
fn every_guidance_draws_its_own_picture_and_is_said_and_stored() {
    let desk = Desk::new();
    let mut pictures = Vec::new();
    for (how, words, stored) in [
        ("", "guidance 7,", "\"guidance\":7.0"),
        ("--guidance 7,5,1", "guidance 7,5,1,", "\"guidance\":[7.0,5.0,1.0]"),
        ("--guidance-end 0.5", "guidance 7 from 0 to 0.5", "\"guidance_window\":[0.0,0.5]"),
        ("--guidance-rescale 0.7", "rescaled by 0.7", "\"guidance_rescale\":0.7"),
        ("--cfg-zero-star", "by CFG-Zero*", "\"zero_star\":{\"zeroed\":1}"),
        ("--apg-eta 0.2 --apg-momentum -0.5", "by APG", "\"projected\":{\"eta\":0.2,"),
        ("--skip-layers 0 --skip-layer-end 0.9", "skip-layer guidance 2.8 of blocks [0]", "\"skipped_blocks\""),
        ("--pag-layers 0,1 --pag-scale 2", "perturbed attention guidance 2 of blocks [0, 1]", "\"isolated_tokens\""),
    ] {
        let line = format!("generate apple --model {{sd35m/model}} --width 64 --height 64 --steps 4 {how} --out a.png");
        let said = said(&desk, &line);
        assert!(said.contains(words), "{how}: {said}");
        let (picture, texts) = png(&desk.path("a.png"));
        assert!(texts[1].1.contains(stored), "{how}: {texts:?}");
        assert!(pictures.iter().all(|other| *other != picture), "{how} repeats an earlier one");
        pictures.push(picture);
    }
}

#[test]
fn guidance_in_no_step_is_said() {
    let desk = Desk::new();
    let line = "generate apple --model {sd35m/model} --width 64 --height 64 --out a.png --skip-layers 1 --steps";
    let none = said(&desk, &format!("{line} 4"));
    let note = "note: none of the 4 steps begins in 0.01 to 0.2, so skip-layer guidance has no effect";
    assert!(none.contains(note), "{none}");
    assert!(!said(&desk, &format!("{line} 6")).contains("has no effect"));
}

#[test]
fn steps_that_reuse_nothing_draw_the_same_and_others_say_so() {
    let desk = Desk::new();
    let draw = |how: &str| {
        let line = format!("generate apple --model {{sd35m/model}} --width 64 --height 64 --steps 8 {how} --out a.png");
        let said = said(&desk, &line);
        let (picture, texts) = png(&desk.path("a.png"));
        (picture, texts, said)
    };
    let (plain, _, without) = draw("");
    assert!(!without.contains("cache:"), "{without}");
    for mode in ["first-block", "taylor"] {
        let (all, _, said) = draw(&format!("--cache-mode {mode} --cache-threshold 0"));
        assert!(all == plain && said.contains("cache: 0 of 8 askings"), "{said}");
        let (reused, texts, said) = draw(&format!("--cache-mode {mode} --cache-threshold 5"));
        assert!(reused != plain && said.contains("cache: 7 of 8 askings"), "{said}");
        let stored = format!("\"step_cache\":{{\"mode\":\"{mode}\",\"threshold\":5.0}}");
        assert!(texts[1].1.contains(&stored), "{texts:?}");
    }
}

#[test]
fn a_decode_in_strips_gives_the_same_picture_and_is_said() {
    let desk = Desk::new();
    // Strips of 64 rows: one and a part; and a picture that is smaller than one.
    for (model, size) in [("{sd3/model}", "--width 96 --height 112"), ("{sd35m/model}", "--width 64 --height 48")] {
        let draw = |how: &str| {
            let line = format!("generate a --model {model} {size} --steps 1 --out a.png {how}");
            (said(&desk, &line), png(&desk.path("a.png")).0)
        };
        let (whole_said, whole) = draw("--vae-tiling off");
        let (strips_said, strips) = draw("--vae-tiling on");
        assert_eq!(whole, strips);
        assert!(strips_said.contains("note: decodes in strips, in ") && strips_said.contains("decode in strips "));
        assert!(!whole_said.contains("in strips"), "{whole_said}");
        // Small, so whole.
        assert!(!draw("").0.contains("in strips"));
        // Without a value, as other tools have it.
        assert!(draw("--vae-tiling").0.contains("in strips"));
    }
    let stderr = desk.fail(&format!("generate a --model {{sd3/model}} {SMALL} --vae-tiling always"));
    assert!(stderr.contains("auto, on or off"), "{stderr}");
}

#[test]
fn phases_are_printed_with_time_and_memory() {
    let desk = Desk::new();
    let output = desk.run(&format!("generate a --model {{sd3/model}} {SMALL} --out a.png"));
    let stderr = text(&output.stderr);
    for phase in ["open and check", "encode CLIP-L", "encode CLIP-G", "encode T5", "denoise", "decode", "write"] {
        let line = stderr.lines().find(|line| line.starts_with(phase) && line.contains(" s "));
        assert!(line.is_some(), "{phase}: {stderr}");
    }
    assert!(stderr.contains("denoise: step 2/2"), "plain lines where there is no terminal: {stderr}");
}

#[test]
fn a_small_model_says_which_words_and_sizes_it_does_not_know() {
    let desk = Desk::new();
    copy_folder(&fixture("empty/model"), &desk.path("model"));
    let config = desk.path("model/transformer/config.json");
    let mut settings: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    settings["sample_size"] = serde_json::json!(4);
    std::fs::write(&config, settings.to_string()).unwrap();
    std::fs::write(desk.path("model/known_words.txt"), "a\nred\napple\nword\nthe\n").unwrap();
    let notes = said(&desk, "generate -m model --steps 1 -o x.png --width 48 --height 32 Apple zeppelin zeppelin");
    assert!(notes.contains("32x32") && notes.contains("48x32"), "{notes}");
    assert!(notes.contains("never told of \"zeppelin\":") && notes.contains("known_words.txt"), "{notes}");
    let notes = said(&desk, "generate -m model --steps 1 -o y.png Apple");
    assert!(!notes.contains("never told of") && !notes.contains("torn"), "{notes}");
    std::fs::write(desk.path("model/known_words.txt"), [0xff]).unwrap();
    let error = desk.fail("generate -m model --steps 1 -o z.png -p a");
    assert!(error.contains("known_words.txt cannot be read") && error.contains("hint: "), "{error}");
}
