//! Every backbone: how it begins, how many parameters and operations it has, that it trains, on what its places depend,
//! and that its gradients are the same to the bit whatever is kept for them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use burn::module::ModuleVisitor;
use rectiflow_mmdit::{
    BaselineConfig, MmditConfig, NetworkConfig, NetworkInputs, Origin, Queries, Recompute, UvitConfig, VelocityNetwork,
    last_blocks,
};
use rectiflow_nn::{
    Device, Init, Module, Named, Param, ParamGradients, ParamNames, ParamSource, Params, Precision, RandomInit, Read,
    Tensor, from_f32, to_f32,
};

/// Every parameter random: modulations begin at 0, and most gradients with them.
struct AllRandom(RandomInit);

impl ParamSource for AllRandom {
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        let init = if name == "pos_embed" { init } else { Init::Normal(0.15) };
        self.0.claim(name, shape, init)
    }
}

/// Notes what is asked for.
#[derive(Clone)]
struct Shapes(Arc<Mutex<BTreeMap<String, Vec<usize>>>>);

impl ParamSource for Shapes {
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        self.0.lock().unwrap().insert(name.into(), shape.into());
        RandomInit { seed: 0 }.claim(name, shape, init)
    }
}

fn mmdit(depth: usize, qk_norm: bool) -> MmditConfig {
    MmditConfig {
        depth,
        width: 128,
        channels_in: 4,
        channels_out: 4,
        context_width: 24,
        pooled_width: 10,
        qk_norm,
        grid: 8,
        ..MmditConfig::of_depth(depth)
    }
}

fn uvit(middle: BaselineConfig) -> NetworkConfig {
    NetworkConfig::Uvit(UvitConfig { middle, level_widths: vec![64], level_blocks: 2 })
}

/// With three blocks each, so that there are a first, an inner and a last one.
fn networks() -> Vec<(&'static str, NetworkConfig)> {
    let (plain, normed) = (mmdit(3, false), mmdit(3, true));
    let sizes = BaselineConfig::like(&normed);
    let mut coarse = BaselineConfig::like(&plain);
    coarse.frame.patch = 4;
    coarse.frame.grid = 4;
    vec![
        ("MMDiT", NetworkConfig::Mmdit(plain.clone())),
        ("MMDiT-X", NetworkConfig::Mmdit(MmditConfig { dual_layers: vec![0, 1], ..normed.clone() })),
        ("dual to the end", NetworkConfig::Mmdit(MmditConfig { dual_layers: vec![2], ..normed })),
        ("three sets", NetworkConfig::ThreeSets { sizes: sizes.clone(), clip_tokens: 5 }),
        ("DiT", NetworkConfig::Dit(sizes.clone())),
        ("CrossDiT", NetworkConfig::CrossDit(BaselineConfig::like(&plain))),
        ("CrossDiT with QK-norm", NetworkConfig::CrossDit(sizes.clone())),
        ("UViT", uvit(sizes)),
        (
            "UViT of two levels",
            NetworkConfig::Uvit(UvitConfig { middle: coarse, level_widths: vec![32, 64], level_blocks: 1 }),
        ),
    ]
}

fn build(
    config: &NetworkConfig,
    source: &mut dyn ParamSource,
    device: &Device,
    precision: Precision,
) -> VelocityNetwork {
    VelocityNetwork::new(config, Params::new(source, device, precision))
}

fn random(config: &NetworkConfig, device: &Device, precision: Precision) -> VelocityNetwork {
    build(config, &mut AllRandom(RandomInit { seed: 3 }), device, precision)
}

fn some<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let read = RandomInit { seed: 8 }.claim(name, &shape, Init::Normal(1.0));
    from_f32(read().try_into_vec().unwrap(), shape, device)
}

/// Two samples of 8x12 latent pixels and 11 text tokens.
fn inputs(device: &Device, origin: Origin) -> NetworkInputs {
    NetworkInputs {
        latent_BCHW: some("latent", [2, 4, 8, 12], device),
        timestep_B: from_f32(vec![731.5, 20.0], [2], device),
        context_BTC: some("context", [2, 11, 24], device),
        pooled_BP: some("pooled", [2, 10], device),
        origin,
    }
}

/// A loss in which every value has a slope of its own.
fn loss(velocity_BCHW: Tensor<4>) -> Tensor<1> {
    let target = some("target", velocity_BCHW.dims(), &velocity_BCHW.device());
    (velocity_BCHW - target).square().mean()
}

/// Every trained parameter's gradient, by name; none for those that the loss does not reach.
struct Bits<'a> {
    names: &'a ParamNames,
    gradients: ParamGradients,
    bits: BTreeMap<String, Option<Vec<u32>>>,
}

