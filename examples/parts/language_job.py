"""Options, text, tokens, sizes and training that the experiments on language models share."""

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.language import PRECISIONS, SCHEDULES, LanguageConfig
from models.published import TOKENIZER
from models.text import Cleaning, encode_to_file, load_tokenizer, read_stories, save_tokenizer, train_tokenizer
from models.training_state import differences
from models.transformer import TransformerConfig
from tensornet_interp.disk import replace_files

CURVE = 10_000  # held-out tokens for the loss during training; the final loss is on all held-out tokens


def add_training(parser: argparse.ArgumentParser, *, every: int) -> None:
    """Add the options of the text, the sizes of the models and their training; `every`: steps between measurements."""
    parser.add_argument("--text", help="training text: UTF-8, stories separated by <|endoftext|>")
    parser.add_argument("--held-out", help="text for the held-out loss only")
    integers = {"vocabulary": 2048, "d-model": 128, "layers": 4, "heads": 4, "context": 128, "batch": 8}
    for name, value in (integers | {"accumulation": 1, "warmup": 50, "every": every}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--hidden", type=int, help="hidden units of an MLP; default: 4 d-model")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--schedule", choices=sorted(SCHEDULES), default="linear", help="schedule of the learning rate")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="bfloat16 on CUDA only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-progress", dest="progress", action="store_false")


def prepare(options: argparse.Namespace, out: Path, made: Path | None = None) -> None:
    """Make tokenizer and tokens in `out`, unless they are there; `made` is the file of a tokenizer to use instead.

    Raises ValueError if `out` holds tokens of another text or tokenizer.
    """
    settings = {"vocabulary": options.vocabulary} if made is None else {"tokenizer": _digest(str(made))}
    settings |= {name: _digest(path) for name, path in (("text", options.text), ("held_out", options.held_out))}
    done = out / "text.json"
    if done.is_file():
        info = json.loads(done.read_text(encoding="utf-8"))
        if info["settings"] != settings:
            raise ValueError(f"{done} has other settings; {differences(info['settings'], settings)}")
    else:
        tokenizer = load_tokenizer(made) if made else train_tokenizer(read_stories(options.text), options.vocabulary)
        save_tokenizer(tokenizer, out / TOKENIZER)
        seen: set[bytes] = set()  # a held-out story that is also in the training text is left out
        info = {"settings": settings}
        for name, path in (("train", options.text), ("held_out", options.held_out)):
            counts = Cleaning()
            stories = read_stories(path, cleaning=counts, seen=seen)
            info[name] = {"tokens": encode_to_file(tokenizer, stories, out / f"{name}.npy")} | asdict(counts)
        replace_files([(done, json.dumps(info, indent=2).encode())])
    for name in ("train", "held_out"):
        print(f"{name:<9} " + ", ".join(f"{value:,} {key}" for key, value in info[name].items()))


def model_config(options: argparse.Namespace, gate: str) -> TransformerConfig:
    """Return the config of the model that the options ask for."""
    return TransformerConfig(
        vocabulary=options.vocabulary,
        d_model=options.d_model,
        d_hidden=options.hidden or 4 * options.d_model,
        n_layers=options.layers,
        n_heads=options.heads,
        context=options.context,
        gate=gate,
    )


def language_config(options: argparse.Namespace, seed: int, steps: int) -> LanguageConfig:
    """Return the training that the options ask for."""
    return LanguageConfig(
        steps=steps,
        batch_size=options.batch,
        accumulation=options.accumulation,
        lr=options.lr,
        weight_decay=options.weight_decay,
        warmup=min(options.warmup, steps // 2),
        schedule=options.schedule,
        precision=options.precision,
        seed=seed,
    )


def interval(found: dict[str, Any], name: str) -> str:
    """Return the mean and the ends of its confidence interval, from `summarise`, as text; "-" if there is no mean."""
    if name not in found:
        return "-"
    low, high = found.get(f"{name}_low"), found.get(f"{name}_high")
    return f"{found[name]:.4f}" + ("" if low is None else f" ({low:.4f} to {high:.4f})")


def _digest(path: str) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path!r} is missing")
    with open(path, "rb") as file:
        return f"{Path(path).name} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
