"""Speed and memory of edge-tune beside onnxruntime and torch with PEFT, in one run.

    cargo build --release --features ort
    cargo bench --bench forward --features ort --no-run
    cargo build --release --manifest-path tools/bench/rten/Cargo.toml --target-dir target/rten
    python tools/export_backbone.py minilm minilm/
    python -m tools.bench.beside --export minilm/model.onnx

    python tools/export_backbone.py vit-b16 vit-b16/
    edge-tune prepare vit-b16/model.onnx --out vit-b16/prepared
    python -m tools.bench.beside --export vit-b16/model.onnx --backbone vit-b16/prepared

    edge-tune prepare kwt1_speech_transformer_fp32.onnx --out kwt
    python -m tools.bench.beside --export kwt1_speech_transformer_fp32.onnx --backbone kwt --sounds

Needs ORT_DYLIB_PATH, or the installed onnxruntime package. Without the build of rten its rows are left out. On text (the bundled MiniLM) forward passes
are one text of 128 tokens, and steps 8 of them, forward, backward and AdamW; on ViT-B/16 one picture,
and steps of 4; on KWT-1 one sound, and no steps. The sides take turns, and the medians go into docs/performance.md between the markers of
the backbone.
"""

import argparse
import glob
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/performance.md"
TOKENS, ROWS, STEPS = 128, 8, 8
METHODS = {"lora": ["rank=8", "alpha=16", "targets=query,value"], "prefix-tuning": ["rows=20"],
           "prompt-tuning": ["rows=20"],
           # Beside LoRA on all layers: what lies below is computed once.
           "lora on the last 2 layers": ["rank=8", "alpha=16", "targets=query,value", "layers=last-2"]}
PICTURES, PIXELS = 4, 224
ROWS_OF_PICTURES = 10
PICTURE_METHODS = {"lora": METHODS["lora"], "prefix-tuning": ["rows=10"], "vpt-shallow": ["rows=10"],
                   "vpt-deep": ["rows=10"]}
WORDS = "the light kitchen music play weather alarm on off".split()


def library():
    """The shared library of ONNX Runtime."""
    import onnxruntime
    found = glob.glob(str(Path(onnxruntime.__file__).parent / "capi/libonnxruntime.so.*"))
    return os.environ.get("ORT_DYLIB_PATH") or found[0]


def program():
    """The newest build of the benchmark of forward passes."""
    programs = [p for p in (ROOT / "target/release/deps").glob("forward-*") if not p.suffix]
    if not programs:
        sys.exit("error: build the benchmark first: cargo bench --bench forward --features ort --no-run")
    return max(programs, key=lambda p: p.stat().st_mtime)


def bare(export, quantized, threads):
    """Median milliseconds of onnxruntime alone, f32 and dynamic int8, in turns."""
    import numpy as np
    import onnxruntime
    sessions = []
    for path in (export, quantized):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        sessions.append(onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"]))
    ids = np.array([[1000 + (i * 37) % 9000 for i in range(TOKENS)]], dtype=np.int64)
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids),
              "token_type_ids": np.zeros_like(ids),
              "pixel_values": np.full((1, 3, PIXELS, PIXELS), 0.5, dtype=np.float32)}

    def other(shape):
        return np.full([d if isinstance(d, int) else 1 for d in shape], 0.5, dtype=np.float32)
    times = [[], []]
    end = time.perf_counter() + 4
    while time.perf_counter() < end:
        for session, taken in zip(sessions, times):
            feed = {i.name: values[i.name] if i.name in values else other(i.shape)
                    for i in session.get_inputs()}
            start = time.perf_counter()
            session.run(None, feed)
            taken.append(time.perf_counter() - start)
    return [1e3 * statistics.median(t) for t in times]


