"""Few-shot accuracy on pictures and sounds: every method of edge-tune, four of them beside torch.

    cargo build --release
    python -m tools.parity.media --clip CLIP_TINY_DIR --kwt KWT.onnx --kwt-backbone DIR

Four data sets are read from `--data-dir`; those that are arrays become zips in `--work` first. Rows
are those that the data's JSON files list, or drawn once per seed where there are none. Every run is
kept as a JSON line in `--out`; runs that are there already are not repeated. The tables of
docs/accuracy.md are written from all lines. Ends with exit status 1 if a mean over the seeds differs
from torch's by more than 2 points.
"""

import argparse
import csv
import io
import json
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from tools.parity import media_reference, reference, run

TARGET = 2.0
SHOTS = 16
# Name, file under the data folder, how an array becomes a zip.
DATA = {
    "cifar10": ("image/cifar10_subset.zip", []),
    "fsdd": ("audio_fsdd_mfcc.npz", ["--x", "mfcc", "--y", "y", "--split", "split"]),
    "tiny-imagenet-40": ("image/tiny_imagenet40.zip", []),
    "omniglot": ("image/omniglot_small1.npz", [
        "--x", "x", "--y", "char", "--split", "drawer",
        "--splits", "train:1-10", "val:11-14", "test:15-20"]),
}
COMPARED = ["linear", "partial", "bias", "vpt-deep"]
# Epochs of methods that keep what the frozen part gives, their own defaults; `None`: no training.
CACHED = {"linear": 100, "mlp": 100, "partial": 20, "side": 50, "tip-adapter-f": 20,
          "prototypes": None, "tip-adapter": None}
# Epochs of the others, by data set: fewer where there are more rows.
WHOLE = {"cifar10": 10, "fsdd": 10, "tiny-imagenet-40": 4, "omniglot": 3}
OTHERS = ["mlp", "ia3", "lora", "adapter", "prefix-tuning", "vpt-shallow", "l2p", "side",
          "tip-adapter", "tip-adapter-f", "prototypes"]
SETTINGS = {"vpt-deep": [f"rows={media_reference.ROWS}"]}


def epochs(method, data):
    """Passes over the rows, the same on both sides."""
    return CACHED[method] if method in CACHED else WHOLE[data]


def prepared(args, data):
    """The zip of a data set and the JSON file with its rows."""
    name, conversion = DATA[data]
    source = args.data_dir / name
    if not conversion:
        return source, source.with_suffix(".json")
    archive = args.work / f"{data}.zip"
    if not archive.exists():
        tool = Path(__file__).parents[1] / "data/npz_to_zip.py"
        subprocess.run([sys.executable, tool, source, archive, *conversion], check=True)
    listed = args.work / f"{data}.json"
    if not listed.exists():
        listed.write_text(json.dumps(drawn(archive)))
    return archive, listed


def table_of(archive):
    """Split and label of every row."""
    with zipfile.ZipFile(archive) as z:
        return list(csv.DictReader(io.StringIO(z.read("labels.csv").decode())))


def drawn(archive):
    """Rows of every class for seeds 0 to 2 and several numbers of shots, as the data's JSON files have
    them; a class with fewer rows gives all."""
    of = {}
    for i, row in enumerate(table_of(archive)):
        if row["split"] == "train":
            of.setdefault(row["label"], []).append(i)
    found = {}
    for seed in range(3):
        for shots in (1, 4, 16):
            random = np.random.default_rng(seed)
            chosen = [random.permutation(rows)[:shots] for _, rows in sorted(of.items())]
            found[f"k{shots}_s{seed}"] = sorted(int(i) for part in chosen for i in part)
    return {"fewshot_train_rows": found}


def backbone(args, data):
    return args.kwt_backbone if data == "fsdd" else args.vit_tiny


def torch_side(args, data, method, seed):
    archive, listed = prepared(args, data)
    rows = json.loads(listed.read_text())["fewshot_train_rows"][f"k{SHOTS}_s{seed}"]
    test = [i for i, row in enumerate(table_of(archive)) if row["split"] == "test"]
    spec = media_reference.preprocess(backbone(args, data))
    found = media_reference.load(archive, {"train": sorted(rows), "test": test}, spec)
    tower = media_reference.kwt_tower if data == "fsdd" else media_reference.clip_tower
    source = args.kwt if data == "fsdd" else args.clip
    return media_reference.run(lambda: tower(source), found, method, epochs(method, data), seed)


