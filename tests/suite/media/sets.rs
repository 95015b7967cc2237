use std::fs;
use std::path::{Path, PathBuf};

use edge_tune::data::{DataError, Dataset, Source};

/// A folder of files whose content is their name.
fn folder(root: &Path, names: &[&str]) -> PathBuf {
    let root = root.join("set");
    for name in names {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    root
}

/// `text split label` of each row.
fn shown(data: &Dataset) -> Vec<String> {
    let line = |r: &edge_tune::data::Row| {
        format!("{} {} {}", r.text, r.split.as_deref().unwrap_or("-"), r.label)
    };
    data.rows.iter().map(line).collect()
}

fn check(error: &DataError, code: &str, message: &str) {
    let shown = error.to_string();
    assert_eq!(error.code(), code, "{shown}");
    assert!(shown.contains(message), "{shown}");
}

/// What both folders and zips must give.
const LAYOUTS: &[(&[&str], &[&str])] = &[
    (
        &["dog/b.png", "cat/2.png", "cat/10.png", "README.md", "cat/.hidden", "cat/sub/x.png"],
        &["cat/10.png - cat", "cat/2.png - cat", "cat/sub/x.png - cat", "dog/b.png - dog"],
    ),
    (
        &["train/a/1.wav", "validation/a/2.wav", "Test/b/3.wav", "train/LICENSE", "notes.txt"],
        &["Test/b/3.wav test b", "train/a/1.wav train a", "validation/a/2.wav validation a"],
    ),
    // A label may be called as a split is.
    (&["bus/1.png", "train/1.png"], &["bus/1.png - bus", "train/1.png - train"]),
    // One folder around all.
    (
        &["pets/cat/1.png", "pets/dog/2.png", "pets/LICENSE"],
        &["pets/cat/1.png - cat", "pets/dog/2.png - dog"],
    ),
    (
        &["pets/train/cat/1.png", "pets/test/dog/2.png"],
        &["pets/test/dog/2.png test dog", "pets/train/cat/1.png train cat"],
    ),
    (
        &["train/cat/1.png", "train/dog/2.png"],
        &["train/cat/1.png train cat", "train/dog/2.png train dog"],
    ),
];

const BAD_LAYOUTS: &[(&[&str], &str)] = &[
    (&[], "no labelled file"),
    (&["notes.txt"], "no labelled file"),
    (&["1.png", "2.png"], "\"1.png\" is in no label's folder"),
    (&["x.npy", "y.npy"], "tools/data/npz_to_zip.py"),
    (&["cat/1.png", "stray.JPG"], "\"stray.JPG\" is in no label's folder"),
    (&["train/cat/1.png", "more/cat/1.png"], "\"more/cat/1.png\" is not in SPLIT/LABEL/"),
    (&["train/cat/1.png", "test/1.png"], "\"test/1.png\" is not in SPLIT/LABEL/"),
];

#[test]
fn folders_give_labels_and_splits() {
    for (names, want) in LAYOUTS {
        let dir = tempfile::tempdir().unwrap();
        let root = folder(dir.path(), names);
        let data = Dataset::open(&root).unwrap();
        assert_eq!(shown(&data), *want);
        assert!(matches!(&data.source, Source::Folder(f) if *f == root));
        for (i, row) in data.rows.iter().enumerate() {
            assert_eq!(data.bytes(i).unwrap(), row.text.as_bytes());
            assert_eq!(data.file(i), root.join(&row.text));
            assert_eq!(row.line, 0);
        }
    }
    for (names, message) in BAD_LAYOUTS {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("set")).unwrap();
        let error = Dataset::open(folder(dir.path(), names)).unwrap_err();
        check(&error, "data.layout", message);
        check(&error, "data.layout", "LABEL/FILE");
    }
    let dir = tempfile::tempdir().unwrap();
    let deep = format!("cat/{}1.png", "x/".repeat(9));
    let error = Dataset::open(folder(dir.path(), &[&deep])).unwrap_err();
    check(&error, "data.layout", "nested too deep");
}

