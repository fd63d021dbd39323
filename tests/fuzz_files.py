"""Every loader against broken and hostile files: `python tests/fuzz_files.py --seed 0 --count 5000`.

With `--every` each value in each of the JSON files is replaced by each of the hostile ones, one at a time.

An input is a good file, or a folder of good files, with one of them spoiled: bits flipped, cut, prolonged, another
format's first bytes, hostile JSON and sizes, a pipe, a device or a circle of links in its place, a terabyte of nothing,
a packed bomb. A loader may give what was stored, or, where the format has no checksum, another value of the same kind;
or raise ValueError, TypeError or OSError with a message that names the file. Everything else is a failure: any other
error, another value in spite of a checksum, a crash, more than SECONDS, more than MEMORY.
"""

import argparse
import gzip
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from models import data as datasets
from models.bilinear import ClassifierConfig, build_classifier
from models.data import load_dataset, read_idx
from models.huggingface import build_llama, load_huggingface, save_huggingface
from models.language import LanguageConfig, train_language
from models.published import load_transformer, save_transformer
from models.storage import load_info, load_model, save_model
from models.tables import read_table, write_table
from models.text import encode_to_file, load_tokenizer, load_tokens, read_stories, save_tokenizer, train_tokenizer
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp import Moments, decompose, load, save
from tensornet_interp.disk import open_file, read_file, read_json, read_lines
from tensornet_interp.features import Dictionary
from tensornet_interp.keys import describe
from tensornet_interp.spectra import checkpoint_spectra, open_spectra
from tensornet_interp.sweep import load_records, sweep
from tensornet_interp.testing import random_layer
from tensornet_interp.weights import (
    inspect_files,
    load_attention,
    load_config,
    load_cross_layer,
    load_dictionary,
    load_layer,
    load_network,
    load_norm,
    load_tensor,
    save_dictionary,
    tensor_names,
)

OLD_LAYER = Path(__file__).with_name("stored") / "layer-format-1.safetensors"
SAE_LENS = Path(__file__).with_name("sae_lens")
SECONDS, MEMORY = 10, 512 << 20  # of the processor, which a busy machine does not lengthen
WAIT = 120  # seconds by the clock, for what waits without computing
ERRORS = (ValueError, TypeError, OSError)
RAW = (UnicodeError, json.JSONDecodeError)  # of the family, but they name no file
SMALL = TransformerConfig(vocabulary=7, d_model=8, d_hidden=6, n_layers=2, n_heads=2, context=5)
CLASSIFIER = ClassifierConfig(inputs=4, width=3, hidden=5)
TOKENS = torch.arange(40) % 7


class Loader(NamedTuple):
    """How a good folder is made, and what is loaded of it; `verified`: whether a change of the content is found."""

    make: Callable[[Path], object]
    load: Callable[[Path], object]
    verified: bool = False


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer_words(layer: Any) -> Any:
    return describe([layer.down, layer.left, layer.right, layer.name, layer.history, layer.constant_in])


def model_words(model: torch.nn.Module) -> Any:
    return describe([dict(model.named_parameters()), repr(getattr(model, "config", None))])


