//! What a checkpoint of a network holds, and what is refused.

use std::num::NonZeroU64;
use std::path::PathBuf;

use rectiflow_nn::layers::Linear;
use rectiflow_nn::{Init, Named, Params, Precision, RandomInit, from_f32};
use rectiflow_weights::{read_all, write_safetensors};

use super::*;
use crate::optimizer::Matrices;
use crate::sparse;

const SETTINGS: AdamW = AdamW { beta_1: 0.9, beta_2: 0.99, eps: 1e-8, weight_decay: 0.05, matrices: Matrices::Adamw };

fn trainee(inputs: usize) -> Trainee<Linear> {
    let device = Device::flex().autodiff();
    let mut source = RandomInit { seed: 3 };
    let mut source = Named::new(&mut source);
    let module = Linear::new(Params::new(&mut source, &device, Precision::F32), inputs, 2, Init::XavierUniform);
    let averages = vec![Ema::Decay { decay: 0.9, every: NonZeroU64::MIN }, Ema::Power { sigma_rel: 0.1 }];
    Trainee::new("net", module, source.names(), SETTINGS, averages)
}

/// One step on inputs of that size.
fn step(trainee: &mut Trainee<Linear>, input: f32, learning_rate: f64) {
    let x = from_f32(vec![input; 3], [1, 3], &Device::flex().autodiff());
    let loss = trainee.module().forward(x).square().sum();
    trainee.add(loss.backward());
    trainee.step(learning_rate, None).unwrap();
}

/// Saved after two steps.
fn saved() -> (Trainee<Linear>, tempfile::TempDir) {
    let (mut trainee, folder) = (trainee(3), tempfile::tempdir().unwrap());
    (0..2).for_each(|_| step(&mut trainee, 1.0, 1e-2));
    trainee.save(folder.path()).unwrap();
    (trainee, folder)
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into(), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn files_have_the_bytes_of_all_their_tensors_written_together() {
    let (_, folder) = saved();
    let together = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    assert_eq!(files.len(), 4);
    for (name, bytes) in &files {
        let tensors = read_all(folder.path().join(name)).unwrap();
        let tensors: Vec<_> = tensors.iter().map(|(name, data)| (&name[..], data)).collect();
        write_safetensors(together.path().join(name), &tensors, &BTreeMap::new()).unwrap();
        assert!(std::fs::read(together.path().join(name)).unwrap() == *bytes, "{name:?}");
    }
    let memory = read_all(folder.path().join("net.optimizer.safetensors")).unwrap();
    let names: Vec<_> = memory.keys().map(String::as_str).collect();
    let kinds = ["bias.exp_avg", "bias.exp_avg_sq", "bias.step", "weight.exp_avg", "weight.exp_avg_sq", "weight.step"];
    assert_eq!(names, kinds);
    let weights = read_all(folder.path().join("net.weights.safetensors")).unwrap();
    assert_eq!(memory["weight.exp_avg"].shape(), weights["weight"].shape());
    assert_eq!(memory["bias.step"].as_slice::<i64>().unwrap(), [2]);
}

#[test]
fn before_the_first_step_there_are_no_averages() {
    let folder = tempfile::tempdir().unwrap();
    trainee(3).save(folder.path()).unwrap();
    let names: Vec<_> = files(folder.path()).into_keys().collect();
    assert_eq!(names, [Path::new("net.optimizer.safetensors"), Path::new("net.weights.safetensors")]);
}

#[test]
fn what_is_not_finite_is_not_saved_and_named() {
    // A rate beyond f32 throws the parameters out of it.
    let (mut trainee, folder) = saved();
    step(&mut trainee, 1.0, f64::MAX);
    let error = trainee.save(folder.path()).unwrap_err();
    assert!(error.to_string().starts_with("bias in net.weights.safetensors has values that are not finite"), "{error}");
    assert!(error.to_string().contains("\nhint: go on from the checkpoint before"), "{error}");

    // A gradient whose square is beyond f32.
    let (mut trainee, folder) = saved();
    step(&mut trainee, 1e15, 1e-2);
    let error = trainee.save(folder.path()).unwrap_err();
    let StateError::NotFinite { file, name } = &error else { panic!("{error}") };
    assert_eq!((&file[..], &name[..]), ("net.optimizer.safetensors", "weight.exp_avg_sq"));
}

#[test]
fn a_state_of_more_than_a_gigabyte_is_loaded() {
    let (trainee_before, folder) = saved();
    let before = files(folder.path());
    sparse::lengthen(&folder.path().join("net.optimizer.safetensors"), "zeros", "F32", 4);
    let mut again = trainee(3);
    again.load(folder.path(), 2).unwrap();
    let to = tempfile::tempdir().unwrap();
    again.save(to.path()).unwrap();
    assert!(files(to.path()) == before && again.steps() == trainee_before.steps(), "another state");

    // Of the weights no tensor may be unknown; it is said at once, without a look at its values.
    sparse::lengthen(&folder.path().join("net.weights.safetensors"), "zeros", "F32", 4);
    let error = again.load(folder.path(), 2).unwrap_err().to_string();
    assert!(error.contains("it has tensors that the network has not"), "{error}");
}

/// Removes or changes a tensor of a file.
fn change(path: &Path, change: impl FnOnce(&mut BTreeMap<String, TensorData>)) {
    let mut tensors = read_all(path).unwrap();
    change(&mut tensors);
    let tensors: Vec<_> = tensors.iter().map(|(name, data)| (&name[..], data)).collect();
    write_safetensors(path, &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn a_state_that_does_not_fit_changes_nothing() {
    type Change = fn(&mut BTreeMap<String, TensorData>);
    let lose: Change = |tensors| drop(tensors.remove("weight.exp_avg_sq"));
    let lose_step: Change = |tensors| drop(tensors.remove("weight.step"));
    let negative: Change = |tensors| drop(tensors.insert("bias.step".into(), TensorData::new(vec![-1_i64], [1])));
    let longer: Change = |tensors| drop(tensors.insert("bias.exp_avg".into(), TensorData::new(vec![0_f32; 3], [3])));
    let whole: Change = |tensors| drop(tensors.insert("bias".into(), TensorData::new(vec![0_i32; 2], [2])));
    let (optimizer, average, weights) =
        ("net.optimizer.safetensors", "net.ema-1.safetensors", "net.weights.safetensors");
    for (file, how, expected) in [
        (optimizer, lose, "net.optimizer.safetensors does not fit the network: weight.exp_avg_sq is missing"),
        (optimizer, lose_step, "weight.step is missing"),
        (optimizer, negative, "bias.step is no number of steps"),
        (optimizer, longer, "bias.exp_avg has shape [3] instead of [2]"),
        (
            average,
            (|tensors| tensors.clear()) as Change,
            "net.ema-1.safetensors does not fit the network: bias is missing",
        ),
        (weights, whole, "bias is stored as I32"),
    ] {
        let (mut there, folder) = saved();
        step(&mut there, 0.5, 1e-2);
        let [before, after] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        there.save(before.path()).unwrap();
        change(&folder.path().join(file), how);
        let error = there.load(folder.path(), 2).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
        there.save(after.path()).unwrap();
        assert!(files(before.path()) == files(after.path()), "{expected}: it was changed");
    }
}
