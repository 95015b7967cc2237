//! The files of a publisher and what a device remembers: every rule, broken.

use std::fs;
use std::time::Duration;

use edge_tune::delta::digest;
use edge_tune::fetch::{Index, Key, Root, Signatures, patch, publish, verify};
use serde_json::{Value, json};

use super::{World, delta, index, key, offer, root, sign};

#[test]
fn fetch_roots_that_break_a_rule() {
    let (a, b) = (key(), key());
    let good: Value = serde_json::from_slice(&root(1, 1, &[&a, &b])).unwrap();
    assert_eq!(Root::parse(good.to_string().as_bytes(), "r").unwrap().keys.len(), 2);
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        Root::parse(value.to_string().as_bytes(), "r").unwrap_err().code()
    };
    assert_eq!(broken(&|v| v["format"] = json!("edge-tune.index/1")), "fetch.root");
    assert_eq!(broken(&|v| v["version"] = json!(0)), "fetch.root");
    assert_eq!(broken(&|v| v["version"] = json!(1u64 << 53)), "fetch.root");
    assert_eq!(broken(&|v| v["expires"] = json!("2030-02-30T00:00:00Z")), "fetch.root");
    assert_eq!(broken(&|v| v["threshold"] = json!(0)), "fetch.root");
    assert_eq!(broken(&|v| v["threshold"] = json!(3)), "fetch.root");
    assert_eq!(broken(&|v| v["threshold"] = json!(-1)), "fetch.root");
    assert_eq!(broken(&|v| v["keys"] = json!([])), "fetch.root");
    assert_eq!(broken(&|v| v["keys"] = json!(vec![a.pk.to_base64(); 2])), "fetch.root");
    assert_eq!(broken(&|v| v["keys"] = json!(["RWQ"])), "fetch.key");
    assert_eq!(broken(&|v| v["more"] = json!(1)), "fetch.root");
    // One key under two ids would count twice.
    let mut twin = a.pk.to_bytes();
    twin[2] ^= 1;
    let twin = minisign::PublicKey::from_bytes(&twin).unwrap().to_base64();
    assert_eq!(broken(&|v| v["keys"] = json!([a.pk.to_base64(), twin])), "fetch.root");
    for bytes in [&b"{"[..], b"[]", b"\xff", &[b' '; 65 * 1024], &[b'['; 4000]] {
        assert_eq!(Root::parse(bytes, "r").unwrap_err().code(), "fetch.root");
    }
}

#[test]
fn fetch_indexes_that_break_a_rule() {
    let file = delta("weather", 1.0, 400);
    let good = index(1, &[offer("weather", &file)]);
    Index::parse(good.to_string().as_bytes(), "i").unwrap();
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        let error = Index::parse(value.to_string().as_bytes(), "i").unwrap_err();
        assert_eq!(error.code(), "fetch.index", "{value}");
    };
    broken(&|v| v["format"] = json!("edge-tune.root/1"));
    broken(&|v| v["version"] = json!(0));
    broken(&|v| v["expires"] = v["created"].clone());
    broken(&|v| v["created"] = json!("yesterday"));
    broken(&|v| v["deltas"] = json!([offer("weather", &file), offer("weather", &file)]));
    broken(&|v| v["more"] = json!(null));
    for (key, value) in [
        ("task", json!("../x")),
        ("task", json!("")),
        ("digest", json!("AB".repeat(32))),
        ("backbone", json!("")),
        ("bytes", json!(0)),
        ("bytes", json!(1u64 << 40)),
        ("method", json!("\u{1b}[2J")),
        ("path", json!("../weather")),
        ("path", json!("/weather")),
        ("path", json!("https://a/b")),
        ("patches", json!([{}])),
        ("patches", json!([{ "from": "x", "path": "p", "bytes": 1, "digest": digest(b"") }])),
        (
            "patches",
            json!([{ "from": digest(b""), "path": "p", "bytes": 1u64 << 20,
            "digest": digest(b"") }]),
        ),
        ("run", json!("rm")),
    ] {
        broken(&|v| v["deltas"][0][key] = value.clone());
    }
    let twice = good.to_string().replacen("\"version\":1", "\"version\":1,\"version\":2", 1);
    assert!(Index::parse(twice.as_bytes(), "i").is_err());
    let deep = vec![b'['; 500_000];
    assert_eq!(Index::parse(&deep, "i").unwrap_err().code(), "fetch.index");
    assert_eq!(Index::parse(&vec![b' '; 2 << 20], "i").unwrap_err().code(), "fetch.index");
}

