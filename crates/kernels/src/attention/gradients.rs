use super::forward::{Attended, Bias, Call};
use super::sequence::Sequence;
use crate::Isa;
use crate::product::{Output, SharedOutput};

/// What a forward gave, and what came back to it.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The mixed tokens.
    pub out: Sequence<'a>,
    /// Their gradient.
    pub gradient: Sequence<'a>,
    /// `[B, H, S]`, as [`super::attention`] gave them.
    pub log_sums: &'a [f32],
}

/// Where the gradients go.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Those of queries, keys and values. The parts that have queries follow each other as the queries do, and so for
    /// keys and values.
    pub parts: Vec<GradientPart<'a>>,
    /// That of [`Bias::Added`], of its size.
    pub bias: Option<&'a mut [f32]>,
}

/// The gradients of one stream's queries, keys and values, all in one memory.
#[derive(Debug)]
pub struct GradientPart<'a> {
    /// Written where the fields below say, and nowhere else.
    pub values: Output<'a>,
    /// Tokens of this part.
    pub tokens: usize,
    /// Values from a batch, head or token to the next.
    pub strides: [usize; 3],
    /// Where queries, keys and values begin; none for those that the part does not have.
    pub starts: [Option<usize>; 3],
}

/// Which gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Query,
    Key,
    Value,
}

/// The gradients of [`super::attention`], with the same arguments.
///
/// Products are of factors rounded to `T`, all else is f32. Results do not depend on the number of threads.
///
/// # Panics
/// Sizes that do not fit each other, gradients that would lie on each other, or an instruction set that the machine
/// lacks: bugs of the caller.
pub fn attention_backward<T: Attended>(
    isa: Isa,
    sequences: [Sequence<'_>; 3],
    scale: f32,
    bias: Bias<'_>,
    saved: Saved<'_>,
    gradients: &mut Gradients<'_>,
) {
    let call = Call::new(isa, sequences, scale, bias);
    for sequence in [saved.out, saved.gradient] {
        let sizes = |s: &Sequence<'_>| [s.batch, s.heads, s.tokens(), s.width];
        assert_eq!(sizes(&sequence), sizes(&call.query), "an attention's result and its gradient");
        sequence.check();
    }
    assert_eq!(saved.log_sums.len(), call.rows(), "sums of every row");
    for (role, sequence) in [&call.query, &call.key, &call.value].into_iter().enumerate() {
        let parts = gradients.parts.iter().filter(|part| part.starts[role].is_some());
        assert_eq!(parts.map(|part| part.tokens).sum::<usize>(), sequence.tokens(), "tokens with gradients");
    }
    for part in &gradients.parts {
        part.check(&call.query);
    }
    if let Some(gradient) = &gradients.bias {
        let Bias::Added(bias) = bias else { panic!("a gradient for a bias that is not added") };
        assert_eq!(gradient.len(), bias.len(), "a bias and its gradient");
    }
    // Without keys there are no queries either.
    if call.query.batch * call.query.heads * call.query.width * call.key.tokens() > 0 {
        T::dispatch_backward(&call, &saved, gradients);
    } else if let Some(bias) = &mut gradients.bias {
        bias.fill(0.0);
    }
}

impl GradientPart<'_> {
    /// Panics unless every head of every token in every role has a place of its own within the values.
    fn check(&self, sizes: &Sequence<'_>) {
        let mut starts: Vec<usize> = self.starts.into_iter().flatten().collect();
        starts.sort_unstable();
        let (Some(&first), Some(&last)) = (starts.first(), starts.last()) else { return };
        if sizes.batch * sizes.heads * self.tokens == 0 {
            return;
        }
        let between = starts.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(0);
        // Starts that are not evenly apart are taken for more of them that are.
        let roles = if between > 0 { (last - first).div_ceil(between) + 1 } else { 1 };
        assert!(starts.len() == 1 || between > 0, "gradients that begin at one place");
        let [batch, head, token] = self.strides;
        let mut axes = [(sizes.batch, batch), (sizes.heads, head), (self.tokens, token), (roles, between)];
        axes.sort_unstable_by_key(|&(_, stride)| stride);
        let mut extent = sizes.width;
        for (count, stride) in axes {
            assert!(count == 1 || stride >= extent, "gradients that lie on each other");
            let more = (count - 1).checked_mul(stride).and_then(|more| extent.checked_add(more));
            extent = more.expect("gradients that reach no further than memory");
        }
        // The last role's end, whatever lies between the roles.
        let end = last + (extent - (roles - 1) * between);
        assert!(end <= self.values.len(), "{} values for gradients to {end}", self.values.len());
    }
}

/// A part, shared by the threads that write different heads of it.
pub(super) struct Place {
    values: SharedOutput,
    tokens: usize,
    strides: [usize; 3],
    starts: [Option<usize>; 3],
}

impl Place {
    pub(super) fn of(part: &mut GradientPart<'_>) -> Place {
        Place {
            tokens: part.tokens,
            strides: part.strides,
            starts: part.starts,
            values: SharedOutput::of(&mut part.values),
        }
    }

    /// Writes one token's gradient of one head.
    ///
    /// # Safety
    /// Every part was checked by [`GradientPart::check`] and is still there; nobody else writes this role, head and
    /// token, or reads it.
    pub(super) unsafe fn write(
        places: &[Place],
        isa: Isa,
        role: Role,
        [batch, head]: [usize; 2],
        mut token: usize,
        values: &[f32],
    ) {
        for place in places {
            let Some(start) = place.starts[role as usize] else { continue };
            if token < place.tokens {
                let [batch_stride, head_stride, token_stride] = place.strides;
                let at = start + batch * batch_stride + head * head_stride + token * token_stride;
                // SAFETY: the caller's promise.
                unsafe { place.values.write(isa, at, values) };
                return;
            }
            token -= place.tokens;
        }
    }
}
