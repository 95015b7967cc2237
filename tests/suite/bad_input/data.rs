use super::cli::{Bench, DATA};

/// Data files, as `calibrate` takes them: the file and the place in it are named.
#[test]
fn data_that_cannot_be_learned_from() {
    let bench = Bench::new();
    #[rustfmt::skip]
    let files: &[(&str, &[u8], &str, &[&str])] = &[
        ("no text column", b"sentence,label\nx,a\n", "data.missing-column", &["\"text\"", "\"sentence\""]),
        ("no label column", b"text,class\nx,a\n", "data.missing-column", &["\"label\""]),
        ("a column twice", b"text,label,label\nx,a,b\n", "data.duplicate-column", &["\"label\""]),
        ("empty", b"", "data.empty", &["no data rows"]),
        ("header only", b"text,label\n", "data.empty", &["no data rows"]),
        ("one class", b"text,label\nx,a\ny,a\n", "data.too-few-classes", &["\"a\"", "2 are needed"]),
        ("ragged", b"text,label\nx,a\ny, z,b\n", "data.ragged", &["line 3", "3 fields"]),
        ("open quote", b"text,label\nx,a\n\"y,b\n", "data.open-quote", &["line 3"]),
        ("not UTF-8", b"text,label\nx,a\n\xff,b\n", "data.utf8", &["line 3"]),
        ("UTF-16", b"\xff\xfet\0e\0x\0t\0,\0l\0", "data.utf8", &["line 1"]),
        ("no label", b"text,label\nx,\n", "data.empty-field", &["line 2", "label"]),
        ("no such split", b"text,label,split\nx,a,test\ny,b,test\n", "data.no-such-split", &["\"train\"", "\"test\""]),
        ("a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\n", "data.utf8", &["line 1"]),
    ];
    for (what, bytes, code, parts) in files {
        bench.write("bad.csv", bytes);
        println!("{what}");
        let parts = [parts, &["bad.csv"][..]].concat();
        bench.fails(&bench.calibrate(&["--data", "bad.csv"]), 1, code, &parts);
    }
    bench.fails(&bench.calibrate(&["--data", "none.csv"]), 1, "data.read", &["none.csv"]);
    bench.fails(&bench.calibrate(&["--data", "store/.."]), 1, "data.read", &["store"]);
    bench.fails(&bench.calibrate(&["--data", "backbone"]), 1, "data.layout", &["backbone"]);
    assert!(!bench.path("out.safetensors").exists());
}

#[test]
fn rows_that_cannot_be_chosen() {
    let bench = Bench::new();
    assert!(DATA.lines().count() == 9, "the cases count on 8 rows");
    bench.write("rows.json", r#"{"good": [0, 1, 3, 4], "out": [0, 8], "twice": [0, 3, 0], "text": [0, "1"], "no": 3, "huge": [99999999999999999999]}"#);
    bench.write("list.json", "[0, 1]");
    bench.write("half.json", "{\"good\": [0,");
    #[rustfmt::skip]
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["--shots", "4"], "data.too-few-rows", &["data.csv", "\"off\"", "3 of the 4"]),
        (&["--shots", "18446744073709551615"], "data.too-few-rows", &["\"off\""]),
        (&["--split", "val"], "data.no-such-split", &["data.csv", "\"val\"", "\"train\""]),
        (&["--rows", "rows.json:none"], "data.no-such-row-list", &["rows.json", "\"none\"", "\"good\""]),
        (&["--rows", "rows.json:out"], "data.bad-row", &["row 8", "data.csv"]),
        (&["--rows", "rows.json:twice"], "data.bad-row", &["row 0", "twice"]),
        (&["--rows", "rows.json:text"], "data.row-list", &["rows.json", "\"text\""]),
        (&["--rows", "rows.json:no"], "data.row-list", &["rows.json", "\"no\""]),
        (&["--rows", "rows.json:huge"], "data.row-list", &["rows.json", "\"huge\""]),
        (&["--rows", "list.json:good"], "data.row-list", &["list.json"]),
        (&["--rows", "half.json:good"], "data.row-list", &["half.json"]),
        (&["--rows", "none.json:good"], "data.read", &["none.json"]),
    ];
    for (more, code, parts) in cases {
        let args = [&bench.calibrate(&["--data", "data.csv"])[..], more].concat();
        bench.fails(&args, 1, code, parts);
    }
    assert!(!bench.path("out.safetensors").exists());
}
