//! The operations on kernels: tensors of the CPU device as slices, and results as tensors.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, Flex, TensorMetadata};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, FloatDType, Int, Tensor, TensorData};
use half::bf16;
use rectiflow_kernels::attention::{self, Bias, OutputPart, Part, Sequence};
use rectiflow_kernels::norm::{Affine, Heads, Norm, Rows, norm};
use rectiflow_kernels::product::{
    self, Epilogue, Factor, Matrix, Output, PackedShape, Values, multiply, multiply_int8,
};
use rectiflow_kernels::{Buffer, Isa};

use super::{After, AttentionBias, Qkv, Residual};
use crate::{BlockMatrix, Precision, StoredMatrix};

pub(super) mod bound;
pub(super) mod convolution;
pub(super) mod depthwise;
mod packed;

pub(super) use bound::bounded_picture;
pub(super) use convolution::{add_to_sums, conv2d, group_norm, group_norm_of_sums, stack_rows};
pub(super) use depthwise::depthwise_conv2d;
pub use packed::PackedWeight;
use packed::Weight;

/// A tensor as the CPU device has it: storage, shape, strides.
pub(super) type Stored = FloatTensor<Flex>;

/// Whether operations on `device` run on `rectiflow-kernels`: on the processor, one after the other.
pub fn runs_on_kernels(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether an operation on `x` runs on kernels without gradients; those with are in [`super::tracked`].
pub(super) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    runs_on_kernels(&x.device())
}

pub(crate) fn isa() -> Isa {
    // `DeviceChoice::open` has told the user already; a library user learns it here.
    Isa::chosen().unwrap_or_else(|error| panic!("{error}"))
}

/// A tensor's storage without a copy, in any strides that are not negative.
fn stored<const D: usize>(x: Tensor<D>) -> Stored {
    forwards(x.try_into_primitive::<Flex>().expect("`serves` was asked first"))
}

/// In strides that are not negative.
fn forwards(x: Stored) -> Stored {
    if x.layout().has_positive_strides() { x } else { x.to_contiguous() }
}

/// A tensor's storage in row-major order, copied only if it is not so.
pub(super) fn contiguous<const D: usize>(x: Tensor<D>) -> Stored {
    contiguous_stored(stored(x))
}

/// In row-major order, copied only if it is not so.
pub(super) fn contiguous_stored(x: Stored) -> Stored {
    if x.layout().is_contiguous() { x } else { x.to_contiguous() }
}

/// The numbers from the tensor's first on.
pub(super) fn values(x: &Stored) -> Values<'_> {
    let all = match x.dtype() {
        DType::F32 => Values::F32(x.storage()),
        DType::F16 => Values::F16(x.storage()),
        DType::BF16 => Values::Bf16(x.storage()),
        other => panic!("kernels take f32, f16 and bf16, not {other:?}"),
    };
    all.after(x.layout().start_offset())
}

pub(super) fn strides(x: &Stored) -> Vec<usize> {
    x.layout().strides().iter().map(|stride| stride.unsigned_abs()).collect()
}

/// All numbers of a tensor as f32, row-major.
#[derive(Debug)]
pub(super) struct Floats(Stored);

impl Floats {
    pub(super) fn of<const D: usize>(x: Tensor<D>) -> Self {
        Floats::new(stored(x))
    }

    pub(super) fn new(x: Stored) -> Self {
        Floats(contiguous_stored(if x.dtype() == DType::F32 { x } else { Flex::float_cast(x, FloatDType::F32) }))
    }

    pub(super) fn into_stored(self) -> Stored {
        self.0
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    pub(super) fn get(&self) -> &[f32] {
        let start = self.0.layout().start_offset();
        &self.0.storage::<f32>()[start..][..self.0.layout().num_elements()]
    }
}

/// A result's storage, before and after it is written.
pub(super) enum Result {
    F32(Buffer<f32>),
    Bf16(Buffer<bf16>),
}

impl Result {
    pub(super) fn new(dtype: DType, length: usize) -> Self {
        match dtype {
            DType::F32 => Result::F32(Buffer::reused(length)),
            DType::BF16 => Result::Bf16(Buffer::reused(length)),
            other => panic!("kernels give f32 and bf16, not {other:?}"),
        }
    }

    /// For the gradient of a tensor of that type, as near to it as kernels give.
    pub(super) fn of_gradient(dtype: DType, length: usize) -> Self {
        Result::new(if dtype == DType::BF16 { DType::BF16 } else { DType::F32 }, length)
    }

    pub(super) fn output(&mut self) -> Output<'_> {
        match self {
            Result::F32(values) => Output::F32(values),
            Result::Bf16(values) => Output::Bf16(values),
        }
    }