#[test]
fn fetch_keys_and_signatures() {
    let (a, b) = (key(), key());
    let text = a.pk.to_base64();
    let parsed = Key::parse(&text, "k").unwrap();
    let file = a.pk.to_box().unwrap().into_string();
    assert_eq!(Key::parse(&file, "k").unwrap().text(), text);
    assert!(file.contains(&parsed.id()), "{file} {}", parsed.id());
    for bad in ["", "untrusted comment: x", "RWQ=", &format!("{text}\n{text}"), &"A".repeat(56)] {
        assert_eq!(Key::parse(bad, "k").unwrap_err().code(), "fetch.key", "{bad}");
    }
    let signature = sign(&[&a], b"bytes");
    verify(&parsed, b"bytes", &signature, "f").unwrap();
    let other = Key::parse(&b.pk.to_base64(), "k").unwrap();
    assert_eq!(verify(&parsed, b"Bytes", &signature, "f").unwrap_err().code(), "fetch.signatures");
    assert_eq!(verify(&other, b"bytes", &signature, "f").unwrap_err().code(), "fetch.signatures");
    for bad in [&b""[..], b"a\nb\nc\nd", b"\xff", &signature[..40], &[b'\n'; 20_000]] {
        let error = Signatures::parse(bad, "s").err().unwrap();
        assert_eq!(error.code(), "fetch.signature-format");
    }
    assert!(Signatures::parse(&signature.repeat(17), "s").is_err());
    // Every bit of the two lines of base64 counts.
    let lines: Vec<&str> = std::str::from_utf8(&signature).unwrap().lines().collect();
    for (line, at) in [(1, 20), (1, 60), (3, 20), (2, 20)] {
        let mut lines: Vec<Vec<u8>> = lines.iter().map(|l| l.as_bytes().to_vec()).collect();
        lines[line][at] = if lines[line][at] == b'x' { b'y' } else { b'x' };
        assert!(verify(&parsed, b"bytes", &lines.join(&b'\n'), "f").is_err(), "{line} {at}");
    }
}

/// Made by minisign 0.11: `minisign -G -W` and `minisign -Sm f.json`.
#[test]
fn fetch_takes_what_minisign_itself_writes() {
    let public = "untrusted comment: minisign public key DC0563D60F7D2757\n\
                  RWRXJ30P1mMF3MAIkk/OsYMA6XOVcUVBtVJsbh4NyeJL2HNSl4Dhl405\n";
    let signature = "untrusted comment: signature from minisign secret key\n\
        RURXJ30P1mMF3Kf5v+A9BmCGASyCFGqhrMMt9U+zJhzeGU6+xe8EFC5toQkvOPXwC8D0EoQ8RmAS0TT65SSw3TZNyyw3E19kWQY=\n\
        trusted comment: timestamp:1795782693\tfile:f.json\thashed\n\
        s2GlJxa48ecxJwGYtaj+nc0xgWUa9SHSqcfhLDc0GP7YNEV5el0ewT2LNAHNVgS8jxW2QjSMZ1YDuo3ufvNkCA==\n";
    let key = Key::parse(public, "publisher.pub").unwrap();
    assert_eq!(key.id(), "DC0563D60F7D2757");
    verify(&key, b"{}\n", signature.as_bytes(), "f.json").unwrap();
    assert!(verify(&key, b"{ }\n", signature.as_bytes(), "f.json").is_err());
}

#[test]
fn fetch_trust_on_the_device() {
    let file = delta("weather", 1.0, 400);
    let world = World::with("weather", &file);
    world.pull(&["weather"]).unwrap();
    // Another publisher's root does not slip in.
    fs::write(world.path("root.json"), root(7, 1, &[&key()])).unwrap();
    world.refused("fetch.trust-differs", "weather");
    fs::write(world.path("root.json"), "{").unwrap();
    let state = world.path("store/trust/state.json");
    let good = fs::read(&state).unwrap();
    let mut options = world.options();
    options.trust = None;
    for bad in [&b""[..], b"{}", &good[..good.len() / 2]] {
        fs::write(&state, bad).unwrap();
        let error = world.pull_with(options.clone(), &[]).unwrap_err();
        assert_eq!(error.code(), "fetch.trust-damaged", "{error}");
    }
    let mut value: Value = serde_json::from_slice(&good).unwrap();
    value["clock"] = json!("x");
    fs::write(&state, value.to_string()).unwrap();
    let error = world.pull_with(options.clone(), &[]).unwrap_err();
    assert_eq!(error.code(), "fetch.trust-damaged");
    fs::write(&state, good).unwrap();
    // A damaged copy of the index is fetched again.
    fs::write(world.path("store/trust/index.json"), "x").unwrap();
    world.pull_with(options.clone(), &[]).unwrap();
    fs::remove_file(&state).unwrap();
    assert_eq!(world.pull(&[]).unwrap_err().code(), "fetch.root");
    options.trust = Some(world.path("none"));
    assert_eq!(world.pull_with(options, &[]).unwrap_err().code(), "fetch.io");
}

