use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{backbone, onnx};

/// What a run of the program gave.
pub struct Run {
    pub exit: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {:?}", self.stdout))
    }
}

/// A folder with a prepared backbone, its data, and a store.
pub struct Bench {
    dir: TempDir,
}

pub const DATA: &str = "text,label,split\nlights on,on,train\nlights on please,on,train\n\
    please lights on,on,train\nlights off,off,train\nlights off please,off,train\n\
    please lights off,off,train\nlights on,on,test\nlights off,off,test\n";

impl Bench {
    pub fn new() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        backbone(bench.dir.path());
        bench.write("data.csv", DATA);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs the program in the folder; it never panics.
    pub fn run(&self, args: &[&str]) -> Run {
        let out = Command::new(env!("CARGO_BIN_EXE_edge-tune"))
            .args(args)
            .args(["--threads", "1"])
            .current_dir(self.dir.path())
            .env("EDGE_TUNE_BACKBONE", self.path("backbone"))
            .env("EDGE_TUNE_STORE", self.path("store"))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let run =
            Run { exit: out.status.code(), stdout: text(&out.stdout), stderr: text(&out.stderr) };
        for text in [&run.stdout, &run.stderr] {
            assert!(!text.contains("panicked at"), "{args:?}: {text}");
            assert!(!text.contains('\u{1b}'), "{args:?}: an escape sequence: {text:?}");
        }
        run
    }

    /// Asserts exit status and code of a refusal, and that both streams name the culprit.
    #[track_caller]
    pub fn fails(&self, args: &[&str], exit: i32, code: &str, parts: &[&str]) {
        let run = self.run(&[args, &["--json"]].concat());
        assert_eq!(run.exit, Some(exit), "{args:?}: {}", run.stderr);
        let json = run.json();
        assert_eq!(json["error"]["code"], code, "{args:?}: {json}");
        let message = json["error"]["message"].as_str().unwrap();
        for part in parts {
            assert!(message.contains(part), "{args:?}: `{part}` is not in `{message}`");
            assert!(run.stderr.contains(part), "{args:?}: `{part}` is not in `{}`", run.stderr);
        }
        assert!(run.stderr.contains("error: "), "{args:?}: {}", run.stderr);
        // Without --json nothing is on stdout.
        let plain = self.run(args);
        assert_eq!((plain.exit, plain.stdout.as_str()), (Some(exit), ""), "{args:?}");
    }

    #[track_caller]
    fn works(&self, args: &[&str]) -> Value {
        let run = self.run(&[args, &["--json", "--quiet"]].concat());
        assert_eq!(run.exit, Some(0), "{args:?}: {}", run.stderr);
        run.json()
    }

    /// A calibration to `out.safetensors` with more arguments.
    pub fn calibrate<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let usual = ["calibrate", "--method", "linear", "--out", "out.safetensors"];
        [&usual[..], more].concat()
    }
}

