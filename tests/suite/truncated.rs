//! Tests: the mapped weights of a running process are cut short. It may die; nothing else may.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use edge_tune::runtime::Model;
use edge_tune::store::{Severity, Store, check};

use crate::bad_input::deltas::good;
use crate::support::{engine, text_backbone};

const CHILD: &str = "EDGE_TUNE_TRUNCATED_CHILD";

/// Loads the backbone, says so, and reads all of its weights when it is told to.
fn child(dir: &Path) {
    let model = Model::open(dir, engine()).unwrap();
    println!("\nloaded");
    std::io::stdout().flush().unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let values = model.backbone().graph().values();
    let bytes = values.filter_map(|(_, v)| v.constant.as_ref()).flat_map(|t| t.bytes().to_vec());
    println!("sum {}", bytes.map(u64::from).sum::<u64>());
}

#[test]
fn cutting_mapped_weights_kills_the_process_and_nothing_else() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return child(Path::new(&dir));
    }
    let (home, backbone) = text_backbone();
    let store_dir = home.path().join("store");
    let store = Store::open(&store_dir).unwrap();
    let model = Model::open(&backbone, engine()).unwrap();
    let delta = good(&model);
    drop(model);
    let entry = store.install(&delta.to_bytes().unwrap(), None, |_| Ok::<_, String>(())).unwrap();
    for cut in [false, true] {
        let copy = home.path().join(format!("copy-{cut}"));
        fs::create_dir(&copy).unwrap();
        for file in fs::read_dir(&backbone).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
        let name = "truncated::cutting_mapped_weights_kills_the_process_and_nothing_else";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(CHILD, &copy)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|l| l.unwrap() == "loaded"));
        if cut {
            let weights =
                fs::OpenOptions::new().write(true).open(copy.join("weights.bin")).unwrap();
            weights.set_len(0).unwrap();
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let read = lines.any(|l| l.is_ok_and(|l| l.starts_with("sum ")));
        let status = child.wait().unwrap();
        match cut {
            false => assert!(read && status.success(), "{status}"),
            true => assert_eq!((read, status.signal()), (false, Some(libc::SIGBUS)), "{status}"),
        }
    }
    // What is cut is refused at the next start; deltas and the other copy are whole.
    let error = Model::open(&home.path().join("copy-true"), engine()).err().unwrap();
    assert_eq!(error.code(), "backbone.length");
    assert_eq!(store.load(&entry).unwrap().digest(), delta.digest());
    assert!(check(&store_dir, &[]).iter().all(|f| f.severity < Severity::Broken));
    let model = Model::open(&home.path().join("copy-false"), engine()).unwrap();
    model.load(&delta).unwrap();
}
