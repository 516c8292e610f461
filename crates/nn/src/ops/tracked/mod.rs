//! Operations on the CPU's kernels that gradients go through.
//!
//! An [`Operation`] is a forward and a hand-written backward on storages; this module puts it on Burn's tape. What it
//! does not do: gradients of gradients.

mod attention;
mod linear;
mod norm;

use std::fmt;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType, Flex, backend_extension,
};
use burn::tensor::{Device, Tensor};

use super::cpu::{self, Stored};

pub(super) use attention::attention;
pub(super) use linear::linear;
pub(super) use norm::{heads_norm, layer_norm, modulated_norm, rms_norm};

/// A function of some tensors of the CPU device, and the gradients of those.
pub(super) trait Operation: fmt::Debug + Send + Sync {
    /// The result, and what the backward needs, if it is to `keep` it.
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Stored, Vec<Stored>);

    /// From the result's gradient to those of the inputs that want one, in the order of the inputs. Each has the shape
    /// and the type of its input.
    fn backward(&self, kept: Vec<Stored>, gradient: Stored, wanted: &[bool]) -> Vec<Stored>;
}

/// Operations that want gradients have at most so many inputs.
const INPUTS_MAX: usize = 7;

/// Any number of tensors of one backend.
#[derive(Clone, Debug)]
pub(super) struct Tensors<B: Backend>(Vec<FloatTensor<B>>);

impl<B: Backend> ExtensionType<B> for Tensors<B> {
    type Target = Tensors<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let to_dispatch = |x| DispatchTensor { kind: map_kind(BackendTensor::Float(x)), autodiff };
        Tensors(self.0.into_iter().map(to_dispatch).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Tensors(target.0.into_iter().map(|x| unwrap_kind(x).float()).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        target.0.iter().fold(DispatchAutodiffContext::Disabled, |context, x| context.merge(x.autodiff))
    }
}

/// How the tape calls an operation.
#[backend_extension(Autodiff, Flex)]
pub(super) trait OperationOps: Backend {
    /// The result first, then what is kept.
    fn forward(
        #[extension_type] inputs: Tensors<Self>,
        operation: Arc<dyn Operation>,
        keep: bool,
    ) -> Vec<FloatTensor<Self>>;

    /// The gradients that are wanted.
    fn backward(
        #[extension_type] kept: Tensors<Self>,
        gradient: FloatTensor<Self>,
        operation: Arc<dyn Operation>,
        wanted: Vec<bool>,
    ) -> Vec<FloatTensor<Self>>;
}

impl OperationOps for Flex {
    fn forward(inputs: Tensors<Self>, operation: Arc<dyn Operation>, keep: bool) -> Vec<Stored> {
        let (result, kept) = operation.forward(inputs.0, keep);
        std::iter::once(result).chain(kept).collect()
    }

    fn backward(
        kept: Tensors<Self>,
        gradient: Stored,
        operation: Arc<dyn Operation>,
        wanted: Vec<bool>,
    ) -> Vec<Stored> {
        operation.backward(kept.0, gradient, &wanted)
    }
}

/// A node of the tape with N inputs.
#[derive(Debug)]
struct Node<const N: usize>;

impl<B: OperationOps, const N: usize> Backward<B, N> for Node<N> {
    type State = (Arc<dyn Operation>, Tensors<B>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (operation, kept) = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.iter().map(Option::is_some).collect();
        let gradients = B::backward(kept, gradient, operation, wanted);
        for (parent, gradient) in ops.parents.into_iter().flatten().zip(gradients) {
            grads.register::<B>(parent.id, gradient);
        }
    }
}

type Tracked<B> = FloatTensor<Autodiff<B>>;

impl<B: OperationOps, C: CheckpointStrategy> OperationOps for Autodiff<B, C> {
    fn forward(inputs: Tensors<Self>, operation: Arc<dyn Operation>, _: bool) -> Vec<FloatTensor<Self>> {
        let inputs = inputs.0;
        let result = match inputs.len() {
            1 => on_tape::<B, C, 1>(inputs, operation),
            2 => on_tape::<B, C, 2>(inputs, operation),
            3 => on_tape::<B, C, 3>(inputs, operation),
            4 => on_tape::<B, C, 4>(inputs, operation),
            5 => on_tape::<B, C, 5>(inputs, operation),
            6 => on_tape::<B, C, 6>(inputs, operation),
            INPUTS_MAX => on_tape::<B, C, INPUTS_MAX>(inputs, operation),
            count => panic!("an operation of {count} inputs"),
        };
        vec![result]
    }

    fn backward(
        _: Tensors<Self>,
        _: FloatTensor<Self>,
        operation: Arc<dyn Operation>,
        _: Vec<bool>,
    ) -> Vec<FloatTensor<Self>> {
        panic!("gradients of gradients of {operation:?}")
    }
}

fn on_tape<B: OperationOps, C: CheckpointStrategy, const N: usize>(
    inputs: Vec<Tracked<B>>,
    operation: Arc<dyn Operation>,
) -> Tracked<B> {
    let Ok(inputs) = <[Tracked<B>; N]>::try_from(inputs) else { unreachable!("the caller counted the inputs") };
    let nodes = inputs.each_ref().map(|input| input.node());
    let inputs = inputs.into_iter().map(|input| input.into_primitive()).collect();
    let results = |keep| {
        let mut results = B::forward(Tensors(inputs), Arc::clone(&operation), keep).into_iter();
        (results.next().expect("an operation has a result"), Tensors(results.collect()))
    };
    match Node::<N>.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (result, kept) = results(true);
            prep.finish((operation, kept), result)
        }
        OpsKind::UnTracked(prep) => prep.finish(results(false).0),
    }
}

/// Whether operations on `device` are these: the CPU's, with gradients.
pub(super) fn serves(device: &Device) -> bool {
    device.is_autodiff() && cpu::runs_on_kernels(&device.clone().inner())
}

/// Any tensor as an input of an operation.
fn input<const D: usize>(x: Tensor<D>) -> FloatTensor<Dispatch> {
    x.into_dispatch()
}

/// Runs an operation and puts it on the tape of its inputs.
fn run<const D: usize>(operation: impl Operation + 'static, inputs: Vec<FloatTensor<Dispatch>>) -> Tensor<D> {
    let mut results = <Dispatch as OperationOps>::forward(Tensors(inputs), Arc::new(operation), false);
    Tensor::from_dispatch(results.swap_remove(0))
}
