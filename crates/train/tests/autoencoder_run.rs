//! The autoencoder's objective with a small network: that it learns, goes on to the bit, names what is not finite, and
//! leaves a model that others can read.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::path::Path;

use image::{Rgb, RgbImage};
use rectiflow_nn::{Device, DeviceChoice, Params, Precision, Tensor, from_f32, to_f32};
use rectiflow_train::objective::autoencoder::Autoencoder;
use rectiflow_train::objective::{Objective, StepError};
use rectiflow_train::plan::{Overrides, Plan};
use rectiflow_train::recipe::{Objective as ObjectiveRecipe, Recipe};
use rectiflow_train::setup;
use rectiflow_vae::{Vae, VaeConfig};
use rectiflow_weights::{Checkpoint, ModelPaths, PartKind};

/// Pictures of 32 px: a coloured square somewhere on a coloured ground.
fn pictures(folder: &Path, count: u32) {
    for index in 0..count {
        let shade = |of: u32| (60 + (index * of * 37) % 190) as u8;
        let (ground, square) = (Rgb([shade(1), shade(2), 200]), Rgb([250, shade(3), shade(5)]));
        let corner = 2 + 3 * (index % 5);
        let inside = |at: u32| (corner..corner + 12).contains(&at);
        let picture = RgbImage::from_fn(32, 32, |x, y| if inside(x) && inside(y) { square } else { ground });
        picture.save(folder.join(format!("{index:02}.png"))).unwrap();
    }
}

fn plan(data: &Path, more: &str) -> Plan {
    let text = format!(
        r#"
        steps = 100
        batch = 4
        accumulate = 2
        precision = "f32"
        model = {{ kind = "autoencoder", widths = [8, 16, 16], latent_channels = 4, groups = 4 }}
        data = {{ source = {{ path = '{}', side_px = 32 }} }}
        schedule = {{ learning_rate = 3e-3 }}
        ema = [{{ kind = "decay", decay = 0.8 }}, {{ kind = "power", sigma_rel = 0.1 }}]
        [objective]
        kind = "autoencoder"
        {more}
        "#,
        data.display()
    );
    Plan::resolve(Recipe::parse(&text, Path::new("recipe.toml")).unwrap(), Overrides::default()).unwrap()
}

const CRITIC: &str = "adversarial = { weight = 0.5, start_step = 2, width = 4 }";

fn ready(data: &Path, more: &str) -> Autoencoder {
    let plan = plan(data, more);
    let ObjectiveRecipe::Autoencoder(objective) = &plan.recipe.objective else { panic!("{plan:?}") };
    setup::autoencoder(&plan, objective, DeviceChoice::Cpu).unwrap().objective
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn a_small_autoencoder_with_a_critic_learns_a_few_pictures() {
    let data = tempfile::tempdir().unwrap();
    pictures(data.path(), 20);
    let mut objective =
        ready(data.path(), "kl_weight = 1e-3\nadversarial = { weight = 0.1, start_step = 20, width = 4 }");
    let before = objective.validate().unwrap();
    let mut last = BTreeMap::new();
    for step in 0..30 {
        last = objective.step(step, 5e-3).unwrap();
        assert_eq!(last.contains_key("critic"), step >= 20, "{step}");
    }
    let after = objective.validate().unwrap();
    assert!(after["psnr"] > before["psnr"] + 2.0, "{before:?} {after:?}");
    assert!(after["absolute"] < before["absolute"] && after["perceptual"] < 0.8 * before["perceptual"], "{after:?}");
    let loss = after["absolute"] + 0.25 * after["perceptual"];
    assert!((after["loss"] - loss).abs() < 1e-9);
    for name in ["loss", "absolute", "perceptual", "kl", "adversarial", "critic", "critic_gradient_norm"] {
        assert!(last[name].is_finite(), "{name}");
    }
    // Two pictures are a tenth of all; each stands beside what was made of it.
    let sheet = objective.samples().unwrap().unwrap();
    assert_eq!((sheet.width, sheet.height), (4 * 34 + 2, 34 + 2));
}

#[test]
fn the_recipe_for_sprites_can_be_followed() {
    let text = include_str!("../../../recipes/sprites-autoencoder-64.toml");
    let recipe = Recipe::parse(text, Path::new("sprites-autoencoder-64.toml")).unwrap();
    Plan::resolve(recipe, Overrides::default()).unwrap();
}

#[test]
fn a_run_that_was_stored_goes_on_to_the_bit() {
    let data = tempfile::tempdir().unwrap();
    pictures(data.path(), 12);
    let [whole, middle, again] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    // Before the critic has begun, and after.
    for stored_after in [1, 3] {
        let mut objective = ready(data.path(), CRITIC);
        for step in 0..5 {
            if step == stored_after {
                objective.save(middle.path()).unwrap();
            }
            objective.step(step, 1e-3).unwrap();
        }
        objective.save(whole.path()).unwrap();
        let mut other = ready(data.path(), CRITIC);
        other.load(middle.path(), stored_after).unwrap();
        for step in stored_after..5 {
            other.step(step, 1e-3).unwrap();
        }
        other.save(again.path()).unwrap();
        assert_eq!(files(whole.path()).len(), 6, "two networks with their moments, and two averages");
        assert!(files(whole.path()) == files(again.path()), "stored after {stored_after}: another state");
    }
}

#[test]
fn a_step_that_is_not_finite_names_its_pictures_and_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    pictures(data.path(), 12);
    let [before, after] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut objective = ready(data.path(), CRITIC);
    objective.step(0, 1e-3).unwrap();
    objective.step(1, 1e30).unwrap();
    objective.save(before.path()).unwrap();
    let Err(StepError::NotFinite { what, samples }) = objective.step(2, 1e-3) else { panic!("a step was taken") };
    assert!(what.starts_with("the part \"") && samples.len() == 4, "{what} {samples:?}");
    let names: Vec<String> = (0..12).map(|index| format!("{index:02}")).collect();
    assert!(samples.iter().all(|name| names.iter().any(|known| name.starts_with(known))), "{samples:?}");
    objective.save(after.path()).unwrap();
    assert!(files(before.path()) == files(after.path()), "parameters or moments were changed");
}

