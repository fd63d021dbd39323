"""Hidden units of layers: write a stage with as few products of linear forms as possible."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.weights.polynomials.factors import Weights


class Units(NamedTuple):
    """Units hold the factors of a layer; each row of left and of right is a linear form in the inputs."""

    left: Tensor  # (rank, in)
    right: Tensor  # (rank, in)
    down: Tensor  # (out, rank)


def units_of(stages: Sequence[Weights]) -> tuple[list[Units], bool]:
    """Return the units of every stage, and whether the layers have a constant coordinate in front.

    A constant coordinate is needed if there is a bias, or if a layer passes on a value s_j to a later layer. Then the
    units of a layer are its products, one unit s_j * 1 per coordinate that is passed on, and the constant unit 1 * 1.
    """
    lifted = any(bool(part.any()) for stage in stages for part in (stage.left[:, 0], stage.right[:, 0], stage.linear))
    if not lifted:
        return [_fewest(Units(stage.left[:, 1:], stage.right[:, 1:], stage.down)) for stage in stages], False
    last = len(stages) - 1
    return [_fewest(_lifted(stage, constant_out=i < last)) for i, stage in enumerate(stages)], True


def _lifted(stage: Weights, *, constant_out: bool) -> Units:
    down, linear = stage.down, stage.linear
    if constant_out:
        down, linear = pad(down, (0, 0, 1, 0)), pad(linear, (0, 0, 1, 0))
        linear[0, 0] = 1.0
    order = [*range(1, linear.shape[1]), 0]  # the constant unit comes last
    eye = torch.eye(linear.shape[1], dtype=linear.dtype, device=linear.device)
    return Units(
        torch.cat([stage.left, eye[order]]),
        torch.cat([stage.right, eye[:1].expand(len(order), -1)]),
        torch.cat([down, linear[:, order]], 1),
    )


def _fewest(units: Units) -> Units:
    """Return the same function with fewer units: drop unused units, merge equal units, and regroup if that saves units.

    Units that share a form f are f * (sum of the other forms) for each output, so one unit per output suffices:
    down[out, r] (f . x) (g_r . x) summed over r = (f . x) ((sum_r down[out, r] g_r) . x)
    """
    left, right, down = units
    used = down.any(0) & left.any(1) & right.any(1)
    if not bool(used.any()):  # a layer has at least one unit
        return Units(left.new_zeros(1, left.shape[1]), left.new_zeros(1, left.shape[1]), left.new_zeros(len(down), 1))
    left, right, down = left[used], right[used], down[:, used]
    numbers: dict[bytes, int] = {}  # equal forms have one number
    sides = [
        [numbers.setdefault(row.tobytes(), len(numbers)) for row in (side + 0.0).cpu().numpy()]
        for side in (left, right)
    ]
    first: dict[tuple[int, int], int] = {}  # the first unit of every unordered pair of forms
    same = [first.setdefault((min(pair), max(pair)), unit) for unit, pair in enumerate(zip(*sides, strict=True))]
    down = torch.zeros_like(down).index_add_(1, torch.tensor(same, device=down.device), down)

    uses = Counter(form for pair in first for form in set(pair))
    groups: dict[int, list[int]] = {}
    for pair, unit in first.items():
        groups.setdefault(max(pair, key=uses.__getitem__), []).append(unit)
    made: list[Units] = []
    gone: set[int] = set()
    for form, members in groups.items():
        rows = down[:, members].any(1).nonzero()[:, 0]
        if len(rows) < len(members):
            on_left = torch.tensor([sides[0][unit] == form for unit in members], device=down.device)[:, None]
            others = torch.where(on_left, right[members], left[members])
            shared = left[members[0]] if on_left[0] else right[members[0]]
            new = torch.zeros_like(down[:, : len(rows)])
            new[rows, range(len(rows))] = 1.0
            made.append(Units(shared.expand(len(rows), -1), down[rows][:, members] @ others, new))
            gone.update(members)
    kept = [unit for unit in first.values() if unit not in gone]
    parts = [Units(left[kept], right[kept], down[:, kept]), *made]
    return Units(*(torch.cat(sides, axis) for sides, axis in zip(zip(*parts, strict=True), (0, 0, 1), strict=True)))
