"""Write pages about features: one HTML file per feature of a dictionary, and an index that links them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.checks import (
    check_alike,
    check_bool,
    check_int,
    check_kind,
    check_list,
    check_mapping,
    check_names,
    check_path,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.features import Dictionary
from tensornet_interp.features.basis import stated_basis
from tensornet_interp.features.dictionary import check_autoencoder
from tensornet_interp.features.points import check_points, parse_point
from tensornet_interp.float64 import needs_float64
from tensornet_interp.graphs import FeatureGraph
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.pages.activity import Activity, Text
from tensornet_interp.pages.feature_sections import Between, feature_sections
from tensornet_interp.pages.parts import Section, Table, plain_value, table_of
from tensornet_interp.pages.rendering import check_extra, write_page
from tensornet_interp.pages.writing import check_file
from tensornet_interp.tables import Record


@needs_float64
@torch.no_grad()
def write_feature_pages(
    folder: str | os.PathLike[str],
    layer: BilinearLayer,
    inputs: Dictionary,
    outputs: Dictionary,
    features: Sequence[int],
    *,
    x: Tensor | None = None,
    text: Sequence[Sequence[str]] | None = None,
    names: Sequence[str] | None = None,
    input_names: Sequence[str] | None = None,
    basis: str | None = None,
    graphs: Mapping[int, FeatureGraph] | None = None,
    title: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Write one page per output feature of a layer between two dictionaries, and index.html, which links them.

    A page has the interactions of the feature with all pairs of input features, and its input features in the plane of
    its two leading eigenvectors. With a text, it also has the places where the feature is strongest, the correlation of
    k eigenpairs with the feature, two ablations (`circuit_tests`), and the places where the input features of its
    circuit are strongest. The index has one row per page and, with a text, one row per feature of `outputs`, in tables
    to sort and filter. Every file opens in any browser, without a network.

    folder: where index.html and feature-N.html are written; missing folders are made, and other files stay. inputs: the
    dictionary before the layer, an autoencoder. outputs: the dictionary of the layer's outputs; with a text, it must
    not be one of the stream after the layer, whose vectors are not layer(x). features: the numbers of the features of
    `outputs` that get a page, such as the first ones of `rank_by_structure`. If a feature is never active on the text,
    its page says so.
    x: (window, position, in), the inputs of the layer on a text, best one on which nothing was trained. text: the
    tokens of this text as strings, one list per window; x and text go together. names, input_names: one name per
    feature of `outputs` and of `inputs`; by default a feature has its number and, with a text, the token on which it
    peaks most often. basis: the coordinates of the layer's inputs, as for `feature_interactions`. graphs: for some of
    the features, what `feature_graph` returned for this feature as the first seed. title: the title of the index.
    overwrite: whether existing files are replaced. progress: whether a progress bar is shown.

    Raises ImportError without Jinja2 and Bokeh (the extra "report"); FileExistsError if a file exists and overwrite is
    False; ValueError if sizes or points do not fit, if features is empty or names a feature twice, or for x without
    text. All of this is checked before the work begins; a feature page is written as soon as it is ready, and the index
    last. Cost: both encoders on the text, and a few eigendecompositions per feature. Size: 1.3 MB per page for the
    script of Bokeh, plus up to 0.3 MB; the index has about 40 bytes per feature of `outputs`.
    """
    place = check_path("folder", folder)
    chosen = _check_features(features, layer, inputs, outputs)
    check_bool("overwrite", overwrite)
    files = {feature: check_file(place / f"feature-{feature}.html", overwrite) for feature in chosen}
    index = check_file(place / "index.html", overwrite)
    check_bool("progress", progress)
    heading = f"Features of {layer.name or 'a layer'}" if title is None else check_text("title", title)
    for name, given, dictionary in (("names", names, outputs), ("input_names", input_names, inputs)):
        if given is not None:
            check_names(name, given, dictionary.features, "feature")
    circuits = _check_graphs(graphs, chosen)
    windows = _check_windows(layer, outputs, x, text)
    stated = replace(layer.drop_constant(), basis=stated_basis(layer, basis))
    check_extra()
    job = _read(stated, inputs, outputs, chosen, x, windows, names, input_names)
    job = replace(job, graphs=circuits)
    records = []
    steps = tqdm(chosen, desc="feature pages", unit="page", disable=not progress)
    for feature, links in zip(steps, _neighbours(chosen, job.names), strict=True):
        sections, record = feature_sections(job, feature)
        write_page(files[feature], f"Output feature {job.names[feature]}", sections, links)
        records.append(record)
    write_page(index, heading, _index_sections(job, chosen, records))


def _check_features(features: object, layer: object, inputs: object, outputs: object) -> list[int]:
    """Return the numbers of the features, after a check of the layer between the two dictionaries."""
    part = check_kind("layer", layer, BilinearLayer, "; a result has to_layer()")
    sides = {"inputs": (inputs, "in", part.shape[1] - part.constant_in)}
    sides["outputs"] = (outputs, "out", part.shape[0] - part.constant_out)
    for name, (dictionary, mode, size) in sides.items():
        found = check_kind(name, dictionary, Dictionary)
        check_size(mode, layer=size, **{name: found.width})
        check_alike(layer=part.down, **{name: found.encoder})
    check_autoencoder("inputs", inputs)  # type: ignore[arg-type]
    check_points(part, inputs, outputs)
    count = outputs.features  # type: ignore[attr-defined]
    given = check_list("features", features, "give the numbers of the output features that get a page")
    chosen = [
        check_int(f"features[{at}]", feature, 0, count - 1, "a feature of outputs") for at, feature in enumerate(given)
    ]
    if len(set(chosen)) < len(chosen):
        twice = next(feature for feature in chosen if chosen.count(feature) > 1)
        raise ValueError(f"features must all be different, but {twice} is there {chosen.count(twice)} times")
    return chosen


