//! What is said before a run: what will be drawn, by what, and what of the user's files and words has no effect.

use std::collections::HashSet;

use rectiflow_flow::Spacing;
use rectiflow_generate::{Encoder, Hindered, Hindrance, KnownWords, LongPrompts, Parts, Plan, plain_markup};
use rectiflow_sample::{Guidance, Rule, Window};
use rectiflow_text::WeightedText;
use rectiflow_vae::{Decoding, VaeConfig};

use crate::memory;
use crate::progress::Progress;

/// What the files say beside their tensors.
pub(crate) struct Known<'a> {
    /// Side of the pictures that the model was trained with.
    pub(crate) side_px: Option<usize>,
    /// Its words, if it has a list.
    pub(crate) words: Option<&'a KnownWords>,
}

/// `by_default`: the user gave neither steps nor guidance.
pub(crate) fn plan(progress: &Progress, parts: &Parts, plan: &Plan, known: &Known<'_>, by_default: bool) {
    let name = &parts.name;
    let encoders = name.encoders.join(", ");
    progress.say(&format!(
        "{}: {}, computes in {} on {}, text by {encoders}",
        name.file, name.variant, name.precision, name.device
    ));
    for absent in ["CLIP-L", "CLIP-G", "T5"].into_iter().filter(|one| !name.encoders.iter().any(|e| e == one)) {
        progress.say(&format!("without {absent}: zeros take its place"));
    }
    let passed_over = parts.reports.iter().filter(|report| !report.not_needed.is_empty());
    for line in passed_over.filter_map(|report| surprising(&report.not_needed)) {
        progress.say(&line);
    }
    for note in &parts.notes {
        progress.say(&format!("note: {note}"));
    }
    let guidance = guidance(plan);
    let levels = match plan.spacing {
        Some(Spacing::Released) => format!("shift {}", plan.shift),
        Some(spacing) => format!("shift {}, schedule {spacing}", plan.shift),
        None => "noise levels of your own".to_owned(),
    };
    progress.say(&format!(
        "{}x{}, {} steps of {}, {levels}, {guidance}, seed {}, T5 length {}, as {} draws",
        plan.width,
        plan.height,
        plan.schedule.len(),
        plan.solver,
        plan.seed,
        plan.t5_length,
        plan.compat
    ));
    let of_model = other_size(plan, known.side_px).into_iter().chain(unknown(plan, known.words));
    let lines = turbo(&name.variant, by_default).map(str::to_owned).into_iter().chain(markup(plan)).chain(of_model);
    let lines = lines.chain(idle(plan));
    let strips = if parts.tiny.is_none() { in_strips(parts.vae.config(), plan) } else { None };
    for line in lines.chain(strips) {
        progress.say(&format!("note: {line}"));
    }
}

/// What an encoder does not see of a text.
pub(crate) fn cut(encoder: Encoder, tokens: usize, words: &str) -> String {
    const SHOWN: usize = 200;
    let shown: String = words.chars().take(SHOWN).collect();
    let more = if words.chars().count() > SHOWN { " ..." } else { "" };
    let hint = if encoder == Encoder::T5 { "a longer `--t5-length`, at most 512," } else { "`--long-prompts chunks`" };
    format!("warning: {encoder} does not see the last {tokens} tokens: {:?}{more}; {hint} shows it more", shown.trim())
}

/// Tensors that were passed over, but for those that many files have and every tool ignores.
fn surprising(not_needed: &[String]) -> Option<String> {
    const HARMLESS: [&str; 3] = ["position_ids", "logit_scale", "encoder.embed_tokens.weight"];
    let names: Vec<&str> =
        not_needed.iter().map(String::as_str).filter(|name| !HARMLESS.iter().any(|end| name.ends_with(end))).collect();
    let first = names.first()?;
    Some(format!("note: {} tensors are not needed and were passed over, first {first:?}", names.len()))
}

/// What a decode in strips needs. Where it is memory that decides, that is seen when it begins.
fn in_strips(vae: &VaeConfig, plan: &Plan) -> Option<String> {
    let latent = plan.latent_size();
    if plan.tiling.decoding(vae, latent, None) == Decoding::Whole {
        return None;
    }
    let [strips, whole] =
        [Decoding::InStrips, Decoding::Whole].map(|decoding| memory::human(vae.decode_bytes(latent, decoding)));
    Some(format!("decodes in strips, in {strips} of memory at most where the whole picture would take {whole}"))
}

/// The distilled release cannot be told from the other one.
fn turbo(variant: &str, by_default: bool) -> Option<&'static str> {
    (by_default && variant.contains("Turbo")).then_some(
        "SD3.5-Large and SD3.5-Large-Turbo have the same tensors, and these settings are Large's; \
         for Turbo give `--steps 4 --guidance 1`",
    )
}

/// Guidance of which there is none in any step.
fn idle(plan: &Plan) -> Vec<String> {
    let steps = plan.schedule.len();
    let plainly = (plan.guidance.largest() > 1.0 && !plan.is_guided()).then_some((plan.guidance.window, "guidance"));
    let is_idle = |one: &&Hindered| !(0..steps).any(|step| one.window.contains(step, steps));
    let hindered = plan.hindered.iter().filter(is_idle).map(|one| (one.window, hindrance(one.how)));
    let line = |(window, what): (Window, &str)| {
        format!("none of the {steps} steps begins in {window}, so {what} has no effect; a wider window would have one")
    };
    plainly.into_iter().chain(hindered).map(line).collect()
}

