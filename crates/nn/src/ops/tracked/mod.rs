//! Operations on the CPU's kernels that gradients go through.
//!
//! An [`Operation`] is a forward and a hand-written backward on storages; this module puts it on Burn's tape. What it
//! does not do: gradients of gradients.

mod attention;
mod bound;
mod convolution;
mod depthwise;
mod linear;
mod norm;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType, Flex, TensorMetadata, backend_extension,
};
use burn::tensor::{DType, Device, FloatDType, Tensor};

use super::cpu::{self, Stored};

pub(super) use attention::attention;
pub(super) use bound::bounded;
pub(super) use convolution::{conv2d, group_norm};
pub(super) use depthwise::depthwise_conv2d;
pub(super) use linear::linear;
pub(super) use norm::{heads_norm, layer_norm, modulated_norm, rms_norm};

/// A function of some tensors of the CPU device, and the gradients of those.
pub(super) trait Operation: fmt::Debug + Send + Sync {
    /// The results, always as many, and what the backward needs, if it is to `keep` it.
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Vec<Stored>, Vec<Stored>);

    /// From the gradients of the results, none for those that nobody read, to those of the inputs that want one, in
    /// the order of the inputs. Each has the shape of its input; its type is the tape's to change.
    fn backward(&self, kept: Vec<Stored>, gradients: Vec<Option<Stored>>, wanted: &[bool]) -> Vec<Stored>;
}

/// Operations that want gradients have at most so many inputs.
const INPUTS_MAX: usize = 10;

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
    /// The results first, then what is kept, and how many are results.
    fn forward(
        #[extension_type] inputs: Tensors<Self>,
        operation: Arc<dyn Operation>,
        keep: bool,
    ) -> (Vec<FloatTensor<Self>>, Vec<FloatTensor<Self>>);

    /// The gradients that are wanted. `gradients` are those of the results that `read` says.
    fn backward(
        #[extension_type] kept: Tensors<Self>,
        #[extension_type] gradients: Tensors<Self>,
        operation: Arc<dyn Operation>,
        read: Vec<bool>,
        wanted: Vec<bool>,
    ) -> Vec<FloatTensor<Self>>;
}

impl OperationOps for Flex {
    fn forward(inputs: Tensors<Self>, operation: Arc<dyn Operation>, keep: bool) -> (Vec<Stored>, Vec<Stored>) {
        operation.forward(inputs.0, keep)
    }

    fn backward(
        kept: Tensors<Self>,
        gradients: Tensors<Self>,
        operation: Arc<dyn Operation>,
        read: Vec<bool>,
        wanted: Vec<bool>,
    ) -> Vec<Stored> {
        let mut gradients = gradients.0.into_iter();
        let gradients = read.into_iter().map(|read| if read { gradients.next() } else { None }).collect();
        operation.backward(kept.0, gradients, &wanted)
    }
}

/// A node of the tape with N inputs.
///
/// A node of Burn's has one result. An operation with several has a node that stands for it, whose result is one number
/// that nobody reads, and an [`Output`] for each of its results, which leave their gradients for it.
#[derive(Debug)]
struct Node<const N: usize>;

/// Gradients of an operation's results, left by its outputs.
type Left<B> = Arc<Mutex<Vec<Option<FloatTensor<B>>>>>;

#[derive(Clone, Debug)]
struct NodeState<B: Backend> {
    operation: Arc<dyn Operation>,
    kept: Tensors<B>,
    /// Of the inputs, and so of their gradients.
    types: Vec<DType>,
    /// Of an operation with several results.
    left: Option<Left<B>>,
}

impl<B: OperationOps, const N: usize> Backward<B, N> for Node<N> {
    type State = NodeState<B>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let NodeState { operation, kept, types, left } = ops.state;
        let own = grads.consume::<B>(&ops.node);
        let gradients = match left {
            Some(left) => std::mem::take(&mut *left.lock().unwrap_or_else(PoisonError::into_inner)),
            None => vec![Some(own)],
        };
        let read = gradients.iter().map(Option::is_some).collect();
        let gradients = Tensors(gradients.into_iter().flatten().collect());
        let wanted = ops.parents.iter().map(Option::is_some).collect();
        let gradients = B::backward(kept, gradients, operation, read, wanted);
        let parents = ops.parents.iter().flatten().count();
        assert_eq!(gradients.len(), parents, "gradients of an operation's inputs");
        let parents = ops.parents.into_iter().zip(types).filter_map(|(parent, dtype)| Some((parent?, dtype)));
        for ((parent, dtype), gradient) in parents.zip(gradients) {
            let same = gradient.dtype() == dtype;
            let gradient = if same { gradient } else { B::float_cast(gradient, dtype.into()) };
            grads.register::<B>(parent.id, gradient);
        }
    }
}

