//! What a step holds when blocks are computed again. One test: buffers are counted for the whole process.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use rectiflow_kernels::BytesInUse;
use rectiflow_mmdit::{MmditConfig, NetworkConfig, NetworkInputs, Origin, Recompute, VelocityNetwork};
use rectiflow_nn::{Device, Init, ParamSource, Params, Precision, RandomInit, Tensor, from_f32};

fn some<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let read = RandomInit { seed: 8 }.claim(name, &shape, Init::Normal(1.0));
    from_f32(read().try_into_vec().unwrap(), shape, device)
}

#[test]
fn computing_again_needs_less_memory() {
    let device = Device::flex().autodiff();
    let sizes = MmditConfig { width: 64, context_width: 24, pooled_width: 10, grid: 8, ..MmditConfig::of_depth(6) };
    let config = NetworkConfig::Mmdit(MmditConfig { qk_norm: true, ..sizes });
    let network = VelocityNetwork::new(&config, Params::new(&mut RandomInit { seed: 3 }, &device, Precision::F32));
    let most = |recompute| {
        let given = NetworkInputs {
            latent_BCHW: some("latent", [16, 16, 16, 16], &device),
            timestep_B: from_f32(vec![500.0; 16], [16], &device),
            context_BTC: some("context", [16, 11, 24], &device),
            pooled_BP: some("pooled", [16, 10], &device),
            origin: Origin::Centre,
        };
        let before = BytesInUse::now();
        BytesInUse::restart();
        drop(network.gradients(given, recompute, |velocity| velocity.square().mean()));
        BytesInUse::most() - before
    };
    // The first reads the parameters too.
    most(Recompute::Every);
    let [all, half, one] = [Recompute::Nothing, Recompute::First(3), Recompute::Every].map(most);
    assert!(one < half && half < all && one * 5 < all * 2, "{all}, {half} and {one} bytes");
}
