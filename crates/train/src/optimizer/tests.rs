//! The optimizer on a small module against AdamW written out in f64 on that module's gradients.

use burn::backend::Flex;
use burn::tensor::{Device, Gradients};
use rectiflow_nn::layers::Linear;
use rectiflow_nn::{Init, Named, Params, Precision, RandomInit, from_f32, to_f32};

use super::*;

const SETTINGS: AdamW = AdamW { beta_1: 0.9, beta_2: 0.99, eps: 1e-8, weight_decay: 0.05, matrices: Matrices::Adamw };
const RATE: f64 = 1e-2;

fn decay(decay: f64) -> Ema {
    Ema::Decay { decay, every: NonZeroU64::MIN }
}

#[derive(Module, Debug)]
struct Net {
    one: Linear,
    two: Linear,
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn net() -> Net {
    named_net().0
}

fn names() -> ParamNames {
    named_net().1
}

fn named_net() -> (Net, ParamNames) {
    let (device, mut source) = (device(), RandomInit { seed: 5 });
    let mut source = Named::new(&mut source);
    let mut params = Params::new(&mut source, &device, Precision::F32);
    let one = Linear::new(params.at("one"), 7, 5, Init::XavierUniform);
    let net = Net { one, two: Linear::new(params.at("two"), 5, 3, Init::XavierUniform) };
    (net, source.names())
}

/// A loss that changes with `seed`, and its gradients.
fn gradients(net: &Net, seed: usize, scale: f32) -> Gradients {
    let x = (0..4 * 7).map(|i| ((i * 37 + seed * 11) % 19) as f32 / 9.0 - 1.0).collect();
    let y = net.two.forward(net.one.forward(from_f32(x, [4, 7], &device())).tanh());
    (y.square().sum() * scale).backward()
}

/// The values of each parameter, or of its gradient.
#[derive(Default)]
struct Values<'a> {
    gradients: Option<&'a Gradients>,
    found: BTreeMap<String, Vec<f64>>,
}

impl ModuleVisitor for Values<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = match self.gradients {
            Some(gradients) => param.base().grad(gradients),
            None => Some(param.base()),
        };
        if let Some(tensor) = tensor {
            let values = to_f32(&tensor).into_iter().map(f64::from).collect();
            self.found.insert(places::name_of(&names(), param.id), values);
        }
    }
}

fn values(net: &Net) -> BTreeMap<String, Vec<f64>> {
    let mut visitor = Values::default();
    net.visit(&mut visitor);
    visitor.found
}

fn values_of_gradients(net: &Net, gradients: &Gradients) -> BTreeMap<String, Vec<f64>> {
    let mut visitor = Values { gradients: Some(gradients), ..Values::default() };
    net.visit(&mut visitor);
    visitor.found
}

fn norm(gradients: &BTreeMap<String, Vec<f64>>) -> f64 {
    gradients.values().flatten().map(|x| x * x).sum::<f64>().sqrt()
}

#[track_caller]
fn assert_near(found: &BTreeMap<String, Vec<f64>>, expected: &BTreeMap<String, Vec<f64>>, tolerance: f64) {
    assert!(found.keys().eq(expected.keys()), "{:?} {:?}", found.keys(), expected.keys());
    for (path, found) in found {
        for (i, (found, expected)) in found.iter().zip(&expected[path]).enumerate() {
            assert!((found - expected).abs() < tolerance, "{path} {i}: {found} instead of {expected}");
        }
    }
}

/// AdamW in f64, with the clip of `torch.nn.utils.clip_grad_norm_` and an average.
struct Plain {
    param: BTreeMap<String, Vec<f64>>,
    ema: BTreeMap<String, Vec<f64>>,
    moments: BTreeMap<String, Vec<[f64; 2]>>,
    steps: i32,
}

impl Plain {
    fn of(net: &Net) -> Self {
        let param = values(net);
        let moments = param.iter().map(|(path, x)| (path.clone(), vec![[0.0; 2]; x.len()])).collect();
        Plain { ema: param.clone(), param, moments, steps: 0 }
    }

