//! The loss of guessing hidden tokens, beside that of PyTorch, and an encoder that learns by it.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test binary")]

use std::num::NonZeroU64;
use std::path::Path;

use burn::module::Module;
use rectiflow_nn::{
    Device, Init, Int, Named, ParamGradients, ParamSource, Params, Precision, RandomInit, Read, Tensor, TensorData,
    from_f32, to_f32,
};
use rectiflow_text::{SpanCorruption, T5Config, T5Decoder, T5Encoder, T5Tokenizer};
use rectiflow_train::objective::span::{NumberedText, SpanBatch, guess};
use rectiflow_train::optimizer::{AdamW, Matrices, ModuleGradients, Optimizer};
use safetensors::SafeTensors;

/// `fixtures/text_gradients/t5.safetensors`.
struct Reference {
    bytes: Vec<u8>,
}

impl Reference {
    fn floats(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (values, tensor.shape().to_vec())
    }

    fn ids(&self, name: &str) -> (Vec<i64>, [usize; 2]) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values = tensor.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        (values, tensor.shape().try_into().unwrap())
    }
}

impl ParamSource for Reference {
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], _init: Init) -> Read {
        let (values, stored) = self.floats(&format!("weight.{name}"));
        assert_eq!(stored, shape, "{name}");
        Box::new(move || TensorData::new(values, stored))
    }
}

fn ids((values, shape): (Vec<i64>, [usize; 2]), device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[test]
fn the_loss_is_that_of_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text_gradients/t5.safetensors");
    let mut reference = Reference { bytes: std::fs::read(path).unwrap() };
    let config = T5Config {
        width: 18,
        layers: 2,
        heads: 3,
        head_width: 8,
        mlp: 29,
        vocabulary: 40,
        buckets: 8,
        max_distance: 11,
        ..T5Config::xxl()
    };
    let device = Device::flex();
    let encoder = T5Encoder::new(Params::new(&mut reference, &device, Precision::F32), &config);
    let decoder = T5Decoder::new(Params::new(&mut reference, &device, Precision::F32), &config, 3);
    let (targets, shape) = reference.ids("targets");
    let counted = targets.iter().map(|&target| f32::from(u8::from(target >= 0))).collect();
    let batch = SpanBatch {
        inputs_BS: ids(reference.ids("ids"), &device),
        said_BL: ids(reference.ids("decoder_ids"), &device),
        targets_BL: ids((targets.iter().map(|&target| target.max(0)).collect(), shape), &device),
        hidden: targets.iter().filter(|&&target| target >= 0).count(),
        counted_BL: from_f32(counted, shape, &device),
        cut: 0,
        whole: 0,
    };
    let (found, expected) = (to_f32(&guess(&encoder, &decoder, batch).loss())[0], reference.floats("loss").0[0]);
    assert!((found / expected - 1.0).abs() < 1e-6, "{found} instead of {expected}");
}

#[derive(Module, Debug)]
struct T5 {
    encoder: T5Encoder,
    decoder: T5Decoder,
}

/// Bytes of one text, other runs of it hidden at each step: from knowing nothing to knowing it by heart.
#[test]
fn a_small_t5_of_bytes_learns_its_text() {
    let config =
        T5Config { width: 32, layers: 1, heads: 2, head_width: 16, mlp: 64, vocabulary: 384, ..T5Config::xxl() };
    let (device, tokenizer) = (Device::flex().autodiff(), T5Tokenizer::bytes());
    let mut random = RandomInit { seed: 1 };
    let mut named = Named::new(&mut random);
    let encoder = T5Encoder::new(Params::new(&mut named, &device, Precision::F32), &config);
    let decoder = T5Decoder::new(Params::new(&mut named, &device, Precision::F32), &config, 1);
    let (mut network, names) = (T5 { encoder, decoder }, named.names());
    let settings = AdamW { beta_1: 0.9, beta_2: 0.999, eps: 1e-8, weight_decay: 0.0, matrices: Matrices::Adamw };
    let mut optimizer = Optimizer::new(settings, vec![], names.clone());
    let corruption = SpanCorruption::standard(tokenizer.sentinels());
    let tokens = tokenizer.whole_text("a red fox").unwrap();
    let mut losses = Vec::new();
    for step in 0..60_u64 {
        let text = |sample: u64| NumberedText { number: step * 8 + sample, tokens: tokens.clone() };
        let texts: Vec<_> = (0..8).map(text).collect();
        let batch = SpanBatch::new(&texts, &corruption, 3, 16, &device).unwrap();
        let loss = guess(&network.encoder, &network.decoder, batch).loss();
        losses.push(to_f32(&loss)[0]);
        let gradients = ParamGradients::of(&network, loss.backward());
        let gradients = ModuleGradients::of(&network, &names, gradients, NonZeroU64::MIN).unwrap();
        network = optimizer.step(network, gradients.clipped_to(1.0), 1e-2);
    }
    println!("loss from {} to {}", losses[0], losses[59]);
    assert!(losses[0] > 5.0 && losses[0] < 8.0 && losses[59] < 0.1, "from {} to {}", losses[0], losses[59]);
}
