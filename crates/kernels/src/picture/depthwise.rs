//! Convolutions in which each channel has a window of its own, and their gradients.
//!
//! There is no product to be made of these: a channel's window meets that channel alone. Pixels come and go with their
//! channels side by side, `[B, H, W, C]`, and a whole pixel is multiplied with one place of all windows at once. Where
//! the window reaches beyond the picture there are zeros, which are passed over.
//!
//! What this module does not do: rounding factors to bf16, which would save nothing here.

use std::ops::Range;

use rayon::prelude::*;

use crate::Isa;
use crate::vector::{multiply_add, vectorised};

/// The sizes of a depthwise convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depthwise {
    /// B, H, W and C of the picture.
    pub picture: [usize; 4],
    /// Places of a window on a side.
    pub kernel: usize,
    /// Pixels from a window to the next.
    pub stride: usize,
    /// Rows of zeros above and below, columns of zeros to the left and to the right.
    pub border: [[usize; 2]; 2],
}

impl Depthwise {
    /// H' and W' of the result.
    ///
    /// # Panics
    /// The picture with its border is smaller than a window: a bug of the caller.
    pub fn size_out(&self) -> [usize; 2] {
        let [_, height, width, _] = self.picture;
        [(height, self.border[0]), (width, self.border[1])].map(|(size, [before, after])| {
            let size = before + size + after;
            assert!(size >= self.kernel, "a window of {} in {size} pixels", self.kernel);
            (size - self.kernel) / self.stride + 1
        })
    }

    /// `out = convolution + bias`, `[B, H', W', C]`. x `[B, H, W, C]`, weight `[K, K, C]`, bias `[C]`.
    ///
    /// # Panics
    /// Sizes that do not fit each other: bugs of the caller.
    pub fn forward(&self, isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
        let (of_line, lines) = self.check(x, weight, out);
        assert_eq!(bias.len(), self.picture[3], "biases of {self:?}");
        let of_picture = self.of_picture();
        out.par_chunks_exact_mut(of_line).enumerate().for_each(|(line, out)| {
            let x = &x[line / lines * of_picture..][..of_picture];
            forward_line(isa, self, line % lines, x, weight, bias, out);
        });
    }

    /// The gradient of x, from that of the result.
    ///
    /// # Panics
    /// Sizes that do not fit each other: bugs of the caller.
    pub fn input_gradient(&self, isa: Isa, weight: &[f32], gradient: &[f32], out: &mut [f32]) {
        let (of_line, lines) = self.check(out, weight, gradient);
        let [_, height, width, channels] = self.picture;
        out.par_chunks_exact_mut((width * channels).max(1)).enumerate().for_each(|(row, out)| {
            let gradient = &gradient[row / height * lines * of_line..][..lines * of_line];
            input_line(isa, self, row % height, gradient, weight, out);
        });
    }

    /// The gradient of the weight `[K, K, C]`, from that of the result.
    ///
    /// # Panics
    /// Sizes that do not fit each other: bugs of the caller.
    pub fn weight_gradient(&self, isa: Isa, x: &[f32], gradient: &[f32], out: &mut [f32]) {
        let (of_line, lines) = self.check(x, out, gradient);
        let of_picture = self.of_picture();
        // One picture's sums in f32; those of all pictures in f64, in their order on any number of threads.
        let sums: Vec<Vec<f32>> = (0..self.picture[0])
            .into_par_iter()
            .map(|index| {
                let mut sums = vec![0.0; out.len()];
                let (x, gradient) = (&x[index * of_picture..], &gradient[index * lines * of_line..]);
                for line in 0..lines {
                    weight_line(isa, self, line, &x[..of_picture], &gradient[line * of_line..][..of_line], &mut sums);
                }
                sums
            })
            .collect();
        for (place, out) in out.iter_mut().enumerate() {
            *out = sums.iter().map(|sums| f64::from(sums[place])).sum::<f64>() as f32;
        }
    }

    /// Numbers of a line of the result, and its lines.
    fn check(&self, x: &[f32], weight: &[f32], result: &[f32]) -> (usize, usize) {
        let [batch, .., channels] = self.picture;
        let [lines, columns] = self.size_out();
        assert_eq!(x.len(), batch * self.of_picture(), "numbers of a picture of {self:?}");
        assert_eq!(weight.len(), self.kernel * self.kernel * channels, "weights of {self:?}");
        assert_eq!(result.len(), batch * lines * columns * channels, "numbers of the result of {self:?}");
        ((columns * channels).max(1), lines)
    }

    fn of_picture(&self) -> usize {
        let [_, height, width, channels] = self.picture;
        height * width * channels
    }

    /// Places of a window that meet the picture, of which the window's first one lies `start` behind the first of the
    /// picture's `size` and `before` zeros.
    #[inline(always)]
    fn met(&self, start: usize, before: usize, size: usize) -> Range<usize> {
        before.saturating_sub(start).min(self.kernel)..self.kernel.min((before + size).saturating_sub(start))
    }

    /// Windows that meet a pixel, `place` behind the first of the zeros before the picture, each with the place in it.
    #[inline(always)]
    fn meeting(&self, place: usize, windows: usize) -> impl Iterator<Item = (usize, usize)> {
        let first = (place + 1).saturating_sub(self.kernel).div_ceil(self.stride);
        let end = windows.min(place / self.stride + 1);
        let stride = self.stride;
        (first..end).map(move |window| (window, place - window * stride))
    }
}

