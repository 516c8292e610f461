//! Models that are named by their id on a hub instead of a path: which files they need, their download, how it is shown.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget};
use rectiflow_hub::{Event, Hub, HubPath, RemoteFile, Repository, Settings};
use rectiflow_train::recipe::Recipe;
use rectiflow_weights::{Needed, NotNeeded, PartKind, may_be_alone, model_files, part_files, quoted, shown};

use crate::memory::human;
use crate::output;
use crate::progress::style;

/// Where a model is: the path itself, or what its id names, downloaded if need be. Of a folder of parts only `parts`.
///
/// # Errors
/// There is nothing of that name, or it cannot be had.
pub(crate) fn model(path: &Path, parts: &[PartKind]) -> anyhow::Result<PathBuf> {
    local(path, |names, read| model_files(names, parts, read))
}

/// Where a single part is, as [`model`] has it.
pub(crate) fn part(path: &Path) -> anyhow::Result<PathBuf> {
    local(path, |names, read| part_files(names, read))
}

/// Names the models of a recipe by where they are. What is written of the recipe then names a commit, whose files stay
/// what they are.
pub(crate) fn bring_models_of(recipe: &mut Recipe) -> anyhow::Result<()> {
    if let Some(encoders) = &mut recipe.data.encoders {
        let parts: Vec<PartKind> = PartKind::ALL.into_iter().filter(|kind| *kind != PartKind::Transformer).collect();
        *encoders = of_recipe(encoders, &parts)?;
    }
    if let Some(from) = recipe.model.from_mut() {
        *from = of_recipe(from, &PartKind::ALL)?;
    }
    Ok(())
}

/// Recipes go on from what others left in `runs/NAME/model`, which may not be there yet: such a path asks no hub.
fn of_recipe(path: &Path, parts: &[PartKind]) -> anyhow::Result<PathBuf> {
    let is_path = |id: HubPath| id.inside.is_some_and(|inside| !may_be_alone(&inside));
    if path.to_str().and_then(HubPath::parse).is_some_and(is_path) { Ok(path.to_owned()) } else { model(path, parts) }
}

/// Gives the content of a small file by its name.
type Read<'r> = dyn FnMut(&str) -> anyhow::Result<Vec<u8>> + 'r;

