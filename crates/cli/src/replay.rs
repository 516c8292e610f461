//! `rectiflow replay`
//!
//! A picture may come from anywhere. Its settings name the model only by a file name and digests, which are compared; they
//! open no file and choose no path.

mod foreign;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use rectiflow_generate::{
    Difference, Format, Image, ModelFiles, Parts, Picture, Settings, StoredPicture, generate, latent_digest,
    stored_setting,
};
use rectiflow_nn::{Device, DeviceChoice, Precision, Tensor};
use rectiflow_weights::{IfThere, quoted, shown};

use crate::args::ModelArgs;
use crate::generate::{Carried, Free, afford, clash, latents, open, say, with_tiny_decoder};
use crate::hashes;
use crate::interrupt::Interrupt;
use crate::onlooker::Onlooker;
use crate::output;
use crate::progress::Progress;
use crate::writable::check_writable;

/// For a picture that is not the same: no error.
const DIFFERENT: u8 = 1;
/// Digits of a digest in a message.
const DIGITS: usize = 10;
const GIVE_MODEL: &str = "hint: give that model with `--model PATH`; a picture chooses no path itself";

/// Make a picture again from the settings in its file, and compare
///
/// Exit status: 0 every pixel is the same, 1 it is another picture or cannot be compared, 2 an error.
#[derive(clap::Args)]
pub(crate) struct ReplayArgs {
    /// A picture that `rectiflow generate` stored: PNG, JPEG or WebP
    #[arg(value_name = "PICTURE")]
    picture: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// The latents that the picture started from, if its settings say that they came from a file
    #[arg(long, value_name = "FILE")]
    latents_in: Option<PathBuf>,
    /// The model that the picture was led away from, if its settings say that there was one
    #[arg(long, value_name = "PATH")]
    autoguidance: Option<PathBuf>,
    /// The tiny decoder that decoded it, if its settings say so
    #[arg(long, value_name = "FILE")]
    taesd: Option<PathBuf>,
    /// Where to compute [default: where the picture was computed]
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Start even if the memory that is free would not do
    #[arg(long)]
    ignore_memory: bool,
    /// Store what was drawn now as this .png, .jpg or .webp file
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let in_picture = || format!("{} cannot be made again", shown(&args.picture));
    let stored = StoredPicture::open(&args.picture).with_context(in_picture)?;
    let Some(json) = stored.text("rectiflow") else { return foreign::say(&args.picture, &stored) };
    let was = Settings::from_json(json).with_context(in_picture)?;
    let request = was.request().with_context(in_picture)?;
    let compared_as = stored_as(&stored, &was).with_context(in_picture)?;
    let out = args.out.as_deref().map(|path| checked_out(path, args)).transpose()?;

    let mut progress = Progress::new();
    progress.phase("open and check");
    let device = args.device.map_or_else(|| stored_setting("device", &was.device), Ok).with_context(in_picture)?;
    let precision: Precision = stored_setting("precision", &was.precision).with_context(in_picture)?;
    let paths = args.model.paths();
    let paths = paths.with_context(|| format!("the picture was drawn by {}\n{GIVE_MODEL}", drawn_by(&was)))?;
    check_beside(args, &was)?;
    let files = open(&paths, args.autoguidance.as_deref())?;
    let hashes = hashes::of(&files)?;
    check_model(args, &was, &files, &hashes)?;
    let plan = request
        .resolve(&files.facts())
        .with_context(|| format!("the settings in {} do not fit {}", shown(&args.picture), files.name()))?;
    if (plan.width, plan.height) != (stored.width, stored.height) {
        bail!(
            "{} is {}x{}, and its settings say {}x{}\nhint: it was cut or scaled; give the file as it was stored",
            shown(&args.picture),
            stored.width,
            stored.height,
            plan.width,
            plan.height
        );
    }
    let (tiny_decoder, ignore_memory) = (args.taesd.is_some(), args.ignore_memory);
    afford::check(&files, &plan, Carried { device, precision, tiny_decoder, ignore_memory }, Free::NONE)?;
    let noise = given_noise(args, &was, &files, &device.open()?)?;
    let mut parts = Parts::load(&files, device, precision, plan.compat)?;
    parts.name.hashes = hashes;
    let parts = with_tiny_decoder(parts, args.taesd.as_deref(), precision)?;
    let interrupt = Interrupt::catch("; nothing is stored")?;
    let words = say::Known { side_px: None, words: None };
    say::plan(&progress, &parts, &plan, &words, false);

