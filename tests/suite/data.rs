//! Tests: data files, selections of rows, token ids.

use std::fs;
use std::path::{Path, PathBuf};

use edge_tune::data::{DataError, Dataset, Encoded, Row, TextEncoder, batch};

use crate::support::{draws, shared};

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn read(bytes: impl AsRef<[u8]>) -> Result<Dataset, DataError> {
    let dir = tempfile::tempdir().unwrap();
    Dataset::read_csv(write(dir.path(), "t.csv", bytes))
}

/// `counts[i]` rows of class `c<i>`, interleaved.
fn made(counts: &[usize]) -> Dataset {
    let mut rows = Vec::new();
    for n in 0..counts.iter().copied().max().unwrap_or(0) {
        for (class, _) in counts.iter().enumerate().filter(|&(_, &count)| n < count) {
            let text = format!("text {n} of {class}");
            let line = rows.len() as u64 + 2;
            rows.push(Row { text, label: format!("c{class}"), split: None, line });
        }
    }
    Dataset::new("made.csv", rows)
}

fn all(data: &Dataset) -> Vec<usize> {
    (0..data.rows.len()).collect()
}

#[test]
fn columns_come_in_any_order_and_extra_ones_are_ignored() {
    let data = read("\u{feff}id,label, split ,text\r\n7, b ,train,\" hi, you\"\r\n8,a,test,x\r\n");
    let data = data.unwrap();
    assert_eq!(data.labels, ["a", "b"]);
    let split = |s: &str| Some(s.to_owned());
    let want = [
        Row { text: " hi, you".into(), label: "b".into(), split: split("train"), line: 2 },
        Row { text: "x".into(), label: "a".into(), split: split("test"), line: 3 },
    ];
    assert_eq!(data.rows, want);
    assert_eq!((data.class("b"), data.class("c")), (Some(1), None));
    assert_eq!(data.classes(&[1, 0, 99]), [0, 1]);
}

