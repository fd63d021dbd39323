"""A check of the laws of decompositions for authors of plugins: `check_decomposition("name")`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from tensornet_interp.checks import check_iterations, check_number, check_seed
from tensornet_interp.decompositions import decompose
from tensornet_interp.inner_products.distance import relative_error
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.lifting import lift
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.places import check_device, check_place
from tensornet_interp.registry import get_decomposition

__all__ = ["CheckReport", "check_decomposition", "random_layer"]


@dataclass
class CheckReport:
    """A check report lists the laws that held, that failed and why, and that could not be tried; `print` it."""

    name: str
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"]
        lines += [f"  failed  {law}: {why}" for law, why in self.failed.items()]
        lines += [f"  skipped {law}: {why}" for law, why in self.skipped.items()]
        return "\n".join(lines)


def random_layer(
    n_out: int, n_in: int, rank: int, *, seed: int, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> BilinearLayer:
    """Draw a layer of standard normal weights from a generator of its own; the weights are equal on every device."""
    for name, size in {"n_out": n_out, "n_in": n_in, "rank": rank}.items():
        check_iterations(name, size, most=10**9)
    generator = torch.Generator().manual_seed(check_seed("seed", seed))
    place, kind = check_place(device, dtype, torch.empty(0, dtype=torch.float64, device="cpu"))

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu").to(place, kind)

    return BilinearLayer(down=draw(n_out, rank), left=draw(n_in, rank), right=draw(n_in, rank), name=f"random {seed}")


def check_decomposition(
    name: str, *, device: str = "cpu", exact_tolerance: float = 1e-9, **options: object
) -> CheckReport:
    """Check every law on random layers: modes, dtype, purity, repeatability, strictness, exact end, composition.

    name: a registered decomposition; options: what the decomposition needs to be built. Returns the report. If a law
    fails, raises AssertionError with the report, so that a call of this function is a whole test.
    """
    factory = get_decomposition(name)
    check_device(device)
    check_number("exact_tolerance", exact_tolerance, 0)
    report = CheckReport(f"{name} on {device}")
    layers = {
        "wide": random_layer(3, 11, 4, seed=1, device=device),
        "deep": random_layer(4, 5, 13, seed=2, device=device),
        "lifted": lift(random_layer(5, 5, 4, seed=3, device=device), residual=0.5),
    }

    def law(title: str, check: Callable[[], object]) -> None:
        try:
            outcome = check()
        except Exception as error:  # any error is a finding
            report.failed[title] = f"{type(error).__name__}: {error}"
            return
        if outcome is False:
            report.failed[title] = "does not hold"
        elif isinstance(outcome, str):
            report.skipped[title] = outcome
        else:
            report.passed.append(title)

    def check_layer(title: str, layer: BilinearLayer) -> None:
        before = [term.data.clone() for term in layer.terms()]
        try:
            result, again = (decompose(layer, name, **options) for _ in range(2))
        except Exception as error:
            report.failed[f"{title}: decomposes"] = f"{type(error).__name__}: {error}"
            return
        made, repeated, dense = result.to_layer(), again.to_layer(), result.to_tensor()
        law(f"{title}: same modes and sizes", lambda: result.modes == layer.modes and result.sizes == layer.sizes)
        law(f"{title}: dtype kept", lambda: made.down.dtype == layer.down.dtype)
        law(f"{title}: device kept", lambda: made.down.device == layer.down.device)
        law(
            f"{title}: constants kept",
            lambda: (made.constant_in, made.constant_out) == (layer.constant_in, layer.constant_out),
        )
        law(f"{title}: input not mutated", lambda: _equal(before, [term.data for term in layer.terms()]))
        law(
            f"{title}: same seed, same answer",
            lambda: _equal([term.data for term in made.terms()], [term.data for term in repeated.terms()]),
        )
        law(
            f"{title}: tensor and layer agree",
            lambda: torch.allclose(dense, made.to_tensor(), rtol=0, atol=1e-12 * float(dense.abs().max()) * layer.rank),
        )
        law(f"{title}: drops into a network", lambda: bool(BilinearNetwork([result])))
        if not hasattr(factory, "ladder"):
            report.skipped[f"{title}: exact end"] = "the method declares no ladder"
            return
        errors = [relative_error(step(layer), layer) for step in factory.ladder(layer)]
        if not errors:
            report.skipped[f"{title}: exact end"] = "the method says that it has no exact end"
            return
        law(f"{title}: exact end", lambda: errors[-1] <= exact_tolerance)
        if getattr(factory, "nested", False):
            law(f"{title}: error never rises", lambda: all(b <= a + 1e-12 for a, b in pairwise(errors)))

    for title, layer in layers.items():
        check_layer(title, layer)
    single = random_layer(3, 7, 4, seed=4, dtype=torch.float32, device=device)
    law("float32 stays float32", lambda: decompose(single, name, **options).to_layer().down.dtype == torch.float32)
    law("a zero layer gives zero or an error", lambda: _zero(name, single, options))
    law("options are strict", lambda: _refuses(lambda: decompose(single, name, no_such_option=1)))
    law("repr shows a name", lambda: bool(repr(factory(**options))) and "object at 0x" not in repr(factory(**options)))
    if report.failed:
        raise AssertionError(str(report))
    return report


def _equal(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _zero(name: str, layer: BilinearLayer, options: dict[str, object]) -> bool:
    zero = BilinearLayer(down=0 * layer.down, left=layer.left, right=layer.right)
    try:
        tensor = decompose(zero, name, **options).to_tensor()
    except ValueError:
        return True
    return not bool(tensor.any())


def _refuses(call: Callable[[], object]) -> bool:
    try:
        call()
    except TypeError:
        return True
    return False
