use std::num::NonZeroU64;
use std::path::Path;

use image::RgbImage;

use crate::buckets::Size;
use crate::captions::Captions;
use crate::error::{DatasetError, Reason};
use crate::findings::LeftOut;
use crate::settings::DataSettings;
use crate::source::{Canvas, Source};
use crate::sprites::{self, Scene, Scenes, Settings, SpriteError};

/// Scenes of sprites for training, drawn when they are asked for: the first ones of some settings, with one caption
/// each.
pub struct Sprites {
    scenes: Scenes,
    side_px: u32,
    count: NonZeroU64,
}

impl Sprites {
    /// `count` scenes of `side_px` (16 to 4096) pixels, of the art in a folder.
    ///
    /// # Errors
    /// The art is not there or not whole; the side or a setting is out of bounds.
    pub fn open(art: &Path, settings: Settings, side_px: u32, count: NonZeroU64) -> Result<Self, SpriteError> {
        let sprites = Sprites::undrawn(art, settings, side_px, count)?;
        // Refuses a side that no scene can be drawn at.
        sprites.scenes.draw(&sprites.scenes.scene(0), side_px)?;
        Ok(sprites)
    }

    /// The scenes that a recipe names, for what looks at more than pictures and captions.
    ///
    /// # Errors
    /// As [`Self::open`]; the recipe names something else, or settings that cannot be met.
    pub fn of(settings: &DataSettings) -> Result<Self, DatasetError> {
        let hint = "set `kind = \"sprites\"`";
        super::drawn(settings)?.ok_or_else(|| super::refused("they name no scenes", hint))
    }

    /// All scenes of the settings.
    pub fn scenes(&self) -> &Scenes {
        &self.scenes
    }

    /// Pixels on a side of a picture.
    pub fn side_px(&self) -> u32 {
        self.side_px
    }

    /// What is in a scene, and its picture.
    ///
    /// # Errors
    /// The art is not what it was.
    pub fn scene(&self, number: u64) -> Result<(Scene, RgbImage), SpriteError> {
        let scene = self.scenes.scene(number);
        let picture = self.scenes.draw(&scene, self.side_px)?;
        Ok((scene, picture))
    }

    /// The same for its captions alone: any side will do.
    pub(super) fn undrawn(
        art: &Path,
        settings: Settings,
        side_px: u32,
        count: NonZeroU64,
    ) -> Result<Self, SpriteError> {
        Ok(Sprites { scenes: Scenes::open(art, settings)?, side_px, count })
    }
}

impl Source for Sprites {
    fn count(&self) -> u64 {
        self.count.get()
    }

    fn id(&self, number: u64) -> String {
        self.scenes.id(number)
    }

    fn picture_name(&self, _number: u64) -> Option<String> {
        None
    }

    fn picture_start(&self, number: u64, _bytes: u64) -> Result<Vec<u8>, Reason> {
        sprites::png(&self.draw(number)?).map_err(|problem| Reason::Unreadable(problem.to_string()))
    }

    fn captions(&self, number: u64) -> Result<Captions, Reason> {
        let mut captions = Captions::default();
        captions.add("caption", &self.scenes.scene(number).caption);
        Ok(captions)
    }

    fn left_out(&self) -> &[LeftOut] {
        &[]
    }

    fn canvas(&self) -> Option<&dyn Canvas> {
        Some(self)
    }
}

impl Canvas for Sprites {
    fn size(&self) -> Size {
        Size::new(self.side_px, self.side_px)
    }

    fn draw(&self, number: u64) -> Result<RgbImage, Reason> {
        let drawn = self.scenes.draw(&self.scenes.scene(number), self.side_px);
        drawn.map_err(|problem| Reason::Unreadable(problem.to_string()))
    }
}
