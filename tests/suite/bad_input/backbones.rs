use std::fs;
use std::path::Path;

use edge_tune::Error;
use edge_tune::backbone::{Backbone, MANIFEST_FILE, Manifest, Prepare, prepare};
use edge_tune::delta::{Delta, Metadata};
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::Model;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{TOKENIZER, backbone, check};
use crate::support::{engine, fixture};

fn open(dir: &Path) -> Result<Model, Error> {
    Model::open(dir, engine())
}

fn refusal(what: &str, dir: &Path) -> (&'static str, String) {
    let error = open(dir).err().unwrap_or_else(|| panic!("{what}: it was taken"));
    (error.code(), error.to_string())
}

/// Gives the manifest the digest that belongs to it, as whoever edits it may.
fn sealed(mut m: Manifest) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let files: String =
        m.files.iter().map(|f| format!("{} {} {}\n", f.name, f.bytes, f.sha256)).collect();
    let reading = (&m.family, m.pooling, m.max_length, m.pad_id, &m.sites);
    let reading = serde_json::to_vec(&reading).unwrap();
    m.digest =
        hex(&Sha256::digest(format!("{files}reading - {}\n", hex(&Sha256::digest(reading)))));
    serde_json::to_string(&m).unwrap()
}

#[test]
fn damaged_directories() {
    let dir = tempfile::tempdir().unwrap();
    let out = backbone(dir.path());
    open(&out).unwrap();
    for file in ["backbone.json", "model.onnx", "weights.bin", "tokenizer.json"] {
        let path = out.join(file);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (code, message) = refusal(file, &out);
        check(file, code, &message, "backbone.io", &[file]);
        fs::create_dir(&path).unwrap();
        let (code, message) = refusal(file, &out);
        check(file, code, &message, "backbone.not-a-file", &[file]);
        fs::remove_dir(&path).unwrap();
        for (what, changed) in [("shorter", &bytes[..bytes.len() / 2]), ("empty", &[][..])] {
            fs::write(&path, changed).unwrap();
            let (code, message) = refusal(file, &out);
            let want =
                if file == "backbone.json" { "backbone.manifest" } else { "backbone.length" };
            check(what, code, &message, want, &[file]);
        }
        fs::write(&path, &bytes).unwrap();
        #[cfg(unix)]
        {
            // A pipe must not be waited for.
            fs::remove_file(&path).unwrap();
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            if made.is_ok_and(|s| s.success()) {
                let (code, message) = refusal(file, &out);
                check("pipe", code, &message, "backbone.not-a-file", &[file]);
                fs::remove_file(&path).unwrap();
            }
            fs::write(&path, &bytes).unwrap();
        }
    }
    let (code, message) = refusal("no directory", &dir.path().join("gone"));
    check("no directory", code, &message, "backbone.io", &["gone"]);

    // Other bytes of the same length: loading does not read them all, verifying does.
    for file in ["weights.bin", "tokenizer.json"] {
        let path = out.join(file);
        let bytes = fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(&path, changed).unwrap();
        let error = Backbone::load(&out).unwrap().verify().unwrap_err();
        check(file, error.code(), &error, "backbone.digest", &[file]);
        fs::write(&path, bytes).unwrap();
    }
    Backbone::load(&out).unwrap().verify().unwrap();
}

