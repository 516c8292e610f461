//! The released networks' sizes, and that a network can be trained.
#![allow(missing_docs, reason = "a test binary")]

use rectiflow_mmdit::{Mmdit, MmditConfig};
use rectiflow_nn::{Device, Init, Module, ParamSource, Params, Precision, RandomInit, Read, Tensor, from_f32, to_f32};

fn config(depth: usize, qk_norm: bool, dual: usize, grid: usize) -> MmditConfig {
    MmditConfig { qk_norm, dual_layers: (0..dual).collect(), grid, ..MmditConfig::of_depth(depth) }
}

/// Nothing is read: parameters are lazy.
#[track_caller]
fn check_count(config: &MmditConfig, variant: &str, expected: usize) {
    let model = Mmdit::new(config, Params::new(&mut RandomInit { seed: 0 }, &Device::flex(), Precision::F32));
    let positions = config.grid * config.grid * config.width;
    assert_eq!(model.num_params() - positions, expected);
    assert_eq!(config.variant(), variant);
}

#[test]
fn the_released_networks_have_as_many_parameters_as_their_files() {
    check_count(&config(24, false, 0, 192), "SD3-Medium", 2_028_328_000);
    check_count(&config(24, true, 13, 384), "SD3.5-Medium", 2_243_171_520);
    check_count(&config(38, true, 0, 192), "SD3.5-Large or Large-Turbo", 8_056_627_520);
    check_count(&config(38, false, 0, 192), "MMDiT, depth 38, width 2432", 8_056_617_792);
    check_count(&config(15, false, 0, 192), "MMDiT, depth 15, width 960", 496_066_624);
}

/// Every parameter random: with the modulations at 0, where they start, most gradients are 0.
struct AllRandom(RandomInit);

impl ParamSource for AllRandom {
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], _init: Init) -> Read {
        self.0.claim(name, shape, Init::Normal(0.2))
    }
}

/// Counts parameters whose gradient is there and not 0.
struct Moved<'a> {
    gradients: &'a burn::tensor::Gradients,
    moved: usize,
    still: usize,
}

impl burn::module::ModuleVisitor for Moved<'_> {
    fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
        let gradient = param.val().grad(self.gradients);
        if gradient.is_some_and(|gradient| to_f32(&gradient).iter().any(|x| *x != 0.0)) {
            self.moved += 1;
        } else {
            self.still += 1;
        }
    }
}

#[test]
fn a_loss_reaches_every_parameter_but_the_positions() {
    let device = Device::flex().autodiff();
    let config = MmditConfig { width: 64, context_width: 8, pooled_width: 6, grid: 4, ..config(2, true, 1, 4) };
    let model = Mmdit::new(&config, Params::new(&mut AllRandom(RandomInit { seed: 1 }), &device, Precision::F32));
    let some = |count: usize| (0..count).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
    let velocity = model.forward(
        from_f32(some(16 * 16), [1, 16, 4, 4], &device),
        from_f32(vec![500.0], [1], &device),
        from_f32(some(3 * 8), [1, 3, 8], &device),
        from_f32(some(6), [1, 6], &device),
    );
    let gradients = velocity.square().sum().backward();
    let mut seen = Moved { gradients: &gradients, moved: 0, still: 0 };
    model.visit(&mut seen);
    // What never moves: the positions, and in the last block the text's queries' norm, whose result is dropped.
    assert_eq!((seen.moved > 50, seen.still), (true, 2), "{} moved", seen.moved);
}
