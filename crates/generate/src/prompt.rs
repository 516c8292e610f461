//! Prompts to conditionings, one encoder after the other.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use rectiflow_nn::ops::runs_on_kernels;
use rectiflow_nn::{Device, Int, Tensor, from_id_rows, is_finite};
use rectiflow_text::{
    ClipConfig, ClipEncoder, ClipFeatures, ClipKind, ClipOutput, ClipSize, ClipTokenizer, Conditioning,
    ConditioningWidths, Pooling, STABILITY_LENGTH_MIN, T5Encoder, T5Length, T5Rule, T5Tokenizer, TextFeatures,
    TokenizerError, Tokens, WeightedText, assemble, weigh,
};

use crate::compat::Compat;
use crate::error::GenerateError;
use crate::plan::Plan;
use crate::{Watch, go_on};

/// A text encoder, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// CLIP-L.
    ClipL,
    /// OpenCLIP bigG.
    ClipG,
    /// T5.
    T5,
}

impl std::fmt::Display for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Encoder::ClipL => "CLIP-L",
            Encoder::ClipG => "CLIP-G",
            Encoder::T5 => "T5",
        })
    }
}

/// A CLIP encoder and what cuts text for it.
#[derive(Clone)]
pub(crate) struct Clip {
    /// Shared by clones, as weights are.
    pub(crate) tokenizer: Arc<ClipTokenizer>,
    pub(crate) encoder: ClipEncoder,
}

/// T5 and what cuts text for it.
#[derive(Clone)]
pub(crate) struct T5 {
    /// Shared by clones, as weights are.
    pub(crate) tokenizer: Arc<T5Tokenizer>,
    pub(crate) encoder: T5Encoder,
}

/// The text encoders that a model has. Encoding consumes them: they are large, and not needed again.
#[derive(Clone)]
pub struct TextEncoders {
    pub(crate) clip_l: Option<Clip>,
    pub(crate) clip_g: Option<Clip>,
    pub(crate) t5: Option<T5>,
    /// Width of a token and of the pooled text, as the transformer takes them.
    pub(crate) context_width: usize,
    pub(crate) pooled_width: usize,
    pub(crate) device: Device,
}

/// What each encoder reads.
#[derive(Clone, Debug)]
pub struct EncoderTexts {
    /// Both CLIP encoders.
    pub clip: WeightedText,
    /// T5.
    pub t5: WeightedText,
    /// Runs of tokens that a CLIP encoder reads at most.
    pub clip_chunks_max: usize,
}

impl EncoderTexts {
    /// All the same, and brackets are brackets.
    pub fn plain(text: &str) -> EncoderTexts {
        EncoderTexts { clip: WeightedText::plain(text), t5: WeightedText::plain(text), clip_chunks_max: 1 }
    }
}

/// One text as each encoder takes it.
#[derive(Clone, Debug)]
pub struct PromptTokens {
    /// For CLIP-L, if it is there.
    pub clip_l: Option<Tokens>,
    /// For CLIP-G, if it is there.
    pub clip_g: Option<Tokens>,
    /// For T5, if it is there.
    pub t5: Option<Tokens>,
}

/// What a plan's prompts became.
pub struct Conditionings {
    /// Each prompt that is unlike those before it.
    prompts: Vec<Conditioning>,
    /// Which of them each prompt is.
    places: Vec<usize>,
    negative: Option<Conditioning>,
}

/// What the network is told in one step.
#[derive(Clone, Copy)]
pub struct Told<'a, C = Conditioning> {
    /// What to draw.
    pub prompt: &'a C,
    /// What to stay away from; none without guidance.
    pub negative: Option<&'a C>,
}

impl Conditionings {
    /// Whether prompts can be told at once: they are equally long.
    pub(crate) fn are_alike(&self, one: usize, other: usize) -> bool {
        let length = |index: usize| self.prompts[self.places[index]].context.dims()[1];
        length(one) == length(other)
    }

    /// What the network is told for prompts of one length, a row for each, and what it is kept away from.
    pub(crate) fn of(&self, prompts: &[usize]) -> (Conditioning, Option<Conditioning>) {
        let negative = self.negative.as_ref().map(|one| Conditioning::stacked(prompts.iter().map(|_| one)));
        (Conditioning::stacked(prompts.iter().map(|index| &self.prompts[self.places[*index]])), negative)
    }
}