impl ModuleVisitor for Bits<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.names.get(param.id).unwrap().to_owned();
        let bits = self.gradients.remove(param.id).map(|x| to_f32(&x).iter().map(|x| x.to_bits()).collect());
        self.bits.insert(name, bits);
    }
}

fn bits(
    network: &VelocityNetwork,
    names: &ParamNames,
    gradients: ParamGradients,
) -> BTreeMap<String, Option<Vec<u32>>> {
    let mut visitor = Bits { names, gradients, bits: BTreeMap::new() };
    network.visit(&mut visitor);
    visitor.bits
}

fn named(config: &NetworkConfig, device: &Device, precision: Precision) -> (VelocityNetwork, ParamNames) {
    let mut source = AllRandom(RandomInit { seed: 3 });
    let mut named = Named::new(&mut source);
    let network = build(config, &mut named, device, precision);
    (network, named.names())
}

#[test]
fn gradients_are_the_same_to_the_bit_whatever_is_kept_for_them() {
    let device = Device::flex().autodiff();
    for (name, config) in networks() {
        for precision in [Precision::F32, Precision::Bf16] {
            let (network, names) = named(&config, &device, precision);
            let given = || inputs(&device, Origin::At([1, 1]));
            let plain = loss(network.forward_at(given()));
            let value = to_f32(&plain)[0];
            let expected = bits(&network, &names, ParamGradients::of(&network, plain.backward()));
            for recompute in [Recompute::Nothing, Recompute::First(2), Recompute::Every] {
                let (found, gradients) = network.gradients(given(), recompute, loss);
                assert_eq!(to_f32(&found)[0].to_bits(), value.to_bits(), "{name}, {precision}, {recompute:?}");
                let found = bits(&network, &names, gradients);
                for (parameter, expected) in &expected {
                    assert!(found[parameter] == *expected, "{name}, {precision}, {recompute:?}: {parameter} differs");
                }
            }
        }
    }
}

#[test]
fn a_loss_reaches_every_parameter_but_the_positions_and_the_last_texts_queries() {
    let device = Device::flex().autodiff();
    for (name, config) in networks() {
        let (network, names) = named(&config, &device, Precision::F32);
        let (_, gradients) = network.gradients(inputs(&device, Origin::Centre), Recompute::Every, loss);
        let still: Vec<String> = bits(&network, &names, gradients)
            .into_iter()
            .filter(|(_, bits)| bits.as_ref().is_none_or(|bits| bits.iter().all(|x| f32::from_bits(*x) == 0.0)))
            .map(|(name, _)| name)
            .collect();
        let expected = match name {
            "MMDiT-X" | "dual to the end" => vec!["joint_blocks.2.context_block.attn.ln_q.weight", "pos_embed"],
            "three sets" => vec![
                "joint_blocks.2.clip_block.attn.ln_q.weight",
                "joint_blocks.2.t5_block.attn.ln_q.weight",
                "pos_embed",
            ],
            _ => vec!["pos_embed"],
        };
        assert_eq!(still, expected, "{name}");
    }
}

#[test]
fn the_forward_that_draws_is_the_one_that_trains() {
    for (name, config) in networks() {
        for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 3e-2)] {
            let [drawn, trained] = [Device::flex(), Device::flex().autodiff()]
                .map(|device| to_f32(&random(&config, &device, precision).forward_at(inputs(&device, Origin::Centre))));
            let largest = drawn.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let apart = drawn.iter().zip(&trained).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(largest > 0.1 && apart < tolerance * largest, "{name}, {precision}: {apart} of {largest}");
        }
    }
}

#[test]
fn a_new_network_gives_no_velocity() {
    let device = Device::flex();
    for (name, config) in networks() {
        let network = build(&config, &mut RandomInit { seed: 4 }, &device, Precision::F32);
        let velocity = network.forward_at(inputs(&device, Origin::Centre));
        assert_eq!(velocity.dims(), [2, 4, 8, 12], "{name}");
        assert!(to_f32(&velocity).iter().all(|x| *x == 0.0), "{name}");
    }
}

/// Collects mean, deviation and largest size of every parameter.
struct Statistics<'a> {
    names: &'a ParamNames,
    of: BTreeMap<String, (Vec<usize>, [f64; 3])>,
}

impl ModuleVisitor for Statistics<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = to_f32(&param.val());
        let count = values.len() as f64;
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        let square = values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
        let largest = values.iter().fold(0.0_f64, |most, x| most.max(f64::from(x.abs())));
        let name = self.names.get(param.id).unwrap().to_owned();
        self.of.insert(name, (param.dims().to_vec(), [mean, square.sqrt(), largest]));
    }
}