def rten(models, threads):
    """The same of rten, for each of the models that it loads."""
    program = ROOT / "target/rten/release/rten-forward"
    found = []
    for path in models if program.exists() else []:
        run = subprocess.run([str(c) for c in (program, threads, TOKENS, PIXELS, path)], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if run.returncode:
            print(f"rten, {path}: {run.stderr.strip()}", file=sys.stderr)
        found.append(None if run.returncode else json.loads(run.stdout)["ms"])
    return found


def forward(program, export, quantized, backbone, rounds):
    """(side, kind, threads) to the milliseconds of every round."""
    found = {}
    environment = dict(os.environ, ORT_DYLIB_PATH=library(), EDGE_TUNE_BACKBONE=str(backbone))
    for _ in range(rounds):
        lines = subprocess.run([program, "--bench", str(TOKENS)], env=environment, check=True,
                               stdout=subprocess.PIPE, text=True).stdout.splitlines()
        for r in map(json.loads, lines):
            key = (f"edge-tune, {r['engine']}", r["compute"], r["threads"])
            found.setdefault(key, []).append(r["ms"])
        for threads in (1, 2):
            for side, times in (("onnxruntime", bare(export, quantized, threads)),
                                ("rten", rten((export, quantized), threads))):
                for kind, ms in zip(("f32", "int8"), times):
                    if ms is not None:
                        found.setdefault((side, kind, threads), []).append(ms)
    return {k: statistics.median(v) for k, v in found.items()}


def torch_text(method):
    """A PEFT model, and the function that makes its features of the texts, and their labels."""
    from tools.parity import reference
    examples = [([101] + [1000 + (i * 37 + r) % 9000 for i in range(TOKENS - 2)] + [102], r % 2)
                for r in range(ROWS)]
    model = reference.attach(method, examples, 0)
    ids, mask, _ = reference.batch(examples)
    delta = [p for p in model.parameters() if p.requires_grad]
    return delta, lambda: reference.feature(model, ids, mask), [label for _, label in examples]


def torch_pictures(method):
    """The same for a ViT-B/16 of transformers. Prompts and prefixes are by hand: PEFT has none for it."""
    import torch
    import transformers
    model = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False).eval()
    model.requires_grad_(False)
    pixels = torch.randn(PICTURES, 3, PIXELS, PIXELS)
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    labels = [i % 2 for i in range(PICTURES)]
    if method == "lora":
        import peft
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        model = peft.get_peft_model(model, config)
    delta = [p for p in model.parameters() if p.requires_grad]
    if method == "prefix-tuning":
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        def prefixed(module, q, k, v, mask, **options):
            k, v = (torch.cat([rows.expand(len(x), -1, -1, -1), x], 2)
                    for rows, x in zip(module.prefix, (k, v)))
            return sdpa_attention_forward(module, q, k, v, mask, **options)
        transformers.AttentionInterface.register("prefixed", prefixed)
        model.set_attn_implementation("prefixed")
        for layer in layers:
            shape = (12, ROWS_OF_PICTURES, 64)
            layer.attention.prefix = [torch.randn(shape, requires_grad=True) for _ in range(2)]
            delta += layer.attention.prefix
    if not method.startswith("vpt"):
        return delta, lambda: model(pixels).last_hidden_state[:, 0], labels
    deep = len(layers) if method == "vpt-deep" else 1
    delta = [torch.zeros(ROWS_OF_PICTURES, 768, requires_grad=True) for _ in range(deep)]

    def feature():
        x = model.embeddings(pixels)
        for i, layer in enumerate(layers):
            if i < deep:
                rest = x[:, 1:] if i == 0 else x[:, 1 + ROWS_OF_PICTURES:]
                x = torch.cat([x[:, :1], delta[i].expand(len(x), -1, -1), rest], 1)
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return model.layernorm(x)[:, 0]
    return delta, feature, labels