    fn step(&mut self, gradients: &BTreeMap<String, Vec<f64>>, norm_max: f64, decay: f64) {
        let AdamW { beta_1, beta_2, eps, weight_decay, .. } = SETTINGS;
        let clip = norm_max / (norm(gradients) + 1e-6);
        let factor = if clip < 1.0 { clip } else { 1.0 };
        self.steps += 1;
        for (path, gradient) in gradients {
            let params = self.param.get_mut(path).unwrap();
            let (moments, ema) = (self.moments.get_mut(path).unwrap(), self.ema.get_mut(path).unwrap());
            for (i, g) in gradient.iter().map(|g| g * factor).enumerate() {
                let [first, second] = &mut moments[i];
                params[i] -= RATE * weight_decay * params[i];
                *first = beta_1 * *first + (1.0 - beta_1) * g;
                *second = beta_2 * *second + (1.0 - beta_2) * g * g;
                let first = *first / (1.0 - beta_1.powi(self.steps));
                let second = *second / (1.0 - beta_2.powi(self.steps));
                params[i] -= RATE * first / (second.sqrt() + eps);
                ema[i] = decay * ema[i] + (1.0 - decay) * params[i];
            }
        }
    }
}

fn checked(net: &Net, gradients: Gradients) -> Result<ModuleGradients, NotFinite> {
    ModuleGradients::of(net, &names(), ParamGradients::of(net, gradients), NonZeroU64::MIN)
}

fn step(optimizer: &mut Optimizer, net: Net, seed: usize, norm_max: f64) -> Net {
    let gradients = gradients(&net, seed, 1.0);
    let gradients = checked(&net, gradients).unwrap().clipped_to(norm_max);
    optimizer.step(net, gradients, RATE)
}

#[test]
fn twenty_steps_are_those_of_adamw_in_f64() {
    for norm_max in [1e9, 0.5] {
        let mut net = net();
        let mut plain = Plain::of(&net);
        let mut optimizer = Optimizer::new(SETTINGS, vec![decay(0.9)], names());
        for seed in 0..20 {
            let gradients = gradients(&net, seed, 1.0);
            let expected = values_of_gradients(&net, &gradients);
            assert_eq!(expected.len(), 4, "a gradient for each parameter");
            let gradients = checked(&net, gradients).unwrap();
            assert!((gradients.norm() - norm(&expected)).abs() < 1e-6 * norm(&expected));
            net = optimizer.step(net, gradients.clipped_to(norm_max), RATE);
            plain.step(&expected, norm_max, 0.9);
        }
        assert_near(&values(&net), &plain.param, 1e-5);
        assert_near(&values(&optimizer.averaged(&net, 0)), &plain.ema, 1e-5);
        assert!(optimizer.states(&net).values().all(|state| state.updates == 20));
    }
}

#[test]
fn a_step_of_two_halves_is_that_of_their_mean() {
    let net = net();
    let mut halves = ParamGradients::of(&net, gradients(&net, 1, 1.0));
    halves.add(&net, gradients(&net, 2, 1.0));
    let halves = ModuleGradients::of(&net, &names(), halves, NonZeroU64::new(2).unwrap()).unwrap();
    let [one, two] = [1, 2].map(|seed| values_of_gradients(&net, &gradients(&net, seed, 1.0)));
    let mean = one.iter().map(|(name, one)| {
        let mean = one.iter().zip(&two[name]).map(|(one, two)| (one + two) / 2.0);
        (name.clone(), mean.collect::<Vec<_>>())
    });
    let mean: BTreeMap<_, _> = mean.collect();
    assert!((halves.norm() - norm(&mean)).abs() < 1e-6 * norm(&mean));

    let mut plain = Plain::of(&net);
    plain.step(&mean, 0.5, 0.9);
    let mut optimizer = Optimizer::new(SETTINGS, vec![], names());
    let net = optimizer.step(net, halves.clipped_to(0.5), RATE);
    assert_near(&values(&net), &plain.param, 1e-6);
}

#[test]
fn clipping_leaves_a_small_norm_alone_and_shortens_a_large_one() {
    let net = net();
    let of = |norm_max: f64| checked(&net, gradients(&net, 1, 1.0)).unwrap().clipped_to(norm_max);
    let norm = of(1.0).norm();
    assert_eq!(of(norm * 1.01).factor, 1.0);
    assert_eq!(of(norm * 0.25).factor, norm * 0.25 / (norm + 1e-6));
    assert_eq!(of(norm * 0.25).norm(), norm, "the norm is that before clipping");
    assert_eq!(of(0.0).factor, 0.0);
}

/// With betas of 0 a step is the gradient's sign, so that what decay does can be told by hand.
#[test]
fn decay_takes_a_share_of_the_parameter_itself() {
    let start = net();
    let before = values(&start);
    let signs = values_of_gradients(&start, &gradients(&start, 1, 1.0));
    let settings = AdamW { beta_1: 0.0, beta_2: 0.0, eps: 0.0, weight_decay: 0.5, matrices: Matrices::Adamw };
    let after = values(&step(&mut Optimizer::new(settings, vec![], names()), start, 1, 1e9));
    let expected = before.iter().map(|(path, before)| {
        let moved = before.iter().zip(&signs[path]).map(|(x, g)| x * (1.0 - RATE * 0.5) - RATE * g.signum());
        (path.clone(), moved.collect())
    });
    assert_near(&after, &expected.collect(), 1e-6);
}

