//! Captions for training a CLIP: from texts to a batch of token ids.
//!
//! The tokenizer is that of SD3's CLIPs, with 49,408 tokens, whatever the size of the encoder: a small encoder has a
//! narrow table. Captions are padded as for drawing, to 77 tokens: SD3 takes what the encoder gives at the places of the
//! padding too. What this module does not do: encode or compare anything.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::{Device, Int, Tensor, from_ids};
use rectiflow_text::{ClipTokenizer, TokenizerError};

/// A batch of captions.
#[derive(Clone, Debug)]
pub struct CaptionBatch {
    /// `[B, 77]`.
    pub ids_BL: Tensor<2, Int>,
    /// How many captions lost their ends, for which there was no room.
    pub cut: usize,
}

impl CaptionBatch {
    /// One caption a row; none for no captions.
    ///
    /// # Errors
    /// The tokenizer, from a broken file, fails.
    pub fn new(tokenizer: &ClipTokenizer, captions: &[&str], device: &Device) -> Result<Option<Self>, TokenizerError> {
        let tokens = captions.iter().map(|caption| tokenizer.tokenize(caption)).collect::<Result<Vec<_>, _>>()?;
        if tokens.is_empty() {
            return Ok(None);
        }
        let cut = tokens.iter().filter(|tokens| tokens.cut.is_some()).count();
        let rows = tokens.iter().map(|tokens| from_ids(&tokens.ids, device)).collect();
        Ok(Some(CaptionBatch { ids_BL: Tensor::cat(rows, 0), cut }))
    }
}

#[cfg(test)]
mod tests {
    use rectiflow_text::{ClipKind, END_OF_TEXT};

    use super::*;

    #[test]
    fn captions_become_rows_of_77_and_cuts_are_counted() {
        let (tokenizer, device) = (ClipTokenizer::embedded(ClipKind::L), Device::flex());
        let long = "a photo of a cat, ".repeat(40);
        let batch = CaptionBatch::new(&tokenizer, &["a cat", &long, ""], &device).unwrap().unwrap();
        assert_eq!((batch.ids_BL.dims(), batch.cut), ([3, 77], 1));
        let ids: Vec<i64> = batch.ids_BL.to_data().iter().collect();
        let expected = tokenizer.tokenize("a cat").unwrap().ids;
        assert!(ids[..77].iter().eq(expected.iter().map(|&id| i64::from(id)).collect::<Vec<_>>().iter()));
        assert_eq!(ids[77 + 76], i64::from(END_OF_TEXT));
        assert!(CaptionBatch::new(&tokenizer, &[], &device).unwrap().is_none());
    }
}
