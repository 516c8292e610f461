//! CLIP's image tower, and what it and the text encoder are trained for together.
//!
//! Source: Radford et al. 2021, arXiv:2103.00020, section 2 and figure 3; names and details are those of
//! `CLIPVisionModelWithProjection` in transformers. Without a checkpoint, the class token and the two products beside the
//! blocks start normal with deviation `width^-1/2`, as in openai/CLIP; positions with 0.02, as in transformers; the
//! blocks as in `rectiflow-text`.
//!
//! Shape letters: B pictures, H and W pixels, L patches and one token more, D width, P width of the embedding.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::activation::log_softmax;
use rectiflow_nn::layers::{Conv2d, Embedding, LayerNorm, Linear};
use rectiflow_nn::ops::Window;
use rectiflow_nn::{DType, Init, Int, Module, Param, Params, Tensor, from_f32};
use rectiflow_text::{Activation, ClipBlocks, ClipConfig, Sees};

/// The temperature at the start, 0.07, and the largest factor that logits are multiplied with: section 2.5.
const TEMPERATURE: f64 = 0.07;
const FACTOR_MAX: f64 = 100.0;

/// Mean and deviation of red, green and blue in CLIP's training pictures, 0 to 1: `OPENAI_CLIP_MEAN` and
/// `OPENAI_CLIP_STD` in transformers. Image towers are given pictures without them.
pub const PICTURE_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// See [`PICTURE_MEAN`].
pub const PICTURE_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Pictures `[B, 3, H, W]` in -1..1 as [`ClipImageTower::forward`] takes them.
pub fn without_mean(pictures_B3HW: Tensor<4>) -> Tensor<4> {
    let device = pictures_B3HW.device();
    let each = |numbers: [f32; 3]| from_f32(numbers.to_vec(), [1, 3, 1, 1], &device);
    ((pictures_B3HW + 1.0) * 0.5 - each(PICTURE_MEAN)) / each(PICTURE_STD)
}

/// The sizes of an image tower.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipImageConfig {
    /// Pixels on a side of a picture.
    pub side_px: usize,
    /// Pixels on a side of a patch; they divide the picture's.
    pub patch_px: usize,
    /// Width of a token.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Inner width of the MLPs.
    pub mlp: usize,
    /// Activation of the MLPs.
    pub activation: Activation,
    /// Of the layer norms.
    pub eps: f64,
    /// Width of the embedding.
    pub projection: usize,
}

impl ClipImageConfig {
    /// Beside CLIP-L's text encoder: ViT-L/14 for 224 px.
    pub fn vit_l_14() -> Self {
        ClipImageConfig {
            side_px: 224,
            patch_px: 14,
            width: 1024,
            layers: 24,
            heads: 16,
            mlp: 4096,
            activation: Activation::QuickGelu,
            eps: 1e-5,
            projection: 768,
        }
    }

    fn patches(&self) -> usize {
        (self.side_px / self.patch_px).pow(2)
    }

    /// The same blocks in the words of a text encoder, which has a table of words beside them.
    fn blocks(&self) -> ClipConfig {
        ClipConfig {
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            mlp: self.mlp,
            activation: self.activation,
            vocabulary: 0,
            positions: self.patches() + 1,
            eps: self.eps,
            projection: Some(self.projection),
        }
    }
}

/// A transformer over the patches of a picture.
#[derive(Module, Debug)]
pub struct ClipImageTower {
    class: Param<Tensor<1>>,
    patches: Conv2d,
    positions: Embedding,
    before: LayerNorm,
    blocks: ClipBlocks,
    after: LayerNorm,
    projection: Linear,
    #[module(skip)]
    config: ClipImageConfig,
}

