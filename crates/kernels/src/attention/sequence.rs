use half::{bf16, f16};

use crate::product::{Output, Packed, Values};
use crate::vector::{from_bf16, from_f16, vectorised};

/// Some tokens of every batch and head, with any strides; the head's width lies together.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The first value is the first token's of the first head.
    pub values: Values<'a>,
    /// Tokens of this part.
    pub tokens: usize,
    /// Values from a batch, head or token to the next.
    pub strides: [usize; 3],
}

/// Queries, keys or values: parts that follow each other along the tokens, as text and image do.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// B.
    pub batch: usize,
    /// H.
    pub heads: usize,
    /// E.
    pub width: usize,
    /// At least one.
    pub parts: &'a [Part<'a>],
}

/// Where the mixed tokens of one part go: `[B, tokens, H * E]`, row after row.
#[derive(Debug)]
pub struct OutputPart<'a> {
    /// The values.
    pub values: Output<'a>,
    /// Tokens of this part.
    pub tokens: usize,
}

impl Sequence<'_> {
    /// S or T.
    pub fn tokens(&self) -> usize {
        self.parts.iter().map(|part| part.tokens).sum()
    }

    /// Panics unless every part has the values that its strides reach.
    pub(super) fn check(&self) {
        for part in self.parts {
            let last = [self.batch, self.heads, part.tokens].map(|count| count.checked_sub(1));
            if let [Some(batch), Some(head), Some(token)] = last {
                let [batch_stride, head_stride, token_stride] = part.strides;
                let reach = [(batch, batch_stride), (head, head_stride), (token, token_stride)]
                    .into_iter()
                    .try_fold(self.width, |end, (index, stride): (usize, usize)| {
                        end.checked_add(index.checked_mul(stride)?)
                    });
                let end = reach.expect("a part that reaches no further than memory");
                assert!(end <= part.values.len(), "{} values for a part that reaches {end}", part.values.len());
            }
        }
    }

    /// Copies tokens from `first` on of one head, as many as `out` has rows, `stride` apart, rounded to `T`. Rows
    /// behind the last token become 0.
    pub(super) fn gather<T: Packed>(
        &self,
        isa: crate::Isa,
        [batch, head]: [usize; 2],
        first: usize,
        stride: usize,
        out: &mut [T],
    ) {
        let mut rest = out;
        let mut token = first;
        while !rest.is_empty() {
            let Some(run) = self.run(batch, head, token) else {
                return rest.fill(T::from_f32(0.0));
            };
            let (rows, others) = rest.split_at_mut((run.tokens * stride).min(rest.len()));
            match run.values {
                Values::F32(values) => gather_f32(isa, values, run.stride, self.width, stride, rows),
                Values::F16(values) => gather_f16(isa, values, run.stride, self.width, stride, rows),
                Values::Bf16(values) => gather_bf16(isa, values, run.stride, self.width, stride, rows),
            }
            token += run.tokens;
            rest = others;
        }
    }

    /// The tokens of one part from `token` on.
    fn run(&self, batch: usize, head: usize, mut token: usize) -> Option<Run<'_>> {
        for part in self.parts {
            if token < part.tokens {
                let [batch_stride, head_stride, token_stride] = part.strides;
                let start = batch * batch_stride + head * head_stride + token * token_stride;
                let values = part.values.after(start);
                return Some(Run { values, stride: token_stride, tokens: part.tokens - token });
            }
            token -= part.tokens;
        }
        None
    }
}

/// Tokens of one head that lie evenly.
struct Run<'a> {
    /// From the first one on.
    values: Values<'a>,
    stride: usize,
    tokens: usize,
}

vectorised! {
    fn gather_f32<T: Packed>(values: &[f32], from: usize, width: usize, to: usize, out: &mut [T]) {
        gather_rows(values, T::from_f32, from, [width, to], out);
    }
}

vectorised! {
    fn gather_f16<T: Packed>(values: &[f16], from: usize, width: usize, to: usize, out: &mut [T]) {
        gather_rows(values, |x| T::from_f32(from_f16(x)), from, [width, to], out);
    }
}

vectorised! {
    fn gather_bf16<T: Packed>(values: &[bf16], from: usize, width: usize, to: usize, out: &mut [T]) {
        match T::of(&Values::Bf16(values)) {
            Some(values) => gather_rows(values, |x: T| x, from, [width, to], out),
            None => gather_rows(values, |x| T::from_f32(from_bf16(x)), from, [width, to], out),
        }
    }
}

/// Rows of `width` numbers, `from` apart, to rows `to` apart with zeros behind their numbers.
#[inline(always)]
fn gather_rows<T: Packed, V: Copy>(
    values: &[V],
    round: impl Fn(V) -> T,
    from: usize,
    [width, to]: [usize; 2],
    out: &mut [T],
) {
    // In lines, since short rows would otherwise each be a call of the system's copy.
    const LINE: usize = 32;
    for (row, out) in out.chunks_mut(to).enumerate() {
        let (out, behind) = out.split_at_mut(width.min(out.len()));
        let (from, out) = (values[row * from..][..out.len()].as_chunks::<LINE>(), out.as_chunks_mut::<LINE>());
        for (out, from) in out.0.iter_mut().zip(from.0) {
            for (out, x) in out.iter_mut().zip(from) {
                *out = round(*x);
            }
        }
        for (out, x) in out.1.iter_mut().zip(from.1) {
            *out = round(*x);
        }
        for x in behind {
            *x = T::from_f32(0.0);
        }
    }
}
