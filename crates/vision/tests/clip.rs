//! CLIP's image tower and the contrastive loss beside transformers.
//!
//! `scripts/make_vision.py` made `fixtures/vision/clip_*.safetensors`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

mod common;

use common::Golden;
use rectiflow_nn::{
    Device, Init, Module, Named, ParamSource, Params, Precision, RandomInit, Read, TensorData, from_f32, to_f32,
};
use rectiflow_text::Activation;
use rectiflow_vision::{ClipImageConfig, ClipImageTower, LogitScale, NamedTensors, contrastive_loss};

fn tiny(activation: Activation) -> ClipImageConfig {
    ClipImageConfig {
        side_px: 24,
        patch_px: 8,
        width: 24,
        layers: 2,
        heads: 3,
        mlp: 40,
        activation,
        eps: 1e-5,
        projection: 12,
    }
}

/// `logit_scale` as a number of its own.
struct Scale(f32);

impl ParamSource for Scale {
    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        assert_eq!((name, shape), ("logit_scale", &[1][..]));
        let Init::Constant(start) = init else { panic!("{init:?}") };
        assert!((start - (1.0_f32 / 0.07).ln()).abs() < 1e-6, "{start}");
        let number = self.0;
        Box::new(move || TensorData::new(vec![number], [1]))
    }
}

fn scale(number: f32, device: &Device) -> LogitScale {
    LogitScale::new(Params::new(&mut Scale(number), device, Precision::F32))
}

#[derive(Module, Debug)]
struct Both {
    tower: ClipImageTower,
    scale: LogitScale,
}

#[test]
fn embeddings_loss_and_every_gradient_are_those_of_transformers() {
    for (activation, name) in [(Activation::QuickGelu, "quick_gelu"), (Activation::Gelu, "gelu")] {
        let golden = Golden::read(&format!("clip_{name}.safetensors"));
        let device = Device::flex().autodiff();
        let mut source = NamedTensors::of(&golden.bytes).unwrap();
        let mut named = Named::new(&mut source);
        let tower = ClipImageTower::new(Params::new(&mut named, &device, Precision::F32), &tiny(activation));
        let names = named.names();
        let left = source.finish().unwrap();
        let parameter = |name: &&String| name.starts_with("vision_model.") || name.starts_with("visual_projection.");
        assert_eq!(left.iter().find(parameter), None);

        let picture = golden.tensor::<4>("picture", &device).require_grad();
        let embedding = tower.forward(picture.clone());
        golden.check("embedding", &to_f32(&embedding), 1e-5);
        let scale = scale(golden.numbers("logit_scale")[0], &device);
        let loss = contrastive_loss(golden.tensor("texts", &device), embedding, &scale);
        golden.check("loss", &to_f32(&loss), 1e-5);
        let gradients = loss.backward();
        golden.check("gradient.picture", &to_f32(&picture.grad(&gradients).unwrap()), 1e-4);

        let mut scale_source = Scale(0.0);
        let mut named = Named::new(&mut scale_source);
        LogitScale::new(Params::new(&mut named, &device, Precision::F32));
        let of_scale = named.names();
        let both = Both { tower, scale };
        let found = rectiflow_nn::ParamGradients::of(&both, gradients);
        let found = common::named(&both, &[&names, &of_scale], &found);
        assert_eq!(found.len(), 2 * 16 + 8 + 1);
        golden.check_gradients(&found, "k_proj.bias", 1e-4);
    }
}

#[test]
fn the_scale_is_bounded() {
    let device = Device::flex().autodiff();
    let embeddings = |seed: f32| from_f32((0..12).map(|i| (i as f32 * seed).sin()).collect(), [3, 4], &device);
    let loss = |number: f32| to_f32(&contrastive_loss(embeddings(0.7), embeddings(1.9), &scale(number, &device)))[0];
    assert_eq!(loss(100.0_f32.ln() + 0.1), loss(100.0_f32.ln() + 1.0));
    assert!(loss(3.0) < loss(4.0));
    // A text that is its picture, among others that are far from it.
    let units = || from_f32(vec![1.0, 0.0, 0.0, 1.0], [2, 2], &device);
    let expected = (1.0 + (-3.0_f32.exp()).exp()).ln();
    assert!((to_f32(&contrastive_loss(units(), units(), &scale(3.0, &device)))[0] - expected).abs() < 1e-6);
}

#[test]
fn the_released_towers_parameters_are_as_many_as_in_its_file() {
    let params = |source| Params::new(source, &Device::flex(), Precision::F32);
    let mut source = RandomInit { seed: 0 };
    let tower = ClipImageTower::new(params(&mut source), &ClipImageConfig::vit_l_14());
    assert_eq!(tower.num_params(), 303_966_208);
}
