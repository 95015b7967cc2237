"""Few-shot calibration in torch with PEFT's modules, by the recipe that edge-tune follows.

    python -m tools.parity.reference --data trec6 --methods lora --seeds 0

Prints a JSON line per run, and adds it to `--out` if that is given. All shots are trained on and
the last state is tested: no validation, no early stop. The recipe (src/train, src/methods) is
written out here a second time on purpose:

- batches of 16, shuffled every epoch, the last of an epoch may be smaller; mean cross-entropy
- AdamW (0.9, 0.999, 1e-8); decay on matrices, not on biases, prompts or prefixes
- linear warm-up over a tenth of the steps from 0, then a cosine to 0; gradient norm at most 1
- no dropout; the feature is the mean over real tokens, prompt rows left out
- the head starts as the class-mean classifier on the features that the initial delta gives
- LoRA: A uniform in +-1/sqrt(in), B zero; prompts and prefixes: real activations of random tokens

Random numbers are those of edge-tune (draws.py), so that the difference of two runs is not the
luck of a draw: on a few shots, that is worth two points. `--draws N` takes others.
"""

import argparse
import csv
import json
import math
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from tools.export_backbone import minilm_files
from tools.parity import draws

DATA = ["trec6", "sst2"]
SHOTS = 16
BATCH = 16
WARMUP = 0.1
CLIP = 1.0
MAX_TOKENS = 256
ROWS = 20
RANK, ALPHA = 8, 16
# Scores of the initial head are this many times the squared distance in units of its mean.
SHARPNESS = 4.0

# Peak learning rate, weight decay, epochs: the defaults of src/methods.
RECIPES = {
    "linear": (1e-2, 0.01, 100),
    "lora": (1e-3, 0.01, 30),
    "prefix-tuning": (1e-2, 0.0, 30),
    "prompt-tuning": (1e-2, 0.0, 30),
}
TASK = {"task_type": "FEATURE_EXTRACTION"}


def load(folder, name, seed):
    """Few-shot rows and test rows, each a list of (token ids, class number)."""
    about = json.loads((folder / f"{name}.json").read_text())
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    classes = sorted({r["label"] for r in rows})
    tokenizer = Tokenizer.from_file(str(minilm_files() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)

    def encoded(chosen):
        ids = [e.ids for e in tokenizer.encode_batch([r["text"] for r in chosen])]
        return [(i, classes.index(r["label"])) for i, r in zip(ids, chosen)]

    shots = [rows[i] for i in sorted(about["fewshot_train_rows"][f"k{SHOTS}_s{seed}"])]
    assert len(shots) == SHOTS * len(classes) and all(r["split"] == "train" for r in shots)
    return encoded(shots), encoded([r for r in rows if r["split"] == "test"])


def batch(examples):
    """Token ids padded on the right with [PAD] = 0, mask, and labels."""
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in examples])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in examples])
    return ids, mask, torch.tensor([label for _, label in examples])


def chunks(items, size):
    """`items` in lists of `size`."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def feature(model, ids, mask):
    """Mean of the last hidden state over real tokens; rows of a prompt come first and are cut."""
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, -ids.shape[1] :]
    weight = mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def features(model, examples):
    """Features of all `examples`, in their order; rows of like length run together."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]))
    out = [None] * len(examples)
    with torch.no_grad():
        for part in chunks(order, 64):
            ids, mask, _ = batch([examples[i] for i in part])
            for i, f in zip(part, feature(model, ids, mask)):
                out[i] = f
    return torch.stack(out)


def real_rows(model, method, examples, seed):
    """What `ROWS` random tokens of random `examples` give: `[P, d]` of word embeddings, or
    `[P, 2 L d]` of keys and values in PEFT's order."""
    if method == "prompt-tuning":
        sites = [model.embeddings.word_embeddings]
    else:
        attentions = [layer.attention.self for layer in model.encoder.layer]
        sites = [s for a in attentions for s in (a.key, a.value)]
    seen, rows, random = {}, [], draws.Draws(seed, draws.ROWS)
    hooks = [s.register_forward_hook(lambda m, x, y: seen.update({m: y[0]})) for s in sites]
    while len(rows) < ROWS:
        ids, mask, _ = batch([examples[random.below(len(examples))]])
        with torch.no_grad():
            model(input_ids=ids, attention_mask=mask)
        # Four tokens of every example.
        for _ in range(4):
            token = random.below(ids.shape[1])
            rows.append(torch.cat([seen[s][token] for s in sites]))
    for hook in hooks:
        hook.remove()
    return torch.stack(rows[:ROWS])


