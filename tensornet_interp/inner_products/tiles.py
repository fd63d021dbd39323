"""Compute tables of inner products as units of work, each a tile of the matrix of pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.attention.sequence import SequenceNetwork, array_of
from tensornet_interp.executors import Pool, Scratch, pair_tiles, run_units
from tensornet_interp.inner_products.kinds import Gaussian, Kind, Tree, chosen_method
from tensornet_interp.inner_products.sequences import sequence_table, standard_moments
from tensornet_interp.inner_products.stack import as_stack
from tensornet_interp.inner_products.table import Pairs, Table, Task
from tensornet_interp.network import BilinearNetwork


def distributed(
    networks: Mapping[int, BilinearNetwork], task: Task, kind: Kind, executor: Pool, scratch: Scratch | None
) -> Table:
    """Return the table of a task of networks without positions, whose tiles are computed by workers."""
    choice = ""
    if not isinstance(kind, Tree):  # the tiles of one table have one method
        method, choice = chosen_method(kind, task)
        kind = replace(kind, method=method)
    device = networks[0].layers[0].down.device
    tiles = pair_tiles(task.pairs, len(networks))
    return replace(_collected(networks, task, kind, tiles, device, executor, scratch), choice=choice)


def distributed_sequences(
    networks: dict[str, SequenceNetwork], task: Task, kind: Kind, executor: Pool, scratch: Scratch | None
) -> Table:
    """Return the table of a task of networks over positions; samples are one unit, because all pairs share them."""
    tiles: Sequence[Pairs] = pair_tiles(task.pairs, len(networks))
    if isinstance(kind, Gaussian):
        kind = replace(kind, moments=kind.moments or standard_moments(networks))
        tiles = [task.pairs] if kind.method == "sampled" else tiles
    numbered = dict(enumerate(networks.values()))
    device = array_of(numbered[0][0].map).device
    return _collected(numbered, task, kind, tiles, device, executor, scratch)


def _collected(
    networks: Mapping[int, Any],
    task: Task,
    kind: Kind,
    tiles: Sequence[Pairs],
    device: torch.device,
    executor: Pool,
    scratch: Scratch | None,
) -> Table:
    objects: dict[str, Any] = {f"network-{i}": network for i, network in networks.items()}
    if isinstance(kind, Gaussian) and kind.moments is not None:
        objects["moments"] = kind.moments
        kind = replace(kind, moments=None)
    units = [(list(tile), kind, task.by_output, task.widest) for tile in tiles]
    ended = run_units(_tile, units, objects, executor, scratch, device=device)
    found: dict[tuple[int, int], tuple[Tensor, ...]] = {}
    about = []
    for number, (method, share, warnings, *parts) in tqdm(
        ended, desc="tiles", leave=False, total=len(units), disable=not task.progress
    ):
        about.append((method, share, warnings))
        found |= zip(tiles[number], zip(*parts, strict=True), strict=True)
    value, log_scale, *draws = (torch.stack(part) for part in zip(*(found[pair] for pair in task.pairs), strict=True))
    # a table is as exact as the least exact tile, and the tile with the largest share warns for all
    method, share, warnings = max(about, key=lambda tile: (tile[0] != "exact", tile[1] or 0.0))
    return Table(value, log_scale, method, draws[0] if draws else None, share, warnings)


def _tile(
    objects: Mapping[str, Any], pairs: Sequence[tuple[int, int]], kind: Kind, by_output: bool, widest: int
) -> tuple[Any, ...]:
    """Return method, share and warnings of the table of some pairs, its values, their scales and, if any, its draws."""
    if "moments" in objects:
        kind = replace(kind, moments=objects["moments"])
    used = {i: objects[f"network-{i}"] for i in sorted({i for pair in pairs for i in pair})}
    if isinstance(next(iter(used.values())), SequenceNetwork):
        place = {i: at for at, i in enumerate(used)}
        task = Task({}, [(place[i], place[j]) for i, j in pairs], by_output, False, widest)
        table = sequence_table({str(i): network for i, network in used.items()}, task, kind)
    else:
        stacks = {i: as_stack(network) for i, network in used.items()}
        table = kind.compute(Task(stacks, pairs, by_output, False, widest))
    parts = (table.value, table.log_scale) + (() if table.draws is None else (table.draws,))
    return (table.method, table.share, table.warnings, *parts)
