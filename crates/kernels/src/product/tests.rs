//! Every instruction set against sums in f64, over sizes that do not divide the tiles.

use half::{bf16, f16};

use super::*;
use crate::Isa;
use crate::testing::{assert_close, is_quick, values};
use crate::vector::{from_bf16, to_bf16};

fn bf16s(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&x| to_bf16(x)).collect()
}

/// `a b^T`, as it is written.
fn reference(a: &[f32], b: &[f32], [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
    let at = |x: &[f32], i: usize| f64::from(x[i]);
    let sum = |m: usize, n: usize| (0..inner).map(|k| at(a, m * inner + k) * at(b, n * inner + k)).sum();
    (0..rows * columns).map(|i| sum(i / columns, i % columns)).collect()
}

const SIZES: [[usize; 3]; 15] = [
    [1, 1, 1],
    [1, 64, 16],
    [7, 63, 65],
    [64, 64, 64],
    [65, 77, 33],
    [31, 32, 47],
    [33, 31, 49],
    [2, 333, 130],
    [257, 96, 257],
    [40, 1357, 50],
    [5, 0, 7],
    [0, 32, 16],
    [3, 32, 0],
    [300, 544, 290],
    [33, 3200, 35],
];

#[test]
fn f32_products_of_all_sizes() {
    for isa in Isa::available() {
        for size @ [rows, inner, columns] in SIZES.into_iter().filter(|size| is_quick(size.iter().product())) {
            let (a, b) = (values(1, rows * inner), values(2, columns * inner));
            let mut out = vec![f32::NAN; rows * columns];
            multiply::<f32>(
                isa,
                Matrix::new(Values::F32(&a), rows, inner),
                Factor::Plain(Matrix::new(Values::F32(&b), columns, inner)),
                &Epilogue::default(),
                Output::F32(&mut out),
            );
            assert_close(&out, &reference(&a, &b, size), 1e-6 * inner as f64, &format!("{isa} {size:?}"));
        }
    }
}

#[test]
fn bf16_products_of_all_sizes_sum_in_f32() {
    for isa in Isa::available() {
        for size @ [rows, inner, columns] in SIZES.into_iter().filter(|size| is_quick(size.iter().product())) {
            let (a, b) = (bf16s(&values(1, rows * inner)), bf16s(&values(2, columns * inner)));
            let wide = |x: &[bf16]| x.iter().map(|&x| from_bf16(x)).collect::<Vec<_>>();
            let expected = reference(&wide(&a), &wide(&b), size);
            let shape = PackedShape { columns, inner };
            let packed = shape.packed::<bf16>(isa, Matrix::new(Values::Bf16(&b), columns, inner));
            let mut out = vec![f32::NAN; rows * columns];
            multiply(
                isa,
                Matrix::new(Values::Bf16(&a), rows, inner),
                Factor::Packed(&packed, shape),
                &Epilogue::default(),
                Output::F32(&mut out),
            );
            assert_close(&out, &expected, 1e-6 * inner as f64, &format!("{isa} {size:?}"));
        }
    }
}

/// f32 and f16 factors are rounded to bf16 as they are packed, transposed ones are read across.
#[test]
fn factors_of_any_type_and_order() {
    let [rows, inner, columns] = if cfg!(miri) { [5, 33, 18] } else { [37, 70, 53] };
    let (a, b) = (values(3, rows * inner), values(4, columns * inner));
    let halves: Vec<f16> = b.iter().map(|&x| f16::from_f32(x)).collect();
    let widened: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
    let across = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
        (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
    };
    let (a_across, b_across) = (across(&a, rows, inner), across(&widened, columns, inner));
    for isa in Isa::available() {
        let mut straight = vec![0.0; rows * columns];
        let (a_plain, b_plain) =
            (Matrix::new(Values::F32(&a), rows, inner), Matrix::new(Values::F16(&halves), columns, inner));
        multiply::<bf16>(isa, a_plain, Factor::Plain(b_plain), &Epilogue::default(), Output::F32(&mut straight));
        let expected = reference(
            &bf16s(&a).iter().map(|&x| from_bf16(x)).collect::<Vec<_>>(),
            &bf16s(&widened).iter().map(|&x| from_bf16(x)).collect::<Vec<_>>(),
            [rows, inner, columns],
        );
        assert_close(&straight, &expected, 1e-4, &isa.to_string());

        let mut crossed = vec![0.0; rows * columns];
        let a = Matrix::new(Values::F32(&a_across), inner, rows).transposed();
        let b = Matrix::new(Values::F32(&b_across), inner, columns).transposed();
        multiply::<bf16>(isa, a, Factor::Plain(b), &Epilogue::default(), Output::F32(&mut crossed));
        assert_eq!(straight, crossed, "{isa}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn f16_values_widen_exactly() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|x| x.is_finite()).collect();
    for isa in Isa::available() {
        let shape = PackedShape { columns: 1, inner: all.len() };
        let packed = shape.packed::<f32>(isa, Matrix::new(Values::F16(&all), 1, all.len()));
        for (k, x) in all.iter().enumerate() {
            assert_eq!(packed[k * PANEL].to_bits(), x.to_f32().to_bits(), "{isa}: {x:e}");
        }
    }
}

/// Blocks begin at rows that begin tiles, whatever rows a tile has: else the last tile reads rows that are not there.
#[test]
fn rows_beyond_the_first_block_are_read_in_whole_tiles() {
    for isa in Isa::available() {
        let rows = if cfg!(miri) { &[257][..] } else { &[251, 252, 253, 255, 256, 257, 260, 299, 515] };
        for &rows in rows {
            for inner in [32, 33] {
                let (a, b) = (values(1, rows * inner), values(2, 17 * inner));
                let expected = reference(&a, &b, [rows, inner, 17]);
                let (a, b) = (Matrix::new(Values::F32(&a), rows, inner), Matrix::new(Values::F32(&b), 17, inner));
                let mut out = vec![f32::NAN; rows * 17];
                multiply::<f32>(isa, a, Factor::Plain(b), &Epilogue::default(), Output::F32(&mut out));
                assert_close(&out, &expected, 1e-4, &format!("{isa} {rows} x {inner}"));
            }
        }
    }
}

#[test]
fn epilogues_are_their_formulas() {
    let [rows, inner, columns] = if cfg!(miri) { [6, 32, 18] } else { [34, 32, 50] };
    let (a, b, bias) = (values(5, rows * inner), values(6, columns * inner), values(7, columns));
    let (x, gate, times) = (values(8, rows * columns), values(9, 2 * columns), values(10, rows * columns));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let gelu_tanh =
        |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
    let sums = reference(&a, &b, [rows, inner, columns]);
    let formulas: [(Activation, &dyn Fn(f64) -> f64); 4] = [
        (Activation::None, &|x| x),
        (Activation::GeluTanh, &gelu_tanh),
        (Activation::QuickGelu, &|x| x * sigmoid(1.702 * x)),
        (Activation::Silu, &|x| x * sigmoid(x)),
    ];
    for isa in Isa::available() {
        for (activation, formula) in formulas {
            let residual = Some(Residual { x: &x, gate: Some(&gate), rows_per_gate: rows / 2 });
            let epilogue = Epilogue { bias: Some(&bias), activation, times: Some(&times), residual };
            let expected: Vec<f64> = (0..rows * columns)
                .map(|i| {
                    let (row, column) = (i / columns, i % columns);
                    let branch = f64::from(times[i]) * formula(sums[i] + f64::from(bias[column]));
                    f64::from(x[i]) + f64::from(gate[row / (rows / 2) * columns + column]) * branch
                })
                .collect();
            let (a, b) = (Matrix::new(Values::F32(&a), rows, inner), Matrix::new(Values::F32(&b), columns, inner));
            let mut out = vec![0.0; rows * columns];
            multiply::<f32>(isa, a, Factor::Plain(b), &epilogue, Output::F32(&mut out));
            assert_close(&out, &expected, 2e-5, &format!("{isa} {activation:?}"));
            let mut rounded = vec![bf16::ZERO; rows * columns];
            multiply::<f32>(isa, a, Factor::Plain(b), &epilogue, Output::Bf16(&mut rounded));
            assert_eq!(rounded, bf16s(&out), "{isa} {activation:?}");
        }
    }
}

#[test]
fn the_gelus_differ_and_the_exact_one_is_exact() {
    // GELU by the error function, from tables: x, gelu(x).
    let known = [(-3.0, -0.004_049_694), (-1.0, -0.158_655_25), (0.5, 0.345_731_23), (2.0, 1.954_499_7)];
    let a: Vec<f32> = known.iter().map(|(x, _)| *x).collect();
    for isa in Isa::available() {
        let epilogue = Epilogue { activation: Activation::Gelu, ..Epilogue::default() };
        let mut out = [0.0; 4];
        let one = [1.0];
        let b = Factor::Plain(Matrix::new(Values::F32(&one), 1, 1));
        multiply::<f32>(isa, Matrix::new(Values::F32(&a), 4, 1), b, &epilogue, Output::F32(&mut out));
        for (found, (x, expected)) in out.iter().zip(known) {
            assert!((found - expected).abs() < 5e-7, "{isa}: gelu({x}) = {found} instead of {expected}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn not_a_number_stays_in_its_row_and_nothing_hangs() {
    let [rows, inner, columns] = [20, 64, 20];
    for isa in Isa::available() {
        let mut a = values(1, rows * inner);
        a[3 * inner + 5] = f32::NAN;
        a[4 * inner + 5] = f32::INFINITY;
        let b = vec![1.0; columns * inner];
        for bf16_products in [false, true] {
            let mut out = vec![0.0; rows * columns];
            let (a, b) = (Matrix::new(Values::F32(&a), rows, inner), Matrix::new(Values::F32(&b), columns, inner));
            let epilogue = Epilogue { activation: Activation::GeluTanh, ..Epilogue::default() };
            if bf16_products {
                multiply::<bf16>(isa, a, Factor::Plain(b), &epilogue, Output::F32(&mut out));
            } else {
                multiply::<f32>(isa, a, Factor::Plain(b), &epilogue, Output::F32(&mut out));
            }
            let row = |row: usize| &out[row * columns..][..columns];
            assert!(row(3).iter().all(|x| x.is_nan()), "{isa}");
            assert!(row(4).iter().all(|x| *x == f32::INFINITY), "{isa}: {:?}", row(4));
            assert!(out.iter().enumerate().all(|(i, x)| x.is_finite() || (3..=4).contains(&(i / columns))), "{isa}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn the_number_of_threads_changes_nothing() {
    let [rows, inner, columns] = [300, 544, 290];
    let (a, b) = (values(1, rows * inner), values(2, columns * inner));
    for isa in Isa::available() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; rows * columns];
            pool.install(|| {
                let (a, b) = (Matrix::new(Values::F32(&a), rows, inner), Matrix::new(Values::F32(&b), columns, inner));
                multiply::<bf16>(isa, a, Factor::Plain(b), &Epilogue::default(), Output::F32(&mut out));
            });
            out
        };
        assert_eq!(run(1), run(3), "{isa}");
    }
}
