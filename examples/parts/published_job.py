"""The published models of the paper: which files `published_models.py` needs, and a `Job` that opens them."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from examples.parts.circuit_job import POINTS, Job
from models.published import load_transformer
from models.sae import SAEConfig
from models.text import END, check_vocabulary, load_tokenizer, load_tokens
from models.transformer import Transformer
from models.vectors import windows
from tensornet_interp import BilinearLayer
from tensornet_interp.checks import check_int
from tensornet_interp.features import Dictionary
from tensornet_interp.keys import digest
from tensornet_interp.optional import optional
from tensornet_interp.weights import load_config, load_dictionary, load_layer

TRAINED, BATCH = 150_000_000, 4096  # tokens on which the paper trained each autoencoder, about, and its batches
NAME = "{layer}-{point}-x{expansion}-k{k}"
TOKENIZER, WEIGHTS, CONFIG = "tokenizer.json", "model.safetensors", "config.json"


class Known(NamedTuple):
    """What the paper says about one of its models: sizes, the layer that it shows, and what it measured there.

    `model` and `dictionaries` are names on the hub as far as we know. Nothing here has looked them up.
    """

    model: str
    dictionaries: str
    layer: int
    layers: int
    d_model: int
    d_hidden: int
    vocabulary: int
    about: str

    @property
    def parameters(self) -> int:
        """The number of weights in the published layout, with embedding and unembedding."""
        return 2 * self.vocabulary * self.d_model + self.layers * self.d_model * (4 * self.d_model + 3 * self.d_hidden)


KNOWN = {
    "tinystories": Known(
        "tdooms/ts-medium",
        "tdooms/ts-medium-scope",
        4,
        6,
        512,
        2048,
        4096,
        "6 layers, TinyStories, 33 M parameters; figure 8: features 1882 (not good) and 1179 (not bad), decoder cosine "
        "-0.975, correlation with two eigenvectors 0.66, and 0.76 where active",
    ),
    "fineweb-12": Known(
        "tdooms/fw-small",
        "tdooms/fw-small-scope",
        8,
        12,
        768,
        3072,
        32000,
        "12 layers, FineWeb, 162 M parameters; figure 9A",
    ),
    "fineweb-16": Known(
        "tdooms/fw-medium",
        "tdooms/fw-medium-scope",
        12,
        16,
        1024,
        4096,
        32000,
        "16 layers, FineWeb, 335 M parameters; figure 9A, 9C: low correlations occur on features of low activation",
    ),
}


class Needed(NamedTuple):
    """A file that is needed: where it comes from, its name, its size in bytes (None: unknown), and if it is here."""

    source: str
    file: str
    size: int | None
    here: bool

    def __str__(self) -> str:
        size = "size unknown" if self.size is None else f"{self.size / 1e6:,.1f} MB"
        state = "on disk" if self.here else "missing there" if self.local else "to be fetched"
        return f"{self.source}: {self.file}, {size}, {state}"

    @property
    def local(self) -> bool:
        """Whether the source is a folder on this machine."""
        return Path(self.source).is_dir()


def needed(options: argparse.Namespace) -> list[Needed]:
    """Return the files that a run with these options reads; nothing is downloaded.

    Sizes of files on disk are measured. Those of other files are computed from the published layout in float32 and the
    sizes in `KNOWN`; they are unknown for other models.
    """
    known: Known = KNOWN[options.which]
    places = [NAME.format(layer=options.layer, point=p, expansion=options.expansion, k=options.k) for p in POINTS]
    d, features = known.d_model, options.expansion * known.d_model
    listed: list[tuple[str, str, int | None]] = [(options.model, CONFIG, None)]
    listed.append((options.model, WEIGHTS, 4 * known.parameters))
    listed += [(options.dictionaries, f"{place}/{WEIGHTS}", 4 * (2 * d * features + d)) for place in places]
    if options.tokenizer is None:
        listed.append((options.model, f"{TOKENIZER}, or that of the model that {CONFIG} names", 5_000_000))
    found = []
    for source, file, size in listed:
        path = Path(source) / file.split(",")[0]
        here, usual = path.is_file(), source in (known.model, known.dictionaries)
        size = path.stat().st_size if here else size if usual else None
        here = here or path.with_name(f"{path.name}.index.json").is_file()  # weights in several files
        found.append(Needed(source, file, size, here))
    return found


@dataclass(frozen=True)
class PublishedJob(Job):
    """A `PublishedJob` reads model and autoencoders from folders or the hub, and trains nothing.

    Names and contexts come from the same text as the correlations: neither model nor autoencoders were trained here.
    """

    kept: ClassVar[tuple[str, ...]] = ("which", "features", "tokens", "pair")

    @cached_property
    def model(self) -> Transformer:
        """The language model, in float32."""
        made = load_transformer(self.options.model, device=self.options.device)
        return made.float().requires_grad_(False)

    @cached_property
    def layer(self) -> BilinearLayer:
        """The MLP as a tensor, with the vectors after the norm as inputs."""
        options = self.options
        return load_layer(options.model, self.index, layout="published", device=options.device, dtype=torch.float32)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer: of --tokenizer, of the folder of the model, or of the hub."""
        made = load_tokenizer(self._tokenizer_file(), needs_end=False)
        check_vocabulary(made, self.model.config.vocabulary)
        return made

    def _tokenizer_file(self) -> Path:
        beside = Path(self.options.model) / TOKENIZER
        if self.options.tokenizer is not None or beside.parent.is_dir():
            return Path(self.options.tokenizer or beside)
        named = str(load_config(self.options.model).get("tokenizer", ""))
        place = named if named.count("/") == 1 else self.options.model
        hub = optional("huggingface_hub", f"to fetch the {TOKENIZER} of {place!r} (or pass --tokenizer)", extra="hub")
        try:
            return Path(hub.hf_hub_download(place, TOKENIZER))
        except Exception as error:  # the client has many kinds, not all of one family
            raise ConnectionError(f"no {TOKENIZER} of {place!r} on the hub: pass --tokenizer FILE; {error}") from error

    @cached_property
    def text(self) -> dict[str, Tensor]:
        """The windows (window, position), under both names that a `Job` has."""
        path, limit = Path(self.options.text), self.options.tokens
        if path.suffix == ".npy":
            tokens = load_tokens(path)[:limit].long()
        else:
            tokens = torch.tensor(list(self._encoded(path, limit)), dtype=torch.int64)
        rows = windows(tokens, self.model.config.context)
        return {"train": rows, "held_out": rows}

    def check_model(self) -> None:
        """Raise ValueError if the model is gated, or if --pair names features that the autoencoder lacks."""
        super().check_model()
        for feature in self.options.pair or ():
            check_int("--pair", feature, 0, self.dictionary(self.config().steps, "mlp-out").features - 1)

    def _encoded(self, path: Path, limit: int) -> Iterator[int]:
        """Yield the tokens of the documents in a UTF-8 file, with the special tokens that the tokenizer adds."""
        count = 0
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"--text: {path} is neither UTF-8 nor an .npy file: {error}") from error
        for document in text.split(END):
            for token in self.tokenizer.encode(document.strip()).ids if document.strip() else ():
                if count == limit:
                    return
                count += 1
                yield token

    @property
    def shown_rows(self) -> Tensor:
        """The text from which names and contexts are taken: all of it."""
        return self.held_rows

    def config(self) -> SAEConfig:
        """Return the training options of the autoencoders, as the paper states them."""
        steps, o = TRAINED // BATCH, self.options
        return SAEConfig(o.expansion, o.k, 1e-4, BATCH, steps, (steps,), buffer=2**21, seed=o.seed)

    def dictionary(self, steps: int, point: str) -> Dictionary:
        """Return the published autoencoder of a hook point."""
        o = self.options
        place = NAME.format(layer=self.index, point=point, expansion=o.expansion, k=o.k)
        return load_dictionary(o.dictionaries, subfolder=place, device=o.device, dtype=torch.float32)

    def measured(self, features: int) -> list[int]:
        """Return the output features whose correlations are measured: random ones, as many as --features says."""
        order = torch.randperm(features, generator=torch.Generator().manual_seed(self.options.seed))
        return sorted(order[: self.options.features].tolist())

    def sources(self) -> dict[str, str]:
        """Return hashes of the weights, of the text, and of the tokenizer, which names features and words."""
        both = [self.dictionary(self.config().steps, point) for point in POINTS]
        weights = digest(dict(self.model.state_dict()), *both)
        return {"weights": weights, "text": digest(self.held_rows), "tokenizer": digest(self.tokenizer.to_str())}
