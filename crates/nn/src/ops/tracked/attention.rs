//! Attention over the tokens of one or several streams.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Tensor};
use half::bf16;
use rectiflow_kernels::attention::{
    Bias, GradientPart, Gradients, OutputPart, Part, Saved, Sequence, attention as run_attention, attention_backward,
};

use super::super::cpu::{Floats, Result, Stored, contiguous_stored, isa, strides, values, whole_heads, zeros};
use super::super::{AttentionBias, Qkv};
use super::{Operation, input, run};
use crate::Precision;

/// The inputs are the streams, one after the other, and an added bias; the results the mixed tokens `[B, L, H * E]` of
/// each stream.
#[derive(Clone, Debug)]
struct Attention {
    streams: Vec<Form>,
    causal: bool,
    added: bool,
    scale: f32,
    precision: Precision,
}

/// How a stream is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `[B, L, 3, H, E]`.
    Together,
    /// Three of `[B, L, H, E]`.
    Apart,
}

/// Sizes that all streams share.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    width: usize,
}

impl Sizes {
    fn of(stored: &Stored) -> Self {
        let shape = stored.shape();
        let axes = shape.num_dims();
        Sizes { batch: shape[0], heads: shape[axes - 2], width: shape[axes - 1] }
    }

    fn mixed(self, tokens: usize) -> usize {
        self.batch * tokens * self.heads * self.width
    }
}

/// One of queries, keys and values of a stream: 0, 1 or 2.
fn part(form: Form, inputs: &[Stored], role: usize) -> Part<'_> {
    match form {
        Form::Apart => {
            let x = &inputs[role];
            let strides = strides(x);
            Part { values: values(x), tokens: x.shape()[1], strides: [strides[0], strides[2], strides[1]] }
        }
        Form::Together => {
            let x = &inputs[0];
            let strides = strides(x);
            let values = values(x).after(if x.shape().num_elements() > 0 { role * strides[2] } else { 0 });
            Part { values, tokens: x.shape()[1], strides: [strides[0], strides[3], strides[1]] }
        }
    }
}

impl Attention {
    /// The inputs of each stream.
    fn by_stream<'a>(&self, inputs: &'a [Stored]) -> Vec<(Form, &'a [Stored])> {
        let mut rest = inputs;
        let mut take = |form: &Form| {
            let (stream, others) = rest.split_at(if *form == Form::Apart { 3 } else { 1 });
            rest = others;
            (*form, stream)
        };
        self.streams.iter().map(&mut take).collect()
    }

    fn bias<'a>(&self, added: Option<&'a Floats>) -> Bias<'a> {
        match added {
            Some(added) => Bias::Added(added.get()),
            None if self.causal => Bias::Causal,
            None => Bias::None,
        }
    }

    fn added(&self, inputs: &[Stored]) -> Option<Floats> {
        self.added.then(|| Floats::new(inputs[self.inputs_of_streams()].clone()))
    }

    fn inputs_of_streams(&self) -> usize {
        self.streams.iter().map(|form| if *form == Form::Apart { 3 } else { 1 }).sum()
    }
}

