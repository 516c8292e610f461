use std::num::NonZeroUsize;

use burn::tensor::DType;
use rectiflow_nn::{DeviceChoice, TensorData};

use super::*;

const CONTINUE: ControlFlow<()> = ControlFlow::Continue(());

/// One evaluation of the model a step.
const ONE_EACH: [Solver; 10] = [
    Solver::Euler,
    Solver::Dpmpp2m,
    Solver::Dpmpp2mFlow,
    Solver::Dpmpp2mSde,
    Solver::Dpmpp3mSde,
    Solver::UniPc,
    Solver::Deis,
    Solver::Ipndm,
    Solver::EulerAncestral,
    Solver::Lcm,
];

fn deterministic() -> impl Iterator<Item = Solver> {
    Solver::ALL.into_iter().filter(|solver| !solver.is_stochastic())
}

/// Solvers whose steps are the schedule's.
fn of_the_schedule() -> impl Iterator<Item = Solver> {
    Solver::ALL.into_iter().filter(|solver| !solver.is_adaptive())
}

/// Down a schedule, with noise of nothing but 0.25 where a solver asks for it.
fn run(
    solver: Solver,
    model: &mut dyn Velocity,
    noise: Tensor<4>,
    schedule: &Schedule,
    mut watch: impl FnMut(Step<'_>) -> ControlFlow<()>,
) -> Result<Tensor<4>, SampleError> {
    let mut fresh = fresh(&noise);
    solver.run(model, noise, schedule, &mut fresh, &mut watch)
}

fn fresh(noise: &Tensor<4>) -> impl FnMut(usize) -> Tensor<4> + use<> {
    let noise = noise.ones_like() * 0.25;
    move |_| noise.clone()
}

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
    run(solver, &mut factor(|sigma| data.factor(sigma)), latent([1.0, -1.0]), &schedule, watch).unwrap();
    error
}

#[track_caller]
fn check_halving(solver: Solver, intervals: usize, ratios: std::ops::Range<f64>) {
    for shift in [1.0, 3.0] {
        for std in [0.5, 2.0] {
            let data = GaussianData { std };
            let ratio = error(solver, intervals, shift, data) / error(solver, 2 * intervals, shift, data);
            assert!(ratios.contains(&ratio), "{solver}, shift {shift}, std {std}: {ratio}");
        }
    }
}

/// Twice as many steps make the error 2, 4 or 16 times smaller.
#[test]
fn halving_the_step_shows_each_solvers_order() {
    check_halving(Solver::Euler, 1024, 1.99..2.01); // measured: 1.9986 to 1.9993
    check_halving(Solver::Heun, 1024, 3.9..4.2); // measured: 3.99 to 4.11
    check_halving(Solver::Midpoint, 64, 7.5..8.5); // measured: 7.87 to 8.06, better than its order on these data
    check_halving(Solver::Dpmpp2m, 1024, 3.9..4.2); // measured: 4.06 to 4.16
    check_halving(Solver::Dpmpp2mFlow, 1024, 3.5..4.3); // measured: 3.56 to 4.20
    check_halving(Solver::UniPc, 1024, 5.0..8.0); // measured: 5.25 to 7.57: the corrector is of order 3
    check_halving(Solver::Deis, 1024, 3.5..10.5); // measured: 3.61 to 4.01, and 10.2 where the error changes its sign
    check_halving(Solver::Ipndm, 1024, 3.9..4.1); // measured: 3.998 to 4.008
}

/// Of so high an order that 1024 steps leave nothing but rounding to measure.
#[test]
fn the_fourth_order_shows_in_few_steps() {
    for std in [0.5, 2.0] {
        let data = GaussianData { std };
        let ratio = error(Solver::Rk4, 32, 1.0, data) / error(Solver::Rk4, 64, 1.0, data);
        assert!((12.0..20.0).contains(&ratio), "std {std}: {ratio}");
    }
}

