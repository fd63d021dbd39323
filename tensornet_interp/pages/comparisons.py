"""What an object does on given inputs: fidelity, truncation curve, and explanations of single outputs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tensornet_interp.fidelity import fidelity, network_fidelity, truncation_curve
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.pages.components import added, component_names, vectors, view_of
from tensornet_interp.pages.figures import bars, cell, curves
from tensornet_interp.pages.parts import Figure, Group, Section, table_of
from tensornet_interp.plots.inputs import largest, output_names
from tensornet_interp.plots.sheets import numbers
from tensornet_interp.results import Result
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.tables import flat_records

_MEASURES = (
    "Means over the given inputs. kl and cross entropy are in nats; mse is the squared error, summed over the outputs;"
    " mse independent is that of f(x1, x2) for two independent inputs; relative mse is mse over the variance of the"
    " outputs of the reference, and r squared is 1 - relative mse."
)
_SHOWN = 4  # components that explain an output
_LISTED = 12  # components and outputs that are listed


@dataclass(frozen=True)
class Data:
    """What a page compares an object with, and the inputs on which it does so."""

    reference: TensorNetwork | None = None
    inputs: Tensor | None = None
    labels: Tensor | None = None
    targets: Tensor | None = None
    explain: Sequence[int] = ()

    def compared_with(self, part: TensorNetwork) -> "Data":
        """Return the data with the reference; without one, a model with labels or targets is compared with itself."""
        known = self.reference is not None or (self.labels is None and self.targets is None)
        return self if known else replace(self, reference=part)


def fidelity_sections(part: TensorNetwork, data: Data) -> list[Section]:
    """Return how well a model matches the reference on the inputs; if it is the reference, how accurate it is."""
    if data.reference is None or data.inputs is None:
        return []
    networks = isinstance(part, BilinearNetwork) and isinstance(data.reference, BilinearNetwork)
    if networks and part is not data.reference and len(part) == len(data.reference):  # type: ignore[arg-type]
        found: Any = network_fidelity(part, data.reference, data.inputs, data.labels, targets=data.targets)
        total, rows = found.total, flat_records(found)
    else:
        found = total = fidelity(part, data.reference, data.inputs, data.labels, targets=data.targets)
        rows = flat_records(found)[1:]
    kept = {key: value for key, value in total.records()[0].items() if value is not None}
    if part is data.reference:
        own = {key.removeprefix("reference_"): value for key, value in kept.items() if key.startswith("reference_")}
        return [Section("Accuracy", "On the given inputs.", _facts({"samples": kept["samples"]} | own))]
    return [Section("Fidelity", _MEASURES, _facts(kept), tables=[table_of("", rows)])]


def _facts(values: dict[str, float]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), f"{value:.6g}") for key, value in values.items()]


def curve_sections(result: Result, data: Data) -> list[Section]:
    """Return what is left of the reference with the first components of a spectral result."""
    if data.reference is None or data.inputs is None or not isinstance(result, SpectralResult):
        return []
    records = truncation_curve(result, data.reference, data.inputs, data.labels)
    wholes: dict[str, float | None] = {"r_squared": 1.0, "relative_mse": None}
    if data.labels is not None:
        whole = fidelity(data.reference, data.reference, data.inputs, data.labels)
        wholes = {"accuracy": whole.accuracy, "cross_entropy": whole.cross_entropy}
    figures = []
    for field, height in wholes.items():
        rows = [record for record in records if record[field] is not None]
        if rows:
            points = [row["components"] for row in rows], [row[field] for row in rows]
            name = field.replace("_", " ")
            figures.append(curves({"": points}, name, "components per block", name, log=True, whole=height))
    text = "What is left with the first components of every block, by magnitude; dashed: the whole."
    return [Section("Truncation", text, figures=figures, tables=[table_of("", records)])]


def explanation_sections(result: Result, data: Data) -> list[Section]:
    """Return one group per chosen input: the input, the outputs, and the components that matter most."""
    if data.inputs is None or not data.explain:
        return []
    view, plain = view_of(result), result.drop_constant().outputs
    names = output_names(result, len(plain))
    name_component = component_names(result)
    groups, rows = [], []
    for index in data.explain:
        x = data.inputs[index]
        outputs = result(x)
        best = outputs.argsort(descending=True, stable=True)[:2].tolist()
        margin = added(result, x, best)
        top = largest(margin, _SHOWN)
        texts = numbers(margin[top].tolist())
        label = None if data.labels is None else int(data.labels[index])
        figures: list[Figure] = [
            cell(view, x, "input", weights=False),
            bars(outputs, [names[i] for i in largest(outputs, _LISTED)], "outputs", of=len(names)),
        ]
        for at, text in zip(top, texts, strict=True):
            figures += [
                cell(view, vector, f"{name_component(at)}: adds {text}, {what}") for what, vector in vectors(result, at)
            ]
        said = f"input {index}: {names[best[0]]} = {float(outputs[best[0]]):.4g}"
        if len(best) > 1:
            said = f"input {index}: margin {names[best[0]]} over {names[best[1]]} = {float(margin.sum()):.4g}"
        if label is not None:
            said += f", label {names[label]}" + ("" if label == best[0] else ": a wrong decision")
        groups.append(Group(said, figures))
        rows += [
            {"input": index, "component": name_component(at), "adds": float(margin[at]), "share": _share(margin, at)}
            for at in largest(margin, _LISTED)
        ]
    text = "Components by what they add to the margin between the two largest outputs, or to the only output."
    return [Section("Explanations", text, groups=groups, tables=[table_of("", rows)])]


def _share(margin: Tensor, at: int) -> float | None:
    total = float(margin.sum())
    return float(margin[at]) / total if total else None
