"""How true the reported errors are: of random cases, against the dense tensors in extended precision.

`python tests/measure_bounds.py --seed 0 --cases 1000` prints one row per class of inputs.
"""

import argparse
import collections
import dataclasses
import random
import time

import extended
import torch
from drawn import HALF, KINDS, Recipe

from tensornet_interp.decompositions import BUILT_IN, FitOptions
from tensornet_interp.registry import get_decomposition

WELL = ("normal", "deficient", "unbalanced", "repeated", "one output")  # units do not cancel
POWERS = {torch.float64: 150, torch.float32: 12, torch.bfloat16: 12, torch.float16: 0}


def case(choose):
    """A layer and a step of a method's ladder, all drawn."""
    dtype = choose.choice(list(POWERS))
    name = choose.choice(list(BUILT_IN))
    wide = dtype in HALF and not name.startswith("tensorly") and choose.random() < 0.2
    recipe = Recipe(
        seed=choose.randrange(10**6),
        n_out=choose.randint(1, 6),
        n_in=256 if wide else choose.randint(1, 16),
        rank=choose.randint(1, 12),
        kind=choose.choice(KINDS),
        dtype=dtype,
        power=choose.randint(-POWERS[dtype], POWERS[dtype]),
        view=choose.random() < 0.3,
        grad=choose.random() < 0.3,
        lifted=choose.random() < 0.3,
    )
    layer = recipe.layer()
    factory = get_decomposition(name)
    steps = list(factory.ladder(layer)) or [factory(rank=1)]
    step = choose.choice(steps)
    if isinstance(step, FitOptions):
        step = dataclasses.replace(step, max_iterations=20)
    return recipe, layer, step


def main():
    """Measure, and print counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1000)
    options = parser.parse_args()
    choose, counts, started = random.Random(options.seed), collections.defaultdict(collections.Counter), time.time()
    for _ in range(options.cases):
        recipe, layer, step = case(choose)
        truth = extended.norm(extended.dense(layer))
        group = (str(recipe.dtype).removeprefix("torch."), "well conditioned" if recipe.kind in WELL else recipe.kind)
        count = counts[group]
        if not truth > 0:
            count["zero"] += 1
            continue
        try:
            result = step(layer)
        except Exception as error:  # whatever goes wrong is counted
            count[f"{type(error).__name__}"] += 1
            print(f"error: {recipe} {step!r}: {error}")
            continue
        true, report = float(extended.relative_error(result, layer)), result.report
        count["tried"] += 1
        count["bound holds"] += true <= report.relative_error_bound
        count["bound within 100"] += report.relative_error_bound <= 100 * (true + 1e-15)
        count["error within 1 %"] += abs(report.relative_error - true) <= 0.01 * true + 1e-14
        if true > report.relative_error_bound:
            print(f"bound: {recipe} {step!r}: true {true:.3e}, bound {report.relative_error_bound:.3e}")
    names = ["tried", "bound holds", "bound within 100", "error within 1 %"]
    print(f"seed {options.seed}, {options.cases} cases, {time.time() - started:.0f} s")
    print(f"{'dtype':10}{'inputs':18}" + "".join(f"{name:>18}" for name in names) + "  other")
    for group, count in sorted(counts.items()):
        other = {name: number for name, number in count.items() if name not in names}
        print(f"{group[0]:10}{group[1]:18}" + "".join(f"{count[name]:>18}" for name in names) + f"  {other or ''}")
    for kind in ("well conditioned", None):
        total = collections.Counter()
        for group, count in counts.items():
            if kind in (group[1], None):
                total.update(count)
        shares = ", ".join(f"{name} {total[name]} ({total[name] / total['tried']:.1%})" for name in names[1:])
        print(f"{kind or 'all'}: {total['tried']} tried, {shares}")


if __name__ == "__main__":
    main()