#[test]
fn fetch_patches_of_any_files() {
    let one = delta("weather", 1.0, 4000);
    let moved: Vec<u8> = {
        // Every value a little: what training further does.
        let mut bytes = one.clone();
        let start = bytes.len() - 8000;
        for (i, word) in bytes[start..].chunks_exact_mut(2).enumerate() {
            let value = u16::from_le_bytes([word[0], word[1]]) + (i * 7 % 5) as u16;
            word.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    };
    let pairs: [(&[u8], &[u8]); 6] = [
        (&one, &moved),
        (&one, &delta("weather", 2.0, 4000)),
        (&one, &delta("weather", 2.0, 600)),
        (b"", b""),
        (b"abc", b""),
        (b"", b"hello, hello, hello"),
    ];
    for (old, new) in pairs {
        let made = patch::make(old, new, "p").unwrap();
        assert_eq!(patch::apply(old, &made, "p").unwrap(), new);
    }
    let made = patch::make(&one, &moved, "p").unwrap();
    assert!(made.len() * 3 < moved.len(), "{} of {}", made.len(), moved.len());
    let header = patch::Header::parse(&made, "p").unwrap();
    assert_eq!((header.from, header.to), (digest(&one), digest(&moved)));
    // Wherever one is damaged or cut off, nothing else comes out.
    for at in 0..made.len().min(400) {
        let mut bad = made.clone();
        bad[at] ^= 1;
        if let Ok(bytes) = patch::apply(&one, &bad, "p") {
            assert_eq!(bytes, moved);
        }
        assert_eq!(patch::apply(&one, &made[..at], "p").unwrap_err().code(), "fetch.patch");
    }
    assert_eq!(patch::apply(&moved, &made, "p").unwrap_err().code(), "fetch.patch");
    assert!(patch::make(&vec![0; 17 << 20], b"", "p").is_err());
}

#[test]
fn fetch_index_of_a_directory() {
    let world = World::new();
    let site = world.path("site");
    fs::create_dir_all(site.join("deltas")).unwrap();
    let (one, two) = (delta("weather", 1.0, 4000), delta("weather", 2.0, 4000));
    fs::write(site.join("deltas/weather.safetensors"), &two).unwrap();
    let made = patch::make(&one, &one[..one.len()], "p").unwrap();
    fs::write(site.join("unused.patch"), made).unwrap();
    let mut near = two.clone();
    let end = near.len();
    near[end - 2] ^= 1;
    fs::write(site.join("weather.patch"), patch::make(&near, &two, "p").unwrap()).unwrap();
    let now = world.options().now.unwrap();
    let valid = Duration::from_secs(86_400);
    let published = publish::index(&site, now, valid).unwrap();
    assert_eq!(published.unused, [site.join("unused.patch")]);
    let index = published.index;
    assert_eq!((index.version, index.expires.as_str()), (1, "2027-01-16T08:00:00Z"));
    assert_eq!(index.deltas[0].path, "deltas/weather.safetensors");
    assert_eq!(index.deltas[0].patches[0].from, digest(&near));
    publish::write(&site.join("index.json"), &index.to_bytes("i").unwrap()).unwrap();
    assert_eq!(publish::index(&site, now, valid).unwrap().index.version, 2);
    // What cannot be published.
    let refused = |name: &str, bytes: &[u8], code: &str| {
        fs::write(site.join(name), bytes).unwrap();
        assert_eq!(publish::index(&site, now, valid).unwrap_err().code(), code, "{name}");
        fs::remove_file(site.join(name)).unwrap();
    };
    refused("again.safetensors", &one, "fetch.publish");
    refused("no name.safetensors", &delta("other", 1.0, 4), "fetch.publish");
    refused("nameless.safetensors", &delta("", 1.0, 4), "fetch.publish");
    refused("bad.safetensors", b"x", "delta.truncated");
    refused("bad.patch", b"x", "fetch.patch");
    assert_eq!(publish::index(&site.join("none"), now, valid).unwrap_err().code(), "fetch.io");
    assert!(publish::write(&site.join("no/file"), b"").is_err());
}