#[test]
fn wrong_use_is_told_from_bad_files() {
    let bench = Bench::new();
    let data = ["--data", "data.csv"];
    let calibrate = |more: &[&'static str]| [&bench.calibrate(&data)[..], more].concat();
    let lora = |more: &[&'static str]| {
        let usual = ["calibrate", "--method", "lora", "--out", "out.safetensors"];
        [&usual[..], &data, more].concat()
    };
    let magic =
        ["calibrate", "--method", "magic", "--out", "out.safetensors", "--data", "data.csv"];
    #[rustfmt::skip]
    let wrong: Vec<(Vec<&str>, &str, &[&str])> = vec![
        (magic.to_vec(), "method.unknown", &["`magic`"]),
        (lora(&["--set", "ranks=4"]), "method.unknown-setting", &["`ranks`"]),
        (lora(&["--set", "rank=0"]), "method.setting", &["`rank`"]),
        (lora(&["--set", "rank=1000000000"]), "method.setting", &["`rank`"]),
        (lora(&["--set", "rank"]), "usage", &["--set"]),
        (calibrate(&["--max-ram", "lots"]), "usage", &["--max-ram", "lots"]),
        (calibrate(&["--max-ram", "-1M"]), "usage", &["-1"]),
        (calibrate(&["--max-time", "soon"]), "usage", &["--max-time"]),
        (calibrate(&["--epochs", "many"]), "usage", &["--epochs"]),
        (calibrate(&["--shots", "0"]), "usage", &["--shots"]),
        (calibrate(&["--rows", "list.json"]), "usage", &["--rows"]),
        (calibrate(&["--validation", "2"]), "data.fraction", &["2"]),
        (calibrate(&["--from", "x.safetensors"]), "usage", &["--from"]),
        (calibrate(&["--wat"]), "usage", &["--wat"]),
        (bench.calibrate(&[]), "usage", &["--data"]),
        (vec!["calibrate", "--data", "data.csv", "--method", "linear"], "usage", &["--out"]),
        (vec!["calibrate", "--data", "data.csv", "--method", "linear", "--out", "no/x"], "usage", &["--out", "no"]),
        (vec!["calibrate", "--data", "data.csv", "--method", "linear", "--out", "store"], "usage", &["--out", "store"]),
        (vec!["calibrate", "--data", "data.csv", "--out", "x"], "usage", &["--method"]),
        (vec!["predict", "lights"], "usage", &["nothing is installed"]),
        (vec!["predict"], "usage", &["INPUT"]),
        (vec!["methods", "magic"], "method.unknown", &["`magic`"]),
        (vec!["remove", "../x"], "store.task-name", &["../x"]),
        (vec!["frobnicate"], "usage", &["frobnicate"]),
    ];
    fs::create_dir(bench.path("store")).unwrap();
    for (args, code, parts) in wrong {
        bench.fails(&args, 2, code, parts);
    }
    bench.write("text.safetensors", "not a delta");
    bench.write("bad.onnx", "not a model");
    #[rustfmt::skip]
    let bad: Vec<(Vec<&str>, &str, &[&str])> = vec![
        (vec!["inspect", "text.safetensors"], "delta.header-length", &["text.safetensors"]),
        (vec!["inspect", "none"], "delta.io", &["none"]),
        (vec!["inspect", "store"], "backbone.io", &["backbone.json"]),
        (vec!["predict", "--delta", "none", "lights"], "delta.io", &["none"]),
        (vec!["predict", "--task", "none", "lights"], "store.unknown-task", &["`none`"]),
        (vec!["eval", "--delta", "none", "--data", "data.csv"], "delta.io", &["none"]),
        (vec!["rollback", "none"], "store.unknown-task", &["`none`"]),
        (vec!["remove", "none"], "store.unknown-task", &["`none`"]),
        (vec!["apply", "none"], "delta.io", &["none"]),
        (vec!["apply", "."], "delta.not-a-file", &["."]),
        (vec!["list", "--store", "data.csv"], "store.io", &["data.csv"]),
        (vec!["prepare", "bad.onnx", "--out", "new"], "graph.onnx", &["bad.onnx"]),
        (vec!["prepare", "none.onnx", "--out", "new"], "onnx.io", &["none.onnx"]),
        (vec!["methods", "--backbone", "store"], "backbone.io", &["store"]),
        (calibrate(&["--backbone", "none"]), "backbone.io", &["none"]),
        (calibrate(&["--max-ram", "1M"]), "train.memory", &["--max-ram"]),
        (vec!["calibrate", "--from", "text.safetensors", "--data", "data.csv", "--out", "x"], "delta.header-length", &["text.safetensors"]),
    ];
    for (args, code, parts) in bad {
        bench.fails(&args, 1, code, parts);
    }
    assert!(!bench.path("out.safetensors").exists() && !bench.path("new").exists());
    // What was asked for is no error.
    for args in [&["--help"][..], &["--version"], &["calibrate", "--help", "--json"]] {
        let out = Command::new(env!("CARGO_BIN_EXE_edge-tune")).args(args).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty() && !out.stdout.is_empty());
    }
}