/// Xavier's products, normal embedders, zeros where a block or the network ends, norms of 1: the DiT lineage, as SD3's
/// trainers have it (kohya's `initialize_weights`).
#[test]
fn new_parameters_have_the_statistics_of_their_kind() {
    for (network, config) in networks() {
        let mut source = RandomInit { seed: 4 };
        let mut named = Named::new(&mut source);
        let model = build(&config, &mut named, &Device::flex(), Precision::F32);
        let names = named.names();
        let mut visitor = Statistics { names: &names, of: BTreeMap::new() };
        model.visit(&mut visitor);
        for (name, (shape, [mean, deviation, largest])) in visitor.of {
            let case = format!("{network}: {name}, mean {mean}, deviation {deviation}, largest {largest}");
            let has = |part: &str| name.contains(part);
            let is_norm = has(".ln_q.") || has(".ln_k.") || has(".norm1.") || has(".norm2.");
            if name == "pos_embed" {
                assert!(largest <= 1.0 && deviation > 0.5, "{case}");
            } else if is_norm && name.ends_with("weight") {
                assert!((mean, deviation) == (1.0, 0.0), "{case}");
            } else if name.ends_with("bias") || has("adaLN_modulation") || has("final_layer") || has("cross_attn.proj")
            {
                assert!(largest == 0.0, "{case}");
            } else if has("_embedder.mlp.") {
                assert!(mean.abs() < 0.003 && (deviation - 0.02).abs() < 0.002, "{case}");
            } else {
                let (out, inner) = (shape[0], shape[1..].iter().product::<usize>());
                let bound = (6.0 / (out + inner) as f64).sqrt();
                let spread = bound / 3.0_f64.sqrt();
                assert!(largest <= bound && largest > 0.98 * bound, "{case}, bound {bound}");
                assert!((deviation / spread - 1.0).abs() < 0.05 && mean.abs() < 0.05 * bound, "{case}");
            }
        }
    }
}

#[test]
fn parameters_are_as_many_as_the_sizes_say() {
    for (name, config) in networks() {
        let shapes = Shapes(Arc::default());
        drop(build(&config, &mut shapes.clone(), &Device::flex(), Precision::F32));
        let shapes = shapes.0.lock().unwrap();
        let trained = shapes.iter().filter(|(name, _)| *name != "pos_embed");
        let count: usize = trained.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(config.parameters(), count, "{name}");
    }
    let released = |depth, qk_norm, dual| {
        let config = MmditConfig { qk_norm, dual_layers: (0..dual).collect(), ..MmditConfig::of_depth(depth) };
        NetworkConfig::Mmdit(config).parameters()
    };
    assert_eq!(released(24, false, 0), 2_028_328_000);
    assert_eq!(released(24, true, 13), 2_243_171_520);
    assert_eq!(released(38, true, 0), 8_056_627_520);
}

/// Every weight times the tokens or pixels that go through it, told from its name, and the attentions beside them.
#[test]
fn operations_are_those_of_the_weights_that_were_built() {
    const TEXT: usize = 11;
    let (rows, columns) = (4, 6);
    for (name, config) in networks() {
        let shapes = Shapes(Arc::default());
        drop(build(&config, &mut shapes.clone(), &Device::flex(), Precision::F32));
        let (text, mut image) = (TEXT as f64, (rows * columns) as f64);
        if name == "UViT of two levels" {
            image /= 4.0;
        }
        let pixels = (rows * columns * 4) as f64;
        let mut products = 0.0;
        for (weight, shape) in
            shapes.0.lock().unwrap().iter().filter(|(name, shape)| shape.len() > 1 && *name != "pos_embed")
        {
            let has = |part: &str| weight.contains(part);
            let in_blocks = weight.starts_with("blocks.");
            let is_uvit = name.starts_with("UViT");
            let through = match weight.as_str() {
                _ if has("adaLN_modulation") || has("_embedder.mlp") => 1.0,
                _ if has("context_embedder") || has("context_block") || has("kv_linear") => text,
                _ if has("clip_block") => 5.0,
                _ if has("t5_block") => text - 5.0,
                _ if is_uvit && (has("x_embedder") || has("final_layer")) => pixels,
                // Of two levels: 0 block, 1 halve, 2 block, 3 halve; 0 double, 1 block, 2 double, 3 block.
                _ if name == "UViT of two levels" && (has("down.0") || has("up.2") || has("up.3")) => pixels,
                _ if name == "UViT of two levels" && has("down.3") => image,
                _ if name == "UViT of two levels" && (has("down.") || has("up.")) => 4.0 * image,
                _ if has("down.2") => image,
                _ if has("down.") || has("up.") => pixels,
                _ if in_blocks && (name == "DiT" || is_uvit) => image + text,
                _ => image,
            };
            products += 2.0 * through * shape.iter().product::<usize>() as f64;
        }
        let (all, width) = (image + text, 128.0);
        let attentions = match name {
            "MMDiT" | "three sets" | "DiT" | "UViT" | "UViT of two levels" => 3.0 * all * all,
            "MMDiT-X" => 3.0 * all * all + 2.0 * image * image,
            "dual to the end" => 3.0 * all * all + image * image,
            _ => 3.0 * (image * image + image * text),
        };
        let expected = products + 4.0 * width * attentions;
        let found = config.operations(image as usize, TEXT);
        assert!((found / expected - 1.0).abs() < 1e-12, "{name}: {found} for {expected}");
    }
}

