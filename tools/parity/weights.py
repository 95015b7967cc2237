"""What the stored form of the weights costs in accuracy: f32, int8 and int4, on the same rows.

    cargo build --release
    python tools/export_backbone.py minilm minilm/
    python -m tools.parity.weights --export minilm/model.onnx

Prepares the export in each form, calibrates on the rows of `tools.parity.run`, and writes the table
between the markers `weights` of docs/accuracy.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.parity import reference, run

FORMS = ["f32", "int8", "int4"]
METHODS = ["linear", "lora"]


def prepared(args, form, folder):
    """The backbone with weights of that form, and what `prepare` measured."""
    out = Path(folder) / form
    command = [args.edge_tune, "prepare", args.export, "--weights", form, "--out", out,
               "--tokenizer", args.tokenizer, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    cosine = json.loads((out / "backbone.json").read_text())["report"]["cosine"]
    return out, (out / "weights.bin").stat().st_size, cosine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, default=Path("models/minilm-l6/tokenizer.json"))
    parser.add_argument("--data", nargs="+", choices=reference.DATA, default=reference.DATA)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data/text"))
    parser.add_argument("--edge-tune", type=Path, default=Path("target/release/edge-tune"))
    args = parser.parse_args()
    cases = [(data, method) for data in args.data for method in METHODS]
    head = " | ".join(f"{data}, {run.NAMES[method]}" for data, method in cases)
    lines = [f"| weights | MB | cosine to the export | {head} |", "|---" * (3 + len(cases)) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            args.backbone, size, cosine = prepared(args, form, folder)
            cells = []
            for data, method in cases:
                records = [run.edge_tune(args, data, method, seed) for seed in args.seeds]
                cells.append(f"{100 * statistics.mean(r['accuracy'] for r in records):.1f}")
                print(form, data, method, cells[-1], file=sys.stderr, flush=True)
            lines.append(f"| {form} | {size / 1e6:.1f} | {cosine:.4f} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    print(text)
    run.write_page(text, "weights")


if __name__ == "__main__":
    main()