#[test]
fn the_options_of_training_are_checked() {
    let bench = Bench::new();
    let options: &[(&str, &str)] = &[
        ("--lr", "nan"),
        ("--lr", "-1"),
        ("--lr", "inf"),
        ("--weight-decay", "-1"),
        ("--weight-decay", "nan"),
        ("--warmup", "nan"),
        ("--warmup", "2"),
        ("--clip", "nan"),
        ("--clip", "0"),
        ("--clip", "-1"),
        ("--batch", "0"),
        ("--batch", "18446744073709551615"),
        ("--epochs", "18446744073709551615"),
        ("--patience", "0"),
    ];
    for &(option, value) in options {
        let option_value = format!("{option}={value}");
        let args = bench.calibrate(&["--data", "data.csv", "--max-time", "2s"]);
        let args: Vec<&str> = args.into_iter().chain([option_value.as_str()]).collect();
        let run = bench.run(&[&args[..], &["--json"]].concat());
        // Either it is refused as wrong use, naming the option, or it does something sensible.
        if run.exit != Some(0) {
            assert_eq!(run.exit, Some(2), "{option_value}: {}", run.stderr);
            let name = option.trim_start_matches("--").replace('-', "_");
            let named = run.stderr.contains(option) || run.stderr.contains(&name);
            assert!(
                named || run.stderr.contains("learning_rate"),
                "{option_value}: {}",
                run.stderr
            );
            assert!(!bench.path("out.safetensors").exists(), "{option_value}");
        }
        println!("{option_value}: exit {:?}, {}", run.exit, run.stderr.trim());
        let _ = fs::remove_file(bench.path("out.safetensors"));
        let _ = fs::remove_file(bench.path("out.safetensors.checkpoint"));
    }
}

