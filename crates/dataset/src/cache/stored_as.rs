use rectiflow_nn::{DType, TensorData};
use serde::{Deserialize, Serialize};

/// How the numbers of a tensor are kept in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredAs {
    /// 4 bytes; nothing is lost.
    F32,
    /// 2 bytes, 8 bits of precision, the range of f32.
    Bf16,
    /// 2 bytes, 11 bits of precision, at most 65504: too little for what T5-XXL gives for some texts.
    F16,
}

/// Numbers that were finite have no finite neighbour in the narrower type, or were not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{count} of {of} values are infinite or not a number as {stored_as:?}\nhint: store them as bf16 or f32; if that fails too, the encoder's weights are damaged"
)]
#[expect(missing_docs, reason = "the message says what the fields are")]
pub struct DoesNotFit {
    pub stored_as: StoredAs,
    pub count: usize,
    pub of: usize,
}

impl StoredAs {
    /// Each value rounded to the nearest, of two equally near ones to the even one.
    ///
    /// # Errors
    /// A value is not finite, before or after.
    pub fn convert(self, data: TensorData) -> Result<TensorData, DoesNotFit> {
        let dtype = match self {
            StoredAs::F32 => DType::F32,
            StoredAs::Bf16 => DType::BF16,
            StoredAs::F16 => DType::F16,
        };
        let converted = if data.dtype() == dtype { data } else { data.convert_dtype(dtype) };
        let (count, of) =
            (converted.iter::<f32>().filter(|value| !value.is_finite()).count(), converted.num_elements());
        if count == 0 { Ok(converted) } else { Err(DoesNotFit { stored_as: self, count, of }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_their_nearest_neighbours_and_ties_the_even_one() {
        // 1 + 2^-8 lies halfway between the bf16 numbers 1 and 1 + 2^-7; 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6.
        let step = f32::powi(2.0, -8);
        let values = vec![1.0 + step, 1.0 + 3.0 * step, 1.0 + 1.01 * step, -3.0e38, 0.0];
        let bf16 = StoredAs::Bf16.convert(TensorData::new(values, [5])).unwrap();
        assert_eq!(bf16.dtype(), DType::BF16);
        let found: Vec<f32> = bf16.iter::<f32>().collect();
        assert_eq!(found[..3], [1.0, 1.0 + 4.0 * step, 1.0 + 2.0 * step]);
        assert!((found[3] / -3.0e38 - 1.0).abs() < 0.004 && found[4] == 0.0, "{found:?}");

        // The same for f16, whose step after 1 is 2^-10.
        let step = f32::powi(2.0, -11);
        let f16 = StoredAs::F16.convert(TensorData::new(vec![1.0 + step, 1.0 + 3.0 * step, 65504.0], [3])).unwrap();
        assert_eq!(f16.iter::<f32>().collect::<Vec<_>>(), [1.0, 1.0 + 4.0 * step, 65504.0]);
    }

    #[test]
    fn values_that_do_not_fit_are_counted_and_refused() {
        let refused = |stored_as: StoredAs, values: &[f32]| {
            stored_as.convert(TensorData::new(values.to_vec(), [values.len()])).unwrap_err()
        };
        let found = refused(StoredAs::F16, &[1.0, 70_000.0, -1.0e9]);
        assert_eq!(found, DoesNotFit { stored_as: StoredAs::F16, count: 2, of: 3 });
        assert_eq!(refused(StoredAs::F32, &[f32::NAN]).count, 1);
    }
}
