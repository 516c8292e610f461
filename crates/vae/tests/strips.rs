//! A decode in strips is the whole decode.
#![allow(missing_docs, reason = "a test binary")]

use rectiflow_nn::{Device, Init, ParamSource, Params, Precision, RandomInit, Read, Tensor, from_f32, to_f32};
use rectiflow_vae::{Decoding, Vae, VaeConfig};

/// Norms and biases random too: as they start, they hide what is done to them.
struct AllRandom(RandomInit);

impl ParamSource for AllRandom {
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        let init = match init {
            Init::Ones | Init::Zeros => Init::Normal(0.5),
            init => init,
        };
        self.0.claim(name, shape, init)
    }
}

fn vae(widths: &[usize], device: &Device, precision: Precision) -> Vae {
    let config = VaeConfig { widths: widths.into(), groups: 4, ..VaeConfig::released() };
    Vae::new(&config, Params::new(&mut AllRandom(RandomInit { seed: 5 }), device, precision))
}

/// Brighter from left to right and dimmer downwards: a norm of a part is not that of the whole.
fn latent(batch: usize, [height, width]: [usize; 2], device: &Device) -> Tensor<4> {
    let value = |i: usize| {
        let (row, column) = (i / width % height, i % width);
        (i as f32 * 0.7).sin() + 2.0 * column as f32 / width as f32 - 3.0 * row as f32 / height as f32
    };
    from_f32((0..batch * 16 * height * width).map(value).collect(), [batch, 16, height, width], device)
}

#[track_caller]
fn check_equal(vae: &Vae, latent: &Tensor<4>, rows: usize) {
    let (whole, strips) = (vae.decode(latent.clone()), vae.decode_in_strips(latent.clone(), rows));
    assert_eq!(whole.dims(), strips.dims());
    let width = whole.dims()[3];
    let (whole, strips) = (to_f32(&whole), to_f32(&strips));
    assert!(whole.iter().any(|x| x.abs() > 0.01), "a picture with something in it");
    let first = whole.iter().zip(&strips).position(|(a, b)| a.to_bits() != b.to_bits());
    let apart = whole.iter().zip(&strips).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert_eq!(first.map(|i| i / width), None, "first row that differs, with {rows} rows; at most by {apart}");
}

#[test]
fn every_size_and_every_strip_gives_the_same_picture_to_the_bit() {
    let device = Device::flex();
    for precision in [Precision::F32, Precision::Bf16] {
        let released_like = vae(&[8, 16, 32, 32], &device, precision);
        // Odd sizes; pictures smaller than a strip, of one strip and a row, and of a latent of one pixel.
        for (size, rows) in [([9, 7], 10), ([5, 11], 64), ([2, 3], 3), ([1, 1], 64), ([13, 4], 103), ([3, 5], 1)] {
            check_equal(&released_like, &latent(1, size, &device), rows);
        }
    }
}

#[test]
fn the_strips_that_are_used_give_the_same_picture_to_the_bit() {
    let device = Device::flex();
    let vae = vae(&[8, 16, 16, 16], &device, Precision::F32);
    let latent = latent(1, [27, 6], &device);
    let [whole, strips] = [Decoding::Whole, Decoding::InStrips].map(|how| to_f32(&vae.decode_as(latent.clone(), how)));
    assert!(whole == strips);
}

#[test]
fn other_depths_and_batches_too() {
    let device = Device::flex();
    for widths in [&[8][..], &[8, 16], &[16, 8, 8], &[8, 64, 8, 8, 8]] {
        check_equal(&vae(widths, &device, Precision::F32), &latent(2, [7, 5], &device), 6);
    }
}

/// Burn's operations, as on other devices.
#[test]
fn the_composed_operations_differ_by_rounding() {
    let device = Device::flex().autodiff();
    let vae = vae(&[8, 16, 16], &device, Precision::F32);
    let latent = latent(2, [9, 5], &device);
    let (whole, strips) = (to_f32(&vae.decode(latent.clone())), to_f32(&vae.decode_in_strips(latent, 7)));
    let largest = whole.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (whole, strips) in whole.iter().zip(&strips) {
        assert!((whole - strips).abs() < 2e-5 * largest, "{strips} for {whole}");
    }
}