vectorised! {
    fn forward_line(of: &Depthwise, line: usize, x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
        let [_, height, width, channels] = of.picture;
        let [[above, _], [left, _]] = of.border;
        let row = line * of.stride;
        let rows = of.met(row, above, height);
        for (column, out) in out.chunks_exact_mut(channels.max(1)).enumerate() {
            out.copy_from_slice(bias);
            let column = column * of.stride;
            for i in rows.clone() {
                for j in of.met(column, left, width) {
                    let x = &x[((row + i - above) * width + column + j - left) * channels..][..channels];
                    let weight = &weight[(i * of.kernel + j) * channels..][..channels];
                    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                        *out = multiply_add::<FMA>(*x, *weight, *out);
                    }
                }
            }
        }
    }
}

vectorised! {
    fn input_line(of: &Depthwise, row: usize, gradient: &[f32], weight: &[f32], out: &mut [f32]) {
        let channels = of.picture[3];
        let [[above, _], [left, _]] = of.border;
        let [lines, columns] = of.size_out();
        for (column, out) in out.chunks_exact_mut(channels.max(1)).enumerate() {
            out.fill(0.0);
            for (line, i) in of.meeting(row + above, lines) {
                for (pixel, j) in of.meeting(column + left, columns) {
                    let gradient = &gradient[(line * columns + pixel) * channels..][..channels];
                    let weight = &weight[(i * of.kernel + j) * channels..][..channels];
                    for ((out, gradient), weight) in out.iter_mut().zip(gradient).zip(weight) {
                        *out = multiply_add::<FMA>(*gradient, *weight, *out);
                    }
                }
            }
        }
    }
}

vectorised! {
    fn weight_line(of: &Depthwise, line: usize, x: &[f32], gradient: &[f32], sums: &mut [f32]) {
        let [_, height, width, channels] = of.picture;
        let [[above, _], [left, _]] = of.border;
        let row = line * of.stride;
        for (column, gradient) in gradient.chunks_exact(channels.max(1)).enumerate() {
            let column = column * of.stride;
            for i in of.met(row, above, height) {
                for j in of.met(column, left, width) {
                    let x = &x[((row + i - above) * width + column + j - left) * channels..][..channels];
                    let sums = &mut sums[(i * of.kernel + j) * channels..][..channels];
                    for ((sum, x), gradient) in sums.iter_mut().zip(x).zip(gradient) {
                        *sum = multiply_add::<FMA>(*x, *gradient, *sum);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    const CASES: [Depthwise; 6] = [
        Depthwise { picture: [1, 1, 1, 1], kernel: 3, stride: 1, border: [[1, 1]; 2] },
        Depthwise { picture: [2, 5, 7, 20], kernel: 3, stride: 1, border: [[1, 1]; 2] },
        Depthwise { picture: [1, 8, 6, 33], kernel: 3, stride: 2, border: [[0, 1]; 2] },
        Depthwise { picture: [2, 7, 8, 17], kernel: 5, stride: 2, border: [[2, 2], [1, 2]] },
        Depthwise { picture: [1, 2, 1, 16], kernel: 5, stride: 1, border: [[2, 2]; 2] },
        Depthwise { picture: [1, 6, 9, 3], kernel: 2, stride: 3, border: [[0, 0]; 2] },
    ];

    /// Calls `product` with the places in picture, weight and result that are brought together.
    fn products(of: &Depthwise, mut product: impl FnMut(usize, usize, usize)) {
        let [batch, height, width, channels] = of.picture;
        let [lines, columns] = of.size_out();
        for place in 0..batch * lines * columns * channels {
            let (c, pixel) = (place % channels, place / channels);
            let (b, line, column) = (pixel / columns / lines, pixel / columns % lines, pixel % columns);
            for (i, j) in (0..of.kernel * of.kernel).map(|tap| (tap / of.kernel, tap % of.kernel)) {
                let y = (line * of.stride + i).wrapping_sub(of.border[0][0]);
                let x = (column * of.stride + j).wrapping_sub(of.border[1][0]);
                if y < height && x < width {
                    let from = ((b * height + y) * width + x) * channels + c;
                    product(from, (i * of.kernel + j) * channels + c, place);
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_sums_and_their_gradients() {
        for of in CASES {
            let [batch, height, width, channels] = of.picture;
            let [lines, columns] = of.size_out();
            let x = values(1, batch * height * width * channels);
            let weight = values(2, of.kernel * of.kernel * channels);
            let bias = values(3, channels);
            let gradient = values(4, batch * lines * columns * channels);
            let mut expected = [
                bias.iter().copied().map(f64::from).cycle().take(gradient.len()).collect(),
                vec![0.0; x.len()],
                vec![0.0; weight.len()],
            ];
            products(&of, |from, tap, place| {
                expected[0][place] += f64::from(x[from]) * f64::from(weight[tap]);
                expected[1][from] += f64::from(gradient[place]) * f64::from(weight[tap]);
                expected[2][tap] += f64::from(gradient[place]) * f64::from(x[from]);
            });
            for isa in Isa::available() {
                let mut found = expected.each_ref().map(|expected: &Vec<f64>| vec![7.0; expected.len()]);
                of.forward(isa, &x, &weight, &bias, &mut found[0]);
                of.input_gradient(isa, &weight, &gradient, &mut found[1]);
                of.weight_gradient(isa, &x, &gradient, &mut found[2]);
                for (found, expected) in found.iter().zip(&expected) {
                    assert_close(found, expected, 1e-5, &format!("{of:?} on {isa}"));
                }
            }
        }
    }
}
