//! What golden files do not show: the two poolings, missing encoders.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{File, fixture};
use rectiflow_nn::{Device, DeviceChoice, Params, Precision, Tensor, from_ids, to_f32};
use rectiflow_text::*;

fn cpu() -> Device {
    DeviceChoice::Cpu.open().unwrap()
}

fn file(part: &str) -> File {
    File::open(&fixture("sd3/model").join(part).join("model.safetensors"))
}

fn encode_clip(file: &mut File, pooling: Pooling, ids: &[u32]) -> ClipOutput {
    let config = ClipConfig::find(file, ClipKind::L, None).unwrap();
    let encoder = ClipEncoder::new(Params::new(file, &cpu(), Precision::F32), &config);
    file.assert_used_up();
    encoder.forward(from_ids(ids, &cpu()), pooling)
}

fn ids(text: &str) -> Vec<u32> {
    ClipTokenizer::embedded(ClipKind::L).tokenize(text).unwrap().ids
}

/// A projection is asked for even if it is not applied; without one, both poolings are the same.
#[test]
fn pooling_chooses_the_projection_if_there_is_one() {
    let ids = ids("a photo of a cat");
    let encode = |file: &mut File, pooling| to_f32(&encode_clip(file, pooling, &ids).pooled);
    let projected = encode(&mut file("text_encoder"), Pooling::Projected);
    let unprojected = encode(&mut file("text_encoder"), Pooling::Unprojected);
    assert_ne!(projected, unprojected);

    let mut without = file("text_encoder");
    without.remove("text_projection.weight");
    assert_eq!(encode(&mut without, Pooling::Unprojected), unprojected);
    let mut without = file("text_encoder");
    without.remove("text_projection.weight");
    assert_eq!(encode(&mut without, Pooling::Projected), unprojected);
}

/// Attention is causal, so what stands behind the first end of text does not reach the pooled output.
#[test]
fn the_first_end_of_text_is_pooled() {
    let pooled = |text: &str| to_f32(&encode_clip(&mut file("text_encoder"), Pooling::Projected, &ids(text)).pooled);
    assert_eq!(pooled("a cat<|endoftext|> and a dog"), pooled("a cat"));
    assert_ne!(pooled("a cat and a dog"), pooled("a cat"));
}

/// Two texts at once give what each gives alone.
#[test]
fn rows_of_a_batch_do_not_mix() {
    let device = cpu();
    let (cat, dog) = (ids("a photo of a cat"), ids("two dogs"));
    let mut file = file("text_encoder");
    let config = ClipConfig::find(&file, ClipKind::L, None).unwrap();
    let encoder = ClipEncoder::new(Params::new(&mut file, &device, Precision::F32), &config);
    let both = Tensor::cat(vec![from_ids(&cat, &device), from_ids(&dog, &device)], 0);
    let both = encoder.forward(both, Pooling::Projected);
    for (row, ids) in [cat, dog].iter().enumerate() {
        let alone = encoder.forward(from_ids(ids, &device), Pooling::Projected);
        let difference = both.pooled.clone().narrow(0, row, 1) - alone.pooled;
        assert!(to_f32(&difference).iter().all(|value| value.abs() < 1e-5), "row {row}: {difference}");
    }
}

const WIDTHS: ConditioningWidths =
    ConditioningWidths { clip_l: 2, clip_g: 3, context: 6, pooled: 5, clip_tokens: 77, t5_tokens: 4 };

/// A CLIP output of one value.
fn clip(width: usize, value: f32) -> ClipOutput {
    let fill = |tokens| vec![value; tokens * width];
    ClipOutput {
        penultimate: rectiflow_nn::from_f32(fill(77), [1, 77, width], &cpu()),
        pooled: rectiflow_nn::from_f32(fill(1), [1, width], &cpu()),
    }
}

fn t5(tokens: usize, width: usize) -> Tensor<3> {
    rectiflow_nn::from_f32(vec![9.0; tokens * width], [1, tokens, width], &cpu())
}

