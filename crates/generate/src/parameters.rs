//! Settings in the words of AUTOMATIC1111's web UI: a prompt, a line with the negative prompt, a line of names and values.
//!
//! Such text cannot make a picture again: it lacks the encoders, the precision, the noise and more. [`Parameters`] is what
//! can be taken over from it.

use std::str::FromStr;

use rectiflow_sample::Solver;

use crate::settings::{OneOrAll, Settings};

/// Digits of a digest that other tools show.
const HASH_DIGITS: usize = 10;
/// What stands before the negative prompt.
const NEGATIVE: &str = "Negative prompt: ";

/// The text of a picture.
pub(crate) fn of(settings: &Settings) -> String {
    let negative = match settings.negative_prompt.as_str() {
        "" => String::new(),
        negative => format!("{NEGATIVE}{negative}\n"),
    };
    // Other tools read one number here.
    let guidance = match &settings.guidance {
        OneOrAll::One(scale) => *scale,
        OneOrAll::All(scales) => scales[0],
    };
    let hash = settings
        .hashes
        .get("transformer")
        .map_or_else(String::new, |digest| format!("Model hash: {}, ", digest.get(..HASH_DIGITS).unwrap_or(digest)));
    format!(
        "{}\n{negative}Steps: {}, Sampler: {}, Schedule type: {}, CFG scale: {guidance}, Shift: {}, Seed: {}, \
         Size: {}x{}, {hash}Model: {}, Version: {}",
        settings.prompt,
        settings.steps,
        settings.solver,
        schedule_type(&settings.schedule),
        settings.shift,
        settings.seed,
        settings.width,
        settings.height,
        settings.model,
        settings.software
    )
}

/// Our names of schedules, and AUTOMATIC1111's.
const SCHEDULES: [(&str, &str); 5] = [
    ("released", "Normal"),
    ("simple", "Simple"),
    ("karras", "Karras"),
    ("exponential", "Exponential"),
    ("beta", "Beta"),
];

fn schedule_type(ours: &str) -> &str {
    SCHEDULES.iter().find(|(name, _)| *name == ours).map_or(ours, |(_, theirs)| theirs)
}

/// What another program says of its picture, as far as it can be taken over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// What was drawn.
    pub prompt: String,
    /// What it was kept away from.
    pub negative: String,
    /// Names and values that are understood here, as options of `rectiflow generate`: `steps`, `28`.
    pub options: Vec<(&'static str, String)>,
    /// Names and values that are not.
    pub others: Vec<(String, String)>,
}

impl FromStr for Parameters {
    type Err = std::convert::Infallible;

    /// Reads any text: what has no names and values is a prompt.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (texts, last) = match text.trim_end().rsplit_once('\n') {
            Some((texts, last)) if last.starts_with("Steps: ") => (texts, last),
            None if text.starts_with("Steps: ") => ("", text),
            _ => (text.trim_end(), ""),
        };
        let (prompt, negative) = match texts.split_once(&format!("\n{NEGATIVE}")) {
            Some((prompt, negative)) => (prompt, negative),
            None => texts.strip_prefix(NEGATIVE).map_or((texts, ""), |negative| ("", negative)),
        };
        let mut read = Parameters { prompt: prompt.into(), negative: negative.into(), ..Parameters::default() };
        for (name, value) in pairs(last) {
            match option(name, &value) {
                options if options.is_empty() => read.others.push((name.to_owned(), value)),
                options => read.options.extend(options),
            }
        }
        Ok(read)
    }
}

/// The names and values of a line. A value in quotes may have commas.
fn pairs(line: &str) -> Vec<(&str, String)> {
    let (mut pairs, mut rest) = (Vec::new(), line);
    while let Some((name, after)) = rest.split_once(": ") {
        let quoted = after.starts_with('"').then(|| {
            let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
            let value = values.next()?.ok()?;
            Some((value, &after[values.byte_offset()..]))
        });
        let (value, end) = quoted.flatten().unwrap_or_else(|| {
            let end = after.find(", ").unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        });
        pairs.push((name, value));
        rest = end.strip_prefix(", ").unwrap_or("");
    }
    pairs
}

/// The options of `rectiflow generate` that say the same; none if there are none, or the value is not what it should be.
fn option(name: &str, value: &str) -> Vec<(&'static str, String)> {
    let number = |option| match value.parse::<f64>() {
        Ok(number) if number.is_finite() => vec![(option, value.to_owned())],
        _ => Vec::new(),
    };
    match name {
        "Steps" => number("steps"),
        "CFG scale" => number("guidance"),
        "Seed" => number("seed"),
        "Shift" => number("shift"),
        "Sampler" => value.parse::<Solver>().map_or_else(|_| Vec::new(), |solver| vec![("solver", solver.to_string())]),
        "Schedule type" => {
            let ours = SCHEDULES.iter().find(|(ours, theirs)| [*ours, *theirs].contains(&value));
            ours.map_or_else(Vec::new, |(ours, _)| vec![("schedule", (*ours).to_owned())])
        }
        "Size" => match value.split_once('x').map(|(width, height)| (width.parse::<u32>(), height.parse::<u32>())) {
            Some((Ok(width), Ok(height))) => vec![("width", width.to_string()), ("height", height.to_string())],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Parameters {
        text.parse().unwrap_or_else(|never| match never {})
    }

    #[test]
    fn what_other_programs_write_is_taken_over_as_far_as_it_goes() {
        let text = "a cat,\nsitting\nNegative prompt: blurry: very\nSteps: 28, Sampler: DPM++ 2M, Schedule type: Karras, \
                    CFG scale: 4.5, Seed: 7, Size: 1024x768, Model hash: 0123456789, Model: sd3, \
                    Lora hashes: \"a: 1, b: 2\", Version: v1.10";
        let read = read(text);
        assert_eq!((read.prompt.as_str(), read.negative.as_str()), ("a cat,\nsitting", "blurry: very"));
        let options: Vec<_> = read.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            options.join(" "),
            "steps=28 solver=dpmpp_2m schedule=karras guidance=4.5 seed=7 width=1024 height=768"
        );
        let others: Vec<_> = read.others.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(others, ["Model hash=0123456789", "Model=sd3", "Lora hashes=a: 1, b: 2", "Version=v1.10"]);
    }

    #[test]
    fn text_of_any_kind_is_a_prompt_at_least() {
        assert_eq!(read("").prompt, "");
        assert_eq!(read("just words").prompt, "just words");
        assert_eq!(read("Negative prompt: words").negative, "words");
        let odd = read("x\nSteps: many, Sampler: who knows, Size: 3xx, Seed: inf, CFG scale: \"4");
        assert_eq!((odd.options.len(), odd.others.len()), (0, 5), "{odd:?}");
    }
}