impl Compat {
    /// How a text becomes T5's tokens.
    pub fn t5_rule(self, length: usize) -> T5Rule {
        match self {
            Compat::Diffusers => T5Rule::diffusers(length),
            Compat::Stability => {
                let min = STABILITY_LENGTH_MIN.min(length);
                T5Rule { length: T5Length::AtLeast { min, max: length }, ..T5Rule::stability() }
            }
        }
    }

    /// The tokenizer of a CLIP encoder: that of its folder, else the built-in one of its size. Only in transformers is
    /// CLIP-G's padding token, `!`, found inside texts.
    ///
    /// # Errors
    /// The folder's is broken, or of an encoder of another size.
    pub fn clip_tokenizer(
        self,
        folder: Option<&Path>,
        kind: ClipKind,
        encoder: &ClipConfig,
    ) -> Result<ClipTokenizer, TokenizerError> {
        let tokenizer = match folder {
            Some(folder) => ClipTokenizer::from_folder(folder, kind)?,
            None => ClipTokenizer::sized(kind, encoder.size()),
        };
        tokenizer.check_encoder(encoder.size())?;
        Ok(match self {
            Compat::Diffusers => tokenizer.with_pad_inside_texts(),
            Compat::Stability => tokenizer,
        })
    }

    /// Whether CLIP-L's pooled vector is projected, where the file has a projection. CLIP-G's always is.
    fn clip_l_pooling(self) -> Pooling {
        match self {
            Compat::Diffusers => Pooling::Projected,
            Compat::Stability => Pooling::Unprojected,
        }
    }

    /// T5 tokens, all zeros, where there is no T5.
    fn t5_absent(self, length: usize) -> usize {
        match self {
            Compat::Diffusers => length,
            Compat::Stability => STABILITY_LENGTH_MIN.min(length),
        }
    }
}

impl TextEncoders {
    /// The encoders; there are none in `self` any more.
    pub(crate) fn take(&mut self) -> TextEncoders {
        TextEncoders {
            clip_l: self.clip_l.take(),
            clip_g: self.clip_g.take(),
            t5: self.t5.take(),
            device: self.device.clone(),
            ..*self
        }
    }

    /// The encoders that are there.
    pub fn present(&self) -> Vec<Encoder> {
        let there = [
            (Encoder::ClipL, self.clip_l.is_some()),
            (Encoder::ClipG, self.clip_g.is_some()),
            (Encoder::T5, self.t5.is_some()),
        ];
        there.into_iter().filter_map(|(encoder, is_there)| is_there.then_some(encoder)).collect()
    }

    /// Cuts texts into tokens for each encoder.
    ///
    /// # Errors
    /// A tokenizer's own table does not cover a text.
    pub fn tokenize(
        &self,
        texts: &EncoderTexts,
        compat: Compat,
        t5_length: usize,
    ) -> Result<PromptTokens, GenerateError> {
        let EncoderTexts { clip, t5, clip_chunks_max } = texts;
        let tokens_of = |encoder: &Option<Clip>| {
            let tokens = encoder.as_ref().map(|encoder| encoder.tokenizer.tokenize_weighted(clip, *clip_chunks_max));
            tokens.transpose()
        };
        let rule = compat.t5_rule(t5_length);
        let mut clips = [tokens_of(&self.clip_l)?, tokens_of(&self.clip_g)?];
        // They stand side by side, and may be cut differently: diffusers' CLIP-G has a token for each `!`.
        let longest = clips.iter().flatten().map(|tokens| tokens.ids.len()).max().unwrap_or(0);
        for (tokens, encoder) in clips.iter_mut().zip([&self.clip_l, &self.clip_g]) {
            if let (Some(tokens), Some(encoder)) = (tokens, encoder)
                && tokens.ids.len() < longest
            {
                tokens.fill_to(longest, &encoder.tokenizer.tokenize("")?);
            }
        }
        let [clip_l, clip_g] = clips;
        Ok(PromptTokens {
            clip_l,
            clip_g,
            t5: self.t5.as_ref().map(|encoder| encoder.tokenizer.tokenize_weighted(t5, &rule)).transpose()?,
        })
    }