impl ClipImageTower {
    /// Asks `params` for every parameter, by the names of transformers.
    ///
    /// # Panics
    /// Sizes that do not divide each other, or no blocks: bugs of the caller.
    pub fn new(mut params: Params<'_>, config: &ClipImageConfig) -> Self {
        let &ClipImageConfig { side_px, patch_px, width, layers, heads, eps, projection, .. } = config;
        let divides = layers > 0 && width.is_multiple_of(heads) && side_px.is_multiple_of(patch_px);
        assert!(divides, "impossible image tower: {config:?}");
        let start = Init::Normal((width as f32).powf(-0.5));
        let projection = Linear::without_bias(params.at("visual_projection"), width, projection, start);
        let mut model = params.at("vision_model");
        let mut tables = model.at("embeddings");
        ClipImageTower {
            class: tables.param("class_embedding", [width], start),
            patches: Conv2d::without_bias(tables.at("patch_embedding"), [3, width], patch_px, Window::Patch, start),
            positions: Embedding::new(tables.at("position_embedding"), config.patches() + 1, width),
            // So misspelt in every checkpoint.
            before: LayerNorm::new(model.at("pre_layrnorm"), width, eps),
            blocks: ClipBlocks::new(model.at("encoder"), &config.blocks(), Sees::All),
            after: LayerNorm::new(model.at("post_layernorm"), width, eps),
            projection,
            config: config.clone(),
        }
    }

    /// The sizes.
    pub fn config(&self) -> &ClipImageConfig {
        &self.config
    }

    /// picture `[B, 3, H, W]`, RGB with CLIP's mean and deviation taken out. Returns embeddings `[B, P]`, of any length.
    ///
    /// # Panics
    /// Pictures of another size than the tower's.
    pub fn forward(&self, picture_B3HW: Tensor<4>) -> Tensor<2> {
        let [batch, _, height, width] = picture_B3HW.dims();
        let side = self.config.side_px;
        assert_eq!([height, width], [side; 2], "a picture for a tower of {side} px");
        let patches_BLD = self.patches.forward(picture_B3HW).flatten::<3>(2, 3).swap_dims(1, 2);
        let class_BLD = self.class.val().reshape([1, 1, self.config.width]).repeat_dim(0, batch);
        let tokens_BLD = Tensor::cat(vec![class_BLD, patches_BLD], 1);
        let places_1L = Tensor::<1, Int>::arange(0..tokens_BLD.dims()[1] as i64, &tokens_BLD.device()).unsqueeze();
        let x_BLD = self.before.forward(tokens_BLD + self.positions.forward(places_1L), DType::F32);
        // Only the class token is read.
        let class_BD = self.blocks.forward(x_BLD).narrow(1, 0, 1).squeeze_dim::<2>(1);
        self.projection.forward(self.after.forward(class_BD, DType::F32))
    }
}

/// The learned logarithm of what similarities are multiplied with: `logit_scale` `[1]`, which starts at `ln(1 / 0.07)`.
#[derive(Module, Debug)]
pub struct LogitScale {
    logit_scale: Param<Tensor<1>>,
}

impl LogitScale {
    /// At the root of CLIP's names. transformers stores it without an axis.
    pub fn new(mut params: Params<'_>) -> Self {
        let start = Init::Constant((1.0 / TEMPERATURE).ln() as f32);
        LogitScale { logit_scale: params.param("logit_scale", [1], start) }
    }

    /// What similarities are multiplied with `[1]`. At most 100, as the authors found necessary. Above that the logarithm has no gradient.
    pub fn factor(&self) -> Tensor<1> {
        self.logit_scale.val().clamp_max(FACTOR_MAX.ln()).exp()
    }
}

/// How badly texts and pictures find each other: the mean of the cross entropies of each text's picture among all
/// pictures and of each picture's text among all texts, one number. Embeddings `[B, P]`, in the same order.
///
/// Source: arXiv:2103.00020, figure 3.
pub fn contrastive_loss(texts_BP: Tensor<2>, pictures_BP: Tensor<2>, scale: &LogitScale) -> Tensor<1> {
    assert_eq!(texts_BP.dims(), pictures_BP.dims(), "embeddings of texts and of their pictures");
    let logits_BB = unit(texts_BP).matmul(unit(pictures_BP).transpose()) * scale.factor().unsqueeze();
    let right_BB = Tensor::<2>::eye(logits_BB.dims()[0], &logits_BB.device());
    let count = logits_BB.dims()[0] as f64;
    let found = log_softmax(logits_BB.clone(), 0) + log_softmax(logits_BB, 1);
    -(found * right_BB).sum() / (2.0 * count)
}

/// Of length 1.
fn unit(x_BP: Tensor<2>) -> Tensor<2> {
    /// `torch.nn.functional.normalize`'s.
    const LENGTH_MIN: f64 = 1e-12;
    let length_B1 = x_BP.clone().square().sum_dim(1).sqrt().clamp_min(LENGTH_MIN);
    x_BP / length_B1
}