def published(folder: Path) -> None:
    """As others write it: no config in the metadata, no checksums, two shards."""
    save_transformer(build_transformer(SMALL, seed=0), folder)
    content = folder / "model.safetensors"
    files = {name: load_tensor(folder, name) for name in tensor_names(folder)}
    content.unlink()
    shards = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(files)}
    for shard in set(shards.values()):
        save_file({name: value for name, value in files.items() if shards[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def llama(folder: Path) -> None:
    """A model of one block as `transformers` writes it, with a scaled rotary base and a window."""
    sides = {f"self_attn.{side}_proj": (8, 8) for side in "qkvo"}
    mlp = {"mlp.gate_proj": (6, 8), "mlp.up_proj": (6, 8), "mlp.down_proj": (8, 6)}
    shapes = sides | mlp | {"input_layernorm": (8,), "post_attention_layernorm": (8,)}
    tensors = {f"model.layers.0.{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    tensors |= {"model.norm.weight": torch.ones(8), "model.embed_tokens.weight": torch.ones(7, 8)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled |= {"original_max_position_embeddings": 8, "rope_theta": 100.0}
    config = {"model_type": "mistral", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
    config |= {"max_position_embeddings": 5, "num_hidden_layers": 1, "rope_parameters": scaled, "sliding_window": 3}
    config |= {"tie_word_embeddings": True, "rms_norm_eps": 1e-6, "intermediate_size": 6, "hidden_act": "linear"}
    (folder / "config.json").write_text(json.dumps(config))


def dictionary(folder: Path) -> None:
    draw = torch.randn(12, 4, generator=generator())
    save_dictionary(Dictionary(draw, draw.T.contiguous(), k=2, name="1-mlp-out-x3-k2"), folder)


def saelens(folder: Path) -> None:
    draw = torch.randn(4, 12, generator=generator())
    tensors = {"W_enc": draw, "W_dec": draw.T.contiguous(), "b_enc": torch.zeros(12), "b_dec": torch.zeros(4)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"architecture": "topk", "k": 3, "hook_name": "blocks.0", "d_in": 4, "d_sae": 12, "metadata": {"a": [1]}}
    (folder / "cfg.json").write_text(json.dumps(config))


def foreign(name: str) -> Callable[[Path], object]:
    """A folder as SAELens, Gemma Scope or circuit-tracer wrote it."""
    return lambda folder: shutil.copytree(SAE_LENS / name, folder, dirs_exist_ok=True)


def mnist(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = bytes(range(18)), bytes([1, 2])
    for stem, sizes, content in (
        *((name, (2, 3, 3), images) for name in (datasets.TRAIN_IMAGES, datasets.TEST_IMAGES)),
        *((name, (2,), labels) for name in (datasets.TRAIN_LABELS, datasets.TEST_LABELS)),
    ):
        packed = gzip.compress(idx(sizes, content), mtime=0)
        (raw / f"{stem}.gz").write_bytes(packed)
        datasets.MD5["mnist"][f"{stem}.gz"] = datasets.hashlib.md5(packed).hexdigest()


def idx(sizes: tuple[int, ...], content: bytes) -> bytes:
    return struct.pack(f">HBB{len(sizes)}I", 0, 8, len(sizes), *sizes) + content


def train(folder: Path) -> Any:
    model = build_transformer(SMALL, seed=0)
    history = train_language(model, TOKENS, LanguageConfig(steps=3), folder, every=2, progress=False)
    records = [{key: value for key, value in record.items() if key != "seconds"} for record in history.records]
    return describe([dict(model.named_parameters()), records])


def grid(folder: Path) -> Any:
    points = {"rank": [1, 2, 3]}
    return sweep(random_layer(3, 4, 5, seed=0), "eigen", points, path=folder / "a.jsonl", progress=False)


def spectra_store(folder: Path) -> None:
    layers = [random_layer(3, 4, 5, seed=seed) for seed in range(2)]
    directions = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    checkpoint_spectra(layers, directions, 2, 1e-3, folder, shard=3, progress=False)
    (folder / "log.jsonl").unlink()  # nobody reads it


def table_words(folder: Path) -> Any:
    table = open_spectra(folder)
    if len(table) < table.total:  # a store that is not complete can be opened
        raise FileNotFoundError(f"{folder} lacks shards")
    return describe([table.settings, table.layers, table.records()])


def tokens(folder: Path) -> None:
    encode_to_file(train_tokenizer(["a story"], 257), ["a story"], folder / "a.npy")


def write(name: str, content: bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return make


def keep(folder: Path) -> None:
    layer = random_layer(3, 4, 5, seed=0)
    kept = {"results": [decompose(layer, name) for name in ("eigen", "hosvd", "cp")], "moments": Moments.standard(3)}
    save(kept, folder / "kept.safetensors")


def lines(folder: Path) -> Any:
    with open_file(folder / "a.csv") as file:
        return list(read_lines(file, folder / "a.csv"))


ROWS = [{"name": "a, b", "value": 0.1}, {"name": 'é"\n', "value": 3}]
IMAGES = idx((2, 3, 4), bytes(range(24)))
STORY = "\n\n".join(f"Once upon a time there was a {name}, and it was happy for ever after." for name in ("cat", "dog"))
FIRST = "transformer.h.0.mlp.w.weight"

# By the name on the contents page, and what is read in brackets where there are several ways.
LOADERS: dict[str, Loader] = {
    "load": Loader(keep, lambda f: describe(load(f / "kept.safetensors")), True),
    "open_spectra": Loader(spectra_store, table_words, True),
    "load (an old layer)": Loader(
        lambda f: f.mkdir(parents=True, exist_ok=True) or shutil.copy(OLD_LAYER, f),
        lambda f: layer_words(load(f / OLD_LAYER.name)),
        True,
    ),
    "load_layer (published)": Loader(published, lambda f: layer_words(load_layer(f, 1))),
    "load_layer (saved model)": Loader(
        lambda f: save_model(build_classifier(CLASSIFIER, seed=0), f),
        lambda f: layer_words(load_layer(f, 0, layout="tensornet_interp")),
        True,
    ),
    "load_attention": Loader(published, lambda f: describe(load_attention(f, 1))),
    "load_attention (llama)": Loader(llama, lambda f: describe(load_attention(f, 0, layout="llama"))),
    "load_norm": Loader(llama, lambda f: describe(load_norm(f, 0, layout="llama").weight)),
    "load_network": Loader(llama, lambda f: describe(load_network(f, layout="llama", gate_removed=True))),
    "load_network (published)": Loader(published, lambda f: describe(load_network(f))),
    "load_tensor": Loader(published, lambda f: describe(load_tensor(f, FIRST))),
    "load_config": Loader(published, load_config),
    "load_config (own)": Loader(lambda f: save_transformer(build_transformer(SMALL, seed=0), f), load_config, True),
    "load_dictionary": Loader(dictionary, lambda f: describe(load_dictionary(f / "1-mlp-out-x3-k2")), True),
    "load_dictionary (SAELens)": Loader(saelens, lambda f: describe(load_dictionary(f))),
    "load_dictionary (gated)": Loader(foreign("gated"), lambda f: describe(load_dictionary(f))),
    "load_dictionary (transcoder)": Loader(foreign("jumprelu-skip-transcoder"), lambda f: describe(load_dictionary(f))),
    "load_dictionary (Gemma Scope)": Loader(
        foreign("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"), lambda f: describe(load_dictionary(f)), True
    ),
    "load_cross_layer": Loader(foreign("cross-layer-jump_relu"), lambda f: describe(load_cross_layer(f, 1))),
    "inspect_files": Loader(published, lambda f: inspect_files(f).records()),
    "inspect_files (saved)": Loader(keep, lambda f: inspect_files(f / "kept.safetensors").records()),
    "load_records": Loader(grid, lambda f: load_records(f / "a.jsonl")),
    "sweep": Loader(grid, grid),
    "load_model": Loader(
        lambda f: save_model(build_classifier(CLASSIFIER, seed=0), f),
        lambda f: model_words(load_model(f)),
        True,
    ),
    "load_info": Loader(
        lambda f: save_model(build_classifier(CLASSIFIER, seed=0), f),
        load_info,
        True,
    ),
    "load_transformer": Loader(
        lambda f: save_transformer(build_transformer(SMALL, seed=0), f),
        lambda f: model_words(load_transformer(f)),
        True,
    ),
    "load_transformer (published)": Loader(published, lambda f: model_words(load_transformer(f))),
    "load_huggingface": Loader(
        lambda f: save_huggingface(build_llama(SMALL, 0), f), lambda f: model_words(load_huggingface(f)), True
    ),
    "train_language": Loader(train, train, True),
    "load_dataset": Loader(mnist, lambda f: describe(vars(load_dataset("mnist", f))["train_x"]), True),
    "read_idx": Loader(write("a", IMAGES), lambda f: describe(read_idx(f / "a"))),
    "read_idx (packed)": Loader(
        write("a.gz", gzip.compress(IMAGES, mtime=0)), lambda f: describe(read_idx(f / "a.gz")), True
    ),
    "read_table": Loader(lambda f: write_table(f / "a.csv", ROWS), lambda f: read_table(f / "a.csv")),
    "read_stories": Loader(write("a.txt", STORY.encode()), lambda f: list(read_stories(f / "a.txt"))),
    "load_tokenizer": Loader(
        lambda f: save_tokenizer(train_tokenizer(["a story"], 260), f / "a.json"),
        lambda f: load_tokenizer(f / "a.json").to_str(),
    ),
    "load_tokens": Loader(tokens, lambda f: describe(load_tokens(f / "a.npy"))),
    "read_json": Loader(write("a.json", b'{"a": [1, {"b": null}], "c": "d"}'), lambda f: read_json(f / "a.json")),
    "read_file": Loader(write("a.bin", bytes(99)), lambda f: read_file(f / "a.bin", 1000)),
    "read_lines": Loader(lambda f: write_table(f / "a.csv", ROWS), lines),
}
SLOW = {"load_huggingface"}

HOSTILE = (  # in the place of a value in JSON
    *(None, True, False, 0, -1, 1, 2, 3, 10**9, 10**18, 2**62, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, float("nan")),
    *("", "a", "none", "relu", "a" * 10_000, "\0", "\ud800", "../../etc/passwd", "/dev/zero", "1", "é"),
    *([], {}, [[]], [None] * 100, {"a": 1}, ["a", "b"], [10**9, 10**9], {"": {}}),
)
STARTS = (  # of other formats
    *(b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x1f\x8b\x08\x00", b"\x93NUMPY\x01\x00v\x00", b"\x89PNG\r\n\x1a\n"),
    *(b"<!doctype html>", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 16, b"\0" * 16, b"\xef\xbb\xbf"),
    *(b"\0\0\x08\x03" + b"\xff" * 12, b"[" * 100_000, b'{"a":' * 100_000, b"{}", b"\x7fELF", b'"', b"\xff\xfe"),
    struct.pack("<Q", 1 << 40),
)
DEEP = "[" * 100_000 + "]" * 100_000
BOMB = gzip.compress(idx((2, 3, 4), b"") + bytes(400 << 20), 9, mtime=0)
NPY = (  # headers that claim
    "{'descr': '<u2', 'fortran_order': False, 'shape': (10**9,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<u2', 'fortran_order': False, 'shape': (1000000000000,), }",
    *("(" * 5000, "__import__('os')", "-" * 9000),
)


def spoil_json(random: random.Random, value: Any) -> Any:
    """The value with one place of it, at any depth, changed, taken away or doubled."""
    if isinstance(value, dict | list) and value and random.random() < 0.8:
        copy = value.copy()
        key = random.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        what = random.random()
        if what < 0.15:
            del copy[key]
        elif what < 0.25 and isinstance(copy, dict):
            copy[random.choice(("", "new", "dtype", "n_layer", "shape"))] = copy[key]
        else:
            copy[key] = spoil_json(random, copy[key])
        return copy
    if isinstance(value, str) and value[:1] in "{[" and random.random() < 0.7:  # JSON in JSON: metadata
        try:
            return dumps(random, spoil_json(random, json.loads(value)))
        except ValueError:
            pass
    return random.choice(HOSTILE)


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each list or dict in JSON with one of its keys; of a long one the first five keys stand for all."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        for key in keys if len(keys) < 50 else keys[:5]:
            yield value, key
            yield from leaves(value[key])


def places(folder: Path) -> list[tuple[Path, int]]:
    """The places of values in the JSON files of a folder: a file, and the number of the value in it."""
    files = sorted(folder.rglob("*.json"))
    return [(path, i) for path in files for i in range(len(list(leaves(json.loads(path.read_text())))))]


def replace(place: int, folder: Path) -> str:
    """Put one hostile value in one place, both counted by `place`."""
    at, hostile = divmod(place, len(HOSTILE))
    path, number = places(folder)[at]
    value = json.loads(path.read_text())
    inner, key = list(leaves(value))[number]
    inner[key] = HOSTILE[hostile]
    path.write_text(json.dumps(value))
    return f"{path.name}: {key} = {HOSTILE[hostile]!r:.20}"


def dumps(random: random.Random, value: Any) -> str:
    text = json.dumps(value)
    return text.replace("null", DEEP, 1) if random.random() < 0.1 else text


def hostile_json(random: random.Random, content: bytes) -> tuple[bytes, bool]:
    """The JSON in a file changed: a header of tensors, lines, or all of it; whether that is another honest file."""
    if content[:1] in (b"{", b"["):
        parts = content.split(b"\n") if content.count(b"\n{") else [content]
        i = random.randrange(len(parts))
        try:
            parts[i] = dumps(random, spoil_json(random, json.loads(parts[i]))).encode()
        except ValueError:
            parts[i] = parts[i][: random.randrange(len(parts[i]) + 1)] * 2
        return b"\n".join(parts), True
    length = int.from_bytes(content[:8], "little")
    try:
        header, honest = json.loads(content[8 : 8 + length]), False
    except ValueError:  # no JSON in it
        return random.choice(STARTS), False
    if "checksums" in header.get("__metadata__", {}) and random.random() < 0.7:
        del header["__metadata__"]["checksums"]  # as another program would have written it
        honest = True
    text = dumps(random, spoil_json(random, header)).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :], honest


def flip(random: random.Random, content: bytes) -> bytes:
    spoiled = bytearray(content or b"\0")
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        spoiled[random.randrange(len(spoiled))] ^= 1 << random.randrange(8)
    return bytes(spoiled)


def cut(random: random.Random, content: bytes) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def other_start(random: random.Random, content: bytes) -> bytes:
    start = random.choice(STARTS)
    return start + content[random.choice((0, len(start))) :]


def shuffled(random: random.Random, content: bytes) -> bytes:
    a, b = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return random.choice(
        (content[:a] + content[b:], content[:b] + content[a:], content[:a] + bytes(b - a) + content[b:], content * 2)
    )


def claim(random: random.Random, content: bytes) -> bytes:
    """Sizes in binary headers."""
    size = struct.pack(">I", random.choice((0, 1, 255, 10**6, 10**9, 2**32 - 1)))
    if content[:6] == b"\x93NUMPY":
        text = random.choice(NPY).encode()
        return content[:8] + struct.pack("<H", len(text)) + text + content[-8:]
    if content[:2] == b"\x1f\x8b":
        claimed = (
            idx((2**32 - 1, 2**16, 2**16), bytes(1000)),
            idx((1000, 1000, 300), bytes(1000)),
            IMAGES + bytes(10**6),
        )
        return random.choice((BOMB, *(gzip.compress(one, mtime=0) for one in claimed)))
    at = 4 * random.randrange(4)
    return content[:at] + size + content[at + 4 :]


EDITS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "bits": flip,
    "cut": cut,
    "start": other_start,
    "moved": shuffled,
    "sizes": claim,
}


def missing(path: Path) -> None:
    path.unlink()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def terabyte(path: Path) -> None:
    os.truncate(path, random.choice((1 << 40, 1 << 31)))


def link_to(*targets: str) -> Callable[[Path], None]:
    def place(path: Path) -> None:
        path.unlink()
        path.symlink_to(random.choice(targets) or path.name)

    return place


PLACES: dict[str, Callable[[Path], None]] = {
    "missing": missing,
    "pipe": pipe,
    "folder": folder_instead,
    "terabyte": terabyte,
    "link": link_to("", "/dev/zero", "/dev/full", "nowhere", "/proc/self/environ", "/proc/kmsg", "/"),
}


def spoil(seed: int, folder: Path) -> tuple[str, bool]:
    """Spoil one file of a good folder; how, and whether the outcome may be another value in spite of checksums.

    A seed of -1 - n stands for the hostile value and the place that have the number n.
    """
    if seed < 0:
        return replace(-1 - seed, folder), False
    chance = random.Random(seed)
    random.seed(seed)
    path = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content = path.read_bytes()
    kind = chance.choice((*EDITS, *EDITS, *PLACES, *["json"] * 6))
    honest = False
    if kind in PLACES:
        PLACES[kind](path)
    elif kind == "json":
        spoiled, honest = hostile_json(chance, content)
        path.write_bytes(spoiled)
    else:
        path.write_bytes(EDITS[kind](chance, content))
    return kind, honest and path.suffix == ".safetensors"


def outcome(name: str, folder: Path, expected: Any, honest: bool) -> str:
    """One word, or a sentence that begins with FAILURE."""
    loader = LOADERS[name]
    try:
        found = loader.load(folder)
    except ERRORS as error:
        if isinstance(error, RAW):
            return f"FAILURE: raw {type(error).__name__}: {error}"[:300]
        if not any(word in str(error) for word in (str(folder), "config.json")):
            return f"FAILURE: names no file: {type(error).__name__}: {error}"[:300]
        return type(error).__name__
    except Exception as error:
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        return f"FAILURE: {type(error).__name__}: {str(error)[:200]}\n{where}"
    if found == expected:
        return "as stored"
    return "FAILURE: another value" if loader.verified and not honest else "another value"


def peak() -> int:
    """The most resident memory since the last call, in bytes."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def work(connection: Connection, good: Path, cases: list[tuple[int, str, Any]]) -> None:
    """In a process of its own: what every case comes to. Either timer ends the process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # a fork has not the threads of its parent, and would wait for them
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + (4 << 30), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for seed, name, expected in cases:
        with tempfile.TemporaryDirectory(dir=good) as place:
            folder = Path(place) / "case"
            shutil.copytree(good / name / "case", folder)
            kind, honest = spoil(seed, folder)
            connection.send((seed, name, kind))
            peak()
            before, start = peak(), time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WAIT)
            said = outcome(name, folder, expected, honest)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            seconds, memory = time.process_time() - start, peak() - before
            if memory > MEMORY:
                said = f"FAILURE: {memory >> 20} MiB of memory; {said}"
            connection.send((said, seconds, memory))
    connection.close()


class Case(NamedTuple):
    """What one input came to."""

    seed: int
    loader: str
    kind: str
    outcome: str
    seconds: float
    memory: int


def begin(good: Path, cases: list[tuple[int, str, Any]]) -> tuple[Connection, multiprocessing.Process]:
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=work, args=(there, good, cases))
    process.start()
    there.close()
    return here, process


def run(good: Path, parts: list[list[tuple[int, str, Any]]]) -> Iterator[Case]:
    """Every part in a process of its own; one that dies is an outcome, and another goes on behind it."""
    active = {}
    for part in parts:
        here, process = begin(good, part)
        active[here] = (process, part, None)
    while active:
        for here in multiprocessing.connection.wait(list(active)):
            process, part, started = active.pop(here)
            try:
                message = here.recv()
            except EOFError:
                process.join()
                if started is not None:
                    late = process.exitcode in (-signal.SIGPROF, -signal.SIGALRM)
                    how = "it took too long" if late else f"exit code {process.exitcode}"
                    yield Case(*started, f"FAILURE: the process ended: {how}", float(SECONDS), 0)
                    part = part[1:]
                elif part:
                    raise RuntimeError(f"the harness failed at {part[0][:2]}") from None
                if part:
                    here, process = begin(good, part)
                    active[here] = (process, part, None)
                continue
            if started is None:
                active[here] = (process, part, message)
            else:
                yield Case(*started, *message)
                active[here] = (process, part[1:], None)


def fuzz(seed: int, count: int | None, only: str = "", processes: int = 1) -> list[Case]:
    """All outcomes of `count` inputs, every loader the same number of times; slow ones a tenth of that.

    count: if None, every hostile value goes into every place of the JSON files, but for those of slow loaders.
    """
    names = [name for i in range(10) for name in LOADERS if name.startswith(only) and (i == 0 or name not in SLOW)]
    with tempfile.TemporaryDirectory() as place:
        good, expected = Path(place), {}
        for name in dict.fromkeys(names):
            LOADERS[name].make(good / name / "case")  # the folder's name is in those of layers
            expected[name] = LOADERS[name].load(good / name / "case")
        if count is None:
            sizes = {name: len(places(good / name / "case")) * len(HOSTILE) for name in expected if name not in SLOW}
            cases = [(-1 - i, name, expected[name]) for name, size in sizes.items() for i in range(size)]
        else:
            picks = [names[i % len(names)] for i in range(count)]
            cases = [(seed * 1_000_003 + i, name, expected[name]) for i, name in enumerate(picks)]
        return list(run(good, [cases[i::processes] for i in range(processes)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--every", action="store_true", help="every hostile value in every place of the JSON files")
    parser.add_argument("--only", default="", help="loaders whose name begins so")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    start = time.perf_counter()
    found = fuzz(options.seed, None if options.every else options.count, options.only, options.processes)
    failures = [case for case in found if case.outcome.startswith("FAILURE")]
    for case in failures[:40]:
        print(*case[:4], sep=" | ")
    columns = ("inputs", 7), ("as stored", 10), ("another", 8), ("error", 6), ("FAILED", 7), ("most s", 7), ("MiB", 5)
    print(f"\n{'loader':30}", *(f"{name:>{width}}" for name, width in columns))
    for name in LOADERS:
        rows = [case for case in found if case.loader == name]
        if rows:
            words = Counter("FAILED" if case in failures else case.outcome for case in rows)
            same, other, failed = words["as stored"], words["another value"], words["FAILED"]
            error = len(rows) - same - other - failed
            most, memory = max(case.seconds for case in rows), max(case.memory for case in rows) >> 20
            print(f"{name:30} {len(rows):7} {same:10} {other:8} {error:6} {failed:7} {most:7.2f} {memory:5}")
    kinds = Counter("every place" if options.every else case.kind for case in found)
    listing = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    seconds = time.perf_counter() - start
    print(f"\nseed {options.seed}: {len(found)} inputs in {seconds:.0f} s, {len(failures)} failures; {listing}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