    /// Encodes a plan's prompts and, where guidance needs it, its negative prompt; says what was cut.
    pub(crate) fn encode_plan<'p>(self, plan: &'p Plan, watch: &mut dyn Watch) -> Result<Conditionings, GenerateError> {
        // Alternatives may have left equal ones, which are encoded once.
        let mut first: HashMap<&str, usize> = HashMap::new();
        let mut unlike = Vec::new();
        let place = |(index, prompt): (usize, &'p String)| {
            *first.entry(prompt).or_insert_with(|| {
                unlike.push(index);
                unlike.len() - 1
            })
        };
        let places: Vec<usize> = plan.prompts.iter().enumerate().map(place).collect();
        let of_prompts = unlike.iter().map(|index| plan.read(*index));
        let of_negative = plan.is_guided().then(|| plan.read_negative());
        let tokens = of_prompts
            .chain(of_negative)
            .map(|texts| self.tokenize(&texts?, plan.compat, plan.t5_length))
            .collect::<Result<Vec<_>, GenerateError>>()?;
        for tokens in &tokens {
            tokens.report_cuts(watch);
        }
        let mut prompts = self.encode(tokens, plan.compat, plan.t5_length, watch)?;
        let negative = if plan.is_guided() { prompts.pop() } else { None };
        Ok(Conditionings { prompts, places, negative })
    }

    /// Encodes texts that [`Self::tokenize`] cut. Each encoder is freed before the next one is read.
    ///
    /// # Errors
    /// An encoder's output does not fit the transformer or is not finite, or the watcher stopped the run.
    pub fn encode(
        self,
        tokens: Vec<PromptTokens>,
        compat: Compat,
        t5_length: usize,
        watch: &mut dyn Watch,
    ) -> Result<Vec<Conditioning>, GenerateError> {
        let widths = self.widths(compat, t5_length)?;
        let device = self.device;
        let clip_l = each(self.clip_l, Encoder::ClipL, watch, |clip| {
            clip.outputs(&of(&tokens, |t| &t.clip_l), compat.clip_l_pooling(), &device)
        })?;
        let clip_g = each(self.clip_g, Encoder::ClipG, watch, |clip| {
            clip.outputs(&of(&tokens, |t| &t.clip_g), Pooling::Projected, &device)
        })?;
        let t5 = each(self.t5, Encoder::T5, watch, |t5| t5.outputs(&of(&tokens, |t| &t.t5), &device))?;
        let outputs = optional(clip_l).zip(optional(clip_g)).zip(optional(t5)).take(tokens.len());
        outputs.map(|((clip_l, clip_g), t5)| Ok(assemble(clip_l, clip_g, t5, widths, &device)?)).collect()
    }

    /// What the transformer is told of each of these texts, and what an encoder does not see of them; the encoders stay,
    /// for programs that draw many pictures.
    ///
    /// # Errors
    /// A tokenizer's own table does not cover a text; an encoder's output does not fit the transformer or is not finite.
    pub fn conditionings(
        &self,
        texts: &[&str],
        compat: Compat,
        t5_length: usize,
        watch: &mut dyn Watch,
    ) -> Result<Vec<Conditioning>, GenerateError> {
        let widths = self.widths(compat, t5_length)?;
        let tokens = texts.iter().map(|text| self.tokenize(&EncoderTexts::plain(text), compat, t5_length));
        let tokens = tokens.collect::<Result<Vec<_>, GenerateError>>()?;
        tokens.iter().for_each(|tokens| tokens.report_cuts(watch));
        let features = self.features(&tokens, compat)?;
        let whole = |features: TextFeatures| {
            let row = |clip: ClipFeatures| ClipOutput {
                penultimate: clip.penultimate.unsqueeze(),
                pooled: clip.pooled.unsqueeze(),
            };
            let TextFeatures { clip_l, clip_g, t5 } = features;
            Ok(assemble(clip_l.map(row), clip_g.map(row), t5.map(Tensor::unsqueeze), widths, &self.device)?)
        };
        features.into_iter().map(whole).collect()
    }

    /// What each encoder gives for each of these texts; the encoders stay.
    ///
    /// # Errors
    /// An encoder's output is not finite.
    pub(crate) fn features(&self, tokens: &[PromptTokens], compat: Compat) -> Result<Vec<TextFeatures>, GenerateError> {
        let clip = |clip: &Option<Clip>, tokens: Vec<&Tokens>, pooling| {
            let outputs = clip.as_ref().map(|clip| clip.outputs(&tokens, pooling, &self.device)).transpose()?;
            let features = outputs.unwrap_or_default().iter().map(|output| ClipFeatures::of(output, 0)).collect();
            Ok::<_, GenerateError>(optional(features))
        };
        let clip_l = clip(&self.clip_l, of(tokens, |t| &t.clip_l), compat.clip_l_pooling())?;
        let clip_g = clip(&self.clip_g, of(tokens, |t| &t.clip_g), Pooling::Projected)?;
        let t5 = self.t5.as_ref().map(|t5| t5.outputs(&of(tokens, |t| &t.t5), &self.device)).transpose()?;
        let t5 = optional(t5.unwrap_or_default()).map(|t5| t5.map(|t5| t5.squeeze_dim(0)));
        let all = clip_l.zip(clip_g).zip(t5).take(tokens.len());
        Ok(all.map(|((clip_l, clip_g), t5)| TextFeatures { clip_l, clip_g, t5 }).collect())
    }

    /// How the encoders' outputs are joined.
    ///
    /// # Errors
    /// They do not fit the transformer.
    pub(crate) fn widths(
        &self,
        compat: Compat,
        t5_length: usize,
    ) -> Result<ConditioningWidths, rectiflow_text::WidthError> {
        ConditioningWidths::find(
            self.clip_l.as_ref().map(|clip| clip.encoder.config()),
            self.clip_g.as_ref().map(|clip| clip.encoder.config()),
            self.t5.as_ref().map(|t5| t5.encoder.config()),
            self.context_width,
            self.pooled_width,
            compat.t5_absent(t5_length),
        )
    }
}

