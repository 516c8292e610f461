//! The autoencoder's loss and its gradients beside the formula, differentiated in one piece.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;

use burn::module::ModuleVisitor;
use rectiflow_nn::{
    Device, Gradients, Module, Named, Param, ParamGradients, ParamNames, Params, Precision, RandomInit, Rng, Tensor,
    from_f32, to_f32,
};
use rectiflow_train::objective::autoencoder::{
    AutoencoderBatch, AutoencoderWeights, Judges, ReconstructionVariance, autoencoder_loss, critic_loss,
};
use rectiflow_train::recipe::TrainedParts;
use rectiflow_vae::{Vae, VaeConfig};
use rectiflow_vision::{PatchGan, PerceptualDistance};

const WEIGHTS: AutoencoderWeights = AutoencoderWeights { perceptual: 0.25, divergence: 1e-2, critic: 0.5 };

/// All that learns.
#[derive(Module, Debug)]
struct Networks {
    vae: Vae,
    variance: ReconstructionVariance,
    critic: PatchGan,
}

struct Setting {
    networks: Networks,
    names: ParamNames,
    perceptual: PerceptualDistance,
    batch: AutoencoderBatch,
}

fn setting() -> Setting {
    let device = Device::flex().autodiff();
    let mut random = RandomInit { seed: 2 };
    let mut named = Named::new(&mut random);
    let mut params = Params::new(&mut named, &device, Precision::F32);
    let config =
        VaeConfig { widths: vec![8, 8, 16], blocks: 1, latent_channels: 4, groups: 4, ..VaeConfig::released() };
    let networks = Networks {
        vae: Vae::new(&config, params.at("vae")),
        variance: ReconstructionVariance::new(params.at("loss")),
        critic: PatchGan::new(params.at("critic"), 4, 3),
    };
    let mut rng = Rng::keyed(1, "pictures", 0);
    let pictures = (0..2 * 3 * 32 * 32).map(|i| ((i as f32 * 0.013).sin() + 0.3 * rng.normal() as f32).tanh());
    let batch = AutoencoderBatch {
        pictures_B3HW: from_f32(pictures.collect(), [2, 3, 32, 32], &device),
        noise_BZhw: from_f32(rng.normals(2 * 4 * 64), [2, 4, 8, 8], &device),
    };
    Setting { networks, names: named.names(), perceptual: PerceptualDistance::new(&device, Precision::F32), batch }
}

fn by_name(setting: &Setting, gradients: Gradients) -> BTreeMap<String, Vec<f32>> {
    struct Visitor<'a>(&'a ParamNames, ParamGradients, BTreeMap<String, Vec<f32>>);

    impl ModuleVisitor for Visitor<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.1.get(param.id) {
                self.2.insert(self.0.get(param.id).unwrap().to_owned(), to_f32(gradient));
            }
        }
    }

    let gradients = ParamGradients::of(&setting.networks, gradients);
    let mut visitor = Visitor(&setting.names, gradients, BTreeMap::new());
    setting.networks.visit(&mut visitor);
    visitor.2
}

