"""How the cost of a prediction and of a training step grows, on the bundled MiniLM.

    cargo build --release
    cargo bench --bench forward --no-run
    python -m tools.bench.growth

A prediction grows with the length of the text; a step of prompt tuning with the rows of the prompt, the
batch and the length. On `tract` and two threads, in f32 and in int8. The table goes into
docs/performance.md between its markers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.bench import beside

LENGTHS = [16, 32, 64, 128, 256, 512]
# Rows of the prompt, batch, tokens: one of them varies, the others stay.
USUAL = {"prompt rows": 20, "batch": 8, "tokens": 64}
VARIED = {"prompt rows": [1, 5, 20, 50, 100], "batch": [1, 2, 4, 8, 16, 32],
          "tokens": [16, 32, 64, 128, 256]}
COMPUTE = ("f32", "int8")
STEPS = 4


def passes():
    """Milliseconds of a prediction by (compute, tokens)."""
    program = beside.program()
    environment = dict(os.environ, EDGE_TUNE_BACKBONE=str(beside.ROOT / "models/minilm-l6"))
    environment.pop("ORT_DYLIB_PATH", None)
    out = subprocess.run([program, "--bench", *map(str, LENGTHS)], env=environment, check=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    lines = [json.loads(line) for line in out.splitlines()]
    return {(r["compute"], r["tokens"]): r["ms"] for r in lines
            if r["threads"] == 2 and r["engine"] == "tract"}


def step(edge_tune, compute, case, folder):
    """Milliseconds of a step, and the peak of anonymous memory in bytes."""
    data = beside.texts(folder, case["batch"], case["tokens"])
    command = [edge_tune, "calibrate", "--compute", compute, "--threads", 2, "--json",
               "--backbone", beside.ROOT / "models/minilm-l6", "--data", data, "--validation", 0,
               "--method", "prompt-tuning", "--set", f"rows={case['prompt rows']}",
               "--batch", case["batch"], "--micro-batch", case["batch"], "--max-ram", "4G",
               "--out", folder / "d.safetensors"]
    short, _ = beside.watched([*command, "--epochs", STEPS], None)
    long, peak = beside.watched([*command, "--epochs", 4 * STEPS], None)
    # There are two texts at least, one for each class.
    steps = 3 * STEPS * max(case["batch"], 2) // case["batch"]
    return 1e3 * (long["seconds"] - short["seconds"]) / steps, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge-tune", type=Path, default=beside.ROOT / "target/release/edge-tune")
    args = parser.parse_args()
    lines = ["| prediction, tokens | " + " | ".join(map(str, LENGTHS)) + " |",
             "|---" * (1 + len(LENGTHS)) + "|"]
    found = passes()
    for compute in COMPUTE:
        cells = [f"{found[compute, tokens]:.1f}" for tokens in LENGTHS]
        lines.append(f"| ms, {compute} | " + " | ".join(cells) + " |")
    with tempfile.TemporaryDirectory() as folder:
        for what, values in VARIED.items():
            lines += ["", f"| step, {what} | " + " | ".join(map(str, values)) + " |",
                      "|---" * (1 + len(values)) + "|"]
            for compute in COMPUTE:
                runs = [step(args.edge_tune, compute, {**USUAL, what: v}, Path(folder))
                        for v in values]
                lines.append(f"| ms, {compute} | " + " | ".join(f"{ms:.0f}" for ms, _ in runs) + " |")
                print(lines[-1], file=sys.stderr, flush=True)
            lines.append("| peak MB | " + " | ".join(f"{p / 1e6:.0f}" for _, p in runs) + " |")
    text = "\n".join(lines)
    print(text)
    beside.write("growth", text)


if __name__ == "__main__":
    main()
