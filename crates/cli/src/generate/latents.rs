//! The files of `--latents-in` and `--latents-out`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use rectiflow_generate::{ModelFacts, Plan};
use rectiflow_nn::{DType, Device, Tensor, TensorData, is_finite, to_f32};
use rectiflow_weights::{WeightsError, read_all, shown, write_safetensors};

/// The name of the tensor.
const LATENTS: &str = "latents";

/// Noise, or latents, `[N, 16, H/8, W/8]`.
pub(crate) fn read(path: &Path, model: &ModelFacts, device: &Device) -> anyhow::Result<Tensor<4>> {
    let mut tensors = read_all(path)?;
    let data = tensors.remove(LATENTS).with_context(|| {
        format!("{} has no tensor `{LATENTS}`\nhint: `--latents-out` writes such a file", path.display())
    })?;
    let channels = model.latent_channels;
    let shape = data.shape().as_slice().to_vec();
    let [_, found, _, _] = shape[..] else {
        bail!("`{LATENTS}` in {} has shape {shape:?}, not [N, {channels}, H, W]", path.display())
    };
    if found != channels {
        bail!("`{LATENTS}` in {} has {found} channels; this model's have {channels}", path.display());
    }
    let latents = Tensor::<4>::from_data(data, (device, DType::F32));
    if !is_finite(&latents) {
        bail!("`{LATENTS}` in {} has values that are not finite", path.display());
    }
    Ok(latents)
}

/// Checks that `noise` is enough for `pictures` of the plan's size.
pub(super) fn check(noise: &Tensor<4>, plan: &Plan, pictures: usize) -> anyhow::Result<()> {
    let [count, _, height, width] = noise.dims();
    let [_, _, rows, columns] = plan.latent_shape;
    if (height, width) != (rows, columns) {
        bail!(
            "latents of {height}x{width} do not make {}x{} pixels\n\
             hint: leave --width and --height out to take the file's size",
            plan.width,
            plan.height
        );
    }
    if count != 1 && count != pictures {
        bail!("{count} latents for {pictures} pictures\nhint: give one for all, or one for each");
    }
    Ok(())
}

/// Writes the latents of all pictures, `[1, 16, H/8, W/8]` each, as one tensor.
pub(super) fn write(path: &Path, latents: Vec<Tensor<4>>) -> anyhow::Result<()> {
    let all = Tensor::cat(latents, 0);
    let data = TensorData::new(to_f32(&all), all.dims());
    write_safetensors(path, &[(LATENTS, &data)], &BTreeMap::new()).map_err(|error| match error {
        WeightsError::Unwritable { path, problem } => anyhow!(
            "the latents cannot be stored in {}: {problem}\n\
             hint: the pictures that were named are stored; for their latents draw again with another `--latents-out`",
            shown(&path)
        ),
        other => other.into(),
    })
}
