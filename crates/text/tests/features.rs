//! Batches from kept features are what the encoders, run live, give.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{File, fixture};
use rectiflow_nn::{DType, Device, Params, Precision, Tensor, from_f32, from_ids, to_f32};
use rectiflow_text::*;

const T5_TOKENS: usize = 77;
const TEXTS: [&str; 3] = ["a photo of a cat", "", "two dogs, and a very long red fence behind them"];

/// What the fixture's encoders give for one text, and how many of its tokens are real.
struct Encoded {
    clip_l: ClipOutput,
    clip_g: ClipOutput,
    t5: Tensor<3>,
    real: [usize; 3],
}

impl Encoded {
    fn features(&self) -> TextFeatures {
        TextFeatures {
            clip_l: Some(ClipFeatures::of(&self.clip_l, 0)),
            clip_g: Some(ClipFeatures::of(&self.clip_g, 0)),
            t5: Some(self.t5.clone().squeeze_dim(0)),
        }
    }

    /// As [`assemble`] makes it of the encoders that are kept.
    fn live(&self, keep: Keep, widths: ConditioningWidths, device: &Device) -> Conditioning {
        let clip = |kept: bool, output: &ClipOutput| kept.then(|| output.clone());
        let (clip_l, clip_g) = (clip(keep.clip_l, &self.clip_l), clip(keep.clip_g, &self.clip_g));
        assemble(clip_l, clip_g, keep.t5.then(|| self.t5.clone()), widths, device).unwrap()
    }
}

fn encode(device: &Device) -> (Vec<Encoded>, ConditioningWidths) {
    let open = |part: &str| File::open(&fixture("sd3/model").join(part).join("model.safetensors"));
    let clip = |part, kind| {
        let mut file = open(part);
        let config = ClipConfig::find(&file, kind, None).unwrap();
        (ClipEncoder::new(Params::new(&mut file, device, Precision::F32), &config), ClipTokenizer::embedded(kind))
    };
    let (l, l_tokenizer) = clip("text_encoder", ClipKind::L);
    let (g, g_tokenizer) = clip("text_encoder_2", ClipKind::G);
    let mut file = open("text_encoder_3");
    let config = T5Config::find(&file, None).unwrap();
    let t5 = T5Encoder::new(Params::new(&mut file, device, Precision::F32), &config);
    let pooled = [&l, &g].map(|clip| clip.config().pooled_width(Pooling::Projected)).iter().sum();
    let (l_config, g_config) = (Some(l.config()), Some(g.config()));
    let widths = ConditioningWidths::find(l_config, g_config, Some(&config), config.width, pooled, T5_TOKENS).unwrap();
    let encode = |text: &str| {
        let l_tokens = l_tokenizer.tokenize(text).unwrap();
        let g_tokens = g_tokenizer.tokenize(text).unwrap();
        let t5_tokens = T5Tokenizer::embedded().tokenize(text, &T5Rule::diffusers(T5_TOKENS)).unwrap();
        Encoded {
            clip_l: l.forward(from_ids(&l_tokens.ids, device), Pooling::Projected),
            clip_g: g.forward(from_ids(&g_tokens.ids, device), Pooling::Projected),
            t5: t5.forward(from_ids(&t5_tokens.ids, device)),
            real: [l_tokens.real, g_tokens.real, t5_tokens.real],
        }
    };
    (TEXTS.map(encode).into(), widths)
}

#[track_caller]
fn assert_row(batch: &Conditioning, row: usize, expected: &Conditioning) {
    assert_eq!(to_f32(&batch.context.clone().narrow(0, row, 1)), to_f32(&expected.context), "context of text {row}");
    assert_eq!(to_f32(&batch.pooled.clone().narrow(0, row, 1)), to_f32(&expected.pooled), "pooled of text {row}");
}

#[test]
fn kept_features_are_what_drawing_feeds_the_transformer() {
    let device = Device::flex();
    let (encoded, widths) = encode(&device);
    let texts: Vec<_> = encoded.iter().map(Encoded::features).collect();
    let batch = assemble_features(&texts, &[Keep::ALL; 3], Pads::default(), widths, &device).unwrap();
    assert_eq!(batch.context.dims(), [3, 77 + T5_TOKENS, widths.context]);
    for (row, encoded) in encoded.iter().enumerate() {
        assert_row(&batch, row, &encoded.live(Keep::ALL, widths, &device));
    }
}

#[test]
fn each_text_loses_its_own_encoders() {
    let device = Device::flex();
    let (encoded, widths) = encode(&device);
    let texts: Vec<_> = encoded.iter().map(Encoded::features).collect();
    for first in 0..8 {
        let keep = [first, first + 3, first + 5].map(|bits: u8| Keep {
            clip_l: bits & 1 == 0,
            clip_g: bits & 2 == 0,
            t5: bits & 4 == 0,
        });
        let batch = assemble_features(&texts, &keep, Pads::AsEncoded, widths, &device).unwrap();
        for (row, (encoded, keep)) in encoded.iter().zip(keep).enumerate() {
            assert_row(&batch, row, &encoded.live(keep, widths, &device));
        }
    }
}