    let mut seen = Onlooker { progress, interrupt, preview: None, taker: None::<Picture> };
    match generate(parts, &plan, noise.as_ref(), &mut seen) {
        Err(error) if error.is_stop() => {
            seen.progress.end_phase();
            return Ok(output::interrupted("nothing is stored"));
        }
        done => done?,
    }
    seen.progress.finish();
    let Picture { image, settings, .. } = seen.taker.ok_or_else(|| anyhow!("nothing was drawn"))?;
    let is = Settings { jpeg_quality: was.jpeg_quality, ..settings };
    if let Some((path, format)) = out {
        let texts = Settings { jpeg_quality: format.quality(), ..is.clone() }.texts();
        image.save(&path, IfThere::Replace, format, &texts)?;
        output::note(&format!("stored as {}", shown(&path)));
    }
    let before = stored.pixels().with_context(in_picture)?;
    Ok(say_result(&args.picture, &compare(&before, &as_stored(image, compared_as)?), &was, &is))
}

/// Whether what a picture was drawn with beside its model is given, and nothing else.
fn check_beside(args: &ReplayArgs, was: &Settings) -> anyhow::Result<()> {
    let is_tiny = was.decoder == "tiny";
    for (option, given, was_there, what) in [
        ("--autoguidance", args.autoguidance.is_some(), was.autoguidance.is_some(), "was led away from another model"),
        ("--taesd", args.taesd.is_some(), is_tiny, "was decoded by a tiny decoder"),
    ] {
        match (given, was_there) {
            (false, true) => {
                bail!("the picture {what}\nhint: give it with `{option}`; a picture chooses no path itself")
            }
            (true, false) => bail!("nothing in the picture's settings says that it {what}\nhint: leave `{option}` out"),
            _ => {}
        }
    }
    Ok(())
}

/// What the pixels went through when the picture was stored.
fn stored_as(stored: &StoredPicture, was: &Settings) -> anyhow::Result<Format> {
    match (was.jpeg_quality, stored.is_jpeg()) {
        (Some(quality @ 1..=100), _) => Ok(Format::Jpeg { quality }),
        (Some(quality), _) => bail!("its setting `jpeg_quality` is {quality}\nhint: it was changed; 1 to 100 can be"),
        (None, true) => bail!(
            "it is a JPEG, and its settings are of a lossless file\n\
             hint: another program made it a JPEG, which changed its pixels; give the file as it was stored"
        ),
        (None, false) => Ok(Format::Png),
    }
}

/// The picture as a file of that format gives it back.
fn as_stored(image: Image, format: Format) -> anyhow::Result<Image> {
    match format {
        Format::Jpeg { .. } => Ok(StoredPicture::of_bytes(image.encode(format, &[])?)?.pixels()?),
        Format::Png | Format::WebP => Ok(image),
    }
}

/// A file to store the new picture in, and how.
fn checked_out(path: &Path, args: &ReplayArgs) -> anyhow::Result<(PathBuf, Format)> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let Some(format) = ending.and_then(Format::of_ending) else {
        bail!("--out {} is no .png, .jpg or .webp file name\nhint: give NAME.png", path.display())
    };
    check_writable(path).with_context(|| format!("`--out {}` cannot be written", path.display()))?;
    let latents = args.latents_in.as_deref().map(|path| ("--latents-in", path));
    let read = [("PICTURE", args.picture.as_path())].into_iter().chain(latents).chain(args.model.given());
    clash::check_apart(&[("--out", path)], &read.collect::<Vec<_>>())?;
    Ok((path.to_owned(), format))
}

