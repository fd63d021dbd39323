"""A check of the laws of decompositions for authors of plugins: `check_decomposition("name")`."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import torch

from tensornet_interp.checks import check_iterations, check_number, check_seed
from tensornet_interp.contents import explain_missing_names
from tensornet_interp.decompositions import build
from tensornet_interp.float64 import has_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.lifting import lift
from tensornet_interp.places import check_device, check_place
from tensornet_interp.registry import get_decomposition
from tensornet_interp.tables import Record
from tensornet_interp.testing import laws
from tensornet_interp.testing.laws import ALWAYS, DECLARED, THE_REPORT, Method, Run

__all__ = ["CheckReport", "check_decomposition", "random_layer"]

explain_missing_names(__name__)


@dataclass
class CheckReport:
    """A check report lists the laws that held, and with reasons the laws that failed or were not tested; `print` it."""

    name: str
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def records(self) -> list[Record]:
        """Return one record per law, with its outcome and the reason."""
        parts: dict[str, Mapping[str, str | None]] = {
            "passed": dict.fromkeys(self.passed),
            "failed": self.failed,
            "not tested": self.skipped,
        }
        return [
            {"name": self.name, "law": law, "outcome": outcome, "reason": reason}
            for outcome, laws in parts.items()
            for law, reason in laws.items()
        ]

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} not tested"]
        lines += [f"  failed      {law}: {why}" for law, why in self.failed.items()]
        lines += [f"  not tested  {law}: {why}" for law, why in self.skipped.items()]
        return "\n".join(lines)


def random_layer(
    n_out: int, n_in: int, rank: int, *, seed: int, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> BilinearLayer:
    """Return a layer of standard normal weights, which are the same on every device.

    seed: the seed of a separate generator; the global random state is neither used nor changed.
    """
    for name, size in {"n_out": n_out, "n_in": n_in, "rank": rank}.items():
        check_iterations(name, size, most=10**9)
    generator = torch.Generator().manual_seed(check_seed("seed", seed))
    place, kind = check_place(device, dtype, torch.empty(0, dtype=torch.float64, device="cpu"))

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu").to(place, kind)

    return BilinearLayer(down=draw(n_out, rank), left=draw(n_in, rank), right=draw(n_in, rank), name=f"random {seed}")


@laws.kept_global_state()
def check_decomposition(
    name: str, *, device: str = "cpu", exact_tolerance: float = 1e-9, **options: object
) -> CheckReport:
    """Check every law of decompositions on random layers.

    name: the name of a registered decomposition. device: the device of the layers. exact_tolerance: the largest
    relative error that the last step of the ladder may have. options: the options of one more decomposition, which is
    checked in addition to the ladder. They are needed only if the class cannot be built without options and has no
    ladder.

    These laws are always checked. Modes, sizes, dtype, device, constants, name, basis and history are kept. The layer,
    the global random state and the settings of torch do not change. The same call gives the same answer. The result
    gives the same outputs by its terms, as a layer, as a call and in a network. Its error is not larger than the error
    of the zero layer, and the numbers of its report are true. Unknown options are refused. Every step of the ladder
    holds more numbers than the step before, and the last step is exact.

    These laws are checked if the class declares them; the report lists the laws that it does not declare.
    `nested = True`: the error never rises along the ladder.
    `fitted = True`: no multiple of the result fits the layer better (up to 1e-6).
    `odd = True`: the decomposition of -layer is minus the decomposition of the layer.

    Returns the report. Raises AssertionError with the report if a law fails, so one call of this function is a complete
    test.
    """
    factory = get_decomposition(name)
    if hasattr(factory, "acts_on"):
        raise ValueError(
            f"name must be a decomposition of bilinear layers; {name!r} acts on {factory.acts_on.__name__}"
        )
    check_device(device)
    check_number("exact_tolerance", exact_tolerance, 0)
    report = CheckReport(f"{name} on {device}")
    missing = [option for option in _required(factory) if option not in options]
    given: list[Method] = [] if missing else [build(name, options)]
    tested = {flag for flag in DECLARED if getattr(factory, flag, False)}
    ladder: list[Method] = []
    for title, layer in _layers(device).items():
        try:
            ladder = list(factory.ladder(layer)) if hasattr(factory, "ladder") else []
            if not ladder and not given:
                raise TypeError(f"it needs options ({', '.join(missing)}) and has no ladder that gives them")
            steps = [laws.run(method, layer) for method in ladder]
            runs = [*steps, *(laws.run(method, layer) for method in given)]
        except Exception as error:  # any error is a finding
            report.failed[f"{title}: decomposes"] = f"{type(error).__name__}: {error}"
            continue
        _check_runs(report, title, runs, tested)
        if steps:
            _check_ladder(report, title, steps, tested, exact_tolerance)
    for flag, meaning in DECLARED.items():
        if flag not in tested:
            report.skipped[meaning] = f"the class does not declare {flag} = True"
    if not ladder:
        why = "the ladder is empty: the method has no exact end" if hasattr(factory, "ladder") else "there is no ladder"
        report.skipped["exact end"] = why
    if report.failed:
        raise AssertionError(str(report))
    return report


def _required(factory: Callable[..., object]) -> list[str]:
    """Return the names of the options that have no default value."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(factory).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in several]


