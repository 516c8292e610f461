//! The 61 formulations against integrals, draws and what the paper prints.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::f64::consts::{FRAC_PI_2, PI};

use rectiflow_flow::noise::TorchRng;
use rectiflow_flow::{Density, EdmReading, Formulation, FormulationError, Path, Prediction, log_snr, shifted};

fn named(name: &str) -> Formulation {
    name.parse().unwrap()
}

/// The paper's, and what people do with them: shifted, read the other way, with other parameters.
fn many() -> Vec<Formulation> {
    let mut all = Formulation::all();
    all.extend(
        ["rf", "rf/lognorm(0.00,1.00)", "rf/mode(1.29)", "rf/cosmap", "edm(-1.20,1.20)", "v/cos"]
            .map(|name| named(name).shifted(3.0).unwrap()),
    );
    all.extend(["rf/mode(-1)", "edm/rf"].map(|name| named(name).shifted(0.3).unwrap()));
    all
}

/// Evenly spread over (0, 1) in every part of the sequence: the base-2 van der Corput sequence, moved off its grid.
fn spread(index: u32) -> f64 {
    (f64::from(index.reverse_bits()) + 0.5) / 4_294_967_296.0
}

/// Tanh-sinh quadrature, which does not mind a function that is infinite at an end.
fn integral(from: f64, to: f64, function: impl Fn(f64) -> f64) -> f64 {
    const HALF_STEPS: i32 = 160;
    let (width, step) = (to - from, 3.4 / f64::from(HALF_STEPS));
    let sum: f64 = (-HALF_STEPS..=HALF_STEPS)
        .map(|index| {
            let t = f64::from(index) * step;
            let bent = FRAC_PI_2 * t.sinh();
            // The distance from the nearer end, without cancellation.
            let near = 1.0 / (1.0 + (2.0 * bent.abs()).exp());
            let x = if bent < 0.0 { from + width * near } else { to - width * near };
            function(x) * width * 0.5 * FRAC_PI_2 * t.cosh() / bent.cosh().powi(2)
        })
        .sum();
    sum * step
}

#[test]
fn there_are_61_different_ones_in_the_papers_families() {
    let names: Vec<String> = Formulation::all().iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), 61);
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 61);
    let count = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
    assert_eq!((count("rf/mode("), count("rf/lognorm("), count("edm("), count("edm/")), (8, 30, 15, 2));
    // Every name in the paper's two tables.
    for name in [
        "rf",
        "rf/lognorm(0.00,1.00)",
        "rf/lognorm(1.00,0.60)",
        "rf/lognorm(0.50,0.60)",
        "rf/lognorm(0.50,1.00)",
        "rf/lognorm(-0.50,1.00)",
        "rf/mode(1.29)",
        "rf/mode(1.75)",
        "rf/cosmap",
        "eps/linear",
        "v/linear",
        "v/cos",
        "edm(0.00,0.60)",
        "edm(0.60,1.20)",
        "edm(-1.20,1.20)",
        "edm/cos",
        "edm/rf",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
}

#[test]
fn every_density_integrates_to_the_share_of_levels_below() {
    for formulation in many() {
        // Cut where mode's density has its peak, and where the tails of narrow ones begin.
        let middle = shifted(0.5, formulation.quantile(0.5) / (1.0 - formulation.quantile(0.5)));
        let cuts = [0.0, 0.5 * middle, middle, 0.5 * (1.0 + middle), 1.0];
        if formulation.probability_density(0.5).is_none() {
            let levels: Vec<f64> = formulation.fixed_levels().unwrap().collect();
            assert!(levels.len() == 1000 && levels.is_sorted_by(|a, b| a < b), "{formulation}");
            assert_eq!(levels.iter().map(|&level| formulation.cumulative(level)).next_back(), Some(1.0));
            continue;
        }
        let mut total = 0.0;
        for pair in cuts.windows(2) {
            let share = integral(pair[0], pair[1], |sigma| formulation.probability_density(sigma).unwrap());
            let expected = formulation.cumulative(pair[1]) - formulation.cumulative(pair[0]);
            assert!((share - expected).abs() < 1e-4, "{formulation}, {pair:?}: {share}, expected {expected}");
            total += share;
        }
        assert!((total - 1.0).abs() < 1e-4, "{formulation}: {total}");
    }
}

