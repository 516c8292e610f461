//! `rectiflow grid`

mod axis;
mod painter;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use rectiflow_generate::{
    Axis, Conditionings, Format, GenerateError, Image, ModelFiles, Parts, Plan, Settings, draw, encode, labelled_sheet,
    texts_of_sheet,
};
use rectiflow_nn::Tensor;
use rectiflow_weights::{IfThere, ModelPaths, shown};

use self::axis::AxisArg;
use self::painter::Painter;
use crate::generate::{Drawn, Free, GenerateArgs, OutputNames, afford, clash, load, open, prompts, resolve, say};
use crate::interrupt::Interrupt;
use crate::output;
use crate::progress::Progress;
use crate::writable::check_folder;

/// More cells than anybody looks at.
const CELLS_MAX: usize = 10_000;

/// Draw a picture with several values of one or two settings, and put all on one sheet with labels
///
/// rectiflow grid "a cat" --x steps=4,8,16 --y guidance=2,4,7 --out grid.png
#[derive(clap::Args)]
#[command(
    mut_arg("count", |arg| arg.hide(true)),
    mut_arg("prompt_file", |arg| arg.hide(true)),
    mut_arg("latents_out", |arg| arg.hide(true))
)]
pub(crate) struct GridArgs {
    /// What differs from column to column, as NAME=VALUE,VALUE. NAME is an option of `generate` without its dashes; or
    /// prompt: its first value is replaced in the prompt by each of them. Values that have commas stand between semicolons
    #[arg(long, value_name = "NAME=VALUES", required_unless_present = "y")]
    x: Option<AxisArg>,
    /// The same from row to row
    #[arg(long, value_name = "NAME=VALUES")]
    y: Option<AxisArg>,
    /// Also store each cell in this folder, as row-1-column-1.png and so on, which must not be there
    #[arg(long, value_name = "FOLDER")]
    cells: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) draw: GenerateArgs,
}

/// A picture of the sheet.
struct Cell {
    /// Its place among the models.
    model: usize,
    plan: Plan,
    noise: Option<Tensor<4>>,
    /// Row and column, counted from 0.
    place: (usize, usize),
}

/// A model that cells share: the same files for the same kind of computing.
struct Model {
    paths: ModelPaths,
    files: ModelFiles,
    first: GenerateArgs,
}

pub(crate) fn run(args: GridArgs) -> anyhow::Result<ExitCode> {
    let (x, y) = (args.x.as_ref().map(AxisArg::axis), args.y.as_ref().map(AxisArg::axis));
    let names = OutputNames::new(args.draw.out.as_deref(), &args.draw.format, 1)?;
    args.draw.preview.check()?;
    clash::check(&names, &args.draw.other_outputs(), &args.draw.inputs())?;
    let mut progress = Progress::new();
    progress.phase("open and check");
    let (models, cells) = planned(&args, x.as_ref(), y.as_ref())?;
    check_size(names.format(), &cells, x.as_ref(), y.as_ref())?;
    if let Some(folder) = &args.cells {
        check_cells(folder, names.format(), &cells)?;
    }

    let interrupt = Interrupt::catch(match &args.cells {
        Some(_) => "; the cells that were named are stored",
        None => "; nothing is stored",
    })?;
    let mut painter = Painter::new(progress, interrupt, cells.len());
    let mut done: Vec<Option<(Image, Settings)>> = cells.iter().map(|_| None).collect();
    let mut order: Vec<usize> = (0..cells.len()).collect();
    // So that each model is loaded once.
    order.sort_by_key(|index| cells[*index].model);
    for of_model in order.chunk_by(|a, b| cells[*a].model == cells[*b].model) {
        let model = &models[cells[of_model[0]].model];
        painter.seen.progress.phase("open and check");
        let parts = load(&model.files, &model.first)?;
        let known = say::Known { side_px: None, words: None };
        say::plan(&painter.seen.progress, &parts, &cells[of_model[0]].plan, &known, false);
        painter.seen.preview = args.draw.preview.open(&parts);
        // What texts became, each with a plan that it is of: few cells differ in them.
        let mut told: Vec<(&Plan, Conditionings)> = Vec::new();
        for &index in of_model {
            let Cell { plan, noise, place, .. } = &cells[index];
            painter.start(&label(x.as_ref(), y.as_ref(), *place));
            let drawn = painted(&parts, &mut told, plan, noise.as_ref(), &mut painter);
            let (image, settings) = match drawn {
                Err(error) if error.is_stop() => return Ok(interrupted(painter, &args)),
                Err(error) => {
                    painter.seen.progress.end_phase();
                    return Err(error).with_context(|| label(x.as_ref(), y.as_ref(), *place));
                }
                Ok(drawn) => drawn,
            };
            if let Some(folder) = &args.cells {
                store_cell(folder, names.format(), *place, &image, &settings, &painter.seen.interrupt)?;
            }
            done[index] = Some((image, settings));
        }
    }

    let (pictures, settings): (Vec<Image>, Vec<Settings>) = done.into_iter().flatten().unzip();
    let texts = texts_of_sheet(&settings, x.as_ref(), y.as_ref());
    let sheet = labelled_sheet(&pictures, x.as_ref(), y.as_ref());
    let seed = settings[0].seed;
    let path = {
        let _turn = painter.seen.interrupt.writing();
        names.store(0, seed, |path, if_there| sheet.save(path, if_there, names.format(), &texts))?
    };
    output::data(&path.display().to_string());
    painter.seen.progress.finish();
    Ok(ExitCode::SUCCESS)
}