/// One of several results of an operation, whose node is its only input.
#[derive(Debug)]
struct Output;

impl<B: OperationOps> Backward<B, 1> for Output {
    type State = (Left<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (left, index) = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        let nothing = B::float_zeros([1].into(), &gradient.device(), FloatDType::F32);
        left.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(gradient);
        for parent in ops.parents.into_iter().flatten() {
            grads.register::<B>(parent.id, nothing.clone());
        }
    }
}

type Tracked<B> = FloatTensor<Autodiff<B>>;

impl<B: OperationOps, C: CheckpointStrategy> OperationOps for Autodiff<B, C> {
    fn forward(
        inputs: Tensors<Self>,
        operation: Arc<dyn Operation>,
        _: bool,
    ) -> (Vec<FloatTensor<Self>>, Vec<FloatTensor<Self>>) {
        let inputs = inputs.0;
        let results = match inputs.len() {
            1 => on_tape::<B, C, 1>(inputs, operation),
            2 => on_tape::<B, C, 2>(inputs, operation),
            3 => on_tape::<B, C, 3>(inputs, operation),
            4 => on_tape::<B, C, 4>(inputs, operation),
            5 => on_tape::<B, C, 5>(inputs, operation),
            6 => on_tape::<B, C, 6>(inputs, operation),
            7 => on_tape::<B, C, 7>(inputs, operation),
            8 => on_tape::<B, C, 8>(inputs, operation),
            9 => on_tape::<B, C, 9>(inputs, operation),
            INPUTS_MAX => on_tape::<B, C, INPUTS_MAX>(inputs, operation),
            count => panic!("an operation of {count} inputs"),
        };
        (results, Vec::new())
    }

    fn backward(
        _: Tensors<Self>,
        _: Tensors<Self>,
        operation: Arc<dyn Operation>,
        _: Vec<bool>,
        _: Vec<bool>,
    ) -> Vec<FloatTensor<Self>> {
        panic!("gradients of gradients of {operation:?}")
    }
}

fn on_tape<B: OperationOps, C: CheckpointStrategy, const N: usize>(
    inputs: Vec<Tracked<B>>,
    operation: Arc<dyn Operation>,
) -> Vec<Tracked<B>> {
    let Ok(inputs) = <[Tracked<B>; N]>::try_from(inputs) else { unreachable!("the caller counted the inputs") };
    let nodes = inputs.each_ref().map(|input| input.node());
    let types = inputs.iter().map(|input| input.dtype()).collect();
    let inputs = Tensors(inputs.into_iter().map(|input| input.into_primitive()).collect());
    match Node::<N>.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => {
            let (mut results, _) = B::forward(inputs, operation, false);
            let last = results.pop().map(|last| prep.finish(last));
            results.into_iter().map(Tracked::<B>::new).chain(last).collect()
        }
        OpsKind::Tracked(prep) => {
            let (mut results, kept) = B::forward(inputs, Arc::clone(&operation), true);
            let kept = Tensors(kept);
            if results.len() == 1 {
                let state = NodeState { operation, kept, types, left: None };
                return vec![prep.finish(state, results.swap_remove(0))];
            }
            let left = Left::<B>::new(Mutex::new(vec![None; results.len()]));
            let nothing = B::float_zeros([1].into(), &results[0].device(), FloatDType::F32);
            let node = prep.finish(NodeState { operation, kept, types, left: Some(Arc::clone(&left)) }, nothing);
            let output = |(index, result)| match Output.prepare::<C>([node.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((Arc::clone(&left), index), result),
                OpsKind::UnTracked(prep) => prep.finish(result),
            };
            results.into_iter().enumerate().map(output).collect()
        }
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

/// Runs an operation of R results and puts it on the tape of its inputs.
fn run<const R: usize>(
    operation: impl Operation + 'static,
    inputs: Vec<FloatTensor<Dispatch>>,
) -> [FloatTensor<Dispatch>; R] {
    let (results, _) = <Dispatch as OperationOps>::forward(Tensors(inputs), Arc::new(operation), false);
    results.try_into().unwrap_or_else(|results: Vec<_>| unreachable!("{R} results, not {}", results.len()))
}

/// The gradient of an operation with one result, which is not asked for its own unless that was read.
fn only(gradients: Vec<Option<Stored>>) -> Stored {
    gradients.into_iter().flatten().next().expect("the gradient of the only result")
}
