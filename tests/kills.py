"""Work that is killed, disks that are full, folders that are read-only: `python tests/kills.py --seed 0 --count 40`.

Every task is killed (SIGKILL) `count` times at a random moment, alone and with a second writer of the same files at its
side; after every kill what lies on the disk is read: it must be one of the versions that were written, whole, and every
record that was once there must be there once. Work that goes on where it was stopped must end bit by bit as it would
have. Full disk and read-only folder are file systems of their own, in a private mount namespace (for root on Linux).
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from models.bilinear import ClassifierConfig, build_classifier
from models.data import Dataset
from models.huggingface import build_llama, load_huggingface, save_huggingface
from models.language import LanguageConfig, train_language
from models.published import load_transformer, save_transformer
from models.runs import trained
from models.storage import load_model, save_model
from models.tables import read_table, write_table
from models.text import encode_to_file, load_tokens, train_tokenizer
from models.training import TrainingConfig
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp import Eigen, load, save, write_report
from tensornet_interp.attention import Part, SequenceNetwork
from tensornet_interp.features import Dictionary
from tensornet_interp.graphs import feature_graph, write_circuit_tracer
from tensornet_interp.keys import digest
from tensornet_interp.pages import write_feature_pages
from tensornet_interp.spectra import checkpoint_spectra
from tensornet_interp.sweep import load_records, sweep
from tensornet_interp.tables import write_csv
from tensornet_interp.testing import random_layer
from tensornet_interp.weights import load_dictionary, save_dictionary

# tqdm's own lock is shared by forks: one that is killed while it has it would keep it from all for ever
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0
PATIENT = 120  # seconds after which work that nobody kills is a hang
SMALL = TransformerConfig(vocabulary=7, d_model=8, d_hidden=6, n_layers=2, n_heads=2, context=5)
TOKENS = torch.arange(99) % 7
RATES = LanguageConfig(steps=60, batch_size=2, lr=1e-2)
RANKS = list(range(1, 25))
LAYER = random_layer(4, 24, 30, seed=0)
SPECTRAL_LAYERS = [random_layer(12, 24, 30, seed=i) for i in range(3)]
CODER, READER = (Dictionary.from_matrix(torch.eye(size, dtype=torch.float64)) for size in (24, 4))
TRACED = feature_graph(SequenceNetwork([Part(LAYER)]), {(0, "out"): READER}, (0, "out"), torch.eye(24)[:2].double())
DIRECTIONS = torch.randn(60, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Saved(NamedTuple):
    """Two versions of one thing, how it is written, and words of what is read back."""

    versions: Sequence[Any]
    write: Callable[[Any, Path], object]
    read: Callable[[Path], str]


def parameters(model: torch.nn.Module) -> str:
    return digest(dict(model.named_parameters()), repr(getattr(model, "config", "")))


def draw(seed: int) -> torch.Tensor:
    return torch.randn(300, 100, generator=torch.Generator().manual_seed(seed))


def classifiers() -> list[Any]:
    configs = [
        ClassifierConfig(inputs=64, width=40 + 30 * i, hidden=50, gate=g) for i, g in enumerate(("none", "relu"))
    ]
    return [build_classifier(config, seed=0) for config in configs]


def transformers() -> list[TransformerConfig]:
    return [replace(SMALL, d_model=16 * (i + 1), gate=gate) for i, gate in enumerate(("none", "silu"))]


SAVES = {
    "save_model": Saved(classifiers(), save_model, lambda f: parameters(load_model(f))),
    "save_transformer": Saved(
        [build_transformer(config, seed=0) for config in transformers()],
        save_transformer,
        lambda f: parameters(load_transformer(f)),
    ),
    "save_huggingface": Saved(
        [build_llama(config, 0) for config in transformers()],
        save_huggingface,
        lambda f: parameters(load_huggingface(f)),
    ),
    "save": Saved(
        [random_layer(9, 60, 80, seed=0), replace(random_layer(5, 30, 40, seed=1), history=("other",))],
        lambda layer, f: save({"layer": layer, "result": Eigen(rank=2)(layer)}, f / "kept.safetensors"),
        lambda f: digest(load(f / "kept.safetensors")),
    ),
    "save_dictionary": Saved(
        [Dictionary(draw(i), draw(i).T.contiguous(), k=2, name="1-mlp-out-x3-k2") for i in range(2)],
        save_dictionary,
        lambda f: digest(load_dictionary(f / "1-mlp-out-x3-k2").encoder),
    ),
    "write_csv": Saved(
        [[{"a": float(i), "options": {"b": "text"}}] * 3000 for i in range(2)],
        lambda rows, f: write_csv(rows, f / "a.csv"),
        lambda f: digest(read_table(f / "a.csv")),
    ),
    "write_circuit_tracer": Saved(
        [["a", "b"], ["c", "d"]],
        lambda tokens, f: write_circuit_tracer(TRACED, f, tokens, overwrite=True),
        lambda f: digest((f / "graph.json").read_text()),
    ),
    "write_feature_pages": Saved(  # the index is written last
        [list("abcd"), list("efgh")],
        lambda names, f: write_feature_pages(
            f, LAYER, CODER, READER, [0, 2], names=names, basis="made", overwrite=True, progress=False
        ),
        lambda f: digest((f / "index.html").read_text()),
    ),
    "write_report": Saved(
        [[{"a": float(i), "b": "text"}] * 300 for i in range(2)],
        lambda rows, f: write_report(rows, f / "a.html", overwrite=True),
        lambda f: digest((f / "a.html").read_text()),
    ),
    "write_table": Saved(
        [[{"a": float(i), "b": "text"}] * 3000 for i in range(2)],
        lambda rows, f: write_table(f / "a.csv", rows),
        lambda f: digest(read_table(f / "a.csv")),
    ),
    "encode_to_file": Saved(
        [["a story " * 400], ["other " * 900]],
        lambda stories, f: encode_to_file(TOKENIZER, stories, f / "a.npy"),
        lambda f: digest(load_tokens(f / "a.npy")),
    ),
}
TOKENIZER = train_tokenizer(["a story"], 257)


class Child:
    """Work in a process of its own, which says with its exit code how it went."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(work,))
        self.process.start()

    @staticmethod
    def _run(work: Callable[[], object]) -> None:
        warnings.simplefilter("ignore")
        tqdm.set_lock(threading.RLock())
        torch.set_num_threads(1)  # a fork has not the threads of its parent, and would wait for them
        work()

    def kill(self, after: float) -> str:
        """ "killed", "done", or what went wrong."""
        self.process.join(after)
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.join()
        return {-signal.SIGKILL: "killed", 0: "done"}.get(self.process.exitcode or 0, "error")

    def finish(self) -> str:
        said = self.kill(PATIENT)
        return "hang" if said == "killed" else said