/// A cell. Its text is encoded if it is not among those that are `told`.
fn painted<'a>(
    parts: &Parts,
    told: &mut Vec<(&'a Plan, Conditionings)>,
    plan: &'a Plan,
    noise: Option<&Tensor<4>>,
    painter: &mut Painter,
) -> Result<(Image, Settings), GenerateError> {
    let mut parts = parts.clone();
    let known = told.iter().position(|(of, _)| plan.is_told_as(of));
    let place = match known {
        Some(place) => place,
        None => {
            told.push((plan, encode(&mut parts, plan, &mut painter.seen)?));
            told.len() - 1
        }
    };
    draw(parts, &told[place].1, plan, noise, &mut painter.seen)?;
    painter.take()
}

/// Every cell, row by row, with all that a user can get wrong found out, and the models that they need.
fn planned(args: &GridArgs, x: Option<&Axis>, y: Option<&Axis>) -> anyhow::Result<(Vec<Model>, Vec<Cell>)> {
    let line: Vec<OsString> = std::env::args_os().collect();
    axis::check(&line, [("--x", args.x.as_ref()), ("--y", args.y.as_ref())])?;
    let count = |axis: Option<&Axis>| axis.map_or(1, |axis| axis.values.len());
    let (columns, rows) = (count(x), count(y));
    if columns.saturating_mul(rows) > CELLS_MAX {
        bail!("{columns}x{rows} cells are more than {CELLS_MAX}\nhint: give fewer values");
    }
    let common = args.draw.prompts()?;
    let [prompt] = &common[..] else {
        bail!(
            "a grid is of one prompt, and there are {}\nhint: `--x prompt=cat,dog` replaces words in it",
            common.len()
        )
    };
    // One seed for all, if it is a random one.
    let seed = args.draw.seed.number();

    let (mut models, mut cells): (Vec<Model>, Vec<Cell>) = (Vec::new(), Vec::new());
    for place in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        let chosen = [(args.x.as_ref(), place.1), (args.y.as_ref(), place.0)];
        let chosen: Vec<(&AxisArg, usize)> = chosen.into_iter().filter_map(|(axis, at)| Some((axis?, at))).collect();
        let cell = axis::args_of(&line, &chosen)?;
        let mut prompt = prompt.clone();
        for (axis, at) in &chosen {
            prompt = axis.replaced(&prompt, *at)?;
        }
        let has_own_seed = chosen.iter().any(|(axis, _)| axis.is("seed"));
        let seed = if has_own_seed { cell.seed.number() } else { seed };
        let model = model_of(&cell, &mut models)?;
        let (prompts, count) = prompts::chosen(vec![prompt], 1, seed, cell.wildcards.as_deref())?;
        let device = cell.compute.device.open()?;
        let facts = models[model].files.facts();
        let (plan, noise) =
            resolve(&cell, Drawn { prompts, count, seed }, &facts, &device).with_context(|| label(x, y, place))?;
        let is_on_axis = |name: &str| chosen.iter().any(|(axis, _)| axis.is(name));
        let free = Free {
            batch_size: false,
            vae_tiling: !is_on_axis("vae-tiling"),
            precision: !is_on_axis("precision"),
            size: Free::of(&cell).size && !is_on_axis("width") && !is_on_axis("height"),
        };
        afford::check(&models[model].files, &plan, (&cell).into(), free).with_context(|| label(x, y, place))?;
        cells.push(Cell { model, plan, noise, place });
    }
    Ok((models, cells))
}

