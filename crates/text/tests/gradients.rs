//! The gradient of every parameter of tiny random encoders, against what PyTorch found
//! (`scripts/make_text_gradients.py`), and how parameters start without a checkpoint.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "`cargo test -- --nocapture` shows the measured errors")]
#![allow(non_snake_case, reason = "tensor names end in their shape")]

mod common;

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use common::fixture;
use rectiflow_nn::{
    Device, Gradients, Init, Int, Named, ParamGradients, ParamNames, ParamSource, Params, Precision, RandomInit, Read,
    Tensor, TensorData, from_f32, to_f32,
};
use rectiflow_text::*;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

const TABLE: &str = "text_model.embeddings.token_embedding.weight";
const CLIP_VOCABULARY: usize = 49408;

/// A file of the script.
struct Reference {
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ids: BTreeMap<String, (Vec<usize>, Vec<i64>)>,
    sizes: serde_json::Value,
}

impl Reference {
    fn open(name: &str) -> Self {
        let bytes = std::fs::read(fixture("text_gradients").join(name).with_extension("safetensors")).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let sizes = serde_json::from_str(&header.metadata().as_ref().unwrap()["config"]).unwrap();
        let (mut floats, mut ids) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let (name, shape) = (name.to_owned(), view.shape().to_vec());
            if view.dtype() == Dtype::I64 {
                let values = view.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
                ids.insert(name, (shape, values));
            } else {
                let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                floats.insert(name, (shape, values));
            }
        }
        let mut reference = Reference { floats, ids, sizes };
        reference.fill_table();
        reference
    }

    /// The rows of a CLIP's token table, where they belong in it.
    fn fill_table(&mut self) {
        let Some((_, rows)) = self.ids.remove("rows") else { return };
        for name in ["weight", "grad"].map(|prefix| format!("{prefix}.{TABLE}")) {
            let (shape, values) = self.floats.get_mut(&name).unwrap();
            let mut table = vec![0.0; CLIP_VOCABULARY * shape[1]];
            for (row, values) in rows.iter().zip(values.chunks(shape[1])) {
                table[*row as usize * shape[1]..][..shape[1]].copy_from_slice(values);
            }
            (shape[0], *values) = (CLIP_VOCABULARY, table);
        }
    }

    fn size(&self, name: &str) -> usize {
        self.sizes[name].as_u64().unwrap() as usize
    }

    fn ids(&self, name: &str, device: &Device) -> Tensor<2, Int> {
        let (shape, values) = self.ids[name].clone();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn floats<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let (shape, values) = self.floats[name].clone();
        from_f32(values, shape.try_into().unwrap(), device)
    }

    /// The gradients of this loss, by parameter.
    fn gradients(&self, prefix: &str) -> BTreeMap<&str, &[f32]> {
        let all = self.floats.iter();
        all.filter_map(|(name, (_, values))| Some((name.strip_prefix(prefix)?, values.as_slice()))).collect()
    }

    /// `output * slope`, summed, and how far the output is from the reference's.
    fn loss<const D: usize>(&self, name: &str, output: Tensor<D>) -> Tensor<1> {
        let expected = &self.floats[&format!("output.{name}")].1;
        let error = relative_error(&to_f32(&output), expected);
        assert!(error < 1e-5, "{name} is off by {error:.1e}");
        let slope = self.floats(&format!("slope.{name}"), &output.device());
        (output * slope).sum()
    }
}

impl ParamSource for Reference {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.floats.get(&format!("weight.{name}"))?.0.clone())
    }

    fn claim(&mut self, name: &str, shape: &[usize], _init: Init) -> Read {
        let (stored, values) =
            self.floats.get(&format!("weight.{name}")).unwrap_or_else(|| panic!("no {name}")).clone();
        assert_eq!(stored, shape, "{name}");
        Box::new(move || TensorData::new(values, stored))
    }
}

/// Largest difference over largest expected value.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    largest(&differences) / largest(expected)
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| if value.abs() > most || value.is_nan() { value.abs() } else { most })
}

/// Parameters with their official names.
struct ByName<'a, F> {
    names: &'a ParamNames,
    each: F,
}

impl<F: FnMut(&str, &Param<Tensor<1>>)> ByName<'_, F> {
    fn visit<M: Module>(names: &ParamNames, module: &M, each: F) {
        module.visit(&mut ByName { names, each });
    }
}

impl<F: FnMut(&str, &Param<Tensor<1>>)> ModuleVisitor for ByName<'_, F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let flat = Param::initialized(param.id, param.val().flatten(0, D - 1));
        (self.each)(self.names.get(param.id).unwrap(), &flat);
    }
}

