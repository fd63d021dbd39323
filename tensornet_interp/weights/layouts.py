"""Layouts of checkpoints: a layout names the tensors that are left, right and down of a layer."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from tensornet_interp.checks import check_bool, check_choice, check_int, check_notes, check_number, check_text
from tensornet_interp.weights.wrappers import bare, unwrapped

INDEX = "{i}"


@dataclass(frozen=True)
class Layout:
    """A layout says which tensors of a checkpoint make up one layer.

    y = down((left x + left_bias) * (right x + right_bias) + hidden_bias) + bias + linear x + residual x

    Each field of this equation, apart from the number `residual`, is the name of a tensor, in which `{i}` stands for
    the index of the layer. Shapes are those of `nn.Linear`: left and right (rank, in), down (out, rank), left_bias,
    right_bias and hidden_bias (rank,), bias (out,), linear (out, in). `transposed=True` is for weights that stand
    behind their input, as in x @ W: left and right (in, rank), down (rank, out), linear (in, out).
    If left and right have the same name, one tensor (2 * rank, in), or (in, 2 * rank) if transposed, holds both, and
    `first` says which of the two comes first; the same holds for left_bias and right_bias. `down=None` means that the
    hidden units are the outputs. `dense` replaces left, right and down: it names one tensor (out, in, in), which the
    layer applies to one input twice. A bias or a linear part that is not in the file is zero, unless the config says
    that the model has biases; then a missing bias is an error.

    `gated`: whether the model applies a nonlinear gate to left x; a gate is a function, so no tensor shows it. `basis`:
    the coordinates of x, before or after a norm; if it is "", the entry "normalization" of the config decides.
    `ignore`: the names of tensors that belong to the same module but not to the map; any other tensor of the module is
    an error. `embedding` and `unembedding`, both (vocabulary, d_model) apart from (d_model, vocabulary) of a transposed
    unembedding, and `attention`: names for `load_tensor`.

    `prefix`: what stands before the names in the file, such as "student.". With None, the names are tried as they are
    and with and without the prefixes of wrappers: `module.` (DataParallel), `model.` (trainers) and `base_model.model.`
    (PEFT). `_orig_mod.`, `_fsdp_wrapped_module.` and `_checkpoint_wrapped_module.` are left out of all names.

    Raises ValueError if left or right has no name, or if `dense` is given together with left, right, down, transposed
    or a bias before the output; TypeError if `ignore` is a string and not a tuple.
    """

    left: str = ""
    right: str = ""
    down: str | None = None
    left_bias: str | None = None
    right_bias: str | None = None
    hidden_bias: str | None = None
    bias: str | None = None
    linear: str | None = None
    dense: str | None = None
    transposed: bool = False
    first: str = "left"
    residual: float = 0.0
    gated: bool = False
    basis: str = ""
    prefix: str | None = None
    ignore: tuple[str, ...] = ()
    embedding: str = ""
    unembedding: str = ""
    attention: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("first", self.first, ("left", "right"))
        for name in ("left", "right", "embedding", "unembedding"):
            check_text(name, getattr(self, name), empty=True)
        for name in ("down", "left_bias", "right_bias", "hidden_bias", "bias", "linear", "dense"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
        check_notes("ignore", self.ignore)
        check_notes("attention", self.attention)
        check_number("residual", self.residual)
        check_bool("gated", self.gated)
        check_bool("transposed", self.transposed)
        if self.prefix is not None:
            check_text("prefix", self.prefix, empty=True)
        parts = [self.left, self.right]
        inner = [self.down, self.left_bias, self.right_bias, self.hidden_bias, self.linear]
        if self.dense and (self.transposed or any([*parts, *inner])):
            raise ValueError("dense names the whole tensor; give it with a bias at most, or give left, right and down")
        if not self.dense and not all(parts):
            raise ValueError(f"left and right must both be named, got left={self.left!r} and right={self.right!r}")
        check_text("basis", self.basis, empty=True)

    @property
    def weights(self) -> dict[str, str]:
        """Return the names of the tensors that must be in the file, by their role, such as "left"."""
        named = {"dense": self.dense, "left": self.left, "right": self.right, "down": self.down}
        return {role: name for role, name in named.items() if name}

    @property
    def biases(self) -> dict[str, str]:
        """Return the names of the tensors that may be in the file, by their role, such as "left_bias"."""
        named = {"left_bias": self.left_bias, "right_bias": self.right_bias, "hidden_bias": self.hidden_bias}
        return {role: name for role, name in (named | {"bias": self.bias}).items() if name}

    @property
    def optional(self) -> dict[str, str]:
        """Return the names of all tensors that may be in the file, by their role: the biases and "linear"."""
        return self.biases | ({"linear": self.linear} if self.linear else {})

    def at(self, index: int) -> "Layout":
        """Return the layout of one layer: in every name, the index replaces `{i}`."""
        check_int("index", index, 0)
        filled: dict[str, Any] = {role: name.replace(INDEX, str(index)) for role, name in self._named().items()}
        for field in ("ignore", "attention"):
            filled[field] = tuple(name.replace(INDEX, str(index)) for name in getattr(self, field))
        return replace(self, **filled)

    def indices(self, names: Iterable[str]) -> list[int]:
        """Return the sorted indices of the layers in a checkpoint with these tensor names.

        A layer counts if the first tensor that the layout needs is there.
        """
        pattern = re.escape(next(iter(self.weights.values())))
        first, *others = pattern.split(re.escape(INDEX))
        regex = re.compile(first + (r"(\d+)" + r"\1".join(others) if others else "()"))
        found = [match[1] for match in map(regex.fullmatch, _listed(names)) if match]
        return sorted({int(digits or "0") for digits in found})

    def leftover(self, names: Iterable[str], index: int) -> list[str]:
        """Return the names of tensors of this layer that the layout does not name.

        A tensor belongs to the layer if it is in the module of the layer, or beside one of its weights.
        """
        here, names = self.at(index), _listed(names)
        known = {*here.weights.values(), *here.optional.values(), *here.ignore}
        levels = zip(*(pattern.split(".")[:-1] for pattern in self._named().values()), strict=False)
        module = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
        stems = [name.rpartition(".")[0] for name in here.weights.values()]
        owned = {f"{stem}." for stem in stems if stem}
        if INDEX in module:
            owned.add(module.replace(INDEX, str(index)) + ".")
        beside = {"bias"} if not all(stems) else set()
        return sorted(n for n in set(names) - known if n in beside or n.startswith(tuple(owned)))

    def in_file(self, names: Iterable[str], index: int) -> "Layout":
        """Return the layout with the names that its tensors have in a checkpoint with these tensor names.

        This applies `prefix`, or finds it. A layout that fits with no prefix is returned as it is. Raises ValueError
        if layer `index` is there twice, under two prefixes.
        """
        check_int("index", index, 0)
        names = _listed(names)
        if self.prefix is not None:
            return self._renamed(unwrapped, unwrapped(self.prefix))
        prefixes = sorted({name.removesuffix(bare(name)) for name in names} | {""})
        tried = [self._renamed(unwrapped), *(self._renamed(bare, prefix) for prefix in prefixes)]
        known = [layout for layout in tried if index in layout.indices(names)]
        whole = [layout for layout in known if set(layout.at(index).weights.values()) <= set(names)]
        if len({tuple(layout.weights.values()) for layout in whole}) > 1:
            one, other = (next(iter(layout.at(index).weights.values())) for layout in (whole[0], whole[-1]))
            raise ValueError(
                f"layer {index} is there twice, with {one!r} and with {other!r}: choose one by Layout(prefix=...), "
                "which is what stands before the names of the layout"
            )
        return next(iter([*whole, *known, *(layout for layout in tried if layout.indices(names)), self]))

    def _renamed(self, rename: Callable[[str], str], prefix: str = "") -> "Layout":
        fields: dict[str, Any] = {role: prefix + rename(name) for role, name in self._named().items()}
        return replace(self, **fields, ignore=tuple(prefix + rename(name) for name in self.ignore), prefix="")

    def _named(self) -> dict[str, str]:
        """Return the names of all tensors of the layer, by their role."""
        return self.weights | self.optional


def _listed(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"names must be names of tensors, got {names!r:.60}")
    return check_notes("names", tuple(names))


LAYOUTS = {
    "published": Layout(
        left="transformer.h.{i}.mlp.w.weight",  # (2 d_hidden, d_model): left rows above right rows
        right="transformer.h.{i}.mlp.w.weight",
        down="transformer.h.{i}.mlp.p.weight",  # (d_model, d_hidden)
        left_bias="transformer.h.{i}.mlp.w.bias",
        right_bias="transformer.h.{i}.mlp.w.bias",
        bias="transformer.h.{i}.mlp.p.bias",
        linear="transformer.h.{i}.mlp.l.weight",  # (d_model, d_model): the linear part of a linearized layer
        embedding="transformer.wte.weight",
        unembedding="lm_head.weight",
        attention=("transformer.h.{i}.attn.qkv.weight", "transformer.h.{i}.attn.o.weight"),
    ),
    "llama": Layout(
        left="model.layers.{i}.mlp.gate_proj.weight",  # the gate acts on this one
        right="model.layers.{i}.mlp.up_proj.weight",
        down="model.layers.{i}.mlp.down_proj.weight",
        left_bias="model.layers.{i}.mlp.gate_proj.bias",
        right_bias="model.layers.{i}.mlp.up_proj.bias",
        bias="model.layers.{i}.mlp.down_proj.bias",
        gated=True,
        basis="residual stream after post_attention_layernorm and its weight",
        embedding="model.embed_tokens.weight",
        unembedding="lm_head.weight",
    ),
    "transformer_lens": Layout(
        left="blocks.{i}.mlp.W_gate",  # (d_model, d_mlp); the gate acts on this one
        right="blocks.{i}.mlp.W_in",  # (d_model, d_mlp)
        down="blocks.{i}.mlp.W_out",  # (d_mlp, d_model)
        hidden_bias="blocks.{i}.mlp.b_in",  # a gated MLP adds it to the product
        bias="blocks.{i}.mlp.b_out",
        transposed=True,
        gated=True,
        basis="residual stream after ln2, and its weight if it has one",
        embedding="embed.W_E",
        unembedding="unembed.W_U",  # (d_model, vocabulary)
        attention=tuple(f"blocks.{{i}}.attn.W_{name}" for name in "QKVO"),
    ),
    # a ModuleList or Sequential of them; a single one is Layout(dense="weight", bias="bias")
    "torch_bilinear": Layout(dense="{i}.weight", bias="{i}.bias"),
}
SAVED_MODEL = "tensornet_interp"  # the layout that depends on the config: see saved_model_layout


def saved_model_layout(config: Mapping[str, Any], index: int) -> Layout:
    """Return the layout of a layer in a model that this project saved, from the content of its config.json.

    The entries "class" and "config" determine the layout. Raises ValueError if they name another class.
    """
    kind, options = config.get("class"), config.get("config")
    if kind not in ("BilinearClassifier", "LogicGateModel") or not isinstance(options, Mapping):
        raise ValueError(
            f"layout={SAVED_MODEL!r} reads the models that this project saved (BilinearClassifier, LogicGateModel); "
            f"config.json names class {kind!r}"
        )
    module = "blocks.{i}" if kind == "BilinearClassifier" else "bilinear"
    has_down = kind == "LogicGateModel" or bool(options.get("down"))
    if kind == "LogicGateModel":
        basis = "bits, 0 or 1"
    elif index > 0:
        basis = f"outputs of layer {index - 1}"
    else:
        basis = "pixels" if options.get("width") is None else "embedding"
    return Layout(
        left=f"{module}.left.weight",
        right=f"{module}.right.weight",
        down=f"{module}.down.weight" if has_down else None,
        left_bias=f"{module}.left.bias",
        right_bias=f"{module}.right.bias",
        bias=f"{module}.down.bias" if has_down else None,
        residual=options.get("residual", 0.0),
        basis=basis,
    )
