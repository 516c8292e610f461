//! The critic beside PyTorch.
//!
//! `scripts/make_vision.py` made `fixtures/vision/patch_gan.safetensors`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

mod common;

use common::{Golden, by_name};
use rectiflow_nn::{Device, Init, Module, Named, ParamSource, Params, Precision, RandomInit, Read, to_f32};
use rectiflow_vision::{MisfitError, NamedTensors, PatchGan, adversarial};

#[test]
fn words_losses_and_gradients_are_those_of_pytorch() {
    let golden = Golden::read("patch_gan.safetensors");
    let device = Device::flex().autodiff();
    let mut source = NamedTensors::of(&golden.bytes).unwrap();
    let mut named = Named::new(&mut source);
    let critic = PatchGan::new(Params::new(&mut named, &device, Precision::F32), 4, 3);
    let names = named.names();
    let left = source.finish().unwrap();
    assert!(left.iter().all(|name| !name.starts_with("main.")), "{left:?}");

    let (real, made) = (golden.tensor("real", &device), golden.tensor("made", &device));
    let words = [critic.forward(real), critic.forward(made.clone())];
    golden.check("real.out", &to_f32(&words[0]), 1e-5);
    golden.check("made.out", &to_f32(&words[1]), 1e-5);
    let [of_real, of_made] = words;
    let loss = adversarial::critic_loss(of_real, of_made);
    golden.check("critic", &to_f32(&loss), 1e-6);
    let gradients = by_name(&critic, &names, loss.backward());
    assert_eq!(gradients.len(), critic_parameters());
    golden.check_gradients(&gradients, "", 1e-4);

    let made = made.require_grad();
    let loss = adversarial::generator_loss(critic.forward(made.clone()));
    golden.check("generator", &to_f32(&loss), 1e-5);
    golden.check("gradient.made", &to_f32(&made.grad(&loss.backward()).unwrap()), 1e-4);
}

/// Two of the first and of the last convolution, three of each between them with its norm.
fn critic_parameters() -> usize {
    2 + 3 * 3 + 2
}

#[test]
fn a_new_critic_starts_as_the_reference() {
    struct Inits(Vec<(String, Init)>);

    impl ParamSource for Inits {
        fn shape(&self, _: &str) -> Option<Vec<usize>> {
            None
        }

        fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
            self.0.push((name.to_owned(), init));
            RandomInit { seed: 0 }.claim(name, shape, init)
        }
    }

    let mut inits = Inits(Vec::new());
    let critic = PatchGan::new(Params::new(&mut inits, &Device::flex(), Precision::F32), 64, 3);
    // taming-transformers' NLayerDiscriminator(3, 64, 3).
    assert_eq!(critic.num_params(), 2_765_633);
    for (name, init) in inits.0 {
        let norm = ["main.3.", "main.6.", "main.9."].iter().any(|norm| name.starts_with(norm));
        let expected = match (norm, name.ends_with("weight")) {
            (false, true) => Init::Normal(0.02),
            (true, true) => Init::NormalAroundOne(0.02),
            (true, false) => Init::Zeros,
            (false, false) => Init::by_fan_in(if name.starts_with("main.0.") { 3 * 16 } else { 512 * 16 }),
        };
        assert_eq!(init, expected, "{name}");
    }
}

#[test]
fn the_adaptive_weight_has_its_bounds() {
    assert!((adversarial::adaptive_weight(2.0, 0.9999, 0.5) - 1.0).abs() < 1e-6);
    assert_eq!(adversarial::adaptive_weight(2.0, 0.0, 0.5), 5e3);
    assert_eq!(adversarial::adaptive_weight(0.0, 1.0, 0.5), 0.0);
}

#[test]
fn weights_of_another_network_are_refused_by_name() {
    let golden = Golden::read("patch_gan.safetensors");
    let mut source = NamedTensors::of(&golden.bytes).unwrap();
    PatchGan::new(Params::new(&mut source, &Device::flex(), Precision::F32), 4, 4);
    let error = source.finish().unwrap_err();
    let MisfitError::Tensors { count, first } = &error else { panic!("{error}") };
    assert!(*count == 5 && first.contains("main.11.weight"), "{error}");
    assert!(matches!(NamedTensors::of(b"no safetensors"), Err(MisfitError::Unreadable(_))));
}
