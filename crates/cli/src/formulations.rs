//! `rectiflow formulations`

use std::process::ExitCode;

use rectiflow_flow::{Density, Formulation, Path, Prediction};
use serde::Serialize;

use crate::output::data;

/// List the formulations that a network can be trained with
///
/// These are the 61 that the paper compares (arXiv:2403.03206, section 5.1). x0 is the picture, eps the noise, z the
/// noisy picture, sigma the noise level b / (a + b) of z = a x0 + b eps, and lambda its log-SNR ln(a^2 / b^2).
///
/// density: how often training looks at a noise level; u is uniform, logit x = ln(x / (1 - x)), and
/// f_mode(u; s) = 1 - u - s (cos^2(pi u/2) - 1 + u).
///
/// weight: how much an error of the noise counts with everything
/// taken together, the density too, up to a constant: w_t of the paper's section 3.
///
/// rf/lognorm(MEAN,STD), rf/mode(SCALE) and edm(MEAN,STD) take other numbers too.
#[derive(clap::Args)]
pub(crate) struct FormulationsArgs {
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

/// What is said of one formulation.
#[derive(Serialize)]
struct Row {
    name: String,
    path: String,
    prediction: String,
    density: String,
    weight: String,
}

pub(crate) fn run(args: &FormulationsArgs) -> anyhow::Result<ExitCode> {
    let rows: Vec<Row> = Formulation::all().into_iter().map(Row::of).collect();
    if args.json {
        for row in &rows {
            data(&serde_json::to_string(row)?);
        }
    } else {
        let head = ["name", "path", "prediction", "density", "weight"].map(str::to_owned);
        let cells: Vec<[String; 5]> = std::iter::once(head).chain(rows.into_iter().map(Row::cells)).collect();
        let widths: [usize; 4] =
            std::array::from_fn(|column| cells.iter().map(|row| row[column].len()).max().unwrap_or(0));
        for [name, path, prediction, density, weight] in cells {
            let [w0, w1, w2, w3] = widths;
            data(&format!("{name:w0$}  {path:w1$}  {prediction:w2$}  {density:w3$}  {weight}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn of(formulation: Formulation) -> Row {
        Row {
            name: formulation.to_string(),
            path: formulation.path().to_string(),
            prediction: formulation.prediction().to_string(),
            density: formulation.density().to_string(),
            weight: weight(formulation),
        }
    }

    fn cells(self) -> [String; 5] {
        [self.name, self.path, self.prediction, self.density, self.weight]
    }
}

/// The paper's `w_t`, arXiv:2403.03206, sec. 3. It has none for fixed levels: there the loss itself is said.
fn weight(formulation: Formulation) -> String {
    match (formulation.path(), formulation.prediction(), formulation.density()) {
        (Path::Linear, Prediction::Noise, _) => "1 on the error of eps".into(),
        (Path::Linear, ..) => "1 on the error of v".into(),
        (Path::Cosine, Prediction::Noise, _) => "sech(lambda/2)".into(),
        (Path::Cosine, ..) => "e^(-lambda/2)".into(),
        (Path::Exploding, _, Density::LogitNormal { mean, std }) => {
            // Adding 0 makes 0 of -0.
            let (mean, std) = (-2.0 * mean + 0.0, 2.0 * std);
            format!("N(lambda; {mean:.2}, {std:.2}^2) (e^-lambda + 0.5^2)")
        }
        (Path::Exploding, _, Density::Uniform) => "sech^2(lambda/4) (e^-lambda + 0.5^2)".into(),
        (Path::Exploding, ..) => "sech(lambda/2) (e^-lambda + 0.5^2)".into(),
        (Path::Straight, _, Density::Uniform) => "t/(1-t)".into(),
        (Path::Straight, ..) => "t/(1-t) density(t)".into(),
    }
}
