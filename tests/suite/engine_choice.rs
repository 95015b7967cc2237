//! Tests: which engine the command line uses, and what a library that cannot be used says.

use std::path::Path;
use std::process::Command;

use edge_tune::backbone::{Manifest, Weights};
use edge_tune::engine::Compute;

use crate::cli::{json, repo, run};
use crate::support::{colours, fixture, text_backbone};

/// Exit status, stdout and stderr of a prediction with the bundled backbone.
fn predict(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_edge-tune"))
        .args(["predict", "--json", "--delta", "none.safetensors", "on"])
        .args(args)
        .env("EDGE_TUNE_BACKBONE", repo("models/minilm-l6"))
        .env_remove("EDGE_TUNE_ENGINE")
        .env_remove("ORT_DYLIB_PATH")
        .envs(variables.iter().copied())
        .current_dir(dir)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn wrong_engines_are_wrong_use() {
    let dir = tempfile::tempdir().unwrap();
    for (args, variables, said) in [
        (&["--engine", "tensorflow"][..], &[][..], "tensorflow"),
        (&[], &[("EDGE_TUNE_ENGINE", "tensorflow")], "$EDGE_TUNE_ENGINE is tensorflow"),
        (&["--ort-library", "libonnxruntime.so"], &[], "--ort-library is for --engine ort"),
        (&["--provider", "cpu"], &[], "--provider is for --engine ort"),
        (&["--prepacked", "p"], &[], "--prepacked is for --compute int8"),
    ] {
        let (status, _, err) = predict(dir.path(), args, variables);
        assert_eq!(status, Some(2), "{err}");
        assert!(err.contains(said), "{err}");
    }
}

/// What `prepare` was told holds, unless the command line says otherwise.
#[test]
fn the_backbone_says_how_to_compute() {
    let (dir, _) = text_backbone();
    let dir = dir.path();
    let model = fixture("exports/bert-dynamo/model.onnx");
    let prepare = ["--tokenizer", "tokenizer.json", "--weights", "int4", "--out", "narrow"];
    let prepare =
        [&["prepare", model.to_str().unwrap(), "--compute", "int8"], &prepare[..]].concat();
    assert_eq!(run(dir, &prepare).status.code(), Some(0));
    let rows = colours(4).rows.into_iter().map(|r| format!("{},{}\n", r.label, r.text));
    std::fs::write(dir.join("data.csv"), format!("label,text\n{}", rows.collect::<String>()))
        .unwrap();
    let on = ["--backbone", "narrow", "--json"];
    let train = ["calibrate", "--method", "lora", "--epochs", "2", "--data", "data.csv"];
    json(dir, &[&train[..], &on, &["--out", "d.safetensors"]].concat());
    let scores = |more: &[&str]| {
        let predict = ["predict", "--delta", "d.safetensors", "big red"];
        json(dir, &[&predict[..], &on, more].concat())["scores"].clone()
    };
    let [usual, int8, f32] = [&[][..], &["--compute", "int8"], &["--compute", "f32"]].map(scores);
    assert_eq!(usual, int8);
    assert_eq!(scores(&["--prepacked", "panels"]), int8);
    assert_eq!(dir.join("panels").exists(), crate::int8::fast());
    // Where no kernel multiplies bytes they are the same.
    println!("in f32 {f32}, in int8 {int8}");
    let manifest = Manifest::read(&dir.join("narrow")).unwrap();
    assert_eq!((manifest.compute, manifest.weights), (Some(Compute::Int8), Weights::Int4));
    let shown = run(dir, &["inspect", "narrow"]).stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("in int8") && shown.contains("int4, "), "{shown}");
}

#[cfg(not(feature = "ort"))]
#[test]
fn a_build_without_ort_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (status, _, err) = predict(dir.path(), &["--engine", "ort"], &[]);
    assert_eq!(status, Some(2), "{err}");
    assert!(err.contains("--features ort"), "{err}");
}

#[cfg(feature = "ort")]
mod library {
    use super::*;

    /// The message about a library that is named on the command line, and again by the variable.
    fn refusal(dir: &Path, library: &str) -> String {
        let (status, out, err) = predict(dir, &["--engine", "ort", "--ort-library", library], &[]);
        assert_eq!(status, Some(1), "{err}");
        let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(answer["error"]["code"], "engine.library", "{out}");
        let variables = [("EDGE_TUNE_ENGINE", "ort"), ("ORT_DYLIB_PATH", library)];
        assert_eq!(predict(dir, &[], &variables), (status, out, err.clone()));
        assert!(err.contains("tools/get-onnxruntime.sh"), "{err}");
        err
    }

