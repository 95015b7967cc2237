"""From process start to the first prediction: time, and peak of anonymous memory.

    cargo build --release --features ort
    python -m tools.bench.start [--backbone vit-b16/prepared]

Trains a linear delta first, on the texts or pictures of beside.py. Each case runs five times, with the
files cached; medians go into docs/performance.md between its markers, those of MiniLM alone.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tools.bench import beside

RUNS = 5


def rows(program, backbone):
    """(engine, compute, milliseconds, bytes) of every case."""
    environment = dict(os.environ, ORT_DYLIB_PATH=beside.library())
    with tempfile.TemporaryDirectory() as folder:
        text = not backbone
        backbone = (backbone or beside.ROOT / "models/minilm-l6").absolute()
        data = (beside.texts if text else beside.pictures)(Path(folder))
        delta = Path(folder) / "d.safetensors"
        subprocess.run([program, "calibrate", "--quiet", "--backbone", backbone, "--method", "linear",
                        "--data", data, "--validation", "0", "--epochs", "2", "--out", delta],
                       check=True, stdout=subprocess.DEVNULL)
        sample = " ".join(itertools.islice(itertools.cycle(beside.WORDS), beside.TOKENS - 2)) \
            if text else next(data.rglob("*.png"))
        for engine, compute in itertools.product(("tract", "ort"), ("f32", "int8")):
            command = [program, "predict", "--json", "--engine", engine, "--compute", compute,
                       "--threads", 2, "--backbone", backbone, "--delta", delta, sample]
            taken, peaks = [], []
            for _ in range(RUNS):
                # Watching takes time of its own, so time and memory are of different runs.
                start = time.perf_counter()
                subprocess.run([str(c) for c in command], env=environment, check=True,
                               stdout=subprocess.DEVNULL)
                taken.append(1e3 * (time.perf_counter() - start))
                peaks.append(beside.watched(command, environment)[1])
            yield engine, compute, statistics.median(taken), statistics.median(peaks)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge-tune", type=Path, default=beside.ROOT / "target/release/edge-tune")
    parser.add_argument("--backbone", type=Path, help="a prepared ViT-B/16; MiniLM if left out")
    args = parser.parse_args()
    lines = ["| engine | computed in | ms | peak MB |", "|---|---|---|---|"]
    for engine, compute, ms, peak in rows(args.edge_tune, args.backbone):
        lines.append(f"| {engine} | {compute} | {ms:.0f} | {peak / 1e6:.1f} |")
    text = "\n".join(lines)
    print(text)
    if not args.backbone:
        beside.write("start", text)


if __name__ == "__main__":
    main()
