//! EfficientNet-Lite0 beside PyTorch, and the distance that is made of it.
//!
//! `scripts/make_efficientnet.py` made `fixtures/vision/efficientnet.safetensors`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

mod common;

use common::{Golden, by_name};
use rectiflow_nn::{Device, Module, Named, Params, Precision, RandomInit, Rng, Tensor, from_f32, to_f32};
use rectiflow_vision::{EfficientNetLite0, PerceptualDistance};

/// Eight sums of each picture's numbers, as the script takes them.
fn summary(x: &Tensor<4>) -> Tensor<2> {
    let count: usize = x.dims()[1..].iter().product();
    let rows = x.clone().flatten::<2>(1, 3);
    let probe = |seed: u32| (0..count).map(move |i| (i as f64 * (0.37 + 0.11 * f64::from(seed))).cos() as f32);
    let probes = from_f32((0..8).flat_map(probe).collect(), [8, count], &x.device());
    let sums = (0..8).map(|seed| (rows.clone() * probes.clone().narrow(0, seed, 1)).sum_dim(1)).collect();
    Tensor::cat(sums, 1) / (count as f64).sqrt()
}

#[test]
fn features_and_embedding_are_those_of_pytorch() {
    let golden = Golden::read("efficientnet.safetensors");
    let device = Device::flex();
    let network = EfficientNetLite0::pretrained(&device, Precision::F32);
    for index in 0..2 {
        let picture = golden.tensor::<4>(&format!("{index}.picture"), &device);
        let features = network.features(picture.clone());
        let [_, _, height, width] = picture.dims();
        for (depth, feature) in features.iter().enumerate() {
            let smaller = 2 << depth;
            assert_eq!(feature.dims()[2..], [height.div_ceil(smaller), width.div_ceil(smaller)]);
            golden.check(&format!("{index}.feature.{depth}"), &to_f32(&summary(feature)), 1e-4);
        }
        golden.check(&format!("{index}.embedding"), &to_f32(&network.embedding(picture)), 1e-4);
    }
}

#[test]
fn gradients_reach_the_picture_and_no_weight() {
    let golden = Golden::read("efficientnet.safetensors");
    let device = Device::flex().autodiff();
    let network = EfficientNetLite0::pretrained(&device, Precision::F32);
    let picture = golden.tensor::<4>("0.picture", &device).require_grad();
    let sums = network.features(picture.clone()).into_iter().enumerate();
    let sum = sums.map(|(depth, feature)| summary(&feature).narrow(1, depth, 1).sum()).reduce(|a, b| a + b).unwrap();
    let gradients = sum.backward();
    golden.check("0.gradient", &to_f32(&picture.grad(&gradients).unwrap()), 1e-4);

    let mut random = RandomInit { seed: 1 };
    let mut named = Named::new(&mut random);
    let network = EfficientNetLite0::new(Params::new(&mut named, &device, Precision::F32));
    assert_eq!(network.num_params(), 3_350_000);
    let names = named.names();
    let gradients = network.embedding(picture.clone()).sum().backward();
    assert!(picture.grad(&gradients).is_some());
    assert!(by_name(&network, &names, gradients).is_empty(), "weights that learn");
}

/// Discs, stripes and a gradient, `[1, 3, 64, 64]` in -1..1.
fn drawing(seed: u64) -> Vec<f32> {
    let mut rng = Rng::keyed(seed, "drawing", 0);
    let [x0, y0, radius, slope] = [(); 4].map(|()| rng.uniform() as f32);
    let value = |place: usize| {
        let (channel, y, x) = (place / 4096, (place / 64 % 64) as f32 / 64.0, (place % 64) as f32 / 64.0);
        let inside = (x - 0.2 - x0 * 0.6).hypot(y - 0.2 - y0 * 0.6) < 0.1 + 0.2 * radius;
        match channel {
            0 if inside => 0.8,
            1 if inside => -0.4,
            1 => (20.0 * (x + slope * y)).sin() * 0.7,
            _ => 1.6 * (slope * x + (1.0 - slope) * y) - 0.8,
        }
    };
    (0..3 * 4096).map(value).collect()
}

