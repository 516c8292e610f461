//! Writing and reading a network in training takes memory for one tensor, not for all of them again.
#![allow(unsafe_code, reason = "a global allocator is unsafe to write; this one counts and passes on")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicIsize, Ordering};

use burn::module::Module;
use rectiflow_nn::layers::Linear;
use rectiflow_nn::{Device, Init, Named, Params, Precision, RandomInit, from_f32};
use rectiflow_train::ema::Ema;
use rectiflow_train::optimizer::{AdamW, Matrices};
use rectiflow_train::trainee::Trainee;

struct Counting;

static NOW: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn add(bytes: isize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; the counters are plain atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was held at once while `work` ran, beyond what was held before, in bytes.
fn peak(work: impl FnOnce()) -> isize {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    PEAK.load(Ordering::Relaxed) - before
}

const LAYERS: usize = 8;
const WIDTH: usize = 512;
/// Of one layer's weight: 1 MiB.
const TENSOR_BYTES: isize = (4 * WIDTH * WIDTH) as isize;

#[derive(Module, Debug)]
struct Net {
    layers: Vec<Linear>,
}

fn trainee() -> Trainee<Net> {
    let device = Device::flex().autodiff();
    let mut source = RandomInit { seed: 3 };
    let mut source = Named::new(&mut source);
    let mut params = Params::new(&mut source, &device, Precision::F32);
    let layers = (0..LAYERS).map(|layer| Linear::new(params.at(layer), WIDTH, WIDTH, Init::XavierUniform)).collect();
    let averages = vec![Ema::Decay { decay: 0.9, every: NonZeroU64::MIN }, Ema::Power { sigma_rel: 0.1 }];
    let settings = AdamW { beta_1: 0.9, beta_2: 0.99, eps: 1e-8, weight_decay: 0.05, matrices: Matrices::Adamw };
    Trainee::new("net", Net { layers }, source.names(), settings, averages)
}

fn step(trainee: &mut Trainee<Net>) {
    let mut x = from_f32(vec![1.0; WIDTH], [1, WIDTH], &Device::flex().autodiff());
    for layer in &trainee.module().layers {
        x = layer.forward(x).tanh();
    }
    trainee.add(x.square().sum().backward());
    trainee.step(1e-3, None).unwrap();
}

#[test]
fn a_checkpoint_is_written_and_read_tensor_by_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let mut there = trainee();
    step(&mut there);
    let saving = peak(|| there.save(folder.path()).unwrap());
    assert!(saving < 3 * TENSOR_BYTES, "{saving} bytes to save tensors of {TENSOR_BYTES}");

    // It goes back: the new parameters, moments and averages come as the old ones go.
    let returning = peak(|| there.load(folder.path(), 1).unwrap());
    assert!(returning < 3 * TENSOR_BYTES, "{returning} bytes to go back, with tensors of {TENSOR_BYTES}");

    // Another process: there is nothing yet but the parameters.
    let mut other = trainee();
    let state = 4 * LAYERS as isize * TENSOR_BYTES;
    let taking_up = peak(|| other.load(folder.path(), 1).unwrap());
    assert!(taking_up < state + LAYERS as isize * TENSOR_BYTES + 3 * TENSOR_BYTES, "{taking_up} bytes for {state}");
}
