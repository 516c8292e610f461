//! In which format pictures are stored, as options and names say it.

use anyhow::bail;
use rectiflow_generate::Format;

/// Format of the pictures
#[derive(clap::Args, Clone, Default)]
pub(crate) struct FormatArgs {
    /// Format of pictures in a folder, where no name says it: png, jpeg or webp. PNG and WebP keep every pixel as it is
    /// (WebP here is always lossless), JPEG does not [default: that of --out's name, or png]
    #[arg(long, value_name = "NAME")]
    pub(crate) format: Option<Format>,
    /// Quality of a JPEG, 1 to 100 [default: 95]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) quality: Option<u8>,
}

impl FormatArgs {
    /// The format, where a name may say which.
    ///
    /// # Errors
    /// The name says another than the option, or there is a quality and no JPEG.
    pub(crate) fn resolve(&self, of_name: Option<Format>) -> anyhow::Result<Format> {
        let format = match (of_name, self.format) {
            (Some(named), Some(wished)) if named != wished => bail!(
                "--out names a {named}, and --format asks for a {wished}\n\
                 hint: leave --format out, or give a name that ends in .{}",
                wished.ending()
            ),
            (named, wished) => named.or(wished).unwrap_or_default(),
        };
        match (format, self.quality) {
            (Format::Jpeg { .. }, Some(quality)) => Ok(Format::Jpeg { quality }),
            (_, Some(_)) => bail!(
                "--quality is for JPEG, and a {format} is lossless\n\
                 hint: leave it out, or store a JPEG: --format jpeg, or a name that ends in .jpg"
            ),
            (format, None) => Ok(format),
        }
    }
}
