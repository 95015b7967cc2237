"""Classes that come task by task: average accuracy and forgetting of edge-tune's methods.

    cargo build --release
    python -m tools.continual --data cifar10_subset.zip

Every task brings two classes (or as many as the JSON file beside the data says). A delta learns the
first task, and `calibrate --from` the next ones, each from its own rows alone. After every task the
test rows of all classes so far are classified one by one, without a word about the task. Printed are
A = the mean accuracy over the tasks at the end, and F = how much a task has lost since its best.
"""

import argparse
import csv
import io
import json
import statistics
import sys
import tempfile
import zipfile
from pathlib import Path

from tools.parity.run import call

# What is run: name in the table, method, options of calibrate.
RUNS = {
    "linear": ("linear", []),
    "linear, class mask": ("linear", ["--class-mask", "true"]),
    "vpt-shallow": ("vpt-shallow", []),
    "vpt-shallow, class mask": ("vpt-shallow", ["--class-mask", "true"]),
    "l2p": ("l2p", []),
    "l2p, no class mask": ("l2p", ["--class-mask", "false"]),
    "prototypes": ("prototypes", []),
    "tip-adapter": ("tip-adapter", []),
}


def labels_csv(path):
    """Split and label of every row of a zip with a labels.csv."""
    text = zipfile.ZipFile(path).read("labels.csv").decode()
    return [(row["split"], row["label"]) for row in csv.DictReader(io.StringIO(text))]


def tasks(args):
    """Per task: rows to train on and rows to test on."""
    about = json.loads(args.data.with_suffix(".json").read_text())
    key = next(k for k in about if k.endswith("tasks"))
    orders = about.get(key.replace("tasks", "orders"), {})
    groups = about[key]
    groups = [groups[i] for i in orders.get(args.order, range(len(groups)))]
    rows = labels_csv(args.data)
    shots = about["fewshot_train_rows"][f"k{args.shots}_s{args.seed}"] if args.shots else None
    found = []
    for group in groups:
        # A label may be a class's name or its number.
        names = {str(c) for c in group} | {about["classes"][c] for c in group}
        of = {s: [i for i, (split, label) in enumerate(rows) if split == s and label in names]
              for s in ("train", "test")}
        train = [i for i in of["train"] if shots is None or i in set(shots)]
        found.append((train, of["test"]))
    return found


def run(args, method, options, stages):
    """Accuracy on every task so far, after every task."""
    table = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        listed = {f"{kind}{i}": rows for i, stage in enumerate(stages)
                  for kind, rows in zip(("train", "test"), stage)}
        (folder / "rows.json").write_text(json.dumps(listed))
        common = ["--threads", args.threads, "--backbone", args.backbone, "--data", args.data]
        for i in range(len(stages)):
            start = ["--from", folder / f"{i - 1}.safetensors"] if i else ["--method", method]
            call(args.edge_tune, "calibrate", *common, *start, *options, "--validation", 0,
                 "--seed", args.seed, "--rows", f"{folder}/rows.json:train{i}",
                 "--out", folder / f"{i}.safetensors")
            table.append([
                call(args.edge_tune, "eval", *common, "--delta", folder / f"{i}.safetensors",
                     "--rows", f"{folder}/rows.json:test{j}")["accuracy"]
                for j in range(i + 1)
            ])
        size = (folder / f"{len(stages) - 1}.safetensors").stat().st_size
    last = table[-1]
    best = [max(row[j] for row in table if len(row) > j) for j in range(len(last))]
    lost = [b - a for a, b in zip(last, best)][:-1]
    return {"accuracy": statistics.mean(last), "forgetting": statistics.mean(lost),
            "bytes": size, "table": table}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="zip, with its JSON beside it")
    parser.add_argument("--order", default="o0", help="of the tasks, a name in the JSON")
    parser.add_argument("--shots", type=int, default=0, help="rows per class; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--epochs", type=int, help="passes over a task; each method's own by default")
    parser.add_argument("--lr", type=float, help="peak learning rate; each method's own by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--edge-tune", type=Path, default=Path("target/release/edge-tune"))
    parser.add_argument("--backbone", type=Path, default=Path("models/vit-tiny"))
    args = parser.parse_args()
    stages = tasks(args)
    recipe = ["--epochs", args.epochs] if args.epochs else []
    recipe += ["--lr", args.lr] if args.lr else []
    print("| method | average accuracy % | forgetting % | delta KB |\n|---|---|---|---|")
    for name in args.runs:
        method, options = RUNS[name]
        r = run(args, method, options + recipe, stages)
        print(f"| {name} | {100 * r['accuracy']:.1f} | {100 * r['forgetting']:.1f} | "
              f"{r['bytes'] / 1000:.1f} |", flush=True)
        print(json.dumps({"run": name, **r}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