    /// A result that was made in f32.
    pub(super) fn floats(&mut self) -> &mut [f32] {
        match self {
            Result::F32(values) => values,
            Result::Bf16(_) => panic!("a result of bf16 as f32"),
        }
    }

    /// Without a copy: the buffer goes back to the kernels when the tensor goes.
    fn data(self, shape: Vec<usize>) -> TensorData {
        let (bytes, dtype) = match self {
            Result::F32(values) => (bytes::Bytes::from_owner(values), DType::F32),
            Result::Bf16(values) => (bytes::Bytes::from_owner(values), DType::BF16),
        };
        TensorData::from_bytes(Bytes::from_shared(bytes, AllocationProperty::Other), shape, dtype)
    }

    pub(super) fn stored(self, shape: Vec<usize>) -> Stored {
        Stored::from_data(self.data(shape))
    }

    fn tensor<const D: usize>(self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let data = self.data(shape.to_vec());
        let dtype = data.dtype();
        Tensor::from_data(data, (device, dtype))
    }
}

/// For a result that nobody read: its gradient.
pub(super) fn zeros(dtype: DType, shape: Vec<usize>) -> Stored {
    let length = shape.iter().product();
    let result = match dtype {
        DType::BF16 => Result::Bf16(Buffer::zeroed(length)),
        _ => Result::F32(Buffer::zeroed(length)),
    };
    result.stored(shape)
}

/// A contiguous `[rows, columns]` tensor.
fn matrix(x: &Stored) -> Matrix<'_> {
    let [rows, columns] = x.shape().dims();
    let row_stride = if rows > 1 { strides(x)[0] } else { columns };
    Matrix::with_stride(values(x), rows, columns, row_stride)
}

pub(super) fn linear<const D: usize>(
    x: Tensor<D>,
    weight_OI: Tensor<2>,
    packed: &PackedWeight,
    bias_O: Option<Tensor<1>>,
    after: After<D>,
    precision: Precision,
) -> Tensor<D> {
    linear_of(x, Weight::Tensor(contiguous(weight_OI)), packed, bias_O, after, precision)
}

pub(super) fn linear_of_stored<const D: usize>(
    x: Tensor<D>,
    weight_OI: &StoredMatrix,
    packed: &PackedWeight,
    bias_O: Option<Tensor<1>>,
    after: After<D>,
    precision: Precision,
) -> Tensor<D> {
    let weight = match weight_OI {
        StoredMatrix::Blocks(weight) => Weight::Blocks(weight.clone()),
        StoredMatrix::Reread(weight) => Weight::Reread(weight.clone()),
    };
    linear_of(x, weight, packed, bias_O, after, precision)
}

fn linear_of<const D: usize>(
    x: Tensor<D>,
    weight: Weight,
    packed: &PackedWeight,
    bias_O: Option<Tensor<1>>,
    after: After<D>,
    precision: Precision,
) -> Tensor<D> {
    let device = x.device();
    let mut shape = x.dims();
    let [width_out, width_in] = weight.shape();
    let rows: usize = shape[..D - 1].iter().product();
    shape[D - 1] = width_out;
    let x = contiguous(x.reshape([rows, width_in]));
    let bias = bias_O.map(Floats::of);
    let times = after.times.map(Floats::of);
    let residual =
        after.residual.map(|Residual { x, gate }| (Floats::of(x), gate.map(|g| (g.dims()[0], Floats::of(g)))));
    let epilogue = Epilogue {
        bias: bias.as_ref().map(Floats::get),
        activation: after.activation,
        times: times.as_ref().map(Floats::get),
        residual: residual.as_ref().map(|(x, gate)| product::Residual {
            x: x.get(),
            gate: gate.as_ref().map(|(_, gate)| gate.get()),
            rows_per_gate: gate.as_ref().map_or(rows, |(batch, _)| rows / batch),
        }),
    };
    let mut result = Result::new(after.out, rows * width_out);
    match (precision, weight) {
        (Precision::F32, weight) => {
            weight.with_factor::<f32, _>(|factor| multiply(isa(), matrix(&x), factor, &epilogue, result.output()));
        }
        (Precision::Bf16, weight) if packed.is_kept() && !weight.is_in_blocks() => {
            let shape = PackedShape { columns: width_out, inner: width_in };
            let numbers = packed.bf16(weight, |weight| shape.packed(isa(), matrix(weight)));
            multiply(isa(), matrix(&x), Factor::Packed(&numbers, shape), &epilogue, result.output());
        }
        // Blocks are widened each time: kept in bf16, they would take twice to four times their memory.
        (Precision::Bf16, weight) => {
            weight.with_factor::<bf16, _>(|factor| multiply(isa(), matrix(&x), factor, &epilogue, result.output()));
        }
        (Precision::Int8, weight) => {
            let factor = packed.int8(weight);
            multiply_int8(isa(), matrix(&x), &factor, &epilogue, result.output());
        }
    }
    result.tensor(shape, &device)
}

