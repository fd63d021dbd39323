"""Which features of one MLP of a language model are computed by small circuits, and do the circuits hold on new text?

Autoencoders are trained before and behind the MLP ("mlp-in", "mlp-out"). Output features are ranked by the share of
their two leading eigenvalues, from weights alone. For the first three that fire, and for the first one about negation,
the input features of the twelve strongest interactions are the circuit: they are drawn, shown in text, and removed on
held-out text, beside as much of other active features. How well a few eigenvectors predict the activations is measured
against the training length of the autoencoders. Every stage is kept in --out; what is there is not done again.

    python examples/feature_circuits.py --model out/language_model/none-0 --text TRAIN.txt --held-out VALID.txt
    python examples/feature_circuits.py --out out/feature_circuits/small --compare out/feature_circuits/large
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.circuit_tables import (
    INTERACTIONS,
    Names,
    correlation_summary,
    draw_circuit_of,
    draw_lengths,
    is_negation,
    print_rows,
)
from models.ablation import RULE, circuit_tests
from models.activations import activations, windows
from models.contexts import Strongest, as_html, as_text, contexts, strongest
from models.published import load_transformer
from models.quality import evaluate
from models.sae import SAEConfig, autoencoder_at, save_dictionary
from models.tables import read_table, write_table
from models.text import check_vocabulary, encode, load_tokenizer, read_stories
from models.transformer import Transformer
from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.checkpoints import load_layer
from tensornet_interp.dictionaries import Dictionary, load_dictionary
from tensornet_interp.features import feature_interactions, label_directions, low_rank_correlation, rank_by_structure

POINTS = ("mlp-in", "mlp-out")
KS = (1, 2, 4, 8, 16, 32)
LENGTHS = (8, 4, 2, 1)  # the longest training over the others
CIRCUITS = 3
EXAMPLES = 10  # max-activating contexts a feature; one that fires in fewer windows is not ranked
FEWEST = 10  # active held-out tokens below which a feature's correlation is left out
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What the options name: the model, its text, and where results are kept."""

    options: argparse.Namespace
    out: Path

    @cached_property
    def model(self) -> Transformer:
        """The language model."""
        return load_transformer(self.options.model, device=self.options.device).requires_grad_(False)

    @cached_property
    def index(self) -> int:
        """The number of the layer, by default the middle one."""
        layers = self.model.config.n_layers
        return layers // 2 if self.options.layer is None else int(self.options.layer)

    @cached_property
    def layer(self) -> BilinearLayer:
        """The MLP, on inputs after the norm."""
        return load_layer(self.options.model, self.index, names="published", device=self.options.device)

    @cached_property
    def tokenizer(self) -> Any:
        """That of the model, from its folder or the one above."""
        folder = Path(self.options.model)
        places = [folder / "tokenizer.json", folder.parent / "tokenizer.json"]
        made = load_tokenizer(next((place for place in places if place.is_file()), places[0]))
        check_vocabulary(made, self.model.config.vocabulary)
        return made

    def piece(self, token: int) -> str:
        """A token's text."""
        return str(self.tokenizer.decode([token], skip_special_tokens=False))

    def rows(self, path: str, limit: int | None) -> Tensor:
        """The windows of a text file, the first `limit` tokens of them."""
        rows = windows(encode(self.tokenizer, read_stories(path)), self.model.config.context)
        return rows if limit is None else rows[: max(1, limit // rows.shape[1])]

    @cached_property
    def train_rows(self) -> Tensor:
        """Text to train autoencoders on."""
        return self.rows(self.options.text, None)

    @cached_property
    def shown_rows(self) -> Tensor:
        """The part of it from which max-activating examples are taken."""
        return self.train_rows[: max(EXAMPLES, self.options.shown_tokens // self.train_rows.shape[1])]

    @cached_property
    def held_rows(self) -> Tensor:
        """Text that neither the model nor the autoencoders have seen."""
        return self.rows(self.options.held_out, self.options.held_out_tokens)

    @cached_property
    def held_x(self) -> Tensor:
        """(token, d): inputs of the MLP on it."""
        return torch.cat([x.flatten(0, 1) for x in activations(self.model, self.held_rows, self.index, "mlp-in")])

    def table(self, name: str, make: Callable[[], Sequence[Row]]) -> list[Row]:
        """The rows of `name`.csv, which are made where the file is not there."""
        path = self.out / f"{name}.csv"
        if not path.is_file() and not self.options.replot:
            rows = make()
            write_table(path.with_suffix(".part"), rows)
            path.with_suffix(".part").replace(path)
        return list(read_table(path))

    def config(self) -> SAEConfig:
        """Of both autoencoders."""
        o = self.options
        lengths = tuple(sorted({max(1, o.steps // part) for part in LENGTHS}))
        return SAEConfig(o.expansion, o.k, o.lr, o.batch_size, o.steps, lengths, buffer=o.buffer, seed=o.seed)

    def place(self, steps: int) -> Path:
        """The folder of the autoencoders after so many steps."""
        return self.out / "autoencoders" / f"steps-{steps}"

    def dictionary(self, steps: int, point: str) -> Dictionary:
        """An autoencoder that was kept."""
        config = self.config()
        folder = self.place(steps) / f"{self.index}-{point}-x{config.expansion}-k{config.k}"
        return load_dictionary(folder, device=self.options.device)

    def strongest(self, dictionary: Dictionary, point: str) -> Strongest:
        """Its strongest windows in the training text."""
        return strongest(dictionary, self.model, self.index, point, self.shown_rows, n=EXAMPLES)


def check_settings(job: Job) -> None:
    """Raise ValueError, showing both, where the folder holds results of other settings."""
    weights = hashlib.sha256()
    for path in sorted(Path(job.options.model).glob("*.safetensors")):
        weights.update(path.read_bytes())
    kept = ("text", "held_out", "held_out_tokens", "shown_tokens")
    settings = {"weights": weights.hexdigest(), "layer": job.index, "autoencoders": asdict(job.config())}
    settings = json.loads(json.dumps(settings | {name: getattr(job.options, name) for name in kept}))
    path = job.out / "settings.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != settings:
            changed = {key: (before.get(key), settings[key]) for key in settings if before.get(key) != settings[key]}
            raise ValueError(f"{job.out} holds results of other settings, (there, now): {changed}; take another --out")
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def train(job: Job) -> None:
    """Both autoencoders at every length, kept as they are reached; one that was cut off starts again."""
    config = job.config()
    for point in POINTS:
        if (job.out / f"training-{point}.csv").is_file():
            continue
        made = autoencoder_at(
            job.model,
            job.train_rows,
            job.index,
            point,
            config,
            callback=lambda step, dictionary: print("kept:", save_dictionary(dictionary, job.place(step))),
        )
        write_table(job.out / f"training-{point}.csv", made[1])


def quality(job: Job) -> list[Row]:
    """Every autoencoder on held-out text."""
    config, rows = job.config(), []
    for point in POINTS:
        for steps in config.checkpoints:
            found = evaluate(job.dictionary(steps, point), job.model, job.index, point, job.held_rows)
            rows.append({"point": point, "steps": steps, "trained": steps * config.batch_size} | found.record())
    return rows


def correlation(job: Job) -> list[Row]:
    """corr(activation from k eigenpairs, true pre-activation) on held-out tokens, every output feature and length."""
    config, rows = job.config(), []
    truth = job.layer(job.held_x)
    ks = [k for k in KS if k <= min(job.layer.shape[1], 2 * job.layer.rank)]
    for steps in config.checkpoints:
        outputs = job.dictionary(steps, "mlp-out")
        active = torch.cat([outputs.encode(part) > 0 for part in truth.split(4096)])
        records = low_rank_correlation(job.layer, outputs.encoder, job.held_x, ks, active=active)
        rows += [{"steps": steps, "trained": steps * config.batch_size} | record for record in records]
    return [{key: value for key, value in row.items() if key != "space"} for row in rows]


def circuits(job: Job) -> list[Row]:
    """Rank, show and test: writes ranking.csv, features.csv, contexts.html and contexts.txt; the tests' records."""
    steps = job.config().steps
    inputs, outputs = (job.dictionary(steps, point) for point in POINTS)
    before, behind = (job.strongest(part, point) for part, point in zip((inputs, outputs), POINTS, strict=True))
    names = {
        point: Names.of(found, job.shown_rows, job.piece)
        for point, found in zip(POINTS, (before, behind), strict=True)
    }
    write_table(job.out / "features.csv", [row for point in POINTS for row in names[point].rows(point)])
    firing = set(behind.alive().tolist())
    ranking: list[Row] = []
    for record in rank_by_structure(job.layer, outputs.encoder):
        feature = int(record["feature"])
        if feature in firing:
            negation = is_negation(behind, job.shown_rows, feature, job.piece)
            row = record | {"place": len(ranking) + 1, "token": names["mlp-out"][feature], "negation": negation}
            ranking.append({key: value for key, value in row.items() if key != "space"})
    write_table(job.out / "ranking.csv", ranking)
    chosen = [int(row["feature"]) for row in ranking[:CIRCUITS]]
    negation = next((row for row in ranking if row["negation"]), None)
    if negation is not None and negation["feature"] not in chosen:
        chosen.append(int(negation["feature"]))
    alive = before.alive()
    codes = torch.cat([outputs.encode(part) > 0 for part in job.layer(job.held_x).split(4096)])
    window = torch.arange(len(job.held_x)) // job.held_rows.shape[1]
    tests, sections, text = [], {}, []
    for feature in chosen:
        place = next(row["place"] for row in ranking if row["feature"] == feature)
        found = feature_interactions(
            job.layer, outputs.encoder[feature], inputs.decoder[:, alive], bias=inputs.decoder_bias
        )
        count = min(INTERACTIONS, len(alive) * (len(alive) + 1) // 2)
        members = alive[list(found.smallest_submatrix(count).features)]
        on = codes[:, feature]
        about = {"place": place, "token": names["mlp-out"][feature], "members": " ".join(map(str, members.tolist()))}
        if bool(on.any()):
            where = window[on.cpu()].to(on.device)
            for test in circuit_tests(job.layer, inputs, outputs, feature, members, job.held_x[on], where):
                tests.append(about | test.record())
        else:
            tests.append(about | {"feature": feature, "removed": "", "tokens": 0, "verdict": "untested"})
        shown = {f"output feature {feature}, place {place} of the ranking": ("mlp-out", outputs, behind, feature)}
        for member in members[:4].tolist():
            shown[f"input feature {member} of the circuit of {feature}"] = ("mlp-in", inputs, before, member)
        for title, (point, part, peaks, at) in shown.items():
            made = contexts(part, job.model, job.index, point, job.shown_rows, peaks, [at])[at]
            sections[title] = made
            text.append(f"{title}\n{as_text(made[:5], job.piece)}\n")
    page = as_html(f"Circuits of {job.layer.name}: where their features are strongest", sections, job.piece)
    (job.out / "contexts.html").write_text(page, encoding="utf-8")
    (job.out / "contexts.txt").write_text("\n".join(text), encoding="utf-8")
    # all rows alike: the first one names the columns
    columns = dict.fromkeys(key for row in tests for key in row)
    return [{key: row.get(key, "") for key in columns} for row in tests]


def directions(job: Job, blocks: int = 6) -> list[Row]:
    """The leading output directions shared by all features, with the nearest tokens and output features."""
    result = decompose(job.layer, "output_svd", blocks=min(blocks, job.layer.shape[0]), rank=1)
    found, head = result.directions, job.model.head.weight.detach()
    outputs, names = job.dictionary(job.config().steps, "mlp-out"), Names.read(job.out, "mlp-out")
    pieces = [job.piece(token) for token in range(len(head))]
    labels = [names.label(feature) for feature in range(outputs.features)]
    rows = []
    for block, (tokens, features) in enumerate(
        zip(label_directions(found, head, pieces, 5), label_directions(found, outputs.encoder, labels, 3), strict=True)
    ):
        text = ["; ".join(f"{label.name!r} {label.cosine:+.2f}" for label in part) for part in (tokens, features)]
        rows.append({"block": block, "tokens": text[0], "features": text[1]})
    return rows