impl Operation for Attention {
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Vec<Stored>, Vec<Stored>) {
        let inputs: Vec<Stored> = inputs.into_iter().map(whole_heads).collect();
        let (streams, sizes) = (self.by_stream(&inputs), Sizes::of(&inputs[0]));
        let parts = [0, 1, 2].map(|role| streams.iter().map(|(form, x)| part(*form, x, role)).collect::<Vec<_>>());
        let Sizes { batch, heads, width } = sizes;
        let sequences = parts.each_ref().map(|parts| Sequence { batch, heads, width, parts });
        let tokens = sequences[0].tokens();
        let added = self.added(&inputs);
        let mut results: Vec<Result> =
            parts[0].iter().map(|part| Result::new(self.precision.factor(), sizes.mixed(part.tokens))).collect();
        let mut log_sums = keep.then(|| Result::new(DType::F32, batch * heads * tokens));
        let places = results.iter_mut().zip(&parts[0]);
        let mut outputs: Vec<OutputPart<'_>> =
            places.map(|(result, part)| OutputPart { values: result.output(), tokens: part.tokens }).collect();
        let (bias, sums) = (self.bias(added.as_ref()), log_sums.as_mut().map(Result::floats));
        match self.precision {
            Precision::F32 => run_attention::<f32>(isa(), sequences, self.scale, bias, &mut outputs, sums),
            Precision::Bf16 => run_attention::<bf16>(isa(), sequences, self.scale, bias, &mut outputs, sums),
            Precision::Int8 => panic!("int8 products are for drawing, not for training"),
        }
        drop(outputs);
        let shapes = parts[0].iter().map(|part| vec![batch, part.tokens, heads * width]);
        let results: Vec<Stored> =
            results.into_iter().zip(shapes).map(|(result, shape)| result.stored(shape)).collect();
        let Some(log_sums) = log_sums else { return (results, Vec::new()) };
        let log_sums = log_sums.stored(vec![batch * heads * tokens]);
        let kept = inputs.into_iter().chain(results.iter().cloned()).chain([log_sums]).collect();
        (results, kept)
    }

    fn backward(&self, kept: Vec<Stored>, gradients: Vec<Option<Stored>>, wanted: &[bool]) -> Vec<Stored> {
        let (inputs, rest) = kept.split_at(self.inputs_of_streams() + usize::from(self.added));
        let (mixed, log_sums) = rest.split_at(self.streams.len());
        let log_sums = Floats::new(log_sums[0].clone());
        let (streams, sizes) = (self.by_stream(inputs), Sizes::of(&inputs[0]));
        let parts = [0, 1, 2].map(|role| streams.iter().map(|(form, x)| part(*form, x, role)).collect::<Vec<_>>());
        let Sizes { batch, heads, width } = sizes;
        let sequences = parts.each_ref().map(|parts| Sequence { batch, heads, width, parts });
        let nothing = |mixed: &Stored| zeros(mixed.dtype(), mixed.shape().to_vec());
        let gradients: Vec<Stored> = gradients
            .into_iter()
            .zip(mixed)
            .map(|(gradient, mixed)| contiguous_stored(gradient.unwrap_or_else(|| nothing(mixed))))
            .collect();
        let [mixed_parts, gradient_parts] =
            [mixed, &gradients].map(|streams| streams.iter().map(|x| rows_of(x, sizes)).collect::<Vec<_>>());
        let saved = Saved {
            out: Sequence { batch, heads, width, parts: &mixed_parts },
            gradient: Sequence { batch, heads, width, parts: &gradient_parts },
            log_sums: log_sums.get(),
        };
        let added = self.added(inputs);
        let wants_bias = self.added && wanted[self.inputs_of_streams()];
        let mut bias = added.as_ref().filter(|_| wants_bias).map(|bias| Result::new(DType::F32, bias.get().len()));
        let mut slopes: Vec<Slopes> = streams.iter().flat_map(|(form, x)| Slopes::of_stream(*form, x, sizes)).collect();
        let mut places = Gradients {
            parts: slopes.iter_mut().map(|slopes| slopes.place(sizes)).collect(),
            bias: bias.as_mut().map(Result::floats),
        };
        let (isa, scale, of) = (isa(), self.scale, self.bias(added.as_ref()));
        match self.precision {
            Precision::F32 => attention_backward::<f32>(isa, sequences, scale, of, saved, &mut places),
            _ => attention_backward::<bf16>(isa, sequences, scale, of, saved, &mut places),
        }
        drop(places);
        let shapes = inputs.iter().map(|x| x.shape().to_vec());
        let mut all: Vec<Stored> =
            slopes.into_iter().zip(shapes).map(|(slopes, shape)| slopes.result.stored(shape)).collect();
        all.extend(bias.zip(added).map(|(slopes, bias)| slopes.stored(bias.shape())));
        let bias_missing = self.added && !wants_bias;
        let wanted = &wanted[..wanted.len() - usize::from(bias_missing)];
        all.into_iter().zip(wanted).filter(|(_, wanted)| **wanted).map(|(gradient, _)| gradient).collect()
    }
}

/// The gradient of one input, in its order.
struct Slopes {
    result: Result,
    tokens: usize,
    /// What the input holds: some of queries, keys and values.
    roles: Range<usize>,
}

impl Slopes {
    /// One for each input of a stream.
    fn of_stream(form: Form, inputs: &[Stored], sizes: Sizes) -> Vec<Slopes> {
        let of_input = |(index, x): (usize, &Stored)| {
            let roles = match form {
                Form::Together => 0..3,
                Form::Apart => index..index + 1,
            };
            let tokens = x.shape()[1];
            Slopes { result: Result::of_gradient(x.dtype(), roles.len() * sizes.mixed(tokens)), tokens, roles }
        };
        inputs.iter().enumerate().map(of_input).collect()
    }

    /// Where they go.
    fn place(&mut self, Sizes { heads, width, .. }: Sizes) -> GradientPart<'_> {
        let Slopes { result, tokens, roles } = self;
        let row = roles.len() * heads * width;
        let start = |role: usize| roles.contains(&role).then(|| (role - roles.start) * heads * width);
        GradientPart {
            values: result.output(),
            tokens: *tokens,
            strides: [*tokens * row, width, row],
            starts: [0, 1, 2].map(start),
        }
    }
}

/// Mixed tokens `[B, L, H * E]`, contiguous.
fn rows_of(mixed: &Stored, sizes: Sizes) -> Part<'_> {
    let (tokens, row) = (mixed.shape()[1], sizes.heads * sizes.width);
    Part { values: values(mixed), tokens, strides: [tokens * row, sizes.width, row] }
}

/// [`super::super::attention`].
pub(in super::super) fn attention<const N: usize>(
    streams: [Qkv; N],
    scale: f64,
    bias: AttentionBias,
    precision: Precision,
) -> [Tensor<3>; N] {
    let forms = streams.each_ref().map(|stream| match stream {
        Qkv::Together(_) => Form::Together,
        Qkv::Apart { .. } => Form::Apart,
    });
    let mut inputs = Vec::new();
    for stream in streams {
        match stream {
            Qkv::Together(heads) => inputs.push(input(heads)),
            Qkv::Apart { q, k, v } => inputs.extend([q, k, v].map(input)),
        }
    }
    let causal = matches!(bias, AttentionBias::Causal);
    let added = match bias {
        AttentionBias::Added(bias) => Some(input(bias)),
        AttentionBias::None | AttentionBias::Causal => None,
    };
    let operation =
        Attention { streams: forms.to_vec(), causal, added: added.is_some(), scale: scale as f32, precision };
    inputs.extend(added);
    run(operation, inputs).map(Tensor::from_dispatch)
}