#[test]
fn a_bad_file_is_refused_with_its_line() {
    let with_bad_utf8 = [b"text,label\nok,a\nbad \xff,a\n".as_slice(), b"text,la\xffbel\nx,a\n"];
    #[rustfmt::skip]
    let cases: &[(&[u8], &str, &str)] = &[
        (b"", "data.empty", "no data rows"),
        (b"\xef\xbb\xbf", "data.empty", "no data rows"),
        (b"\n\r\n", "data.empty", "no data rows"),
        (b"text,label\n", "data.empty", "no data rows"),
        (b"sentence,label\nx,a\n", "data.missing-column", "\"text\"; its header names [\"sentence\", \"label\"]"),
        (b"text,class\nx,a\n", "data.missing-column", "\"label\""),
        (b"Text,Label\nx,a\n", "data.missing-column", "[\"Text\", \"Label\"]"),
        (b"text;label\nx;a\n", "data.missing-column", "[\"text;label\"]"),
        (b"text,label,text\nx,a,y\n", "data.duplicate-column", "\"text\" twice"),
        (b"text,label,split,split\nx,a,y,y\n", "data.duplicate-column", "\"split\" twice"),
        (b"text,label\nx,a\n\ny, z,a\n", "data.ragged", "line 4: 3 fields, the header has 2"),
        (b"text,label\nx,a\ny\n", "data.ragged", "line 3: 1 fields"),
        (b"text,label\r\n\"x\r\ny\",a\r\ny\r\n", "data.ragged", "line 4: 1 fields"),
        (with_bad_utf8[0], "data.utf8", "line 3"),
        (with_bad_utf8[1], "data.utf8", "line 1"),
        (b"t\0e\0x\0t\0\n\xff\xfe", "data.missing-column", "\"text\""),
        (b"text,label\nx,a\nx,\n", "data.empty-field", "line 3: empty label"),
        (b"text,label\nx,\"  \"\n", "data.empty-field", "line 2: empty label"),
        (b"text,label\nx,a\n \t,a\n", "data.empty-field", "line 3: empty text"),
        (b"text,label,split\nx,a,train\ny,a,\n", "data.empty-field", "line 3: empty split"),
        (b"text,label\nx,a\ny,\"a\nz,b\n", "data.open-quote", "line 3"),
        (b"text,label\n\"x,a\nz,b\n", "data.open-quote", "line 2"),
        (b"text,\"label\nx,a\n", "data.open-quote", "line 1"),
    ];
    for &(bytes, code, message) in cases {
        let error = read(bytes).unwrap_err();
        let shown = error.to_string();
        let input = String::from_utf8_lossy(bytes);
        assert_eq!(error.code(), code, "{input:?}: {shown}");
        assert!(shown.contains(message), "{input:?}: {shown}");
        assert!(shown.contains("t.csv"), "{shown}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent.csv");
    for (read, path) in [
        (Dataset::open(&absent), absent.as_path()),
        (Dataset::read_csv(&absent), absent.as_path()),
        (Dataset::read_csv(dir.path()), dir.path()),
    ] {
        let error = read.unwrap_err();
        assert_eq!(error.code(), "data.read");
        assert!(error.to_string().contains(&path.display().to_string()));
    }
}

#[test]
fn splits_are_chosen_by_name() {
    let data = read("text,label,split\na,x,train\nb,y,test\nc,x,train\n").unwrap();
    assert_eq!(data.split("train").unwrap(), [0, 2]);
    assert_eq!(data.split("test").unwrap(), [1]);
    let error = data.split("val").unwrap_err();
    assert_eq!(error.code(), "data.no-such-split");
    assert!(error.to_string().contains("[\"test\", \"train\"]"), "{error}");

    let whole = read("text,label\na,x\nb,y\n").unwrap();
    assert_eq!(whole.split("train").unwrap(), [0, 1]);
    assert_eq!(whole.split("test").unwrap(), [0, 1]);
}

#[test]
fn one_class_is_not_enough() {
    let data = made(&[3, 2]);
    assert!(data.require_classes(&all(&data), 2).is_ok());
    let error = data.require_classes(&[0, 2], 2).unwrap_err();
    assert_eq!(error.code(), "data.too-few-classes");
    assert!(error.to_string().contains("1 class(es) [\"c0\"]"), "{error}");
    assert!(data.require_classes(&[], 1).is_err());
}

#[test]
fn shots_are_even_and_depend_on_the_seed_alone() {
    let data = made(&[40, 25, 16]);
    let rows = all(&data);
    let draw = data.shots(&rows, 16, 3).unwrap();
    assert_eq!(draw.len(), 48);
    let classes = data.classes(&draw);
    assert!((0..3).all(|c| classes.iter().filter(|&&x| x == c).count() == 16));
    let mut backwards = rows.clone();
    backwards.reverse();
    assert_eq!(draw, data.shots(&backwards, 16, 3).unwrap());
    assert_ne!(draw, data.shots(&rows, 16, 4).unwrap());
    // The same few rows under any release: they are written down in experiments.
    assert_eq!(data.shots(&rows, 2, 0).unwrap(), PINNED_SHOTS);

    let error = data.shots(&rows, 17, 0).unwrap_err();
    assert_eq!(error.code(), "data.too-few-rows");
    assert!(error.to_string().contains("class \"c2\" has 16 of the 17 rows"), "{error}");
}
const PINNED_SHOTS: [usize; 6] = [39, 50, 13, 49, 38, 41];

#[test]
fn holdout_is_stratified_and_never_takes_a_whole_class() {
    let data = made(&[40, 10, 2, 1]);
    let rows = all(&data);
    let (train, held) = data.holdout(&rows, 0.2, 1).unwrap();
    let count = |rows: &[usize], class| data.classes(rows).iter().filter(|&&c| c == class).count();
    assert_eq!([0, 1, 2, 3].map(|c| count(&held, c)), [8, 2, 0, 0]);
    let mut both = [train, held.clone()].concat();
    both.sort_unstable();
    assert_eq!(both, rows);
    assert_eq!(held, data.holdout(&rows, 0.2, 1).unwrap().1);
    assert_ne!(held, data.holdout(&rows, 0.2, 2).unwrap().1);

    let (train, held) = data.holdout(&rows, 0.99, 1).unwrap();
    assert_eq!([0, 1, 2, 3].map(|c| count(&train, c)), [1, 1, 1, 1]);
    assert_eq!(held.len(), 49);
    assert_eq!(data.holdout(&rows, 0.0, 1).unwrap(), (rows.clone(), vec![]));
    for fraction in [1.0, -0.1, f64::NAN] {
        assert_eq!(data.holdout(&rows, fraction, 1).unwrap_err().code(), "data.fraction");
    }
}

#[test]
fn row_lists_are_read_from_json() {
    let data = made(&[5, 5]);
    let dir = tempfile::tempdir().unwrap();
    let plain = write(dir.path(), "plain.json", r#"{"k": [9, 0, 3], "other": 1}"#);
    assert_eq!(data.rows_from_json(&plain, "k").unwrap(), [9, 0, 3]);
    let nested = write(
        dir.path(),
        "nested.json",
        r#"{"name": "t", "fewshot_train_rows": {"k1_s0": [2, 1], "k1_s1": []}}"#,
    );
    assert_eq!(data.rows_from_json(&nested, "k1_s0").unwrap(), [2, 1]);

    let cases = [
        ("{", "k", "data.row-list", "EOF"),
        ("[1, 2]", "k", "data.row-list", "not a JSON object"),
        (r#"{"k": 3}"#, "k", "data.row-list", "\"k\" is not a list"),
        (r#"{"k": [1, -2]}"#, "k", "data.row-list", "-2"),
        (r#"{"k": [1, 2.5]}"#, "k", "data.row-list", "2.5"),
        (r#"{"k": [1, "2"]}"#, "k", "data.row-list", "\"2\""),
        (r#"{"a": [], "b": [1], "name": "x"}"#, "k", "data.no-such-row-list", r#"["a", "b"]"#),
        (r#"{"k": [1, 10]}"#, "k", "data.bad-row", "row 10 does not exist"),
        (r#"{"k": [1, 2, 1]}"#, "k", "data.bad-row", "row 1 is listed twice"),
    ];
    for (json, key, code, message) in cases {
        let path = write(dir.path(), "bad.json", json);
        let error = data.rows_from_json(&path, key).unwrap_err();
        assert_eq!(error.code(), code, "{json}: {error}");
        assert!(error.to_string().contains(message), "{json}: {error}");
    }
    assert_eq!(data.rows_from_json(dir.path().join("no"), "k").unwrap_err().code(), "data.read");
}

#[test]
fn a_digest_tells_selections_apart() {
    let data = made(&[3, 3]);
    let base = data.digest(&[0, 1]);
    assert_eq!(base.len(), 64);
    assert_eq!(base, data.digest(&[0, 1]));
    assert_ne!(base, data.digest(&[1, 0]));
    assert_ne!(base, data.digest(&[0]));
    let row = |text: &str, label: &str| Row {
        text: text.into(),
        label: label.into(),
        split: None,
        line: 0,
    };
    let a = Dataset::new("", vec![row("ab", "c")]).digest(&[0]);
    assert_ne!(a, Dataset::new("", vec![row("a", "bc")]).digest(&[0]));
}

#[test]
fn the_example_is_a_balanced_task() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/home-intents.csv");
    let data = Dataset::read_csv(path).unwrap();
    assert!(data.labels.len() >= 10);
    let (train, test) = (data.split("train").unwrap(), data.split("test").unwrap());
    assert_eq!(data.shots(&train, 24, 0).unwrap().len(), train.len());
    assert_eq!(data.shots(&test, 12, 0).unwrap().len(), test.len());
    let plain = |r: &Row| {
        let words = r.text.to_lowercase();
        words
            .split(|c: char| !c.is_alphanumeric())
            .filter(|w| !w.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut texts: Vec<_> = data.rows.iter().map(plain).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), data.rows.len(), "a sentence occurs twice");
}

#[test]
fn the_shared_sets_are_read_whole() {
    let Some(folder) = shared("data/text") else { return };
    for name in ["trec6", "sst2", "snips", "banking77", "subj", "agnews_sample"] {
        let data = Dataset::read_csv(folder.join(name).with_extension("csv")).unwrap();
        let side = folder.join(name).with_extension("json");
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&side).unwrap()).unwrap();
        for (split, count) in json["counts"].as_object().unwrap() {
            assert_eq!(data.split(split).unwrap().len() as u64, count.as_u64().unwrap(), "{name}");
        }
        assert_eq!(data.labels.len(), json["classes"].as_array().unwrap().len());
        let few = data.rows_from_json(&side, "k16_s0").unwrap();
        assert_eq!(few.len(), 16 * data.labels.len());
        let train = data.split("train").unwrap();
        assert!(few.iter().all(|r| train.binary_search(r).is_ok()));
    }
}

/// A WordPiece tokenizer as BERT's, with settings that must be overridden.
const TOKENIZER: &str = r###"{
  "version": "1.0",
  "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Left"},
  "padding": {"strategy": {"Fixed": 50}, "direction": "Left", "pad_to_multiple_of": null,
              "pad_id": 1, "pad_type_id": 0, "pad_token": "[PAD]"},
  "added_tokens": [
    {"id": 3, "special": true, "content": "[SEP]", "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false},
    {"id": 4, "special": true, "content": "[MASK]", "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false}],
  "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                 "strip_accents": null, "lowercase": true},
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
  "decoder": null,
  "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 20,
            "vocab": {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "turn": 5,
                      "##ed": 6, "on": 7, "the": 8, "light": 9, "##s": 10, ".": 11, "cafe": 12,
                      "\u4e2d": 13, "\u6587": 14, "?": 15}}
}"###;

fn encoder(max_length: usize) -> TextEncoder {
    let dir = tempfile::tempdir().unwrap();
    TextEncoder::from_file(write(dir.path(), "tokenizer.json", TOKENIZER), max_length).unwrap()
}

#[test]
fn texts_become_word_pieces() {
    let encoder = encoder(32);
    #[rustfmt::skip]
    let cases: &[(&str, &[i64])] = &[
        ("", &[2, 3]),
        (" \t\n\u{0}\u{200b}\u{fffd}", &[2, 3]),
        ("Turn ON the lights.", &[2, 5, 7, 8, 9, 10, 11, 3]),
        ("turned", &[2, 5, 6, 3]),
        ("turner", &[2, 0, 3]),
        ("the\u{a0}light?.", &[2, 8, 9, 15, 11, 3]),
        ("CAFE\u{301} caf\u{e9}", &[2, 12, 12, 3]),
        ("\u{4e2d}\u{6587}on", &[2, 13, 14, 7, 3]),
        ("\u{1f600} on", &[2, 0, 7, 3]),
        ("the[MASK].", &[2, 8, 4, 11, 3]),
        ("turnturnturnturnturnt", &[2, 0, 3]),
    ];
    for &(text, ids) in cases {
        let encoded = encoder.encode(text).unwrap();
        assert_eq!(encoded.ids, ids, "{text:?}");
        assert_eq!(encoded.type_ids, vec![0; ids.len()], "{text:?}");
    }
    assert_eq!(encoder.encode_bare("the light").unwrap(), [8, 9]);
    assert_eq!(encoder.token_id("[MASK]"), Some(4));
    assert_eq!(encoder.token_id("dark"), None);
    assert_eq!((encoder.pad_id(), encoder.vocab_size(), encoder.max_length()), (1, 16, 32));
}

#[test]
fn long_texts_are_cut_and_keep_the_last_special_token() {
    let encoder = encoder(5);
    assert_eq!(encoder.encode("the light on the light").unwrap().ids, [2, 8, 9, 7, 3]);
    // Far beyond what is looked at, and cut inside a character.
    let huge = "\u{4e2d}".repeat(2_000_000);
    assert_eq!(encoder.encode(&huge).unwrap().ids, [2, 13, 13, 13, 3]);
}

#[test]
fn a_bad_tokenizer_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "tokenizer.json", TOKENIZER);
    let error = TextEncoder::from_file(&good, 2).unwrap_err();
    assert_eq!(error.code(), "data.max-length");
    assert!(TextEncoder::from_file(&good, 3).is_ok());
    for text in ["", "{}", "[]", "{\"model\": 3}"] {
        let path = write(dir.path(), "bad.json", text);
        let error = TextEncoder::from_file(&path, 16).unwrap_err();
        assert_eq!(error.code(), "data.tokenizer", "{text}");
        assert!(error.to_string().contains("bad.json"));
    }
    let broken = [
        TOKENIZER.replace("\"decoder\": null", "\"decoder\": WordPiece\""),
        TOKENIZER.replace(
            "{\"type\": \"BertNormalizer\", ",
            "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA\", ",
        ),
    ];
    for text in broken {
        assert_ne!(text, TOKENIZER);
        let path = write(dir.path(), "bad.json", &text);
        assert_eq!(TextEncoder::from_file(path, 16).unwrap_err().code(), "data.tokenizer");
    }
    let absent = TextEncoder::from_file(dir.path().join("no.json"), 16).unwrap_err();
    assert_eq!(absent.code(), "data.read");
    // A model whose unknown token is not in its vocabulary fails on the text, not before.
    let no_unk = TOKENIZER.replace("\"[UNK]\": 0", "\"[XXX]\": 0");
    let encoder = TextEncoder::from_file(write(dir.path(), "u.json", no_unk), 16).unwrap();
    assert_eq!(encoder.encode("the dark").unwrap_err().code(), "data.encode");
}

#[test]
fn a_damaged_tokenizer_file_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let mut below = draws(20);
    for _ in 0..1000 {
        let mut bytes = TOKENIZER.as_bytes().to_vec();
        for _ in 0..=below(3) {
            let at = below(bytes.len());
            match below(3) {
                0 => bytes[at] = b"0123456789\"{}[],:-xn"[below(20)],
                1 => drop(bytes.remove(at)),
                _ => drop(bytes.drain(at..(at + below(40)).min(bytes.len()))),
            }
        }
        if let Ok(encoder) = TextEncoder::from_file(write(dir.path(), "m.json", bytes), 8) {
            for text in ["", "turned the light\u{4e2d} [MASK]?", "\u{e9} \u{0}x"] {
                if let Ok(encoded) = encoder.encode(text) {
                    assert!(encoded.ids.len() <= 8);
                }
            }
        }
    }
}

#[test]
fn texts_are_padded_to_a_batch() {
    let encoder = encoder(16);
    let texts: Vec<Encoded> =
        ["on", "turn on the light"].iter().map(|t| encoder.encode(t).unwrap()).collect();
    let inputs = batch(&texts, 8, encoder.pad_id()).unwrap();
    assert_eq!(inputs.input_ids.shape(), [2, 8]);
    let ids = [2, 7, 3, 1, 1, 1, 1, 1, 2, 5, 7, 8, 9, 3, 1, 1];
    assert_eq!(inputs.input_ids.as_slice::<i64>().unwrap(), ids);
    let mask = [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0];
    assert_eq!(inputs.attention_mask.as_slice::<i64>().unwrap(), mask);
    assert_eq!(inputs.token_type_ids.as_slice::<i64>().unwrap(), [0; 16]);

    let error = batch(&texts, 4, 0).unwrap_err();
    assert_eq!(error.code(), "data.too-long");
    assert!(error.to_string().contains("text 1 of the batch has 6 tokens"), "{error}");
    assert_eq!(batch(&[], 8, 0).unwrap().input_ids.shape(), [0, 8]);
}

#[test]
fn a_clip_tokenizer_keeps_its_end_token() {
    let Some(path) = shared("backbones/clip-tiny/tokenizer.json") else { return };
    let encoder = TextEncoder::from_file(path, 6).unwrap();
    let ids = encoder.encode("a photo of a very long list of things").unwrap().ids;
    assert_eq!(ids.len(), 6);
    assert_eq!(ids.first().copied(), encoder.token_id("<|startoftext|>"));
    assert_eq!(ids.last().copied(), encoder.token_id("<|endoftext|>"));
}
