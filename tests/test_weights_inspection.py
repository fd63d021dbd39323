"""What `inspect_files` and the two commands say of checkpoints, dictionaries, saved objects and broken files."""

import json
import warnings

import fuzz_files
import pytest
import torch
from stored_objects import STORED

from tensornet_interp import decompose, save
from tensornet_interp.__main__ import main
from tensornet_interp.sweep import sweep
from tensornet_interp.testing import random_layer
from tensornet_interp.weights import LAYOUTS, inspect_files, load_attention, load_dictionary, load_layer, pack

LAYER = random_layer(3, 5, 4, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one file of every kind."""
    home = tmp_path_factory.mktemp("files")
    fuzz_files.published(home / "published")
    fuzz_files.dictionary(home / "dictionaries")
    fuzz_files.saelens(home / "sae")
    save({"layer": LAYER, "accuracy": 0.9, "eigen": decompose(LAYER, "eigen")}, home / "analysis.safetensors")
    save(LAYER, home / "one.safetensors")
    torch.save({"a": torch.ones(2)}, home / "old.pt")
    lens = {LAYOUTS["transformer_lens"].at(2).weights[role]: torch.ones(6, 8) for role in ("left", "right")}
    lens |= {LAYOUTS["transformer_lens"].at(2).weights["down"]: torch.ones(8, 6)}
    (home / "lens.safetensors").write_bytes(pack(lens, {}))
    (home / "other.safetensors").write_bytes(pack({f"head.{i}": torch.ones(i) for i in range(9)}, {}))
    (home / "cut.safetensors").write_bytes(pack(lens, {})[:100])
    return home


def test_every_file_of_a_folder_is_named_with_its_kind(folder):
    found = {file.path: (file.kind.split(" by ")[0], file.layout) for file in inspect_files(folder).files}
    assert found == {
        "analysis.safetensors": ("saved", ""),
        "one.safetensors": ("saved", ""),
        "old.pt": ("not readable", ""),
        "cut.safetensors": ("not readable", ""),
        "lens.safetensors": ("checkpoint", "transformer_lens"),
        "other.safetensors": ("other tensors", ""),
        "published/model.safetensors.index.json": ("checkpoint", "published"),
        "dictionaries/1-mlp-out-x3-k2/model.safetensors": ("dictionary", "Pearce et al."),
        "sae/sae_weights.safetensors": ("dictionary", "SAELens"),
    }


def test_sizes_dtypes_and_gates_are_those_of_the_layers(folder):
    (published,) = inspect_files(folder / "published").files
    assert [layer["layer"] for layer in published.layers] == [0, 1]
    layer = load_layer(folder / "published", 1)
    out, size, _ = layer.shape
    expected = {"layer": 1, "in": size, "out": out, "rank": layer.rank, "dtype": "F32", "gate": "none"}
    assert published.layers[1] == expected
    (lens,) = inspect_files(folder / "lens.safetensors").files
    gate = "the layout has a gate on left"
    assert lens.layers == ({"layer": 2, "in": 6, "out": 6, "rank": 8, "dtype": "F32", "gate": gate},)
    assert "no config.json: gate and norm are not known" in lens.note
    records = inspect_files(folder).records()
    assert sum(record["kind"] == "checkpoint" for record in records) == 3
    assert len({tuple(record) for record in records}) == 1


def test_the_call_that_it_shows_opens_the_file(folder):
    known = {"load_layer": load_layer, "load_dictionary": load_dictionary}
    for file in inspect_files(folder).files:
        if file.kind == "dictionary" or file.layout == "published":
            assert eval(file.opened_by, known) is not None


def test_attention_is_shown_with_the_call_that_opens_it(folder, tmp_path):
    (published,) = inspect_files(folder / "published").files
    (line,) = published.contents
    assert eval(line.removeprefix("attention: "), {"load_attention": load_attention}).heads == 2
    sides = {"c_attn": (4, 12), "c_proj": (4, 4)}
    tensors = {f"transformer.h.0.attn.{name}.weight": torch.ones(shape) for name, shape in sides.items()}
    (tmp_path / "model.safetensors").write_bytes(pack(tensors, {}))
    (tmp_path / "config.json").write_text('{"n_embd": 4, "n_head": 2, "n_positions": 5}', encoding="utf-8")
    (found,) = inspect_files(tmp_path).files
    assert found.kind == "other tensors"
    assert eval(found.opened_by, {"load_attention": load_attention}).positions == 5
    (plain,) = inspect_files(folder / "other.safetensors").files
    assert not plain.opened_by


def test_the_printed_table_groups_layers_and_names_what_is_saved(folder):
    text = str(inspect_files(folder))
    assert "  layers 0 to 1: in 8, out 8, rank 6, dtype F32, gate none" in text
    assert "  layer: BilinearLayer: down (3, 4), left (5, 4), right (5, 4), F64" in text
    assert "  accuracy: 0.9" in text
    assert "  ... and 3 further tensors" in text
    assert "torch.load(" in text  # how to convert the pickle


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="is missing"):
        inspect_files(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="has no file of weights"):
        inspect_files(tmp_path)


def test_the_command_inspect_prints_it(folder, capsys):
    assert main(["inspect", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(inspect_files(folder))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "published", "--out", "a.html"], "--layer INDEX is missing"),
        (["report", "published", "--layer", "7", "--out", "a.html"], "index must be below 2"),
        (["report", "published", "--layer", "0", "--out", "a.txt"], "must end in .html"),
        (["report", "lens.safetensors", "--layer", "2", "--out", "a.html"], "pass --gate-removed"),
        (
            ["report", "analysis.safetensors", "--out", "a.html"],
            "--entry NAME is missing: the file holds layer, accuracy",
        ),
        (
            ["report", "analysis.safetensors", "--entry", "x", "--out", "a.html"],
            "--entry must be one of layer, accuracy, eigen",
        ),
        (["report", "one.safetensors", "--entry", "layer", "--out", "a.html"], "--entry chooses from a saved dict"),
        (["report", "one.safetensors", "--method", "svd", "--out", "a.html"], "--method must be one of"),
        (
            ["report", "analysis.safetensors", "--entry", "accuracy", "--method", "cp", "--out", "a.html"],
            "--method decomposes a layer or a network, and the source holds a float",
        ),
        (
            ["report", "one.safetensors", "--method", "cp", "--options", "[1]", "--out", "a.html"],
            "--options must be a JSON object, got [1]",
        ),
        (["report", "none", "--layer", "0", "--out", "a.html"], "none"),
        (["report", "one.safetensors", "--options", '{"rank": 1}', "--out", "a.html"], "give --method too"),
        (["report", "old.pt", "--layer", "0", "--out", "a.html"], "looks like a pickle"),
        (["report", "none.jsonl", "--out", "a.html"], "is missing"),
        (["inspect", "none"], "is missing"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(folder, tmp_path, capsys, arguments, words):
    command, source, *options = arguments
    options = [str(tmp_path / text) if text.startswith("a.") else text for text in options]
    assert main([command, str(folder / source), *options]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert words in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("published", ["--layer", "1"]),
        ("lens.safetensors", ["--layer", "2", "--gate-removed"]),
        ("analysis.safetensors", ["--entry", "eigen", "--title", "Mine"]),
        ("one.safetensors", ["--method", "cp", "--options", '{"rank": 2}']),
        ("sweep.jsonl", []),
    ],
)
def test_the_command_report_writes_a_page(folder, tmp_path, capsys, source, options):
    pytest.importorskip("bokeh", reason="bokeh is not installed")
    sweep(LAYER, "eigen", {"rank": [1]}, path=folder / "sweep.jsonl", progress=False)
    page = tmp_path / "page.html"
    assert main(["report", str(folder / source), *options, "--out", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text(encoding="utf-8")
    assert "<title>" in text
    assert text.endswith("</html>\n")
    assert main(["report", str(folder / source), *options, "--out", str(page)]) == 2
    assert "pass --overwrite" in capsys.readouterr().err


def test_options_that_are_no_json_are_refused_with_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["report", "a", "--out", "a.html", "--method", "cp", "--options", "{rank: 3}"])
    assert stopped.value.code == 2
    assert "'{rank: 3}' is no JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "options", "kinds"),
    [
        ("published", ["--layer", "1"], ("BilinearLayer", None)),
        ("analysis.safetensors", ["--entry", "eigen"], ("SpectralResult", None)),
        ("one.safetensors", ["--method", "cp", "--options", '{"rank": 2}'], ("CPResult", "BilinearLayer")),
        ("sweep.jsonl", [], ("list", None)),
    ],
)
def test_the_command_report_chooses_what_the_page_is_about(folder, monkeypatch, capsys, source, options, kinds):
    """The page itself is left out: its writer keeps what it is given and warns in two lines."""
    sweep(LAYER, "eigen", {"rank": [1]}, path=folder / "sweep.jsonl", progress=False)

    def writer(obj, out, *, reference, title, overwrite):
        warnings.warn("two\nlines", stacklevel=1)
        given.extend([obj, reference, out.name, title, overwrite])

    given = []
    monkeypatch.setattr("tensornet_interp.__main__.write_report", writer)
    assert main(["report", str(folder / source), *options, "--out", "page.html", "--title", "T", "--overwrite"]) == 0
    obj, reference, *rest = given
    assert (type(obj).__name__, reference and type(reference).__name__) == kinds
    assert rest == ["page.html", "T", True]
    said = capsys.readouterr()
    assert said.out == "page.html\n"
    assert said.err.splitlines()[-1] == "warning: two lines"


def test_every_kind_of_saved_value_is_described(tmp_path):
    values = {"array": torch.ones(2, 3), "list": [1, 2.5], "tuple": (1, torch.ones(4)), "dict": {"a": 1, "b": 2}}
    save(values, tmp_path / "values.safetensors")
    text = str(inspect_files(tmp_path))
    for words in ("tensor (2, 3), F32", "2 values: 1, 2.5", "2 values: 1, tensor (4,), F32", "dict of 2 values"):
        assert words in text


def test_a_layer_of_an_earlier_version_is_described():
    text = str(inspect_files(STORED / "layer-format-1.safetensors"))
    assert "saved by an earlier version" in text
    assert "BilinearLayer: down (3, 2), left (4, 2), right (4, 2), BF16" in text


def test_broken_indices_foreign_classes_and_sizes_that_disagree_are_told_apart(tmp_path):
    at, other = (LAYOUTS["transformer_lens"].at(index).weights for index in (0, 1))
    whole = {at["left"]: torch.ones(6, 8), at["right"]: torch.ones(6, 8), at["down"]: torch.ones(8, 6)}
    kinds = {
        "disagree": (whole | {at["right"]: torch.ones(6, 9)}, None, "other tensors"),
        "foreign": (whole, {"class": "Theirs", "config": 1}, "checkpoint"),
        "ordinary": (whole | {other["left"]: torch.ones(6, 8)}, {"bilinear": False}, "checkpoint"),
    }
    for name, (tensors, config, _) in kinds.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(pack(tensors, {}))
        if config is not None:
            (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors.index.json").write_text("[]")
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "model.safetensors").write_bytes(pack(whole, {}))
    found = {file.path.split("/")[0]: file for file in inspect_files(tmp_path).files}
    assert {name: found[name].kind for name in kinds} == {name: kind for name, (_, _, kind) in kinds.items()}
    assert found["broken"].kind == "not readable"
    (only,) = found["ordinary"].layers  # layer 1 lacks two of its weights
    assert only["gate"] == "an ordinary MLP: bilinear=false in config.json"
    assert "a" not in found  # folders in folders are searched to a depth
