//! Tests: the committed corpus of the fuzz targets, replayed and mutated a little. `tools/fuzz.sh`
//! runs the same targets with coverage.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edge_tune::delta::{Delta, Metadata, SelfTest};
use edge_tune::fuzzing::TARGETS;
use edge_tune::tensor::Tensor;

use crate::bad_input::onnx::{integers, mlp, node};
use crate::support::{draws, fixture};

/// All seeds together.
const MAX_CORPUS_BYTES: u64 = 200 * 1024;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = corpus(target);
    let files = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = files.map(|f| f.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|f| (f.clone(), fs::read(f).unwrap())).collect()
}

#[test]
fn the_corpus_is_replayed() {
    let mut total = 0;
    for &(target, run) in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() >= 4, "{target}: {} seeds", seeds.len());
        for (path, bytes) in seeds {
            println!("{}", path.display());
            total += bytes.len() as u64;
            run(&bytes);
        }
    }
    assert!(total <= MAX_CORPUS_BYTES, "the corpus has {total} bytes");
}

#[test]
fn mutated_seeds_never_panic() {
    let mut below = draws(0x9e37_79b9_7f4a_7c15);
    for &(target, run) in TARGETS {
        let seeds = seeds(target);
        let rounds = if target == "onnx" { 400 } else { 4000 };
        let (start, mut round) = (Instant::now(), 0);
        while round < rounds || start.elapsed() < longer() {
            round += 1;
            let mut bytes = seeds[below(seeds.len())].1.clone();
            let other = &seeds[below(seeds.len())].1;
            for _ in 0..=below(4) {
                mutate(&mut bytes, other, &mut below);
            }
            run(&bytes);
        }
        println!("{target}: {round} inputs");
    }
}

/// `EDGE_TUNE_FUZZ_SECONDS` asks for a longer run, without coverage.
fn longer() -> Duration {
    let seconds = std::env::var("EDGE_TUNE_FUZZ_SECONDS").ok().and_then(|v| v.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], below: &mut impl FnMut(usize) -> usize) {
    const TELLING: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'[', b',', b'-', b'9', b'\n'];
    let at = below(bytes.len() + 1);
    match below(6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << below(8),
        1 if at < bytes.len() => bytes[at] = TELLING[below(TELLING.len())],
        2 => bytes.insert(at, TELLING[below(TELLING.len())]),
        3 => {
            let end = (at + 1 + below(16)).min(bytes.len());
            drop(bytes.drain(at..end));
        }
        4 => bytes.truncate(at),
        _ => {
            let from = below(other.len() + 1);
            let part = other[from..(from + below(32)).min(other.len())].to_vec();
            drop(bytes.splice(at..at, part));
        }
    }
}

