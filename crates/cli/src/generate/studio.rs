//! Takes what a run gives: stores it.

use std::path::PathBuf;
use std::process::ExitCode;

use rectiflow_generate::{GenerateError, ImageError, Picture, Settings};
use rectiflow_nn::Tensor;

use super::latents;
use super::names::OutputNames;
use crate::interrupt::Interrupt;
use crate::onlooker::{Onlooker, Take};
use crate::output::{self, INTERRUPTED};

pub(super) struct Studio {
    pub(super) names: OutputNames,
    /// How many there will be.
    pub(super) pictures: usize,
    /// How many are stored.
    pub(super) done: usize,
    pub(super) latents_out: Option<PathBuf>,
    /// Of the pictures that are stored, if they are wanted.
    pub(super) latents: Vec<Tensor<4>>,
}

impl Onlooker<Studio> {
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
                    self.taker.done, self.taker.pictures
                ));
                stored?;
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    }

    fn store_latents(&mut self) -> anyhow::Result<()> {
        let latents = std::mem::take(&mut self.taker.latents);
        match &self.taker.latents_out {
            Some(path) if !latents.is_empty() => {
                let _turn = self.interrupt.writing();
                latents::write(path, latents)
            }
            _ => Ok(()),
        }
    }
}

impl Take for Studio {
    fn take(&mut self, picture: Picture, interrupt: &Interrupt) -> Result<(), ImageError> {
        let Picture { image, latent, settings } = picture;
        let format = self.names.format();
        let settings = Settings { jpeg_quality: format.quality(), ..settings };
        let texts = settings.texts();
        let path = {
            let _turn = interrupt.writing();
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
