//! What a T5 encoder learns from: guessing runs of a text that were hidden.
//!
//! Source: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4. One thing is not as there: nothing is masked. SD3 gives
//! T5 a text padded to a fixed length, masks neither the encoder's attention nor its own, and so reads what the encoder
//! makes of the padding. The encoder is trained as it will be used: inputs are padded to that length, and both the
//! encoder and the decoder look at all of it. Targets are padded to the longest of the batch; the decoder looks behind
//! only, so their padding reaches nothing, and it is not counted.
//!
//! Shape letters: B texts, S input tokens, L target tokens.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::activation::log_softmax;
use rectiflow_nn::{Device, Int, Tensor, from_f32, from_ids};
use rectiflow_text::{SpanCorruption, T5Decoder, T5Encoder};

const PAD: u32 = 0;
const END: u32 = 1;

/// Texts with hidden runs.
#[derive(Clone, Debug)]
pub struct SpanBatch {
    /// What is left of the texts, with their end marks: `[B, S]`.
    pub inputs_BS: Tensor<2, Int>,
    /// What the decoder has said so far, at each place: `[B, L]`, the targets moved by one, padding first.
    pub said_BL: Tensor<2, Int>,
    /// What it has to say next: `[B, L]`.
    pub targets_BL: Tensor<2, Int>,
    /// 1 where there is something to say, 0 in the padding: `[B, L]`.
    pub counted_BL: Tensor<2>,
    /// How many tokens it has to say, of all texts together: the sum of `counted_BL`, at least 1.
    pub hidden: usize,
    /// Texts of which the end did not fit.
    pub cut: usize,
    /// Texts too short to hide anything of. They are among the inputs, and nothing is asked about them.
    pub whole: usize,
}

/// A text to learn from.
#[derive(Clone, Debug)]
pub struct NumberedText {
    /// Its place in the run, or among the texts of a validation: it decides what is hidden, so that a text has other runs
    /// hidden each time it comes.
    pub number: u64,
    /// Without marks or padding.
    pub tokens: Vec<u32>,
}

/// There is nothing to learn from texts.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpanError {
    /// Every text is too short.
    #[error(
        "none of the {texts} texts has two tokens, so nothing can be hidden and guessed\n\
         hint: take longer texts, or check `captions` of [data.source]"
    )]
    NothingHidden {
        /// How many there are.
        texts: usize,
    },
}

impl SpanBatch {
    /// Hides runs of each text. Inputs become `length` tokens, the length with which pictures will be drawn. None where
    /// nothing can be hidden of any of them.
    ///
    /// # Panics
    /// `length` is 0: no plan has that.
    pub fn new(
        texts: &[NumberedText],
        corruption: &SpanCorruption,
        seed: u64,
        length: usize,
        device: &Device,
    ) -> Option<Self> {
        assert!(length > 0, "inputs without room for an end mark");
        let (mut inputs, mut targets, mut cut, mut whole) = (Vec::new(), Vec::new(), 0, 0);
        for NumberedText { number, tokens } in texts {
            // What is left is no longer than the text, so a text that fits, fits with its runs hidden.
            let seen = &tokens[..tokens.len().min(length - 1)];
            cut += usize::from(seen.len() < tokens.len());
            let (mut left, hidden) = match corruption.corrupt(seen, seed, *number) {
                Some(corrupted) => (corrupted.inputs, [corrupted.targets, vec![END]].concat()),
                None => (seen.to_vec(), Vec::new()),
            };
            whole += usize::from(hidden.is_empty());
            left.push(END);
            inputs.push(left);
            targets.push(hidden);
        }
        if whole == texts.len() {
            return None;
        }
        let longest = targets.iter().map(Vec::len).max().unwrap_or(0);
        let counted = targets.iter().flat_map(|row| (0..longest).map(|place| f32::from(u8::from(place < row.len()))));
        let said = targets.iter().map(|row| [&[PAD], &row[..row.len().saturating_sub(1)]].concat());
        Some(SpanBatch {
            hidden: targets.iter().map(Vec::len).sum(),
            counted_BL: from_f32(counted.collect(), [texts.len(), longest], device),
            said_BL: padded(said, longest, device),
            inputs_BS: padded(inputs.into_iter(), length, device),
            targets_BL: padded(targets.into_iter(), longest, device),
            cut,
            whole,
        })
    }
}