def versions(name: str, place: Path) -> set[str]:
    found = set()
    for i, version in enumerate(SAVES[name].versions):
        SAVES[name].write(version, place / f"{name}-{i}")
        found.add(SAVES[name].read(place / f"{name}-{i}"))
    if len(found) != len(SAVES[name].versions):
        raise RuntimeError(f"the versions of {name} cannot be told apart")
    return found


def forever(name: str, folder: Path) -> None:
    while True:
        for version in SAVES[name].versions:
            SAVES[name].write(version, folder)


def kill_saves(name: str, place: Path, count: int, chance: random.Random, writers: int) -> Counter[str]:
    """Savers that are killed at any moment; what is read afterwards is one of the versions."""
    known, folder, said = versions(name, place), place / f"{name}-killed", Counter[str]()
    SAVES[name].write(SAVES[name].versions[0], folder)
    start = time.perf_counter()
    SAVES[name].write(SAVES[name].versions[1], folder)
    one = time.perf_counter() - start
    for _ in range(count):
        children = [Child(lambda: forever(name, folder)) for _ in range(writers)]
        time.sleep(0.01)
        for child in children:
            said[child.kill(chance.uniform(0, 4 * one))] += 1
        try:
            said["whole" if SAVES[name].read(folder) in known else "torn"] += 1
        except Exception as error:
            print(f"torn: {name}: {error}")
            said["torn"] += 1
    SAVES[name].write(SAVES[name].versions[0], folder)
    said["left over"] += sum(path.name.endswith(".partial") for path in folder.rglob("*"))
    return said


def train(folder: Path | None) -> str:
    model = build_transformer(SMALL, seed=0)
    history = train_language(model, TOKENS, RATES, folder, every=2, progress=False)
    return digest(
        parameters(model), [{k: v for k, v in record.items() if k != "seconds"} for record in history.records]
    )