#[track_caller]
fn check(
    [l, g]: [Option<ClipOutput>; 2],
    t5: Option<Tensor<3>>,
    [clip_row, t5_row]: [[f32; 6]; 2],
    t5_tokens: usize,
    pooled: [f32; 5],
) {
    let joined = assemble(l, g, t5, WIDTHS, &cpu()).unwrap();
    assert_eq!(joined.context.dims(), [1, 77 + t5_tokens, 6]);
    for (i, row) in to_f32(&joined.context).chunks(6).enumerate() {
        assert_eq!(row, if i < 77 { clip_row } else { t5_row }, "token {i}");
    }
    assert_eq!(joined.pooled.dims(), [1, 5]);
    assert_eq!(to_f32(&joined.pooled), pooled);
}

#[test]
fn missing_encoders_are_zeros_of_their_size() {
    let (l, g) = (|| Some(clip(2, 1.0)), || Some(clip(3, 2.0)));
    let (nothing, full) = ([0.0; 6], [9.0; 6]);
    let both = [1.0, 1.0, 2.0, 2.0, 2.0, 0.0];
    let only_l = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
    let only_g = [0.0, 0.0, 2.0, 2.0, 2.0, 0.0];
    let pooled = |row: [f32; 6]| [row[0], row[1], row[2], row[3], row[4]];
    check([l(), g()], Some(t5(7, 6)), [both, full], 7, pooled(both));
    check([l(), g()], None, [both, nothing], 4, pooled(both));
    check([l(), None], Some(t5(7, 6)), [only_l, full], 7, pooled(only_l));
    check([None, g()], None, [only_g, nothing], 4, pooled(only_g));
    check([None, None], Some(t5(5, 6)), [nothing, full], 5, pooled(nothing));
    check([None, None], None, [nothing, nothing], 4, pooled(nothing));
}

#[test]
fn outputs_of_the_wrong_width_are_errors() {
    let output = |output, found, wanted| WidthError::Output { output, found, wanted };
    let device = cpu();
    let error = assemble(Some(clip(3, 1.0)), None, None, WIDTHS, &device).unwrap_err();
    assert_eq!(error, output("CLIP-L's tokens", 3, 2));
    let mut projected = clip(3, 1.0);
    projected.pooled = clip(4, 1.0).pooled;
    let error = assemble(None, Some(projected), None, WIDTHS, &device).unwrap_err();
    assert_eq!(error, output("CLIP-G's pooled output", 4, 3));
    let error = assemble(None, None, Some(t5(3, 5)), WIDTHS, &device).unwrap_err();
    assert_eq!(error, output("T5's tokens", 5, 6));
    let error = assemble(None, None, None, ConditioningWidths { clip_l: 1, ..WIDTHS }, &device).unwrap_err();
    assert_eq!(error, WidthError::Pooled { clip_l: 1, clip_g: 3, pooled: 5 });
}

#[test]
fn widths_are_found_before_anything_is_run() {
    let (l, g, xxl) = (ClipConfig::clip_l(), ClipConfig::clip_g(), T5Config::xxl());
    let find = |l, g, t5, context, pooled| ConditioningWidths::find(l, g, t5, context, pooled, 77);
    let sd3 =
        ConditioningWidths { clip_l: 768, clip_g: 1280, context: 4096, pooled: 2048, clip_tokens: 77, t5_tokens: 77 };
    assert_eq!(find(Some(&l), Some(&g), Some(&xxl), 4096, 2048), Ok(sd3));
    assert_eq!(find(None, Some(&g), None, 4096, 2048), Ok(sd3));
    assert_eq!(find(Some(&l), None, None, 4096, 2048), Ok(sd3));
    assert!(find(None, None, None, 4096, 2048).is_ok());

    let pooled = WidthError::Pooled { clip_l: 1280, clip_g: 1280, pooled: 2048 };
    assert_eq!(find(Some(&g), Some(&g), Some(&xxl), 4096, 2048), Err(pooled));
    assert_eq!(find(Some(&l), None, None, 4096, 700), Err(WidthError::Pooled { clip_l: 768, clip_g: 0, pooled: 700 }));
    assert_eq!(find(None, None, None, 1024, 2048), Err(WidthError::Context { clips: 2048, context: 1024 }));
    let wide = WidthError::Output { output: "T5's tokens", found: 4096, wanted: 2048 };
    assert_eq!(find(None, None, Some(&xxl), 2048, 2048), Err(wide));
}