fn local(path: &Path, choose: impl Fn(&[&str], &mut Read<'_>) -> anyhow::Result<Needed>) -> anyhow::Result<PathBuf> {
    let Some(id) = hub_path(path)? else { return Ok(path.to_owned()) };
    let hub = Hub::new(Settings::from_environment()?);
    let mut show = Show::new(id.repository.to_string());
    let repository = hub.open(&id.repository, &mut |event| show.event(&event))?;
    show.at = repository.cache().to_owned();
    let found = bring(&repository, id.inside.as_deref(), choose, &mut show);
    show.end();
    found
}

/// The path as an id. What is there goes before; and what begins with the name of a folder that is here is a mistyped path,
/// and no reason to ask a hub.
fn hub_path(path: &Path) -> anyhow::Result<Option<HubPath>> {
    let Some(id) = path.to_str().and_then(HubPath::parse) else { return Ok(None) };
    let Some(folder) = path.iter().next().map(Path::new).filter(|first| first.is_dir()) else { return Ok(Some(id)) };
    if path.exists() || id.inside.is_some() {
        return Ok(None);
    }
    bail!(
        "{} does not exist\n\
         hint: check the path; as an id on Hugging Face it is taken only where no folder {} is",
        shown(path),
        shown(folder)
    )
}

fn bring(
    repository: &Repository<'_>,
    inside: Option<&str>,
    choose: impl Fn(&[&str], &mut Read<'_>) -> anyhow::Result<Needed>,
    show: &mut Show,
) -> anyhow::Result<PathBuf> {
    let all: Vec<&str> = repository.files().iter().map(|file| file.name.as_str()).collect();
    if let Some(file) = inside.filter(|inside| all.contains(inside)) {
        return bring_file(repository, file, &all, show);
    }
    let above = inside.map_or(String::new(), |inside| format!("{inside}/"));
    let names: Vec<&str> = all.iter().filter_map(|name| name.strip_prefix(&*above)).collect();
    if let (Some(inside), true) = (inside, names.is_empty()) {
        // Says what the hub or the cache lacks.
        repository.fetch(&[inside], &mut |event| show.event(&event))?;
    }
    let mut read = |name: &str| {
        let name = format!("{above}{name}");
        repository.fetch(&[&name], &mut |event| show.aside(&event))?;
        let path = repository.folder().join(&name);
        std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    match choose(&names, &mut read) {
        Ok(Needed::File(name)) => bring_file(repository, &format!("{above}{name}"), &all, show),
        Ok(Needed::Folder(names)) => {
            let names: Vec<String> = names.iter().map(|name| format!("{above}{name}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            repository.fetch(&names, &mut |event| show.event(&event))?;
            Ok(inside.map_or(repository.folder(), |inside| repository.folder().join(inside)))
        }
        Err(error) if error.is::<NotNeeded>() => Err(error).context(what_is_there(repository, &show.id)),
        Err(error) => Err(error),
    }
}

/// One file, with the settings that may lie beside it.
fn bring_file(repository: &Repository<'_>, name: &str, all: &[&str], show: &mut Show) -> anyhow::Result<PathBuf> {
    if !may_be_alone(name) {
        bail!("{} of {} is no .safetensors or .gguf file\nhint: name one that is", quoted(name), show.id);
    }
    let config = name.rsplit_once('/').map_or("config.json".to_owned(), |(above, _)| format!("{above}/config.json"));
    let mut names = vec![name];
    names.extend(all.iter().filter(|name| **name == config));
    repository.fetch(&names, &mut |event| show.event(&event))?;
    Ok(repository.folder().join(name))
}

/// The largest files of a repository, for who looks for another one.
fn what_is_there(repository: &Repository<'_>, id: &str) -> String {
    const SHOWN: usize = 12;
    let mut files: Vec<&RemoteFile> = repository.files().iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    let of = |file: &&RemoteFile| match file.bytes {
        Some(bytes) => format!("{} ({})", quoted(&file.name), human(bytes)),
        None => quoted(&file.name),
    };
    let mut shown: Vec<String> = files.iter().take(SHOWN).map(of).collect();
    if files.len() > SHOWN {
        shown.push(format!("and {} smaller ones", files.len() - SHOWN));
    }
    let shown = if shown.is_empty() { "no files".to_owned() } else { shown.join(", ") };
    match repository.only_cache() {
        None => format!("{id} cannot be used; it has {shown}"),
        Some(why) => format!("{id} cannot be used from the cache ({why}), which has of it {shown}"),
    }
}

/// How a download is shown: a bar on a terminal, a line from time to time elsewhere.
struct Show {
    id: String,
    /// The cache.
    at: PathBuf,
    on_terminal: bool,
    bar: Option<ProgressBar>,
    /// When bytes began to come, from how many, and when that was last said.
    since: Option<(Instant, u64, Instant)>,
}

/// Between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

impl Show {
    fn new(id: String) -> Show {
        Show { id, at: PathBuf::new(), on_terminal: std::io::stderr().is_terminal(), bar: None, since: None }
    }

    /// Of a small file by which the others are found: only what goes wrong.
    fn aside(&mut self, event: &Event<'_>) {
        if !matches!(event, Event::Plan { .. } | Event::Bytes { .. }) {
            self.event(event);
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::FromCache { commit, why } => {
                self.say(&format!("{why}; {} is taken from the cache, as it was at commit {}", self.id, &commit[..8]));
            }
            Event::Plan { files, bytes, begun, free } => {
                let begun = if *begun > 0 { format!(" ({} are there)", human(*begun)) } else { String::new() };
                let free = free.map_or(String::new(), |free| format!(", where {} are free", human(free)));
                let files = if *files == 1 { "1 file".to_owned() } else { format!("{files} files") };
                let (bytes, at) = (human(*bytes), self.at.display());
                self.say(&format!("{}: downloading {files}, {bytes}{begun}, into {at}{free}", self.id));
            }
            Event::Bytes { name, done, total } => self.bytes(name, *done, *total),
            Event::Waiting { name } => {
                self.say(&format!("another process downloads {}; waiting for it", quoted(name)));
            }
            Event::Again { problem, after } => {
                self.say(&format!("{problem}; again in {:.0} s", after.as_secs_f32().ceil()));
            }
        }
    }

    fn bytes(&mut self, name: &str, done: u64, total: u64) {
        let now = Instant::now();
        let (began, first, said) = *self.since.get_or_insert((now, done, now));
        if !self.on_terminal {
            if now - said >= EVERY {
                self.since = Some((began, first, now));
                let rate = (done - first.min(done)) as f64 / (now - began).as_secs_f64();
                let left = total.saturating_sub(done) as f64 / rate.max(1.0);
                let (done, total, rate) = (human(done), human(total), human(rate as u64));
                self.say(&format!("{name}: {done} of {total}, {rate}/s, {left:.0} s left"));
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_position(done);
            bar.set_style(style(
                "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
            ));
            bar.reset_eta();
            bar
        });
        if bar.message() != name {
            bar.set_message(name.to_owned());
        }
        bar.set_position(done);
    }

    /// A line that stays, above the bar.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(line)),
            None => output::note(line),
        }
    }

    /// Takes the bar away, so that what follows stands alone.
    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_no_id_and_neither_is_a_mistyped_path() {
        let is_id = |path: &str| hub_path(Path::new(path)).map(|id| id.is_some()).map_err(|error| error.to_string());
        // Tests run in the crate's folder.
        for path in ["src/main.rs", "src/none/x.safetensors", "./none/x"] {
            assert_eq!(is_id(path), Ok(false), "{path}");
        }
        assert!(
            is_id("src/none")
                .is_err_and(|said| said.contains("`src/none` does not exist") && said.contains("no folder `src` is"))
        );
        assert_eq!(is_id("stabilityai/stable-diffusion-3.5-medium"), Ok(true));
        assert_eq!(is_id("stabilityai/stable-diffusion-3-medium/text_encoders/clip_l.safetensors"), Ok(true));
    }
}
