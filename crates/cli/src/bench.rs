//! `rectiflow bench`

mod attention;
mod kernels;
mod networks;
mod random;
mod roofline;
mod training;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use rectiflow_kernels::Isa;
use rectiflow_kernels::limits::{self, Arithmetic};
use rectiflow_nn::Precision;
use serde::Serialize;

use crate::output::{data, note};

/// Measure how fast this machine computes what drawing consists of
///
/// Each case is checked, run once to warm up and then timed. `share` compares it with what the machine can do at
/// most, measured in the same run: multiplying from registers, or reading memory. Networks have the released sizes
/// and random weights; all of them together need 12 GB of memory.
#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    /// Only the cases whose names begin so: linear, attention, conv, mmdit_step, mmdit_levels, vae_decode,
    /// t5_encode, train_step
    names: Vec<String>,
    /// What products are computed in: f32, bf16 or int8
    #[arg(long, default_value_t = Precision::Bf16)]
    precision: Precision,
    /// Timed runs of each case; the median is shown
    #[arg(long, default_value_t = 5, value_name = "N")]
    runs: usize,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Draw the results under the machine's limits, as a PNG; a file of that name is replaced
    #[arg(long, value_name = "NAME.png")]
    roofline: Option<PathBuf>,
}

/// Minutes of the shortest case, and eight megabytes of times.
const MOST_RUNS: usize = 1_000_000;

/// What one run of a case takes, and what limits it.
struct Work {
    /// Two for a multiply-add.
    operations: f64,
    /// What must be read or written at least once: inputs, weights in the type that is multiplied, and results. What
    /// a network keeps between its layers is not among them.
    bytes: f64,
    limit: Limit,
}

/// What a case is compared with.
#[derive(Clone, Copy, PartialEq)]
enum Limit {
    /// Multiplying from registers.
    Arithmetic,
    /// Reading memory.
    Memory,
}

/// Something to time. Checked when it was made.
struct Case {
    name: String,
    work: Work,
    run: Box<dyn FnMut()>,
}

/// Makes a case and checks it; made only when its turn comes, so that memory holds one at a time.
struct Maker {
    name: &'static str,
    make: Box<dyn Fn(Precision) -> anyhow::Result<Case>>,
}

#[derive(Serialize)]
struct Measured {
    name: String,
    precision: String,
    isa: String,
    threads: usize,
    runs: usize,
    median_s: f64,
    /// Slowest less fastest, as a share of the median.
    spread: f64,
    /// Operations, or bytes for what reading limits, in thousand millions a second.
    gflops: Option<f64>,
    /// Operations for each byte that must be read or written.
    intensity: f64,
    limit_gflops: Option<f64>,
    gbytes_per_s: Option<f64>,
    limit_gbytes_per_s: Option<f64>,
    share: f64,
}

/// The machine's limits.
struct Limits {
    operations: f64,
    bytes: f64,
}

