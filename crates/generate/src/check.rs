//! Whether a model can be drawn with, from headers and settings alone.

use rectiflow_mmdit::Mmdit;
use rectiflow_nn::{Device, Params, Precision};
use rectiflow_text::{ClipConfig, ClipEncoder, ClipKind, T5Encoder};
use rectiflow_vae::Vae;
use rectiflow_weights::{Checkpoint, PartKind};

use crate::error::OpenError;
use crate::files;

/// Everything about the parts that [`ModelFiles::open`](crate::ModelFiles::open) and
/// [`Parts::load`](crate::Parts::load) would refuse, without reading values.
///
/// A part that is not there is nothing wrong here: the checkpoint's inventory lists it.
pub fn check(checkpoint: &Checkpoint, device: &Device) -> Vec<OpenError> {
    let mut check = Check { checkpoint, device, wrong: Vec::new() };
    let transformer = check.config(PartKind::Transformer, |c| files::transformer(c).map(Some));
    check.fit(PartKind::Transformer, transformer.as_ref(), |params, config| drop(Mmdit::new(config, params)));
    let vae = check.config(PartKind::Vae, |c| files::vae(c).map(Some));
    check.fit(PartKind::Vae, vae.as_ref(), |params, config| drop(Vae::new(config, params)));
    let clip_l = check.clip(PartKind::ClipL, ClipKind::L);
    let clip_g = check.clip(PartKind::ClipG, ClipKind::G);
    let t5 = check.config(PartKind::T5, files::t5);
    check.fit(PartKind::T5, t5.as_ref(), |params, config| drop(T5Encoder::new(params, config)));

    // Parts fit each other only if each is what it should be.
    let mut wrong = check.wrong;
    if let Some(transformer) = transformer.filter(|_| wrong.is_empty()) {
        wrong.extend(vae.and_then(|vae| files::check_channels(&transformer, &vae).err()));
        if clip_l.is_some() || clip_g.is_some() || t5.is_some() {
            let encoders = (clip_l.as_ref(), clip_g.as_ref(), t5.as_ref());
            wrong.extend(files::check_widths(&transformer, encoders).err());
        }
    }
    wrong
}

struct Check<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    wrong: Vec<OpenError>,
}

impl Check<'_> {
    /// A part's sizes, if it is there and they can be found.
    fn config<C>(
        &mut self,
        part: PartKind,
        find: impl FnOnce(&Checkpoint) -> Result<Option<C>, OpenError>,
    ) -> Option<C> {
        self.checkpoint.part(part)?;
        find(self.checkpoint).map_err(|error| self.wrong.push(error)).ok().flatten()
    }

    fn clip(&mut self, part: PartKind, kind: ClipKind) -> Option<ClipConfig> {
        let config = self.config(part, |checkpoint| files::clip(checkpoint, part, kind));
        self.fit(part, config.as_ref(), |params, config| drop(ClipEncoder::new(params, config)));
        config
    }

    /// Asks for every parameter of a part's network, and reads none.
    fn fit<C>(&mut self, part: PartKind, config: Option<&C>, build: impl FnOnce(Params<'_>, &C)) {
        let (Some(part), Some(config)) = (self.checkpoint.part(part), config) else { return };
        let mut source = part.source();
        build(Params::new(&mut source, self.device, Precision::F32), config);
        self.wrong.extend(source.check_fit().err().map(OpenError::from));
    }
}
