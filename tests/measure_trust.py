"""How true the standard errors and the chosen ranks are: of planted tensors with noise.

`python tests/measure_trust.py --seeds 5` prints one row per kind, sizes, rank and noise. A stopped run goes on from its
file, which has one line per case.
"""

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from helpers import layer_of, normal
from tqdm import tqdm

from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.compare import choose_rank, component_trust, match
from tensornet_interp.decompositions import CP
from tensornet_interp.inner_products import inner, norm

# by rank: outputs, inputs. Ample: 11 to 12 numbers per free parameter of `cp`; tight: about 3
SIZES = {
    "ample": {3: (9, 17), 8: (16, 28), 16: (24, 36)},
    "tight": {3: (5, 8), 8: (9, 13), 16: (12, 20)},
}
NOISE = (0.01, 0.1, 0.5)  # the norm of the noise over that of the planted tensor
STARTS = 10
KINDS = ("cp", "symmetric_cp", "one output", "collinear", "single starts")


def planted(kind, sizes, rank, noise, seed):
    """The planted layer, and the same with white noise."""
    n_out, size = SIZES[sizes][rank]
    if kind == "one output":
        n_out, size = 1, 6 * rank
    truth = layer_of(n_out, size, rank, seed=1000 * seed + rank)
    down, right = truth.down, truth.left if kind == "symmetric_cp" else truth.right
    if kind == "collinear":
        down = torch.cat([down[:, :1], down[:, :1], down[:, 2:]], 1)
    truth = BilinearLayer(down=down, left=truth.left, right=right)
    error = normal(len(down), size, size, seed=1000 * seed + 500 + int(1000 * noise))
    error = (error + error.mT) / 2  # white: entries off the diagonal have half the variance
    dense = truth.to_tensor()
    dense = (dense + dense.mT) / 2
    return truth, BilinearLayer.from_tensor(dense + noise * float(dense.norm() / error.norm()) * error)


def actual_errors(truth, result):
    """By component of the result: the distance to its partner in the planted layer, over the size of the partner."""
    pairs = match(result, truth).pairs
    made, found = result.to_layer(), {}
    for mine, theirs in pairs:
        one, two = (
            BilinearLayer(down=x.down[:, [at]], left=x.left[:, [at]], right=x.right[:, [at]])
            for x, at in ((made, mine), (truth, theirs))
        )
        squares = float(norm(one)) ** 2 + float(norm(two)) ** 2 - 2 * float(inner(one, two))
        found[mine] = math.sqrt(max(squares, 0.0)) / float(norm(two))
    return [found[at] for at in range(len(pairs))]


def case(kind, sizes, rank, noise, seed):
    """One record."""
    truth, layer = planted(kind, sizes, rank, noise, seed)
    if kind in ("one output", "collinear"):
        trust = component_trust(decompose(layer, "cp", rank=rank, starts=3), layer)
        undetermined = bool((trust.standard_error >= 1 / 3).any())
        collinear = any("collinear" in flag or "one output" in flag for flag in trust.flags)
        return {"undetermined": undetermined, "flagged": undetermined or collinear}
    if kind == "single starts":
        floor = CP(rank=rank, start=truth)(layer).relative_error
        fits = [CP(rank=rank, start=layer_of(*layer.shape[:2], rank, seed=900 + start))(layer) for start in range(4)]
        missed = [component_trust(fit, layer).flags for fit in fits if fit.relative_error > 1.001 * floor]
        return {"missed": len(missed), "flagged": sum(any("white" in flag for flag in flags) for flags in missed)}
    choice = choose_rank(layer, kind, [rank - 2, rank - 1, rank, rank + 1, rank + 2], starts=STARTS)
    result, trust = choice.results[2], choice.trust[2]
    floor = decompose(layer, kind, rank=rank, start=truth).relative_error  # of a fit that starts from the truth
    return {
        "chosen": choice.rank,
        "reached": result.relative_error < 1.001 * floor,
        "error_over_floor": result.relative_error / floor,
        "predicted": trust.standard_error.tolist(),
        "actual": actual_errors(truth, result),
        "flags": list(trust.flags),
        "table": choice.records(),
    }


def row(records):
    """Counts of the records of one kind, rank and noise."""
    count = f"{len(records)} cases"
    if "missed" in records[0]:
        missed, flagged = (sum(r[name] for r in records) for name in ("missed", "flagged"))
        return f"{count}, of {4 * len(records)} single starts {missed} miss the floor, residual flagged {flagged}"
    if "chosen" not in records[0]:
        undetermined, flagged = (sum(r[name] for r in records) for name in ("undetermined", "flagged"))
        return f"{count}, undetermined {undetermined}, flagged {flagged}"
    rank = records[0]["rank"]
    high = sum((r["chosen"] or 0) > rank for r in records)
    low = sum((r["chosen"] or 0) < rank for r in records)
    elbow = sum(max(r["table"][1:-1], key=lambda row: row["elbow"])["rank"] == rank for r in records)
    reached = [r for r in records if r["reached"]]
    ratios = [p / a for r in reached for p, a in zip(r["predicted"], r["actual"], strict=True) if p < 0.3]
    inside = sum(0.8 <= ratio <= 1.25 for ratio in ratios)
    middle = f"{statistics.median(ratios):.2f}" if ratios else "-"
    missed = [r for r in records if not r["reached"]]
    warned = sum(any("start" in f or "residual" in f or "undetermined" in f for f in r["flags"]) for r in missed)
    return (
        f"{count}, too high {high}, too low {low} (the elbow is right {elbow}); floor reached {len(reached)}, {inside}"
        f" of {len(ratios)} ratios in 0.8 to 1.25, median {middle}; missed {len(missed)}, flagged {warned}"
    )


def main():
    """Measure, and print counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[3, 8, 16], choices=[3, 8, 16])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--out", default="out/measure_trust.jsonl")
    options = parser.parse_args()
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(r["kind"], r["sizes"], r["rank"], r["noise"], r["seed"]): r for r in known}
    seeds = range(options.seed, options.seed + options.seeds)
    # seeds outside: a run that is stopped has all ranks of the first seeds
    wanted = [
        (kind, sizes, rank, noise, seed)
        for seed in seeds
        for sizes in options.sizes
        for kind in options.kinds
        for rank in options.ranks
        for noise in NOISE
    ]
    for key in tqdm(wanted, desc="cases"):
        if key not in done:
            started = time.time()
            record = dict(zip(("kind", "sizes", "rank", "noise", "seed"), key, strict=True)) | case(*key)
            done[key] = record | {"seconds": time.time() - started}
            with path.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
    groups = defaultdict(list)
    for key in wanted:
        groups[key[:4]].append(done[key])
    for (kind, sizes, rank, noise), records in sorted(groups.items()):
        print(f"{kind:13} {sizes} rank {rank:2} noise {noise:4}: {row(records)}")


if __name__ == "__main__":
    main()
