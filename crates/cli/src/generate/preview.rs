//! Shows what becomes of a picture while it is drawn: in a file, and in terminals that show pictures.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rectiflow_generate::{Format, Image, Parts, Preview, columns, sheet};
use rectiflow_nn::Tensor;
use rectiflow_weights::IfThere;

use super::terminal::Terminal;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::writable::check_writable;

/// A look at pictures as they are drawn
#[derive(clap::Args, Clone)]
pub(crate) struct PreviewArgs {
    /// While a picture is drawn, show what it will roughly be in this file (.png, .jpg or .webp), which is replaced after
    /// each step; and in the terminal, if it is kitty, Ghostty, iTerm2, WezTerm, or one with Sixel that says its name (foot, mlterm,
    /// Contour, mintty, Konsole, Windows Terminal)
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    /// Only after every Nth step, and the last
    #[arg(long, value_name = "N", default_value = "1", requires = "preview")]
    preview_every: NonZeroUsize,
}

impl PreviewArgs {
    pub(crate) fn file(&self) -> Option<&Path> {
        self.preview.as_deref()
    }

    /// Finds out now that the file cannot be written.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let Some(path) = self.file() else { return Ok(()) };
        if format_of(path).is_none() {
            bail!("--preview {} is no .png, .jpg or .webp file name\nhint: give NAME.png", path.display());
        }
        check_writable(path).with_context(|| format!("`--preview {}` cannot be written", path.display()))
    }

    /// What shows pictures of this model, if that is wanted.
    pub(crate) fn open(&self, parts: &Parts) -> Option<Previewer> {
        let path = self.preview.clone()?;
        Some(Previewer {
            format: format_of(&path).unwrap_or_default(),
            path,
            every: self.preview_every.get(),
            preview: Preview::of(&parts.vae, &parts.device),
            terminal: Terminal::detect(std::io::stderr().is_terminal(), |name| std::env::var(name).ok()),
            has_failed: false,
        })
    }
}

fn format_of(path: &Path) -> Option<Format> {
    path.extension().and_then(|ending| ending.to_str()).and_then(Format::of_ending)
}

/// Shows pictures of one model.
pub(crate) struct Previewer {
    path: PathBuf,
    format: Format,
    every: usize,
    preview: Preview,
    terminal: Option<Terminal>,
    /// The file could not be written, which was said.
    has_failed: bool,
}

impl Previewer {
    /// After a step. A preview that cannot be stored is said once, and ends no run.
    pub(crate) fn show(
        &mut self,
        (done, of): (usize, usize),
        denoised: &dyn Fn() -> Tensor<4>,
        progress: &Progress,
        interrupt: &Interrupt,
    ) {
        if !done.is_multiple_of(self.every) && done != of {
            return;
        }
        let pictures = self.preview.pictures(&denoised());
        let picture = match &pictures[..] {
            [only] => only.clone(),
            several => sheet(several, columns(several.len())),
        };
        if !self.has_failed {
            let _turn = interrupt.writing();
            if let Err(error) = picture.save(&self.path, IfThere::Replace, self.format, &[]) {
                self.has_failed = true;
                progress.say(&format!("warning: there is no preview any more: {error}"));
            }
        }
        self.show_in_terminal(&picture, progress);
    }

    fn show_in_terminal(&mut self, picture: &Image, progress: &Progress) {
        let Some(terminal) = &mut self.terminal else { return };
        let Some(commands) = terminal.commands(picture) else { return };
        progress.show(|| {
            // A terminal that is gone shows nothing.
            let _ = std::io::stderr().lock().write_all(commands.as_bytes());
        });
    }
}
