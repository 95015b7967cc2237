//! Tests: comparisons of methods from the command line, and the pictures beside other answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{colours, text_backbone};

/// A tiny backbone with a file of colours beside it.
struct Place {
    _dir: tempfile::TempDir,
    program: &'static str,
    backbone: PathBuf,
    work: PathBuf,
}

fn place() -> Option<Place> {
    let Some(program) = option_env!("CARGO_BIN_EXE_edge-tune") else {
        println!("skipped: built without the command line");
        return None;
    };
    let (dir, backbone) = text_backbone();
    let work = dir.path().to_owned();
    let mut csv = String::from("text,label,split\n");
    for (i, row) in colours(12).rows.iter().enumerate() {
        let split = if i < 24 { "train" } else { "test" };
        csv.push_str(&format!("{},{},{split}\n", row.text, row.label));
    }
    fs::write(work.join("colours.csv"), csv).unwrap();
    Some(Place { _dir: dir, program, backbone, work })
}

impl Place {
    fn run(&self, args: &[&str]) -> Output {
        let out = Command::new(self.program)
            .args(args)
            .current_dir(&self.work)
            .env("EDGE_TUNE_BACKBONE", &self.backbone)
            .env("EDGE_TUNE_STORE", self.work.join("store"))
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(!err.contains("panicked"), "{args:?}: {err}");
        out
    }

    /// (stdout, stderr) of a run with this exit status.
    fn texts(&self, status: i32, args: &[&str]) -> (String, String) {
        let out = self.run(args);
        let (text, err) = (String::from_utf8(out.stdout), String::from_utf8(out.stderr));
        let (text, err) = (text.unwrap(), err.unwrap());
        assert_eq!(out.status.code(), Some(status), "{args:?}: {err}");
        (text, err)
    }

    fn compare(&self, status: i32, more: &[&str]) -> (String, String) {
        let mut args = vec!["compare", "--data", "colours.csv", "--out", "out"];
        args.extend(more);
        self.texts(status, &args)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.work.join("out").join(name)).unwrap()
    }

    fn table(&self) -> Value {
        serde_json::from_str(&self.read("table.json")).unwrap()
    }
}

const SMALL: [&str; 8] =
    ["--methods", "linear,lora", "--seeds", "2", "--shots", "4", "--epochs", "3"];

/// A table without what differs from one run to the next.
fn steady(mut table: Value) -> Value {
    for method in table["methods"].as_array_mut().unwrap() {
        for key in ["seconds", "predicted_peak_bytes", "peak_bytes"] {
            assert!(method.as_object_mut().unwrap().remove(key).is_some(), "{key}");
        }
    }
    table
}

#[test]
fn the_forms_of_a_table_agree() {
    let Some(place) = place() else { return };
    let mut args = SMALL.to_vec();
    args.extend(["--set", "lora.rank=2", "--json"]);
    let (printed, err) = place.compare(0, &args);
    assert!(err.contains("[4/4] lora, seed 1: accuracy"), "{err}");
    let table = place.table();
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), table);
    let runs: Vec<Value> =
        place.read("runs.jsonl").lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(runs.len(), 4);
    let methods = table["methods"].as_array().unwrap();
    let (text, csv, svg) =
        (place.read("table.txt"), place.read("table.csv"), place.read("plot.svg"));
    assert_eq!(methods.len(), 2);
    for (i, method) in methods.iter().enumerate() {
        let name = method["method"].as_str().unwrap();
        assert_eq!(method["seeds"], serde_json::json!([0, 1]));
        let of: Vec<&Value> = runs.iter().filter(|r| r["method"] == name).collect();
        let accuracy: Vec<f64> = of.iter().map(|r| r["accuracy"].as_f64().unwrap()).collect();
        let mean = (accuracy[0] + accuracy[1]) / 2.0;
        let deviation = (accuracy[0] - accuracy[1]).abs() / 2f64.sqrt();
        let close = |v: &Value, want: f64| (v.as_f64().unwrap() - want).abs() < 1e-9;
        assert!(close(&method["accuracy"]["mean"], mean), "{method}");
        assert!(close(&method["accuracy"]["deviation"], deviation), "{method}");
        if cfg!(target_os = "linux") {
            assert!(method["peak_bytes"].as_u64().unwrap() > 1_000_000, "{method}");
        }

        let line: Vec<&str> = csv.lines().nth(i + 1).unwrap().split(',').collect();
        assert_eq!(line[0], name);
        assert_eq!(line[2].parse::<f64>().unwrap(), method["accuracy"]["mean"].as_f64().unwrap());
        assert_eq!(line[7], method["delta_bytes"].to_string());
        let shown = format!("{:.1} ± {:.1}", 100.0 * mean, 100.0 * deviation);
        let row = text.lines().find(|l| l.starts_with(name)).unwrap();
        assert!(row.contains(&shown), "{row}: {shown}");
        assert!(row.contains(&method["parameters"].to_string()), "{row}");
        assert!(svg.contains(&format!(">{name}</text>")));
    }
    assert_eq!(methods[1]["settings"]["rank"], "2");
    assert_eq!(table["options"]["shots"], 4);
    // The file of a delta of this method is as large as the table says.
    place.texts(
        0,
        &[
            "calibrate",
            "--method",
            "linear",
            "--data",
            "colours.csv",
            "--shots",
            "4",
            "--epochs",
            "3",
            "--task",
            "compare",
            "--out",
            "l.safetensors",
        ],
    );
    let bytes = fs::metadata(place.work.join("l.safetensors")).unwrap().len();
    assert!(methods[0]["delta_bytes"].as_u64().unwrap().abs_diff(bytes) < 64, "{bytes}");
}

