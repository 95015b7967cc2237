"""Size of the library and of the command line, stripped, for each set of features.

    python -m tools.bench.size

The library is measured as the smallest program that loads a backbone, applies a delta and predicts,
built in a crate of its own. Builds every case in the profile `release`, and the smallest and the default
in `mobile`, which takes half an hour or more, and writes the table between the markers `size` of
docs/performance.md.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.bench import beside

APP = """use std::sync::Arc;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let engine = Arc::new(ENGINE);
    let model = edge_tune::runtime::Model::open(arguments[1].as_ref(), engine)?;
    model.apply(arguments[2].as_ref())?;
    println!("{}", model.predict(&arguments[3])?.label);
    Ok(())
}
"""
TRACT = "edge_tune::engine::tract::TractEngine::new()"
ORT = "edge_tune::engine::ort::OrtEngine::load(None, 1)?"
# What is built, with which features, and the engine of the program.
CASES = [
    ("library", [], TRACT), ("library", ["image"], TRACT), ("library", ["pull"], TRACT),
    ("library", ["ort"], ORT), ("command line", ["cli"], None), ("command line", ["cli", "image"], None),
    ("command line", ["cli", "image", "pull"], None),
    ("command line", ["cli", "image", "pull", "ort"], None),
    ("command line", ["cli", "image", "pull", "ort", "oci"], None),
]
# Those that are built in the profile `mobile` too.
SMALL = [CASES[0], CASES[6]]


def app(folder, engine):
    """A crate that links the library."""
    (folder / "src").mkdir()
    (folder / "src/main.rs").write_text(APP.replace("ENGINE", engine))
    profile = beside.ROOT.joinpath("Cargo.toml").read_text().partition("[profile.mobile]")[2]
    profile = profile.partition("\n[")[0]
    (folder / "Cargo.toml").write_text(
        '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2024"\n\n[dependencies]\n'
        f'edge-tune = {{ path = "{beside.ROOT}", default-features = false }}\n\n'
        f"[profile.mobile]{profile}\n")
    # The versions that the repository is tested with.
    (folder / "Cargo.lock").write_text((beside.ROOT / "Cargo.lock").read_text())


def size(target, profile, features, engine):
    """Bytes of the stripped program."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        command = ["cargo", "build", "--profile", profile, "--target-dir", target]
        if engine:
            app(folder, engine)
            wanted = [f"edge-tune/{f}" for f in features]
            name, where = "app", folder
        else:
            command += ["--no-default-features", "--bin", "edge-tune"]
            wanted, name, where = features, "edge-tune", beside.ROOT
        if wanted:
            command += ["--features", ",".join(wanted)]
        subprocess.run(command, check=True, cwd=where)
        stripped = folder / "stripped"
        subprocess.run(["strip", "-o", stripped, target / profile / name], check=True)
        return stripped.stat().st_size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=Path, default=beside.ROOT / "target/size")
    parser.add_argument("--release-only", action="store_true", help="leave `mobile` out")
    args = parser.parse_args()
    lines = ["| | features | `release`, MB | `mobile`, MB |", "|---|---|---|---|"]
    for case in CASES:
        what, features, engine = case
        small = case in SMALL and not args.release_only
        profiles = ["release", "mobile"] if small else ["release"]
        sizes = [size(args.target.absolute(), p, features, engine) / 1e6 for p in profiles]
        shown = [f"{s:.1f}" for s in sizes] + ["not built"] * (2 - len(sizes))
        named = ", ".join(f"`{f}`" for f in features) or "none"
        lines.append(f"| {what} | {named} | " + " | ".join(shown) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines)
    print(text)
    beside.write("size", text)


if __name__ == "__main__":
    main()
