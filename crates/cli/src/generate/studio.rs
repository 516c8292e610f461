//! Takes what a run gives: shows it, stores it.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use rectiflow_generate::{Encoder, GenerateError, ImageError, Picture, Settings, Watch};
use rectiflow_nn::Tensor;

use super::latents;
use super::names::OutputNames;
use super::preview::Previewer;
use super::say::cut;
use crate::interrupt::Interrupt;
use crate::memory;
use crate::output::{self, INTERRUPTED};
use crate::progress::Progress;

pub(super) struct Studio {
    pub(super) progress: Progress,
    pub(super) names: OutputNames,
    /// How many there will be.
    pub(super) pictures: usize,
    /// How many are stored.
    pub(super) done: usize,
    pub(super) latents_out: Option<PathBuf>,
    /// Of the pictures that are stored, if they are wanted.
    pub(super) latents: Vec<Tensor<4>>,
    pub(super) interrupt: Interrupt,
    pub(super) preview: Option<Previewer>,
}

impl Studio {
    /// Stores the latents however the run ended, and says how it did.
    pub(super) fn finish(mut self, result: Result<(), GenerateError>) -> anyhow::Result<ExitCode> {
        self.progress.end_phase();
        let stored = self.store_latents();
        match result {
            Err(error) if !error.is_stop() => {
                if let Err(second) = stored {
                    output::note(&format!("warning: {second}"));
                }
                Err(error.into())
            }
            Ok(()) if !self.interrupt.is_asked() => {
                stored?;
                self.progress.finish();
                Ok(ExitCode::SUCCESS)
            }
            _ => {
                output::note(&format!(
                    "interrupted: {} of {} pictures are finished and stored, nothing is half written",
                    self.done, self.pictures
                ));
                stored?;
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    }

    fn store_latents(&mut self) -> anyhow::Result<()> {
        let latents = std::mem::take(&mut self.latents);
        match &self.latents_out {
            Some(path) if !latents.is_empty() => {
                let _turn = self.interrupt.writing();
                latents::write(path, latents)
            }
            _ => Ok(()),
        }
    }
}

impl Watch for Studio {
    fn phase(&mut self, name: &str) -> ControlFlow<()> {
        self.progress.phase(name);
        self.interrupt.wish()
    }

    fn step(&mut self, done: usize, of: usize) -> ControlFlow<()> {
        self.progress.step(done, of);
        self.interrupt.wish()
    }

    fn denoised(&mut self, done: usize, of: usize, denoised: &dyn Fn() -> Tensor<4>) {
        if let Some(preview) = &mut self.preview {
            preview.show((done, of), denoised, &self.progress, &self.interrupt);
        }
    }

    fn cut(&mut self, encoder: Encoder, tokens: usize, words: &str) {
        self.progress.say(&cut(encoder, tokens, words));
    }

    fn memory_available(&self) -> Option<u64> {
        memory::available()
    }

    fn picture(&mut self, picture: Picture) -> Result<(), ImageError> {
        let Picture { image, latent, settings } = picture;
        let format = self.names.format();
        let settings = Settings { jpeg_quality: format.quality(), ..settings };
        let texts = settings.texts();
        let path = {
            let _turn = self.interrupt.writing();
            self.names.store(self.done, settings.seed, |path, if_there| image.save(path, if_there, format, &texts))?
        };
        self.done += 1;
        if self.latents_out.is_some() {
            self.latents.push(latent);
        }
        output::data(&path.display().to_string());
        Ok(())
    }
}