    #[test]
    fn none_or_a_wrong_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (status, _, err) = predict(dir, &["--engine", "ort"], &[]);
        assert_eq!(status, Some(1), "{err}");
        assert!(err.contains("ORT_DYLIB_PATH is not set"), "{err}");
        let said = refusal(dir, "libnone.so");
        assert!(said.contains("libnone.so") && said.contains("no such file"), "{said}");
        std::fs::write(dir.join("libtext.so"), "not a library").unwrap();
        let said = refusal(dir, "libtext.so");
        assert!(said.contains("libtext.so"), "{said}");
    }

    /// Libraries made by the C compiler: one without the entry point, one of an old version.
    #[cfg(unix)]
    #[test]
    fn other_and_old_libraries_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let old = "#include <stddef.h>\n\
            #include <stdint.h>\n\
            static const void *api(uint32_t version) { (void)version; return NULL; }\n\
            static const char *version(void) { return \"1.10.0\"; }\n\
            struct base { const void *(*api)(uint32_t); const char *(*version)(void); };\n\
            static const struct base base = { api, version };\n\
            const struct base *OrtGetApiBase(void) { return &base; }\n";
        for (name, source, part) in
            [("other", "int nothing(void) { return 0; }\n", "OrtGetApiBase"), ("old", old, "1.10")]
        {
            let (from, to) = (dir.join(format!("{name}.c")), format!("lib{name}.so"));
            std::fs::write(&from, source).unwrap();
            let made = Command::new("cc")
                .args(["-shared", "-fPIC", "-o", &to])
                .arg(&from)
                .current_dir(dir)
                .status();
            if !made.is_ok_and(|s| s.success()) {
                println!("skipped: there is no C compiler");
                return;
            }
            let said = refusal(dir, &to);
            assert!(said.contains(&to) && said.contains(part), "{said}");
        }
    }
}

#[cfg(feature = "ort")]
mod providers {
    use std::sync::Arc;

    use edge_tune::backbone::{Backbone, Prepare, prepare};
    use edge_tune::data::Dataset;
    use edge_tune::engine::ort::{OrtEngine, Provider};
    use edge_tune::engine::{Engine, EngineError, Feed};
    use edge_tune::methods::{self, Settings};
    use edge_tune::runtime::{Model, Sample};
    use edge_tune::tensor::{DType, Tensor};
    use edge_tune::train::{Options, Task, calibrate};

    use super::*;
    use crate::support::difference;

    /// Our operators, and ONNX Runtime's own kernels.
    fn both() -> [Arc<dyn Engine>; 2] {
        let own = OrtEngine::load(None, 2).unwrap();
        let provider = own.clone().with_provider(Provider::Cpu).unwrap();
        [Arc::new(own), Arc::new(provider)]
    }

    /// The largest difference of logits with a delta that was trained on `data`, beside the largest of
    /// them or 1.
    fn with_a_delta(
        backbone: &Path,
        method: &str,
        data: &Dataset,
        sample: impl Fn(&Model) -> Sample,
    ) -> f32 {
        let [own, provider] = both().map(|e| Model::open(backbone, e).unwrap());
        let rows: Vec<usize> = (0..data.rows.len()).collect();
        let method = methods::find(method).unwrap();
        let settings = Settings::resolve(method, []).unwrap();
        // Trained on our operators, with those of the provider where there is no gradient.
        let task = Task::new(&provider, method, settings, data, &rows, &[]).unwrap();
        let options = Options { epochs: Some(3), ..Options::default() };
        let delta = calibrate(&task, &options, &mut ()).unwrap().0;
        let [a, b] = [&own, &provider]
            .map(|model| model.logits(&model.load(&delta).unwrap(), &[&sample(model)]).unwrap());
        // Logits of a tiny backbone reach hundreds.
        let largest = a.to_f32().iter().fold(1f32, |m, v| m.max(v.abs()));
        difference(&a, &b) / largest
    }

    #[test]
    fn texts_with_a_delta_agree() {
        let (_dir, path) = text_backbone();
        let text = |model: &Model| model.encoder().unwrap().encode("big red quiet").unwrap().into();
        for method in ["lora", "prefix-tuning", "prompt-tuning"] {
            let worst = with_a_delta(&path, method, &colours(4), text);
            println!("{method}: {worst:.1e}");
            assert!(worst < 1e-4, "{method}: {worst}");
        }
    }

