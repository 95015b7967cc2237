//! Tests: how much anonymous memory prediction and training take, and that the planner knows.
//!
//! Each case runs in a process of its own, whose memory is read from /proc every millisecond, so
//! that the other tests do not count.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::engine;
use edge_tune::delta::{Delta, Metadata};
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::Model;
use edge_tune::tensor::Tensor;
use serde_json::Value;

const MB: f64 = 1e6;

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/minilm-l6")
}

/// A field of /proc/PID/status in bytes.
fn status(pid: u32, field: &str) -> Option<usize> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<usize>().ok()? * 1024)
}

/// Runs the command line to its end: (peak of anonymous memory, its JSON answer).
fn measured(args: &[&str]) -> Option<(usize, Value)> {
    let Some(program) = option_env!("CARGO_BIN_EXE_edge-tune") else {
        println!("skipped: built without the command line");
        return None;
    };
    let mut child = Command::new(program)
        .args(args)
        .args(["--json", "--quiet", "--threads", "2"])
        .env("EDGE_TUNE_BACKBONE", bundled())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let done = loop {
        peak = peak.max(status(child.id(), "RssAnon").unwrap_or(0));
        if let Some(done) = child.try_wait().unwrap() {
            break done;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(done.success(), "{args:?}: {out}");
    Some((peak, serde_json::from_str(&out).unwrap()))
}

/// A file of `lengths.len()` rows, each of so many tokens with the two special ones.
fn texts(dir: &Path, lengths: &[usize]) -> String {
    // Every word is one token.
    let words = ["the", "light", "kitchen", "music", "play", "weather", "alarm", "on", "off"];
    let mut csv = String::from("text,label\n");
    for (i, &n) in lengths.iter().enumerate() {
        let text: Vec<&str> =
            (0..n - 2).map(|t| words[(t * 7 + i * 3 + t / 5) % words.len()]).collect();
        csv.push_str(&format!("{},{}\n", text.join(" "), ["a", "b"][i % 2]));
    }
    let path = dir.join("texts.csv");
    fs::write(&path, csv).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Trains for one epoch: (peak, predicted peak, rows per pass).
fn training(data: &str, method: &str, rest: &[&str]) -> Option<(usize, usize, u64)> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("d.safetensors");
    let mut args = vec!["calibrate", "--method", method, "--data", data, "--epochs", "1"];
    args.extend(["--out", out.to_str().unwrap()]);
    args.extend(rest);
    let (peak, report) = measured(&args)?;
    let predicted = report["predicted_peak_bytes"].as_u64().unwrap() as usize;
    let number = |name: &str| report[name].as_u64().unwrap();
    let rows = number("workers") * number("micro_batch");
    println!(
        "{method} {}: {rows} rows at once, measured {:.1} MB, predicted {:.1} MB ({:.2}x)",
        rest.join(" "),
        peak as f64 / MB,
        predicted as f64 / MB,
        predicted as f64 / peak as f64
    );
    assert!(peak <= predicted, "{method} {rest:?}: the prediction was too low");
    assert!(predicted <= 2 * peak, "{method} {rest:?}: the prediction was too high");
    Some((peak, predicted, rows))
}

#[test]
fn prediction_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let data = texts(dir.path(), &[8; 4]);
    for method in ["linear", "lora"] {
        let delta = dir.path().join(format!("{method}.safetensors"));
        let delta = delta.to_str().unwrap();
        let args = ["calibrate", "--method", method, "--data", &data, "--epochs", "1", "--out"];
        let rest = [delta, "--validation", "0"];
        if measured(&[&args[..], &rest].concat()).is_none() {
            return;
        }
        let (peak, _) = measured(&["predict", "--delta", delta, "dim the lights"]).unwrap();
        println!("predict, {method}: {:.1} MB", peak as f64 / MB);
        assert!(peak as f64 <= 45.0 * MB, "{method}: {peak}");
    }
}

#[test]
fn training_stays_within_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let data = texts(dir.path(), &[128; 8]);
    for (limit, bytes) in [("60M", 60 << 20), ("80M", 80 << 20), ("120M", 120 << 20)] {
        if bytes == 60 << 20 && engine().name() == "ort" {
            // The library alone takes 8 MB.
            continue;
        }
        let rest = ["--batch", "8", "--max-ram", limit, "--validation", "0"];
        let Some((peak, predicted, rows)) = training(&data, "lora", &rest) else { return };
        assert!(peak <= bytes && predicted <= bytes, "{limit}");
        assert!(rows > 1 || peak as f64 <= 80.0 * MB);
    }
    // All eight rows at once.
    let rest = ["--batch", "8", "--max-ram", "300M", "--validation", "0"];
    let Some((peak, _, rows)) = training(&data, "lora", &rest) else { return };
    assert_eq!(rows, 8);
    assert!(peak as f64 <= 200.0 * MB, "{peak}");
}

#[test]
fn the_planned_memory_is_an_upper_bound() {
    let dir = tempfile::tempdir().unwrap();
    let data = texts(dir.path(), &[128; 4]);
    for method in ["prompt-tuning", "prefix-tuning", "linear"] {
        for batch in ["1", "4"] {
            let rest = ["--batch", batch, "--max-ram", "300M", "--validation", "0"];
            training(&data, method, &rest);
        }
    }
}

