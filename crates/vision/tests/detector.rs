//! The detector's network and its folder.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]
#![allow(non_snake_case, reason = "tensor names end in their shape")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::ModuleVisitor;
use common::by_name;
use rectiflow_nn::{
    Device, Module, Named, Param, ParamNames, Params, Precision, RandomInit, Rng, Tensor, TensorData, from_f32, to_f32,
};
use rectiflow_vision::detector::{Cells, Eyes};
use rectiflow_vision::{Detector, DetectorConfig, DetectorError, DetectorNetwork};
use rectiflow_weights::write_safetensors;

fn names(kind: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{kind} {number}")).collect()
}

fn tiny() -> DetectorConfig {
    DetectorConfig { side_px: 64, widths: [8, 8, 16, 16, 24], concepts: names("thing", 5), colours: names("colour", 3) }
}

fn detector(config: &DetectorConfig, device: &Device) -> (DetectorNetwork, ParamNames) {
    let mut source = RandomInit { seed: 1 };
    let mut source = Named::new(&mut source);
    let detector = DetectorNetwork::new(config, Params::new(&mut source, device, Precision::F32));
    (detector, source.names())
}

fn pictures(count: usize, [height, width]: [usize; 2], device: &Device) -> Tensor<4> {
    let mut rng = Rng::keyed(2, "pictures", 0);
    let values = (0..count * 3 * height * width).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect();
    from_f32(values, [count, 3, height, width], device)
}

fn seen(detector: &DetectorNetwork, pictures_B3HW: Tensor<4>) -> Cells {
    detector.forward(Eyes::new(&Device::flex(), Precision::F32).look(pictures_B3HW))
}

#[test]
fn the_usual_detector_is_small_and_a_new_one_sees_next_to_nothing() {
    let config = DetectorConfig {
        side_px: 128,
        widths: DetectorConfig::WIDTHS,
        concepts: names("thing", 315),
        colours: names("colour", 7),
    };
    let (detector, _) = detector(&config, &Device::flex());
    assert!((1_700_000..1_900_000).contains(&detector.num_params()), "{}", detector.num_params());
    assert!((0.3e9..0.5e9).contains(&config.operations(128)), "{}", config.operations(128));
    let cells = seen(&detector, pictures(2, [128, 128], &Device::flex()));
    let centres = to_f32(&cells.centres_Bhw());
    assert_eq!(cells.centres_Bhw().dims(), [2, 16, 16]);
    let mean = centres.iter().sum::<f32>() / centres.len() as f32;
    assert!((-6.0..-3.0).contains(&mean), "{mean}");
}

#[test]
fn pictures_of_whole_cells_have_a_row_of_numbers_for_each() {
    let (detector, _) = detector(&tiny(), &Device::flex());
    for ([height, width], batch) in [([64, 64], 3), ([72, 40], 1), ([8, 8], 2)] {
        let cells = seen(&detector, pictures(batch, [height, width], &Device::flex()));
        let [h, w] = [height / 8, width / 8];
        assert_eq!(cells.centres_Bhw().dims(), [batch, h, w]);
        let last = (batch * h * w - 1) as i64;
        let said = cells.at(Tensor::from_data(TensorData::new(vec![0, last], [2]), &Device::flex()));
        assert_eq!([said.areas_N4.dims(), said.colours.dims(), said.concepts.dims()], [[2, 4], [2, 4], [2, 5]]);
        assert_eq!(cells.things().len(), batch);
    }
}

/// Norms are over a picture: one does not change what is seen in another.
#[test]
fn each_picture_is_seen_alone() {
    let (detector, _) = detector(&tiny(), &Device::flex());
    let both = pictures(2, [64, 64], &Device::flex());
    let together = to_f32(&seen(&detector, both.clone()).centres_Bhw());
    let second = to_f32(&seen(&detector, both.narrow(0, 1, 1)).centres_Bhw());
    assert!(together[64..].iter().zip(&second).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn every_parameter_has_a_gradient_once_residual_blocks_are_something() {
    let device = Device::flex().autodiff();
    let (detector, names) = detector(&tiny(), &device);
    let eyes = Eyes::new(&Device::flex(), Precision::F32);
    let cells = detector.forward(eyes.look(pictures(2, [64, 64], &Device::flex())).tracked());
    let said = cells.at(Tensor::from_data(TensorData::new(vec![3_i64, 70], [2]), &device));
    let loss = cells.centres_Bhw().square().sum() + said.concepts.square().sum() + said.areas_N4.sum();
    let gradients = by_name(&detector, &names, loss.backward());
    let zero = |name: &str| gradients[name].iter().all(|x| *x == 0.0);
    for (name, gradient) in &gradients {
        assert!(gradient.iter().all(|x| x.is_finite()), "{name}");
        // Behind the layer of zeros that ends a block nothing is learned in the first step.
        let is_behind = name.contains("first.") || name.contains("second.norm.");
        assert_eq!(zero(name), is_behind, "{name}");
    }
    assert_eq!(gradients.len(), weights(&detector, &names).len());
}

fn weights(detector: &DetectorNetwork, names: &ParamNames) -> BTreeMap<String, TensorData> {
    struct Gather<'a>(&'a ParamNames, BTreeMap<String, TensorData>);

    impl ModuleVisitor for Gather<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(self.0.get(param.id).unwrap().to_owned(), param.val().inner().into_data());
        }
    }

    let mut gather = Gather(names, BTreeMap::new());
    detector.visit(&mut gather);
    gather.1
}

