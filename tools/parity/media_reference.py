"""Few-shot calibration on pictures and sounds in torch, by the recipe that edge-tune follows.

The methods are written by hand from their papers: offsets on every linear layer but the keys and on
every normalisation (bias), rows at the input of every block (vpt-deep, in the sequence), the last
block itself (partial). Weights are f32. Everything else is as in reference.py.
"""

import csv
import io
import json
import time
import zipfile
from dataclasses import dataclass

import numpy as np
import onnx
import torch
import torch.nn.functional as F
import transformers
from onnx import numpy_helper
from PIL import Image

from tools.fixtures.tiny_cnn import Spotter
from tools.parity import draws, reference

ROWS = 10
# Peak learning rate and weight decay: the defaults of src/methods.
RATES = {
    "linear": (1e-2, 0.01), "bias": (3e-3, 0.0), "vpt-deep": (1e-2, 0.0), "partial": (3e-4, 0.01),
}


@dataclass
class Tower:
    """A backbone in parts: `embed` makes the input of the first layer, `pool` the feature of the last
    output. Of `linears`, keys are left out."""

    embed: callable
    layers: list
    pool: callable
    linears: list
    norms: list
    last: list

    def feature(self, x):
        """The pooled feature `[B, d]` of what `embed` takes."""
        return self.tail(self.embed(x), 0)

    def tail(self, x, first):
        """The feature of the input of layer `first`."""
        for layer in self.layers[first:]:
            x = layer(x)
        return self.pool(x)


def clip_tower(folder):
    """The image tower of a CLIP."""
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    model.requires_grad_(False)
    vision = model.vision_model
    blocks = list(vision.encoder.layers)

    def linears(block):
        a = block.self_attn
        return [a.q_proj, a.v_proj, a.out_proj, block.mlp.fc1, block.mlp.fc2]

    def run(block):
        def layer(x):
            y = block(x, None)
            return y[0] if isinstance(y, tuple) else y
        return layer

    # A layer is a module for its hooks, and a function that returns the tensor alone.
    return Tower(
        embed=lambda x: vision.pre_layrnorm(vision.embeddings(x)),
        layers=[run(b) for b in blocks],
        pool=lambda x: model.visual_projection(vision.post_layernorm(x[:, 0])),
        linears=[m for b in blocks for m in linears(b)],
        norms=[vision.pre_layrnorm, vision.post_layernorm]
        + [n for b in blocks for n in (b.layer_norm1, b.layer_norm2)],
        last=[blocks[-1].self_attn.k_proj, *linears(blocks[-1]), blocks[-1].layer_norm1,
              blocks[-1].layer_norm2, vision.post_layernorm],
    )


def kwt_tower(path):
    """The keyword spotter KWT-1 from its ONNX file."""
    graph = onnx.load(path).graph
    stored = {i.name: torch.tensor(numpy_helper.to_array(i)) for i in graph.initializer}
    matrices = [stored[n.input[1]].T for n in graph.node
                if n.op_type == "MatMul" and n.input[1] in stored]
    norm = next(n for n in graph.node if n.op_type == "LayerNormalization")
    eps = next(a.f for a in norm.attribute if a.name == "epsilon")
    model = Spotter(frames=98, bands=40, d=64, hidden=256, layers=12, classes=12, eps=eps)
    weights = {"embed.weight": matrices[0], "embed.bias": stored["p.bias"],
               "row": stored["cls"], "positions": stored["pos"],
               "head.weight": stored["h.weight"], "head.bias": stored["h.bias"]}
    for i in range(12):
        for j, name in enumerate(("q", "k", "v", "o", "up", "down")):
            weights[f"blocks.{i}.{name}.weight"] = matrices[1 + 6 * i + j]
        for ours, theirs in (("o", "o"), ("up", "f1"), ("down", "f2")):
            weights[f"blocks.{i}.{ours}.bias"] = stored[f"b.{i}.{theirs}.bias"]
        for ours, theirs in (("first", "ln1"), ("second", "ln2")):
            for part in ("weight", "bias"):
                weights[f"blocks.{i}.{ours}.{part}"] = stored[f"b.{i}.{theirs}.n.{part}"]
    model.load_state_dict(weights)
    model.eval().requires_grad_(False)
    row = lambda x: torch.cat([model.row.expand(x.shape[0], -1, -1), model.embed(x)], 1)
    linears = lambda b: [b.q, b.v, b.o, b.up, b.down]
    end = model.blocks[-1]
    return Tower(
        embed=lambda x: row(x) + model.positions,
        layers=list(model.blocks),
        pool=lambda x: x[:, 0],
        linears=[m for b in model.blocks for m in linears(b)],
        norms=[n for b in model.blocks for n in (b.first, b.second)],
        last=[end.k, *linears(end), end.first, end.second],
    )


def pixels(picture, spec):
    """Normalised pixels `[C, H, W]` of a PIL picture."""
    height, width = spec["size"]
    kind = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}[spec["interpolation"]]
    assert spec["resize"] == "stretch" and spec["channels"] == 3, spec
    x = np.asarray(picture.convert("RGB").resize((width, height), kind), np.float32) / 255
    x = (x - np.float32(spec["mean"])) / np.float32(spec["std"])
    return torch.from_numpy(x).permute(2, 0, 1)