#[test]
fn mixed_lengths_and_validation_stay_within_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let data = texts(dir.path(), &[128, 9, 71, 30, 116, 50, 17, 93, 5, 64, 101, 40]);
    training(&data, "lora", &["--batch", "4", "--max-ram", "300M", "--validation", "0.34"]);
}

#[test]
fn a_resident_task_costs_its_tensors() {
    let mut child = child("resident");
    let mut report = String::new();
    child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    assert!(child.wait().unwrap().success());
    let numbers: Vec<f64> = report
        .lines()
        .find_map(|l| l.split_once("resident: "))
        .map(|(_, n)| n.split(' ').map(|n| n.parse().unwrap()).collect())
        .unwrap_or_else(|| panic!("{report}"));
    let [bytes, grown] = numbers[..] else { panic!("{report}") };
    println!("a task of {bytes} bytes takes {grown:.0} bytes");
    assert!(grown <= bytes + 4096.0);
}

#[test]
fn two_processes_share_the_weights() {
    // A copy of its own, so that nobody else has it mapped.
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(bundled()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let hold = || {
        let mut child = command("hold")
            .env("EDGE_TUNE_BACKBONE", dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let ready = out.by_ref().lines().map_while(Result::ok).any(|l| l.contains("ready"));
        assert!(ready, "the child failed");
        (child, out)
    };
    let mut one = hold();
    let (alone, mapped) = weights(one.0.id());
    let mut two = hold();
    let (shared, _) = weights(one.0.id());
    println!("weights.bin: {mapped} bytes mapped in, share {alone} alone, {shared} of two");
    for (child, _out) in [&mut one, &mut two] {
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
    }
    assert!(mapped > 8 << 20 && alone * 10 >= mapped * 9);
    assert!(shared * 10 <= alone * 6, "nothing is shared");
}

/// Proportional share and resident bytes of a process's mapping of the weights.
fn weights(pid: u32) -> (usize, usize) {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let lines = maps.lines().skip_while(|l| !l.ends_with("/weights.bin"));
    let of = |field: &str| {
        let mut lines = lines.clone().filter_map(|l| l.strip_prefix(field));
        let line = lines.next().unwrap_or_else(|| panic!("no {field} of weights.bin"));
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
    };
    (of("Pss:"), of("Rss:"))
}

/// This test binary, to run [`in_a_child`] as `case`.
fn command(case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["memory::in_a_child", "--exact", "--ignored", "--nocapture"])
        .env("EDGE_TUNE_MEMORY_CASE", case)
        .stdout(Stdio::piped());
    command
}

fn child(case: &str) -> Child {
    command(case).spawn().unwrap()
}

/// A LoRA delta with other values for every `seed`.
fn lora(model: &Model, seed: u64) -> Delta {
    let method = methods::find("lora").unwrap();
    let settings = Settings::resolve(method, []).unwrap();
    let plan = method.plan(model.backbone().manifest(), 2, &settings).unwrap();
    let value = |i: usize| ((i as u64 * 31 + seed * 17) % 97) as f32 * 1e-3 - 0.05;
    let tensor = |t: &methods::TensorSpec| {
        let values: Vec<f32> = (0..t.len()).map(value).collect();
        (t.name.clone(), Tensor::new(&t.shape, &values).unwrap().to_f16())
    };
    let mut metadata = Metadata::new("lora", model.backbone().digest(), &["a", "b"]);
    metadata.config = settings.to_json();
    metadata.task = format!("task-{seed}");
    let tensors: BTreeMap<String, Tensor> = plan.tensors.iter().map(tensor).collect();
    Delta::new(metadata, tensors).unwrap()
}

#[test]
#[ignore = "run by the tests above in a process of its own"]
fn in_a_child() {
    let Ok(case) = std::env::var("EDGE_TUNE_MEMORY_CASE") else { return };
    let dir = std::env::var_os("EDGE_TUNE_BACKBONE").map_or_else(bundled, PathBuf::from);
    let model = Model::open(&dir, engine()).unwrap();
    let pid = std::process::id();
    match case.as_str() {
        "resident" => {
            // Enough to fill the gaps that compiling left in the heap.
            const BEFORE: u64 = 150;
            let mut tasks: Vec<_> =
                (0..BEFORE).map(|seed| model.load(&lora(&model, seed)).unwrap()).collect();
            let bytes = tasks[0].bytes();
            let before = status(pid, "RssAnon").unwrap();
            const MORE: u64 = 200;
            tasks.extend((0..MORE).map(|n| model.load(&lora(&model, BEFORE + n)).unwrap()));
            let grown = status(pid, "RssAnon").unwrap() - before;
            println!("resident: {bytes} {}", grown as f64 / MORE as f64);
        }
        "hold" => {
            let task = model.load(&lora(&model, 1)).unwrap();
            model.predict_with(&task, 0, "could you dim the lights").unwrap();
            println!("ready");
            std::io::stdin().lock().read_line(&mut String::new()).unwrap();
        }
        other => panic!("no case {other}"),
    }
}