fn length(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// The parts of the formula, each on one tape: what of the reconstruction, of the divergence and of the critic.
fn written_out(setting: &Setting) -> [Tensor<1>; 3] {
    let Networks { vae, critic, .. } = &setting.networks;
    let AutoencoderBatch { pictures_B3HW: pictures, noise_BZhw: noise } = setting.batch.clone();
    let posterior = vae.encode(pictures.clone());
    let made = vae.finish(vae.decode_to_last(posterior.sample(noise)));
    let distance = setting.perceptual.between(pictures.clone(), made.clone());
    let of_numbers = (pictures - made.clone()).abs() + distance.reshape([2, 1, 1, 1]) * WEIGHTS.perceptual;
    [of_numbers.sum() / 2.0, posterior.divergence().sum() / 2.0, -critic.clone().no_grad().forward(made).mean()]
}

#[test]
fn gradients_and_parts_are_those_of_the_formula() {
    let setting = setting();
    let Networks { vae, variance, critic } = &setting.networks;
    let last = "vae.decoder.conv_out.weight";
    for judge in [None, Some(critic)] {
        let judges = Judges { perceptual: Some(&setting.perceptual), critic: judge };
        let found = autoencoder_loss(vae, variance, judges, WEIGHTS, TrainedParts::All, setting.batch.clone());

        let [reconstruction, divergence, generator] = written_out(&setting);
        let at_last = |part: &Tensor<1>| length(&by_name(&setting, part.clone().backward())[last]);
        let weight = judge
            .map_or(0.0, |_| 0.5 * at_last(&written_out(&setting)[0]) / (at_last(&written_out(&setting)[2]) + 1e-4));
        let loss = reconstruction.clone() + divergence.clone() * WEIGHTS.divergence + generator.clone() * weight;

        let parts = found.parts;
        let near = |found: f32, expected: &Tensor<1>| (found / to_f32(expected)[0] - 1.0).abs() < 1e-4;
        assert!(near(parts.total, &loss) && near(parts.divergence, &divergence), "{parts:?}");
        assert!(near(parts.likelihood, &reconstruction) && parts.log_variance == 0.0, "{parts:?}");
        let of_parts = (parts.absolute + 0.25 * parts.perceptual) * 3.0 * 32.0 * 32.0;
        assert!((of_parts / parts.likelihood - 1.0).abs() < 1e-4, "{parts:?}");
        assert_eq!(parts.critic.is_some(), judge.is_some());
        if let Some(part) = parts.critic {
            assert!(near(part.loss, &generator) && (part.weight / weight - 1.0).abs() < 1e-3, "{part:?} {weight}");
        }

        let expected = by_name(&setting, loss.backward());
        let mut found = by_name(&setting, found.slope.backward());
        // At 0: its part of the formula is `reconstruction / exp(logvar) + count * logvar`.
        let of_variance = found.remove("loss.logvar").unwrap()[0];
        assert!((of_variance / (3.0 * 32.0 * 32.0 - to_f32(&reconstruction)[0]) - 1.0).abs() < 1e-4, "{of_variance}");
        assert!(found.keys().eq(expected.keys()), "what learns");
        for (name, found) in found {
            let expected = &expected[&name];
            let apart: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
            // A key's bias has a gradient of 0 and what rounding leaves of it.
            let floor = if name.ends_with("attn_1.k.bias") { 1.0 } else { 0.0 };
            assert!(
                length(&apart) <= 2e-4 * (length(expected) + floor),
                "{name}: {} of {}",
                length(&apart),
                length(expected)
            );
        }
    }
}

#[test]
fn a_decoder_alone_learns_what_it_learns_beside_the_encoder() {
    let setting = setting();
    let Networks { vae, variance, .. } = &setting.networks;
    let judges = Judges { perceptual: Some(&setting.perceptual), critic: None };
    let gradients = |trains| {
        let loss = autoencoder_loss(vae, variance, judges, WEIGHTS, trains, setting.batch.clone());
        by_name(&setting, loss.slope.backward())
    };
    let (all, decoder) = (gradients(TrainedParts::All), gradients(TrainedParts::Decoder));
    let expected = all.into_iter().filter(|(name, _)| !name.starts_with("vae.encoder"));
    assert_eq!(decoder, expected.collect::<BTreeMap<_, _>>());
    assert!(decoder.len() > 20 && decoder.keys().any(|name| name.starts_with("vae.decoder")));
}

#[test]
fn the_critic_learns_from_made_pictures_and_the_autoencoder_not_from_that() {
    let setting = setting();
    let Networks { vae, variance, critic } = &setting.networks;
    let judges = Judges { perceptual: None, critic: None };
    let made = autoencoder_loss(vae, variance, judges, WEIGHTS, TrainedParts::All, setting.batch.clone());
    assert_eq!(made.parts.perceptual, 0.0);
    let loss = critic_loss(critic, setting.batch.pictures_B3HW.clone(), made.made_B3HW);
    let gradients = by_name(&setting, loss.backward());
    assert_eq!(gradients.len(), 13);
    assert!(gradients.keys().all(|name| name.starts_with("critic.main.")), "{:?}", gradients.keys());
}