def load(archive, rows, spec):
    """Inputs and class numbers of the rows `{split: numbers}` of a zip with a labels.csv. Classes are
    sorted as text, as edge-tune does."""
    with zipfile.ZipFile(archive) as z:
        table = list(csv.DictReader(io.StringIO(z.read("labels.csv").decode())))
        classes = sorted({table[i]["label"] for i in rows["train"]})

        def sample(row):
            data = io.BytesIO(z.read(row["path"]))
            if row["path"].endswith(".npy"):
                return torch.from_numpy(np.load(data).astype(np.float32))
            return pixels(Image.open(data), spec)

        found = {}
        for split, numbers in rows.items():
            chosen = [table[i] for i in numbers]
            labels = torch.tensor([classes.index(r["label"]) for r in chosen])
            found[split] = torch.stack([sample(r) for r in chosen]), labels
    return found


def in_parts(f, x):
    """`f` of all rows of `x`, without gradients."""
    with torch.no_grad():
        return torch.cat([f(part) for part in x.split(64)])


def real_rows(tower, inputs, seed):
    """Inputs of every layer at `ROWS` random tokens of random examples, `[P, d]` per layer."""
    rows, random = [[] for _ in tower.layers], draws.Draws(seed, draws.ROWS)
    while len(rows[0]) < ROWS:
        x = inputs[random.below(len(inputs))][None]
        with torch.no_grad():
            states = [tower.embed(x)]
            for layer in tower.layers[:-1]:
                states.append(layer(states[-1]))
        for _ in range(4):
            token = random.below(states[0].shape[1])
            for found, state in zip(rows, states):
                found.append(state[0, token])
    return [torch.stack(found[:ROWS]) for found in rows]


def prompted(tower, prompts, x):
    """The feature with fresh rows behind the first one at the input of every layer."""
    x = tower.embed(x)
    for i, (layer, rows) in enumerate(zip(tower.layers, prompts)):
        skip = 1 if i == 0 else 1 + len(rows)
        x = layer(torch.cat([x[:, :1], rows.expand(x.shape[0], -1, -1), x[:, skip:]], 1))
    return tower.pool(x)


def attach(tower, method, inputs, seed):
    """(what is trained, the function that makes features of some rows, and of any inputs)."""
    tensor = lambda t: t.clone().requires_grad_()
    if method == "linear":
        kept = in_parts(tower.feature, inputs)
        return [], lambda part: kept[part], tower.feature
    if method == "vpt-deep":
        delta = [tensor(r) for r in real_rows(tower, inputs, seed)]
        anew = lambda x: prompted(tower, delta, x)
        return delta, lambda part: anew(inputs[part]), anew
    if method == "bias":
        modules = tower.linears + tower.norms
        width = lambda m: m.weight.shape[0]
        delta = [torch.zeros(width(m), requires_grad=True) for m in modules]
        for module, offset in zip(modules, delta):
            module.register_forward_hook(lambda m, x, y, offset=offset: y + offset)
        return delta, lambda part: tower.feature(inputs[part]), tower.feature
    assert method == "partial", method
    delta, last = [], len(tower.layers) - 1
    first = lambda x: head_of(tower, x, last)
    kept = in_parts(first, inputs)
    for module in tower.last:
        # A bias that the export lacks is trained from zero.
        start = module.bias if module.bias is not None else torch.zeros(module.weight.shape[0])
        parts = tensor(module.weight), tensor(start)
        delta += parts
        module.register_forward_hook(
            lambda m, x, y, w=parts[0], b=parts[1]:
            F.layer_norm(x[0], w.shape, w, b, m.eps) if w.dim() == 1 else F.linear(x[0], w, b))
    return delta, lambda part: tower.tail(kept[part], last), tower.feature


def head_of(tower, x, layer):
    """The input of layer number `layer`."""
    x = tower.embed(x)
    for run in tower.layers[:layer]:
        x = run(x)
    return x


def run(make_tower, data, method, epochs, seed):
    """Accuracy on the test rows, steps, last loss and seconds of one run."""
    (inputs, labels), (test, truth) = data["train"], data["test"]
    tower = make_tower()
    began = time.perf_counter()
    delta, forward, anew = attach(tower, method, inputs, seed)
    start = in_parts(anew, inputs)
    recipe = (*RATES[method], epochs)
    (weight, bias), steps, loss = reference.fit(start, forward, labels, delta, recipe, seed)
    seconds = time.perf_counter() - began
    scores = in_parts(anew, test) @ weight.T + bias
    accuracy = (scores.argmax(1) == truth).double().mean().item()
    return {"steps": steps, "accuracy": accuracy, "n": len(truth), "train_loss": loss,
            "seconds": round(seconds, 2)}


def preprocess(backbone):
    """How the backbone in that folder reads pictures; `None` for other inputs."""
    return json.loads((backbone / "backbone.json").read_text()).get("preprocess")