/// Whether the model is the picture's. Without one that was given it must be; of one that was given that is only said.
fn check_model(
    args: &ReplayArgs,
    was: &Settings,
    files: &ModelFiles,
    hashes: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let others: Vec<&str> = was
        .hashes
        .iter()
        .filter(|(part, digest)| hashes.get(*part) != Some(digest))
        .map(|(part, _)| &part[..])
        .collect();
    let is_same = if was.hashes.is_empty() { was.model == files.name() } else { others.is_empty() };
    match (is_same, args.model.given().next()) {
        (true, _) => Ok(()),
        (false, None) => bail!(
            "the picture was drawn by {}, which is not the model that comes with the program\n{GIVE_MODEL}",
            drawn_by(was)
        ),
        (false, Some(_)) => {
            let which = if others.is_empty() {
                "of another name".to_owned()
            } else {
                format!("others are {}", others.join(", "))
            };
            output::note(&format!(
                "note: the picture was drawn by {}; {} is another: {which}",
                drawn_by(was),
                files.name()
            ));
            Ok(())
        }
    }
}

/// The model of a picture, as far as its settings say.
fn drawn_by(was: &Settings) -> String {
    let digest = was.hashes.get("transformer").map_or("unknown", |digest| digest.as_str());
    let short: String = digest.chars().take(DIGITS).collect();
    format!("{} (SHA-256 of its transformer {})", quoted(&was.model), quoted(&short))
}

/// The latent `[1, 16, H/8, W/8]` that the picture started from, where that came from a file.
fn given_noise(
    args: &ReplayArgs,
    was: &Settings,
    files: &ModelFiles,
    device: &Device,
) -> anyhow::Result<Option<Tensor<4>>> {
    match (&args.latents_in, was.latents_given) {
        (None, false) => Ok(None),
        (Some(_), false) => bail!("the picture started from its seed's noise\nhint: leave `--latents-in` out"),
        (None, true) => bail!(
            "the picture started from latents of a file, which its settings do not hold\n\
             hint: give that file with `--latents-in`"
        ),
        (Some(path), true) => {
            let latents = latents::read(path, &files.facts(), device)?;
            let rows = latents.dims()[0];
            let is_row = |row: &Tensor<4>| Some(latent_digest(row)) == was.latents_sha256;
            let row = latents.chunk(rows, 0).into_iter().find(|row| is_row(row) || rows == 1);
            let row = row.with_context(|| {
                format!("none of the {rows} latents in {} is the one that the picture started from", shown(path))
            })?;
            let [_, _, height, width] = row.dims();
            let px = files.facts().latent_px;
            if (width * px, height * px) != (was.width, was.height) {
                bail!("{} has latents of {height}x{width}, which do not make the picture's size", shown(path));
            }
            Ok(Some(row))
        }
    }
}

/// How far two pictures of one size are apart.
struct Apart {
    pixels: usize,
    of: usize,
    /// The largest difference of a channel, of 255.
    most: u8,
}

fn compare(a: &Image, b: &Image) -> Apart {
    let differs = a.rgb.chunks_exact(3).zip(b.rgb.chunks_exact(3)).filter(|(a, b)| a != b).count();
    let most = a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    Apart { pixels: differs, of: a.width * a.height, most }
}

/// Says whether it is the same picture, and if not, why.
fn say_result(picture: &Path, apart: &Apart, was: &Settings, is: &Settings) -> ExitCode {
    let differences = was.differences(is);
    if apart.pixels == 0 {
        output::data(&format!("equal: {}, all {} pixels", shown(picture), apart.of));
        for difference in differences {
            output::note(&format!("note: that makes no difference to the picture: {difference}"));
        }
        return ExitCode::SUCCESS;
    }
    output::data(&format!(
        "different: {}, {} of {} pixels, by up to {} of 255",
        shown(picture),
        apart.pixels,
        apart.of,
        apart.most
    ));
    differences.iter().for_each(|difference| output::data(&difference.to_string()));
    if let Some(Difference { was: Some(then), .. }) = differences.iter().find(|one| one.key == "instructions") {
        output::note(&format!("hint: RECTIFLOW_ISA={then} computes as it did then, if this processor has that"));
    }
    if differences.is_empty() {
        output::data(
            "no setting differs: the picture was changed after it was stored, or the program was built from other code",
        );
    }
    ExitCode::from(DIFFERENT)
}