#[test]
fn a_tolerance_is_kept_and_a_smaller_one_costs_more() {
    let data = GaussianData { std: 0.5 };
    let tried = |tolerance: &str| {
        let mut model = factor(|sigma| data.factor(sigma));
        let solver: Solver = format!("dopri5({tolerance})").parse().unwrap();
        // One step from 1 to the lowest level: all the others are its own.
        let schedule = schedule(2, 1.0);
        let mut at_the_end = f64::NAN;
        let watch = |step: Step<'_>| {
            if step.sigma > 0.0 {
                at_the_end = values(step.latent)[0];
            }
            CONTINUE
        };
        run(solver, &mut model, latent([1.0, -1.0]), &schedule, watch).unwrap();
        ((at_the_end - data.exact(f64::from(schedule.sigmas()[1]))).abs(), model.asked.len())
    };
    let [loose, usual, tight] = ["0.1", "0.001", "0.00001"].map(tried);
    assert!(loose.0 < 0.1 && usual.0 < 2e-3 && tight.0 < 2e-5, "{loose:?} {usual:?} {tight:?}");
    assert!(loose.1 < usual.1 && usual.1 < tight.1 && tight.1 < 200, "{loose:?} {usual:?} {tight:?}");
}

#[test]
fn a_tolerance_that_cannot_be_kept_is_said() {
    let mut model = factor(|sigma| if (sigma * 1e5) as i64 % 2 == 0 { 1e4 } else { -1e4 });
    let solver = "dopri5(0.000001)".parse::<Solver>().unwrap();
    let error = run(solver, &mut model, latent([1.0, 2.0]), &schedule(8, 1.0), |_| CONTINUE).unwrap_err();
    assert!(matches!(error, SampleError::Tolerance { .. }), "{error}");
    assert!(error.to_string().contains("dopri5(0.01)"), "{error}");
}

/// Latents whose noise is independent of everything: the variance that a solver of the stochastic equation leaves is the
/// sum of squares of what each noise alone comes to, and must be the data's.
#[test]
fn stochastic_solvers_end_with_the_datas_variance() {
    for solver in [Solver::Dpmpp2mSde, Solver::Dpmpp3mSde, Solver::EulerAncestral] {
        for std in [0.5, 2.0] {
            let data = GaussianData { std };
            let variance = |steps: usize| {
                let schedule = schedule(steps, 3.0);
                let response = |start: f64, noisy: Option<usize>| {
                    let mut fresh = |step: usize| latent([if Some(step) == noisy { 1.0 } else { 0.0 }, 0.0]);
                    let mut model = factor(|sigma| data.factor(sigma));
                    let watch = &mut |_: Step<'_>| CONTINUE;
                    values(&solver.run(&mut model, latent([start, 0.0]), &schedule, &mut fresh, watch).unwrap())[0]
                };
                let of_steps = (0..steps).map(|step| response(0.0, Some(step)).powi(2)).sum::<f64>();
                response(1.0, None).powi(2) + of_steps
            };
            let [few, many] = [100, 400].map(|steps| (variance(steps) / std.powi(2) - 1.0).abs());
            assert!(many < 0.04 && many < few / 3.0, "{solver}, std {std}: {few}, {many}");
        }
    }
}

#[test]
fn noise_is_asked_for_by_stochastic_solvers_and_once_for_each_step_but_the_last() {
    for solver in Solver::ALL {
        let mut asked = Vec::new();
        let mut fresh = |step: usize| {
            asked.push(step);
            latent([0.5, -0.5])
        };
        let watch = &mut |_: Step<'_>| CONTINUE;
        solver.run(&mut factor(|_| 0.1), latent([1.0, 2.0]), &schedule(4, 3.0), &mut fresh, watch).unwrap();
        assert_eq!(asked, if solver.is_stochastic() { vec![0, 1, 2] } else { vec![] }, "{solver}");
    }
}

