"""What the heads of a language model of text do, and what one of its MLPs sees of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from models.published import TOKENIZER, load_transformer
from models.tables import write_table
from models.text import check_vocabulary, encode, load_tokenizer, load_tokens, read_stories
from models.transformer import Transformer
from models.vectors import windows
from tensornet_interp import BilinearLayer
from tensornet_interp.attention import (
    AttentionLayer,
    LinearMap,
    SequenceNetwork,
    copying_score,
    mean_ablated,
    prefix_matching_score,
    previous_token_score,
    read_back,
)
from tensornet_interp.decompositions import OutputSVD
from tensornet_interp.plots import similarity_matrix

DIRECTIONS = 3  # output directions of the MLP that are read back
TOP = 3  # tokens and pairs that are shown
FREQUENT = 3  # a token that is shown occurs at least as often in the text; rows of rarer ones are noise
Row = dict[str, Any]


def show_text(options: argparse.Namespace, out: Path) -> None:
    """Print and write the scores of all heads, and what the MLP sees of the heads below it, with their ablation."""
    folder = Path(options.model)
    model = load_transformer(folder).requires_grad_(False)
    layers = model.config.n_layers
    index = layers - 1 if options.layer is None else options.layer
    model.mlp(index)
    network = model.network().to(dtype=torch.float64)
    places = [folder / TOKENIZER, folder.parent / TOKENIZER]
    tokenizer = load_tokenizer(next((place for place in places if place.is_file()), places[0]))
    check_vocabulary(tokenizer, model.config.vocabulary)
    names = [tokenizer.decode([token], skip_special_tokens=False) for token in range(model.config.vocabulary)]
    text = Path(options.held_out or folder.resolve().parent / "held_out.npy")
    tokens = load_tokens(text).long() if text.suffix == ".npy" else encode(tokenizer, read_stories(text))
    rows = windows(tokens[: options.text_tokens], model.config.context)
    x = model.embedding(rows).to(torch.float64)
    counts = rows.flatten().bincount(minlength=len(names))
    names = [name if count >= FREQUENT else "" for name, count in zip(names, counts, strict=True)]
    write_table(out / "heads.csv", found := heads(model, network, rows, x, names, progress=options.progress))
    print("head   copying  previous token  prefix matching  raises most what it reads")
    for row in found:
        print(f"{row['head']:<6}{row['copying']:8.2f}{row['previous']:16.2f}{row['prefix']:17.2f}  {row['copies']}")
    write_table(out / "read_back.csv", seen(network, 2 * index + 1, x, names, out))
    print(f"\ntables and figures: {out}")


def heads(
    model: Transformer, network: SequenceNetwork, tokens: Tensor, x: Tensor, names: list[str], *, progress: bool
) -> list[Row]:
    """Return the scores of every head: copying from its weights, the others from its patterns on the text."""
    embedding, unembedding = (weight.T.to(torch.float64) for weight in (model.embedding.weight, model.head.weight))
    streams, found = network.streams(x), []
    for i, part in enumerate(tqdm(network, desc="heads", unit="part", disable=not progress)):
        layer = part.map
        if not isinstance(layer, AttentionLayer):
            continue
        pattern = layer.pattern(streams[i] if part.norm is None else part.norm(streams[i]))
        previous = previous_token_score(pattern).mean(0)
        prefix = prefix_matching_score(pattern, tokens).nanmean(0)
        for head in range(layer.heads):
            circuit = layer.ov(head).change_basis(rows=unembedding, columns=embedding)
            own = (circuit.left * circuit.right).sum(1)
            found.append(
                {
                    "head": f"{i // 2}.{head}",
                    "copying": copying_score(circuit),
                    "previous": float(previous[head]),
                    "prefix": float(prefix[head]),
                    "copies": strongest(own, names),
                }
            )
    return found


def strongest(values: Tensor, names: Sequence[str]) -> str:
    """Return the named tokens with the largest values, as text."""
    order = values.argsort(descending=True).tolist()
    return " ".join([repr(names[token]) for token in order if names[token]][:TOP])


def seen(network: SequenceNetwork, i: int, x: Tensor, names: list[str], out: Path) -> list[Row]:
    """Read the MLP in part i back through the heads below it, along the output directions that it uses most.

    One row per direction and head: its share by the weights alone (norms of all pairs with this head, over those of all
    pairs of heads), and the root mean square of the change of the output if the head writes its mean.
    """
    below = network.streams(x)[i - 1]
    pair = SequenceNetwork([network[i - 1], network[i]._replace(residual=0.0)])
    head = network[-1].map
    layer, mlp = pair[0].map, pair[1].map
    if not (isinstance(head, LinearMap) and isinstance(layer, AttentionLayer) and isinstance(mlp, BilinearLayer)):
        raise TypeError(f"parts must be attention, an MLP and a head: {layer!r}, {mlp!r}, {head!r}")
    found, before = [], pair(below)
    ablated = [mean_ablated(pair, 0, number, below)(below) - before for number in range(layer.heads)]
    outputs = OutputSVD(blocks=min(DIRECTIONS, before.shape[-1]), rank=1)(mlp).outputs
    for number, direction in enumerate(outputs.T):
        result = read_back(pair, 1, direction)
        norms = result.norms()
        words = strongest(head.weight @ direction, names)
        print(f"\ndirection {number} of the MLP in block {i // 2}, towards {words}; largest pairs:")
        for record in result.records()[:TOP]:
            print(f"  {record['first']}, {record['second']}: norm {record['norm']:.2f}")
        labels = [writer.name for writer in result.writers]
        title = f"What direction {number} of the MLP in block {i // 2} sees: norms of pairs"
        kept = norms.sum(1).nonzero()[:, 0].tolist()  # a model without biases has neither bias nor constant
        shown = norms[kept][:, kept]
        figure = similarity_matrix(
            shown, [labels[k] for k in kept], title, high=float(norms.max()), measure="norm of the form"
        )
        figure.savefig(out / f"read_back_{number}.png", dpi=120)
        weights = norms[: layer.heads].sum(1) / norms[: layer.heads].sum()
        effects = torch.stack([(change @ direction).square().mean().sqrt() for change in ablated])
        size = float((before @ direction).std())
        order = weights.argsort(descending=True).tolist()
        print(f"  {'head':<6}{'share by weights':>18}{'change without it':>20}   (deviation of the output: {size:.2f})")
        for place in order:
            print(f"  {i // 2}.{place:<4}{float(weights[place]):18.2f}{float(effects[place]):20.2f}")
            row = {"direction": number, "tokens": words, "head": f"{i // 2}.{place}"}
            found.append(row | {"share": float(weights[place]), "change": float(effects[place]), "deviation": size})
    return found