#[test]
fn the_place_in_the_grid_is_the_callers() {
    let device = Device::flex();
    let NetworkConfig::Mmdit(stored) = &networks()[0].1 else { unreachable!("the first is an MMDiT") };
    let computed = NetworkConfig::Mmdit(MmditConfig { grid_stored: false, ..stored.clone() });
    let networks = networks().into_iter().filter(|(name, _)| *name != "UViT of two levels");
    for (name, config) in networks.chain([("MMDiT, computed", computed)]) {
        let network = random(&config, &device, Precision::F32);
        let at = |origin| to_f32(&network.forward_at(inputs(&device, origin)));
        let (centre, corner) = (at(Origin::Centre), at(Origin::At([0, 0])));
        // 4x6 patches in a grid of 8.
        assert_eq!(centre, at(Origin::At([2, 1])), "{name}");
        assert_ne!(centre, corner, "{name}");
        let each = at(Origin::Each(vec![[2, 1], [0, 0]]));
        let half = each.len() / 2;
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near(&each[..half], &centre[..half]) && near(&each[half..], &corner[half..]), "{name}");
    }
}

#[test]
#[should_panic(expected = "4x6 patches at 5, 0 of a positional grid of side 8")]
fn a_place_outside_of_the_grid_is_refused() {
    let device = Device::flex();
    random(&networks()[0].1, &device, Precision::F32).forward_at(inputs(&device, Origin::At([5, 0])));
}

#[test]
fn a_probe_sees_every_attention_and_changes_nothing() {
    let device = Device::flex();
    for (name, config) in networks() {
        let network = random(&config, &device, Precision::F32);
        let before = to_f32(&network.forward_at(inputs(&device, Origin::Centre)));
        let probes = network.probe(inputs(&device, Origin::Centre));
        let queries: Vec<Queries> = probes.iter().map(|probe| probe.queries).collect();
        let expected = match name {
            "MMDiT" => [Queries::Text, Queries::Image].repeat(3),
            "MMDiT-X" => {
                use Queries::{Image, ImageAlone, Text};
                vec![Text, Image, ImageAlone, Text, Image, ImageAlone, Text, Image]
            }
            "dual to the end" => {
                use Queries::{Image, ImageAlone, Text};
                vec![Text, Image, Text, Image, Text, Image, ImageAlone]
            }
            "three sets" => [Queries::Clip, Queries::T5, Queries::Image].repeat(3),
            "DiT" | "UViT" | "UViT of two levels" => vec![Queries::All; 3],
            _ => [Queries::ImageAlone, Queries::ImageOfText].repeat(3),
        };
        assert_eq!(queries, expected, "{name}");
        for probe in &probes {
            let keys: f32 = if probe.queries == Queries::ImageOfText { 11.0 } else { 35.0 };
            let possible = probe.entropy > 0.0 && probe.entropy <= keys.ln() + 1e-4;
            assert!(possible && probe.logit_max > 0.0 && probe.logit_max.is_finite(), "{name}: {probe:?}");
        }
        assert!(last_blocks(&probes).is_some(), "{name}");
        assert_eq!(to_f32(&network.forward_at(inputs(&device, Origin::Centre))), before, "{name}");
    }
}

/// Larger weights give larger logits and less entropy: what the probe is for.
#[test]
fn a_probe_tells_an_attention_that_collapses() {
    struct Scaled(f32);
    impl ParamSource for Scaled {
        fn shape(&self, _name: &str) -> Option<Vec<usize>> {
            None
        }
        fn claim(&mut self, name: &str, shape: &[usize], _init: Init) -> Read {
            RandomInit { seed: 1 }.claim(name, shape, Init::Normal(if name.contains("qkv") { self.0 } else { 0.1 }))
        }
    }
    let config = NetworkConfig::Mmdit(mmdit(2, false));
    let figure = |size| {
        let network = build(&config, &mut Scaled(size), &Device::flex(), Precision::F32);
        last_blocks(&network.probe(inputs(&Device::flex(), Origin::Centre))).unwrap()
    };
    let ([calm, even], [wild, collapsed]) = (figure(0.05), figure(0.5));
    assert!(wild > 20.0 * calm && collapsed < 0.5 * even, "{calm} {even} {wild} {collapsed}");
}