impl PromptTokens {
    /// Tokens of the conditioning that these become: CLIP's and T5's, or the zeros where T5 is not there.
    pub fn context_tokens(&self, compat: Compat, t5_length: usize) -> usize {
        let clip =
            self.clip_l.as_ref().or(self.clip_g.as_ref()).map_or(ClipSize::RELEASED.length, |clip| clip.ids.len());
        clip + self.t5.as_ref().map_or(compat.t5_absent(t5_length), |t5| t5.ids.len())
    }

    fn report_cuts(&self, watch: &mut dyn Watch) {
        let all = [(Encoder::ClipL, &self.clip_l), (Encoder::ClipG, &self.clip_g), (Encoder::T5, &self.t5)];
        for (encoder, tokens) in all {
            if let Some(cut) = tokens.as_ref().and_then(|tokens| tokens.cut.as_ref()) {
                watch.cut(encoder, cut.tokens, &cut.words);
            }
        }
    }
}

/// Texts that an encoder takes at once: one reading of its weights serves them all, and memory stays small. What other
/// devices are busy with for a while is more.
fn texts_at_once(device: &Device) -> usize {
    if runs_on_kernels(device) { TEXTS_AT_ONCE } else { 256 }
}

/// The same on the processor.
pub(crate) const TEXTS_AT_ONCE: usize = 8;

/// Each text's tokens for one encoder; none where the encoder is not there.
fn of<'a>(tokens: &'a [PromptTokens], of: impl Fn(&'a PromptTokens) -> &'a Option<Tokens>) -> Vec<&'a Tokens> {
    tokens.iter().filter_map(|tokens| of(tokens).as_ref()).collect()
}

/// What an encoder gives, if it is there; frees it.
fn each<E, T>(
    encoder: Option<E>,
    name: Encoder,
    watch: &mut dyn Watch,
    run: impl Fn(&E) -> Result<Vec<T>, GenerateError>,
) -> Result<Vec<T>, GenerateError> {
    let Some(encoder) = encoder else { return Ok(Vec::new()) };
    go_on(watch.phase(&format!("encode {name}")))?;
    run(&encoder)
}