    /// Two classes of four arrays under `dir`, and one more.
    fn arrays(dir: &Path, shape: &[usize]) -> (Dataset, Vec<u8>) {
        let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape:?}, }}");
        let dict = dict.replace('[', "(").replace(']', ")");
        let file = |seed: usize| {
            let mut bytes = b"\x93NUMPY\x01\0".to_vec();
            bytes.extend((dict.len() as u16).to_le_bytes());
            bytes.extend(dict.as_bytes());
            let n = shape.iter().product::<usize>();
            let values = (0..n).map(|i| ((i + 1) * (seed + 3) % 101) as f32 / 50.0 - 1.0);
            bytes.extend(values.flat_map(f32::to_le_bytes));
            bytes
        };
        for i in 0..8 {
            let class = dir.join(["even", "odd"][i % 2]);
            std::fs::create_dir_all(&class).unwrap();
            std::fs::write(class.join(format!("{i}.npy")), file(i)).unwrap();
        }
        (Dataset::open(dir).unwrap(), file(8))
    }

    #[test]
    fn pictures_with_a_delta_agree() {
        for (export, methods) in
            [("vit-dynamo", ["lora", "vpt-deep"]), ("mobilenet-dynamo", ["bias", "lite-residual"])]
        {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("backbone");
            let model = fixture(&format!("exports/{export}/model.onnx"));
            prepare(&Prepare::new(model, &out), &*both()[0], |_| ()).unwrap();
            let backbone = Backbone::load(&out).unwrap();
            let graph = backbone.graph();
            let shape = graph.shape(graph.inputs[0])[1..].iter().map(|d| d.constant().unwrap());
            let shape: Vec<usize> = shape.collect();
            let (data, one) = arrays(&dir.path().join("data"), &shape);
            let sample = |model: &Model| model.sample_of_file(&one, Path::new("one.npy")).unwrap();
            for method in methods {
                let worst = with_a_delta(&out, method, &data, sample);
                println!("{export} {method}: {worst:.1e}");
                assert!(worst < 1e-4, "{export} {method}: {worst}");
            }
        }
    }

    #[test]
    fn pictures_of_every_form_of_weights_agree() {
        let dir = tempfile::tempdir().unwrap();
        for export in ["vit-dynamo", "mobilenet-dynamo"] {
            for weights in [Weights::F32, Weights::Int8, Weights::Int4] {
                let out = dir.path().join(format!("{export}-{weights}"));
                let model = fixture(&format!("exports/{export}/model.onnx"));
                let engines = both();
                let options = Prepare { weights, ..Prepare::new(model, &out) };
                prepare(&options, &*engines[0], |_| ()).unwrap();
                let backbone = Backbone::load(&out).unwrap();
                let graph = backbone.graph();
                let shape: Vec<usize> = graph
                    .shape(graph.inputs[0])
                    .iter()
                    .map(|d| d.constant().unwrap_or(2))
                    .collect();
                let n = shape.iter().product::<usize>();
                let x: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
                let x = Tensor::new(&shape, &x).unwrap();
                let [a, b] = engines.map(|engine| {
                    let program = engine.compile(graph, &[]).unwrap();
                    program.run(&[Feed::Tensor(&x)]).unwrap().remove(0)
                });
                assert_eq!((a.dtype(), a.shape()), (DType::F32, b.shape()));
                let worst = difference(&a, &b);
                println!("{export} {weights}: {worst:.1e}");
                assert!(worst < 1e-4, "{export} {weights}: {worst}");
            }
        }
    }

    #[test]
    fn a_provider_that_is_not_there_is_refused() {
        let own = OrtEngine::load(None, 1).unwrap();
        let lacking = Provider::ALL.into_iter().find(|p| own.clone().with_provider(*p).is_err());
        let lacking = lacking.expect("no library has all of them");
        let e = own.with_provider(lacking).err().unwrap();
        assert!(matches!(e, EngineError::Provider { .. }) && e.code() == "engine.provider");
        assert!(e.to_string().contains(lacking.name()) && e.to_string().contains("cpu"), "{e}");
        let dir = tempfile::tempdir().unwrap();
        let library = std::env::var("ORT_DYLIB_PATH").unwrap();
        let run = |name: &str| {
            let args = ["--engine", "ort", "--provider", name];
            predict(dir.path(), &args, &[("ORT_DYLIB_PATH", library.as_str())])
        };
        let (status, out, _) = run(lacking.name());
        assert_eq!(status, Some(1));
        assert!(out.contains("engine.provider"), "{out}");
        let (status, _, err) = run("abacus");
        assert_eq!(status, Some(2), "{err}");
        assert!(err.contains("abacus") && err.contains("xnnpack"), "{err}");
        // Whether or not there is a library.
        let args = ["--engine", "ort", "--provider", "abacus"];
        let (status, _, err) = predict(dir.path(), &args, &[]);
        assert_eq!(status, Some(2), "{err}");
    }
}