def _layers(device: str) -> dict[str, BilinearLayer]:
    """Return four layers, named by their special property; each has a different history and basis.

    All are in float32 on a device without float64.
    """
    dtype = torch.float64 if has_float64(torch.device(device)) else torch.float32
    layers = {
        "wide": random_layer(3, 11, 4, seed=1, dtype=dtype, device=device),
        "deep": random_layer(4, 5, 13, seed=2, dtype=dtype, device=device),
        "lifted": lift(random_layer(5, 5, 4, seed=3, dtype=dtype, device=device), residual=0.5),
        "float32": random_layer(3, 7, 4, seed=4, dtype=torch.float32, device=device),
    }
    return {
        title: replace(layer, history=(*layer.history, f"drawn as {title}"), basis=f"inputs of {title}")
        for title, layer in layers.items()
    }


def _check_runs(report: CheckReport, title: str, runs: Sequence[Run], tested: Collection[str]) -> None:
    """Check the laws of single results and enter the findings in the report."""
    checks = dict(ALWAYS)
    if all(run.report is None for run in runs):
        del checks[THE_REPORT]
        report.skipped[f"{title}: {THE_REPORT}"] = "the results have no report"
    checks |= {DECLARED[flag]: check for flag, check in (("fitted", laws.fitted), ("odd", laws.odd)) if flag in tested}
    for law, check in checks.items():
        _enter(report, f"{title}: {law}", [(run.method, partial(check, run)) for run in runs])


def _check_ladder(
    report: CheckReport, title: str, steps: Sequence[Run], tested: Collection[str], tolerance: float
) -> None:
    """Check the laws of a ladder and enter the findings in the report."""
    checks = {"parameters grow along the ladder": laws.parameters_grow}
    if "nested" in tested:
        checks[DECLARED["nested"]] = laws.error_falls
    for law, check in checks.items():
        _enter(report, f"{title}: {law}", [(b.method, partial(check, a, b)) for a, b in pairwise(steps)])
    _enter(report, f"{title}: exact end", [(steps[-1].method, partial(laws.exact, steps[-1], tolerance))])


def _enter(report: CheckReport, law: str, checks: Iterable[tuple[object, Callable[[], str | None]]]) -> None:
    """Enter a law in the report: as failed with the first finding, or as passed if there is no finding."""
    for method, check in checks:
        try:
            wrong = check()
        except Exception as error:  # any error is a finding
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            report.failed[law] = f"{method!r}: {wrong}"
            return
    report.passed.append(law)