#[test]
fn a_failed_command_leaves_what_was_there() {
    let bench = Bench::new();
    let train = ["--data", "data.csv", "--epochs", "2", "--eval", "data.csv"];
    bench.works(&bench.calibrate(&train));
    let delta = fs::read(bench.path("out.safetensors")).unwrap();
    bench.works(&["apply", "out.safetensors", "--task", "lights"]);
    let (list, answer) = (bench.works(&["list"]), bench.works(&["predict", "lights on"]));

    // Data that is refused early and late, into an output that is there.
    bench.write("one.csv", "text,label\nlights on,on\nlights,on\n");
    bench.write("labels.csv", "text,label\nlights on,dim\n");
    bench.write("broken.checkpoint", "not a checkpoint");
    #[rustfmt::skip]
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["--data", "one.csv"], "data.too-few-classes", &["one.csv", "\"on\""]),
        (&["--data", "data.csv", "--eval", "none.csv"], "data.read", &["none.csv"]),
        (&["--data", "data.csv", "--eval", "labels.csv"], "data.unknown-label", &["labels.csv line 2", "\"dim\""]),
        (&["--data", "data.csv", "--eval", "data.csv", "--eval-split", "val"], "data.no-such-split", &["\"val\""]),
        (&["--data", "data.csv", "--checkpoint", "broken.checkpoint"], "train.bad-checkpoint", &["broken.checkpoint"]),
    ];
    for (args, code, parts) in cases {
        bench.fails(&bench.calibrate(args), 1, code, parts);
        assert_eq!(fs::read(bench.path("out.safetensors")).unwrap(), delta, "{args:?}");
        let fresh =
            [&["calibrate", "--method", "linear", "--out", "new.safetensors"], *args].concat();
        bench.fails(&fresh, 1, code, parts);
        assert!(!bench.path("new.safetensors").exists(), "{args:?}");
    }

    // Deltas that are refused.
    let end = 8 + u64::from_le_bytes(delta[..8].try_into().unwrap()) as usize;
    let edit = |from: &str, to: &str| {
        let header = std::str::from_utf8(&delta[8..end]).unwrap();
        assert!(header.contains(from), "{from} is not in {header}");
        let header = header.replace(from, to);
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &delta[end..]].concat()
    };
    let mut nan = delta.clone();
    nan[end + 1] = 0x7e;
    let digest = bench.works(&["inspect", "backbone"])["digest"].as_str().unwrap().to_owned();
    #[rustfmt::skip]
    let cases: &[(&str, Vec<u8>, &str, &[&str])] = &[
        ("cut", delta[..delta.len() - 3].to_vec(), "delta.truncated", &["bad.safetensors"]),
        ("empty", vec![], "delta.truncated", &["0 bytes"]),
        ("NaN", nan, "delta.not-finite", &["NaN"]),
        ("digest", edit(&digest, &"0".repeat(64)), "delta.wrong-digest", &["bad.safetensors"]),
        ("method", edit(r#""method":"linear""#, r#""method":"magic""#), "method.unknown", &["`magic`", "bad.safetensors"]),
        ("setting", edit(r#"\"pooling\":\"auto\""#, r#"\"pooling\":\"max\""#), "method.setting", &["`max`", "bad.safetensors"]),
        ("unknown setting", edit(r#"\"pooling\""#, r#"\"pulling\""#), "method.unknown-setting", &["`pulling`", "bad.safetensors"]),
        ("tensor", edit("head.bias", "head.bios"), "delta.unknown-tensor", &["`head.bios`"]),
        ("self-test", edit(r#"\"logits\":["#, r#"\"logits\":[9"#), "runtime.self-test", &["input 0"]),
    ];
    for (what, bytes, code, parts) in cases {
        bench.write("bad.safetensors", bytes);
        bench.fails(&["apply", "bad.safetensors", "--task", "lights"], 1, code, parts);
        if *what != "self-test" {
            // A file that is bad is bad everywhere; it is not wrong use of the program.
            bench.fails(&["predict", "--delta", "bad.safetensors", "lights"], 1, code, parts);
            let data = ["--data", "data.csv", "--out", "new.safetensors"];
            bench.fails(
                &[&["calibrate", "--from", "bad.safetensors"], &data[..]].concat(),
                1,
                code,
                parts,
            );
            assert!(!bench.path("new.safetensors").exists());
        }
        assert_eq!(bench.works(&["list"]), list, "{what}");
        assert_eq!(bench.works(&["predict", "lights on"]), answer, "{what}");
    }
    bench.write("dim.csv", "text,label\nlights on,on\nlights,dim\n");
    let eval = ["eval", "--delta", "out.safetensors", "--data", "dim.csv"];
    bench.fails(&eval, 1, "data.unknown-label", &["dim.csv line 3", "\"dim\""]);
}

/// Names in a file must not steer the terminal that shows an error.
#[test]
fn names_from_files_are_shown_harmlessly() {
    let bench = Bench::new();
    let model = onnx::mlp(|_, g| {
        g.node[1].name = "\u{1b}[2J".into();
        g.node[1].op_type = "Evil\u{7}".into();
    });
    bench.write("evil.onnx", model);
    let args = ["prepare", "evil.onnx", "--out", "new"];
    bench.fails(&args, 1, "graph.unsupported", &["evil.onnx", r"\u{1b}[2J", r"Evil\u{7}"]);
}

/// The bundled backbone, as a user has it.
#[test]
fn the_bundled_backbone_is_checked() {
    let bench = Bench::new();
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/minilm-l6");
    let shown = bundled.display().to_string();
    bench.write("text.safetensors", "12345678{}");
    let apply = ["apply", "text.safetensors", "--backbone", &shown];
    bench.fails(&apply, 1, "delta.header-length", &["text.safetensors"]);
    // A delta of the tiny backbone does not fit the real one.
    bench.works(&bench.calibrate(&["--data", "data.csv", "--epochs", "1"]));
    let apply = ["apply", "out.safetensors", "--backbone", &shown];
    bench.fails(&apply, 1, "delta.wrong-digest", &["out.safetensors"]);
    assert_eq!(bench.works(&["list"])["tasks"], serde_json::json!([]));
}
