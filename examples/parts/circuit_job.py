"""Settings, models, text, autoencoders and their measurements, for the scripts about features; and what they keep."""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.contexts import strongest
from models.published import load_transformer
from models.quality import evaluate
from models.sae import SAEConfig, autoencoder_at
from models.tables import read_table, write_table
from models.text import check_vocabulary, encode, load_tokenizer, load_tokens, read_stories
from models.transformer import Transformer
from models.vectors import check_windows, vectors_at, windows
from tensornet_interp import BilinearLayer
from tensornet_interp.disk import read_json, replace_files
from tensornet_interp.features import Dictionary, Strongest, low_rank_correlation
from tensornet_interp.keys import digest
from tensornet_interp.weights import load_dictionary, load_layer, save_dictionary

POINTS = ("mlp-in", "mlp-out")
KS = (1, 2, 4, 8, 16, 32)
EXAMPLES = 10  # max-activating contexts per feature; a feature that fires in fewer windows is not ranked
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A `Job` reads what the options name (model, text, dictionaries) and holds the folder of the results."""

    kept: ClassVar[tuple[str, ...]] = ("text_tokens", "held_out_tokens", "shown_tokens", "circuits")
    points: ClassVar[tuple[str, ...]] = POINTS
    lengths: ClassVar[tuple[int, ...]] = (8, 4, 2, 1)  # steps of the longest training divided by those of each one

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
        """The MLP as a tensor, with the vectors after the norm as inputs."""
        return load_layer(self.options.model, self.index, layout="published", device=self.options.device)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the model, from its folder or the folder above."""
        folder = Path(self.options.model)
        places = [folder / "tokenizer.json", folder.parent / "tokenizer.json"]
        made = load_tokenizer(next((place for place in places if place.is_file()), places[0]))
        check_vocabulary(made, self.model.config.vocabulary)
        return made

    def check_model(self) -> None:
        """Raise ValueError if the model is gated."""
        if self.model.config.gate != "none":
            raise ValueError(f"{self.options.model} has gate={self.model.config.gate!r}; only gate='none' is bilinear")

    def piece(self, token: int) -> str:
        """Return the text of a token."""
        return str(self.tokenizer.decode([token], skip_special_tokens=False))

    @cached_property
    def text(self) -> dict[str, Tensor]:
        """The windows (window, position) of "train" and "held_out"; held-out stories are not among those of "train"."""
        seen: set[bytes] = set()
        made = {}
        for name, limit in (("train", self.options.text_tokens), ("held_out", self.options.held_out_tokens)):
            path = Path(text_file(self.options, name))
            if path.suffix == ".npy":
                tokens = load_tokens(path)[:limit].long()
            else:
                tokens = encode(self.tokenizer, read_stories(path, seen=seen))[:limit]
            made[name] = windows(tokens, self.model.config.context)
        return made

    @cached_property
    def shown_rows(self) -> Tensor:
        """The part of the training text from which max-activating examples are taken."""
        rows = self.text["train"]
        return rows[: max(EXAMPLES, self.options.shown_tokens // rows.shape[1])]

    @property
    def held_rows(self) -> Tensor:
        """Text that neither the model nor the autoencoders have seen."""
        return self.text["held_out"]

    @cached_property
    def held_x(self) -> Tensor:
        """The inputs of the MLP on the held-out text, (token, d)."""
        return torch.cat([x.flatten(0, 1) for x in vectors_at(self.model, self.held_rows, self.index, "mlp-in")])

    def table(self, name: str, make: Callable[[], Sequence[Row]]) -> list[Row]:
        """Return the rows of `name`.csv; if the file is missing, make and write them first."""
        path = self.out / f"{name}.csv"
        if not path.is_file() and not self.options.replot:
            rows = make()
            write_table(path.with_suffix(".part"), rows)
            path.with_suffix(".part").replace(path)
        return list(read_table(path))

    def sources(self) -> dict[str, str]:
        """Return hashes of the weights, of the files of text, and of the tokenizer, which names features."""
        files = {name: file_digest([Path(text_file(self.options, name))]) for name in ("train", "held_out")}
        tokenizer = "" if self.tokenizer is None else digest(self.tokenizer.to_str())
        return {"weights": weights_digest(self.options.model), "tokenizer": tokenizer} | files

    def measured(self, features: int) -> list[int]:
        """Return the output features whose correlations are measured: all of them."""
        return list(range(features))

    def config(self) -> SAEConfig:
        """Return the training options of the autoencoders."""
        o = self.options
        lengths = tuple(sorted({max(1, o.steps // part) for part in self.lengths}))
        return SAEConfig(o.expansion, o.k, o.lr, o.batch_size, o.steps, lengths, buffer=o.buffer, seed=o.seed)

    def place(self, steps: int) -> Path:
        """Return the folder of the autoencoders after `steps` steps."""
        return self.out / "autoencoders" / f"steps-{steps}"

    def dictionary(self, steps: int, point: str) -> Dictionary:
        """Return the autoencoder of a hook point after `steps` steps, from disk."""
        config = self.config()
        folder = self.place(steps) / f"{self.index}-{point}-x{config.expansion}-k{config.k}"
        return load_dictionary(folder, device=self.options.device)

    def strongest(self, dictionary: Dictionary, point: str) -> Strongest:
        """Return the windows of the training text in which the dictionary's features are strongest."""
        return strongest(dictionary, self.model, self.index, point, self.shown_rows, n=EXAMPLES)


def text_file(options: argparse.Namespace, name: str) -> str:
    """Return the file of "train" or "held_out": the option's, by default the file next to the model's folder."""
    given = {"train": options.text, "held_out": options.held_out}[name]
    return str(given or Path(options.model).resolve().parent / f"{name}.npy")


def weights_digest(folder: str) -> str:
    """Return a hash of the weights of a model, by which results of another model are known."""
    return file_digest(sorted(Path(folder).glob("model*.safetensors")))


def file_digest(paths: Sequence[Path]) -> str:
    """Return a hash of the contents of files."""
    made = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: made)
    return made.hexdigest()


def check_settings(job: Job) -> None:
    """Raise ValueError, showing both settings, if the folder holds results of other settings.

    A wrong layer, a gated MLP and a wrong tokenizer or text also raise here, before anything is written or trained.
    """
    job.model.block(job.index)
    job.check_model()
    if not job.options.replot:
        job.tokenizer  # noqa: B018 (reads it first: text by a wrong tokenizer would be called wrong text)
        for rows in job.text.values():
            check_windows(job.model, rows)
    settings = {"layer": job.index, "autoencoders": asdict(job.config())} | job.sources()
    settings["parameters"] = sum(part.numel() for part in job.model.parameters())
    settings = json.loads(json.dumps(settings | {name: getattr(job.options, name) for name in job.kept}))
    path = job.out / "settings.json"
    if path.is_file():
        before = read_json(path)
        if before != settings:
            changed = {key: (before.get(key), settings[key]) for key in settings if before.get(key) != settings[key]}
            raise ValueError(f"{job.out} holds results of other settings, (there, now): {changed}; take another --out")
    elif not job.options.replot:
        replace_files([(path, json.dumps(settings, indent=2).encode())])


def check_folders(folders: Sequence[Path]) -> None:
    """Raise ValueError if two folders have one name, by which models are told apart in a table and a figure."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"--compare: folders must have different names, got {names}; rename one")


def train(job: Job) -> None:
    """Train the autoencoders and save them at every length; a training that was stopped starts again."""
    config = job.config()
    for point in job.points:
        if (job.out / f"training-{point}.csv").is_file():
            continue
        made = autoencoder_at(
            job.model,
            job.text["train"],
            job.index,
            point,
            config,
            callback=lambda step, dictionary: print("kept:", save_dictionary(dictionary, job.place(step))),
            progress=job.options.progress,
        )
        write_table(job.out / f"training-{point}.csv", made[1])


def quality(job: Job) -> list[Row]:
    """Measure every autoencoder on held-out text."""
    config, rows = job.config(), []
    for point in job.points:
        for steps in config.checkpoints:
            found = evaluate(job.dictionary(steps, point), job.model, job.index, point, job.held_rows)
            rows.append({"point": point, "steps": steps, "trained": steps * config.batch_size} | found.record())
    return rows


def correlation(job: Job, ks: Sequence[int] = KS) -> list[Row]:
    """Correlate the activation from k eigenpairs with the true pre-activation, on held-out tokens.

    There is one row per training length, output feature and k.
    """
    config, rows = job.config(), []
    truth = job.layer(job.held_x)
    ks = [k for k in ks if k <= min(job.layer.shape[1], 2 * job.layer.rank)]
    for steps in config.checkpoints:
        outputs = job.dictionary(steps, "mlp-out")
        active = torch.cat([outputs.encode(part) > 0 for part in truth.split(4096)])
        chosen = job.measured(outputs.features)
        records = low_rank_correlation(job.layer, outputs.encoder[chosen], job.held_x, ks, active=active[:, chosen])
        about = {"steps": steps, "trained": steps * config.batch_size}
        rows += [about | record | {"feature": chosen[int(record["feature"])]} for record in records]
    return [{key: value for key, value in row.items() if key != "basis"} for row in rows]
