"""Which features of lower layers make a feature of a language model, and do the edges hold in the whole model?

First a circuit of three layers is planted among dense weights. Its pairs are read from the weights, and beside them
from attribution patching (gradient times activation), which sees single features only; precision and recall of both.
Then, with --model, autoencoders are trained on a small bilinear language model: on the stream before layer n - 3, and
before and behind the MLPs of the last three layers. The graph of some features behind the last MLP is built at mean
patterns and norms, with R squared on held-out text. Its 20 strongest edges are tested on held-out text in the whole
model, and so are 20 random edges whose ends are active at once. Every finished stage is kept in --out.

    python examples/feature_graph.py --out out/feature_graph
    python examples/feature_graph.py --model out/language_model/none-0 --out out/feature_graph
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.parts.circuit_job import Job, weights_digest
from examples.parts.circuit_tables import Names, print_rows
from examples.parts.graph_planted import planted_rows
from models.contexts import strongest
from models.sae import SAEConfig, autoencoder_at
from models.tables import read_table, summarise, write_table
from models.vectors import vectors_at
from tensornet_interp import load, save
from tensornet_interp.disk import read_json, replace_files
from tensornet_interp.features import Dictionary, rank_by_structure
from tensornet_interp.graphs import EDGE_RULE, FeatureGraph, edge_tests, feature_graph, random_edges
from tensornet_interp.plots import draw_feature_graph
from tensornet_interp.weights import load_dictionary, save_dictionary

LAYERS = 3  # the last layers, whose MLPs have dictionaries
FEWEST = 20  # a seed is active in at least so many windows of the text of averages
SHARES = ("pair_precision", "pair_recall", "single_precision", "single_recall")
Place = tuple[int, str]
Row = dict[str, Any]


class Graphs(Job):
    """The language model, its text and the dictionaries of several layers; see `Job`."""

    def hook_points(self) -> list[tuple[Place, int, str]]:
        """Return the places in the stack, with the layer and the hook point of each. Layer n has parts 2 n, 2 n + 1."""
        count = self.model.config.n_layers
        if count < LAYERS or self.model.config.gate != "none":
            raise ValueError(f"{self.options.model} must be bilinear and have at least {LAYERS} layers, got {count}")
        first = count - LAYERS
        points: list[tuple[Place, int, str]] = [((2 * first, "stream"), first, "resid-pre")]
        for layer in range(first, count):
            points += [((2 * layer + 1, "in"), layer, "mlp-in"), ((2 * layer + 1, "out"), layer, "mlp-out")]
        return points

    def config(self) -> SAEConfig:
        """Return the training options of all autoencoders."""
        o = self.options
        return SAEConfig(o.expansion, o.k, o.lr, o.batch_size, o.steps, buffer=o.buffer, seed=o.seed)

    def dictionaries(self) -> dict[Place, Dictionary]:
        """Return the dictionaries by place; those that are not on disk are trained first."""
        config, parent, found = self.config(), self.out / f"autoencoders-{self.options.steps}", {}
        for place, layer, point in self.hook_points():
            folder = parent / f"{layer}-{point}-x{config.expansion}-k{config.k}"
            if not folder.is_dir():
                print(f"training {folder.name}")
                made, _ = autoencoder_at(
                    self.model, self.text["train"], layer, point, config, progress=self.options.progress
                )
                save_dictionary(made, parent)
            found[place] = load_dictionary(folder, device=self.options.device)
        return found

    def embedded(self, rows: Tensor) -> Tensor:
        """Return the inputs of the stack for windows of tokens."""
        found: Tensor = self.model.embedding(rows.to(self.model.embedding.weight.device))
        return found


def seeds_of(job: Graphs, dictionaries: dict[Place, Dictionary]) -> list[tuple[int, str, int]]:
    """Return the first features behind the last MLP, by the share of two eigenvalues, that are active often enough."""
    layer = job.model.config.n_layers - 1
    place = (2 * layer + 1, "out")
    rows = job.text["train"][: job.options.windows]
    count = torch.zeros(dictionaries[place].features, device="cpu")
    for y in vectors_at(job.model, rows, layer, "mlp-out"):
        count += (dictionaries[place].encode(y) > 0).any(1).sum(0).cpu()
    ranked = rank_by_structure(job.model.mlp(layer).layer(), dictionaries[place].encoder)
    often = [int(record["feature"]) for record in ranked if count[int(record["feature"])] >= FEWEST]
    if not often:
        raise ValueError(f"no feature is active in {FEWEST} of {len(rows)} windows; raise --windows or --steps")
    return [(*place, feature) for feature in often[: job.options.seeds]]


def graph_of(job: Graphs, dictionaries: dict[Place, Dictionary]) -> FeatureGraph:
    """Return the averaged graph, from disk if it is there."""
    path = job.out / "graph.safetensors"
    if not path.is_file():
        windows = job.options.windows
        graph = feature_graph(
            job.model.network(),
            dictionaries,
            seeds_of(job, dictionaries),
            job.embedded(job.text["train"][:windows]),
            mode="averaged",
            held_out=job.embedded(job.held_rows[: windows // 2]),
            nodes=job.options.nodes,
        )
        save(graph, path)
    found = load(path)
    if not isinstance(found, FeatureGraph):
        raise TypeError(f"{path} holds a {type(found).__name__}, not a graph")
    return found


def tests_of(job: Graphs, graph: FeatureGraph, dictionaries: dict[Place, Dictionary]) -> list[Row]:
    """Return the verdicts on the strongest edges and on random ones like them."""
    network, x = job.model.network(), job.embedded(job.held_rows[job.options.windows // 2 :])
    edges = graph.top(job.options.edges)
    found = [("strongest", verdict) for verdict in edge_tests(graph, network, dictionaries, x, edges)]
    other, drawn = random_edges(graph, network, dictionaries, x, edges, seed=job.options.seed)
    found += [("random", verdict) for verdict in edge_tests(other, network, dictionaries, x, drawn)]
    return [{"edges": kind} | verdict.records()[0] for kind, verdict in found]


def fits(graph: FeatureGraph) -> list[Row]:
    """Return the mean R squared of the targets of each place."""
    rows: dict[str, list[Any]] = {}
    for target in graph.targets:
        node = graph.nodes[target.node]
        rows.setdefault(f"{node.part} {node.place}", []).append(target)
    names = ("r_squared", "r_squared_kept", "r_squared_graph", "share_left_out")
    return [
        {"place": place, "targets": len(found), "explained": graph.explained[place]}
        | {name: sum(getattr(target, name) for target in found) / len(found) for name in names}
        for place, found in rows.items()
    ]


def names_of(job: Graphs, graph: FeatureGraph, dictionaries: dict[Place, Dictionary]) -> dict[Place, list[str]]:
    """Return for every feature the token on which it peaks most often."""
    used = {(node.part, node.place) for node in graph.nodes if node.kind == "feature"}
    made = {}
    for place, layer, point in job.hook_points():
        if place in used:
            found = Names.of(
                strongest(dictionaries[place], job.model, layer, point, job.shown_rows), job.shown_rows, job.piece
            )
            made[place] = [found[feature] for feature in range(dictionaries[place].features)]
    return made


def language(job: Graphs) -> None:
    """Train, build, test and draw."""
    dictionaries = job.dictionaries()
    graph = graph_of(job, dictionaries)
    print(graph)
    print_rows("targets by place: mean R squared on held-out text", fits(graph))
    tests = table(job.out / "tests.csv", lambda: tests_of(job, graph, dictionaries))
    print(f"\nthe rule. {EDGE_RULE}")
    print_rows("edges, tested on held-out text in the whole model", tests)
    for kind in ("strongest", "random"):
        verdicts = [row["verdict"] for row in tests if row["edges"] == kind]
        print(f"{kind}: {verdicts.count('confirmed')} confirmed, {verdicts.count('refuted')} refuted", end=", ")
        print(f"{verdicts.count('untested')} untested")
    names = names_of(job, graph, dictionaries)
    draw_feature_graph(graph, names).savefig(job.out / "graph.png", dpi=150)
    prompt = job.held_rows[0]
    seed = graph.nodes[graph.targets[0].node]
    place = (seed.part, seed.place, seed.feature)
    for row in job.held_rows:  # the first window in which the seed is active
        (vectors,) = vectors_at(job.model, row[None], (seed.part - 1) // 2, "mlp-out")
        if bool((dictionaries[seed.part, seed.place].encode(vectors)[..., seed.feature] > 0).any()):
            prompt = row
            break
    given = feature_graph(job.model.network(), dictionaries, place, job.embedded(prompt), nodes=job.options.nodes)
    print(f"\none prompt: {job.tokenizer.decode(prompt.tolist())!r}\n{given}")
    draw_feature_graph(given, names).savefig(job.out / "prompt.png", dpi=150)
    print(f"\nfigures: {job.out / 'graph.png'}, {job.out / 'prompt.png'}")


def table(path: Path, make: Callable[[], Sequence[Row]]) -> list[Row]:
    """Return the rows of a file; if it is missing, make and write them first."""
    if not path.is_file():
        write_table(path, make())
    return list(read_table(path))


def check_settings(path: Path, settings: Row) -> None:
    """Raise ValueError, showing both, if the folder holds results of other settings; otherwise write them."""
    settings = json.loads(json.dumps(settings))
    if path.is_file():
        before = read_json(path)
        changed = {key: (before.get(key), value) for key, value in settings.items() if before.get(key) != value}
        if changed:
            raise ValueError(
                f"{path.parent} holds results of other settings, (there, now): {changed}; take another --out"
            )
    replace_files([(path, json.dumps(settings, indent=2).encode())])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the missing stages and report."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--noises", type=float, nargs="+", default=[0.3, 1.0, 3.0], help="norms of the dense weights")
    made.add_argument("--planted-seeds", type=int, default=5, help="number of planted circuits per noise, or 0")
    made.add_argument("--model", help="folder of a bilinear language model; its tokenizer is there or above")
    made.add_argument("--text", help="training text of the autoencoders; default: train.npy above --model")
    made.add_argument("--held-out", help="text that nothing was trained on; default: held_out.npy above --model")
    made.add_argument("--text-tokens", type=int, help="number of tokens of --text to use; default: all")
    made.add_argument("--held-out-tokens", type=int, default=100_000)
    made.add_argument("--shown-tokens", type=int, default=50_000, help="tokens of --text searched for names")
    made.add_argument("--expansion", type=int, default=4, help="number of features divided by the width")
    made.add_argument("--k", type=int, default=16, help="active features per token")
    made.add_argument("--lr", type=float, default=1e-3)
    made.add_argument("--batch-size", type=int, default=1024, help="tokens per batch")
    made.add_argument("--steps", type=int, default=800, help="steps of every autoencoder")
    made.add_argument("--buffer", type=int, default=2**15, help="vectors that are shuffled together")
    made.add_argument("--windows", type=int, default=100, help="windows of text for averages; half as many held out")
    made.add_argument("--seeds", type=int, default=3, help="features behind the last MLP, from the top of the ranking")
    made.add_argument("--nodes", type=int, default=20, help="features per place with edges of their own")
    made.add_argument("--edges", type=int, default=20, help="edges that are tested")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="cpu")
    made.add_argument("--no-progress", dest="progress", action="store_false")
    made.add_argument("--out", type=Path, default=Path("out/feature_graph"))
    options = made.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    given = {name: value for name, value in vars(options).items() if name not in ("out", "device", "progress")}
    of_plants = ("noises", "planted_seeds")
    if options.planted_seeds:
        check_settings(options.out / "planted.json", {name: given[name] for name in of_plants})
        rows = table(options.out / "planted.csv", lambda: planted_rows(options.noises, options.planted_seeds))
        print_rows("planted circuits: means over seeds", summarise(rows, ("noise", "method"), SHARES))
    if options.model:
        settings = {name: value for name, value in given.items() if name not in of_plants}
        check_settings(options.out / "settings.json", settings | {"weights": weights_digest(options.model)})
        language(Graphs(options, options.out))


if __name__ == "__main__":
    main()
