//! Attention at SD3-Medium's sizes, forward and backward, checked at some places against sums in f64.

use half::bf16;
use rectiflow_kernels::attention::{
    Attended, Bias, GradientPart, Gradients, OutputPart, Part, Saved, Sequence, attention, attention_backward,
};
use rectiflow_kernels::product::Packed;
use rectiflow_kernels::{Buffer, Isa};
use rectiflow_nn::Precision;

use super::kernels::{arithmetic, buffer, by_type, check, maker, wide};
use super::{Case, Maker};

pub(super) fn cases() -> Vec<Maker> {
    let forward = [("attention/24x64x1357", 1357), ("attention/24x64x4250", 4250)];
    let backward = [("attention_backward/24x64x1357", 1357), ("attention_backward/24x64x4250", 4250)];
    let forward = forward.map(|(name, tokens)| maker(name, move |p| by_type!(p, forward_case(name, tokens))));
    let backward = backward.map(|(name, tokens)| maker(name, move |p| by_type!(p, backward_case(name, tokens))));
    forward.into_iter().chain(backward).collect()
}

/// Heads of an attention of SD3-Medium, and their width.
const HEADS: usize = 24;
const WIDTH: usize = 64;
const SCALE: f32 = 0.125;

/// An attention of one picture, with its results, and with the gradient that comes back to it.
struct AttentionCase<T: Packed> {
    isa: Isa,
    tokens: usize,
    /// As a product leaves them: queries, keys and values of a token side by side.
    qkv: Buffer<T>,
    out: Buffer<T>,
    log_sums: Buffer<f32>,
    slopes: Buffer<T>,
    /// Of queries, keys and values.
    gradients: Buffer<T>,
}

impl<T: Attended + Packed> AttentionCase<T> {
    fn new(tokens: usize) -> anyhow::Result<Self> {
        let row = HEADS * WIDTH;
        Ok(AttentionCase {
            isa: Isa::chosen()?,
            tokens,
            qkv: buffer(3, tokens * 3 * row),
            out: Buffer::zeroed(tokens * row),
            log_sums: Buffer::zeroed(HEADS * tokens),
            slopes: buffer(4, tokens * row),
            gradients: Buffer::zeroed(tokens * 3 * row),
        })
    }

    fn parts(&self) -> [[Part<'_>; 1]; 3] {
        let strides = [0, WIDTH, 3 * HEADS * WIDTH];
        [0, 1, 2]
            .map(|which| [Part { values: T::values(&self.qkv[which * HEADS * WIDTH..]), tokens: self.tokens, strides }])
    }

    fn forward(&mut self) {
        let mut out = std::mem::replace(&mut self.out, Buffer::zeroed(0));
        let mut log_sums = std::mem::replace(&mut self.log_sums, Buffer::zeroed(0));
        let parts = self.parts();
        let to = OutputPart { values: T::output(&mut out), tokens: self.tokens };
        attention::<T>(
            self.isa,
            parts.each_ref().map(|x| sequence(x)),
            SCALE,
            Bias::None,
            &mut [to],
            Some(&mut log_sums),
        );
        (self.out, self.log_sums) = (out, log_sums);
    }

    fn backward(&mut self) {
        let mut gradients = std::mem::replace(&mut self.gradients, Buffer::zeroed(0));
        let (tokens, row) = (self.tokens, HEADS * WIDTH);
        let mixed = |values| [Part { values, tokens, strides: [0, WIDTH, row] }];
        let (out, slopes) = (mixed(T::values(&self.out)), mixed(T::values(&self.slopes)));
        let saved = Saved { out: sequence(&out), gradient: sequence(&slopes), log_sums: &self.log_sums };
        let part = GradientPart {
            values: T::output(&mut gradients),
            tokens,
            strides: [0, WIDTH, 3 * row],
            starts: [Some(0), Some(row), Some(2 * row)],
        };
        let parts = self.parts();
        let sequences = parts.each_ref().map(|x| sequence(x));
        let mut places = Gradients { parts: vec![part], bias: None };
        attention_backward::<T>(self.isa, sequences, SCALE, Bias::None, saved, &mut places);
        self.gradients = gradients;
    }

    /// Queries, keys or values of a token.
    fn at(&self, token: usize, head: usize, which: usize) -> &[T] {
        &self.qkv[((token * 3 + which) * HEADS + head) * WIDTH..][..WIDTH]
    }

    /// A query's softmax.
    fn shares(&self, query: usize, head: usize) -> Vec<f64> {
        let score = |key: usize| (f64::from(SCALE) * dot(self.at(query, head, 0), self.at(key, head, 1))).exp();
        let shares: Vec<f64> = (0..self.tokens).map(score).collect();
        let total: f64 = shares.iter().sum();
        shares.into_iter().map(|share| share / total).collect()
    }
}

fn sequence<'a>(parts: &'a [Part<'a>; 1]) -> Sequence<'a> {
    Sequence { batch: 1, heads: HEADS, width: WIDTH, parts }
}

fn dot<T: Packed>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| wide(a) * wide(b)).sum()
}

fn forward_case<T: Attended + Packed>(name: &str, tokens: usize) -> anyhow::Result<Case> {
    let mut case = AttentionCase::<T>::new(tokens)?;
    case.forward();
    for (token, head) in [(0, 0), (tokens / 2, 7), (tokens - 1, HEADS - 1)] {
        let shares = case.shares(token, head);
        for e in 0..WIDTH {
            let exact = shares.iter().enumerate().map(|(key, share)| share * wide(&case.at(key, head, 2)[e])).sum();
            check(name, wide(&case.out[(token * HEADS + head) * WIDTH + e]), exact, 2e-3)?;
        }
    }
    Ok(Case {
        name: name.into(),
        // Queries, keys and values come, mixed values go.
        work: arithmetic(4.0 * (HEADS * WIDTH * tokens * tokens) as f64, size_of::<T>() * 4 * HEADS * WIDTH * tokens),
        run: Box::new(move || case.forward()),
    })
}

fn backward_case<T: Attended + Packed>(name: &str, tokens: usize) -> anyhow::Result<Case> {
    let mut case = AttentionCase::<T>::new(tokens)?;
    case.forward();
    case.backward();
    // A query's gradient is `scale * sum of share * (slope v - slope out) * key`.
    for (token, head) in [(0, 0), (tokens / 2, 7), (tokens - 1, HEADS - 1)] {
        let shares = case.shares(token, head);
        let slope = &case.slopes[(token * HEADS + head) * WIDTH..][..WIDTH];
        let shared = dot(slope, &case.out[(token * HEADS + head) * WIDTH..][..WIDTH]);
        for e in 0..WIDTH {
            let term = |(key, share): (usize, &f64)| {
                share * (dot(slope, case.at(key, head, 2)) - shared) * wide(&case.at(key, head, 1)[e])
            };
            let exact = f64::from(SCALE) * shares.iter().enumerate().map(term).sum::<f64>();
            check(name, wide(&case.gradients[(token * 3 * HEADS + head) * WIDTH + e]), exact, 2e-3)?;
        }
    }
    Ok(Case {
        name: name.into(),
        // Scores again, their gradients, and three products with those. What went forward comes, and as much goes.
        work: arithmetic(10.0 * (HEADS * WIDTH * tokens * tokens) as f64, size_of::<T>() * 8 * HEADS * WIDTH * tokens),
        run: Box::new(move || case.backward()),
    })
}