def _check_windows(layer: BilinearLayer, outputs: Dictionary, x: object, text: object) -> Text | None:
    """Return the tokens of the text after a check of them and of the inputs of the layer."""
    if x is None and text is None:
        return None
    if x is None or text is None:
        given, missing = ("text", "x") if x is None else ("x", "text")
        raise ValueError(f"{given} needs {missing}: pass x (window, position, in) and the tokens of every window")
    found = parse_point(outputs.point, before=False)
    if found is not None and found[1] == "resid-post":
        raise ValueError(
            f"outputs={outputs!r} encodes the stream after the layer, which is not layer(x); leave out x and text, or"
            " use a dictionary of the layer's outputs"
        )
    vectors = check_tensor("x", x, ("window", "position", "in"))
    check_size("in", layer=layer.shape[1] - layer.constant_in, x=vectors.shape[2])
    check_alike(layer=layer.down, x=vectors)
    check_list("text", text)
    check_size("window", x=len(vectors), text=len(text))  # type: ignore[arg-type]
    for number, window in enumerate(text):  # type: ignore[arg-type, var-annotated]
        if isinstance(window, str):
            raise TypeError(f"text[{number}] must be a list of tokens, got the text {window!r:.40}")
        check_names(f"text[{number}]", window)
        check_size("position", x=vectors.shape[1], **{f"text[{number}]": len(window)})
    return text  # type: ignore[return-value]


def _check_graphs(graphs: object, chosen: Sequence[int]) -> Mapping[int, FeatureGraph]:
    """Return the graphs of features, after a check that each is of its feature."""
    if graphs is None:
        return {}
    known = check_mapping("graphs", graphs)
    for feature, graph in known.items():
        if feature not in chosen:
            raise ValueError(f"graphs has feature {feature!r}, which is not in features")
        seed = check_kind(f"graphs[{feature}]", graph, FeatureGraph).nodes[0]
        if (seed.kind, seed.place, seed.feature) != ("feature", "out", feature):
            raise ValueError(
                f"graphs[{feature}] must have feature {feature} of the outputs of a part as its first seed, got"
                f" {seed.label!r}"
            )
    return known


def _read(
    layer: BilinearLayer,
    inputs: Dictionary,
    outputs: Dictionary,
    chosen: Sequence[int],
    x: Tensor | None,
    text: Text | None,
    names: Sequence[str] | None,
    input_names: Sequence[str] | None,
) -> Between:
    """Return the layer between its dictionaries, with what their features do on the text."""
    if x is None or text is None:
        numbered = [[str(at) for at in range(part.features)] for part in (outputs, inputs)]
        return Between(layer, inputs, outputs, names or numbered[0], input_names or numbered[1], chosen)
    before = Activity.of(inputs, lambda part: x[part], text)
    after = Activity.of(outputs, lambda part: layer(x[part]), text, chosen)
    window = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
    named = names or after.names(), input_names or before.names()
    return Between(layer, inputs, outputs, *named, chosen, before, after, x.flatten(0, 1), window)


def _neighbours(chosen: Sequence[int], names: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """Yield the links of each page: to the index, and to the pages before and after it."""
    for at in range(len(chosen)):
        around = [("←", at - 1), ("→", at + 1)]
        near = [(f"{arrow} {names[chosen[to]]}", _file(chosen[to])) for arrow, to in around if 0 <= to < len(chosen)]
        yield [("all features", "index.html"), *near]


def _index_sections(job: Between, chosen: Sequence[int], records: Sequence[Record]) -> list[Section]:
    """Return the sections of the index: the pages and, with a text, all features of the dictionary after the layer."""
    about = Section(
        "Overview",
        facts=[
            ("layer", repr(job.layer)),
            ("basis of the inputs", job.layer.basis),
            ("before the layer", repr(job.inputs)),
            ("after the layer", repr(job.outputs)),
            ("pages", f"{len(chosen)} of {job.outputs.features} features"),
        ],
    )
    note = (
        "share: of the two leading eigenvalues in all squares; opposite: whether their signs differ. Correlation and"
        " drops are those on active tokens. features and plane: the verdicts of the ablation."
    )
    table = table_of("", records, note)._replace(links=[_file(feature) for feature in chosen])
    found = [about, Section("Pages", tables=[table])]
    if job.after is not None:
        counts, peaks = job.after.counts.tolist(), job.after.found.values[0].tolist()
        total, pages = len(job.after.codes), set(chosen)
        silent = sum(count == 0 for count in counts)
        about.facts = [*about.facts, ("text", f"{total} tokens"), ("never active on it", f"{silent} features")]
        rows = [
            [job.names[at], count, plain_value(count / total), plain_value(peak)]
            for at, (count, peak) in enumerate(zip(counts, peaks, strict=True))
        ]
        links = [_file(at) if at in pages else "" for at in range(len(rows))]
        columns = ["feature", "active tokens", "share of tokens", "largest activation"]
        note = "Features with a page are links."
        found.append(Section("All features", tables=[Table("", columns, rows, note, links)]))
    return found


def _file(feature: int) -> str:
    return f"feature-{feature}.html"
