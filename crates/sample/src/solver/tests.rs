use std::num::NonZeroUsize;

use burn::tensor::DType;
use rectiflow_nn::{DeviceChoice, TensorData};

use super::*;

const CONTINUE: ControlFlow<()> = ControlFlow::Continue(());

fn schedule(steps: usize, shift: f32) -> Schedule {
    Schedule::released(NonZeroUsize::new(steps).unwrap(), shift).unwrap()
}

/// f64, so that a step's error and not its rounding is what is measured.
fn latent(values: [f64; 2]) -> Tensor<4> {
    let device = DeviceChoice::Cpu.open().unwrap();
    Tensor::from_data(TensorData::new(values.to_vec(), [1, 1, 1, 2]), (&device, DType::F64))
}

fn values(latent: &Tensor<4>) -> Vec<f64> {
    latent.to_data().try_into_vec().unwrap()
}

/// A velocity that is a factor of the latent; notes the levels it was asked at.
struct Factor<F> {
    factor: F,
    asked: Vec<f32>,
}

fn factor<F: Fn(f64) -> f64>(factor: F) -> Factor<F> {
    Factor { factor, asked: Vec::new() }
}

impl<F: Fn(f64) -> f64> Velocity for Factor<F> {
    fn velocity(&mut self, latent: &Tensor<4>, sigma: f32) -> Result<Tensor<4>, SampleError> {
        self.asked.push(sigma);
        Ok(latent.clone() * (self.factor)(f64::from(sigma)))
    }
}

/// Images that are normal with this standard deviation: the exact velocity is known, and
/// `x(sigma) = x(1) * exact(sigma)`.
#[derive(Clone, Copy)]
struct GaussianData {
    std: f64,
}

impl GaussianData {
    fn variance(self, sigma: f64) -> f64 {
        ((1.0 - sigma) * self.std).powi(2) + sigma.powi(2)
    }

    fn exact(self, sigma: f64) -> f64 {
        self.variance(sigma).sqrt()
    }

    fn factor(self, sigma: f64) -> f64 {
        (sigma - (1.0 - sigma) * self.std.powi(2)) / self.variance(sigma)
    }
}

/// The error at the lowest level above 0, for an even grid of `intervals` down to it.
///
/// Measured there and not at 0 because that level stays where it is when steps are added: the last step, from it
/// to 0, keeps its width and so its error. `Schedule::released(intervals + 1)` halves each interval when
/// `intervals` doubles.
fn error(solver: Solver, intervals: usize, shift: f32, data: GaussianData) -> f64 {
    let schedule = schedule(intervals + 1, shift);
    let mut error = f64::NAN;
    let watch = |step: Step<'_>| {
        if step.index + 1 == intervals {
            error = (values(step.latent)[0] - data.exact(f64::from(step.sigma))).abs();
        }
        CONTINUE
    };
    solver.run(&mut factor(|sigma| data.factor(sigma)), latent([1.0, -1.0]), &schedule, watch).unwrap();
    error
}

#[track_caller]
fn check_halving(solver: Solver, ratios: std::ops::Range<f64>) {
    for shift in [1.0, 3.0] {
        for std in [0.5, 2.0] {
            let data = GaussianData { std };
            let ratio = error(solver, 1024, shift, data) / error(solver, 2048, shift, data);
            assert!(ratios.contains(&ratio), "{solver}, shift {shift}, std {std}: {ratio}");
        }
    }
}

#[test]
fn halving_the_step_halves_eulers_error() {
    check_halving(Solver::Euler, 1.99..2.01); // measured: 1.9986 to 1.9993
}

#[test]
fn halving_the_step_quarters_heuns_error() {
    check_halving(Solver::Heun, 3.9..4.2); // measured: 3.99 to 4.11
}

#[test]
fn halving_the_step_quarters_dpmpp_2ms_error() {
    check_halving(Solver::Dpmpp2m, 3.9..4.2); // measured: 4.06 to 4.16
}

#[test]
fn a_straight_path_is_followed_exactly() {
    struct Straight;
    impl Velocity for Straight {
        fn velocity(&mut self, _: &Tensor<4>, _: f32) -> Result<Tensor<4>, SampleError> {
            Ok(latent([1.5, -0.25]))
        }
    }
    for solver in Solver::ALL {
        for steps in [1, 2, 28] {
            let image = solver.run(&mut Straight, latent([0.75, 2.0]), &schedule(steps, 3.0), |_| CONTINUE).unwrap();
            for (value, expected) in values(&image).into_iter().zip([-0.75, 2.25]) {
                assert!((value - expected).abs() < 1e-12, "{solver}, {steps} steps: {value}, expected {expected}");
            }
        }
    }
}

/// The SD3.5 reference's own spelling: `t = -ln sigma`, `expm1`, weights of the two denoised latents.
#[test]
fn dpmpp_2m_is_the_references() {
    let data = GaussianData { std: 0.7 };
    let schedule = schedule(9, 3.0);

    let mut x = 1.0_f64;
    let mut old: Option<(f64, f64)> = None;
    for (sigma, sigma_next) in schedule.steps() {
        let (sigma, sigma_next) = (f64::from(sigma), f64::from(sigma_next));
        let denoised = x - sigma * data.factor(sigma) * x;
        let h = -sigma_next.ln() + sigma.ln();
        let mixed = match old {
            Some((old_denoised, h_last)) if sigma_next != 0.0 => {
                let r = h_last / h;
                (1.0 + 1.0 / (2.0 * r)) * denoised - 1.0 / (2.0 * r) * old_denoised
            }
            _ => denoised,
        };
        x = sigma_next / sigma * x - (-h).exp_m1() * mixed;
        old = Some((denoised, h));
    }

    let mut model = factor(|sigma| data.factor(sigma));
    let ours = Solver::Dpmpp2m.run(&mut model, latent([1.0, 0.0]), &schedule, |_| CONTINUE).unwrap();
    assert!((values(&ours)[0] - x).abs() < 1e-12, "{} here, {x} in the reference", values(&ours)[0]);
}