def torch_steps(method, text):
    """Prints the median milliseconds of a step in torch."""
    import torch
    torch.set_num_threads(2)
    delta, feature, labels = (torch_text if text else torch_pictures)(method)
    labels = torch.tensor(labels)
    head = torch.nn.Linear(384 if text else 768, 2)
    optimizer = torch.optim.AdamW([*delta, *head.parameters()], lr=1e-4)
    times = []
    for _ in range(STEPS + 2):
        start = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(head(feature()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    print(json.dumps({"ms": 1e3 * statistics.median(times[2:])}))


def watched(command, environment):
    """What a command prints, and the peak of its anonymous memory in bytes."""
    child = subprocess.Popen([str(c) for c in command], env=environment, cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        try:
            text = Path(f"/proc/{child.pid}/status").read_text()
            peak = max(peak, 1024 * int(re.search(r"RssAnon:\s*(\d+)", text)[1]))
        except (OSError, TypeError):
            pass
        time.sleep(0.002)
    if child.returncode:
        sys.exit(f"{command}: exit status {child.returncode}")
    return json.loads(child.stdout.read()), peak


def texts(folder, rows=ROWS, tokens=TOKENS):
    """A data set of texts."""
    lines = ["text,label"]
    for r in range(max(rows, 2)):
        text = " ".join(WORDS[(i * 7 + r * 3 + i // 5) % 9] for i in range(tokens - 2))
        lines.append(f"{text},{'ab'[r % 2]}")
    data = folder / "texts.csv"
    data.write_text("\n".join(lines) + "\n")
    return data


def pictures(folder):
    """A data set of `PICTURES` pictures."""
    import numpy as np
    from PIL import Image
    random = np.random.default_rng(0)
    for i in range(PICTURES):
        path = folder / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (PIXELS, PIXELS, 3), dtype=np.uint8)).save(path)
    return folder / "pictures"


def steps(edge_tune, backbone, methods, rounds):
    """(side, method) to the milliseconds of a step and the peaks, of every round."""
    found = {}
    environment = dict(os.environ, ORT_DYLIB_PATH=library())
    with tempfile.TemporaryDirectory() as folder:
        data = (texts if methods is METHODS else pictures)(Path(folder))
        batch, count = (ROWS, STEPS) if methods is METHODS else (PICTURES, STEPS // 2)
        for _ in range(rounds):
            for name, settings in methods.items():
                method = name.split()[0]
                torch = [sys.executable, "-m", "tools.bench.beside", "--torch", method]
                torch += [] if methods is METHODS else ["--backbone", backbone]
                report, peak = watched(torch, environment)
                found.setdefault(("torch + PEFT", name), []).append((report["ms"], peak))
                for engine, compute in itertools.product(("tract", "ort"), ("f32", "int8")):
                    command = [edge_tune, "calibrate", "--engine", engine, "--compute", compute,
                               "--threads", 2, "--json", "--backbone", backbone,
                               "--data", data, "--validation", 0, "--method", method,
                               "--batch", batch, "--micro-batch", batch, "--max-ram", "2G",
                               "--out", Path(folder) / "d.safetensors"]
                    command += [x for s in settings for x in ("--set", s)]
                    # The difference is the steps alone, without what is done before and after.
                    short, _ = watched([*command, "--epochs", count], environment)
                    long, peak = watched([*command, "--epochs", 3 * count], environment)
                    ms = 1e3 * (long["seconds"] - short["seconds"]) / (2 * count)
                    key = (f"edge-tune, {engine}, {compute}", name)
                    found.setdefault(key, []).append((ms, peak))
    return {k: [statistics.median(x) for x in zip(*v)] for k, v in found.items()}


def tables(passes, taken, one, several):
    """The measurements as Markdown."""
    lines = [f"| forward, {one} | threads | ms | beside onnxruntime |", "|---|---|---|---|"]
    for (side, kind, threads), ms in sorted(passes.items(), key=lambda x: (x[0][2], x[0][1], x[0][0])):
        theirs = passes[("onnxruntime", kind.split(",")[0], threads)]
        dynamic = kind == "int8" and not side.startswith("edge-tune")
        name = f"{side}, dynamic int8" if dynamic else f"{side}, {kind}"
        lines.append(f"| {name} | {threads} | {ms:.1f} | {ms / theirs:.2f} |")
    if not taken:
        return "\n".join(lines)
    lines += ["", f"| step, {several} | side | ms | beside torch | peak MB | beside torch |",
              "|---|---|---|---|---|---|"]
    for (side, method), (ms, peak) in taken.items():
        theirs = taken[("torch + PEFT", method)]
        lines.append(f"| {method} | {side} | {ms:.0f} | {ms / theirs[0]:.2f} | {peak / 1e6:.0f} | "
                     f"{peak / theirs[1]:.2f} |")
    return "\n".join(lines)


def write(name, text):
    """Puts `text` between the markers `name` of docs/performance.md."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = PAGE.read_text()
    before, after = page.split(begin)[0], page.split(end)[1]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", type=Path, help="the float export of the backbone")
    parser.add_argument("--backbone", type=Path, help="a prepared ViT-B/16; MiniLM if left out")
    parser.add_argument("--edge-tune", type=Path, default=ROOT / "target/release/edge-tune")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--sounds", action="store_true", help="--backbone is a prepared KWT-1")
    parser.add_argument("--torch", metavar="METHOD", help="measure torch alone, in this process")
    args = parser.parse_args()
    if args.torch:
        return torch_steps(args.torch, not args.backbone)
    if not args.export:
        parser.error("--export is needed")
    measured = program()
    from onnxruntime.quantization import QuantType, quantize_dynamic
    with tempfile.TemporaryDirectory() as folder:
        quantized = Path(folder) / "int8.onnx"
        quantize_dynamic(args.export, quantized, weight_type=QuantType.QInt8)
        backbone = args.backbone or ROOT / "models/minilm-l6"
        passes = forward(measured, args.export, quantized, backbone, args.rounds)
    if args.sounds:
        text = tables(passes, {}, "a sound", None)
        print(text)
        return write("sounds", text)
    methods = PICTURE_METHODS if args.backbone else METHODS
    taken = steps(args.edge_tune, backbone.absolute(), methods, args.rounds)
    sizes = ("a picture", "4 pictures") if args.backbone else ("128 tokens", "8 x 128 tokens")
    text = tables(passes, taken, *sizes)
    print(text)
    write("pictures" if args.backbone else "beside", text)


if __name__ == "__main__":
    main()