fn write(folder: &Path, config: &str, weights: &BTreeMap<String, TensorData>) {
    std::fs::write(folder.join("config.json"), config).unwrap();
    let weights: Vec<_> = weights.iter().map(|(name, data)| (&name[..], data)).collect();
    write_safetensors(folder.join("model.safetensors"), &weights, &BTreeMap::new()).unwrap();
}

#[test]
fn a_folder_has_all_that_a_detector_is() {
    let (device, folder) = (Device::flex(), tempfile::tempdir().unwrap());
    let (detector, names) = detector(&tiny(), &device.clone().autodiff());
    write(folder.path(), &tiny().to_json().to_string(), &weights(&detector, &names));
    let opened = Detector::open(folder.path(), &device, Precision::F32).unwrap();
    assert_eq!(opened.config(), &tiny());
    let pictures = pictures(2, [64, 64], &device);
    let [before, after] = [seen(&detector.valid(), pictures.clone()), opened.cells(pictures)];
    assert_eq!(to_f32(&before.centres_Bhw()), to_f32(&after.centres_Bhw()));
}

#[test]
fn a_folder_that_is_no_detector_is_refused_with_what_is_wrong() {
    let (device, folder) = (Device::flex(), tempfile::tempdir().unwrap());
    let path = folder.path();
    let error = || Detector::open(path, &device, Precision::F32).map(drop).unwrap_err();
    assert!(matches!(error(), DetectorError::Unreadable { path, .. } if path.ends_with("config.json")));
    let (detector, names) = detector(&tiny(), &device.clone().autodiff());
    let (config, all) = (tiny().to_json(), weights(&detector, &names));
    let without = |name: &str| all.iter().filter(|one| one.0 != name).map(|(a, b)| (a.clone(), b.clone())).collect();
    let with = |name: &str, value: TensorData| {
        let mut changed = all.clone();
        changed.insert(name.to_owned(), value);
        changed
    };
    let other = |key: &str, value: serde_json::Value| {
        let mut config = config.clone();
        config[key] = value;
        config.to_string()
    };
    let bias = TensorData::new(vec![f32::NAN; 16], [16]);
    let config = config.to_string();
    for (config, weights, expected) in [
        ("no JSON".to_owned(), all.clone(), "config.json` is not the configuration of a detector: expected"),
        ("{}".to_owned(), all.clone(), "missing field `side_px`"),
        (other("widths", [8, 8, 16, 16, 20].as_slice().into()), all.clone(), "a width is 20"),
        (other("concepts", Vec::<String>::new().into()), all.clone(), "it has no concepts"),
        (other("colours", vec!["a", "a"].into()), all.clone(), "a name is listed twice"),
        (other("sizes", 3.into()), all.clone(), "unknown field `sizes`"),
        (other("concepts", vec!["a", "b"].into()), all.clone(), "`cells.conv.bias` has shape"),
        (config.clone(), without("block.first.conv.weight"), "`block.first.conv.weight` is missing"),
        (config.clone(), with("more", TensorData::new(vec![0.0_f32], [1])), "`more` is not part of it"),
        (config.clone(), with("down.2.conv.bias", bias), "`down.2.conv.bias` has a value that is not finite"),
    ] {
        write(path, &config, &weights);
        let error = error().to_string();
        assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
    }
    std::fs::write(path.join("model.safetensors"), b"not one").unwrap();
    assert!(matches!(error(), DetectorError::Misfit { .. }));
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    assert!(matches!(error(), DetectorError::Unreadable { path, .. } if path.ends_with("model.safetensors")));
}
