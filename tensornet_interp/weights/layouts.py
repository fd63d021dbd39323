"""Which tensors of a checkpoint are a layer's left, right and down: patterns, and the layouts that are known."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tensornet_interp.checks import check_choice

INDEX = "{i}"


@dataclass(frozen=True)
class Names:
    """y = down((left x + left_bias) * (right x + right_bias)) + bias + residual x, by the names of its tensors.

    Each is a tensor name with `{i}` for the layer's index, in `nn.Linear` layout: left, right (rank, in), down
    (out, rank), biases (rank,), (rank,), (out,). The same name for left and right says that they are stacked in one
    tensor (2 rank, in), the rows of `first` above the other's; so for the biases. `down=None`: the outputs are the
    hidden units. `dense` in their place names one tensor (out, in, in), applied to one input twice. A bias that the
    file has not is zero, unless the config says bias.

    `gated`: the layout has a gate on `left`, which is no tensor. `inputs` says in which space x lives, before or after
    a norm ("" means: as the config's `normalization` says). `ignore` names tensors beside the layer's that are known to
    be no part of the map; any other tensor of the same module is an error. `embedding` and `unembedding`
    (vocabulary, d_model) and `attention` are for `load_tensor`.
    """

    left: str = ""
    right: str = ""
    down: str | None = None
    left_bias: str | None = None
    right_bias: str | None = None
    bias: str | None = None
    dense: str | None = None
    first: str = "left"
    residual: float = 0.0
    gated: bool = False
    inputs: str = ""
    ignore: tuple[str, ...] = ()
    embedding: str = ""
    unembedding: str = ""
    attention: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("first", self.first, ("left", "right"))
        if isinstance(self.ignore, str):
            raise TypeError(f"ignore must be a tuple of patterns, got the string {self.ignore!r}")
        parts = [self.left, self.right]
        if self.dense and (any(parts) or self.down or self.left_bias or self.right_bias):
            raise ValueError("dense names the whole tensor; give it with a bias at most, or left, right and down")
        if not self.dense and not all(parts):
            raise ValueError(f"left and right must both be named, got left={self.left!r} and right={self.right!r}")
        if self.inputs and not self.inputs.startswith("inputs in "):
            raise ValueError(f"inputs must read 'inputs in ...', as a layer's basis does, got {self.inputs!r}")

    @property
    def weights(self) -> dict[str, str]:
        """Patterns of what must be in the file, by role."""
        named = {"dense": self.dense, "left": self.left, "right": self.right, "down": self.down}
        return {role: pattern for role, pattern in named.items() if pattern}

    @property
    def biases(self) -> dict[str, str]:
        """Patterns of what may be in the file, by role."""
        named = {"left_bias": self.left_bias, "right_bias": self.right_bias, "bias": self.bias}
        return {role: pattern for role, pattern in named.items() if pattern}

    def indices(self, names: Iterable[str]) -> list[int]:
        """The layers of which the file has the first weight."""
        pattern = re.escape(next(iter(self.weights.values())))
        first, *others = pattern.split(re.escape(INDEX))
        regex = re.compile(first + (r"(\d+)" + r"\1".join(others) if others else "()"))
        found = [match[1] for match in map(regex.fullmatch, names) if match]
        return sorted({int(digits or "0") for digits in found})

    def leftover(self, names: Iterable[str], index: int) -> list[str]:
        """Tensors in the layer's own module, or beside one of its weights, that no pattern names."""
        patterns = [*self.weights.values(), *self.biases.values()]
        levels = zip(*(pattern.split(".")[:-1] for pattern in patterns), strict=False)
        module = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
        stems = [pattern.rpartition(".")[0] for pattern in self.weights.values()]
        owned = {f"{fill(stem, index)}." for stem in (*stems, module if INDEX in module else "") if stem}
        known = {fill(pattern, index) for pattern in (*patterns, *self.ignore)}
        beside = {"bias"} if not all(stems) else set()
        return sorted(n for n in set(names) - known if n in beside or n.startswith(tuple(owned)))


def fill(pattern: str, index: int) -> str:
    """The name of the layer's tensor."""
    return pattern.replace(INDEX, str(index))


PUBLISHED = Names(
    left="transformer.h.{i}.mlp.w.weight",  # (2 d_hidden, d_model): left rows above right rows
    right="transformer.h.{i}.mlp.w.weight",
    down="transformer.h.{i}.mlp.p.weight",  # (d_model, d_hidden)
    left_bias="transformer.h.{i}.mlp.w.bias",
    right_bias="transformer.h.{i}.mlp.w.bias",
    bias="transformer.h.{i}.mlp.p.bias",
    embedding="transformer.wte.weight",
    unembedding="lm_head.weight",
    attention=("transformer.h.{i}.attn.qkv.weight", "transformer.h.{i}.attn.o.weight"),
)
LLAMA = Names(
    left="model.layers.{i}.mlp.gate_proj.weight",  # the gate acts on this one
    right="model.layers.{i}.mlp.up_proj.weight",
    down="model.layers.{i}.mlp.down_proj.weight",
    left_bias="model.layers.{i}.mlp.gate_proj.bias",
    right_bias="model.layers.{i}.mlp.up_proj.bias",
    bias="model.layers.{i}.mlp.down_proj.bias",
    gated=True,
    inputs="inputs in the residual stream after post_attention_layernorm and its weight",
    embedding="model.embed_tokens.weight",
    unembedding="lm_head.weight",
)
TORCH_BILINEAR = Names(dense="{i}.weight", bias="{i}.bias")  # a ModuleList or Sequential; alone: Names(dense="weight")

PRESETS: dict[str, Names | None] = {
    "published": PUBLISHED,
    "llama": LLAMA,
    "torch_bilinear": TORCH_BILINEAR,
    "tensornet_interp": None,  # the config of the saved model says which: see own_names
}


def own_names(config: Mapping[str, Any], index: int) -> Names:
    """The names of a model that this project saved: "class" and "config" of its config.json decide."""
    kind, options = config.get("class"), config.get("config")
    if kind not in ("BilinearClassifier", "GateModel") or not isinstance(options, Mapping):
        raise ValueError(
            "names='tensornet_interp' reads the models that this project saved (BilinearClassifier, GateModel); "
            f"config.json names class {kind!r}"
        )
    module = "blocks.{i}" if kind == "BilinearClassifier" else "bilinear"
    has_down = kind == "GateModel" or bool(options.get("down"))
    if kind == "GateModel":
        inputs = "inputs in bits, 0 or 1"
    elif index > 0:
        inputs = f"inputs in the output basis of layer {index - 1}"
    else:
        inputs = f"inputs in the {'pixel (input)' if options.get('width') is None else 'embedding'} basis"
    return Names(
        left=f"{module}.left.weight",
        right=f"{module}.right.weight",
        down=f"{module}.down.weight" if has_down else None,
        left_bias=f"{module}.left.bias",
        right_bias=f"{module}.right.bias",
        bias=f"{module}.down.bias" if has_down else None,
        residual=options.get("residual", 0.0),
        inputs=inputs,
    )