impl Clip {
    /// The output for each text, as long as its tokens. Runs are encoded alone and stand one behind the other; the first
    /// one's pooled vector is the text's, and has no weights: as in ComfyUI.
    fn outputs(&self, texts: &[&Tokens], pooling: Pooling, device: &Device) -> Result<Vec<ClipOutput>, GenerateError> {
        let length = self.tokenizer.size().length;
        let is_weighed = texts.iter().any(|text| !text.are_plain());
        let empty = is_weighed.then(|| self.tokenizer.tokenize("")).transpose()?;
        let of_texts = texts.iter().flat_map(|text| text.ids.chunks(length));
        let runs: Vec<&[u32]> = of_texts.chain(empty.iter().map(|empty| &empty.ids[..])).collect();
        let mut outputs = in_batches(&runs, device, |ids| {
            let output = self.encoder.forward(ids, pooling);
            check(&output.penultimate, "the encoded text")?;
            check(&output.pooled, "the pooled text")?;
            Ok(one_by_one(output))
        })?;
        let empty_output = if is_weighed { outputs.pop() } else { None };
        let mut outputs = outputs.into_iter();
        let whole = texts.iter().map(|text| {
            let runs: Vec<ClipOutput> = outputs.by_ref().take(text.ids.len() / length).collect();
            let pooled = runs[0].pooled.clone();
            let tokens = Tensor::cat(runs.into_iter().map(|run| run.penultimate).collect(), 1);
            let penultimate = match &empty_output {
                Some(empty) if !text.are_plain() => weigh(tokens, empty.penultimate.clone(), &text.weights),
                _ => tokens,
            };
            ClipOutput { penultimate, pooled }
        });
        Ok(whole.collect())
    }
}

impl T5 {
    /// The output `[1, T, C]` for each text.
    fn outputs(&self, texts: &[&Tokens], device: &Device) -> Result<Vec<Tensor<3>>, GenerateError> {
        let encode = |rows: &[&[u32]]| {
            in_batches(rows, device, |ids| {
                let count = ids.dims()[0];
                let output = self.encoder.forward(ids);
                check(&output, "the encoded text")?;
                Ok(output.chunk(count, 0))
            })
        };
        let outputs = encode(&texts.iter().map(|text| &text.ids[..]).collect::<Vec<_>>())?;
        // Of each length one: the empty text is as long as what it is compared with, for its places.
        let mut empty: BTreeMap<usize, Tensor<3>> = BTreeMap::new();
        let weighed = outputs.into_iter().zip(texts).map(|(output, text)| {
            if text.are_plain() {
                return Ok(output);
            }
            let empty = match empty.entry(text.ids.len()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => {
                    let ids = self.tokenizer.tokenize("", &T5Rule::diffusers(text.ids.len()))?.ids;
                    place.insert(encode(&[&ids])?.pop().expect("an output for a text"))
                }
            };
            Ok(weigh(output, empty.clone(), &text.weights))
        });
        weighed.collect()
    }
}

/// What `run` gives for each text; it takes several of one length at once.
///
/// # Errors
/// Those of `run`.
fn in_batches<T>(
    texts: &[&[u32]],
    device: &Device,
    run: impl Fn(Tensor<2, Int>) -> Result<Vec<T>, GenerateError>,
) -> Result<Vec<T>, GenerateError> {
    let mut outputs = Vec::new();
    for run_of_equals in texts.chunk_by(|a, b| a.len() == b.len()) {
        for batch in run_of_equals.chunks(texts_at_once(device)) {
            outputs.extend(run(from_id_rows(batch, device))?);
        }
    }
    Ok(outputs)
}

/// An encoder's output for each text, or none for any where the encoder is not there.
fn optional<T>(outputs: Vec<T>) -> impl Iterator<Item = Option<T>> {
    outputs.into_iter().map(Some).chain(std::iter::repeat_with(|| None))
}

/// The outputs for each text of a batch.
fn one_by_one(batch: ClipOutput) -> Vec<ClipOutput> {
    let count = batch.pooled.dims()[0];
    let outputs = batch.penultimate.chunk(count, 0).into_iter().zip(batch.pooled.chunk(count, 0));
    outputs.map(|(penultimate, pooled)| ClipOutput { penultimate, pooled }).collect()
}

fn check<const D: usize>(tensor: &Tensor<D>, stage: &'static str) -> Result<(), GenerateError> {
    if is_finite(tensor) { Ok(()) } else { Err(GenerateError::NotFinite { stage }) }
}
