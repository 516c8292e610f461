use std::collections::BTreeMap;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn values<const N: usize>(values: [(&str, f64); N]) -> BTreeMap<String, f64> {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

fn step(step: u64) -> Event {
    let loss = 0.25 + 2.0 / (1.0 + step as f64 / 20.0);
    let values = values([
        ("loss", loss),
        ("learning_rate", 1e-4),
        ("gradient_norm", 0.4219),
        ("loss/sigma_0.95", 1.1 * loss),
        ("loss/sigma_0.05", 2.0 * loss),
        ("loss/sigma_0.5", 0.5 * loss),
    ]);
    Event::Step { step, values, seconds: 2.05 }
}

fn validation(step: u64, loss: f64) -> Event {
    Event::Validation { step, values: values([("loss", loss), ("loss/sigma_0.5", 0.3)]) }
}

/// After 400 of 2000 steps, 2.5 s each with all that is done between them.
fn state() -> State {
    let mut state = State::new(64);
    state.event(&Event::Started { step: 0, steps: 2000, time: 0.0 }, Duration::ZERO);
    for number in (10..=400).step_by(10) {
        let now = Duration::from_millis(2500 * number);
        state.event(&step(number), now);
        if number % 100 == 0 {
            state.event(&validation(number, 0.3 + 50.0 / number as f64), now);
        }
    }
    state.event(&Event::Checkpoint { step: 400, folder: "checkpoints/step-000400".into() }, Duration::ZERO);
    (state.memory, state.share) = (Some(3_100_000_000), Some(0.61));
    state
}

fn drawn(state: &State, columns: u16, rows: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| frame.render_widget(view::View(state), frame.area())).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..rows).map(line).collect()
}

#[test]
fn the_picture_has_progress_curves_noise_levels_and_figures() {
    let lines = drawn(&state(), 90, 14);
    assert_eq!(lines.join("\n"), include_str!("picture.txt").trim_end());
}

#[test]
fn no_size_and_no_state_is_too_small_for_a_picture() {
    for (columns, rows) in [(0, 0), (1, 1), (3, 14), (40, 2), (39, 9), (72, 6), (300, 14)] {
        for state in [state(), State::new(1)] {
            drawn(&state, columns, rows);
        }
    }
    let lines = drawn(&State::new(1), 40, 10);
    assert_eq!((lines[0].as_str(), lines[1].as_str()), ("step 0 of 0 ────────────────────── 0.0 %", "no loss yet"));
    let mut one = State::new(1);
    one.event(&step(1), Duration::ZERO);
    assert!(drawn(&one, 40, 10)[8].starts_with("learning rate 1e-4"));
}

#[test]
fn each_event_is_a_plain_line() {
    let mut state = State::new(64);
    state.memory = Some(3_100_000_000);
    let mut said = |event: &Event, seconds| {
        state.event(event, Duration::from_secs(seconds));
        line::of(event, &state)
    };
    let started = Event::Started { step: 100, steps: 20_000, time: 0.0 };
    assert_eq!(said(&started, 5), "step 100/20000  started");
    assert_eq!(said(&step(110), 5 + 21), "step 110/20000  loss 0.558  31.2 samples/s  11 h 36 min left  memory 3.1 GB");
    assert_eq!(said(&validation(110, 0.498), 40), "step 110/20000  validation 0.498");
    assert_eq!(
        said(&step(120), 5 + 40),
        "step 120/20000  loss 0.536  validation 0.498  31.2 samples/s  11 h 2 min left  memory 3.1 GB"
    );
    let samples = Event::Samples { step: 120, file: "samples/step-000120.png".into() };
    assert_eq!(said(&samples, 50), "step 120/20000  samples samples/step-000120.png");
    let checkpoint = Event::Checkpoint { step: 120, folder: "checkpoints/step-000120".into() };
    assert_eq!(said(&checkpoint, 50), "step 120/20000  checkpoint checkpoints/step-000120");
    let note = Event::Note { step: 100, text: "back to step 100".to_owned() };
    assert_eq!(said(&note, 50), "step 100/20000  back to step 100");
    assert_eq!(said(&Event::Finished { step: 20_000, time: 0.0 }, 60), "step 20000/20000  finished");
}

