use rectiflow_nn::ParamSource;
use serde_json::{Value, json};

use crate::config::{ConfigError, Evidence};

/// `relative_attention_max_distance` of every T5. No tensor tells it.
const MAX_DISTANCE: usize = 128;
/// `layer_norm_epsilon` of every T5.
const EPSILON: f64 = 1e-6;
/// T5 shares it between encoder and decoder. Files that have it under its other name are the source's matter.
const TOKENS: &str = "shared.weight";
const TABLE: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
const QUERY: &str = "encoder.block.0.layer.0.SelfAttention.q.weight";

/// The sizes of a T5 v1.1 encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
    /// Width of a token.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head; `heads * head_width` need not be `width`.
    pub head_width: usize,
    /// Inner width of the gated MLPs.
    pub mlp: usize,
    /// Rows of the token table.
    pub vocabulary: usize,
    /// Buckets of relative positions, half of them for each direction.
    pub buckets: usize,
    /// From this distance on, all positions share a bucket.
    pub max_distance: usize,
    /// Of the RMS norms.
    pub eps: f64,
}

impl T5Config {
    /// T5 v1.1 XXL, the encoder half: 4,762,310,656 parameters.
    pub fn xxl() -> Self {
        T5Config {
            width: 4096,
            layers: 24,
            heads: 64,
            head_width: 64,
            mlp: 10240,
            vocabulary: 32128,
            buckets: 32,
            max_distance: MAX_DISTANCE,
            eps: EPSILON,
        }
    }

    /// The `config.json` that transformers has beside such an encoder.
    pub fn settings(&self) -> Value {
        json!({
            "architectures": ["T5EncoderModel"],
            "model_type": "t5",
            "d_model": self.width,
            "num_layers": self.layers,
            "num_heads": self.heads,
            "d_kv": self.head_width,
            "d_ff": self.mlp,
            "feed_forward_proj": "gated-gelu",
            "vocab_size": self.vocabulary,
            "relative_attention_num_buckets": self.buckets,
            "relative_attention_max_distance": self.max_distance,
            "layer_norm_epsilon": self.eps,
            "is_encoder_decoder": false,
            "use_cache": false,
            "pad_token_id": 0,
            "eos_token_id": 1,
        })
    }

    /// Finds the sizes from the tensors' shapes; what shapes cannot tell comes from `config.json`, or is that
    /// of the released encoders.
    ///
    /// # Errors
    /// The tensors are not those of a T5 v1.1 encoder, or the settings contradict them.
    pub fn find(source: &dyn ParamSource, settings: Option<&Value>) -> Result<Self, ConfigError> {
        let evidence = Evidence { encoder: "T5", source, settings };
        let config = sizes(&evidence)?;
        let stated_sizes = [
            ("d_model", config.width),
            ("num_layers", config.layers),
            ("num_heads", config.heads),
            ("d_kv", config.head_width),
            ("d_ff", config.mlp),
            ("vocab_size", config.vocabulary),
            ("relative_attention_num_buckets", config.buckets),
        ];
        for (key, found) in stated_sizes {
            evidence.agrees(key, found)?;
        }
        if evidence.text("feed_forward_proj")?.is_some_and(|form| form != "gated-gelu") {
            return Err(evidence.bad_setting("feed_forward_proj", "only `gated-gelu`, T5 v1.1's, is supported"));
        }
        Ok(config)
    }
}

/// What every T5 has beside the pieces of words.
const VOCABULARY_MIN: usize = 103;

fn sizes(evidence: &Evidence<'_>) -> Result<T5Config, ConfigError> {
    let [vocabulary, width] = evidence.shape(TOKENS)?;
    // Which tokens there are is known by the tokenizer, which checks the rows against its own.
    if vocabulary < VOCABULARY_MIN {
        let why = "has no row for each of T5's three marks and a hundred sentinels";
        return Err(evidence.bad_shape(TOKENS, &[vocabulary, width], why));
    }
    let [buckets, heads] = evidence.shape(TABLE)?;
    if buckets < 4 || !buckets.is_multiple_of(4) {
        return Err(evidence.bad_shape(TABLE, &[buckets, heads], "is not two directions of near and far buckets"));
    }
    let [rows, columns] = evidence.shape(QUERY)?;
    if !rows.is_multiple_of(heads) {
        return Err(evidence.bad_shape(
            QUERY,
            &[rows, columns],
            format!("is not {heads} heads, as the position table"),
        ));
    }
    let [mlp, _] = evidence.shape("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")?;
    Ok(T5Config {
        width,
        layers: evidence.layers(|i| format!("encoder.block.{i}.layer.0.layer_norm.weight"))?,
        heads,
        head_width: rows / heads,
        mlp,
        vocabulary,
        buckets,
        max_distance: max_distance(evidence, buckets)?,
        eps: evidence.epsilon("layer_norm_epsilon", EPSILON)?,
    })
}

/// The far buckets need some distance to share.
fn max_distance(evidence: &Evidence<'_>, buckets: usize) -> Result<usize, ConfigError> {
    let key = "relative_attention_max_distance";
    let distance = evidence.size(key)?.unwrap_or(MAX_DISTANCE);
    let near = buckets / 4;
    if distance <= near {
        return Err(evidence.bad_setting(key, format!("the near buckets alone reach to {near}")));
    }
    Ok(distance)
}