/// Writes the seeds: `cargo test write_the_seeds -- --ignored`. Regressions stay.
#[test]
#[ignore = "writes into the repository"]
fn write_the_seeds() {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let dir = corpus(target);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    };
    let pairs = |list: &[(&str, &str)]| -> Vec<u8> {
        list.iter().flat_map(|(k, v)| format!("{k}\0{v}\0").into_bytes()).collect()
    };

    #[cfg(feature = "pull")]
    write_published(&write);
    let mut metadata = Metadata::new("lora", &"ab".repeat(32), &["no", "yes"]);
    metadata.created = "2025-01-01T00:00:00Z".into();
    metadata.task = "weather".into();
    metadata.config = serde_json::json!({ "rank": "4", "layers": "last-2" });
    metadata.parent = Some("cd".repeat(32));
    let test = SelfTest { input: "warm".into(), logits: vec![0.5, -0.5], tolerance: 0.02 };
    metadata.self_test = vec![test];
    let weight = Tensor::new(&[2, 3], &[0.5f32, 1.0, -1.0, 0.0, 2.0, 3.0]).unwrap();
    let named = |name: &str, t: Tensor| (name.to_string(), t);
    let small = [named("head.weight", weight.to_f16())];
    let mixed = [
        named("head.weight", weight),
        named("counts", Tensor::vector(&[1i64, 2])),
        named("lora.0.query.a", Tensor::new(&[1, 2], &[1.0f32, 2.0]).unwrap().to_f16()),
    ];
    let small = Delta::new(metadata.clone(), small).unwrap().to_bytes().unwrap();
    let mixed = Delta::new(metadata.clone(), mixed).unwrap().to_bytes().unwrap();
    let none = Delta::new(metadata, []).unwrap().to_bytes().unwrap();
    write("delta", "small", &small);
    write("delta", "mixed", &mixed);
    write("delta", "no-tensors", &none);
    write("delta", "header-length", &u64::MAX.to_le_bytes());
    write("delta", "foreign", b"\x02\0\0\0\0\0\0\0{}");

    let digest = "0".repeat(64);
    let least = [
        ("edge-tune.format", "1"),
        ("method", "linear"),
        ("backbone", digest.as_str()),
        ("labels", r#"["no","yes"]"#),
    ];
    let full = [
        ("config", r#"{"rank":"4","nested":{"a":[1,null,true]}}"#),
        ("task", "weather"),
        ("self_test", r#"[{"input":"x","logits":[0.5,-1e3],"tolerance":0.1}]"#),
        ("parent", digest.as_str()),
        ("created", "2025-01-01T00:00:00Z"),
    ];
    write("metadata", "least", &pairs(&least));
    write("metadata", "full", &pairs(&[&least[..], &full].concat()));
    let deep = "[".repeat(4000);
    let depth = [("config", deep.as_str())];
    write("metadata", "deep", &pairs(&[&least[..], &depth].concat()));
    write("metadata", "version", &pairs(&[("edge-tune.format", "99999999999")]));

    write("onnx", "mlp", &mlp(|_, _| ()));
    let of_shape = |n: i64| {
        mlp(|_, g| {
            g.initializer.push(integers("n", &[n, n]));
            g.node.push(node("ConstantOfShape", &["n"], "c"));
        })
    };
    write("onnx", "constant-of-shape", &of_shape(3));
    write("onnx", "constant-of-shape-large", &of_shape(1 << 14));
    write("onnx", "unknown-groups", &[0xc3u8, 0x3e].repeat(2000));
    for name in ["kwt-legacy", "mobilenet-qoperator", "mobilenet-legacy", "kwt-qdq"] {
        let model = fixture(&format!("exports/{name}/model.onnx"));
        write("onnx", name, &fs::read(model).unwrap());
    }

    for (name, list) in [
        ("plain", &[("location", "w.bin")][..]),
        ("part", &[("location", "w.bin"), ("offset", "60"), ("length", "4"), ("checksum", "x")]),
        ("parent", &[("location", "../w.bin")]),
        ("offset", &[("location", "w.bin"), ("offset", "18446744073709551615")]),
    ] {
        write("external", name, &pairs(list));
    }

    let record = |active: u64| {
        let entry = |generation: u64| {
            serde_json::json!({
                "generation": generation, "digest": digest, "installed": "2025-01-01T00:00:00Z",
                "method": "lora", "bytes": 1234
            })
        };
        let entries = [entry(1), entry(2)];
        serde_json::json!({ "format": 1, "task": "task", "active": active, "entries": entries })
    };
    write("record", "two", record(2).to_string().as_bytes());
    write("record", "rolled-back", record(1).to_string().as_bytes());
    write("record", "absent", record(7).to_string().as_bytes());
    write("record", "deep", "[".repeat(4000).as_bytes());

    write("csv", "plain", b"text,label\nwarm,yes\ncold,no\n");
    write("csv", "split", b"\xef\xbb\xbflabel,split,text\r\nyes,train,\"a, \"\"b\"\"\nc\"\r\n\r\n");
    write("csv", "path", b"path,label\na/b.png,cat\n");
    write("csv", "open-quote", b"text,label\n\"warm,yes\n");

    let chunk = |name: &[u8; 4], body: &[u8]| {
        [name, &(body.len() as u32).to_le_bytes()[..], body, &[0][..body.len() % 2]].concat()
    };
    let wav = |code: u16, channels: u16, bits: u16, data: &[u8]| {
        let align = channels * bits / 8;
        let head: [&[u8]; 6] = [
            &code.to_le_bytes(),
            &channels.to_le_bytes(),
            &16000u32.to_le_bytes(),
            &(16000 * u32::from(align)).to_le_bytes(),
            &align.to_le_bytes(),
            &bits.to_le_bytes(),
        ];
        let body = [chunk(b"fmt ", &head.concat()), chunk(b"LIST", b"odd"), chunk(b"data", data)];
        chunk(b"RIFF", &[&b"WAVE"[..], &body.concat()].concat())
    };
    write("sound", "pcm16", &wav(1, 1, 16, &[0, 1, 2, 3]));
    write("sound", "pcm8-stereo", &wav(1, 2, 8, &[128, 255, 0, 1]));
    write("sound", "pcm24", &wav(1, 1, 24, &[0, 0, 128, 255, 255, 127]));
    write("sound", "float", &wav(3, 1, 32, &0.5f32.to_le_bytes()));
}

#[cfg(feature = "pull")]
fn write_published(write: &dyn Fn(&str, &str, &[u8])) {
    use std::io::Cursor;

    use edge_tune::fetch::patch::make;
    use minisign::KeyPair;
    use serde_json::json;

    let offer = json!({ "task": "weather", "digest": "ab".repeat(32), "bytes": 400,
        "backbone": "cd".repeat(32), "method": "linear", "path": "a/weather.safetensors",
        "patches": [{ "from": "ef".repeat(32), "path": "w.patch", "bytes": 100,
            "digest": "01".repeat(32) }] });
    let index = |deltas| {
        json!({ "format": "edge-tune.index/1", "version": 3, "created": "2027-01-01T00:00:00Z",
            "expires": "2027-02-01T00:00:00Z", "deltas": deltas })
        .to_string()
    };
    let key = KeyPair::generate_unencrypted_keypair().unwrap();
    let root = json!({ "format": "edge-tune.root/1", "version": 1, "threshold": 1,
        "expires": "2030-01-01T00:00:00Z", "keys": [key.pk.to_base64()] });
    let signed = minisign::sign(Some(&key.pk), &key.sk, Cursor::new("x"), None, None).unwrap();
    write("published", "index", index(vec![offer]).as_bytes());
    write("published", "empty-index", index(vec![]).as_bytes());
    write("published", "root", root.to_string().as_bytes());
    write("published", "signature", signed.to_string().as_bytes());

    // The file that the target patches.
    let old: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut one = old.clone();
    one[100] ^= 1;
    let words: Vec<u8> = old.iter().map(|b| b.wrapping_add(b & 1)).collect();
    let longer = [&old[..], &old[..700]].concat();
    for (name, new) in
        [("one", &one), ("words", &words), ("longer", &longer), ("cut", &old[..99].to_vec())]
    {
        write("patch", name, &make(&old, new, "seed").unwrap());
    }
}