#[test]
fn solvers_ask_where_they_say_and_never_at_0() {
    let schedule = schedule(3, 1.0);
    let [first, second, third, _] = *schedule.sigmas() else { panic!("three steps have four levels") };
    for (solver, expected) in [
        (Solver::Euler, vec![first, second, third]),
        (Solver::Heun, vec![first, second, second, third, third]),
        (Solver::Dpmpp2m, vec![first, second, third]),
    ] {
        let mut model = factor(|_| 0.1);
        solver.run(&mut model, latent([1.0, 2.0]), &schedule, |_| CONTINUE).unwrap();
        assert_eq!(model.asked, expected, "{solver}");
    }
}

#[test]
fn the_watcher_sees_every_step_and_the_result() {
    let schedule = schedule(4, 3.0);
    for solver in Solver::ALL {
        let mut seen = Vec::new();
        let watch = |step: Step<'_>| {
            seen.push((step.index, step.sigma, values(step.latent)));
            CONTINUE
        };
        let image = solver.run(&mut factor(|sigma| sigma), latent([1.0, 2.0]), &schedule, watch).unwrap();

        let levels: Vec<(usize, f32)> = seen.iter().map(|&(index, sigma, _)| (index, sigma)).collect();
        let expected: Vec<(usize, f32)> = schedule.sigmas()[1..].iter().copied().enumerate().collect();
        assert_eq!(levels, expected, "{solver}");
        assert_eq!(seen.last().unwrap().2, values(&image), "{solver}");
    }
}

#[test]
fn a_watcher_that_breaks_stops_the_run_there() {
    for solver in Solver::ALL {
        let mut steps = 0;
        let watch = |step: Step<'_>| {
            steps += 1;
            if step.index == 2 { ControlFlow::Break(()) } else { CONTINUE }
        };
        let stopped = solver.run(&mut factor(|_| 0.1), latent([1.0, 2.0]), &schedule(28, 3.0), watch);
        assert!(matches!(stopped, Err(SampleError::Stopped { step: 2 })), "{solver}: {stopped:?}");
        assert_eq!(steps, 3, "{solver}");
    }
}

#[test]
fn values_that_are_not_finite_are_found_at_their_step() {
    let schedule = schedule(8, 3.0);
    // Heun looks ahead and so meets the bad level a step earlier.
    for (solver, expected) in [(Solver::Euler, 3), (Solver::Heun, 2), (Solver::Dpmpp2m, 3)] {
        for bad in [f64::NAN, f64::INFINITY] {
            let bad_from = f64::from(schedule.sigmas()[3]);
            let mut model = factor(|sigma| if sigma <= bad_from { bad } else { 0.1 });
            let mut accepted = 0;
            let watch = |_: Step<'_>| {
                accepted += 1;
                CONTINUE
            };
            let Err(SampleError::NotFinite { step, sigma }) =
                solver.run(&mut model, latent([1.0, 2.0]), &schedule, watch)
            else {
                panic!("{solver} accepted {bad}")
            };
            assert_eq!((step, sigma, accepted), (expected, schedule.sigmas()[expected], expected), "{solver}, {bad}");
        }
    }
}

#[test]
fn a_models_error_comes_back() {
    struct Broken;
    impl Velocity for Broken {
        fn velocity(&mut self, _: &Tensor<4>, _: f32) -> Result<Tensor<4>, SampleError> {
            Err(SampleError::Model("out of memory".into()))
        }
    }
    for solver in Solver::ALL {
        let Err(SampleError::Model(source)) =
            solver.run(&mut Broken, latent([1.0, 2.0]), &schedule(4, 3.0), |_| CONTINUE)
        else {
            panic!("{solver} lost the model's error")
        };
        assert_eq!(source.to_string(), "out of memory");
    }
}

#[test]
fn f32_noise_gives_an_f32_latent() {
    for solver in Solver::ALL {
        let noise = latent([1.0, 2.0]).cast(DType::F32);
        let image = solver.run(&mut factor(|_| 0.1), noise, &schedule(4, 3.0), |_| CONTINUE).unwrap();
        assert_eq!(image.dtype(), DType::F32, "{solver}");
    }
}

#[test]
fn names_are_read_back() {
    for solver in Solver::ALL {
        assert_eq!(solver.to_string().parse(), Ok(solver));
    }
    for text in ["dpm++2m", "dpmpp2m", "dpm++_2m", "DPM++ 2M"] {
        assert_eq!(text.parse(), Ok(Solver::Dpmpp2m), "{text}");
    }
    let error = "ddim".parse::<Solver>().unwrap_err();
    assert_eq!(error.to_string(), "`ddim` is not a solver; give euler, heun, dpmpp_2m");
}
