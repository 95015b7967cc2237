//! Tests: calibration on pictures with the bundled picture backbone.

use std::path::Path;

use edge_tune::data::{Augment, Crop, Dataset};
use edge_tune::delta::Delta;
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::{Model, Sample};
use edge_tune::train::{Options, Task, calibrate};

use crate::cli::{json, repo, run};
use crate::support::{colours, engine, text_backbone};

/// Two classes of four pictures under `pets`. No picture lies halfway between two others: the nearest
/// keys of one that does are a matter of rounding.
fn pets(dir: &Path) {
    for (class, colour) in [("red", [200, 40, 30]), ("blue", [20, 60, 210])] {
        std::fs::create_dir_all(dir.join("pets").join(class)).unwrap();
        for i in 0..4u8 {
            let stripe = u32::from(i * i + 2);
            let shade = |x: u32, y: u32| match (x / stripe + y / 7).is_multiple_of(2) {
                true => colour.map(|c: u8| c.saturating_add(10 * i)),
                false => colour.map(|c: u8| c.saturating_sub(12)),
            };
            let picture = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb(shade(x, y)));
            picture.save(dir.join(format!("pets/{class}/{i}.png"))).unwrap();
        }
    }
}

fn model() -> Model {
    Model::open(&repo("models/vit-tiny"), engine()).unwrap()
}

fn train(model: &Model, data: &Dataset, method: &str, options: &Options) -> Delta {
    let method = methods::find(method).unwrap();
    let settings = Settings::resolve(method, []).unwrap();
    let rows: Vec<usize> = (0..data.rows.len()).collect();
    let task = Task::new(model, method, settings, data, &rows, &[]).unwrap();
    calibrate(&task, options, &mut ()).unwrap().0
}

#[test]
fn from_a_folder_to_a_prediction() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pets(dir);
    let backbone = repo("models/vit-tiny");
    let backbone = ["--backbone", backbone.to_str().unwrap()];
    for method in ["prototypes", "vpt-deep", "l2p", "side", "tip-adapter-f"] {
        let options = ["--validation", "0", "--epochs", "2", "--out", "p.safetensors", "--json"];
        let mut args = vec!["calibrate", "--method", method, "--data", "pets"];
        args.extend(backbone.iter().chain(&options));
        assert_eq!(json(dir, &args)["train_rows"], 8);
        let mut args = vec!["apply", "p.safetensors", "--json"];
        args.extend(backbone);
        json(dir, &args);
        let mut args =
            vec!["predict", "--task", "p", "pets/red/1.png", "pets/blue/2.png", "--json"];
        args.extend(backbone);
        let answers = json(dir, &args);
        let answers = answers["predictions"].as_array().unwrap();
        let labels = (&answers[0]["label"], &answers[1]["label"]);
        assert_eq!(labels, (&"red".into(), &"blue".into()), "{method}");
    }
    let mut args = vec!["predict", "--task", "p", "none.png"];
    args.extend(backbone);
    let out = run(dir, &args);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("none.png"));
}

#[test]
fn views_are_drawn_from_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    pets(dir.path());
    let data = Dataset::open(dir.path().join("pets")).unwrap();
    let model = model();
    let both = Augment { flip: true, crop: Crop::Resized(0.5) };
    for method in ["linear", "tip-adapter"] {
        let run = |augment, seed| {
            let options =
                Options { augment, seed, epochs: Some(3), batch: 4, ..Options::default() };
            train(&model, &data, method, &options).tensors().clone()
        };
        assert_eq!(run(both, 1), run(both, 1), "{method}");
        assert_ne!(run(both, 1), run(both, 2), "{method}");
        assert_ne!(run(both, 1), run(Augment::default(), 1), "{method}");
    }
}

#[test]
fn only_pictures_are_augmented() {
    let (_dir, path) = text_backbone();
    let model = Model::open(&path, engine()).unwrap();
    let data = colours(4);
    let linear = methods::find("linear").unwrap();
    let settings = Settings::resolve(linear, []).unwrap();
    let task = Task::new(&model, linear, settings, &data, &[0, 1, 4, 5], &[]).unwrap();
    for (augment, code) in [
        (Augment { flip: true, ..Augment::default() }, "train.no-pictures"),
        (Augment { crop: Crop::Resized(2.0), ..Augment::default() }, "data.spec"),
    ] {
        let options = Options { augment, ..Options::default() };
        let error = calibrate(&task, &options, &mut ()).err().unwrap();
        assert_eq!(error.code(), code, "{error}");
    }
}

/// Prompts of a pool are chosen for each picture alone, whatever else is in the batch.
#[test]
fn a_batch_does_not_choose_for_its_members() {
    let dir = tempfile::tempdir().unwrap();
    pets(dir.path());
    let data = Dataset::open(dir.path().join("pets")).unwrap();
    let model = model();
    let options = Options { epochs: Some(1), ..Options::default() };
    let delta = train(&model, &data, "l2p", &options);
    let task = model.load(&delta).unwrap();
    let samples: Vec<Sample> =
        (0..data.rows.len()).map(|i| model.sample(&data, i, task.limit()).unwrap()).collect();
    let together = model.logits(&task, &samples.iter().collect::<Vec<_>>()).unwrap();
    let together = together.to_f32();
    for (i, sample) in samples.iter().enumerate() {
        let alone = model.logits(&task, &[sample]).unwrap();
        for (a, b) in alone.to_f32().iter().zip(&together[2 * i..]) {
            assert!((a - b).abs() < 1e-5 * a.abs().max(1.0), "{a} {b}");
        }
    }
}