/// Kolmogorov-Smirnov's distance between draws and a distribution function.
fn distance(mut draws: Vec<f64>, cumulative: impl Fn(f64) -> f64) -> f64 {
    draws.sort_by(f64::total_cmp);
    let count = draws.len() as f64;
    let at = |(index, &draw): (usize, &f64)| {
        let share = cumulative(draw);
        (share - index as f64 / count).max((index + 1) as f64 / count - share)
    };
    draws.iter().enumerate().map(at).fold(0.0, f64::max)
}

#[test]
fn draws_are_distributed_as_they_say() {
    const DRAWS: u32 = 4096;
    for formulation in many() {
        let draws: Vec<f64> = (1..=DRAWS).map(|index| formulation.quantile(spread(index))).collect();
        assert!(draws.iter().all(|sigma| (0.0..=1.0).contains(sigma)), "{formulation}");
        // A step of the discrete ones is 1/1000.
        let bound = if formulation.fixed_levels().is_some() { 1.5e-3 } else { 5e-4 };
        let found = distance(draws, |sigma| formulation.cumulative(sigma));
        assert!(found < bound, "{formulation}: {found}");
    }
}

/// The recipe for drawing that the paper gives, with normals of another origin.
#[test]
fn draws_are_the_papers_recipes() {
    const DRAWS: usize = 20_000;
    // Kolmogorov's bound for a chance of 1 in 1000.
    let bound = 1.95 / (DRAWS as f64).sqrt();
    let normals = TorchRng::new(7).standard_normal(DRAWS);
    let check = |name: &str, shift: f64, draw: &dyn Fn(f64) -> f64| {
        let formulation = named(name).shifted(shift).unwrap();
        let draws = normals.iter().map(|&normal| draw(f64::from(normal))).collect();
        let found = distance(draws, |sigma| formulation.cumulative(sigma));
        assert!(found < bound, "{name}: {found}");
    };
    check("rf/lognorm(0.50,0.60)", 1.0, &|normal| 1.0 / (1.0 + (-(0.5 + 0.6 * normal)).exp()));
    // b = exp(P_m + P_s n), and z = x0 + b eps has as much noise as the mix of b/(1 + b).
    check("edm(-1.20,1.20)", 1.0, &|normal| {
        let b = (-1.2 + 1.2 * normal).exp();
        b / (1.0 + b)
    });
    check("rf/lognorm(-1.00,1.40)", 3.0, &|normal| {
        let t = 1.0 / (1.0 + (-(-1.0 + 1.4 * normal)).exp());
        3.0 * t / (1.0 + 2.0 * t)
    });
}

#[test]
fn quantiles_rise_and_are_inverted_by_the_share_below() {
    for formulation in many().into_iter().filter(|formulation| formulation.fixed_levels().is_none()) {
        let mut last = -1.0;
        for step in 1..400 {
            let u = f64::from(step) / 400.0;
            let sigma = formulation.quantile(u);
            assert!(sigma > last, "{formulation} at {u}");
            assert!((formulation.cumulative(sigma) - u).abs() < 1e-9, "{formulation} at {u}");
            last = sigma;
        }
        for u in [0.0, 1.0] {
            let sigma = formulation.quantile(u);
            assert!((0.0..=1.0).contains(&sigma), "{formulation}: {sigma}");
            // Where an end has an infinite log-SNR, and a network that takes it.
            assert!(formulation.path() == Path::Straight || (sigma > 0.0 && sigma < 1.0), "{formulation}: {sigma}");
        }
    }
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found}, expected {expected}");
}

#[test]
fn densities_are_the_papers_formulas() {
    let at = |name: &str, sigma: f64| named(name).probability_density(sigma).unwrap();
    for t in [0.1_f64, 0.25, 0.5, 0.7, 0.95] {
        let logit = (t / (1.0 - t)).ln();
        for (mean, std) in [(0.0, 1.0), (0.5, 0.6), (-1.0, 2.2)] {
            let exponent = -(logit - mean).powi(2) / (2.0 * std * std);
            let expected = exponent.exp() / (std * (2.0 * PI).sqrt() * t * (1.0 - t));
            close(at(&format!("rf/lognorm({mean},{std})"), t), expected);
        }
        close(at("rf/cosmap", t), 2.0 / (PI - 2.0 * PI * t + 2.0 * PI * t * t));
        close(named("rf/cosmap").quantile(t), 1.0 - 1.0 / ((FRAC_PI_2 * t).tan() + 1.0));
        close(at("rf/mode(0)", t), 1.0);
        // The paper's f_mode falls with u.
        for scale in [-1.0, 0.38, 1.29, 1.75] {
            let f = 1.0 - t - scale * ((FRAC_PI_2 * t).cos().powi(2) - 1.0 + t);
            close(named(&format!("rf/mode({scale})")).quantile(1.0 - t), f);
        }
    }
    close(at("rf/lognorm(0,1)", 0.5), 4.0 / (2.0 * PI).sqrt());
    // At u = 1/2 the slope of f_mode is 1 + s (1 - pi/2).
    close(at("rf/mode(1.29)", 0.5), 1.0 / (1.0 + 1.29 * (1.0 - FRAC_PI_2)));
    close(at("rf/cosmap", 0.5), 4.0 / PI);
}