pub(crate) fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let isa = Isa::chosen()?;
    if args.runs == 0 {
        bail!("--runs 0 measures nothing\nhint: 5 is usual");
    }
    if args.runs > MOST_RUNS {
        bail!("--runs {} is more than {MOST_RUNS}\nhint: 5 is usual", args.runs);
    }
    let makers: Vec<Maker> =
        [kernels::cases(), attention::cases(), networks::cases(), training::cases()].into_iter().flatten().collect();
    let wanted =
        |maker: &&Maker| args.names.is_empty() || args.names.iter().any(|name| maker.name.starts_with(name.as_str()));
    let chosen: Vec<&Maker> = makers.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = makers.iter().map(|maker| maker.name).collect();
        bail!("no case begins with {}\nhint: there are {}", args.names.join(" or "), names.join(", "));
    }
    if let Some(path) = &args.roofline {
        roofline::check(path)?;
    }
    let limits = measure_limits(isa, args.precision);
    let threads = rayon::current_num_threads();
    if !args.json {
        data(&format!(
            "{isa}, {threads} threads, {}: at most {:.0} Gop/s from registers, {:.1} GB/s from memory",
            args.precision,
            limits.operations / 1e9,
            limits.bytes / 1e9
        ));
        data(&format!("{:<28} {:>11} {:>8} {:>14} {:>7}", "case", "median", "spread", "rate", "share"));
    }
    let mut points = Vec::new();
    for maker in chosen {
        note(&format!("{} ...", maker.name));
        let case = (maker.make)(args.precision)?;
        let operations = case.work.operations;
        let measured = measure(case, &limits, isa, &args);
        data(&if args.json { serde_json::to_string(&measured)? } else { measured.row() });
        let Measured { name, intensity, median_s, .. } = measured;
        points.push(roofline::Point { name, intensity, operations: operations / median_s });
    }
    if let Some(path) = &args.roofline {
        let title = format!("rectiflow bench, {} on {isa}, {threads} threads, median of {}", args.precision, args.runs);
        roofline::save(path, &title, &roofs(isa, args.precision, &limits), &points)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The lines of the picture: with int8 also bf16, which attention and convolutions are then computed in.
fn roofs(isa: Isa, precision: Precision, limits: &Limits) -> roofline::Roofs {
    let mut arithmetic = vec![(precision.to_string(), limits.operations)];
    if precision == Precision::Int8 {
        let bf16 = measure_limits_of(isa, Arithmetic::Bf16);
        arithmetic.insert(0, (Precision::Bf16.to_string(), bf16));
    }
    roofline::Roofs { memory: limits.bytes, arithmetic }
}

fn measure_limits(isa: Isa, precision: Precision) -> Limits {
    let which = match precision {
        Precision::F32 => Arithmetic::F32,
        Precision::Bf16 => Arithmetic::Bf16,
        Precision::Int8 => Arithmetic::Int8,
    };
    Limits { operations: measure_limits_of(isa, which), bytes: limits::read_bandwidth(isa, 1 << 30) }
}

/// Operations a second; those of f32 where there is no such product.
fn measure_limits_of(isa: Isa, which: Arithmetic) -> f64 {
    let operations = limits::arithmetic(isa, which).or_else(|| limits::arithmetic(isa, Arithmetic::F32));
    operations.expect("every machine multiplies f32")
}

fn measure(mut case: Case, limits: &Limits, isa: Isa, args: &BenchArgs) -> Measured {
    (case.run)();
    let mut seconds: Vec<f64> = (0..args.runs)
        .map(|_| {
            let start = Instant::now();
            (case.run)();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let spread = (seconds[seconds.len() - 1] - seconds[0]) / median;
    let Work { operations, bytes, limit: limited_by } = case.work;
    let (rate, limit) = match limited_by {
        Limit::Arithmetic => (operations / median, limits.operations),
        Limit::Memory => (bytes / median, limits.bytes),
    };
    let giga = |which: Limit, value: f64| (limited_by == which).then_some(value / 1e9);
    Measured {
        name: case.name,
        precision: args.precision.to_string(),
        isa: isa.to_string(),
        threads: rayon::current_num_threads(),
        runs: args.runs,
        median_s: median,
        spread,
        gflops: giga(Limit::Arithmetic, rate),
        intensity: operations / bytes,
        limit_gflops: giga(Limit::Arithmetic, limit),
        gbytes_per_s: giga(Limit::Memory, rate),
        limit_gbytes_per_s: giga(Limit::Memory, limit),
        share: rate / limit,
    }
}

impl Measured {
    fn row(&self) -> String {
        let rate = match (self.gflops, self.gbytes_per_s) {
            (Some(rate), _) => format!("{rate:.0} Gop/s"),
            (None, Some(rate)) => format!("{rate:.1} GB/s"),
            (None, None) => String::new(),
        };
        format!(
            "{:<28} {:>8.2} ms {:>6.0} % {:>14} {:>5.0} %",
            self.name,
            self.median_s * 1e3,
            self.spread * 100.0,
            rate,
            self.share * 100.0
        )
    }
}