#[test]
fn edited_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let out = backbone(dir.path());
    let manifest = Manifest::read(&out).unwrap();
    let text = fs::read_to_string(out.join(MANIFEST_FILE)).unwrap();
    assert_eq!(sealed(manifest.clone()), serde_json::to_string(&manifest).unwrap());
    let seal = |edit: &dyn Fn(&mut Manifest)| {
        let mut m = manifest.clone();
        edit(&mut m);
        sealed(m)
    };
    let bad = "backbone.manifest";
    #[rustfmt::skip]
    let cases: Vec<(&str, String, &str, &[&str])> = vec![
        ("not JSON", "digest".into(), bad, &["line 1"]),
        ("deep nesting", "[".repeat(200_000), bad, &[]),
        ("larger than any", " ".repeat(5 << 20), bad, &["4194304"]),
        ("another format", seal(&|m| m.format = 2), bad, &["format 2", "reads 1"]),
        ("a file outside", seal(&|m| m.files[1].name = "../weights".into()), bad, &["`../weights`"]),
        ("an absolute file", seal(&|m| m.files[2].name = "/etc/passwd".into()), bad, &["`/etc/passwd`"]),
        ("no weights", seal(&|m| drop(m.files.remove(1))), bad, &["weights.bin"]),
        ("heads 0", seal(&|m| m.sites.heads = 0), bad, &["0 heads"]),
        ("heads 5", seal(&|m| m.sites.heads = 5), bad, &["5 heads"]),
        ("width 0", seal(&|m| m.sites.width = 0), bad, &["width of 0"]),
        ("max_length 0", seal(&|m| m.max_length = 0), bad, &["max_length cannot be 0"]),
        ("max_length 2^64 - 1", seal(&|m| m.max_length = usize::MAX), bad, &["max_length"]),
        ("pad_id 2^63 - 1", seal(&|m| m.pad_id = i64::MAX), bad, &["pad_id"]),
        ("pad_id -1", seal(&|m| m.pad_id = -1), bad, &["pad_id cannot be -1"]),
        ("a name that steers", seal(&|m| m.name = "\u{1b}[2J".into()), bad, &["control"]),
        ("edited, the digest is not", text.replace("\"pooling\": \"mean\"", "\"pooling\": \"cls\""), bad, &["digest"]),
        ("longer input, the digest is not", text.replace("\"max_length\": 64", "\"max_length\": 65"), bad, &["digest"]),
        ("a negative length", text.replace("\"max_length\": 64", "\"max_length\": -64"), bad, &["-64"]),
        // With the digest made to fit, the sites must fit the model.
        ("a site that is not there", seal(&|m| m.sites.hidden = "nowhere".into()), "backbone.site", &["`nowhere`"]),
        ("a key site that is not there", seal(&|m| m.sites.layers[1].keys = "k".into()), "backbone.site", &["`k`"]),
        ("a mask that is not there", seal(&|m| m.sites.layers[0].masks[0].0 = "m".into()), "backbone.site", &["`m`"]),
        ("positions that are not there", seal(&|m| m.sites.positions.as_mut().unwrap().value = "p".into()), "backbone.site", &["`p`"]),
        ("a site of another rank", seal(&|m| m.sites.tokens.value = m.sites.input.clone()), "backbone.site", &["`input_ids`", "2 dimensions"]),
        ("keys of another rank", seal(&|m| m.sites.layers[0].keys = m.sites.hidden.clone()), "backbone.site", &["3 dimensions"]),
        ("another width", seal(&|m| m.sites.width = 64), "backbone.site", &["expected 64"]),
        ("a linear layer of 2^64 - 1", seal(&|m| m.sites.linears[0].outputs = usize::MAX), "backbone.site", &["18446744073709551615"]),
        ("an input that is none", seal(&|m| m.sites.input = m.sites.hidden.clone()), "backbone.site", &["no input"]),
    ];
    for (what, bytes, want, parts) in cases {
        assert_ne!(bytes, text, "{what}: the case changes nothing");
        fs::write(out.join(MANIFEST_FILE), bytes).unwrap();
        let (code, message) = refusal(what, &out);
        check(what, code, &message, want, parts);
        check(what, code, &message, want, &["backbone"]);
    }
}

