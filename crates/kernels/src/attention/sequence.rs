use crate::product::{Output, Packed, Values, read_run};

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
                let end = batch * batch_stride + head * head_stride + token * token_stride + self.width;
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
        for (token, out) in (first..).zip(out.chunks_mut(stride)) {
            let (row, rest) = out.split_at_mut(self.width.min(stride));
            rest.fill(T::from_f32(0.0));
            match self.place(batch, head, token) {
                Some((values, start)) => read_run(isa, values.after(start), row),
                None => row.fill(T::from_f32(0.0)),
            }
        }
    }

    /// The values that hold a token, and where in them it begins.
    fn place(&self, batch: usize, head: usize, mut token: usize) -> Option<(Values<'_>, usize)> {
        for part in self.parts {
            if token < part.tokens {
                let [batch_stride, head_stride, token_stride] = part.strides;
                return Some((part.values, batch * batch_stride + head * head_stride + token * token_stride));
            }
            token -= part.tokens;
        }
        None
    }
}