#[test]
fn a_run_that_went_back_forgets_what_it_does_again() {
    let mut state = state();
    state.event(&Event::Note { step: 150, text: "back".to_owned() }, Duration::ZERO);
    assert_eq!(state.losses.last().unwrap().0, 150.0);
    assert_eq!(state.validation.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [100.0]);
    assert_eq!(state.seconds_left(), None);
}

#[test]
fn numbers_and_times_are_short() {
    for (value, expected) in
        [(0.5124, "0.512"), (31.22, "31.2"), (1234.0, "1234"), (1e-4, "1e-4"), (1.26e-5, "1.3e-5"), (0.0, "0")]
    {
        assert_eq!(figure(value), expected);
    }
    for (seconds, expected) in [(44.6, "45 s"), (200.0, "3 min 20 s"), (15_120.0, "4 h 12 min"), (180_000.0, "2 d 2 h")]
    {
        assert_eq!(duration(seconds), expected);
    }
}

/// A terminal that understands what [`Screen`] sends: relative moves, clearing, and lines that scroll.
#[derive(Default)]
struct Paper {
    rows: Vec<String>,
    row: usize,
}

impl Paper {
    fn read(&mut self, bytes: &[u8]) {
        let mut text = std::str::from_utf8(bytes).unwrap();
        let mut column = 0;
        while let Some(letter) = text.chars().next() {
            self.rows.resize(self.rows.len().max(self.row + 1), String::new());
            text = &text[letter.len_utf8()..];
            match letter {
                '\r' => column = 0,
                '\n' => self.row += 1,
                '\u{1b}' => {
                    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                    let (code, kind) = (&text[1..end], &text[end..=end]);
                    match (kind, code) {
                        ("A", rows) => self.row -= rows.parse::<usize>().unwrap(),
                        ("G", "1") => column = 0,
                        ("K", "") => {
                            let kept: String = self.rows[self.row].chars().take(column).collect();
                            self.rows[self.row] = kept;
                        }
                        ("J", "") => {
                            assert_eq!(column, 0);
                            self.rows.truncate(self.row);
                        }
                        ("m", _) => {}
                        other => panic!("{other:?}"),
                    }
                    text = &text[end + 1..];
                }
                _ => {
                    let mut line: Vec<char> = self.rows[self.row].chars().collect();
                    line.resize(line.len().max(column + 1), ' ');
                    line[column] = letter;
                    self.rows[self.row] = line.into_iter().collect();
                    column += 1;
                }
            }
        }
    }
}

#[test]
fn a_picture_is_drawn_over_the_one_before_and_nothing_else_changes() {
    let mut screen = Screen::new(Vec::new());
    let picture = |lines: &[&str]| Buffer::with_lines(lines.iter().map(|line| (*line).to_owned()));
    let mut paper = Paper { rows: vec!["$ rectiflow train".to_owned()], row: 1 };
    screen.draw(&picture(&["one  ", "a long line", "three"]), 80).unwrap();
    screen.draw(&picture(&["1", "2"]), 80).unwrap();
    paper.read(&std::mem::take(screen.out()));
    assert_eq!((&paper.rows[..], paper.row), (&["$ rectiflow train", "1", "2"].map(ToOwned::to_owned)[..], 3));

    screen.erase(80).unwrap();
    screen.out().extend(b"a note\r\n");
    screen.draw(&picture(&["3 漢字", "4"]), 80).unwrap();
    paper.read(screen.out());
    assert_eq!(paper.rows, ["$ rectiflow train", "a note", "3 漢字", "4"]);
    assert!(!String::from_utf8_lossy(screen.out()).contains("?25l"), "the cursor is never hidden");
}

#[test]
fn a_terminal_that_became_narrower_has_broken_the_lines_of_the_picture() {
    let mut screen = Screen::new(Vec::new());
    screen.draw(&Buffer::with_lines(["a line of 20 columns", "short"]), 80).unwrap();
    screen.out().clear();
    screen.erase(8).unwrap();
    // Three rows and one.
    assert!(screen.out().starts_with(b"\x1b[4A"), "{:?}", String::from_utf8_lossy(screen.out()));
}