def kill_training(place: Path, count: int, chance: random.Random, writers: int) -> Counter[str]:
    """Trainings that are killed and go on, until they are done; two at once in one folder end as one does."""
    expected, said, number = train(None), Counter[str](), 0
    start = time.perf_counter()
    train(place / "timed")
    whole = time.perf_counter() - start
    while said["killed"] < count:
        folder, number = place / f"training-{writers}-{number}", number + 1
        while True:
            children = [Child(lambda folder=folder: train(folder)) for _ in range(writers)]
            ends = [child.kill(chance.uniform(0, 0.6 * whole)) for child in children]
            said.update(ends)
            if "done" in ends or "error" in ends or said["killed"] > 3 * count:
                break
        said[Child(lambda folder=folder: train(folder)).finish()] += 1
        said["whole" if train(folder) == expected else "torn"] += 1
    return said


def grid(path: Path | None) -> list[dict[str, Any]]:
    return sweep(
        LAYER, "eigen", {"rank": RANKS}, path=path, progress=False, measure=lambda result: {"wide": "x" * 3000}
    )


def numbers(records: list[dict[str, Any]]) -> dict[int, str]:
    return {r["options"]["rank"]: digest({k: v for k, v in r.items() if k != "seconds"}) for r in records}


def kill_sweeps(place: Path, count: int, chance: random.Random, writers: int) -> Counter[str]:
    """Sweeps that are killed and go on: no record is lost, split or there twice."""
    expected, said, number = numbers(grid(None)), Counter[str](), 0
    start = time.perf_counter()
    grid(place / "timed.jsonl")
    whole = time.perf_counter() - start
    while said["killed"] < count:
        path, number, before = place / f"sweep-{writers}-{number}.jsonl", number + 1, dict[int, str]()
        ends = ["killed"]
        while "done" not in ends and "error" not in ends and said["killed"] <= 3 * count:
            children = [Child(lambda path=path: grid(path)) for _ in range(writers)]
            ends = [child.kill(chance.uniform(0, 0.4 * whole)) for child in children]
            said.update(ends)
            records = load_records(path)
            said["twice"] += len(records) - len(numbers(records))
            said["lost"] += sum(numbers(records).get(rank) != words for rank, words in before.items())
            before = numbers(records)
        said.update(child.finish() for child in [Child(lambda path=path: grid(path)) for _ in range(writers)])
        records = load_records(path)
        same = numbers(records) == expected and len(records) == len(expected)
        said["whole" if same else "torn"] += 1
    return said


def spectra_of(store: Path) -> None:
    checkpoint_spectra(
        SPECTRAL_LAYERS, DIRECTIONS, 2, 1e-3, store, shard=8, max_elements=2000, device="cpu", progress=False
    )


def shards(store: Path) -> dict[str, bytes]:
    """Every file of a store but the log, which has the times."""
    return {path.name: path.read_bytes() for path in store.iterdir() if path.name != "log.jsonl"}


def kill_spectra(place: Path, count: int, chance: random.Random, writers: int) -> Counter[str]:
    """Stores of spectra that are killed and go on: the same bytes of every shard, and none is lost or there twice."""
    spectra_of(place / "alone")
    expected, said, number = shards(place / "alone"), Counter[str](), 0
    start = time.perf_counter()
    spectra_of(place / "timed")
    whole = time.perf_counter() - start
    while said["killed"] < count:
        store, number, before = place / f"spectra-{writers}-{number}", number + 1, set[str]()
        ends = ["killed"]
        while "done" not in ends and "error" not in ends and said["killed"] <= 3 * count:
            children = [Child(lambda store=store: spectra_of(store)) for _ in range(writers)]
            ends = [child.kill(chance.uniform(0, 0.4 * whole)) for child in children]
            said.update(ends)
            found = shards(store) if store.exists() else {}
            whole_ones = {name for name, content in found.items() if content == expected.get(name)}
            said["torn"] += len([name for name in found if name not in whole_ones and not name.endswith(".partial")])
            said["lost"] += len(before - whole_ones)
            before = whole_ones
        said.update(Child(lambda store=store: spectra_of(store)).finish() for _ in range(writers))
        said["whole" if shards(store) == expected else "torn"] += 1
        said["left over"] += sum(path.name.endswith(".partial") for path in store.iterdir())
    return said