/// Every parameter of the module, and no other, has the gradient that was found for it.
fn check<M: Module>(module: &M, names: &ParamNames, gradients: Gradients, expected: &BTreeMap<&str, &[f32]>) {
    let found = ParamGradients::of(module, gradients);
    let (mut seen, mut worst) = (0, 0.0_f32);
    ByName::visit(names, module, |name, param| {
        let slopes = expected[name];
        let found = found.get(param.id).map_or_else(|| vec![0.0; slopes.len()], to_f32);
        let error = match name.strip_suffix("k_proj.bias") {
            // It moves all logits of a row alike, which changes no share: the gradient is 0, and both found are rounding.
            Some(layer) => {
                let beside = largest(expected[format!("{layer}k_proj.weight").as_str()]);
                largest(&found).max(largest(slopes)) / beside
            }
            None => relative_error(&found, slopes),
        };
        assert!(error <= 1e-4, "the gradient of {name} is off by {error:.1e}");
        (seen, worst) = (seen + 1, worst.max(error));
    });
    assert_eq!(seen, expected.len());
    println!("{seen} gradients within {worst:.1e}");
}

fn autodiff() -> Device {
    Device::flex().autodiff()
}

fn check_clip(name: &str, activation: Activation) {
    let mut reference = Reference::open(name);
    let config = ClipConfig {
        width: reference.size("width"),
        layers: reference.size("layers"),
        heads: reference.size("heads"),
        mlp: reference.size("mlp"),
        activation,
        projection: Some(reference.size("projection")),
        ..ClipConfig::clip_l()
    };
    let device = autodiff();
    let mut named = Named::new(&mut reference);
    let encoder = ClipEncoder::new(Params::new(&mut named, &device, Precision::F32), &config);
    let names = named.names();
    let output = encoder.forward(reference.ids("ids", &device), Pooling::Projected);
    let loss = reference.loss("penultimate", output.penultimate) + reference.loss("pooled", output.pooled);
    check(&encoder, &names, loss.backward(), &reference.gradients("grad."));
}

#[test]
fn gradients_of_clip_l_are_those_of_pytorch() {
    check_clip("clip_l", Activation::QuickGelu); // measured: up to 1.5e-6
}

#[test]
fn gradients_of_clip_g_are_those_of_pytorch() {
    check_clip("clip_g", Activation::Gelu); // measured: up to 9.9e-7
}

fn t5_config(reference: &Reference) -> T5Config {
    T5Config {
        width: reference.size("width"),
        layers: reference.size("layers"),
        heads: reference.size("heads"),
        head_width: reference.size("head_width"),
        mlp: reference.size("mlp"),
        vocabulary: reference.size("vocabulary"),
        buckets: reference.size("buckets"),
        max_distance: reference.size("max_distance"),
        ..T5Config::xxl()
    }
}

/// The table of relative positions and the token table too.
#[test]
fn gradients_of_t5_are_those_of_pytorch() {
    let mut reference = Reference::open("t5");
    let (config, device) = (t5_config(&reference), autodiff());
    let mut named = Named::new(&mut reference);
    let encoder = T5Encoder::new(Params::new(&mut named, &device, Precision::F32), &config);
    let names = named.names();
    let loss = reference.loss("encoded", encoder.forward(reference.ids("ids", &device)));
    check(&encoder, &names, loss.backward(), &reference.gradients("grad.")); // measured: up to 3.2e-6
}

#[derive(Module, Debug)]
struct WithDecoder {
    encoder: T5Encoder,
    decoder: T5Decoder,
}

/// Logits, loss and gradients of `T5ForConditionalGeneration`.
#[test]
fn t5_guesses_and_learns_as_in_pytorch() {
    let mut reference = Reference::open("t5");
    let (config, layers, device) = (t5_config(&reference), reference.size("decoder_layers"), autodiff());
    let mut named = Named::new(&mut reference);
    let encoder = T5Encoder::new(Params::new(&mut named, &device, Precision::F32), &config);
    let decoder = T5Decoder::new(Params::new(&mut named, &device, Precision::F32), &config, layers);
    let names = named.names();
    let encoded_BSD = encoder.forward(reference.ids("ids", &device));
    let logits_BLV = decoder.forward(&encoder, encoded_BSD, reference.ids("decoder_ids", &device));
    let error = relative_error(&to_f32(&logits_BLV), &reference.floats["logits"].1);
    assert!(error < 1e-5, "logits are off by {error:.1e}");

    // Cross entropy over the targets that are not -100.
    let shares_BLV = burn::tensor::activation::log_softmax(logits_BLV, 2);
    let (shape, targets) = &reference.ids["targets"];
    let of_target: Vec<f32> = targets
        .iter()
        .flat_map(|&target| (0..config.vocabulary as i64).map(move |token| f32::from(u8::from(token == target))))
        .collect();
    let count = targets.iter().filter(|&&target| target >= 0).count();
    let of_target = from_f32(of_target, [shape[0], shape[1], config.vocabulary], &device);
    let loss = (shares_BLV * of_target).sum() / -(count as f32);
    assert!((to_f32(&loss)[0] / reference.floats["loss"].1[0] - 1.0).abs() < 1e-6);
    check(&WithDecoder { encoder, decoder }, &names, loss.backward(), &reference.gradients("lm_grad."));
    // measured: up to 1.8e-5
}

