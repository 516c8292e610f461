//! Running the binary, and files for it to read.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A model that starts in a third of the time of those with three encoders: for tests of what surrounds a picture.
pub(crate) const QUICK: &str = "--diffusion-model {empty/model/transformer/diffusion_pytorch_model.safetensors} \
                                --vae {empty/model/vae/diffusion_pytorch_model.safetensors} \
                                --clip-l {empty/model/text_encoder/model.safetensors}";

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A temporary folder to run the binary in.
pub(crate) struct Desk {
    pub(crate) folder: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Desk { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command line as it would be typed; words are cut at spaces, `{sd3}` stands for that fixture's folder.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rectiflow"));
        command.current_dir(self.folder.path()).env("RAYON_NUM_THREADS", "1");
        // No test leaves this machine, or reads a cache or token of the user's.
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("home"));
        for name in [
            "HF_ENDPOINT",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
        ] {
            command.env_remove(name);
        }
        for word in line.split_whitespace() {
            let (open, close) = (word.find('{'), word.find('}'));
            let word = match (open, close) {
                (Some(open), Some(close)) => {
                    let path = fixture(&word[open + 1..close]);
                    format!("{}{}{}", &word[..open], path.display(), &word[close + 1..])
                }
                _ => word.to_string(),
            };
            command.arg(word);
        }
        command
    }

    pub(crate) fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs a line that must succeed; returns stdout.
    #[track_caller]
    pub(crate) fn succeed(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}\n{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a line that must fail; returns stderr.
    #[track_caller]
    pub(crate) fn fail(&self, line: &str) -> String {
        failed(line, &self.run(line))
    }

    /// The files that lie in the folder now.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// A failure is one message and a status, never a panic.
#[track_caller]
pub(crate) fn failed(line: &str, output: &Output) -> String {
    let stderr = text(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 0 && code != 101), "{line}: {:?}\n{stderr}", output.status);
    assert!(!stderr.contains("panicked"), "{line}\n{stderr}");
    stderr
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A tensor as a file has it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) type Tensors = BTreeMap<String, Stored>;

pub(crate) fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let stored = |view: TensorView<'_>| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

pub(crate) fn write(path: &Path, tensors: &Tensors) {
    let views: Vec<_> = tensors.iter().map(|(name, tensor)| (name, view_of(tensor))).collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn view_of(tensor: &Stored) -> TensorView<'_> {
    TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap()
}

/// The tensors whose names begin with `prefix`, without it.
pub(crate) fn under(tensors: &Tensors, prefix: &str) -> Tensors {
    tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
}

/// A folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// The pixels of a picture, and the texts of its file.
pub(crate) fn png(path: &Path) -> (Vec<u8>, Vec<(String, String)>) {
    let mut reader = png::Decoder::new(BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let texts = reader.info().utf8_text.iter().map(|t| (t.keyword.clone(), t.get_text().unwrap())).collect();
    (pixels, texts)
}

/// The pixels of a picture in any format.
pub(crate) fn pixels(path: &Path) -> Vec<u8> {
    image::open(path).unwrap().into_rgb8().into_raw()
}

/// The settings in a PNG's file.
pub(crate) fn settings(path: &Path) -> serde_json::Value {
    let (_, texts) = png(path);
    serde_json::from_str(&texts.iter().find(|(keyword, _)| keyword == "rectiflow").unwrap().1).unwrap()
}

/// A PNG of these pixels with these texts.
pub(crate) fn write_png(path: &Path, (width, height): (u32, u32), rgb: &[u8], texts: &[(&str, &str)]) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), width, height);
    encoder.set_color(png::ColorType::Rgb);
    for (keyword, text) in texts {
        encoder.add_itxt_chunk((*keyword).into(), (*text).into()).unwrap();
    }
    encoder.write_header().unwrap().write_image_data(rgb).unwrap();
}

/// What a line says before it draws.
pub(crate) fn said(desk: &Desk, line: &str) -> String {
    let output = desk.run(line);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}