/// The place of the model that a cell needs, which is opened if no cell before needed it.
fn model_of(cell: &GenerateArgs, models: &mut Vec<Model>) -> anyhow::Result<usize> {
    let paths = cell.model.paths()?;
    let computes = |args: &GenerateArgs| {
        let beside = (args.guidance.autoguidance.clone(), args.taesd.clone());
        (args.compute.device, args.compute.precision, args.compat, beside)
    };
    if let Some(known) =
        models.iter().position(|model| model.paths == paths && computes(&model.first) == computes(cell))
    {
        return Ok(known);
    }
    let files = open(&paths, cell.guidance.autoguidance.as_deref())?;
    models.push(Model { paths, files, first: cell.clone() });
    Ok(models.len() - 1)
}

/// What of a cell is not common to all.
fn label(x: Option<&Axis>, y: Option<&Axis>, (row, column): (usize, usize)) -> String {
    let of = |axis: Option<&Axis>, at: usize| axis.map(|axis| format!("{} {}", axis.name, axis.values[at]));
    of(x, column).into_iter().chain(of(y, row)).collect::<Vec<_>>().join(", ")
}

/// Whether the sheet and its cells can be stored, by what the labels take at most.
fn check_size(format: Format, cells: &[Cell], x: Option<&Axis>, y: Option<&Axis>) -> anyhow::Result<()> {
    const BESIDE_PX: usize = 8;
    const LABEL_PX: usize = 250;
    let longest = |side: fn(&Plan) -> usize| cells.iter().map(|cell| side(&cell.plan) + BESIDE_PX).max().unwrap_or(0);
    let count = |axis: Option<&Axis>| axis.map_or(1, |axis| axis.values.len());
    let (width, height) = (longest(|plan| plan.width), longest(|plan| plan.height));
    format.check([width * count(x) + width / 2 + LABEL_PX, height * count(y) + LABEL_PX], &[])?;
    Ok(())
}

fn check_cells(folder: &Path, format: Format, cells: &[Cell]) -> anyhow::Result<()> {
    check_folder(folder).with_context(|| format!("`--cells {}` cannot be written", folder.display()))?;
    let taken = cells.iter().map(|cell| cell_file(folder, format, cell.place)).find(|path| path.exists());
    match taken {
        Some(path) => bail!("{} is already there, and cells replace nothing\nhint: give another folder", shown(&path)),
        None => Ok(()),
    }
}

fn cell_file(folder: &Path, format: Format, (row, column): (usize, usize)) -> PathBuf {
    folder.join(format!("row-{}-column-{}.{}", row + 1, column + 1, format.ending()))
}

fn store_cell(
    folder: &Path,
    format: Format,
    place: (usize, usize),
    image: &Image,
    settings: &Settings,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let path = cell_file(folder, format, place);
    let texts = Settings { jpeg_quality: format.quality(), ..settings.clone() }.texts();
    let _turn = interrupt.writing();
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", shown(folder)))?;
    image.save(&path, IfThere::Keep, format, &texts).map_err(GenerateError::from)?;
    output::data(&path.display().to_string());
    Ok(())
}

fn interrupted(mut painter: Painter, args: &GridArgs) -> ExitCode {
    painter.seen.progress.end_phase();
    let stored = if args.cells.is_some() { "are stored" } else { "were drawn; --cells would have stored them" };
    output::interrupted(&format!("{} of {} cells {stored}, and no sheet", painter.finished(), painter.cells))
}
