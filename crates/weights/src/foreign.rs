use std::fmt;

/// A file that is neither safetensors nor GGUF but is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// What `torch.save` writes since PyTorch 1.6: a zip with pickled code.
    PytorchZip,
    /// What it wrote before: pickled code.
    Pickle,
    /// What git leaves when the large file itself was not fetched.
    LfsPointer,
    /// A web page that was saved instead of the file, for instance a log-in page.
    WebPage,
}

impl Foreign {
    /// Recognises a file by its first bytes. Asked only when it does not read as safetensors.
    pub(crate) fn recognise(start: &[u8]) -> Option<Foreign> {
        let page = |tag: &[u8]| start.get(..tag.len()).is_some_and(|head| head.eq_ignore_ascii_case(tag));
        // The two bytes of a pickle could be a safetensors length; such a length has zeros above.
        let pickle = matches!(start, [0x80, 2..=5, third, ..] if *third != 0);
        match start {
            [b'P', b'K', 3, 4, ..] => Some(Foreign::PytorchZip),
            _ if pickle => Some(Foreign::Pickle),
            _ if start.starts_with(b"version https://git-lfs") => Some(Foreign::LfsPointer),
            _ if page(b"<!doctype") || page(b"<html") => Some(Foreign::WebPage),
            _ => None,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Foreign::PytorchZip | Foreign::Pickle => {
                "pickled files can run code and are not read; use the .safetensors file of the same weights"
            }
            Foreign::LfsPointer => "fetch the file itself with `git lfs pull`",
            Foreign::WebPage => "download it again; the site may ask you to log in and to accept a licence first",
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Foreign::PytorchZip => "a zip file, as PyTorch saves pickled weights",
            Foreign::Pickle => "a Python pickle, as old PyTorch saved weights",
            Foreign::LfsPointer => "a git-lfs pointer, not the file it points to",
            Foreign::WebPage => "a web page",
        })
    }
}