#[test]
fn finished_runs_are_not_repeated() {
    let Some(place) = place() else { return };
    let (printed, _) = place.compare(0, &SMALL);
    assert_eq!(printed, place.read("table.txt"));
    let (table, runs) = (place.table(), place.read("runs.jsonl"));

    let (again, err) = place.compare(0, &SMALL);
    assert!(err.contains("4 of 4 runs are finished already") && !err.contains("accuracy"), "{err}");
    assert_eq!((again, place.read("runs.jsonl")), (printed, runs.clone()));
    assert_eq!(place.table(), table);

    let file = place.work.join("out/runs.jsonl");
    let last = runs.lines().last().unwrap().len() + 1;
    for cut in [last, 1, 100] {
        fs::write(&file, &runs[..runs.len() - cut]).unwrap();
        fs::remove_file(place.work.join("out/table.json")).unwrap();
        let (_, err) = place.compare(0, &SMALL);
        assert!(err.contains("3 of 4 runs are finished already"), "{err}");
        assert_eq!(err.matches("accuracy").count(), 1, "{err}");
        assert_eq!(steady(place.table()), steady(table.clone()), "{cut}");
        assert_eq!(place.read("runs.jsonl").lines().count(), 4);
    }

    // More seeds and methods join the others.
    let mut more = SMALL.to_vec();
    (more[1], more[3]) = ("bias", "1,2");
    place.compare(0, &more);
    let all = place.table();
    let seeds: Vec<&Value> =
        all["methods"].as_array().unwrap().iter().map(|m| &m["seeds"]).collect();
    assert_eq!(
        seeds,
        [&serde_json::json!([0, 1]), &serde_json::json!([0, 1]), &serde_json::json!([1, 2])]
    );
}