/// Real tokens are as they were; what stood behind them, which was not zero, is.
#[test]
fn zeros_stand_for_padding_where_that_is_asked_for() {
    let device = Device::flex();
    let (encoded, widths) = encode(&device);
    let texts: Vec<_> = encoded.iter().map(|text| text.features().without_padding(text.real)).collect();
    let batch = assemble_features(&texts, &[Keep::ALL; 3], Pads::Zeros, widths, &device).unwrap();
    let found = to_f32(&batch.context);
    for (found, encoded) in found.chunks((77 + T5_TOKENS) * widths.context).zip(&encoded) {
        let whole = to_f32(&encoded.live(Keep::ALL, widths, &device).context);
        for (place, (found, whole)) in found.chunks(widths.context).zip(whole.chunks(widths.context)).enumerate() {
            let columns = if place < 77 { [encoded.real[0], encoded.real[1]] } else { [77 + encoded.real[2]; 2] };
            let ends = if place < 77 { [widths.clip_l, widths.pooled] } else { [0, widths.context] };
            for (column, (found, whole)) in found.iter().zip(whole).enumerate().take(ends[1]) {
                let real = columns[usize::from(column >= ends[0])];
                assert_eq!(*found, if place < real { *whole } else { 0.0 }, "place {place}, column {column}");
                assert_ne!(*whole, 0.0, "padding has features");
            }
        }
    }
}

#[test]
fn halves_are_widened() {
    let device = Device::flex();
    let (encoded, widths) = encode(&device);
    let mut text = encoded[0].features();
    text.t5 = text.t5.map(|t5| t5.cast(DType::BF16));
    let batch = assemble_features(&[text], &[Keep::ALL], Pads::AsEncoded, widths, &device).unwrap();
    assert_eq!(batch.context.dtype(), DType::F32);
}

#[test]
fn features_of_the_wrong_size_are_errors() {
    let device = Device::flex();
    let widths = ConditioningWidths { clip_l: 2, clip_g: 3, context: 6, pooled: 5, clip_tokens: 77, t5_tokens: 4 };
    let t5 = |tokens: usize, width: usize| TextFeatures {
        t5: Some(from_f32(vec![1.0; tokens * width], [tokens, width], &device)),
        ..TextFeatures::default()
    };
    let batch = |texts: &[TextFeatures], pads| {
        assemble_features(texts, &vec![Keep::ALL; texts.len()], pads, widths, &device).map(drop)
    };
    assert_eq!(batch(&[], Pads::Zeros), Err(FeaturesError::Empty));
    let length = |sample, found| Err(FeaturesError::Length { sample, encoder: "T5", found, wanted: 4 });
    assert_eq!(batch(&[t5(4, 6), t5(3, 6)], Pads::AsEncoded), length(1, 3));
    assert_eq!(batch(&[t5(4, 6), t5(3, 6)], Pads::Zeros), Ok(()));
    assert_eq!(batch(&[t5(5, 6)], Pads::Zeros), length(0, 5));
    let source = WidthError::Output { output: "T5's tokens", found: 5, wanted: 6 };
    assert_eq!(batch(&[t5(4, 6), t5(4, 5)], Pads::AsEncoded), Err(FeaturesError::Width { sample: 1, source }));
    let flags = assemble_features(&[t5(4, 6)], &[], Pads::Zeros, widths, &device).map(drop);
    assert_eq!(flags, Err(FeaturesError::Flags { texts: 1, flags: 0 }));
}

#[test]
fn encoders_are_dropped_alone_and_as_often_as_asked_for() {
    const COUNT: u64 = 10_000;
    let drawn: Vec<Keep> = (0..COUNT).map(|sample| Keep::drawn([0.464, 0.464, 0.1], 3, sample)).collect();
    let part = |kept: fn(&Keep) -> bool| drawn.iter().filter(|keep| kept(keep)).count() as f64 / COUNT as f64;
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 0.015, "{found} instead of {expected}");
    near(part(|keep| keep.clip_l), 0.536);
    near(part(|keep| keep.clip_g), 0.536);
    near(part(|keep| keep.t5), 0.9);
    near(part(|keep| keep.clip_l && keep.clip_g), 0.536 * 0.536);
    near(part(|keep| keep.clip_l && keep.t5), 0.536 * 0.9);
    assert_eq!(Keep::drawn([0.0; 3], 3, 1), Keep::ALL);
    assert_eq!(Keep::drawn([1.0; 3], 3, 1), Keep { clip_l: false, clip_g: false, t5: false });
    assert_eq!(Keep::drawn([0.5; 3], 3, 1), Keep::drawn([0.5; 3], 3, 1));
}
