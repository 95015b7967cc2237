"""Whole few-shot calibrations beside the same in a script with torch and PEFT, process start included.

    cargo build --release --features ort
    python -m tools.bench.calibrations --clip clip-tiny/

Both sides read 16 rows per class of TREC-6 and of CIFAR-10, train by the recipe of tools/parity, and write
the trained tensors to a file: the time from the start of the process until then is measured, in turns, on
two threads. Then both are scored on the test rows. Pictures are read by `models/vit-tiny`, in torch by the
CLIP that it was made from. Medians go into docs/performance.md between its markers.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.bench import beside

SHOTS = 16
# Data, method and settings of edge-tune. PEFT has the methods of texts; those of pictures are by hand.
CASES = [
    ("trec6", "linear", []),
    ("trec6", "lora", ["rank=8", "alpha=16", "targets=query,value"]),
    ("trec6", "prefix-tuning", ["rows=20"]),
    ("trec6", "prompt-tuning", ["rows=20"]),
    ("cifar10", "linear", []),
    ("cifar10", "vpt-deep", ["rows=10"]),
]
EPOCHS = {"linear": 100, "vpt-deep": 10}
SIDES = list(itertools.product(("tract", "ort"), ("f32", "int8")))
SAVED = "saved"


def source(data, folder):
    """The data set, and the file with its rows."""
    name = "text/trec6.csv" if data == "trec6" else "image/cifar10_subset.zip"
    return folder / name, (folder / name).with_suffix(".json")


def recipe(data, method):
    """Peak learning rate, weight decay and epochs."""
    from tools.parity import media_reference, reference
    if data == "trec6":
        return reference.RECIPES[method]
    return (*media_reference.RATES[method], EPOCHS[method])


def torch_texts(args, method, out):
    """Trains on texts and saves; returns the accuracy on the test rows when it is asked for."""
    import torch
    from tools.parity import reference
    shots, test = reference.load(args.data_dir / "text", "trec6", args.seed)
    model = reference.attach(method, shots, args.seed)
    head, _, _ = reference.train(model, method, shots, args.seed)
    torch.save([head, [p for p in model.parameters() if p.requires_grad]], out)
    yield
    scores = reference.features(model, test) @ head[0].T + head[1]
    yield scores.argmax(1) == torch.tensor([label for _, label in test])


def torch_pictures(args, method, out):
    """The same for pictures."""
    import torch
    from tools.parity import media, media_reference, reference
    archive, listed = source("cifar10", args.data_dir)
    rows = sorted(json.loads(listed.read_text())["fewshot_train_rows"][f"k{SHOTS}_s{args.seed}"])
    spec = media_reference.preprocess(beside.ROOT / "models/vit-tiny")
    inputs, labels = media_reference.load(archive, {"train": rows}, spec)["train"]
    tower = media_reference.clip_tower(args.clip)
    delta, forward, anew = media_reference.attach(tower, method, inputs, args.seed)
    start = media_reference.in_parts(anew, inputs)
    head, _, _ = reference.fit(start, forward, labels, delta, recipe("cifar10", method), args.seed)
    torch.save([head, delta], out)
    yield
    test = [i for i, row in enumerate(media.table_of(archive)) if row["split"] == "test"]
    pixels, truth = media_reference.load(archive, {"train": rows, "test": test}, spec)["test"]
    scores = media_reference.in_parts(anew, pixels) @ head[0].T + head[1]
    yield scores.argmax(1) == truth


def torch_alone(args):
    """Trains in this process, says when the file is written, and then how many rows are right."""
    import torch
    torch.set_num_threads(2)
    data, method = args.torch.split(":")
    parts = (torch_texts if data == "trec6" else torch_pictures)(args, method, args.out)
    next(parts)
    print(SAVED, flush=True)
    print(next(parts).double().mean().item())


def by_torch(args, data, method, seed, out):
    """Seconds and accuracy of the script."""
    command = [sys.executable, "-m", "tools.bench.calibrations", "--torch", f"{data}:{method}",
               "--seed", seed, "--data-dir", args.data_dir, "--clip", args.clip, "--out", out]
    start = time.perf_counter()
    child = subprocess.Popen([str(c) for c in command], cwd=beside.ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said = child.stdout.readline().strip()
    taken = time.perf_counter() - start
    rest = child.communicate()[0]
    if said != SAVED or child.returncode:
        sys.exit(f"{command}: exit status {child.returncode}")
    return taken, float(rest)


def by_edge_tune(args, data, method, seed, out, settings, engine, compute):
    """The same of the command line."""
    table, listed = source(data, args.data_dir)
    backbone = beside.ROOT / "models" / ("minilm-l6" if data == "trec6" else "vit-tiny")
    rate, decay, epochs = recipe(data, method)
    common = ["--json", "--quiet", "--engine", engine, "--compute", compute, "--threads", 2,
              "--backbone", backbone, "--data", table]
    command = [args.edge_tune, "calibrate", *common, "--rows", f"{listed}:k{SHOTS}_s{seed}",
               "--method", method, "--lr", rate, "--weight-decay", decay, "--epochs", epochs,
               "--validation", 0, "--batch", 16, "--warmup", 0.1, "--clip", 1.0, "--seed", seed,
               "--out", out, *(x for s in settings for x in ("--set", s))]
    environment = dict(os.environ, ORT_DYLIB_PATH=beside.library())

    def call(command):
        return json.loads(subprocess.run([str(c) for c in command], env=environment, check=True,
                                         stdout=subprocess.PIPE).stdout)
    start = time.perf_counter()
    call(command)
    taken = time.perf_counter() - start
    score = [args.edge_tune, "eval", *common, "--split", "test", "--delta", out]
    return taken, call(score)["accuracy"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, required=True, help="the CLIP of models/vit-tiny")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--edge-tune", type=Path, default=beside.ROOT / "target/release/edge-tune")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--torch", metavar="DATA:METHOD", help="train in torch, in this process")
    parser.add_argument("--seed", type=int, help="of --torch")
    parser.add_argument("--out", type=Path, help="of --torch")
    args = parser.parse_args()
    if args.torch:
        return torch_alone(args)
    args.data_dir, args.clip = args.data_dir.absolute(), args.clip.absolute()
    lines = ["| data | method | side | s | beside torch | accuracy |", "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "d.safetensors"
        for data, method, settings in CASES:
            found = {}
            for seed in args.seeds:
                found.setdefault("torch", []).append(by_torch(args, data, method, seed, out))
                for side in SIDES:
                    run = by_edge_tune(args, data, method, seed, out, settings, *side)
                    found.setdefault(side, []).append(run)
            theirs = statistics.median(taken for taken, _ in found["torch"])
            for side, runs in found.items():
                taken = statistics.median(taken for taken, _ in runs)
                right = 100 * statistics.mean(accuracy for _, accuracy in runs)
                name = "edge-tune, {}, {}".format(*side) if side != "torch" else \
                    "torch + PEFT" if data == "trec6" else "torch"
                lines.append(f"| {data} | {method} | {name} | {taken:.1f} | {taken / theirs:.2f} | "
                             f"{right:.1f} |")
                print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines)
    print(text)
    beside.write("calibrations", text)


if __name__ == "__main__":
    main()
