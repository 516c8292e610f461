//! What decoding holds, whole and in strips. Buffers are counted for the whole process, so this binary has one test.
#![allow(missing_docs, reason = "a test binary")]

use rectiflow_kernels::BytesInUse;
use rectiflow_nn::{Device, Params, Precision, RandomInit, from_f32};
use rectiflow_vae::{Decoding, Vae, VaeConfig};

/// Size classes of buffers waste at most an eighth.
const WASTE: f64 = 1.125;
/// Beside the tensors of a level: the gathered rows of a convolution, its blocks, sums of norms.
const SCRATCH: usize = 32 << 20;

#[test]
fn a_decode_holds_what_it_says_and_no_more() {
    let config = VaeConfig { widths: vec![32, 64, 64, 64], blocks: 1, groups: 8, ..VaeConfig::released() };
    let device = Device::flex();
    let side = 768;
    for precision in [Precision::F32, Precision::Bf16] {
        let vae = Vae::new(&config, Params::new(&mut RandomInit { seed: 1 }, &device, precision));
        let latent = from_f32(vec![0.3; 16 * side * side / 64], [1, 16, side / 8, side / 8], &device);
        let held = |decoding| {
            let before = BytesInUse::now();
            BytesInUse::restart();
            drop(vae.decode_as(latent.clone(), decoding));
            BytesInUse::most() - before
        };
        // The first one reads and packs the weights.
        held(Decoding::Whole);
        let found = held(Decoding::Whole);
        // The upsampled picture, and of the last level's width the first convolution's result and the shortcut's.
        let tensors = (config.widths[1] + 2 * config.widths[0]) * side * side * size_of::<f32>();
        let most = (tensors as f64 * WASTE) as usize + SCRATCH;
        assert!((tensors..most).contains(&found), "{precision}: {found} bytes, the tensors alone are {tensors}");

        let strips = held(Decoding::InStrips);
        let last = config.widths[0] * side * side * size_of::<f32>();
        for (found, least, decoding) in [(found, tensors, Decoding::Whole), (strips, last, Decoding::InStrips)] {
            let said = config.decode_bytes([side / 8; 2], decoding) as usize;
            assert!((least..said).contains(&found), "{precision}, {decoding:?}: {found} bytes, said are {said}");
        }
        assert!(strips < found / 2, "{strips} in strips, {found} whole");
    }
}
