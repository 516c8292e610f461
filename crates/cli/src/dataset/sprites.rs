//! `rectiflow dataset sprites`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ValueEnum;
use rectiflow_dataset::sprites::{Format, Layout, SceneFolder, Scenes, Settings, Split, png};
use rectiflow_weights::{IfThere, shown, write_whole};

use crate::interrupt::Interrupt;
use crate::output::{INTERRUPTED, data, note};
use crate::progress::Progress;
use crate::writable::{check_folder, check_writable};

/// Write scenes put together from open sprite art, with captions that are exactly true
///
/// Each scene is a picture, a caption and a JSON record of what is where. The same seed gives the same scenes. A
/// run that was ended goes on where it ended.
#[derive(clap::Args)]
pub(crate) struct SpritesArgs {
    /// Folder for the scenes: new, empty, or begun with the same settings
    #[arg(long, value_name = "DIR", required_unless_present = "sheet")]
    out: Option<PathBuf>,
    /// Number of scenes
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=9_999_999))]
    count: u64,
    /// Width and height of the pictures, in pixels; words have up to 5 letters below 128, up to 8 from there on
    #[arg(long, value_name = "PX", default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=4096))]
    size: u32,
    /// What decides the scenes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// train; held-out: scenes with pairs, counts or words that no scene of `train` has, for any seed; or all
    #[arg(long, value_name = "NAME", default_value = "train")]
    split: SplitName,
    /// free: things and words lie anywhere; grid: in squares of a grid of eight by eight, as letters do; quarters: the same,
    /// and about half of the scenes show four different things
    #[arg(long, value_name = "NAME", default_value = "free")]
    layout: LayoutName,
    /// webdataset: tar files of 1,000 scenes; folder: a folder for each 1,000
    #[arg(long, value_name = "NAME", default_value = "webdataset")]
    format: FormatName,
    /// Draw the first 60 scenes with their captions on one picture, to look at
    #[arg(long, value_name = "FILE.png")]
    sheet: Option<PathBuf>,
    /// The art
    #[arg(long, value_name = "DIR", default_value = "assets/sprites")]
    art: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitName {
    Train,
    HeldOut,
    All,
}

#[derive(Clone, Copy, ValueEnum)]
enum LayoutName {
    Free,
    Grid,
    Quarters,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    Folder,
    #[value(name = "webdataset")]
    WebDataset,
}

/// How many scenes a sheet shows.
const SHEET_SCENES: u64 = 60;

pub(crate) fn run(args: SpritesArgs) -> anyhow::Result<ExitCode> {
    let split = match args.split {
        SplitName::Train => Split::Train,
        SplitName::HeldOut => Split::HeldOut,
        SplitName::All => Split::All,
    };
    let layout = match args.layout {
        LayoutName::Free => Layout::Free,
        LayoutName::Grid => Layout::Grid,
        LayoutName::Quarters => Layout::Quarters,
    };
    let settings = Settings { seed: args.seed, split, letters_max: Settings::letters_max_at(args.size), layout };
    if let Some(sheet) = &args.sheet {
        check_sheet(sheet)?;
    }
    let folder = args.out.as_deref().map(|out| open(out, settings, &args)).transpose()?;

    let mut progress = Progress::new();
    progress.phase("open the art");
    let scenes = Scenes::open(&args.art, settings)?;
    if let Some(sheet) = &args.sheet {
        progress.phase("draw the sheet");
        let picture = scenes.sheet(args.count.min(SHEET_SCENES) as u32, args.size)?;
        let bytes = png(&picture)?;
        write_whole(sheet, IfThere::Replace, |out| out.write_all(&bytes))
            .with_context(|| format!("{} cannot be written", shown(sheet)))?;
        data(&sheet.display().to_string());
    }
    match &folder {
        Some(folder) => write(folder, &scenes, &args, progress),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn check_sheet(sheet: &Path) -> anyhow::Result<()> {
    if sheet.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("png")) {
        bail!("{} is no name for a sheet\nhint: give one that ends in .png", shown(sheet));
    }
    check_writable(sheet)
}

fn open(out: &Path, settings: Settings, args: &SpritesArgs) -> anyhow::Result<SceneFolder> {
    let format = match args.format {
        FormatName::Folder => Format::Folder,
        FormatName::WebDataset => Format::WebDataset,
    };
    check_folder(out)?;
    Ok(SceneFolder::open(out, settings, args.count, args.size, format)?)
}

fn write(
    folder: &SceneFolder,
    scenes: &Scenes,
    args: &SpritesArgs,
    mut progress: Progress,
) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::catch("; the shard that was being written is not there")?;
    let (all, missing) = (folder.shards(), folder.missing());
    let there = all - missing.len() as u64;
    if there > 0 {
        note(&format!("{there} of {all} shards are there already"));
    }
    progress.phase("write scenes");
    for (done, shard) in (1..).zip(&missing) {
        if interrupt.is_asked() {
            progress.finish();
            note(&format!("interrupted: {} of {all} shards are there, each whole", there + done - 1));
            note("hint: the same command goes on from there");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let _turn = interrupt.writing();
        folder.write(scenes, *shard)?;
        progress.step(done as usize, missing.len());
    }
    progress.finish();
    if let Some(out) = &args.out {
        data(&format!("{}: {} scenes of {} px in {all} shards", out.display(), args.count, args.size));
    }
    Ok(ExitCode::SUCCESS)
}
