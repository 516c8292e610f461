//! Noise levels at once are the levels one by one, and their weights are not kept in memory of their own.
#![allow(missing_docs, reason = "a test binary")]

use rectiflow_kernels::BytesInUse;
use rectiflow_mmdit::{Mmdit, MmditConfig, Perturbation};
use rectiflow_nn::{Device, Init, Module, ParamSource, Params, Precision, RandomInit, Read, Tensor, from_f32, to_f32};

/// Every parameter random: modulations begin at 0.
struct AllRandom(RandomInit);

impl ParamSource for AllRandom {
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], _init: Init) -> Read {
        self.0.claim(name, shape, Init::Normal(0.1))
    }
}

fn config() -> MmditConfig {
    let config =
        MmditConfig { depth: 3, width: 128, context_width: 96, pooled_width: 40, grid: 6, ..MmditConfig::of_depth(3) };
    MmditConfig { qk_norm: true, dual_layers: vec![0], ..config }
}

fn some<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    from_f32((0..shape.iter().product()).map(|i| (i as f32 * 0.7).sin()).collect(), shape, device)
}

fn check_levels(precision: Precision, device: &Device, tolerance: f32) {
    let model = Mmdit::new(&config(), Params::new(&mut AllRandom(RandomInit { seed: 2 }), device, precision));
    let (latent, context, pooled) = (some([2, 16, 6, 4], device), some([2, 5, 96], device), some([2, 40], device));
    // Each sample its own, as in training, and 19 levels: more than a tile has rows.
    let levels: Vec<[f32; 2]> = (0..19).map(|i| [1000.0 - 50.0 * i as f32, 731.5 - i as f32]).collect();
    let text = model.embed_text(context.clone(), pooled.clone());
    let all = model.modulations(&text, from_f32(levels.concat(), [19, 2], device));
    assert_eq!(all.len(), 19);
    for level in [0, 1, 18] {
        let timestep = from_f32(levels[level].to_vec(), [2], device);
        let alone = to_f32(&model.forward(latent.clone(), timestep, context.clone(), pooled.clone()));
        let prepared = to_f32(&model.velocity(latent.clone(), &text, &all[level], &Perturbation::None, None));
        let apart = alone.iter().zip(&prepared).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= tolerance, "{precision}, level {level}: {apart}");
    }
}

/// One test: buffers are counted for the whole process.
#[test]
fn levels_at_once_are_those_one_by_one_and_their_weights_are_not_kept() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        check_levels(precision, &Device::flex(), 0.0);
    }
    check_levels(Precision::F32, &Device::flex().autodiff(), 1e-5);

    let config = config();
    let device = Device::flex();
    let before = BytesInUse::now();
    let model = Mmdit::new(&config, Params::new(&mut AllRandom(RandomInit { seed: 2 }), &device, Precision::Bf16));
    let (context, pooled) = (some([1, 5, 96], &device), some([1, 40], &device));
    drop(model.forward(some([1, 16, 6, 4], &device), some([1], &device), context, pooled));
    let kept = BytesInUse::now() - before;
    // Weights and biases of the modulations: as many outputs as rows, each of `width` and a bias.
    let outputs = config.modulation_bytes() / size_of::<f32>();
    let others = model.num_params() - outputs * (config.width + 1);
    assert!(kept > others, "{kept} bytes are kept for {others} weights, in bf16");
    assert!(kept < 2 * others, "{kept} bytes are kept for {others} weights, in bf16");
}
