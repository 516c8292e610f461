use super::*;
use crate::testing::values;

fn step(number: u64) -> AdamwStep {
    AdamwStep {
        learning_rate: 3e-3,
        beta_1: 0.9,
        beta_2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        number: NonZeroU64::new(number).unwrap(),
        gradient_factor: 0.7,
        ema_decay: 0.95,
    }
}

/// A parameter with its state.
struct Trained<T> {
    param: Vec<T>,
    first: Vec<T>,
    second: Vec<T>,
    ema: Vec<T>,
}

impl Trained<f32> {
    fn new(count: usize) -> Self {
        let param = values(1, count);
        Trained { ema: param.clone(), param, first: vec![0.0; count], second: vec![0.0; count] }
    }

    fn update(&mut self, isa: Isa, step: &AdamwStep, gradient: &[f32], averaged: bool) {
        let Trained { param, first, second, ema } = self;
        let ema = averaged.then_some(&mut ema[..]);
        adamw(isa, step, gradient, AdamwState { param, first, second, ema });
    }

    fn bits(&self) -> Vec<u32> {
        [&self.param, &self.first, &self.second, &self.ema].into_iter().flatten().map(|x| x.to_bits()).collect()
    }
}

impl Trained<f64> {
    /// The formula, written out.
    fn update(&mut self, step: &AdamwStep, gradient: &[f32]) {
        let n = step.number.get() as f64;
        for (i, gradient) in gradient.iter().enumerate() {
            let g = f64::from(*gradient) * step.gradient_factor;
            let decayed = self.param[i] * (1.0 - step.learning_rate * step.weight_decay);
            self.first[i] = step.beta_1 * self.first[i] + (1.0 - step.beta_1) * g;
            self.second[i] = step.beta_2 * self.second[i] + (1.0 - step.beta_2) * g * g;
            let first = self.first[i] / (1.0 - step.beta_1.powf(n));
            let root = self.second[i].sqrt() / (1.0 - step.beta_2.powf(n)).sqrt();
            self.param[i] = decayed - step.learning_rate * first / (root + step.eps);
            self.ema[i] = step.ema_decay * self.ema[i] + (1.0 - step.ema_decay) * self.param[i];
        }
    }
}

fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Lengths around a vector and around a chunk.
fn lengths() -> &'static [usize] {
    if cfg!(miri) { &[0, 1, 17] } else { &[0, 1, 15, 16, 17, 333, CHUNK - 1, CHUNK + 1, 3 * CHUNK + 7] }
}

#[test]
fn many_updates_are_those_of_the_formula() {
    for isa in Isa::available() {
        for &count in lengths() {
            let mut found = Trained::<f32>::new(count);
            let [param, zeros] = [widened(&found.param), vec![0.0; count]];
            let mut exact = Trained { ema: param.clone(), param, first: zeros.clone(), second: zeros };
            for number in 1..=if cfg!(miri) { 3 } else { 40 } {
                let gradient = values(100 + number as u32, count);
                found.update(isa, &step(number), &gradient, true);
                exact.update(&step(number), &gradient);
            }
            let pairs = [
                (&found.param, &exact.param),
                (&found.first, &exact.first),
                (&found.second, &exact.second),
                (&found.ema, &exact.ema),
            ];
            for (which, (found, exact)) in pairs.into_iter().enumerate() {
                crate::testing::assert_close(found, exact, 2e-6, &format!("{isa} {count} slice {which}"));
            }
        }
    }
}

/// Numbers that a step by hand gives: eps of the size of the root, so that its place shows; a decay that shows.
#[test]
fn one_update_by_hand() {
    let by_hand = AdamwStep {
        learning_rate: 0.1,
        beta_1: 0.5,
        beta_2: 0.75,
        eps: 1.0,
        weight_decay: 0.5,
        gradient_factor: 2.0,
        ema_decay: 0.75,
        ..step(1)
    };
    for isa in Isa::available() {
        let mut x = Trained::<f32>::new(1);
        (x.param[0], x.ema[0]) = (2.0, 4.0);
        x.update(isa, &by_hand, &[1.5], true);
        // g = 3: first 1.5, second 2.25; corrected 3 and 3. 2 * 0.95 - 0.1 * 3 / (3 + 1).
        let param = 1.825;
        for (found, exact) in
            [(x.first[0], 1.5), (x.second[0], 2.25), (x.param[0], param), (x.ema[0], 3.0 + 0.25 * param)]
        {
            assert!((found - exact).abs() < 1e-6, "{isa}: {found} instead of {exact}");
        }
    }
}

#[test]
fn an_average_of_a_parameter_at_rest_goes_there_by_powers() {
    for isa in Isa::available() {
        let still = AdamwStep { learning_rate: 0.0, ..step(1) };
        let mut x = Trained::<f32>::new(35);
        x.ema.fill(0.0);
        for _ in 0..10 {
            x.update(isa, &still, &[1.0; 35], true);
        }
        let reached = 1.0 - 0.95_f64.powi(10);
        let exact: Vec<f64> = x.param.iter().map(|&param| f64::from(param) * reached).collect();
        crate::testing::assert_close(&x.ema, &exact, 1e-6, &isa.to_string());
    }
}

#[test]
fn without_an_average_all_else_is_the_same() {
    for isa in Isa::available() {
        let [mut with, mut without] = [(); 2].map(|()| Trained::<f32>::new(77));
        let ema = without.ema.clone();
        with.update(isa, &step(1), &values(5, 77), true);
        without.update(isa, &step(1), &values(5, 77), false);
        assert_eq!(without.ema, ema);
        without.ema = with.ema.clone();
        assert_eq!(with.bits(), without.bits(), "{isa}");
    }
}

#[test]
fn a_gradient_that_is_no_number_stays_where_it_is_and_is_seen_in_the_norm() {
    for isa in Isa::available() {
        for (at, bad) in [(3, f32::NAN), (40, f32::NAN), (66, f32::INFINITY)] {
            let mut gradient = values(5, 67);
            gradient[at] = bad;
            let mut x = Trained::<f32>::new(67);
            x.update(isa, &step(1), &gradient, true);
            for values in [&x.param, &x.ema] {
                assert!(values.iter().enumerate().all(|(i, x)| x.is_nan() == (i == at)), "{isa} {bad} at {at}");
            }
            assert!(!sum_of_squares(isa, &gradient).is_finite(), "{isa} {bad} at {at}");
        }
    }
}

#[test]
fn sums_of_squares_are_exact_to_f64() {
    assert_eq!(sum_of_squares(Isa::Portable, &[3.0, 4.0, 1e30]), 25.0 + f64::from(1e30_f32) * f64::from(1e30_f32));
    for isa in Isa::available() {
        for &count in lengths() {
            let x = values(9, count);
            let exact: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let found = sum_of_squares(isa, &x);
            assert!((found - exact).abs() <= 1e-12 * exact, "{isa} {count}: {found} instead of {exact}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let count = if cfg!(miri) { 100 } else { 5 * CHUNK + 11 };
    for isa in Isa::available() {
        let gradient = values(5, count);
        let run = || {
            let mut x = Trained::<f32>::new(count);
            x.update(isa, &step(3), &gradient, true);
            (x.bits(), sum_of_squares(isa, &gradient).to_bits())
        };
        let [one, two, five] =
            [1, 2, 5].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(run));
        assert!(one == two && one == five, "{isa}");
    }
}
