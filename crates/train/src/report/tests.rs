use std::collections::BTreeMap;

use super::*;
use rectiflow_generate::Image;
use rectiflow_weights::IfThere;

use crate::journal::{Event, Journal};
use rectiflow_generate::sheet;

const PLAN: &str = "steps = 20000\nbatch = 64\n[objective]\nkind = \"flow\"\nformulation = \"rf/lognorm(0.00,1.00)\"\n\
                    [schedule]\nlearning_rate = 1e-4\n";

fn values<const N: usize>(values: [(&str, f64); N]) -> BTreeMap<String, f64> {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Between 0 and 1, and looks like chance.
fn chance(number: u64) -> f64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f64 / (1 << 24) as f64
}

/// A run as it goes: warm-up, a spike, a value that is missing for a while, validations, sheets, a restart.
fn run(root: &Path) -> Vec<Event> {
    let mut events = vec![Event::Started { step: 0, steps: 20_000, time: 1.7e9 }];
    fs::create_dir(root.join("samples")).unwrap();
    for step in (10..=20_000).step_by(10) {
        let progress = step as f64 / 20_000.0;
        let loss = 0.25 + 0.8 * (-12.0 * progress).exp() + 0.06 * (chance(step) - 0.5);
        let spike = if step == 9000 { 4.0 } else { 1.0 };
        let mut now = values([
            ("loss", loss * spike),
            ("gradient_norm", 0.3 * spike * (1.0 + 2.0 * chance(step + 7)) + 6.0 * (-60.0 * progress).exp()),
            ("learning_rate", 1e-4 * (step as f64 / 1000.0).min(1.0) * (1.0 - 0.995 * progress.powi(2))),
            ("loss/sigma_0.05", loss * (1.9 + 0.2 * chance(step + 1))),
            ("loss/sigma_0.25", loss * (0.9 + 0.2 * chance(step + 2))),
            ("loss/sigma_0.5", loss * (0.6 + 0.2 * chance(step + 3))),
            ("loss/sigma_0.75", loss * (0.7 + 0.2 * chance(step + 4))),
            ("loss/sigma_0.95", loss * (1.2 + 0.2 * chance(step + 5))),
        ]);
        if (4000..4800).contains(&step) {
            now.remove("gradient_norm");
        }
        events.push(Event::Step { step, values: now, seconds: 1.9 + 0.3 * chance(step + 9) });
        if step % 500 == 0 {
            let loss = 0.27 + 0.8 * (-12.0 * progress).exp();
            let now = values([
                ("loss", loss),
                ("loss/sigma_0.1", 1.7 * loss),
                ("loss/sigma_0.5", 0.7 * loss),
                ("loss/sigma_0.9", 1.1 * loss),
            ]);
            events.push(Event::Validation { step, values: now });
            let file = format!("samples/step-{step:06}.png");
            let tiles: Vec<Image> = (0..8).map(|number| tile(number, progress)).collect();
            sheet(&tiles, 4).save_png(&root.join(&file), IfThere::Replace, &[]).unwrap();
            events.push(Event::Samples { step, file: file.into() });
        }
        if step == 9000 {
            let text = "step 9012: the loss is not finite; samples of the step: sprite-17, sprite-<b>4711</b>; back to step 9000, \
                        with other samples from there on";
            events.push(Event::Note { step, text: text.to_owned() });
            events.push(Event::Started { step, steps: 20_000, time: 1.7e9 });
        }
    }
    events.push(Event::Finished { step: 20_000, time: 1.7e9 });
    events
}

/// A disc that comes out of noise.
fn tile(number: u64, progress: f64) -> Image {
    const SIDE: u64 = 64;
    let pixel = |index: u64| {
        let [x, y] = [index % SIDE, index / SIDE].map(|place| place as f64 - 32.0);
        let disc = if x.hypot(y) < 10.0 + 2.0 * number as f64 { [200, 60, 30] } else { [230, 230, 220] };
        disc.map(|value: u8| {
            let noise = 255.0 * chance(index * 8 + number);
            (f64::from(value) * progress + noise * (1.0 - progress)) as u8
        })
    };
    Image { width: 64, height: 64, rgb: (0..SIDE * SIDE).flat_map(pixel).collect() }
}

