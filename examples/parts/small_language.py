"""The language model of `circuit_bound.py` and `sparse_components.py`: a given one, or one of a toy language."""

import argparse
import io
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from examples.parts.circuit_job import Job, check_settings, train
from models.language import LanguageConfig, train_language
from models.published import save_transformer
from models.toy_language import ToyLanguage
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp.checks import check_int
from tensornet_interp.disk import replace_files

SEQUENCES = {"train": 12_288, "held_out": 1024}
CONTEXT = 24
TOY = "toy"

J = TypeVar("J", bound=Job)


class LanguageJob(Job):
    """A `LanguageJob` holds a model, its text and the autoencoders around one MLP; it shows no text, see `Job`."""

    kept: ClassVar[tuple[str, ...]] = ("text_tokens", "held_out_tokens", "toy_steps")

    @cached_property
    def tokenizer(self) -> None:
        """Nothing: no text is shown, and the toy language has none."""


def add_language(made: argparse.ArgumentParser) -> None:
    """Add the options of the language model, its text and its autoencoders."""
    made.add_argument(
        "--model", help="folder of a bilinear model of language_model.py; default: train one of a toy language"
    )
    made.add_argument("--text", help="tokens (.npy) that train the autoencoders; default: train.npy above --model")
    made.add_argument(
        "--held-out", help="tokens (.npy) that nothing was trained on; default: held_out.npy above --model"
    )
    made.add_argument("--text-tokens", type=int, help="number of tokens of --text to use; default: all")
    made.add_argument("--held-out-tokens", type=int, default=20_000)
    made.add_argument("--layer", type=int, help="layer whose MLP is analysed; default: the middle one")
    made.add_argument("--expansion", type=int, default=4, help="number of features divided by the width")
    made.add_argument("--k", type=int, default=16, help="active features per token")
    made.add_argument("--lr", type=float, default=1e-3, help="learning rate of the autoencoders")
    made.add_argument("--batch-size", type=int, default=1024, help="tokens per batch of the autoencoders")
    made.add_argument("--steps", type=int, default=400, help="steps of the autoencoders")
    made.add_argument("--buffer", type=int, default=2**15, help="vectors that are shuffled together")
    made.add_argument("--seed", type=int, default=0, help="of the autoencoders, and of what is drawn at random")
    made.add_argument("--toy-steps", type=int, default=600, help="steps of the training of the toy model")
    made.add_argument("--no-progress", dest="progress", action="store_false")


def check_language(options: argparse.Namespace) -> None:
    """Raise ValueError if an option of the language model cannot be."""
    check_int("--held-out-tokens", options.held_out_tokens, 1)
    check_int("--seed", options.seed, 0)
    check_int("--toy-steps", options.toy_steps, 1)
    if options.model is None and (options.text or options.held_out):
        raise ValueError("--text and --held-out belong to a --model; the toy language makes its own text")
    for name, file in (("--text", options.text), ("--held-out", options.held_out)):
        if file and Path(file).suffix != ".npy":
            raise ValueError(f"{name} must be a file of tokens (.npy), got {file}; language_model.py writes such files")


def open_language(options: argparse.Namespace, out: Path, kind: type[J]) -> J:
    """Return the job of the model that the options name, in a folder of `out`; missing models are trained first."""
    chosen = out / TOY / "none-0" if options.model is None else Path(options.model).resolve()
    place = out / (TOY if options.model is None else f"{chosen.parent.name}-{chosen.name}")
    place.mkdir(parents=True, exist_ok=True)
    job = kind(argparse.Namespace(**vars(options) | {"model": str(chosen)}), place)
    if not options.replot:
        if options.model is None:
            train_toy(chosen, options)
        job.config()  # raises for options that cannot be, before the training
        check_settings(job)
        train(job)
    return job


def train_toy(folder: Path, options: argparse.Namespace) -> None:
    """Train a bilinear model of the toy language, unless it is there; its tokens are written beside its folder."""
    if (folder / "model.safetensors").is_file():
        return
    language = ToyLanguage()
    config = TransformerConfig(len(language.names), 48, 96, 2, 4, CONTEXT)
    model = build_transformer(config, 0, device=options.device)
    training = LanguageConfig(
        steps=options.toy_steps, batch_size=32, lr=5e-3, warmup=min(50, options.toy_steps // 2), seed=0
    )
    files = []
    for seed, (name, count) in enumerate(SEQUENCES.items()):
        tokens = language.sample(count, CONTEXT, seed=seed).tokens.flatten()
        if name == "train":
            train_language(model, tokens, training, folder / "training", progress=options.progress)
        content = io.BytesIO()
        np.save(content, tokens.numpy().astype(np.uint16))
        files.append((folder.parent / f"{name}.npy", content.getvalue()))
    replace_files(files)
    save_transformer(model, folder)
