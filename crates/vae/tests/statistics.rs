//! Mean and deviation of latents that come batch by batch.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use rectiflow_nn::{Device, Rng, from_f32};
use rectiflow_vae::{LatentStatistics, Moments};

#[test]
fn batches_of_any_sizes_give_what_all_together_give() {
    // Far from 0, and each channel elsewhere.
    let mut rng = Rng::keyed(1, "latents", 0);
    let values: Vec<f32> =
        (0..7 * 3 * 4).map(|place| 1000.0 + 5.0 * (place / 4 % 3) as f32 + 0.01 * rng.normal() as f32).collect();
    let mut statistics = LatentStatistics::new(3);
    for (first, count) in [(0, 1), (1, 4), (5, 0), (5, 2)] {
        let part = values[first * 12..(first + count) * 12].to_vec();
        statistics.add(&from_f32(part, [count, 3, 2, 2], &Device::flex()));
    }
    let expect = |found: &Moments, values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((found.mean() - mean).abs() < 1e-9, "{} {mean}", found.mean());
        assert!((found.deviation() / variance.sqrt() - 1.0).abs() < 1e-9, "{} {variance}", found.deviation());
    };
    let wide: Vec<f64> = values.iter().copied().map(f64::from).collect();
    expect(&statistics.all(), &wide);
    for (channel, found) in statistics.channels().iter().enumerate() {
        let of: Vec<f64> = (0..wide.len()).filter(|i| i / 4 % 3 == channel).map(|i| wide[i]).collect();
        expect(found, &of);
    }
    let [offset, scale] = statistics.normalisation().unwrap();
    assert!((offset - statistics.all().mean()).abs() < 1e-12);
    assert!((scale * statistics.all().deviation() - 1.0).abs() < 1e-12);
}

#[test]
fn nothing_and_equal_numbers_cannot_be_normalised() {
    let mut statistics = LatentStatistics::new(1);
    assert_eq!(statistics.normalisation(), None);
    statistics.add(&from_f32(vec![2.0; 4], [1, 1, 2, 2], &Device::flex()));
    assert_eq!((statistics.all().mean(), statistics.normalisation()), (2.0, None));
    statistics.add(&from_f32(vec![f32::NAN; 4], [1, 1, 2, 2], &Device::flex()));
    assert_eq!(statistics.normalisation(), None);
}