/// Mean and deviation of every parameter, by name.
fn statistics<M: Module>(module: &M, names: &ParamNames) -> BTreeMap<String, [f64; 2]> {
    let mut all = BTreeMap::new();
    ByName::visit(names, module, |name, param| {
        let values = to_f32(&param.val());
        let count = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        all.insert(name.to_owned(), [mean, variance.sqrt()]);
    });
    all
}

#[track_caller]
fn assert_deviations(found: &BTreeMap<String, [f64; 2]>, expected: &[(&str, f64)]) {
    for (name, deviation) in expected {
        let [mean, found] = found[*name];
        assert!(mean.abs() < 0.1 * deviation && (found / deviation - 1.0).abs() < 0.1, "{name}: {mean} +- {found}");
    }
}

#[test]
fn clip_starts_as_openais() {
    let config = ClipConfig { width: 64, layers: 2, heads: 2, mlp: 256, projection: Some(48), ..ClipConfig::clip_l() };
    let mut random = RandomInit { seed: 1 };
    let mut named = Named::new(&mut random);
    let encoder = ClipEncoder::new(Params::new(&mut named, &Device::flex(), Precision::F32), &config);
    let found = statistics(&encoder, &named.names());
    let layer = |name: &str| format!("text_model.encoder.layers.1.{name}");
    // width^-0.5 = 1/8, times (2 * 2 layers)^-0.5 = 1/2; (2 width)^-0.5.
    assert_deviations(
        &found,
        &[
            (TABLE, 0.02),
            ("text_model.embeddings.position_embedding.weight", 0.01),
            (&layer("self_attn.q_proj.weight"), 0.125),
            (&layer("self_attn.k_proj.weight"), 0.125),
            (&layer("self_attn.v_proj.weight"), 0.125),
            (&layer("self_attn.out_proj.weight"), 0.0625),
            (&layer("mlp.fc1.weight"), 0.0884),
            (&layer("mlp.fc2.weight"), 0.0625),
            ("text_projection.weight", 0.125),
        ],
    );
    assert_eq!(found[&layer("mlp.fc1.bias")], [0.0, 0.0]);
    assert_eq!(found[&layer("layer_norm2.weight")], [1.0, 0.0]);
}

#[test]
fn t5_starts_as_mesh_tensorflows() {
    let sizes =
        T5Config { width: 64, layers: 1, heads: 4, head_width: 36, mlp: 100, vocabulary: 400, ..T5Config::xxl() };
    let config = T5Config { buckets: 64, ..sizes };
    let mut random = RandomInit { seed: 1 };
    let mut named = Named::new(&mut random);
    let encoder = T5Encoder::new(Params::new(&mut named, &Device::flex(), Precision::F32), &config);
    let decoder = T5Decoder::new(Params::new(&mut named, &Device::flex(), Precision::F32), &config, 1);
    let found = statistics(&WithDecoder { encoder, decoder }, &named.names());
    assert_deviations(&found, &[("shared.weight", 1.0), ("lm_head.weight", 0.125)]);
    for (half, attentions, mlp) in
        [("encoder", &["0.SelfAttention"][..], 1), ("decoder", &["0.SelfAttention", "1.EncDecAttention"], 2)]
    {
        for attention in attentions {
            let name = |product| format!("{half}.block.0.layer.{attention}.{product}.weight");
            let [q, k, v, o] = ["q", "k", "v", "o"].map(name);
            assert_deviations(&found, &[(&q, 1.0 / 48.0), (&k, 0.125), (&v, 0.125), (&o, 1.0 / 12.0)]);
        }
        let name = |product| format!("{half}.block.0.layer.{mlp}.DenseReluDense.{product}.weight");
        assert_deviations(&found, &[(&name("wi_0"), 0.125), (&name("wi_1"), 0.125), (&name("wo"), 0.1)]);
        let table = format!("{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        assert_deviations(&found, &[(&table, 0.125)]);
        assert_eq!(found[&format!("{half}.final_layer_norm.weight")], [1.0, 0.0]);
    }
}