/// Densities of log-SNRs, as the paper and its sources have them.
#[test]
fn log_snrs_are_distributed_as_the_sources_say() {
    let at = |name: &str, sigma: f64| named(name).probability_density(sigma).unwrap() * 0.5 * sigma * (1.0 - sigma);
    for sigma in [0.05, 0.3, 0.5, 0.8] {
        let lambda = log_snr(sigma);
        for name in ["rf", "edm/rf"] {
            close(at(name, sigma), 0.125 / (lambda / 4.0).cosh().powi(2));
        }
        for name in ["v/cos", "eps/cos", "edm/cos", "rf/cosmap"] {
            close(at(name, sigma), 0.5 / PI / (lambda / 2.0).cosh());
        }
        let normal = (-(lambda - 2.4).powi(2) / (2.0 * 2.4 * 2.4)).exp() / (2.4 * (2.0 * PI).sqrt());
        close(at("edm(-1.2,1.2)", sigma), normal);
    }
}

/// The column of weights in the paper's section 3, and `t/(1-t) pi(t)` of section 3.1.
#[test]
fn a_density_is_a_weight_and_both_together_are_the_papers() {
    let weight = |name: &str, sigma: f64| named(name).total_weight(sigma).unwrap();
    for sigma in [0.02, 0.2, 0.5, 0.75, 0.97] {
        let lambda = log_snr(sigma);
        let rf = sigma / (1.0 - sigma);
        close(weight("rf", sigma), rf);
        close(rf, (-lambda / 2.0).exp());
        for name in ["rf/lognorm(0.5,0.6)", "rf/mode(1.29)", "rf/cosmap"] {
            close(weight(name, sigma), rf * named(name).probability_density(sigma).unwrap());
        }
        let data = (-lambda).exp() + 0.25;
        let normal = (-(lambda + 1.2).powi(2) / (2.0 * 3.6 * 3.6)).exp() / (3.6 * (2.0 * PI).sqrt());
        close(weight("edm(0.6,1.8)", sigma), 8.0 * normal * data);
        close(weight("eps/cos", sigma), 1.0 / PI / (lambda / 2.0).cosh());
        close(weight("v/cos", sigma), 2.0 / PI * (-lambda / 2.0).exp());

        // The two readings of the two that match another's schedule.
        close(weight("edm/rf", sigma), (lambda / 4.0).cosh().powi(-2) * data);
        close(weight("edm/cos", sigma), 4.0 / PI / (lambda / 2.0).cosh() * data);
        let total = |name: &str| named(name).read_as(EdmReading::TotalWeight).total_weight(sigma).unwrap();
        close(total("edm/rf"), weight("rf", sigma));
        close(total("edm/cos"), weight("v/cos", sigma));
    }
    assert_eq!(named("eps/linear").total_weight(0.5), None);
    let rf = named("rf").read_as(EdmReading::TotalWeight);
    assert_eq!((rf.weight(), rf.level(0.3)), (named("rf").weight(), named("rf").level(0.3)));
}

#[test]
fn a_shift_moves_every_draw_down_in_log_snr() {
    for formulation in Formulation::all() {
        if formulation.density() == Density::Levels {
            assert!(matches!(formulation.shifted(3.0), Err(FormulationError::FixedLevels { .. })), "{formulation}");
            assert_eq!(formulation.shifted(1.0), Ok(formulation));
            continue;
        }
        let moved = formulation.shifted(3.0).unwrap();
        for u in [0.2, 0.5, 0.8] {
            let (before, after) = (formulation.quantile(u), moved.quantile(u));
            assert!((log_snr(before) - log_snr(after) - 2.0 * 3.0_f64.ln()).abs() < 1e-9, "{formulation} at {u}");
        }
        assert_eq!(moved.level(0.3), formulation.level(0.3));
        let twice = formulation.shifted(2.0).unwrap().shifted(1.5).unwrap();
        assert_eq!(twice, moved);
        for shift in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(
                matches!(formulation.shifted(shift), Err(FormulationError::Shift { .. })),
                "{formulation}, {shift}"
            );
        }
    }
}