def edge_tune_side(args, data, method, seed, shots):
    archive, listed = prepared(args, data)
    recipe = {"--method": method, "--rows": f"{listed}:k{shots}_s{seed}", "--seed": seed}
    if epochs(method, data) is not None:
        recipe["--epochs"] = epochs(method, data)
    if method in media_reference.RATES:
        recipe["--lr"], recipe["--weight-decay"] = media_reference.RATES[method]
    common = ["--threads", args.threads, "--backbone", backbone(args, data), "--data", archive]
    return run.measured(args.edge_tune, common, recipe, SETTINGS.get(method, []))


def key(record):
    return tuple(record[k] for k in ("side", "data", "method", "seed", "shots"))


def plan(args):
    """All runs, the compared ones first."""
    for data in args.data:
        for method in [m for m in COMPARED if m in args.methods]:
            for seed in args.seeds:
                for side in run.SIDES:
                    yield side, data, method, seed, SHOTS
    for seed in args.seeds:
        for data in args.data:
            for method in [m for m in OTHERS if m in args.methods]:
                for shots in (1, 4, SHOTS) if method == "prototypes" else (SHOTS,):
                    yield "edge-tune", data, method, seed, shots


def mean(records):
    return statistics.mean(100 * r["accuracy"] for r in records)


def tables(records):
    """The comparison with torch, all methods, and class means by shots, as Markdown; and what differs
    by more than the target."""
    def some(*wanted):
        return [r for r in records if all(w is None or w == k for w, k in zip(wanted, key(r)))]

    lines = ["| data | method | steps | torch | edge-tune | difference |", "|---|---|---|---|---|---|"]
    over = []
    for data in DATA:
        for method in COMPARED:
            torch, ours = (some(side, data, method, None, SHOTS) for side in run.SIDES)
            if not torch or sorted(r["seed"] for r in torch) != sorted(r["seed"] for r in ours):
                continue
            assert len({(r["steps"], r["n"]) for r in torch + ours}) == 1, (data, method)
            difference = mean(ours) - mean(torch)
            if abs(difference) > TARGET:
                over.append((data, method, round(difference, 2)))
            lines.append(f"| {data} | {method} | {ours[0]['steps']} | {run.cell(torch)} | "
                         f"{run.cell(ours)} | {difference:+.1f} |")
    lines += ["", "| method | " + " | ".join(DATA) + " | delta KB (CIFAR-10) |",
              "|---" * (len(DATA) + 2) + "|"]
    for method in COMPARED + OTHERS:
        cells = [some("edge-tune", data, method, None, SHOTS) for data in DATA]
        if any(cells):
            size = f"{cells[0][0]['bytes'] / 1000:.1f}" if cells[0] else "-"
            shown = [f"{mean(c):.1f}" + ("" if len(c) == 3 else f" ({len(c)})") if c else "-"
                     for c in cells]
            lines.append(f"| {method} | " + " | ".join(shown) + f" | {size} |")
    lines += ["", "| prototypes | " + " | ".join(DATA) + " |", "|---" * (len(DATA) + 1) + "|"]
    for shots in (1, 4, SHOTS):
        cells = [some("edge-tune", data, "prototypes", None, shots) for data in DATA]
        if all(cells):
            many = "shot" if shots == 1 else "shots"
            lines.append(f"| {shots} {many} | " + " | ".join(map(run.cell, cells)) + " |")
    return "\n".join(lines), over


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", default=COMPARED + OTHERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--clip", type=Path, default=Path("../shared/backbones/clip-tiny"))
    parser.add_argument("--kwt", type=Path,
                        default=Path("../shared/backbones/kwt1_speech_transformer_fp32.onnx"))
    parser.add_argument("--kwt-backbone", type=Path, default=Path("target/parity/kwt"),
                        help="the same, prepared")
    parser.add_argument("--vit-tiny", type=Path, default=Path("models/vit-tiny"))
    parser.add_argument("--edge-tune", type=Path, default=Path("target/release/edge-tune"))
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    parser.add_argument("--work", type=Path, default=Path("target/parity"))
    parser.add_argument("--out", type=Path, default=Path("target/parity/media.json"))
    args = parser.parse_args()
    reference.torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    records = run.read(args.out)
    done = {key(r) for r in records}
    for wanted in plan(args):
        if wanted in done:
            continue
        side, data, method, seed, shots = wanted
        if side == "torch":
            result = torch_side(args, data, method, seed)
        else:
            result = edge_tune_side(args, data, method, seed, shots)
        names = ("side", "data", "method", "seed", "shots")
        records.append(dict(zip(names, wanted)) | result)
        print(json.dumps(records[-1]), flush=True)
        with open(args.out, "a") as f:
            f.write(json.dumps(records[-1]) + "\n")
    text, over = tables(records)
    print(text)
    run.write_page(text, "media")
    if over:
        sys.exit(f"over {TARGET} points: {over}")


if __name__ == "__main__":
    main()
