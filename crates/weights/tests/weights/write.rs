//! Small files, written and read again.

use std::collections::BTreeMap;

use half::{bf16, f16};
use rectiflow_nn::TensorData;
use rectiflow_weights::{TensorFile, TensorOutline, WeightsError, read_all, write_safetensors, write_tensor_by_tensor};
use safetensors::SafeTensors;

use crate::craft::{fixture, message};

#[test]
fn every_type_comes_back_with_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.safetensors");
    let tensors = [
        ("f32", TensorData::new(vec![1.5_f32, f32::MIN_POSITIVE, -0.0], [3])),
        ("f16", TensorData::new(vec![f16::PI; 3], [1, 3])),
        ("bf16", TensorData::new(vec![bf16::PI; 5], [5])),
        ("i32", TensorData::new(vec![i32::MIN, 49407], [2, 1])),
        ("i64", TensorData::new(vec![i64::MAX], [1])),
        ("u8", TensorData::new(vec![7_u8; 3], [3])),
        ("empty", TensorData::new(Vec::<f32>::new(), [0, 4])),
    ];
    let metadata = BTreeMap::from([("args".to_owned(), "{\"a\": \"\u{e9}\"}".to_owned())]);
    let listed: Vec<(&str, &TensorData)> = tensors.iter().map(|(name, data)| (*name, data)).collect();
    write_safetensors(&path, &listed, &metadata).unwrap();

    let found = read_all(&path).unwrap();
    assert_eq!(found.len(), tensors.len());
    for (name, data) in &tensors {
        assert_eq!(&found[*name], data, "{name}");
    }
    assert_eq!(TensorFile::open(&path).unwrap().metadata(), &metadata);
    let content = std::fs::read(&path).unwrap();
    assert_eq!(SafeTensors::deserialize(&content).unwrap().len(), tensors.len());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
}

fn outlines(tensors: &[(&str, TensorData)]) -> Vec<TensorOutline> {
    let outline = |(name, data): &(&str, TensorData)| TensorOutline {
        name: (*name).to_owned(),
        dtype: data.dtype(),
        shape: data.shape().to_vec(),
    };
    tensors.iter().map(outline).collect()
}

#[test]
fn tensors_written_one_by_one_are_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let [together, apart] = ["together", "apart"].map(|name| folder.path().join(name));
    let tensors = [
        ("b", TensorData::new(vec![1.5_f32, 2.0], [1, 2])),
        ("d", TensorData::new(vec![f16::PI; 3], [3])),
        ("a", TensorData::new(vec![-0.5_f32], [1])),
        ("c", TensorData::new(vec![7_i64], [1])),
    ];
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let listed: Vec<(&str, &TensorData)> = tensors.iter().map(|(name, data)| (*name, data)).collect();
    write_safetensors(&together, &listed, &metadata).unwrap();
    let mut asked = Vec::new();
    let values = |name: &str| -> Result<TensorData, WeightsError> {
        asked.push(name.to_owned());
        Ok(tensors.iter().find(|(known, _)| *known == name).unwrap().1.clone())
    };
    write_tensor_by_tensor(&apart, outlines(&tensors), &metadata, values).unwrap();
    assert_eq!(asked, ["c", "a", "b", "d"], "each once, in the order of the file");
    assert!(std::fs::read(&together).unwrap() == std::fs::read(&apart).unwrap());

    // Without all values there is no file, and nothing of one.
    std::fs::remove_file(&apart).unwrap();
    let lacking = |name: &str| match name {
        "b" => Err(WeightsError::NothingGiven),
        other => Ok(tensors.iter().find(|(known, _)| *known == other).unwrap().1.clone()),
    };
    let error = write_tensor_by_tensor(&apart, outlines(&tensors), &metadata, lacking).unwrap_err();
    assert!(matches!(error, WeightsError::NothingGiven), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn expected_values_of_a_fixture_are_read() {
    let golden = read_all(fixture("sd3/golden.safetensors")).unwrap();
    assert_eq!(golden["ids_clip"].as_slice::<i32>().unwrap()[0], 49406);
    assert_eq!(golden["sigmas"].shape().to_vec(), [5]);
    assert_eq!(golden["sigmas"].as_slice::<f32>().unwrap()[0], 1.0);
}

#[test]
fn a_file_is_replaced_under_its_readers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latents.safetensors");
    let write = |value: f32| {
        write_safetensors(&path, &[("x", &TensorData::new(vec![value; 1000], [1000]))], &BTreeMap::new()).unwrap();
    };
    write(1.0);
    let file = TensorFile::open(&path).unwrap();
    write(2.0);
    assert_eq!(file.data("x").unwrap().as_slice::<f32>().unwrap()[999], 1.0);
    assert_eq!(read_all(&path).unwrap()["x"].as_slice::<f32>().unwrap()[999], 2.0);
}

/// Reading whole means that the file may then change: a map of it would end this process.
#[test]
fn what_was_read_whole_outlives_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latents.safetensors");
    let data = TensorData::new(vec![3.0_f32; 10_000], [10_000]);
    write_safetensors(&path, &[("x", &data)], &BTreeMap::new()).unwrap();
    let found = read_all(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert_eq!(found["x"], data);

    write_safetensors(&path, &[("x", &data)], &BTreeMap::new()).unwrap();
    let found = TensorFile::open(&path).unwrap().read("x").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert_eq!(found, data);
}

#[test]
fn what_cannot_be_written_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = TensorData::new(vec![1.0_f32], [1]);
    let wide = TensorData::new(vec![1.0_f64], [1]);
    let nowhere = folder.path().join("none/latents.safetensors");
    let somewhere = folder.path().join("latents.safetensors");
    for (path, tensors) in [
        (&nowhere, vec![("x", &data)]),
        (&somewhere, vec![("x", &data), ("x", &data)]),
        (&somewhere, vec![("__metadata__", &data)]),
        (&somewhere, vec![("x", &wide)]),
    ] {
        let error = write_safetensors(path, &tensors, &BTreeMap::new()).unwrap_err();
        assert!(matches!(error, WeightsError::Unwritable { .. }), "{error}");
        message(&error);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_tensor_that_is_not_there_is_an_error() {
    let file = TensorFile::open(fixture("sd3/golden.safetensors")).unwrap();
    let error = file.data("lattents").unwrap_err();
    assert!(message(&error).0.contains("`lattents`"), "{error}");
}

#[test]
fn two_tensors_of_one_name_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("twice.safetensors");
    let tensor = || ("same", TensorData::new(vec![1.0_f32], [1]));
    let values = |_: &str| Ok::<_, WeightsError>(tensor().1);
    let twice = outlines(&[tensor(), tensor()]);
    let error = write_tensor_by_tensor(&path, twice, &BTreeMap::new(), values).unwrap_err();
    assert!(error.to_string().contains("the name `same` is taken"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was left");
}