#[test]
fn other_options_and_wrong_use_are_refused() {
    let Some(place) = place() else { return };
    let mut one = SMALL.to_vec();
    one[1] = "prototypes";
    one[3] = "1";
    place.compare(0, &one);
    let runs = place.read("runs.jsonl");
    let (text, err) =
        place.compare(1, &["--methods", "linear", "--shots", "3", "--epochs", "3", "--json"]);
    assert!(err.contains("shots: 4 there, 3 now") && !err.contains("epochs"), "{err}");
    assert!(text.contains("train.other-comparison"), "{text}");
    let mut set = one.clone();
    set.extend(["--set", "prototypes.pooling=cls"]);
    let (_, err) = place.compare(1, &set);
    assert!(err.contains("prototypes.pooling: \"auto\" there, \"cls\" now"), "{err}");

    for (args, want) in [
        (["--set", "rank=2"], "METHOD.NAME=VALUE"),
        (["--set", "lora.rank=2"], "METHOD.NAME=VALUE"),
        (["--set", "prototypes.rows=2"], "no setting"),
        (["--set", "prototypes.pooling=best"], "pooling"),
        (["--seeds", "0"], "seeds"),
        (["--shots", "0"], "shots"),
        (["--validation", "1"], "1"),
        (["--eval-split", "train"], "--eval-split"),
    ] {
        let mut all = one.clone();
        all.retain(|a| !args.contains(a) || *a == "1");
        let mut all: Vec<&str> = match args[0] {
            "--seeds" => vec!["--methods", "prototypes", "--shots", "4"],
            "--shots" => vec!["--methods", "prototypes", "--seeds", "1"],
            _ => all,
        };
        all.extend(args);
        let (_, err) = place.compare(2, &all);
        assert!(err.contains(want), "{args:?}: {err}");
    }
    let (_, err) = place.compare(2, &["--methods", "magic"]);
    assert!(err.contains("magic"), "{err}");
    assert_eq!(place.read("runs.jsonl"), runs);

    // Rows without splits would be measured on what was trained on.
    let csv = "text,label\nred old,red\nold red,red\nblue,blue\nnew blue,blue\n";
    fs::write(place.work.join("plain.csv"), csv).unwrap();
    let plain = [
        "compare",
        "--data",
        "plain.csv",
        "--shots",
        "1",
        "--methods",
        "prototypes,vpt-deep",
        "--out",
        "p",
    ];
    let (_, err) = place.texts(2, &plain);
    assert!(err.contains("--eval"), "{err}");
    let (text, _) =
        place.texts(0, &[&plain[..], &["--eval", "plain.csv", "--seeds", "5,"]].concat());
    assert!(text.contains("vpt-deep: skipped, method `vpt-deep` needs"), "{text}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_the_finished_runs() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let Some(place) = place() else { return };
    let args = [
        "compare",
        "--data",
        "colours.csv",
        "--out",
        "out",
        "--methods",
        "prototypes,bias",
        "--shots",
        "4",
        "--seeds",
        "2",
        "--epochs",
        "300",
    ];
    let mut child = Command::new(place.program)
        .args(args)
        .current_dir(&place.work)
        .env("EDGE_TUNE_BACKBONE", &place.backbone)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("[1/4] prototypes, seed 0"), "{first}");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    if child.wait().unwrap().code() == Some(0) {
        println!("skipped: the runs were over before the interrupt");
        return;
    }
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.last().unwrap().contains("the same command goes on"), "{rest:?}");
    let kept = place.read("runs.jsonl");
    assert!((1..4).contains(&kept.lines().count()), "{kept}");
    let mut args = args.to_vec();
    args.push("--json");
    let (_, err) = place.texts(0, &args);
    assert!(err.contains("runs are finished already"), "{err}");
    assert!(place.read("runs.jsonl").starts_with(&kept));
    assert_eq!(place.read("runs.jsonl").lines().count(), 4);
}

#[test]
fn calibrate_and_eval_draw() {
    let Some(place) = place() else { return };
    let calibrate = |status: i32, plot: &str, more: &[&str]| {
        let mut args = vec![
            "calibrate",
            "--method",
            "linear",
            "--data",
            "colours.csv",
            "--epochs",
            "4",
            "--out",
            "c.safetensors",
            "--plot",
            plot,
        ];
        args.extend(more);
        place.texts(status, &args)
    };
    for wrong in ["curve.png", "curve", "none/curve.svg", "store.svg/"] {
        let (_, err) = calibrate(2, wrong, &[]);
        assert!(err.contains("--plot"), "{err}");
        assert!(!place.work.join("c.safetensors").exists());
    }
    calibrate(0, "curve.svg", &[]);
    let read = |path: &Path| {
        let svg = fs::read_to_string(path).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
        svg
    };
    let svg = read(&place.work.join("curve.svg"));
    for want in ["linear on c", "loss", "accuracy", "held-out rows", "step"] {
        assert!(svg.contains(&format!(">{want}</text>")), "{want}: {svg}");
    }
    calibrate(0, "loss.SVG", &["--validation", "0"]);
    assert!(!read(&place.work.join("loss.SVG")).contains("held-out"));

    let eval = |plot| ["eval", "--delta", "c.safetensors", "--data", "colours.csv", "--plot", plot];
    let (_, err) = place.texts(2, &eval("matrix.pdf"));
    assert!(err.contains(".svg"), "{err}");
    place.texts(0, &eval("matrix.svg"));
    let svg = read(&place.work.join("matrix.svg"));
    for label in ["red", "green", "blue"] {
        assert_eq!(svg.matches(&format!(">{label}</text>")).count(), 2, "{label}");
    }
}