#[test]
fn a_list_names_the_files_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = folder(dir.path(), &["a b/1.png", "2.png", "unlisted.png"]);
    let list = |text: &str| fs::write(root.join("labels.csv"), text).unwrap();
    list("path,split,label\n2.png,train,dog\n\"a b/1.png\",test,cat\n2.png,test,dog\n");
    // The folder and the list itself are the same set, in the order of the list.
    for path in [root.clone(), root.join("labels.csv")] {
        let data = Dataset::open(path).unwrap();
        assert_eq!(shown(&data), ["2.png train dog", "a b/1.png test cat", "2.png test dog"]);
        assert_eq!(data.rows[1].line, 3);
        assert_eq!(data.bytes(1).unwrap(), b"a b/1.png");
        assert_eq!(data.file(0), root.join("2.png"));
        assert_eq!(data.path, root.join("labels.csv"));
        check(&data.bytes(3).unwrap_err(), "data.bad-row", "row 3 does not exist");
        fs::remove_file(root.join("2.png")).unwrap();
        check(&data.bytes(0).unwrap_err(), "data.read", "2.png");
        fs::write(root.join("2.png"), "2.png").unwrap();
    }
    for (text, code, message) in [
        (
            "path,label\n2.png,a\nno.png,b\n",
            "data.missing-file",
            "line 3: there is no file \"no.png\"",
        ),
        ("path,label\na b,x\n", "data.missing-file", "\"a b\""),
        ("path,label\n../2.png,x\n", "data.file-name", "\"../2.png\""),
        ("path,label\n/etc/passwd,x\n", "data.file-name", "\"/etc/passwd\""),
        ("path,label\n./2.png,x\n", "data.file-name", "\"./2.png\""),
        ("path,label\na b\\1.png,x\n", "data.file-name", "with `/` between folders"),
        ("path,label\nC:2.png,x\n", "data.file-name", "C:2.png"),
        ("path,label\n ,x\n", "data.empty-field", "empty path"),
        ("path,name\n2.png,x\n", "data.missing-column", "\"label\""),
        ("path,path,label\n2.png,2.png,x\n", "data.duplicate-column", "\"path\""),
    ] {
        list(text);
        check(&Dataset::open(&root).unwrap_err(), code, message);
    }
    // A column `text` makes it a set of texts.
    list("path,text,label\nno.png,hello,x\n");
    let data = Dataset::open(&root).unwrap();
    assert!(matches!(data.source, Source::Inline));
    assert_eq!(data.bytes(0).unwrap(), b"hello");
    assert_eq!(data.file(0), root.join("labels.csv"));
}

#[test]
fn huge_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = folder(dir.path(), &["a/1.png", "b/2.png"]);
    // Sparse: nothing is written.
    let file = fs::File::create(root.join("a/1.png")).unwrap();
    file.set_len((64 << 20) + 1).unwrap();
    let data = Dataset::open(&root).unwrap();
    check(&data.bytes(0).unwrap_err(), "data.too-large", "a/1.png");
    assert!(data.bytes(1).is_ok());
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_end() {
    let dir = tempfile::tempdir().unwrap();
    let root = folder(dir.path(), &["a/1.png", "b/2.png"]);
    std::os::unix::fs::symlink(root.join("a/1.png"), root.join("b/1.png")).unwrap();
    assert_eq!(Dataset::open(&root).unwrap().rows.len(), 3);
    std::os::unix::fs::symlink(&root, root.join("a/loop")).unwrap();
    check(&Dataset::open(&root).unwrap_err(), "data.layout", "nested too deep");
}

#[cfg(feature = "image")]
mod zips {
    use std::io::{Cursor, Write};

    use edge_tune::data::{ImageSpec, MediaSpec};
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;
    use crate::support::shared;

    fn bytes(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        let mut zip = ZipWriter::new(&mut out);
        let options = SimpleFileOptions::default().compression_method(method);
        for (name, data) in entries {
            zip.start_file(*name, options).unwrap();
            zip.write_all(data).unwrap();
        }
        zip.finish().unwrap();
        out.into_inner()
    }