def small_data() -> Dataset:
    x = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    return Dataset("four", x, (x[:, 0] > 0.5).long(), x, (x[:, 0] > 0.5).long(), (2, 2), ("a", "b"))


def keep(folder: Path, epochs: int = 3) -> str:
    config = ClassifierConfig(inputs=4, width=3, hidden=5, classes=2)
    return parameters(
        trained(folder, small_data(), config, TrainingConfig(epochs=epochs, batch_size=8), progress=False)
    )


def kill_runs(place: Path, count: int, chance: random.Random, writers: int) -> Counter[str]:
    """Models that are trained once and kept: killed, they are there whole or trained again."""
    expected, said = keep(place / "alone"), Counter[str]()
    start = time.perf_counter()
    keep(place / "timed")
    whole = time.perf_counter() - start
    for number in range(count):
        folder = place / f"runs-{writers}-{number}"
        children = [Child(lambda folder=folder: keep(folder)) for _ in range(writers)]
        said.update(child.kill(chance.uniform(0, 1.5 * whole)) for child in children)
        said["whole" if keep(folder) == expected else "torn"] += 1
    return said


def refused(call: Callable[[], object], kinds: type[Exception] | tuple[type[Exception], ...], *words: str) -> bool:
    try:
        call()
    except kinds as error:
        return all(word in str(error) for word in words)
    return False


def changed_options(place: Path) -> Counter[str]:
    """A training goes on with its own options only; a sweep keeps other options and other layers apart."""
    said = Counter[str]()
    train(place / "a")
    for other in (
        {"config": replace(RATES, lr=2e-2)},
        {"config": replace(RATES, steps=61)},
        {"model": build_transformer(SMALL, seed=1)},
        {"model": build_transformer(replace(SMALL, gate="relu"), seed=0)},
        {"tokens": TOKENS.flip(0)},
        {"extra": {"beta": 1}},
        {"every": 3},
    ):
        options = {"model": build_transformer(SMALL, seed=0), "tokens": TOKENS, "config": RATES, "every": 2} | other
        call = lambda options=options: train_language(folder=place / "a", progress=False, **options)  # noqa: E731
        said["refused" if refused(call, ValueError, "other settings") else "torn"] += 1
    keep(place / "b")
    said["refused" if keep(place / "b", epochs=4) != keep(place / "b") else "torn"] += 1
    path = place / "c.jsonl"
    first = sweep(LAYER, "eigen", {"rank": [1]}, path=path, progress=False)
    for options in ({"grid": {"rank": [2]}}, {"layer": random_layer(4, 24, 30, seed=1)}, {"method": "output_svd"}):
        call = {"layer": LAYER, "method": "eigen", "grid": {"rank": [1]}} | options
        said["refused" if sweep(**call, path=path, progress=False) != first else "torn"] += 1
    return said


def inside(folder: Path, kind: str) -> Counter[str]:
    """In a mount namespace of its own, as root: `folder` becomes a file system that is full, or read-only."""
    said = Counter[str]()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], check=True)
    stuffing = folder / "stuffing"
    for name, one in SAVES.items():
        for path in folder.iterdir():
            subprocess.run(["rm", "-rf", str(path)], check=True)
        one.write(one.versions[0], folder / name)
        expected = one.read(folder / name)
        before = sorted(folder.rglob("*"))
        make_unwritable(folder, kind)
        wrong = not refused(lambda one=one, name=name: one.write(one.versions[1], folder / name), OSError, str(folder))
        wrong |= one.read(folder / name) != expected
        make_writable(folder, kind)
        wrong |= sorted(folder.rglob("*")) != before
        one.write(one.versions[1], folder / name)
        wrong |= one.read(folder / name) == expected
        said["torn" if wrong else "whole"] += 1
    for path in folder.iterdir():
        subprocess.run(["rm", "-rf", str(path)], check=True)
    path = folder / "a.jsonl"

    def two() -> list[dict[str, Any]]:  # records of more than a page, whose rest a full disk still has
        return sweep(
            LAYER, "eigen", {"rank": [1, 2]}, path=path, progress=False, measure=lambda _: {"wide": "x" * 9000}
        )

    first = sweep(LAYER, "eigen", {"rank": [1]}, path=path, progress=False)
    make_unwritable(folder, kind)
    wrong = not refused(two, OSError, str(path)) or load_records(path) != first
    make_writable(folder, kind)
    wrong |= len(two()) != 2 or len(load_records(path)) != 2
    said["torn" if wrong else "whole"] += 1
    stuffing.unlink(missing_ok=True)
    spectra_of(folder / "store")
    expected = shards(folder / "store")
    for name in sorted(expected)[:2]:
        (folder / "store" / name).unlink()
    finished = shards(folder / "store")
    make_unwritable(folder, kind)
    wrong = not refused(lambda: spectra_of(folder / "store"), OSError, str(folder / "store"))
    wrong |= shards(folder / "store") != finished
    make_writable(folder, kind)
    spectra_of(folder / "store")
    said["torn" if wrong or shards(folder / "store") != expected else "whole"] += 1
    train(folder / "run")
    whole = (folder / "run" / "training.safetensors").read_bytes()
    make_unwritable(folder, kind)
    said["whole" if refused(lambda: train(folder / "new"), OSError, str(folder)) else "torn"] += 1
    said["whole" if (folder / "run" / "training.safetensors").read_bytes() == whole else "torn"] += 1
    return said