/// A picture and noise, uncorrelated and of exactly these standard deviations within the set.
fn pairs(std: f64) -> Vec<(f64, f64)> {
    const COUNT: usize = 2000;
    let values = TorchRng::new(3).standard_normal(2 * COUNT);
    let (x, y) = values.split_at(COUNT);
    let [x, mut y] = [x, y].map(|half| half.iter().map(|&value| f64::from(value)).collect::<Vec<_>>());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / COUNT as f64;
    let slope = dot(&x, &y) / dot(&x, &x);
    y.iter_mut().zip(&x).for_each(|(y, x)| *y -= slope * x);
    let (scale_x, scale_y) = (std / dot(&x, &x).sqrt(), 1.0 / dot(&y, &y).sqrt());
    x.iter().zip(&y).map(|(x, y)| (x * scale_x, y * scale_y)).collect()
}

/// For pictures that are normal, the best prediction is a multiple of what the network sees. Least squares on drawn
/// pictures and noise finds it; as a velocity it must be the closed form.
#[test]
fn the_least_loss_on_normal_pictures_is_at_the_exact_velocity() {
    for std in [0.3, 1.7] {
        let pairs = pairs(std);
        for formulation in many() {
            for bin in 0..24 {
                let sigma = formulation.quantile((f64::from(bin) + 0.5) / 24.0);
                let range = formulation.sigma_range();
                if !range.contains(&sigma) {
                    continue;
                }
                let level = formulation.level(sigma);
                assert!(level.weight > 0.0 && level.weight.is_finite(), "{formulation}, {sigma}");
                let (mut along, mut square) = (0.0, 0.0);
                for (x0, eps) in &pairs {
                    let input = level.input_scale * (level.noisy.image * x0 + level.noisy.noise * eps);
                    along += level.weight * input * (level.target.image * x0 + level.target.noise * eps);
                    square += level.weight * input * input;
                }
                let conversion = formulation.conversion(sigma);
                assert_eq!(conversion.timestep, level.timestep);
                let found = conversion.of_latent + conversion.of_prediction * (along / square) * conversion.input_scale;
                let kept = (1.0 - sigma) * std * std;
                let exact = (sigma - kept) / (kept * (1.0 - sigma) + sigma * sigma);
                assert!(
                    (found - exact).abs() < 1e-7 * exact.abs().max(1.0),
                    "{formulation}, {sigma}: {found}, {exact}"
                );
            }
        }
    }
}

#[test]
fn an_exact_prediction_becomes_the_exact_velocity() {
    let (x0, eps) = (1.3, -0.4);
    for formulation in Formulation::all() {
        let range = formulation.sigma_range();
        for index in 1..200 {
            let sigma = range.start() + (range.end() - range.start()) * spread(index);
            let level = formulation.level(sigma);
            let conversion = formulation.conversion(sigma);
            let latent = (1.0 - sigma) * x0 + sigma * eps;
            let prediction = level.target.image * x0 + level.target.noise * eps;
            let velocity = conversion.of_latent * latent + conversion.of_prediction * prediction;
            assert!((velocity - (eps - x0)).abs() < 1e-9, "{formulation}, {sigma}: {velocity}");
            // Both say the same of what the network sees.
            let noisy = level.noisy.image * x0 + level.noisy.noise * eps;
            assert!(
                (conversion.input_scale * latent - level.input_scale * noisy).abs() < 1e-9,
                "{formulation}, {sigma}"
            );
        }
    }
}

