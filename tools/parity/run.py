"""Few-shot accuracy of edge-tune beside torch with PEFT, on the same rows with the same recipe.

    cargo build --release
    python -m tools.parity.run

Runs both sides for every data set, method and seed, and writes the table of docs/accuracy.md
between its markers once all of it is there. Every run is kept as a JSON line in `--out`; runs that
are there already are not repeated. Ends with exit status 1 if a mean over the seeds differs by more
than 1.5 points.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.parity import reference

PAGE = Path(__file__).parents[2] / "docs/accuracy.md"
SIDES = ["torch", "edge-tune"]
TARGET = 1.5
ROWS = f"rows={reference.ROWS}"
# What is stated although it is the default: the table shall not change with the defaults.
SETTINGS = {
    "linear": [],
    "lora": [f"rank={reference.RANK}", f"alpha={reference.ALPHA}", "targets=query,value"],
    "prefix-tuning": [ROWS],
    "prompt-tuning": [ROWS],
}
NAMES = {
    "linear": "linear",
    "lora": f"LoRA, rank {reference.RANK}",
    "prefix-tuning": f"prefix-tuning, P = {reference.ROWS}",
    "prompt-tuning": f"prompt tuning, P = {reference.ROWS}",
}


def call(program, *args):
    """The JSON object that edge-tune prints."""
    command = [str(a) for a in (program, *args, "--json", "--quiet")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}")
    return json.loads(done.stdout)


def measured(program, common, recipe, settings):
    """One run of edge-tune: calibrate to a file, then measure that file. `recipe` are options."""
    options = [str(x) for pair in recipe.items() for x in pair]
    options += [x for s in settings for x in ("--set", s)]
    options += ["--validation", "0", "--batch", str(reference.BATCH)]
    options += ["--warmup", str(reference.WARMUP), "--clip", str(reference.CLIP)]
    with tempfile.TemporaryDirectory() as folder:
        delta = Path(folder) / "delta.safetensors"
        report = call(program, "calibrate", *common, *options, "--out", delta)
        result = call(program, "eval", *common, "--split", "test", "--delta", delta)
        size = delta.stat().st_size
    return {
        "steps": report["steps"], "accuracy": result["accuracy"], "n": result["n"],
        "train_loss": report["train_loss"], "seconds": round(report["seconds"], 2), "bytes": size,
    }


def edge_tune(args, data, method, seed):
    """One run of edge-tune as a record."""
    table = args.data_dir / f"{data}.csv"
    rows = f"{table.with_suffix('.json')}:k{reference.SHOTS}_s{seed}"
    rate, decay, epochs = reference.RECIPES[method]
    recipe = {
        "--method": method, "--rows": rows, "--seed": seed, "--lr": rate,
        "--weight-decay": decay, "--epochs": epochs,
    }
    common = ["--backbone", args.backbone, "--data", table]
    result = measured(args.edge_tune, common, recipe, SETTINGS[method])
    return {"side": "edge-tune", "data": data, "method": method, "seed": seed, **result}


def key(record):
    """What a record is the result of."""
    return tuple(record[k] for k in ("side", "data", "method", "seed"))


def read(path):
    """The records in `path`."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cell(records):
    """Mean, lowest and highest accuracy in per cent."""
    values = [100 * r["accuracy"] for r in records]
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def table(records):
    """The Markdown table, the differences that are over the target, and what has no full row."""
    lines = [
        "| data | method | steps | torch + PEFT | edge-tune | difference |",
        "|---|---|---|---|---|---|",
    ]
    over, lacking = [], []
    for data in reference.DATA:
        for method in reference.RECIPES:
            of = {s: [r for r in records if key(r)[:3] == (s, data, method)] for s in SIDES}
            seeds = [sorted(r["seed"] for r in of[s]) for s in SIDES]
            if not seeds[0] or seeds[0] != seeds[1]:
                lacking.append((data, method))
                continue
            both = of["torch"] + of["edge-tune"]
            for field in ("steps", "n"):
                values = {r[field] for r in both}
                assert len(values) == 1, (data, method, field, values)
            means = [100 * statistics.mean(r["accuracy"] for r in of[s]) for s in SIDES]
            difference = means[1] - means[0]
            if abs(difference) > TARGET:
                over.append((data, method, round(difference, 2)))
            cells = " | ".join(cell(of[s]) for s in SIDES)
            steps = both[0]["steps"]
            lines.append(f"| {data} | {NAMES[method]} | {steps} | {cells} | {difference:+.1f} |")
    return "\n".join(lines), over, lacking


def write_page(text, name="parity"):
    """Puts `text` between the markers of that name on the page; what is around them stays."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = PAGE.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"{PAGE}: the markers {begin} and {end} are not there")
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=reference.DATA, default=reference.DATA)
    parser.add_argument("--methods", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data/text"))
    parser.add_argument("--edge-tune", type=Path, default=Path("target/release/edge-tune"))
    parser.add_argument("--backbone", type=Path, default=Path("models/minilm-l6"))
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--out", type=Path, default=Path("target/parity/results.json"))
    args = parser.parse_args()
    reference.torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    records = read(args.out)
    done = {key(r) for r in records}
    for side in args.sides:
        for data in args.data:
            for method in args.methods:
                for seed in args.seeds:
                    if (side, data, method, seed) in done:
                        continue
                    if side == "torch":
                        record = reference.run(data, method, seed, args.data_dir)
                    else:
                        record = edge_tune(args, data, method, seed)
                    records.append(record)
                    line = json.dumps(record)
                    print(line, flush=True)
                    with open(args.out, "a") as f:
                        f.write(line + "\n")
    text, over, lacking = table(records)
    print(text)
    if lacking:
        print(f"{PAGE.name} stays as it is: not run on both sides are {lacking}")
    else:
        write_page(text)
    if over:
        sys.exit(f"over {TARGET} points: {over}")


if __name__ == "__main__":
    main()
