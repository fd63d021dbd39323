"""Which output features of a checkpoint are simple circuits, and of which input features? From the weights alone.

The script opens one layer of a safetensors file, without its model. Output features are the encoder rows of the
dictionary behind the MLP. Each has an interaction matrix, and the features are ranked by the share of its two leading
eigenvalues. Input features are the decoder columns of the dictionary before the MLP. The script prints and draws the
interactions between them for the first output feature of the ranking.

Without --checkpoint, the script makes a small checkpoint with a planted circuit: one output feature is an AND gate of
two input features, sym(a b^T), among noise. Such a gate has two eigenvalues of opposite sign. A real checkpoint is a
folder (weights in one file or in shards) or a hub name, in the published layout. Its dictionaries are folders:

    python examples/weights_alone.py --checkpoint owner/name --layer 3 --dictionaries 3-mlp-in-x4-k30 3-mlp-out-x4-k30
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from safetensors.torch import save
from torch import Tensor

from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.disk import replace_files
from tensornet_interp.features import (
    Dictionary,
    between,
    feature_interactions,
    label_directions,
    low_rank_correlation,
    overlap,
    projections,
    rank_by_structure,
)
from tensornet_interp.plots import correlation_by_rank, eigenvector_plane, interaction_submatrix
from tensornet_interp.weights import LAYOUTS, load_dictionary, load_layer, load_tensor, tensor_names

D_MODEL, D_HIDDEN, N_LAYER, FEATURES, VOCABULARY, ACTIVE = 64, 96, 2, 256, 50, 8
NOISE = 1.0  # Frobenius norm of all other hidden units in the planted matrix, over the norm of the AND gate


class AndGate(NamedTuple):
    """An `AndGate` names the planted features: output = first AND second."""

    output: int
    first: int
    second: int


def plant(folder: Path, *, seed: int, noise: float = NOISE, layer: int = 1) -> AndGate:
    """Write a checkpoint in the published layout and two dictionaries, with an AND gate in one layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator) / size[-1] ** 0.5

    dictionaries = {}
    for point in ("mlp-in", "mlp-out"):
        decoder = torch.nn.functional.normalize(draw(FEATURES, D_MODEL), dim=1).T.contiguous()  # (d, feature)
        parts = {"w_enc.weight": decoder.T.contiguous(), "w_dec.weight": decoder, "b_dec": 0.01 * draw(D_MODEL)}
        place = folder / f"{layer}-{point}-x{FEATURES // D_MODEL}-k{ACTIVE}"
        place.mkdir(parents=True, exist_ok=True)
        replace_files([(place / "model.safetensors", save(parts))])
        dictionaries[point] = decoder
    output, first, second = torch.randperm(FEATURES, generator=generator)[:3].tolist()
    tensors = {"transformer.wte.weight": draw(VOCABULARY, D_MODEL), "lm_head.weight": draw(VOCABULARY, D_MODEL)}
    for i in range(N_LAYER):
        left, right, down = draw(D_HIDDEN, D_MODEL), draw(D_HIDDEN, D_MODEL), draw(D_MODEL, D_HIDDEN)
        if i == layer:  # the last hidden unit becomes the AND gate
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
    replace_files([(folder / "model.safetensors", save(tensors))])
    config: dict[str, object] = {"n_head": 4, "n_layer": N_LAYER, "n_ctx": 32, "d_model": D_MODEL, "d_hidden": D_HIDDEN}
    config |= {"bilinear": True, "gate": None, "bias": False, "normalization": True, "tokenizer": "none"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return AndGate(output, first, second)


def open_all(
    checkpoint: str, index: int, dictionaries: Sequence[str | Path]
) -> tuple[BilinearLayer, Dictionary, Dictionary, Tensor]:
    """Read one layer, the dictionaries before and behind it, and the unembedding (token, d), and nothing else."""
    layer = load_layer(checkpoint, index, layout="published", dtype=torch.float32)
    inputs, outputs = (load_dictionary(folder, dtype=torch.float32) for folder in dictionaries)
    published = LAYOUTS["published"]
    untied = published.unembedding in tensor_names(checkpoint)
    name = published.unembedding if untied else published.embedding
    return layer, inputs, outputs, load_tensor(checkpoint, name, dtype=torch.float32)


def recovered(folder: Path, gate: AndGate, layer: int = 1) -> dict[str, bool]:
    """Check that the planted feature ranks first, has opposite signs, and has its two inputs as top interaction."""
    opened, inputs, outputs, _ = open_all(str(folder), layer, dictionary_folders(folder))
    (planted,) = (r for r in rank_by_structure(opened, outputs.encoder) if r["feature"] == gate.output)
    found = feature_interactions(opened, outputs.encoder[gate.output], inputs.decoder, bias=inputs.decoder_bias)
    return {
        "ranks first": planted["place"] == 1,
        "opposite signs": bool(planted["opposite"]),
        "top interaction": found.top(1)[0][:2] == tuple(sorted((gate.first, gate.second))),
    }


def dictionary_folders(folder: Path) -> tuple[Path, Path]:
    """Return the folders of the dictionaries that `plant` wrote: before the MLP, and behind it."""
    (before,), (behind,) = folder.glob("*-mlp-in-*"), folder.glob("*-mlp-out-*")
    return before, behind


def sample(dictionary: Dictionary, tokens: int, seed: int) -> Tensor:
    """Draw random codes (token, feature): k random features per token, with exponential values."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(tokens, dictionary.features, generator=generator).topk(dictionary.k or ACTIVE, dim=1).indices
    values = torch.empty(chosen.shape).exponential_(generator=generator)
    return torch.zeros(tokens, dictionary.features).scatter(1, chosen, values)


def ranking_table(records: Sequence[dict[str, int | float | bool | str]], count: int) -> str:
    """Return the first `count` records of the ranking as text."""
    lines = [f"basis: {records[0]['basis']}", "place  feature   share  eigenvalues            opposite  effective rank"]
    lines += [
        f"{r['place']:>5}  {r['feature']:>7}  {r['share']:>6.3f}  {r['first']:>+9.3g} {r['second']:>+9.3g}"
        f"    {'yes' if r['opposite'] else 'no':>8}  {r['effective_rank']:>14.1f}"
        for r in records[:count]
    ]
    return "\n".join(lines)


def label_table(layer: BilinearLayer, outputs: Dictionary, unembedding: Tensor, count: int = 4) -> str:
    """Return the nearest tokens and features of the leading output directions as text.

    The last line is the share of these directions that lies in the span of their nearest features.
    """
    directions = decompose(layer, "output_svd", blocks=count, rank=1).outputs.T
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
    """Print the ranking, the interactions and the checks, and return the figures by name."""
    print(f"{layer}\nbefore: {inputs}\nbehind: {outputs}")
    ranking = rank_by_structure(layer, outputs.encoder)
    print(f"\n{len(ranking)} output features of {layer.name} by the share of their two leading eigenvalues")
    print(ranking_table(ranking, 5))
    feature = int(ranking[0]["feature"])
    direction = outputs.encoder[feature]
    found = feature_interactions(layer, direction, inputs.decoder, bias=inputs.decoder_bias)
    print(f"\ninteractions of {len(found)} input features for output feature {feature}")
    print(found.table(6))
    print("\n".join(f"{kind}: {part}" for kind, part in found.statistics().items()))
    print("\n" + label_table(layer, outputs, unembedding))
    codes = sample(inputs, 2000, seed=0)  # (token, feature)
    alone = between(layer, inputs, Dictionary.from_matrix(direction[:, None]))  # from codes to this feature
    expected = alone(codes)[:, 0].double()
    gap = float((found(codes) - expected).norm() / expected.norm())
    print(f"\ninteractions against the layer between its dictionaries, {len(codes)} random inputs: {gap:.1e} apart")
    x = inputs.decode(codes)
    leading = [int(record["feature"]) for record in ranking[:12]]
    active = outputs.encode(layer(x)) > 0  # (token, feature)
    full = min(layer.shape[1], 2 * layer.rank)
    ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= full]
    records = low_rank_correlation(layer, outputs.encoder[leading], x, ks, active=active[:, leading])
    print(f"\ncorrelation of feature {feature} from k eigenpairs, the same inputs")
    for record in (r for r in records if r["feature"] == 0):
        print(f"  k = {record['k']:>2}: all {record['correlation']:.3f}, active {record['active_correlation']:.3f}")
    pair = decompose(layer, "eigen", directions=direction[None], rank=2)
    plane = projections(inputs.decoder, pair.eigenvectors[0]).coordinates
    name = f"output feature {feature}"
    return {
        "interactions": interaction_submatrix(found, 12),
        "plane": eigenvector_plane(plane, pair.eigenvalues[0], count=6, basis=layer.basis, name=name),
        "correlation": correlation_by_rank(records),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Make or open a checkpoint, print the tables and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", help="folder or hub name owner/name, in the published layout")
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--dictionaries", nargs=2, metavar=("IN", "OUT"), help="their folders: before, behind")
    parser.add_argument("--noise", type=float, default=NOISE, help="noise over AND gate in the planted checkpoint")
    parser.add_argument("--seeds", type=int, default=20, help="planted checkpoints in the count of recoveries")
    parser.add_argument("--out", type=Path, default=Path("out/weights_alone"), help="folder for figures and checkpoint")
    options = parser.parse_args(argv)
    if (options.checkpoint is None) != (options.dictionaries is None):
        parser.error("--checkpoint and --dictionaries go together")
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint, dictionaries = options.checkpoint, options.dictionaries
    if checkpoint is None:
        tries, folder = [], options.out / "planted"
        for seed in reversed(range(options.seeds)):
            gate = plant(folder, seed=seed, noise=options.noise, layer=options.layer)
            tries.append(recovered(folder, gate, options.layer))
        print(f"noise level {options.noise:g}: other hidden units over the AND gate, Frobenius, in the planted feature")
        for what in tries[0]:
            print(f"the planted feature, {what}: {sum(t[what] for t in tries)} of {len(tries)} seeds")
        print(f"seed 0 has output feature {gate.output} = {gate.first} AND {gate.second}")
        checkpoint, dictionaries = str(folder), dictionary_folders(folder)
    for name, figure in analyse(*open_all(checkpoint, options.layer, dictionaries)).items():
        path = options.out / f"{name}.png"
        figure.savefig(path, dpi=150)
        print(f"figure: {path}")


if __name__ == "__main__":
    main()