#[test]
fn the_model_at_the_end_is_the_averaged_one_with_latents_of_mean_0_and_deviation_1() {
    let (data, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pictures(data.path(), 12);
    let mut objective = ready(data.path(), "kl_weight = 1e-3");
    (0..10).for_each(|step| drop(objective.step(step, 1e-3).unwrap()));
    objective.export(to.path()).unwrap();

    let checkpoint =
        Checkpoint::open(&ModelPaths { model: Some(to.path().to_owned()), ..ModelPaths::default() }).unwrap();
    let part = checkpoint.require(PartKind::Vae).unwrap();
    let config = VaeConfig::find(&part.source(), part.config()).unwrap();
    assert_eq!((&config.widths[..], config.groups, config.latent_channels), (&[8, 16, 16][..], 4, 4));
    let mut source = part.source();
    let vae = Vae::new(&config, Params::new(&mut source, &Device::flex(), Precision::F32));
    source.finish().unwrap();

    let all: Vec<Tensor<4>> = (0..12).map(|index| picture(&data.path().join(format!("{index:02}.png")))).collect();
    let latents = vae.normalise(vae.encode(Tensor::cat(all.clone(), 0)).mean);
    let values = to_f32(&latents);
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    assert!(mean.abs() < 0.1, "{mean}");
    // What is normalised is a sample, whose deviation has the posterior's in it: the means' alone is less.
    let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
    assert!((0.1..1.05).contains(&deviation), "{deviation}");
    // The same network: its loss over the pictures kept for validation is that of the objective.
    let kept = objective.samples().unwrap().unwrap();
    let shown = picture_of(&kept.rgb, kept.width, [2 + 34, 2]);
    let original = picture_of(&kept.rgb, kept.width, [2, 2]);
    let apart = to_f32(&(vae.decode(vae.normalise(vae.encode(original).mean)).clamp(-1.0, 1.0) - shown).abs().max())[0];
    assert!(apart < 2.5 / 255.0, "{apart}");
}

fn picture(path: &Path) -> Tensor<4> {
    let picture = image::open(path).unwrap().into_rgb8();
    rectiflow_train::encode::batch_of(&[picture], &Device::flex())
}

/// 32 px out of a sheet.
fn picture_of(rgb: &[u8], width: usize, [left, top]: [usize; 2]) -> Tensor<4> {
    let at = |channel: usize, y: usize, x: usize| rgb[((top + y) * width + left + x) * 3 + channel];
    let values = (0..3).flat_map(|c| (0..32).flat_map(move |y| (0..32).map(move |x| (c, y, x))));
    let values = values.map(|(c, y, x)| f32::from(at(c, y, x)) / 127.5 - 1.0).collect();
    from_f32(values, [1, 3, 32, 32], &Device::flex())
}

#[test]
fn pictures_with_several_kinds_of_captions_need_no_choice_and_sizes_are_checked() {
    let data = tempfile::tempdir().unwrap();
    pictures(data.path(), 8);
    for index in 0..8 {
        std::fs::write(data.path().join(format!("{index:02}.json")), r#"{"url": "u", "alt": "a"}"#).unwrap();
    }
    assert!(ready(data.path(), "").step(0, 1e-3).unwrap()["loss"].is_finite());

    let mut plan = plan(data.path(), "");
    let ObjectiveRecipe::Autoencoder(objective) = plan.recipe.objective.clone() else { panic!("{plan:?}") };
    let rectiflow_train::recipe::Model::Autoencoder(model) = &mut plan.recipe.model else { panic!("{plan:?}") };
    model.widths = Some(vec![4; 6]);
    plan.recipe.data.source.crop = rectiflow_dataset::Crop::Buckets;
    plan.recipe.data.source.buckets =
        rectiflow_dataset::BucketSettings::Listed(vec![rectiflow_dataset::Size::new(48, 32)]);
    let error = setup::autoencoder(&plan, &objective, DeviceChoice::Cpu).map(drop).unwrap_err().to_string();
    assert!(error.contains("makes pictures of 48x32 px, which are not in latent pixels of 32 px"), "{error}");
}
