//! Products on the CPU's kernels that gradients go through.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Device, Tensor};

use super::cpu;
use crate::Precision;

/// How the factors of a product are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `left right^T`: a linear layer.
    ByRows,
    /// `left right`: what goes back to its input.
    Plain,
    /// `left^T right`: what goes back to its weight.
    ByColumns,
}

/// A product of two matrices in f32, factors rounded to the precision's type.
#[backend_extension(Autodiff, Flex)]
pub(super) trait ProductOps: Backend {
    /// Both factors have two axes; `form` says which are summed over.
    fn product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        form: Form,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

impl ProductOps for Flex {
    fn product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        form: Form,
        precision: Precision,
    ) -> FloatTensor<Self> {
        cpu::product(left, right, form, precision)
    }
}

/// The gradient of `left right^T`.
#[derive(Debug)]
struct ByRows;

impl<B: ProductOps> Backward<B, 2> for ByRows {
    type State = (Option<NodeId>, Option<NodeId>, Precision);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (left, right, precision) = ops.state;
        let kept = "a factor is kept where the other one's gradient needs it";
        let left = left.map(|left| checkpointer.retrieve_node_output(left));
        let right = right.map(|right| checkpointer.retrieve_node_output(right));
        binary::<B, _, _>(
            ops.parents,
            ops.node,
            grads,
            |grad| B::product(grad, right.expect(kept), Form::Plain, precision),
            |grad| B::product(grad, left.expect(kept), Form::ByColumns, precision),
        );
    }
}

impl<B: ProductOps, C: CheckpointStrategy> ProductOps for Autodiff<B, C> {
    fn product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        form: Form,
        precision: Precision,
    ) -> FloatTensor<Self> {
        assert_eq!(form, Form::ByRows, "gradients go through a linear layer's form only");
        let (left_tracked, right_tracked) = (left.is_tracked(), right.is_tracked());
        match ByRows.prepare::<C>([left.node(), right.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let left_kept = right_tracked.then(|| prep.checkpoint(&left));
                let right_kept = left_tracked.then(|| prep.checkpoint(&right));
                let (left, right) = (left.into_primitive(), right.into_primitive());
                prep.finish((left_kept, right_kept, precision), B::product(left, right, form, precision))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::product(left.into_primitive(), right.into_primitive(), form, precision))
            }
        }
    }
}

/// Whether products on `device` are these: the CPU's, with gradients.
pub(super) fn serves(device: &Device) -> bool {
    device.is_autodiff() && cpu::runs_on_kernels(&device.clone().inner())
}

/// `x weight^T` in f32. x `[M, I]`, weight `[O, I]`.
pub(super) fn linear(x_MI: Tensor<2>, weight_OI: Tensor<2>, precision: Precision) -> Tensor<2> {
    let (x, weight) = (x_MI.into_dispatch(), weight_OI.into_dispatch());
    Tensor::from_dispatch(Dispatch::product(x, weight, Form::ByRows, precision))
}
