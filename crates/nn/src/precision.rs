use burn::tensor::DType;

/// What the products (linear layers, attention, convolutions) are computed in.
///
/// Everything between the products (residual streams, norms, softmax, activations) stays in f32 in both
/// cases: the precision says what is multiplied, never what is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32 products. Weights stay as the file stores them and are widened, exactly, where they are used.
    #[default]
    F32,
    /// bf16 factors, f32 sums. Weights are rounded to bf16 once, when they are first used.
    Bf16,
    /// 8-bit integers in linear layers, with a scale for each row of the weight and for each token; bf16 in attention
    /// and convolutions. For drawing on the CPU only. Half the memory of bf16, and about twice its speed where the
    /// processor multiplies such integers.
    Int8,
}

impl Precision {
    /// The type of a product's factors, as tensors have them between operations.
    pub fn factor(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 | Precision::Int8 => DType::BF16,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            "int8" => Ok(Precision::Int8),
            other => Err(format!("`{other}` is not a precision; give f32, bf16 or int8")),
        }
    }
}
