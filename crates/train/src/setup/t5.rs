use std::path::Path;

use rectiflow_dataset::Texts;
use rectiflow_generate::EncoderFiles;
use rectiflow_nn::{DeviceChoice, Module, Named, Params, RandomInit};
use rectiflow_text::{SpanCorruption, T5Config, T5Decoder, T5Encoder, T5Tokenizer};

use super::{Ready, beside, impossible, model_at};
use crate::export::write_t5;
use crate::objective::Problem;
use crate::objective::t5::{T5, T5Data, T5Network, T5Settings};
use crate::plan::Plan;
use crate::recipe::{Model, SpanObjective, T5Model, VocabularyRecipe};
use crate::trainee::Trainee;

/// Makes a plan's encoder and its decoder ready, from scratch.
///
/// # Errors
/// The data set has fewer texts than a batch.
pub fn t5(plan: &Plan, span: &SpanObjective, on: DeviceChoice) -> Result<Ready<T5>, Problem> {
    let recipe = &plan.recipe;
    let Model::T5(model) = &recipe.model else { return Err("the plan's model is no T5".into()) };
    let beside = beside(plan)?;
    if let Some(clips) = beside.as_deref().and_then(clip_widths).filter(|clips| *clips > model.width.get()) {
        let why = format!("is {}, and the CLIPs beside it are {clips} wide together", model.width.get());
        return Err(impossible("model.width", why, "give at least that: their tokens are as wide as T5's").into());
    }
    let (texts, findings) = Texts::open(&recipe.data.source)?;
    let tokenizer = match model.vocabulary {
        VocabularyRecipe::Bytes => T5Tokenizer::bytes(),
        VocabularyRecipe::Unigram => T5Tokenizer::embedded(),
        VocabularyRecipe::Words => of_words(&texts, recipe.seed)?,
    };
    let config = config(model, &tokenizer);
    let settings = T5Settings {
        seed: recipe.seed,
        batch: recipe.batch.get(),
        accumulate: recipe.accumulate.get(),
        tokens: model.tokens.get(),
        corruption: SpanCorruption {
            density: span.noise_density,
            mean_span: span.mean_span,
            sentinels: tokenizer.sentinels(),
            repeated: span.repeated,
        },
        gradient_norm_max: plan.gradient_norm_max(),
    };
    let apart = if recipe.validation.every > 0 { recipe.validation.samples } else { 0 };
    let data = T5Data::new(texts, tokenizer.clone(), settings.batch, apart, recipe.seed)?;

    let device = on.open()?.autodiff();
    let mut source = RandomInit { seed: recipe.seed };
    let mut source = Named::new(&mut source);
    let encoder = T5Encoder::new(Params::new(&mut source, &device, recipe.precision.into()), &config);
    let params = Params::new(&mut source, &device, recipe.precision.into());
    let network = T5Network { encoder, decoder: T5Decoder::new(params, &config, model.decoder_layers.get()) };
    let names = source.names();
    let parameters = network.num_params();
    let trainee = Trainee::new("t5", network, names.clone(), plan.adamw(), recipe.ema.clone());
    let tokens = model.tokens.get();
    let export =
        move |encoder: &T5Encoder, to: &Path| write_t5(encoder, &names, &tokenizer, tokens, beside.as_deref(), to);
    let operations = 3.0 * recipe.batch.get() as f64 * forward(&config, model, &settings);
    let objective = T5::new(settings, trainee, data, device, Box::new(export));
    Ok(Ready { objective, parameters, operations, findings: Some(findings), notes: Vec::new() })
}

/// Texts that are counted for a vocabulary: enough for every word that is common.
const COUNTED: usize = 50_000;

fn of_words(texts: &Texts, seed: u64) -> Result<T5Tokenizer, Problem> {
    let text = |sample: &u64| texts.text(seed, 0, *sample);
    let counted: Vec<String> = texts
        .kept()
        .iter()
        .take(COUNTED)
        .map(text)
        .collect::<Result<_, _>>()
        .map_err(|reason| format!("the texts changed while they were counted: {reason}"))?;
    Ok(T5Tokenizer::of_words(counted.iter().map(String::as_str)))
}

/// The widths of a model's CLIPs together, where it can be opened already.
fn clip_widths(model: &Path) -> Option<usize> {
    EncoderFiles::open(&model_at(model)).ok().map(|files| files.conditioning_widths().1)
}

fn config(model: &T5Model, tokenizer: &T5Tokenizer) -> T5Config {
    T5Config {
        width: model.width.get(),
        layers: model.layers.get(),
        heads: model.heads.get(),
        head_width: model.head_width.get(),
        mlp: model.mlp.get(),
        vocabulary: tokenizer.rows(),
        ..T5Config::xxl()
    }
}

/// Operations of the products of one forward of a full text; the decoder says as much as is hidden of it.
fn forward(config: &T5Config, model: &T5Model, settings: &T5Settings) -> f64 {
    let (d, inner, mlp) = (config.width as f64, (config.heads * config.head_width) as f64, config.mlp as f64);
    let read = settings.tokens as f64;
    let said = read * settings.corruption.density * (1.0 + 1.0 / settings.corruption.mean_span);
    let attention = |of: f64, to: f64| 2.0 * of * d * inner + 2.0 * to * d * inner + 2.0 * of * to * inner;
    let gated = |of: f64| 3.0 * of * d * mlp;
    let encoder = attention(read, read) + gated(read);
    let decoder = attention(said, said) + attention(said, read) + gated(said);
    let head = said * d * config.vocabulary as f64;
    2.0 * (config.layers as f64 * encoder + model.decoder_layers.get() as f64 * decoder + head)
}
