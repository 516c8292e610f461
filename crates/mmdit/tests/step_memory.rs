//! What a step holds is what its sizes say.
#![allow(missing_docs, reason = "a test binary")]

use std::collections::BTreeMap;

use rectiflow_kernels::BytesInUse;
use rectiflow_mmdit::{Mmdit, MmditConfig, Perturbation, packed_bytes};
use rectiflow_nn::{Device, Init, ParamSource, Params, Precision, RandomInit, Read, Tensor, from_f32};

/// Every parameter random, since modulations begin at 0; notes what was asked for.
struct AllRandom {
    inner: RandomInit,
    names: BTreeMap<String, Vec<usize>>,
}

impl ParamSource for AllRandom {
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], _init: Init) -> Read {
        self.names.insert(name.to_owned(), shape.to_vec());
        self.inner.claim(name, shape, Init::Normal(0.1))
    }
}

fn some<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    from_f32((0..shape.iter().product()).map(|i| (i as f32 * 0.7).sin()).collect(), shape, device)
}

/// One test: buffers are counted for the whole process.
#[test]
fn a_step_holds_what_its_sizes_say() {
    for (width, rows, side, text, dual, precision) in [
        (512, 2, 32, 333, vec![], Precision::Bf16),
        (512, 1, 32, 333, vec![], Precision::Bf16),
        (512, 2, 64, 333, vec![], Precision::Bf16),
        (512, 2, 64, 40, vec![], Precision::Bf16),
        (512, 2, 32, 333, vec![], Precision::F32),
        (512, 2, 32, 333, vec![], Precision::Int8),
        (512, 2, 32, 333, vec![0, 1], Precision::Bf16),
        (768, 2, 32, 333, vec![], Precision::Bf16),
    ] {
        let device = Device::flex();
        let config = MmditConfig {
            depth: 3,
            width,
            context_width: 256,
            pooled_width: 64,
            grid: 64,
            qk_norm: true,
            dual_layers: dual.clone(),
            ..MmditConfig::of_depth(3)
        };
        let mut source = AllRandom { inner: RandomInit { seed: 2 }, names: BTreeMap::new() };
        let model = Mmdit::new(&config, Params::new(&mut source, &device, precision));
        for (name, shape) in config.step_matrices() {
            assert_eq!(source.names.get(&name), Some(&shape.to_vec()), "{name}");
        }
        let (context, pooled) = (some([rows, text, 256], &device), some([rows, 64], &device));
        let told = model.embed_text(context, pooled);
        let modulations = model.modulations(&told, some([1, rows], &device)).remove(0);
        let latent = some([rows, 16, side, side], &device);
        let step = || drop(model.velocity(latent.clone(), &told, &modulations, &Perturbation::None, None));
        let before = BytesInUse::now();
        step();
        let packed = (BytesInUse::now() - before) as f64;
        let before = BytesInUse::now();
        BytesInUse::restart();
        step();
        let held = (BytesInUse::most() - before) as f64;
        let said: u64 = config.step_matrices().map(|(_, shape)| packed_bytes(shape, precision)).sum();
        let said = said as f64;
        // What the system gives in whole pages is counted in whole pages, and eight matrices a block are.
        let pages = (8 * config.depth * (2 << 20)) as f64;
        assert!(packed <= 1.03 * said && said <= packed + pages, "{precision}: {said} packed, {packed} found");
        let said = config.step_bytes((rows * (side * side / 4 + text)) as u64, precision) as f64;
        // What kernels work in does not grow with the tokens.
        let most = 1.4 * held + 4.2e6;
        assert!(
            held <= said && said <= most,
            "{width} {rows} {side} {text} {dual:?} {precision}: {said}, {held} found"
        );
    }
}