#[test]
fn what_has_no_gradient_stays() {
    let mut net = net();
    net.one = net.one.no_grad();
    let before = values(&net);
    let mut optimizer = Optimizer::new(SETTINGS, vec![decay(0.5)], names());
    for seed in 0..3 {
        net = step(&mut optimizer, net, seed, 1.0);
    }
    let after = values(&net);
    for path in before.keys() {
        assert_eq!(before[path] == after[path], path.starts_with("one"), "{path}");
    }
    assert!(optimizer.states(&net).keys().eq(["two.bias", "two.weight"]));
    let averaged = values(&optimizer.averaged(&net, 0));
    assert_eq!((&averaged["one.weight"], averaged["two.weight"] == after["two.weight"]), (&after["one.weight"], false));
}

/// The average goes on towards a parameter that rests.
#[test]
fn an_average_follows_a_parameter_that_was_frozen_later() {
    let mut optimizer = Optimizer::new(SETTINGS, vec![decay(0.5)], names());
    let mut net = step(&mut optimizer, net(), 1, 1.0);
    let rests = values(&net)["one.bias"].clone();
    let apart =
        |optimizer: &Optimizer, net: &Net| (values(&optimizer.averaged(net, 0))["one.bias"][0] - rests[0]).abs();
    let before = apart(&optimizer, &net);
    net.one = net.one.no_grad();
    net = step(&mut optimizer, net, 2, 1.0);
    assert!(before > 1e-4 && (apart(&optimizer, &net) - before / 2.0).abs() < 1e-6);
}

/// Where each parameter's values, and each state's, lie in memory.
fn addresses(net: &Net, optimizer: &Optimizer) -> Vec<usize> {
    struct Addresses(Vec<usize>);
    fn address<const D: usize>(tensor: Tensor<D>) -> usize {
        tensor.inner().try_into_primitive::<Flex>().unwrap().bytes().as_ptr().addr()
    }
    impl ModuleVisitor for Addresses {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(address(param.base()));
        }
    }
    let mut visitor = Addresses(Vec::new());
    net.visit(&mut visitor);
    for state in optimizer.states(net).into_values() {
        let AdamwMoments { first, second, ema } = state.moments.clone();
        visitor.0.extend([Some(first), Some(second), ema].into_iter().flatten().map(address));
    }
    visitor.0
}

#[test]
fn a_step_copies_nothing_and_leaves_other_copies_alone() {
    let mut optimizer = Optimizer::new(SETTINGS, vec![decay(0.5)], names());
    let mut net = step(&mut optimizer, net(), 0, 1.0);
    let before = addresses(&net, &optimizer);
    assert_eq!(before.len(), 4 * 4);
    net = step(&mut optimizer, net, 1, 1.0);
    assert_eq!(addresses(&net, &optimizer), before);

    let (copy, kept) = (net.clone(), values(&net));
    net = step(&mut optimizer, net, 2, 1.0);
    assert_eq!(values(&copy), kept, "a copy changed with the module");
    assert_ne!(values(&net), kept);
    drop(copy);
}

#[test]
fn a_gradient_that_is_not_finite_is_an_error_that_names_the_parameter() {
    let net = net();
    let before = values(&net);
    let error = checked(&net, gradients(&net, 1, f32::NAN)).err().unwrap();
    assert_eq!(error.name, "one.weight");
    assert!(error.to_string().contains("nothing was updated\nhint: "), "{error}");
    assert!(checked(&net, gradients(&net, 1, f32::INFINITY)).is_err());
    assert_eq!(values(&net), before);
}