/// Only small models are named: the large ones were trained at many sizes, and the last is what their settings say.
fn other_size(plan: &Plan, side_px: Option<usize>) -> Option<String> {
    const MANY_SIZES_PX: usize = 512;
    let side = side_px.filter(|side| *side < MANY_SIZES_PX && (plan.width, plan.height) != (*side, *side))?;
    Some(format!(
        "the model was trained with pictures of {side}x{side}; at {}x{} things may be doubled or torn",
        plan.width, plan.height
    ))
}

fn unknown(plan: &Plan, known: Option<&KnownWords>) -> Option<String> {
    let known = known?;
    let texts: Vec<WeightedText> = read(plan).filter_map(|text| plan.syntax.read(text).ok()).collect();
    let mut words: Vec<&str> = texts.iter().flat_map(|text| known.unknown(text.text())).collect();
    let mut said = HashSet::new();
    words.retain(|word| said.insert(word.to_lowercase()));
    let named: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    (!named.is_empty()).then(|| {
        format!(
            "the model was never told of {}: it draws what it can; its words are in {}",
            few(&named),
            KnownWords::FILE
        )
    })
}

/// What in the prompts is read, and what is not.
fn markup(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    let texts = || read(plan).chain(plan.is_guided().then_some(&plan.negative));
    if let Some(first) = texts().flat_map(|text| plain_markup(text)).next() {
        lines.push(format!("{first:?} has no meaning of its own: `<lora:...>`, `[a:b:0.5]` and `[a|b]` are not read"));
    }
    let parsed: Vec<WeightedText> = texts().filter_map(|text| plan.syntax.read(text).ok()).collect();
    let weighed: Vec<String> =
        parsed.iter().flat_map(WeightedText::weights).map(|(words, weight)| format!("{words:?} {weight:.3}")).collect();
    let mut said = HashSet::new();
    let weighed: Vec<String> = weighed.into_iter().filter(|one| said.insert(one.clone())).collect();
    if !weighed.is_empty() {
        lines.push(format!("what counts other than once: {}", few(&weighed)));
    }
    if let Some(bracket) = parsed.iter().find_map(|text| text.unpaired().chars().next()) {
        lines.push(format!("a `{bracket}` has no partner and is part of the text; write \\{bracket} to say so"));
    }
    if plan.long_prompts == LongPrompts::Cut && parsed.iter().any(|text| !text.breaks().is_empty()) {
        lines.push("BREAK has no effect without `--long-prompts chunks`".to_owned());
    }
    lines
}

/// The first of some words, and how many more there are.
fn few(words: &[String]) -> String {
    const NAMED: usize = 12;
    let more = words.len().saturating_sub(NAMED);
    let named = words[..words.len() - more].join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// The texts that encoders read for pictures.
fn read(plan: &Plan) -> impl Iterator<Item = &String> {
    let of_each = plan.prompts.iter().filter(|_| plan.prompt_clip.is_none() || plan.prompt_t5.is_none());
    of_each.chain(&plan.prompt_clip).chain(&plan.prompt_t5)
}

/// Guidance in a few words.
fn guidance(plan: &Plan) -> String {
    let Guidance { scales, window, rule, rescale } = &plan.guidance;
    let mut words = Vec::new();
    if plan.is_guided() {
        let within = if *window == Window::ALL { String::new() } else { format!(" from {window}") };
        let by = match rule {
            Rule::Plain => "",
            Rule::ZeroStar { .. } => " by CFG-Zero*",
            Rule::Projected { .. } => " by APG",
        };
        words.push(format!("guidance {scales}{by}{within}"));
    } else {
        words.push("no guidance".to_owned());
    }
    if *rescale > 0.0 {
        words.push(format!("rescaled by {rescale}"));
    }
    for Hindered { how, blocks, scale, window } in &plan.hindered {
        words.push(match how {
            Hindrance::WorseModel => format!("autoguidance {}", scale + 1.0),
            _ => format!("{} {scale} of blocks {blocks:?} from {window}", hindrance(*how)),
        });
    }
    words.join(", ")
}

fn hindrance(how: Hindrance) -> &'static str {
    match how {
        Hindrance::SkippedBlocks => "skip-layer guidance",
        Hindrance::IsolatedTokens => "perturbed attention guidance",
        Hindrance::WorseModel => "autoguidance",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turbo_is_named_where_the_network_may_be_it_and_the_settings_are_not_the_users() {
        assert!(turbo("SD3.5-Large or Large-Turbo", true).unwrap().contains("--steps 4 --guidance 1"));
        assert_eq!(turbo("SD3.5-Large or Large-Turbo", false), None);
        assert_eq!(turbo("SD3-Medium", true), None);
    }

    #[test]
    fn what_every_file_may_have_is_passed_over_without_a_word() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(surprising(&names(&["text_model.embeddings.position_ids", "logit_scale"])), None);
        assert!(surprising(&names(&["logit_scale", "odd"])).unwrap().contains("1 tensors"));
    }
}
