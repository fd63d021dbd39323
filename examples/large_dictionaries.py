"""What do pairs and graphs cost with dictionaries of the size of published ones?

Random weights and random directions, since only sizes matter here: dictionaries of 32,768 features on both sides of a
layer of width 1,024. First the 100 strongest pairs of input features of one target; then the averaged graph of one seed
over three layers. Prints seconds by the clock and of the processor, and the memory of the process. The defaults need
4 GiB and some minutes on two threads. Run nothing else meanwhile if you quote the times.

    python examples/large_dictionaries.py
    python examples/large_dictionaries.py --features 2048 --width 256 --hidden 512
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.tables import write_table
from tensornet_interp import BilinearLayer
from tensornet_interp.attention import Norm, Part, SequenceNetwork
from tensornet_interp.checks import check_int
from tensornet_interp.features import Dictionary, feature_interactions
from tensornet_interp.graphs import feature_graph

LAYERS = 3
PLACES = ((0, "stream"), *((layer, "out") for layer in range(LAYERS)))
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Time both, print them and write out/large_dictionaries.csv."""
    options = parser().parse_args(argv)
    for name in ("features", "width", "hidden", "windows", "positions", "pairs", "nodes"):
        check_int(f"--{name}", getattr(options, name), 1)
    check_int("--active", options.active, 1, options.features, "features of a token are some of all")
    check_int("--held-out", options.held_out, 2)
    device, needed = torch.device(options.device), weights(options) * 4 / 2**30
    print(f"{weights(options):.2e} weights in float32, {needed:.1f} GiB; torch {torch.__version__}, {device.type}")
    print(f"{torch.get_num_threads()} threads")
    generator = torch.Generator(device).manual_seed(options.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    rows = [pairs(options, normal), graph(options, normal)]
    for row in rows:
        clock = f"{row['seconds']:.1f} s, of the processor {row['processor_seconds']:.1f} s"
        print(f"{row['what']}: {clock}, the process has held {row['GiB']:.2f} GiB at most")
    write_table(options.out, rows)
    print(f"table: {options.out}")


def weights(options: argparse.Namespace) -> int:
    """Return the number of weights: of the layers, and of both matrices of each dictionary."""
    return options.width * (3 * LAYERS * options.hidden + 2 * len(PLACES) * options.features)


def layer(options: argparse.Namespace, normal: Callable[..., Tensor]) -> BilinearLayer:
    """Return a layer with random weights."""
    d, hidden = options.width, options.hidden
    left, right, down = (normal(d, hidden) / size**0.5 for size in (d, d, hidden))
    return BilinearLayer(down=down, left=left, right=right)


def dictionary(options: argparse.Namespace, normal: Callable[..., Tensor]) -> Dictionary:
    """Return a dictionary of random unit vectors, of which the largest products are active."""
    vectors = torch.nn.functional.normalize(normal(options.width, options.features), dim=0)
    return Dictionary(vectors.mT, vectors, k=options.active, centered=False)


def measured(what: str, call: Callable[[], object]) -> Row:
    """Return the seconds of a call and the most memory that the process has held so far."""
    clock, processor = time.perf_counter(), time.process_time()
    found = call()
    row = {"what": what, "seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - processor}
    return row | {"GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "found": str(found)}


def pairs(options: argparse.Namespace, normal: Callable[..., Tensor]) -> Row:
    """Measure the strongest pairs of one target."""
    part, coder, target = layer(options, normal), dictionary(options, normal), normal(options.width)

    def call() -> object:
        return feature_interactions(part, target / target.norm(), coder.decoder, basis="x").top(options.pairs)[0]

    return measured(f"{options.pairs} strongest of {options.features:,}^2 pairs of one target", call)


def graph(options: argparse.Namespace, normal: Callable[..., Tensor]) -> Row:
    """Measure the averaged graph of one seed."""
    network = SequenceNetwork([Part(layer(options, normal), 1.0, Norm()) for _ in range(LAYERS)])
    dictionaries = {place: dictionary(options, normal) for place in PLACES}
    text = normal(options.windows + options.held_out, options.positions, options.width)
    seed = (LAYERS - 1, "out", 0)

    def call() -> object:
        x, held_out = text[: options.windows], text[options.windows :]
        return repr(
            feature_graph(network, dictionaries, seed, x, mode="averaged", held_out=held_out, nodes=options.nodes)
        )

    return measured(f"graph of one seed over {LAYERS} layers, {options.nodes} nodes a place", call)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--features", type=int, default=32_768, help="features of each dictionary")
    made.add_argument("--width", type=int, default=1024)
    made.add_argument("--hidden", type=int, default=2048)
    made.add_argument("--active", type=int, default=32, help="active features per token")
    made.add_argument("--pairs", type=int, default=100)
    made.add_argument("--nodes", type=int, default=20, help="features per place with edges of their own")
    made.add_argument("--windows", type=int, default=60, help="windows of random vectors for averages")
    made.add_argument("--held-out", type=int, default=4, help="windows for R squared")
    made.add_argument("--positions", type=int, default=64)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="cpu")
    made.add_argument("--out", type=Path, default=Path("out/large_dictionaries.csv"))
    return made


if __name__ == "__main__":
    main()