#[test]
fn a_run_goes_on_from_its_states_as_if_it_had_not_stopped() {
    let averages = || vec![decay(0.9), Ema::Power { sigma_rel: 0.1 }];
    let mut first = Optimizer::new(SETTINGS, averages(), names());
    let mut whole = step(&mut first, net(), 0, 1.0);
    // A module of other identities with the same values, as one that was read from a file.
    let mut again = step(&mut Optimizer::new(SETTINGS, averages(), names()), net(), 0, 1.0);
    let states: Vec<_> = first.states(&whole).into_iter().map(|(path, state)| (path, state.clone())).collect();
    let mut second = Optimizer::new(SETTINGS, averages(), names());
    second.restore(&again, 1, states.clone()).unwrap();
    for seed in 1..4 {
        whole = step(&mut first, whole, seed, 1.0);
        again = step(&mut second, again, seed, 1.0);
    }
    assert_eq!(values(&whole), values(&again));
    assert_eq!(values(&first.averaged(&whole, 1)), values(&second.averaged(&again, 1)));

    let (_, state) = states[0].clone();
    let mut without = Optimizer::new(SETTINGS, vec![], names());
    let average = without.restore(&again, 1, [("one.weight".to_string(), state.clone())]).unwrap_err();
    assert!(average.to_string().contains("it has 2 averages, and this optimizer keeps 0"), "{average}");
    let unknown = second.restore(&again, 1, [("three.bias".to_string(), state.clone())]).unwrap_err();
    assert!(unknown.to_string().contains("three.bias does not fit the module: it has no such parameter"), "{unknown}");
    let size = second.restore(&again, 1, [("two.bias".to_string(), state)]).unwrap_err();
    assert!(size.to_string().contains("5 values for a parameter of 3"), "{size}");
}

/// Two averages of the same kind are equal whichever of them the update computes.
#[test]
fn every_average_is_that_of_the_formula() {
    let mut optimizer = Optimizer::new(SETTINGS, vec![decay(0.8), Ema::Power { sigma_rel: 0.1 }, decay(0.8)], names());
    let mut net = net();
    let mut expected = values(&net);
    for number in 1..=6 {
        net = step(&mut optimizer, net, number as usize, 1.0);
        let kept = Ema::Power { sigma_rel: 0.1 }.kept(NonZeroU64::new(number).unwrap());
        for (name, now) in values(&net) {
            let average = expected.get_mut(&name).unwrap();
            average.iter_mut().zip(now).for_each(|(average, now)| *average = kept * *average + (1.0 - kept) * now);
        }
    }
    let averaged = |index| values(&optimizer.averaged(&net, index));
    assert_near(&averaged(1), &expected, 1e-6);
    assert_near(&averaged(0), &averaged(2), 1e-7);
    assert_ne!(averaged(0), averaged(1));
    assert_eq!(averaged(3), values(&net), "no such average");
}

/// What is taken from a matrix is Muon's direction; the average follows.
#[test]
fn muon_updates_matrices_in_blocks_and_adamw_the_rest() {
    let (device, mut source) = (device(), RandomInit { seed: 5 });
    let mut source = Named::new(&mut source);
    let mut params = Params::new(&mut source, &device, Precision::F32);
    let (net, names) = (Linear::new(params.at("blocks.0.fc"), 16, 24, Init::XavierUniform), source.names());
    let settings = AdamW { matrices: Matrices::Muon, ..SETTINGS };
    let mut optimizer = Optimizer::new(settings, vec![decay(0.9)], names.clone());
    let x = from_f32((0..4 * 16).map(|i| ((i * 37) % 19) as f32 / 9.0 - 1.0).collect(), [4, 16], &device);
    let mut gathered = ParamGradients::default();
    gathered.add(&net, net.forward(x).square().sum().backward());
    let flat = |values: &[f32]| from_f32(values.to_vec(), [24 * 16], &device.clone().inner());
    let weight = |net: &Linear| {
        let weights = crate::trainee::Trainee::<Linear>::weights(net, &names);
        weights["blocks.0.fc.weight"].try_to_vec::<f32>().unwrap()
    };
    let before = weight(&net);
    let place = &places::places(&net, &names)["blocks.0.fc.weight"];
    let gradient = gathered.get(place.id).unwrap().clone();
    let gradients = ModuleGradients::of(&net, &names, gathered, NonZeroU64::MIN).unwrap();
    let net = optimizer.step(net, gradients, RATE);

    let zeros = flat(&[0.0; 24 * 16]);
    let (momentum, direction) = muon::direction("blocks.0.fc.weight", &[24, 16], gradient, zeros);
    let expected = flat(&before) * (1.0 - RATE * SETTINGS.weight_decay) - direction * RATE;
    let apart = |found: Tensor<1>, expected: Tensor<1>| (found - expected).abs().max().into_scalar::<f32>();
    let off = apart(flat(&weight(&net)), expected.clone());
    assert!(off < 1e-6, "{off}");
    let states = optimizer.states(&net);
    let state = states["blocks.0.fc.weight"];
    assert_eq!(to_f32(&state.moments.first), to_f32(&momentum));
    assert_eq!(to_f32(&state.moments.second), [0.0; 24 * 16]);
    let off = apart(state.moments.ema.clone().unwrap(), flat(&before) * 0.9 + expected * 0.1);
    assert!(off < 1e-6, "{off}");
    assert!(to_f32(&states["blocks.0.fc.bias"].moments.second).iter().any(|x| *x > 0.0), "a bias is AdamW's");
}