fn report(root: &Path, events: &[Event], plan: &str) -> String {
    let mut journal = Journal::open(&root.join("journal.jsonl"), 0).unwrap();
    events.iter().for_each(|event| journal.record(event).unwrap());
    write(root, plan).unwrap();
    fs::read_to_string(root.join("report.html")).unwrap()
}

#[test]
fn a_whole_run_is_on_one_page_that_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("sprites <1>");
    fs::create_dir(&root).unwrap();
    let events = run(&root);
    let page = report(&root, &events, PLAN);
    for part in [
        "<h1>sprites &lt;1&gt;</h1>",
        "Finished after 20\u{202f}000 steps, which took 11 h ",
        "; gone on with once.",
        "<tr><th>objective.formulation<td>rf/lognorm(0.00,1.00)",
        "<tr><th>schedule.learning_rate<td>1e-4",
        "<tr><th>step 9000<td>step 9012: the loss is not finite; samples of the step: sprite-17, sprite-&lt;b&gt;",
        "<tr><th>least validation loss, step 20\u{202f}000<td>0.27",
        "<figcaption>step 500</figcaption><img",
        "<figcaption>step 20\u{202f}000</figcaption><img",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    assert_eq!(page.matches("<svg").count(), 6);
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), SHEETS_MAX);
    assert_eq!(page.matches("all levels</li>").count(), 1);
    for outside in ["http", "<script", "src=\"/", "@import", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_run_of_one_step_without_validation_has_a_page_too() {
    let folder = tempfile::tempdir().unwrap();
    let started = Event::Started { step: 0, steps: 3, time: 0.0 };
    let page = report(folder.path(), std::slice::from_ref(&started), "");
    assert!(page.contains("<p>At step 0 of 3.</p>") && !page.contains("<svg") && !page.contains("<h2>"), "{page}");

    let step = Event::Step { step: 1, values: values([("loss", 0.5)]), seconds: 0.5 };
    let page = report(folder.path(), &[step], "");
    assert!(page.contains("<p>At step 1 of 3, which took 0.5 s.</p>"), "{page}");
    // The loss and the time.
    assert_eq!(page.matches("<svg").count(), 2);
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}

#[test]
fn a_run_that_counts_what_was_guessed_right_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let step = Event::Step { step: 1, values: values([("accuracy", 0.5)]), seconds: 0.5 };
    let validation = Event::Validation { step: 2, values: values([("accuracy", 0.25)]) };
    let page = report(folder.path(), &[step, validation], "");
    assert_eq!((page.matches("<svg").count(), page.matches("<b>Accuracy<").count()), (2, 1), "{page}");
}

#[test]
fn sheets_that_are_gone_or_outside_are_named_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    fs::create_dir(&root).unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    let samples = |file: &str| Event::Samples { step: 1, file: file.into() };
    let page = report(&root, &[samples("samples/none.png"), samples("../secret")], "");
    assert!(page.contains("samples/none.png: No such file"), "{page}");
    assert!(page.contains("../secret: not within the run's folder"), "{page}");
    assert!(!page.contains("base64,"), "{page}");
}

#[test]
fn sheets_are_chosen_evenly_with_the_first_and_the_last() {
    assert_eq!(evenly(3, 24), [0, 1, 2]);
    let chosen = evenly(1000, 24);
    assert_eq!((chosen.len(), chosen[0], chosen[23]), (24, 0, 999));
    assert!(chosen.windows(2).all(|pair| (43..=44).contains(&(pair[1] - pair[0]))));
}

/// Writes the page of a whole run, for eyes: `cargo test ... -- --ignored a_report_to_look_at`.
#[test]
#[ignore = "writes a report and event files to the temporary folder, to be looked at"]
fn a_report_to_look_at() {
    let root = std::env::temp_dir().join("rectiflow-report");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir(&root).unwrap();
    let events = run(&root);
    report(&root, &events, PLAN);
    let mut board = crate::tensorboard::TensorBoard::open(&root, 0).unwrap();
    board.plan(PLAN).unwrap();
    events.iter().for_each(|event| board.record(event, &root).unwrap());
    let mut board = crate::tensorboard::TensorBoard::open(&root, 15_000).unwrap();
    board.record(&Event::Note { step: 15_010, text: "gone on with".to_owned() }, &root).unwrap();
}