#[test]
fn a_straight_path_is_followed_exactly() {
    struct Straight;
    impl Velocity for Straight {
        fn velocity(&mut self, _: &Tensor<4>, _: f32) -> Result<Tensor<4>, SampleError> {
            Ok(latent([1.5, -0.25]))
        }
    }
    for solver in deterministic() {
        for steps in [1, 2, 28] {
            let image = run(solver, &mut Straight, latent([0.75, 2.0]), &schedule(steps, 3.0), |_| CONTINUE).unwrap();
            for (value, expected) in values(&image).into_iter().zip([-0.75, 2.25]) {
                assert!((value - expected).abs() < 1e-12, "{solver}, {steps} steps: {value}, expected {expected}");
            }
        }
    }
}

/// A schedule of one step is Euler's for every solver: the picture is where the first velocity points.
#[test]
fn one_step_goes_where_the_velocity_points() {
    for solver in Solver::ALL {
        let image = run(solver, &mut factor(|_| 0.3), latent([1.0, -2.0]), &schedule(1, 3.0), |_| CONTINUE).unwrap();
        for (value, expected) in values(&image).into_iter().zip([0.7, -1.4]) {
            assert!((value - expected).abs() < 1e-6, "{solver}: {value}, expected {expected}");
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
    let ours = run(Solver::Dpmpp2m, &mut model, latent([1.0, 0.0]), &schedule, |_| CONTINUE).unwrap();
    assert!((values(&ours)[0] - x).abs() < 1e-12, "{} here, {x} in the reference", values(&ours)[0]);
}

#[test]
fn solvers_ask_where_they_say_and_never_at_0() {
    let schedule = schedule(3, 1.0);
    let [first, second, third, _] = *schedule.sigmas() else { panic!("three steps have four levels") };
    let between = |a: f32, b: f32| (f64::midpoint(a.into(), b.into())) as f32;
    let [upper, lower] = [between(first, second), between(second, third)];
    let mut all = vec![
        (Solver::Heun, vec![first, second, second, third, third]),
        (Solver::Midpoint, vec![first, upper, second, lower, third]),
        (Solver::Rk4, vec![first, upper, upper, second, second, lower, lower, third, third]),
    ];
    all.extend(ONE_EACH.map(|solver| (solver, vec![first, second, third])));
    assert_eq!(all.len() + 1, Solver::ALL.len());
    for (solver, expected) in all {
        let mut model = factor(|_| 0.1);
        run(solver, &mut model, latent([1.0, 2.0]), &schedule, |_| CONTINUE).unwrap();
        assert_eq!(model.asked, expected, "{solver}");
    }
    let mut model = factor(|_| 0.1);
    run(Solver::Dopri5(Tolerance::USUAL), &mut model, latent([1.0, 2.0]), &schedule, |_| CONTINUE).unwrap();
    assert!(model.asked.iter().all(|sigma| (third..=first).contains(sigma)), "{:?}", model.asked);
}

#[test]
fn the_watcher_sees_every_step_and_the_result() {
    let schedule = schedule(4, 3.0);
    for solver in of_the_schedule() {
        let mut seen = Vec::new();
        let watch = |step: Step<'_>| {
            seen.push((step.index, step.sigma, values(step.latent)));
            CONTINUE
        };
        let image = run(solver, &mut factor(|sigma| sigma), latent([1.0, 2.0]), &schedule, watch).unwrap();

        let levels: Vec<(usize, f32)> = seen.iter().map(|&(index, sigma, _)| (index, sigma)).collect();
        let expected: Vec<(usize, f32)> = schedule.sigmas()[1..].iter().copied().enumerate().collect();
        assert_eq!(levels, expected, "{solver}");
        assert_eq!(seen.last().unwrap().2, values(&image), "{solver}");
    }
}

#[test]
fn a_watcher_that_breaks_stops_the_run_there() {
    for solver in of_the_schedule() {
        let mut steps = 0;
        let watch = |step: Step<'_>| {
            steps += 1;
            if step.index == 2 { ControlFlow::Break(()) } else { CONTINUE }
        };
        let stopped = run(solver, &mut factor(|_| 0.1), latent([1.0, 2.0]), &schedule(28, 3.0), watch);
        assert!(matches!(stopped, Err(SampleError::Stopped { step: 2 })), "{solver}: {stopped:?}");
        assert_eq!(steps, 3, "{solver}");
    }
}

