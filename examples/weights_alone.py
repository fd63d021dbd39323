"""Which output features of a checkpoint are simple circuits, and of which input features? From the weights alone.

A layer is opened from a safetensors file, without its model. Output features are the encoder rows of the dictionary
behind the MLP: each has an interaction matrix, and they are ranked by the share of its two leading eigenvalues. Input
features are the decoder columns of the dictionary before the MLP: the interactions of the first feature in the ranking
are printed and drawn. Without --checkpoint a small one is made, in which one output feature is an AND gate of two
input features, sym(a b^T), among noise: two eigenvalues of opposite sign.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.features import (
    feature_interactions,
    label_directions,
    low_rank_correlation,
    overlap,
    projections,
    rank_by_structure,
)
from tensornet_interp.plots import correlation_by_rank, eigenvector_plane, interaction_submatrix

D_MODEL, D_HIDDEN, N_LAYER, FEATURES, VOCABULARY, ACTIVE = 64, 96, 2, 256, 50, 8
NAME = re.compile(r"(?P<layer>\d+)-(?P<point>.+)-x(?P<expansion>\d+)-k(?P<k>\d+)")  # of a dictionary's folder
NOISE = 1.0  # Frobenius norm of all other hidden units in the planted matrix, over that of the gate


class Dictionary(NamedTuple):
    """Features at one point of a model."""

    encoder: Tensor  # (feature, d)
    decoder: Tensor  # (d, feature)
    bias: Tensor  # (d,), added to what is decoded
    point: str
    k: int  # active features a token


class Gate(NamedTuple):
    """What was planted: output = first AND second."""

    output: int
    first: int
    second: int


def plant(folder: Path, *, seed: int, noise: float = NOISE, layer: int = 1) -> Gate:
    """Write a checkpoint in the published layout and two dictionaries, with a gate in one layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator) / size[-1] ** 0.5

    dictionaries = {}
    for point in ("mlp-in", "mlp-out"):
        decoder = torch.nn.functional.normalize(draw(FEATURES, D_MODEL), dim=1).T.contiguous()  # (d, feature)
        parts = {"w_enc.weight": decoder.T.contiguous(), "w_dec.weight": decoder, "b_dec": 0.01 * draw(D_MODEL)}
        place = folder / f"{layer}-{point}-x{FEATURES // D_MODEL}-k{ACTIVE}"
        place.mkdir(parents=True, exist_ok=True)
        save_file(parts, place / "model.safetensors")
        dictionaries[point] = decoder
    output, first, second = torch.randperm(FEATURES, generator=generator)[:3].tolist()
    tensors = {"transformer.wte.weight": draw(VOCABULARY, D_MODEL), "lm_head.weight": draw(VOCABULARY, D_MODEL)}
    for i in range(N_LAYER):
        left, right, down = draw(D_HIDDEN, D_MODEL), draw(D_HIDDEN, D_MODEL), draw(D_MODEL, D_HIDDEN)
        if i == layer:  # the last hidden unit becomes the gate
            down[:, -1] = 0
            direction = dictionaries["mlp-out"][:, output]
            others = BilinearLayer.from_weights(left=left, right=right, down=down).interaction_matrix(direction)
            left[-1], right[-1] = dictionaries["mlp-in"][:, first], dictionaries["mlp-in"][:, second]
            gate = (torch.outer(left[-1], right[-1]) + torch.outer(right[-1], left[-1])) / 2
            down[:, -1] = direction * float(others.norm() / (noise * gate.norm()))
        tensors[f"transformer.h.{i}.mlp.w.weight"] = torch.cat([left, right])  # (2 hidden, d), left rows above
        tensors[f"transformer.h.{i}.mlp.p.weight"] = down
        tensors[f"transformer.h.{i}.attn.qkv.weight"] = draw(3 * D_MODEL, D_MODEL)
        tensors[f"transformer.h.{i}.attn.o.weight"] = draw(D_MODEL, D_MODEL)
    save_file(tensors, folder / "model.safetensors")
    config = {"n_layer": N_LAYER, "d_model": D_MODEL, "d_hidden": D_HIDDEN, "bilinear": True, "gate": None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return Gate(output, first, second)


def open_layer(folder: Path, index: int, point: str) -> BilinearLayer:
    """One MLP of a checkpoint in the published layout; its inputs are what the dictionary before it describes."""
    # stands where load_layer(folder, index, names="published") goes
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        both = file.get_tensor(f"transformer.h.{index}.mlp.w.weight")
        down = file.get_tensor(f"transformer.h.{index}.mlp.p.weight")
    left, right = both.float().chunk(2)
    history = (f"inputs in {point}",)
    return BilinearLayer.from_weights(left=left, right=right, down=down.float(), name=f"layer {index}", history=history)


def open_dictionary(folder: Path) -> Dictionary:
    """A dictionary in the published layout; the folder's name says where it stands and how many features are active."""
    named = NAME.fullmatch(folder.name)
    if named is None:
        raise ValueError(f"a dictionary's folder is named layer-point-xEXPANSION-kK, got {folder.name!r}")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        encoder, decoder, bias = (file.get_tensor(key).float() for key in ("w_enc.weight", "w_dec.weight", "b_dec"))
    return Dictionary(encoder, decoder, bias, named["point"], int(named["k"]))


def open_unembedding(folder: Path) -> Tensor:
    """(token, d)."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return file.get_tensor("lm_head.weight").float()


def recovered(folder: Path, gate: Gate, layer: int = 1) -> dict[str, bool]:
    """Whether the planted feature ranks first, with opposite signs, and its two inputs hold the top interaction."""
    inputs, outputs = (open_dictionary(path) for path in dictionary_folders(folder))
    opened = open_layer(folder, layer, inputs.point)
    (planted,) = (r for r in rank_by_structure(opened, outputs.encoder) if r["feature"] == gate.output)
    found = feature_interactions(opened, outputs.encoder[gate.output], inputs.decoder, bias=inputs.bias)
    return {
        "ranks first": planted["place"] == 1,
        "opposite signs": bool(planted["opposite"]),
        "top interaction": found.top(1)[0][:2] == tuple(sorted((gate.first, gate.second))),
    }


def dictionary_folders(folder: Path) -> tuple[Path, Path]:
    """Those that `plant` wrote: before the MLP, behind it."""
    (before,), (behind,) = folder.glob("*-mlp-in-*"), folder.glob("*-mlp-out-*")
    return before, behind


def sample(dictionary: Dictionary, tokens: int, seed: int) -> Tensor:
    """Inputs as the dictionary describes them: k random features a token, exponential codes. No data is read."""
    generator = torch.Generator().manual_seed(seed)
    size = dictionary.decoder.shape[1]
    chosen = torch.rand(tokens, size, generator=generator).topk(dictionary.k, dim=1).indices
    codes = torch.zeros(tokens, size).scatter(1, chosen, torch.empty(chosen.shape).exponential_(generator=generator))
    return codes @ dictionary.decoder.T + dictionary.bias


def ranking_table(records: Sequence[dict[str, int | float | bool | str]], count: int) -> str:
    """The first features by structure."""
    lines = [f"place  feature   share  eigenvalues            opposite  effective rank  ({records[0]['space']})"]
    lines += [
        f"{r['place']:>5}  {r['feature']:>7}  {r['share']:>6.3f}  {r['first']:>+9.3g} {r['second']:>+9.3g}"
        f"    {'yes' if r['opposite'] else 'no':>8}  {r['effective_rank']:>14.1f}"
        for r in records[:count]
    ]
    return "\n".join(lines)


def label_table(layer: BilinearLayer, outputs: Dictionary, unembedding: Tensor, count: int = 4) -> str:
    """The leading output directions by the tokens and features nearest to them, and what the two label sets share."""
    directions = decompose(layer, "output_svd", blocks=count, rank=1).directions
    lines = ["output_svd: nearest tokens and output features by cosine"]
    tokens, features = (label_directions(directions, rows, n=3) for rows in (unembedding, outputs.encoder))
    for block, both in enumerate(zip(tokens, features, strict=True)):
        text = ["  ".join(f"{label.name} {label.cosine:+.2f}" for label in labels) for labels in both]
        lines.append(f"{block:>5}  tokens {text[0]};  features {text[1]}")
    nearest = sorted({int(labels[0].name) for labels in features})
    shared = overlap(directions, outputs.encoder[nearest]).first_in_second
    lines.append(f"share of these {count} directions inside the span of their nearest features: {shared:.3f}")
    return "\n".join(lines)


def analyse(layer: BilinearLayer, inputs: Dictionary, outputs: Dictionary, unembedding: Tensor) -> dict[str, Figure]:
    """Print what the weights say, and draw it."""
    ranking = rank_by_structure(layer, outputs.encoder)
    print(f"\n{len(ranking)} output features of {layer.name} by the share of their two leading eigenvalues")
    print(ranking_table(ranking, 5))
    feature = int(ranking[0]["feature"])
    direction = outputs.encoder[feature]
    found = feature_interactions(layer, direction, inputs.decoder, bias=inputs.bias)
    print(f"\ninteractions of {len(found)} input features for output feature {feature}")
    print(found.table(6))
    print("\n".join(f"{kind}: {part}" for kind, part in found.statistics().items()))
    print("\n" + label_table(layer, outputs, unembedding))
    x = sample(inputs, 2000, seed=0)
    leading = [int(record["feature"]) for record in ranking[:12]]
    before_topk = (layer(x) - outputs.bias) @ outputs.encoder.T  # (token, feature)
    active = torch.zeros_like(before_topk, dtype=torch.bool).scatter(1, before_topk.topk(outputs.k).indices, True)
    full = min(layer.shape[1], 2 * layer.rank)
    ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= full]
    records = low_rank_correlation(layer, outputs.encoder[leading], x, ks, active=active[:, leading])
    print(f"\ncorrelation of feature {feature} from k eigenpairs, {len(x)} random inputs made from the dictionary")
    for record in (r for r in records if r["feature"] == 0):
        print(f"  k = {record['k']:>2}: all {record['correlation']:.3f}, active {record['active_correlation']:.3f}")
    pair = decompose(layer, "eigen", directions=direction[None], rank=2)
    plane = projections(inputs.decoder, pair.eigenvectors[0]).coordinates
    name = f"output feature {feature}"
    return {
        "interactions": interaction_submatrix(found, 12),
        "plane": eigenvector_plane(plane, pair.eigenvalues[0], count=6, space=layer.basis, name=name),
        "correlation": correlation_by_rank(records),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Make or open a checkpoint, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="folder with model.safetensors in the published layout")
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--dictionaries", type=Path, nargs=2, metavar=("IN", "OUT"), help="before and behind the MLP")
    parser.add_argument("--noise", type=float, default=NOISE, help="noise over gate of the planted checkpoint")
    parser.add_argument("--seeds", type=int, default=20, help="planted checkpoints in the count of recoveries")
    parser.add_argument("--out", type=Path, default=Path("out/weights_alone"), help="folder for figures and checkpoint")
    options = parser.parse_args(argv)
    if (options.checkpoint is None) != (options.dictionaries is None):
        parser.error("--checkpoint and --dictionaries go together")
    options.out.mkdir(parents=True, exist_ok=True)
    folder, dictionaries = options.checkpoint, options.dictionaries
    if folder is None:
        tries = []
        for seed in reversed(range(options.seeds)):
            folder = options.out / "planted"
            gate = plant(folder, seed=seed, noise=options.noise, layer=options.layer)
            tries.append(recovered(folder, gate, options.layer))
        print(f"noise level {options.noise:g}: other hidden units over the gate, Frobenius, in the planted feature")
        for what in tries[0]:
            print(f"the planted feature, {what}: {sum(t[what] for t in tries)} of {len(tries)} seeds")
        print(f"seed 0 has output feature {gate.output} = {gate.first} AND {gate.second}")
        dictionaries = dictionary_folders(folder)
    inputs, outputs = (open_dictionary(path) for path in dictionaries)
    layer = open_layer(folder, options.layer, inputs.point)
    for name, figure in analyse(layer, inputs, outputs, open_unembedding(folder)).items():
        path = options.out / f"{name}.png"
        figure.savefig(path, dpi=150)
        print(f"figure: {path}")


if __name__ == "__main__":
    main()