/// Rows of `length`.
fn padded(rows: impl Iterator<Item = Vec<u32>>, length: usize, device: &Device) -> Tensor<2, Int> {
    let rows = rows.map(|mut row| {
        row.resize(length, PAD);
        from_ids(&row, device)
    });
    Tensor::cat(rows.collect(), 0)
}

/// How well hidden tokens were guessed.
pub struct Guessed {
    /// The sum of the cross entropies of the tokens that were hidden, in nats: one number. A sum, as the parts of a step have
    /// different numbers of them, and each token counts as much as the others.
    pub loss_sum: Tensor<1>,
    /// How many of them were held the most likely: one number, without a gradient.
    pub right: Tensor<1>,
    /// How many they are.
    pub hidden: usize,
}

impl Guessed {
    /// The mean cross entropy in nats: one number.
    pub fn loss(&self) -> Tensor<1> {
        self.loss_sum.clone() / self.hidden as f64
    }
}

/// Lets the decoder say what was hidden from the encoder.
pub fn guess(encoder: &T5Encoder, decoder: &T5Decoder, batch: SpanBatch) -> Guessed {
    let SpanBatch { inputs_BS, said_BL, targets_BL, counted_BL, hidden, .. } = batch;
    let encoded_BSD = encoder.forward(inputs_BS);
    let logits_BLV = decoder.forward(encoder, encoded_BSD, said_BL);
    let guesses_BL: Tensor<2, Int> = logits_BLV.clone().argmax(2).squeeze_dim(2);
    let right_BL = guesses_BL.equal(targets_BL.clone()).float();
    let target_BL: Tensor<2> = log_softmax(logits_BLV, 2).gather(2, targets_BL.unsqueeze_dim(2)).squeeze_dim(2);
    let loss_sum = -(target_BL * counted_BL.clone()).sum();
    Guessed { loss_sum, right: (right_BL * counted_BL).sum(), hidden }
}

#[cfg(test)]
mod tests {
    use rectiflow_text::Sentinels;

    use super::*;

    const CORRUPTION: SpanCorruption =
        SpanCorruption { density: 0.3, mean_span: 2.0, sentinels: Sentinels { first: 99, count: 9 }, repeated: 0.0 };

    fn texts(lengths: &[u32]) -> Vec<NumberedText> {
        let text = |(number, &length)| NumberedText { number, tokens: (10..10 + length).collect() };
        (0..).zip(lengths).map(text).collect()
    }

    fn rows(ids: &Tensor<2, Int>) -> Vec<Vec<u32>> {
        let all: Vec<u32> = ids.to_data().iter().collect();
        all.chunks(ids.dims()[1]).map(<[u32]>::to_vec).collect()
    }

    #[test]
    fn inputs_have_a_fixed_length_and_targets_that_of_the_longest() {
        let device = Device::flex();
        let batch = SpanBatch::new(&texts(&[10, 1, 4, 30]), &CORRUPTION, 5, 21, &device).unwrap();
        // The last text is cut to 20 tokens, 6 of them hidden in 3 runs.
        assert_eq!((batch.cut, batch.whole), (1, 1));
        assert_eq!((batch.inputs_BS.dims(), batch.targets_BL.dims()), ([4, 21], [4, 6 + 3 + 1]));
        let hidden = CORRUPTION.corrupt(&texts(&[10])[0].tokens, 5, 0).unwrap();
        let (inputs, targets, said) = (rows(&batch.inputs_BS), rows(&batch.targets_BL), rows(&batch.said_BL));
        let padded = |mut ids: Vec<u32>, length| {
            ids.push(1);
            ids.resize(length, 0);
            ids
        };
        assert_eq!(inputs[0], padded(hidden.inputs, 21));
        assert_eq!(inputs[1], padded(vec![10], 21));
        assert_eq!(targets[0], padded(hidden.targets.clone(), 10));
        assert_eq!(targets[1], [0; 10]);
        let mut moved = [vec![0], hidden.targets.clone()].concat();
        moved.resize(10, 0);
        assert_eq!(said[0], moved);
        let counted: Vec<f32> = batch.counted_BL.clone().sum_dim(1).to_data().iter().collect();
        assert_eq!(counted, [hidden.targets.len() as f32 + 1.0, 0.0, 3.0, 10.0]);
        assert_eq!(batch.hidden as f32, counted.iter().sum::<f32>());
    }

    #[test]
    fn texts_of_one_token_alone_make_no_batch() {
        assert!(SpanBatch::new(&texts(&[1, 0]), &CORRUPTION, 5, 21, &Device::flex()).is_none());
    }
}