/// Vectors of a table in blocks, in f32. ids `[B, L]`.
pub(super) fn embedding_of_blocks(ids_BL: Tensor<2, Int>, table_VD: &BlockMatrix) -> Tensor<3> {
    let (device, [batch, length], [_, width]) = (ids_BL.device(), ids_BL.dims(), table_VD.shape());
    let mut result = Result::new(DType::F32, batch * length * width);
    let (table, isa) = (table_VD.blocks(), isa());
    let ids = ids_BL.into_data();
    for (id, row) in ids.iter::<i64>().zip(result.floats().chunks_exact_mut(width.max(1))) {
        let id = usize::try_from(id).unwrap_or_else(|_| panic!("vector {id} of a table"));
        table.widen(isa, id, 0, row);
    }
    result.tensor([batch, length, width], &device)
}

/// A contiguous tensor as the rows of its last axis.
pub(super) fn matrix_of_rows(x: &Stored) -> Matrix<'_> {
    let width = last_axis(x);
    let numbers = x.shape().num_elements();
    Matrix::new(values(x).first(numbers), numbers.checked_div(width).unwrap_or(0), width)
}

/// How long the last axis is.
pub(super) fn last_axis(x: &Stored) -> usize {
    x.shape().last().copied().unwrap_or(1)
}

pub(super) fn attention<const N: usize>(
    streams: [Qkv; N],
    scale: f64,
    bias: AttentionBias,
    precision: Precision,
) -> [Tensor<3>; N] {
    let device = streams[0].device();
    let [batch, _, heads, width] = streams[0].dims();
    let lengths = streams.each_ref().map(|stream| stream.dims()[1]);
    let streams = streams.map(|stream| stream.apart().map(|x| whole_heads(stored(x))));
    let parts = [0, 1, 2].map(|role| streams.each_ref().map(|stream| part(&stream[role])));
    let sequences = parts.each_ref().map(|parts| Sequence { batch, heads, width, parts });
    let added = match &bias {
        AttentionBias::Added(bias) => Some(Floats::of(bias.clone())),
        AttentionBias::None | AttentionBias::Causal => None,
    };
    let bias = match (&bias, &added) {
        (_, Some(added)) => Bias::Added(added.get()),
        (AttentionBias::Causal, None) => Bias::Causal,
        (_, None) => Bias::None,
    };
    let mut results = lengths.map(|length| Result::new(precision.factor(), batch * length * heads * width));
    let mut outputs: Vec<OutputPart<'_>> = results
        .iter_mut()
        .zip(lengths)
        .map(|(result, tokens)| OutputPart { values: result.output(), tokens })
        .collect();
    match precision {
        Precision::F32 => attention::attention::<f32>(isa(), sequences, scale as f32, bias, &mut outputs, None),
        Precision::Bf16 | Precision::Int8 => {
            attention::attention::<bf16>(isa(), sequences, scale as f32, bias, &mut outputs, None)
        }
    }
    drop(outputs);
    let mut lengths = lengths.into_iter();
    results.map(|result| {
        let length = lengths.next().expect("as many results as streams");
        result.tensor([batch, length, heads * width], &device)
    })
}

/// [`crate::ops::attention_statistics`].
pub(super) fn attention_statistics<const N: usize>(
    streams: [Qkv; N],
    scale: f64,
    bias: AttentionBias,
    precision: Precision,
) -> Vec<attention::HeadStatistics> {
    let [batch, _, heads, width] = streams[0].dims();
    let streams = streams.map(|stream| stream.apart().map(|x| whole_heads(stored(x))));
    let parts = [0, 1].map(|role| streams.each_ref().map(|stream| part(&stream[role])));
    let sequences = parts.each_ref().map(|parts| Sequence { batch, heads, width, parts });
    let added = match &bias {
        AttentionBias::Added(bias) => Some(Floats::of(bias.clone())),
        AttentionBias::None | AttentionBias::Causal => None,
    };
    let bias = match (&bias, &added) {
        (_, Some(added)) => Bias::Added(added.get()),
        (AttentionBias::Causal, None) => Bias::Causal,
        (_, None) => Bias::None,
    };
    match precision {
        Precision::F32 => attention::attention_statistics::<f32>(isa(), sequences, scale as f32, bias),
        Precision::Bf16 | Precision::Int8 => {
            attention::attention_statistics::<bf16>(isa(), sequences, scale as f32, bias)
        }
    }
}

/// A head's width side by side, the rest as it is. x `[.., E]`.
pub(super) fn whole_heads(x: Stored) -> Stored {
    let together = last_axis(&x) <= 1 || strides(&x).last() == Some(&1);
    if together && x.layout().has_positive_strides() { x } else { x.to_contiguous() }
}