#[test]
fn values_that_are_not_finite_are_found_at_their_step() {
    let schedule = schedule(8, 3.0);
    // Those that look ahead meet the bad level a step earlier.
    let ahead = [Solver::Heun, Solver::Rk4].map(|solver| (solver, 2));
    for (solver, expected) in ONE_EACH.into_iter().chain([Solver::Midpoint]).map(|solver| (solver, 3)).chain(ahead) {
        for bad in [f64::NAN, f64::INFINITY] {
            let bad_from = f64::from(schedule.sigmas()[3]);
            let mut model = factor(|sigma| if sigma <= bad_from { bad } else { 0.1 });
            let mut accepted = 0;
            let watch = |_: Step<'_>| {
                accepted += 1;
                CONTINUE
            };
            let Err(SampleError::NotFinite { step, sigma }) =
                run(solver, &mut model, latent([1.0, 2.0]), &schedule, watch)
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
            run(solver, &mut Broken, latent([1.0, 2.0]), &schedule(4, 3.0), |_| CONTINUE)
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
        let image = run(solver, &mut factor(|_| 0.1), noise, &schedule(4, 3.0), |_| CONTINUE).unwrap();
        assert_eq!(image.dtype(), DType::F32, "{solver}");
    }
}

/// A solver that chooses its steps tells when it passes a level, finds values that are not finite, and can be stopped.
#[test]
fn an_adaptive_solver_can_be_watched_as_the_others() {
    let solver = Solver::Dopri5(Tolerance::USUAL);
    let schedule = schedule(6, 3.0);
    let mut seen = Vec::new();
    let watch = |step: Step<'_>| {
        seen.push((step.index, step.sigma));
        CONTINUE
    };
    run(solver, &mut factor(|sigma| sigma), latent([1.0, 2.0]), &schedule, watch).unwrap();
    assert!(seen.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1), "{seen:?}");
    assert_eq!(*seen.last().unwrap(), (5, 0.0));
    let stop = |_: Step<'_>| ControlFlow::Break(());
    let stopped = run(solver, &mut factor(|_| 0.1), latent([1.0, 2.0]), &schedule, stop);
    assert!(matches!(stopped, Err(SampleError::Stopped { .. })), "{stopped:?}");
    for bad in [f64::NAN, f64::INFINITY] {
        let mut model = factor(|sigma| if sigma < 0.5 { bad } else { 0.1 });
        let found = run(solver, &mut model, latent([1.0, 2.0]), &schedule, |_| CONTINUE);
        assert!(matches!(found, Err(SampleError::NotFinite { .. })), "{found:?}");
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
    for (text, solver) in [
        ("DPM++ 2M SDE", Solver::Dpmpp2mSde),
        ("dpm++3m_sde", Solver::Dpmpp3mSde),
        ("unipc", Solver::UniPc),
        ("euler_ancestral", Solver::EulerAncestral),
        ("Euler a", Solver::EulerAncestral),
        ("dopri5(0.001)", Solver::Dopri5(Tolerance::USUAL)),
    ] {
        assert_eq!(text.parse(), Ok(solver), "{text}");
    }
    let fine: Solver = "dopri5(1e-4)".parse().unwrap();
    assert_eq!(fine.to_string(), "dopri5(0.0001)");
    assert_eq!(fine.to_string().parse(), Ok(fine));
    for (text, expected) in [
        ("ddim", "`ddim` is not a solver; give euler, heun, midpoint"),
        ("dopri5(1e-4", "is not a solver"),
        ("dopri5(2)", "`2` is no tolerance"),
        ("dopri5(NaN)", "`NaN` is no tolerance"),
        ("euler(0.1)", "euler takes no tolerance"),
    ] {
        let error = text.parse::<Solver>().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