/// What a manifest lies about, and how.
type Lie = (&'static str, fn(&mut Manifest));

/// Manifests that pass every check of numbers and names, and still lie: what is built on them
/// fails with an error or works, for every method.
#[test]
fn a_manifest_that_lies_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let out = backbone(dir.path());
    let manifest = Manifest::read(&out).unwrap();
    #[rustfmt::skip]
    let lies: Vec<Lie> = vec![
        ("heads", |m| m.sites.heads = 1),
        ("the longest input", |m| m.max_length = 1 << 20),
        ("no positions", |m| m.sites.positions = None),
        ("many positions", |m| m.sites.positions.as_mut().unwrap().rows = usize::MAX),
        ("positions elsewhere", |m| m.sites.positions.as_mut().unwrap().value = m.sites.hidden.clone()),
        ("positions of words", |m| m.sites.positions.as_mut().unwrap().value = m.sites.tokens.value.clone()),
        ("tokens after row", |m| m.sites.tokens.after = usize::MAX),
        ("tokens elsewhere", |m| m.sites.tokens.value = m.sites.hidden.clone()),
        ("masks of another input", |m| m.sites.layers[0].masks[0].1 = usize::MAX),
        ("masks elsewhere", |m| m.sites.layers[0].masks[0].0 = m.sites.hidden.clone()),
        ("no layers", |m| m.sites.layers.clear()),
        ("no linear layers", |m| m.sites.linears.clear()),
        ("linear layers of no block", |m| m.sites.linears.iter_mut().for_each(|l| l.layer = usize::MAX)),
        ("ids for the mask", |m| m.sites.mask = Some(m.sites.input.clone())),
        ("no mask", |m| m.sites.mask = None),
        ("mask for the ids", |m| m.sites.input = m.sites.mask.clone().unwrap()),
        ("pictures", |m| m.sites.modality = edge_tune::graph::sites::Modality::Image),
        ("a padding id without a row", |m| m.pad_id = 1 << 30),
        ("keys for values", |m| m.sites.layers[0].values = m.sites.layers[0].keys.clone()),
    ];
    let mut failed = 0;
    for (what, lie) in lies {
        let mut m = manifest.clone();
        lie(&mut m);
        fs::write(out.join(MANIFEST_FILE), sealed(m)).unwrap();
        let Ok(model) = open(&out) else {
            failed += 1;
            continue;
        };
        for method in methods::all() {
            let settings = Settings::resolve(*method, []).unwrap();
            let mut metadata = Metadata::new(method.name(), model.backbone().digest(), &["a", "b"]);
            metadata.config = settings.to_json();
            let Ok(plan) = method.plan(model.backbone().manifest(), 2, &settings) else {
                failed += 1;
                continue;
            };
            let tensors = plan.tensors.iter().map(|t| {
                let zeros = vec![0f32; t.len()];
                let tensor = edge_tune::tensor::Tensor::new(&t.shape, &zeros).unwrap();
                match t.name.ends_with(".count") {
                    true => (t.name.clone(), edge_tune::tensor::Tensor::vector(&[1i64, 1])),
                    false => (t.name.clone(), tensor),
                }
            });
            let delta = Delta::new(metadata, tensors).unwrap();
            let run = model.load(&delta).and_then(|task| {
                model.predict_with(&task, 0, "lights on")?;
                let long = "lights ".repeat(200);
                model.predict_with(&task, 0, &long)
            });
            if let Err(e) = run {
                assert!(!e.to_string().is_empty(), "{what}");
                failed += 1;
            }
        }
    }
    assert!(failed > 20, "the lies do no harm: {failed}");
}

#[test]
fn options_of_prepare() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("exports/bert-dynamo/model.onnx");
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "mine").unwrap();
    let bad = dir.path().join("bad.json");
    fs::write(&bad, TOKENIZER.replace("WordLevel", "WordLeven")).unwrap();
    let good = dir.path().join("good.json");
    fs::write(&good, TOKENIZER).unwrap();
    let options = || Prepare::new(&model, dir.path().join("out"));
    let tokenizer = |p: &Path| Prepare { tokenizer: Some(p.to_owned()), ..options() };
    let cases = [
        (Prepare { out: full.clone(), ..options() }, "backbone.occupied", "full"),
        (Prepare { max_length: Some(0), ..options() }, "backbone.max-length", "max_length 0"),
        (tokenizer(&bad), "data.tokenizer", "bad.json"),
        (tokenizer(&dir.path().join("no.json")), "data.read", "no.json"),
        (Prepare { max_length: Some(2), ..tokenizer(&good) }, "data.max-length", "2 tokens"),
    ];
    for (options, want, part) in cases {
        let error = prepare(&options, &*engine(), |_| ()).unwrap_err();
        check(want, error.code(), &error, want, &[part]);
        assert!(!dir.path().join("out").exists(), "{want}");
    }
    assert_eq!(fs::read(full.join("mine")).unwrap(), b"mine");
    // What reaches the manifest can be read again.
    let named = Prepare { name: Some("a\u{1b}b".into()), ..options() };
    prepare(&named, &*engine(), |_| ()).unwrap();
    let manifest = Manifest::read(&dir.path().join("out")).unwrap();
    assert_eq!((manifest.name.as_str(), json!(manifest.max_length)), ("ab", json!(64)));
}