/// x `[B, L, H, E]`.
fn part(x: &Stored) -> Part<'_> {
    let [_, tokens, _, _] = x.shape().dims();
    let strides = strides(x);
    Part { values: values(x), tokens, strides: [strides[0], strides[2], strides[1]] }
}

/// All numbers of a contiguous tensor, and none behind it.
fn whole(x: &Stored) -> Values<'_> {
    values(x).first(x.layout().num_elements())
}

pub(super) fn modulated_norm(
    x_BLD: Tensor<3>,
    shift_B1D: Tensor<3>,
    scale_B1D: Tensor<3>,
    eps: f64,
    out: DType,
) -> Tensor<3> {
    let (shift, scale) = (Floats::of(shift_B1D), Floats::of(scale_B1D));
    let affine = Affine::Modulated { shift: shift.get(), scale: scale.get() };
    norm_rows(x_BLD, Norm::Layer { eps: eps as f32 }, affine, out)
}

pub(super) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight_D: Tensor<1>,
    bias_D: Tensor<1>,
    eps: f64,
    out: DType,
) -> Tensor<D> {
    let (weight, bias) = (Floats::of(weight_D), Floats::of(bias_D));
    let affine = Affine::Learned { weight: weight.get(), bias: Some(bias.get()) };
    norm_rows(x, Norm::Layer { eps: eps as f32 }, affine, out)
}

pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight_D: Tensor<1>, eps: f64, out: DType) -> Tensor<D> {
    let weight = Floats::of(weight_D);
    norm_rows(x, Norm::Rms { eps: eps as f32 }, Affine::Learned { weight: weight.get(), bias: None }, out)
}

/// The norms of queries and keys. heads `[B, L, 3, H, E]`, weights `[E]`.
pub(super) fn heads_norm(heads_BL3HE: Tensor<5>, weights: [Tensor<1>; 2], eps: f64, out: DType) -> Tensor<5> {
    let (device, shape) = (heads_BL3HE.device(), heads_BL3HE.dims());
    let [batch, length, _, heads, width] = shape;
    let x = contiguous(heads_BL3HE);
    let [queries, keys] = weights.map(Floats::of);
    let mut result = Result::new(out, shape.iter().product());
    let given = Heads { values: whole(&x), tokens: batch * length, heads, width };
    rectiflow_kernels::norm::heads_norm(isa(), given, eps as f32, [queries.get(), keys.get()], result.output());
    result.tensor(shape, &device)
}

/// Norms the last axis. The first axis is the one that modulations follow.
fn norm_rows<const D: usize>(x: Tensor<D>, which: Norm, affine: Affine<'_>, out: DType) -> Tensor<D> {
    let (device, shape) = (x.device(), x.dims());
    let x = NormRows::new(stored(x));
    let mut result = Result::new(out, shape.iter().product());
    norm(isa(), x.rows(), which, affine, result.output());
    result.tensor(shape, &device)
}

/// A tensor whose last axis is normed.
pub(super) struct NormRows {
    pub(super) stored: Stored,
    count: [usize; 2],
    strides: [usize; 2],
}

impl NormRows {
    /// Rows that lie evenly along two axes, however the tensor came about, need no copy.
    pub(super) fn new(x: Stored) -> Self {
        let shape = x.shape().to_vec();
        let Some((&width, axes)) = shape.split_last() else { panic!("a norm of one number") };
        let outer = if axes.is_empty() { 1 } else { axes[0] };
        let inner = axes.iter().product::<usize>().checked_div(outer).unwrap_or(0);
        let layout = if x.layout().has_positive_strides() { even_rows(&x) } else { None };
        let stored = if layout.is_some() { x } else { x.to_contiguous() };
        let (count, strides) = layout.unwrap_or(([outer, inner], [inner * width, width]));
        NormRows { stored, count, strides }
    }

    pub(super) fn rows(&self) -> Rows<'_> {
        let width = last_axis(&self.stored);
        Rows { values: values(&self.stored), count: self.count, strides: self.strides, width }
    }
}

/// The rows of a tensor as two axes with a stride each, the outer one the tensor's first.
fn even_rows(x: &Stored) -> Option<([usize; 2], [usize; 2])> {
    let (shape, strides) = (x.shape(), strides(x));
    let rank = shape.num_dims();
    if rank < 2 || (shape[rank - 1] > 1 && strides[rank - 1] != 1) {
        return None;
    }
    let mut axes = (1..rank - 1).filter(|&axis| shape[axis] > 1).rev();
    let Some(last) = axes.next() else { return Some(([shape[0], 1], [strides[0], 0])) };
    let mut inner = shape[last];
    for axis in axes {
        if strides[axis] != inner * strides[last] {
            return None;
        }
        inner *= shape[axis];
    }
    Some(([shape[0], inner], [strides[0], strides[last]]))
}
