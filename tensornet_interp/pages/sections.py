"""What a page says of an object: sections with its sizes, components, fidelity and explanations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from tensornet_interp.bonds import odt
from tensornet_interp.cards import Card, Shown, card_of
from tensornet_interp.circuits import Circuit
from tensornet_interp.decompositions import decompose
from tensornet_interp.inner_products import inner_by_output
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.pages.comparisons import Data, curve_sections, explanation_sections, fidelity_sections
from tensornet_interp.pages.components import (
    MOST_BLOCKS,
    component_sections,
    convergence_figures,
    named_records,
    outputs_table,
)
from tensornet_interp.pages.figures import cell, scatter, spectrum, strips, tree
from tensornet_interp.pages.parts import Group, Section, plain_value, table_of
from tensornet_interp.plots.inputs import input_view, largest, output_names
from tensornet_interp.plots.sheets import numbers
from tensornet_interp.results import Result
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.tables import HasRecords, flat_records

_FEW = 64  # outputs that are decomposed one by one; more share output directions
_RANK = 64  # eigenpairs per output, and hidden units of a bond, that a page of a layer computes
_DIRECTIONS = 8
_WIDEST = 1024  # of the bonds whose singular values are computed
_LEAVES = 12
_NODES = 400


def sections_of(obj: Any, data: Data) -> list[Section]:
    """Return the sections of an object; raise TypeError if a page cannot show it."""
    match obj:
        case Result():
            return _result(obj, data)
        case BilinearLayer():
            return _layer(obj, data)
        case BilinearNetwork():
            return _network(obj, data)
        case TensorNetwork() if obj.modes == ("out", "in1", "in2"):
            return _layer(obj.to_layer(), data)
        case Circuit():
            return _circuit(obj, data)
        case list() | tuple():
            return _records(obj)
        case HasRecords():
            about = _overview(card_of(obj) if isinstance(obj, Shown) else Card(type(obj).__name__, _plain_fields(obj)))
            return [about, Section("Records", tables=[table_of("", flat_records(obj))])]
    hints = {Mapping: "; write one page per entry", torch.nn.Module: "; weights.from_module reads a module"}
    hint = next((text for kind, text in hints.items() if isinstance(obj, kind)), "")
    raise TypeError(
        "obj must be a layer, a result, a network, a circuit, the records of a sweep, or a report with records(), got"
        f" {type(obj).__name__}{hint}"
    )


def _overview(card: Card) -> Section:
    section = Section("Overview", facts=card.rows, warnings=card.warnings)
    if len(card.values) > 1:
        section.figures.append(spectrum(list(card.values), card.caption, "value"))
    return section


def _plain_fields(obj: object) -> list[tuple[str, str]]:
    """Return the numbers and texts among the fields of a report."""
    fields = {
        name: value for name, value in getattr(obj, "__dict__", {}).items() if isinstance(value, int | float | str)
    }
    return [(name.replace("_", " "), str(plain_value(value))) for name, value in fields.items()]


def _layer(layer: BilinearLayer, data: Data) -> list[Section]:
    """Return the sections of a layer, with the components of a decomposition of it."""
    result = _decomposed(layer)
    first = _overview(card_of(layer))
    found = [first, *_outputs(layer)]
    how = Section(
        "Decomposition",
        "The components below are those of this decomposition.",
        result.report.rows(),
        result.report.warnings,
    )
    found += [how, *component_sections(result)]
    found += fidelity_sections(layer, data.compared_with(layer))
    return [
        *found,
        *curve_sections(result, replace(data, reference=layer)),
        *explanation_sections(result, data),
        _made_by(result),
    ]


def _result(result: Result, data: Data, most: int = MOST_BLOCKS) -> list[Section]:
    about = _overview(card_of(result))
    if isinstance(result, SpectralResult):
        about.figures.clear()  # the components show the eigenvalues per block
    about.figures += convergence_figures(result)
    found = [about, *component_sections(result, most), *_outputs(result)]
    if result.report.starts:
        about.tables.append(table_of("Starts", flat_records(list(result.report.starts))))
    found += [*fidelity_sections(result, data), *curve_sections(result, data), *explanation_sections(result, data)]
    return [*found, _made_by(result)]


def _network(network: BilinearNetwork, data: Data) -> list[Section]:
    found = [_overview(card_of(network)), *_bonds(network)]
    results = [part if isinstance(part, Result) else _decomposed(part.to_layer()) for part in network]
    for number, (part, result) in enumerate(zip(network, results, strict=True)):
        inside = [_overview(card_of(part)), *component_sections(result, 4)]
        if result is not part:
            inside[1].text += f" Components of {result.report.method}."
        for section in inside:
            section.title = f"Part {number}: {section.title.lower()}"
        found += inside
    found += fidelity_sections(
        network, replace(data, reference=data.reference or (network if data.labels is not None else None))
    )
    if data.inputs is not None and data.explain:
        found += _explanations_of_network(network, results[-1], data)
    return found


def _bonds(network: BilinearNetwork) -> list[Section]:
    if len(network) < 2 or max(part.sizes["in1"] for part in network) > _WIDEST:
        return []
    bonds = odt(network).bonds
    series = {f"bond {bond.index}, {bond.size} wide": bond.singular_values_without_constant.tolist() for bond in bonds}
    text = "Singular values of the whole network across each bond; their squares sum to 1. Bond 0 is the input."
    rows = [
        {"bond": bond.index, "size": bond.size, "occurrences": bond.occurrences, "rank": bond.rank} for bond in bonds
    ]
    figure = strips(series, "singular values of the bonds", "singular value")
    return [Section("Bonds", text, figures=[figure], tables=[table_of("", rows)])]


def _circuit(circuit: Circuit, data: Data) -> list[Section]:
    facts = [("circuit", repr(circuit)), ("score", circuit.ranking)]
    if data.inputs is not None:
        facts.append(("relative error on the inputs", f"{circuit.relative_error(data.inputs):.4g}"))
    network = circuit.network
    about = _overview(card_of(network))
    about.facts = [*facts, *about.facts]
    lifted = network.constant_in
    view = input_view(network, network.sizes["in1"] - lifted)
    leaves = circuit.levels[-1]
    best = largest(leaves.scores, _LEAVES)
    texts = numbers(leaves.eigenvalues[best].tolist())
    cells = [
        cell(view, leaves.vectors[at][int(lifted) :], f"{at}: λ = {text}") for at, text in zip(best, texts, strict=True)
    ]
    text = "Red components add to their parent, blue ones subtract; a wider line is a larger score."
    parts = Section("Circuit", text, groups=[Group("leaves of largest score, by number", cells)] if cells else [])
    nodes = _nodes(circuit)
    if nodes:
        parts.figures.append(tree(nodes, "tree of components, the output at the top"))
    parts.tables.append(table_of("Components", named_records(circuit)))
    return [about, parts]


def _nodes(circuit: Circuit) -> list[dict[str, Any]]:
    """Return the components with their places in a drawing; of very many, the best of each level."""
    found: list[dict[str, Any]] = []
    places = [(0.5, 0.0)]
    spans = [(0.0, 1.0)]
    for depth, level in enumerate(circuit.levels, 1):
        parents, rows = level.parents.tolist(), zip(level.eigenvalues.tolist(), level.scores.tolist(), strict=True)
        children = {at: [i for i, parent in enumerate(parents) if parent == at] for at in range(len(places))}
        spots: dict[int, tuple[float, float]] = {}
        for at, own in children.items():
            low, high = spans[at]
            for place, number in enumerate(own):
                step = (high - low) / len(own)
                spots[number] = (low + place * step, low + (place + 1) * step)
        for number, (eigenvalue, score) in enumerate(rows):
            parent = places[parents[number]]
            x = sum(spots[number]) / 2
            here = {"layer": level.layer, "component": number, "eigenvalue": eigenvalue, "score": score}
            found.append(here | {"x": x, "y": float(-depth), "x0": parent[0], "y0": parent[1]})
        places = [(sum(spots[number]) / 2, float(-depth)) for number in range(len(level))]
        spans = [spots[number] for number in range(len(level))]
    return found[:_NODES]


def _records(records: Sequence[Any]) -> list[Section]:
    rows = flat_records(records)
    if not rows:
        raise ValueError("obj is empty: a page of records needs at least one record")
    failed = sum(row.get("error") is not None for row in rows)
    facts = [("records", str(len(rows)))]
    for name in ("method", "layer"):
        if values := list(dict.fromkeys(str(row[name]) for row in rows if row.get(name))):
            facts.append((name, ", ".join(values)))
    about = Section("Overview", facts=facts)
    if failed:
        about.warnings = [f"{failed} of {len(rows)} fits failed; the column error says why."]
    points = [row for row in rows if _positive(row.get("parameters")) and _positive(row.get("relative_error"))]
    if points:
        hidden = {"fingerprint", "error", "stop_reason"}
        shown = [key for key in rows[0] if key not in hidden and any(row.get(key) is not None for row in points)]
        title = "relative error against stored numbers"
        about.figures.append(scatter(points, title, "parameters", "relative_error", "method", shown, log=True))
    return [about, Section("Records", tables=[table_of("", rows)])]


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def _decomposed(layer: BilinearLayer) -> SpectralResult:
    """Return the decomposition that a page of a layer shows."""
    rank = min(_RANK, layer.shape[1], 2 * layer.rank)
    if layer.shape[0] <= _FEW:
        return decompose(layer, "eigen", rank=rank)
    return decompose(layer, "output_svd", blocks=min(_DIRECTIONS, layer.shape[0]), rank=rank)


def _outputs(part: BilinearMap) -> list[Section]:
    plain = part.drop_constant()
    squares = inner_by_output(plain, plain, kind="symmetric", progress=False).value
    norms = squares.clamp(min=0).sqrt().tolist()
    table = outputs_table(output_names(plain, len(norms)), norms)
    return [Section("Outputs", tables=[table._replace(title="")])]


def _explanations_of_network(network: BilinearNetwork, result: Result, data: Data) -> list[Section]:
    """Explain outputs by the result of the last part, whose components read the hidden coordinates below it."""
    hidden: Any = data.inputs
    if len(network) > 1:
        hidden = BilinearNetwork(network.parts[:-1])(hidden)
    found = explanation_sections(result, Data(inputs=hidden, labels=data.labels, explain=data.explain))
    x = data.inputs[list(data.explain)]  # type: ignore[index]
    view = input_view(network, x.shape[-1])
    for section in found:
        section.text += " Components are those of the last part, and read what the part below it gives."
        for group, row in zip(section.groups, x, strict=True):
            group.figures[0] = cell(view, row, "input", weights=False)  # type: ignore[index]
    return found


def _made_by(result: Result) -> Section:
    return Section("How it was made", facts=[*result.report.rows(), *result.report.versions.items()])