def make_unwritable(folder: Path, kind: str) -> None:
    """And the proof that nothing can be written: root is stopped by no permission."""
    if kind == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    else:
        with (folder / "stuffing").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass
    try:
        (folder / "proof").write_bytes(bytes(5000))
    except OSError:
        if kind == "full":
            (folder / "proof").unlink(missing_ok=True)
        return
    raise RuntimeError(f"{folder} can be written to: there is nothing to test")


def make_writable(folder: Path, kind: str) -> None:
    if kind == "read-only":
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    else:
        (folder / "stuffing").unlink()


def outside(place: Path, kind: str) -> Counter[str]:
    """`inside`, in a namespace of its own; where there is none, it is said."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        return Counter({"no mount namespace": 1})
    folder = place / kind
    folder.mkdir()
    command = ["unshare", "-m", sys.executable, __file__, "--inside", str(folder), kind]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENT, check=False)
    if run.returncode:
        print(run.stderr[-2000:])
        return Counter({"error": 1})
    return Counter(json.loads(run.stdout.splitlines()[-1]))


def tasks(count: int) -> dict[str, Callable[[Path, random.Random], Counter[str]]]:
    """By name: what is done in a folder, with what chance."""
    made: dict[str, Callable[[Path, random.Random], Counter[str]]] = {}
    for writers in (1, 2):
        by = "" if writers == 1 else ", two writers"
        for name in SAVES:
            made[f"{name}{by}"] = lambda place, chance, name=name, w=writers: kill_saves(name, place, count, chance, w)
        for name, kill in (
            ("training", kill_training),
            ("sweep", kill_sweeps),
            ("trained", kill_runs),
            ("spectra", kill_spectra),
        ):
            made[f"{name}{by}"] = lambda place, chance, kill=kill, w=writers: kill(place, count, chance, w)
    made["changed options"] = lambda place, chance: changed_options(place)
    for kind in ("full", "read-only"):
        made[f"disk {kind}"] = lambda place, chance, kind=kind: outside(place, kind)
    return made


KILLED = {"training": kill_training, "sweep": kill_sweeps, "trained": kill_runs, "spectra": kill_spectra}
BAD = ("torn", "lost", "twice", "left over", "hang", "error")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40, help="kills of every task")
    parser.add_argument("--only", default="", help="tasks whose name begins so")
    parser.add_argument("--inside", nargs=2, metavar=("FOLDER", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.inside:
        said = inside(Path(options.inside[0]), options.inside[1])
        print(json.dumps(said))
        return 0
    columns = ("killed", "done", "whole", "refused", *BAD)
    print(f"{'task':30}", *(f"{name:>9}" for name in columns))
    total = Counter[str]()
    for name, task in tasks(options.count).items():
        if name.startswith(options.only):
            with tempfile.TemporaryDirectory() as place:
                said = task(Path(place), random.Random(f"{options.seed} {name}"))
            print(f"{name:30}", *(f"{said[column]:9}" for column in columns), flush=True)
            total += said
    print(f"{'all, seed ' + str(options.seed):30}", *(f"{total[column]:9}" for column in columns))
    return any(total[word] for word in BAD)


if __name__ == "__main__":
    sys.exit(main())