/// EDM's own weight, `(s^2 + 0.25) / (0.5 s)^2` on the picture's error, and what its network sees has a variance of 1.
#[test]
fn edm_weighs_and_scales_as_its_paper_says() {
    let formulation = named("edm(-1.2,1.2)");
    for s in [0.01, 0.4, 3.0, 60.0] {
        let sigma = Path::Exploding.sigma(s);
        let level = formulation.level(sigma);
        // With the noisy picture given, an error of the picture is one of the noise times -s.
        let of_picture = (level.target.image - level.target.noise / s).powi(2);
        close(level.weight * of_picture, (s * s + 0.25) / (0.5 * s).powi(2));
        close(level.input_scale.powi(2) * (0.25 + s * s), 1.0);
        close((level.target.image * 0.5).powi(2) + level.target.noise.powi(2), 1.0);
    }
}

#[test]
fn the_range_says_where_a_network_may_be_asked() {
    let range = |name: &str| named(name).sigma_range();
    for name in ["rf", "rf/cosmap", "v/cos"] {
        assert_eq!(range(name), 0.0..=1.0, "{name}");
    }
    let edm = range("edm/rf");
    close(Path::Exploding.time(*edm.start()), 0.002);
    close(Path::Exploding.time(*edm.end()), 80.0);
    close(log_snr(*range("eps/cos").end()), -15.0);
    let linear = range("v/linear");
    close(Path::Linear.time(*linear.start()), 0.0);
    close(Path::Linear.time(*linear.end()), 999.0);
}

/// Above the range, the picture that the network says at its end is where the velocity leads.
#[test]
fn above_the_range_the_velocity_leads_to_the_picture_of_its_end() {
    let (latent, prediction) = (0.8, 0.3);
    for formulation in Formulation::all() {
        let end = *formulation.sigma_range().end();
        for sigma in [1.0, 0.5 * (1.0 + end)] {
            let (inside, above) = (formulation.conversion(end), formulation.conversion(sigma));
            let carried = latent * end / sigma;
            close(carried * inside.input_scale, latent * above.input_scale);
            let picture = carried - end * (inside.of_latent * carried + inside.of_prediction * prediction);
            close(latent - sigma * (above.of_latent * latent + above.of_prediction * prediction), picture);
            assert!(end == 1.0 || above.timestep == inside.timestep, "{formulation}, {sigma}");
        }
    }
}

#[test]
fn below_the_range_the_velocity_is_that_of_its_end() {
    let (latent, prediction) = (0.8, 0.3);
    for name in ["eps/linear", "v/linear", "edm/rf"] {
        let formulation = named(name);
        let start = *formulation.sigma_range().start();
        let (inside, below) = (formulation.conversion(start), formulation.conversion(1e-3));
        // With as much picture in it.
        let carried = latent * (1.0 - start) / (1.0 - 1e-3);
        close(carried * inside.input_scale, latent * below.input_scale);
        let velocity = |of_latent, of_prediction, latent| of_latent * latent + of_prediction * prediction;
        close(
            velocity(below.of_latent, below.of_prediction, latent),
            velocity(inside.of_latent, inside.of_prediction, carried),
        );
        assert_eq!(below.timestep, inside.timestep, "{name}");
    }
}

#[test]
fn every_level_that_can_be_asked_for_is_finite() {
    for formulation in Formulation::all() {
        for sigma in [0.0, 1e-6, 0.5, 1.0 - 1e-6, 1.0] {
            let level = formulation.level(sigma);
            let numbers = [
                level.sigma,
                level.noisy.image,
                level.noisy.noise,
                level.input_scale,
                level.timestep,
                level.target.image,
                level.target.noise,
                level.weight,
            ];
            assert!(numbers.iter().all(|number| number.is_finite()), "{formulation}: {level:?}");
        }
        for sigma in [1e-6, 0.5, 1.0] {
            let conversion = formulation.conversion(sigma);
            let numbers = [conversion.input_scale, conversion.timestep, conversion.of_latent, conversion.of_prediction];
            assert!(numbers.iter().all(|number| number.is_finite()), "{formulation}: {conversion:?}");
        }
    }
}

#[test]
fn families_ask_the_network_for_what_their_name_says() {
    for (name, path, prediction) in [
        ("rf/mode(1.00)", Path::Straight, Prediction::Velocity),
        ("edm/cos", Path::Exploding, Prediction::F),
        ("eps/linear", Path::Linear, Prediction::Noise),
        ("v/linear", Path::Linear, Prediction::V),
        ("eps/cos", Path::Cosine, Prediction::Noise),
        ("v/cos", Path::Cosine, Prediction::V),
    ] {
        assert_eq!((named(name).path(), named(name).prediction()), (path, prediction), "{name}");
    }
}