    fn open(bytes: &[u8]) -> Result<Dataset, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.zip");
        fs::write(&path, bytes).unwrap();
        // The open file outlives its name.
        Dataset::open(path)
    }

    fn of_names(names: &[&str]) -> Vec<u8> {
        let entries: Vec<_> = names.iter().map(|n| (*n, n.as_bytes())).collect();
        bytes(&entries, CompressionMethod::Deflated)
    }

    #[test]
    fn zips_give_labels_and_splits() {
        for (names, want) in LAYOUTS {
            for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
                let entries: Vec<_> = names.iter().map(|n| (*n, n.as_bytes())).collect();
                let data = open(&bytes(&entries, method)).unwrap();
                assert_eq!(shown(&data), *want);
                for (i, row) in data.rows.iter().enumerate() {
                    assert_eq!(data.clone().bytes(i).unwrap(), row.text.as_bytes());
                    assert!(data.file(i).ends_with(Path::new("set.zip").join(&row.text)));
                }
            }
        }
        for (names, message) in BAD_LAYOUTS {
            check(&open(&of_names(names)).unwrap_err(), "data.layout", message);
        }
        let junk = of_names(&["a/1.png", "b/2.png", "__MACOSX/a/._1.png", "a/.DS_Store"]);
        assert_eq!(open(&junk).unwrap().rows.len(), 2);
    }

    #[test]
    fn a_list_in_a_zip_gives_the_order() {
        for top in ["", "pets/"] {
            let list = b"path,label,split\nb/2.png,dog,test\na/1.png,cat,train\n";
            let names = ["labels.csv", "a/1.png", "b/2.png", "3.png"].map(|n| format!("{top}{n}"));
            let data = [list.as_slice(), b"one", b"two", b"three"];
            let entries: Vec<_> = names.iter().map(String::as_str).zip(data).collect();
            let data = open(&bytes(&entries, CompressionMethod::Deflated)).unwrap();
            let want = [format!("{top}b/2.png test dog"), format!("{top}a/1.png train cat")];
            assert_eq!(shown(&data), want);
            assert_eq!(data.rows[1].line, 3);
            assert_eq!(data.bytes(0).unwrap(), b"two");
        }
        for (list, code, message) in [
            ("path,label\nno.png,x\n", "data.missing-file", "labels.csv line 2: there is no file"),
            ("path,label\n../a/1.png,x\n", "data.file-name", "labels.csv"),
            ("file,label\na/1.png,x\n", "data.missing-column", "set.zip/labels.csv"),
            ("path,label\n", "data.empty", "labels.csv"),
        ] {
            let entries = [("labels.csv", list.as_bytes()), ("a/1.png", b"one".as_slice())];
            let error = open(&bytes(&entries, CompressionMethod::Stored)).unwrap_err();
            check(&error, code, message);
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in
            ["../a/1.png", "a/../../1.png", "/a/1.png", "a\\1.png", "C:/a/1.png", "a//1.png"]
        {
            let zip = of_names(&["b/2.png", name]);
            // The writer may clean a name up; then there is nothing to refuse.
            if zip.windows(name.len()).any(|w| w == name.as_bytes()) {
                check(&open(&zip).unwrap_err(), "data.file-name", &format!("{name:?}"));
            }
        }
        // As an attacker writes it: the bytes are exchanged afterwards.
        let mut zip = bytes(&[("aa/1.png", b"x")], CompressionMethod::Stored);
        let places: Vec<usize> = (0..zip.len() - 3).filter(|&i| &zip[i..i + 3] == b"aa/").collect();
        assert_eq!(places.len(), 2);
        for i in places {
            zip[i..i + 2].copy_from_slice(b"..");
        }
        check(&open(&zip).unwrap_err(), "data.file-name", "\"../1.png\"");
    }

    #[test]
    fn damaged_and_unusual_zips_are_refused() {
        let good = bytes(
            &[("a/1.png", b"some bytes to check"), ("b/2.png", b"y")],
            CompressionMethod::Stored,
        );
        check(&open(&good[..good.len() - 30]).unwrap_err(), "data.zip", "damaged");
        check(&open(b"PK\x03\x04 and nothing else").unwrap_err(), "data.zip", "damaged");
        check(&open(b"PK\x05\x06").unwrap_err(), "data.zip", "damaged");
        let mut flipped = good.clone();
        let at = flipped.windows(4).position(|w| w == b"some").unwrap();
        flipped[at] ^= 1;
        check(&open(&flipped).unwrap().bytes(0).unwrap_err(), "data.zip", "a/1.png");

        // Central records: marked as encrypted, compressed with bzip2, of a huge size.
        let record = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        let with = |at: usize, value: &[u8]| {
            let mut zip = good.clone();
            zip[record + at..record + at + value.len()].copy_from_slice(value);
            open(&zip).unwrap_err()
        };
        check(&with(8, &[1]), "data.zip", "encrypted");
        check(&with(10, &[12]), "data.zip", "neither stored nor deflated");
        check(&with(24, &(64u32 << 20 | 1).to_le_bytes()), "data.too-large", "a/1.png");

        // More comes out than was promised.
        let zeros = vec![0; (64 << 20) + 1];
        let mut bomb =
            bytes(&[("a/1.png", &zeros), ("b/2.png", b"y")], CompressionMethod::Deflated);
        assert!(bomb.len() < 1 << 20);
        let record = bomb.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        bomb[record + 24..record + 28].copy_from_slice(&9u32.to_le_bytes());
        let error = open(&bomb).unwrap().bytes(0).unwrap_err();
        assert!(matches!(error.code(), "data.too-large" | "data.zip"), "{error}");
    }

    #[test]
    fn damaged_zips_never_panic() {
        let list = b"path,label\na/1.png,x\nb/2.png,y\n";
        let good = bytes(
            &[("labels.csv", list), ("a/1.png", b"some bytes"), ("b/2.png", b"yyyyyyyyyyyyy")],
            CompressionMethod::Deflated,
        );
        let mut state = 7u64;
        let mut below = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize % n
        };
        for _ in 0..400 {
            let mut zip = good.clone();
            for _ in 0..=below(3) {
                let at = below(zip.len());
                zip[at] = below(256) as u8;
            }
            if let Ok(data) = open(&zip) {
                for row in 0..data.rows.len() {
                    let _ = data.bytes(row);
                }
            }
        }
    }

    #[test]
    fn a_file_of_the_set_becomes_an_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.zip");
        let dot = fs::read(crate::support::fixture("images/dot.png")).unwrap();
        let entries = [("a/1.png", dot.as_slice()), ("b/2.png", b"GIF89a")];
        fs::write(&path, bytes(&entries, CompressionMethod::Stored)).unwrap();
        let data = Dataset::open(&path).unwrap();
        let spec = MediaSpec::Image(ImageSpec::square(4, [0.5; 3], [0.5; 3]));
        let input = spec.tensor(&data.bytes(0).unwrap(), &data.file(0)).unwrap();
        assert_eq!(input.shape(), spec.shape());
        let error = spec.tensor(&data.bytes(1).unwrap(), &data.file(1)).unwrap_err();
        check(&error, "data.picture-format", "set.zip/b/2.png is a file of the format GIF");
    }

    #[test]
    fn the_shared_sets_are_read_in_the_order_of_their_lists() {
        let Some(folder) = shared("data/image") else { return };
        for (name, classes) in
            [("cifar10_subset", 10), ("tiny_imagenet40", 40), ("cifar_vs_tin_shift", 6)]
        {
            let data = Dataset::open(folder.join(name).with_extension("zip")).unwrap();
            assert_eq!(data.labels.len(), classes);
            let side = folder.join(name).with_extension("json");
            let json: serde_json::Value =
                serde_json::from_slice(&fs::read(&side).unwrap()).unwrap();
            for (split, count) in json["counts"].as_object().unwrap() {
                let rows = data.split(split).unwrap();
                assert_eq!(rows.len() as u64, count.as_u64().unwrap(), "{name} {split}");
            }
            let few = data.rows_from_json(&side, "k16_s0").unwrap();
            let train = data.split("train").unwrap();
            assert!(few.iter().all(|r| train.binary_search(r).is_ok()));
            let found = data.classes(&few);
            assert!((0..classes).all(|c| found.iter().filter(|&&x| x == c).count() == 16));
            let spec = MediaSpec::Image(ImageSpec::square(64, [0.5; 3], [0.5; 3]));
            for &row in few.iter().step_by(11) {
                let input = spec.tensor(&data.bytes(row).unwrap(), &data.file(row)).unwrap();
                assert_eq!(input.shape(), [3, 64, 64]);
            }
        }
    }
}
