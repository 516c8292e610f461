//! A tiny decoder's pictures are diffusers' (`fixtures/vae/tiny_decoder.safetensors`, by `scripts/make_tiny_decoder.py`).
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::path::{Path, PathBuf};

use rectiflow_generate::{Compat, ModelFiles, Parts, TinyDecoderError};
use rectiflow_nn::{DType, Device, DeviceChoice, Precision, Tensor, TensorData, to_f32};
use rectiflow_weights::{ModelPaths, read_all, write_safetensors};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn parts() -> Parts {
    let files = ModelFiles::open(&ModelPaths { model: Some(fixture("sd3/model")), ..ModelPaths::default() }).unwrap();
    Parts::load(&files, DeviceChoice::Cpu, Precision::F32, Compat::Diffusers).unwrap()
}

fn bytes(tensors: &[(String, TensorData)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let named: Vec<(&str, &TensorData)> = tensors.iter().map(|(name, data)| (name.as_str(), data)).collect();
    write_safetensors(folder.path().join("x.safetensors"), &named, &Default::default()).unwrap();
    std::fs::read(folder.path().join("x.safetensors")).unwrap()
}

#[test]
fn pictures_are_diffusers_by_both_names_of_tensors() {
    let tensors = read_all(fixture("vae/tiny_decoder.safetensors")).unwrap();
    let tensor = |name: &str| -> Tensor<4> { Tensor::from_data(tensors[name].clone(), (&Device::flex(), DType::F32)) };
    let expected = to_f32(&tensor("picture"));
    let diffusers: Vec<(String, TensorData)> = tensors
        .iter()
        .filter(|(name, _)| name.starts_with("decoder."))
        .map(|(n, data)| (n.clone(), data.clone()))
        .collect();
    let own = diffusers.iter().map(|(name, data)| {
        let (place, rest) = name.strip_prefix("decoder.layers.").unwrap().split_once('.').unwrap();
        (format!("{}.{rest}", place.parse::<usize>().unwrap() + 1), data.clone())
    });
    for tensors in [own.collect(), diffusers] {
        let parts = parts().with_tiny_decoder(&bytes(&tensors), Precision::F32).unwrap();
        let picture = parts.tiny.unwrap().decode(tensor("latent"));
        assert_eq!(picture.dims(), [2, 3, 40, 32]);
        let worst = to_f32(&picture).into_iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
    }
}

#[test]
fn what_is_no_tiny_decoder_of_these_latents_is_refused() {
    let refused =
        |tensors: &[(String, TensorData)]| parts().with_tiny_decoder(&bytes(tensors), Precision::F32).err().unwrap();
    let data = |shape: &[usize]| TensorData::new(vec![0.0_f32; shape.iter().product()], shape.to_vec());
    assert!(matches!(parts().with_tiny_decoder(b"no file", Precision::F32), Err(TinyDecoderError::Tensors(_))));
    assert!(matches!(refused(&[("x".into(), data(&[2]))]), TinyDecoderError::Other(_)));
    // TAESD's latents have four channels.
    assert!(matches!(refused(&[("1.weight".into(), data(&[8, 4, 3, 3]))]), TinyDecoderError::Channels(4, 16)));
    let alone = refused(&[("1.weight".into(), data(&[8, 16, 3, 3]))]);
    assert!(alone.to_string().contains("is missing"), "{alone}");
}