def attach(method, examples, seed):
    """The backbone with PEFT's modules for `method`, their initial values set; no dropout."""
    model = transformers.BertModel.from_pretrained(minilm_files(), add_pooling_layer=False).eval()
    model.requires_grad_(False)
    if method == "linear":
        return model
    if method == "lora":
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"], **TASK)
        model = peft.get_peft_model(model, config)
        # A and B of query, then of value, layer by layer, after the two tensors of the head.
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        with torch.no_grad():
            for i, (name, p) in enumerate(trained, 2):
                assert ["lora_A", "lora_B"][i % 2] in name and ["value", "query"][i // 2 % 2] in name
                if "lora_A" in name:
                    bound = 1 / math.sqrt(p.shape[1])
                    p.copy_(torch.from_numpy(draws.uniform(seed, draws.VALUES + i, p.shape, bound)))
                else:
                    p.zero_()
        return model.eval()
    rows = real_rows(model, method, examples, seed)
    kind = {"prompt-tuning": peft.PromptTuningConfig, "prefix-tuning": peft.PrefixTuningConfig}[method]
    model = peft.get_peft_model(model, kind(num_virtual_tokens=ROWS, **TASK)).eval()
    (p,) = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        p.copy_(rows)
    return model


def class_mean_head(x, labels):
    """Weight and bias of the classifier that chooses the nearest class mean."""
    means = torch.stack([x[labels == k].mean(0) for k in range(int(labels.max()) + 1)])
    scale = SHARPNESS / ((x - means[labels]) ** 2).sum(1).mean()
    return means * scale, -0.5 * scale * (means**2).sum(1)


def learning_rate(step, steps, peak):
    """Of `step`, counted from 0."""
    warmup = int(steps * WARMUP + 0.5)
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def fit(start, forward, labels, delta, recipe, seed):
    """Trains a head and the tensors `delta`, matrices with decay, by the recipe (peak learning rate,
    decay, epochs). `start` are the features of the untrained delta, `forward` makes those of some
    rows. Returns the head, the steps and the mean loss of the last epoch."""
    peak, decay, epochs = recipe
    weight, bias = (p.requires_grad_() for p in class_mean_head(start, labels))
    trained = [weight, bias, *delta]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.999), eps=1e-8)
    steps = epochs * math.ceil(len(labels) / BATCH)
    step = 0
    for epoch in range(epochs):
        losses = []
        for part in chunks(draws.order(seed, epoch, len(labels)), BATCH):
            loss = cross_entropy(forward(part) @ weight.T + bias, labels[part])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak)
            optimizer.step()
            losses.append(loss.item())
            step += 1
    return (weight.detach(), bias.detach()), step, sum(losses) / len(losses)


def train(model, method, examples, seed):
    """Trains what PEFT attached and a head."""
    labels = torch.tensor([label for _, label in examples])
    start = features(model, examples)
    delta = [p for p in model.parameters() if p.requires_grad]

    def forward(part):
        if not delta:
            return start[part]
        ids, mask, _ = batch([examples[i] for i in part])
        return feature(model, ids, mask)

    return fit(start, forward, labels, delta, RECIPES[method], seed)


def run(data, method, seed, folder, other_draws=None):
    """One run as a record."""
    number = seed if other_draws is None else other_draws
    shots, test = load(folder, data, seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = attach(method, shots, number)
        (weight, bias), steps, loss = train(model, method, shots, number)
        seconds = time.perf_counter() - began
        scores = features(model, test) @ weight.T + bias
    right = scores.argmax(1) == torch.tensor([label for _, label in test])
    return {
        "side": "torch", "data": data, "method": method, "seed": seed, "steps": steps,
        "accuracy": right.double().mean().item(), "n": len(test), "train_loss": loss,
        "seconds": round(seconds, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--methods", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data/text"))
    parser.add_argument("--draws", type=int, help="seed of random numbers, if not that of the rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file that the lines are added to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for data in args.data:
        for method in args.methods:
            for seed in args.seeds:
                line = json.dumps(run(data, method, seed, args.data_dir, args.draws))
                print(line, flush=True)
                if args.out:
                    with open(args.out, "a") as f:
                        f.write(line + "\n")


if __name__ == "__main__":
    main()