/// Each pixel the mean of those up to `reach` away, of those there are.
fn blurred(picture: &[f32], reach: usize) -> Vec<f32> {
    let near = |at: usize| at.saturating_sub(reach)..(at + reach + 1).min(64);
    let mean = |place: usize| {
        let (plane, y, x) = (place / 4096 * 4096, place / 64 % 64, place % 64);
        let values = near(y).flat_map(|y| near(x).map(move |x| plane + y * 64 + x)).map(|place| picture[place]);
        let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
        sum / count
    };
    (0..picture.len()).map(mean).collect()
}

fn noisy(picture: &[f32], deviation: f32) -> Vec<f32> {
    let mut rng = Rng::keyed(9, "noise", 0);
    picture.iter().map(|x| (x + deviation * rng.normal() as f32).clamp(-1.0, 1.0)).collect()
}

#[test]
fn more_blur_and_more_noise_look_more_different() {
    let device = Device::flex();
    let perceptual = PerceptualDistance::new(&device, Precision::F32);
    for seed in 0..3 {
        let picture = drawing(seed);
        let changed = [blurred(&picture, 1), blurred(&picture, 3), noisy(&picture, 0.1), noisy(&picture, 0.3)];
        let other = drawing(seed + 10);
        let all: Vec<f32> = [&picture].into_iter().chain(&changed).chain([&other]).flatten().copied().collect();
        let real = from_f32(picture.repeat(6), [6, 3, 64, 64], &device);
        let found = to_f32(&perceptual.between(real, from_f32(all, [6, 3, 64, 64], &device)));
        let [same, blur, more_blur, noise, more_noise, other] = found[..] else { panic!("{found:?}") };
        assert_eq!(same, 0.0);
        assert!(0.01 < blur && 1.2 * blur < more_blur, "{found:?}");
        assert!(0.01 < noise && 1.2 * noise < more_noise, "{found:?}");
        assert!(more_blur < 4.0 && other > 0.05, "{found:?}");
    }
}

#[test]
fn the_distances_gradient_is_a_finite_difference() {
    let device = Device::flex().autodiff();
    let perceptual = PerceptualDistance::new(&device, Precision::F32);
    let (picture, made) = (drawing(1), noisy(&blurred(&drawing(1), 1), 0.05));
    let shape = [1, 3, 64, 64];
    let real = from_f32(picture, shape, &device);
    let leaf = from_f32(made.clone(), shape, &device).require_grad();
    let found = perceptual.between(real.clone(), leaf.clone()).sum().backward();
    let found = to_f32(&leaf.grad(&found).unwrap());
    // A change of one pixel drowns in f32; one of a few pixels along the gradient does not.
    for places in [vec![2080], vec![5, 700, 4000], (0..found.len()).step_by(97).collect::<Vec<_>>()] {
        let length = places.iter().map(|&i| found[i] * found[i]).sum::<f32>().sqrt();
        let step = 0.01;
        let at = |sign: f32| {
            let mut moved = made.clone();
            places.iter().for_each(|&i| moved[i] += sign * step * found[i] / length);
            to_f32(&perceptual.between(real.clone(), from_f32(moved, shape, &device)))[0]
        };
        let difference = (at(1.0) - at(-1.0)) / (2.0 * step);
        assert!((difference / length - 1.0).abs() < 0.03, "{}: {difference} instead of {length}", places.len());
    }
}

#[test]
fn the_distance_is_that_of_unit_channels() {
    let device = Device::flex();
    let pictures = [from_f32(drawing(3), [1, 3, 64, 64], &device), from_f32(drawing(4), [1, 3, 64, 64], &device)];
    let network = EfficientNetLite0::pretrained(&device, Precision::F32);
    let features = pictures.clone().map(|picture| network.features(picture));
    let mut expected = 0.0;
    for (a, b) in features[0].iter().zip(&features[1]) {
        let [_, channels, height, width] = a.dims();
        let [a, b] = [a, b].map(to_f32);
        let at = |x: &[f32], place: usize| -> Vec<f64> {
            let values: Vec<f64> = (0..channels).map(|c| f64::from(x[c * height * width + place])).collect();
            let length = values.iter().map(|x| x * x).sum::<f64>().sqrt();
            values.iter().map(|x| x / length).collect()
        };
        for place in 0..height * width {
            let apart = at(&a, place).iter().zip(at(&b, place)).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            expected += apart / (height * width) as f64 / 5.0;
        }
    }
    let [a, b] = pictures;
    let found = to_f32(&PerceptualDistance::new(&device, Precision::F32).between(a, b))[0];
    assert!((f64::from(found) / expected - 1.0).abs() < 1e-4, "{found} {expected}");
}
