"""What `save` keeps, `load` gives back equal; other files are refused by name, and types join by their fields."""

import dataclasses
import importlib
import inspect
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import round_trip
import torch
from helpers import layer_of, normal, stack
from round_trip import same
from safetensors.torch import load_file, save_file
from source import PACKAGE, PAGES, ROOT
from stored_objects import OBJECTS, STORED, numbers

from tensornet_interp import (
    BilinearLayer,
    BilinearNetwork,
    Moments,
    Report,
    TensorNetwork,
    decompose,
    lift,
    load,
    odt,
    register_type,
    save,
)
from tensornet_interp.circuits import circuit
from tensornet_interp.registry import list_decompositions
from tensornet_interp.results import Result
from tensornet_interp.saving import FORMAT_VERSION
from tensornet_interp.store import stored_type
from tensornet_interp.weights import WeightFiles, load_tensor, pack, tensor_names

OPTIONS = "options: they say how to work, and reports name them as text"
REFUSED = {
    OPTIONS: """
        BlockTerm CP EdgeRule Eigen FitOptions Gaussian HOSVD Layout NonNegative OVSVD OutputSVD RandomComponents
        RemovalRule Smooth Sparse Symmetric SymmetricCP TensorlyDecomposition TensorlyNonNegativeParafac TensorlyParafac
        TensorlyTucker Tree Tucker Whitened""",
    "a plan holds no data: plan() makes it again in milliseconds": "Chunk Plan Step",
    "what a notebook shows, made again from its object": "Card",
    "a question to a network: keep the network, and what it was asked": "Query",
    "what a test or a list found, for a person to read": "CheckReport Listed",
    "between two steps of one calculation": "Balanced Factors HiddenMeans StoredType",
    "abstract: its subclasses are kept": "BilinearMap Result TensorNetwork",
}
FILE, GOOD = "kept.safetensors", STORED / "BilinearLayer.safetensors"


def value_types():
    """Public dataclasses, named tuples and networks of every contents page, by name."""
    for page, names in PAGES.items():
        for name in names:
            item = getattr(importlib.import_module(page), name)
            if inspect.isclass(item) and (
                dataclasses.is_dataclass(item) or hasattr(item, "_fields") or issubclass(item, TensorNetwork)
            ):
                yield name, item


def test_every_public_value_is_kept_or_has_a_reason():
    found = dict(value_types())
    refused = {name for names in REFUSED.values() for name in names.split()}
    kept = {name for name, kind in found.items() if stored_type(kind) is not None}
    assert set(found) - kept - refused == set()
    assert kept & refused == set()
    assert refused - set(found) == set()
    assert kept == set(OBJECTS)
    assert all(stored_type(found[name]).name == name for name in kept)


def test_every_type_comes_back_in_a_fresh_process():
    run = subprocess.run(
        [sys.executable, round_trip.__file__], capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("| yes |") == len(OBJECTS)
    page = ROOT / "docs" / "saving.md"
    assert run.stdout in page.read_text(encoding="utf-8"), f"the table in {page} is not what this run printed"


@pytest.mark.parametrize("name", OBJECTS)
def test_the_files_of_earlier_versions_open(name):
    assert same(load(STORED / f"{name}.safetensors"), OBJECTS[name])


def test_stored_files_are_few_and_small():
    assert {path.stem for path in STORED.iterdir()} - {"layer-format-1"} == set(OBJECTS)
    assert sum(path.stat().st_size for path in STORED.iterdir()) < 1_500 * len(OBJECTS)


@pytest.mark.parametrize("by", ["file", "folder"])
def test_layers_of_save_layer_open(by, tmp_path):
    old = STORED / "layer-format-1.safetensors"
    if by == "folder":
        (tmp_path / "layer.safetensors").write_bytes(old.read_bytes())
    layer = load(old if by == "file" else tmp_path)
    factors = (numbers(3, 2), numbers(4, 2), numbers(4, 2, shift=1))
    assert all(map(torch.equal, (layer.down, layer.left, layer.right), (x.to(torch.bfloat16) for x in factors)))
    assert (layer.name, layer.basis, layer.history) == ("model layer 3", "pixels", ("lifted", "scaled"))
    assert layer.constant_in
    assert layer.constant_out


def test_old_layers_that_are_broken_are_refused(tmp_path):
    old = WeightFiles(STORED / "layer-format-1.safetensors")
    tensors = {name: old.read(name) for name in old.names}
    about = json.loads(old.metadata["layer"])
    without_basis = {key: value for key, value in about.items() if key != "basis"}
    for layer in (None, "{", "[]", '{"name": "a"}', json.dumps(without_basis)):
        metadata = {"format": old.metadata["format"]} | ({} if layer is None else {"layer": layer})
        save_file(tensors, tmp_path / FILE, metadata)
        if layer == json.dumps(without_basis):  # the first files had none
            assert load(tmp_path / FILE).basis == "as given"
            continue
        with pytest.raises(ValueError, match=rf"{FILE} cannot be loaded: "):
            load(tmp_path / FILE)
    save_file({"down": tensors["down"]}, tmp_path / FILE, old.metadata)
    with pytest.raises(ValueError, match="'left' is missing"):
        load(tmp_path / FILE)


def kept(value, folder, **options):
    save(value, folder / FILE)
    return load(folder / FILE, **options)


@pytest.mark.parametrize("name", [listed.name for listed in list_decompositions() if listed.name != "ov_svd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_of_every_decomposition_comes_back(name, dtype, device, tmp_path):
    layer = lift(
        layer_of(3, 5, 4, dtype=dtype, device=device, name="layer 0"), bias=normal(3, dtype=dtype, device=device)
    )
    rank = {"rank": 2} if name.startswith("tensorly") or name == "random_components" else {}
    result = decompose(layer, name, **rank)
    back = kept(result, tmp_path, device=device)
    assert same(back, result)
    x = normal(6, 5, dtype=dtype, device=device, seed=7)
    eps = torch.finfo(dtype).eps
    assert torch.allclose(back(x), result(x), rtol=0, atol=100 * eps * float(result(x).abs().max()))


def test_what_rooms_find_comes_back(tmp_path):
    network, x = stack((4, 5, 3), (3, 4), seed=0, lifted=True), normal(9, 4, seed=3)
    bonds = odt(network, Moments.of(x))
    found = {
        "odt": bonds,
        "cut": bonds.truncate(1),
        "circuit": circuit(network, normal(3, seed=2), widths=2, progress=False),
    }
    back = kept(found, tmp_path)
    assert same(back, found)
    assert torch.equal(back["cut"].network(x), found["cut"].network(x))
    assert same(back["circuit"].components, found["circuit"].components)


@pytest.mark.parametrize(
    "dtype",
    [*(getattr(torch, f"float{n}") for n in (16, 32, 64)), torch.bfloat16, torch.bool, torch.uint8]
    + [getattr(torch, f"int{n}") for n in (8, 16, 32, 64)],
)
def test_tensors_come_back_bit_by_bit(dtype, tmp_path):
    tensors = [normal(3, 4).mul(100).to(dtype), normal(3, 4).to(dtype).T, normal(4, 4).to(dtype)[::2, 1:3]]
    tensors += [torch.tensor(1, dtype=dtype), torch.empty(0, 3, dtype=dtype)]
    if dtype.is_floating_point:
        tensors += [torch.tensor([float("nan"), -0.0, float("-inf"), torch.finfo(dtype).tiny / 2], dtype=dtype)]
    assert same(kept(tensors, tmp_path), tensors)


PLAIN = {
    "": None,
    "__metadata__": numbers(2),
    "a.b": [numbers(1), {"b": numbers(3)}],
    "a": {"b": [True, 1, -(2**80), 1.5, -0.0, float("nan"), float("-inf"), "é\ud800", ()]},
    1: (1, [2, (3,)], {"x": {}}),
    2.5: {"tensor": "no tensor", "object": {"object": "Report", "package": "x", "fields": {}}},
    (0, 1): torch.bfloat16,
    "array": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scalar array": np.array(3),
    False: "a key that is no text",
}


def test_plain_values_come_back_with_their_types(tmp_path):
    assert same(kept(PLAIN, tmp_path), PLAIN)


def test_what_changes_its_type_is_what_the_page_says(tmp_path):
    weight = torch.nn.Parameter(numbers(2, 3))
    given = (weight, np.float32(0.5), MappingProxyType({"a": 1}), torch.Size([2]))
    assert same(kept(given, tmp_path), (numbers(2, 3), 0.5, {"a": 1}, (2,)))


def test_a_tensor_that_is_used_twice_is_stored_once_and_one_object(tmp_path):
    part = layer_of(3, 3, 2)
    network = BilinearNetwork([part, part, BilinearLayer(down=part.down, left=part.left, right=part.left)])
    back = kept(network, tmp_path)
    assert len(tensor_names(tmp_path / FILE)) == 3
    assert back[0].down is back[1].down is back[2].down
    assert back[2].left is back[2].right


def test_names_in_the_file_say_where_a_tensor_stands(tmp_path):
    save({"layer": layer_of(3, 4, 2), "net": BilinearNetwork([layer_of(3, 4, 2)])}, tmp_path / FILE)
    factors = ("down", "left", "right")
    assert tensor_names(tmp_path / FILE) == tuple(f"{stem}.{f}" for stem in ("layer", "net.parts.0") for f in factors)
    assert torch.equal(load_tensor(tmp_path / FILE, "layer.left"), layer_of(3, 4, 2).left)


def test_the_same_object_gives_the_same_bytes(tmp_path):
    contents = []
    for _ in range(2):
        save(OBJECTS, tmp_path / FILE)
        contents.append((tmp_path / FILE).read_bytes())
    assert contents[0] == contents[1]


def loop():
    items: list[Any] = []
    items.append({"again": items})
    return items


@register_type("Unfilled", ["values"])
class Unfilled:
    """An object without its field."""


class Own:
    """A class that is not registered."""


UNKEPT = {
    "a function": ({"report": [max]}, r"obj at 'report\.0' is a builtins\.builtin_function_or_method, which cannot be"),
    "an own class": (Own(), r"obj is a test_saving\.Own, which cannot be saved; a class joins with register_type"),
    "a module": ({"model": torch.nn.Linear(2, 2)}, r"obj at 'model' is a torch\.nn.*Linear"),
    "itself": (loop(), r"obj at '0\.again' contains itself"),
    "sparse": ([numbers(2, 2).to_sparse()], r"obj at '0' is a tensor of torch\.float64, torch\.sparse_coo"),
    "complex": (numbers(2).to(torch.complex64), r"obj is a tensor of torch\.complex64"),
    "without values": (torch.empty(2, device="meta"), r"obj is a tensor of .* on meta"),
    "an array of objects": (np.array([None]), r"obj is a numpy array of object"),
    "a field that is not there": (Unfilled(), r"obj lacks values, which its class has registered as fields"),
    "a set": ({"a": {1, 2}}, r"obj at 'a' is a builtins\.set"),
    "a complex number": (1j, r"obj is a builtins\.complex"),
    "a long double": (np.longdouble(1), r"obj is a numpy\.longdouble"),
}


@pytest.mark.parametrize("case", UNKEPT)
def test_what_cannot_be_kept_is_named_by_its_place(case, tmp_path):
    value, message = UNKEPT[case]
    with pytest.raises(TypeError, match=message):
        save(value, tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"path must name a file, and .* is a folder; give .*name\.safetensors"):
        save(1, tmp_path)
    with pytest.raises(TypeError, match="path must be a path"):
        save(1, 3)
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(ValueError, match=r"obj at '0\.0\..* is nested more than 100 levels deep"):
        save(deep, tmp_path / FILE)
    with pytest.raises(ValueError, match=r"metadata take \d+ bytes, but a header has at most"):
        save("x" * (33 << 20), tmp_path / FILE)
    save({"old": 1}, tmp_path / "new folder" / FILE)

    def full_disk(*_):
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save({"new": 2}, tmp_path / "new folder" / FILE)
    assert load(tmp_path / "new folder" / FILE) == {"old": 1}
    assert len(list((tmp_path / "new folder").iterdir())) == 1


def test_every_change_of_a_file_is_found(tmp_path):
    path = tmp_path / FILE
    content = (STORED / "CPResult.safetensors").read_bytes()
    places = [*range(0, len(content), 37), len(content) - 1]
    for place in places:
        for changed in (content[:place], content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]):
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=FILE):
                load(path)


def spoiled(change, path):
    """Write the stored layer with other metadata, and with checksums that fit them."""
    tensors, about = load_file(GOOD), dict(WeightFiles(GOOD).metadata)
    content = json.loads(about["content"])
    if callable(change):
        change(content)
        about["content"] = json.dumps(content)
    else:
        about |= change
    path.write_bytes(pack(tensors, {key: text for key, text in about.items() if text is not None}))


EDITED = {
    "a newer format": (
        {"format_version": str(FORMAT_VERSION + 1), "written_by": "tensornet_interp 9.0"},
        rf"format {FORMAT_VERSION + 1}, written by tensornet_interp 9\.0, but .* reads formats up to {FORMAT_VERSION}",
    ),
    "no version": ({"format_version": None}, "'format_version' is missing"),
    "no content": ({"content": None}, "'content' is missing"),
    "another writer": ({"format": "pt"}, "was not written by save; the room weights opens checkpoints"),
    "broken JSON": ({"content": "{"}, "content is not valid JSON"),
    "deep JSON": ({"content": "[" * 10**5}, "content is not valid JSON"),
    "a type of a plugin": (
        lambda c: c.update(object="Synapses", package="brains"),
        r"holds a Synapses of the package 'brains', which is not known here: install that package, or import it before",
    ),
    "a type that was removed": (lambda c: c.update(object="Gone"), "holds a Gone of the package 'tensornet_interp'"),
    "a name that is no type": (lambda c: c.update(object="decompose"), "holds a decompose of the package"),
    "a field of the future": (lambda c: c["fields"].update(colour="red"), "has fields that are not known here: colour"),
    "a field less": (lambda c: c["fields"].pop("down"), "down"),
    "a wrong kind": (lambda c: c["fields"].update(name=3), "name must be a text"),
    "a wrong size": (lambda c: c["fields"].update(down={"tensor": "left"}, left={"tensor": "down"}), "mode 'in' has"),
    "a tensor that is not there": (lambda c: c["fields"].update(down={"tensor": "gone"}), "'gone' is missing"),
    "a value of the future": (
        lambda c: c["fields"].update(name={"colour": 1}),
        "a value of colour, which this version",
    ),
}


@pytest.mark.parametrize("case", EDITED)
def test_edited_files_are_refused(case, tmp_path):
    change, message = EDITED[case]
    spoiled(change, tmp_path / FILE)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / FILE)
    assert FILE in str(caught.value)


def test_files_of_others_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors is missing"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"path must name a file that save wrote, and .* is a folder"):
        load(tmp_path)
    torch.save({"a": numbers(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="looks like a pickle"):
        load(tmp_path / "a.pt")
    save_file(load_file(GOOD), tmp_path / FILE, WeightFiles(GOOD).metadata)
    with pytest.raises(ValueError, match="its checksums are missing"):
        load(tmp_path / FILE)
    with pytest.raises(ValueError, match="device must be a name that torch knows"):
        load(STORED / "Report.safetensors", device="gpu")


def test_a_file_of_an_earlier_version_lacks_fields_that_have_defaults_now(tmp_path):
    def older(content):
        for name in ("basis", "constant_in", "constant_out"):
            del content["fields"][name]

    spoiled(older, tmp_path / FILE)
    layer = load(tmp_path / FILE)
    assert (layer.basis, layer.constant_in, layer.constant_out) == ("as given", False, False)


class Mark(NamedTuple):
    place: int


def test_types_join_by_naming_their_fields(tmp_path):
    @dataclass(frozen=True, eq=False, kw_only=True)
    class Burst(Result):
        spikes: torch.Tensor
        extra: Any = None
        cache: Any = dataclasses.field(default=None, init=False)

        def terms(self):
            return ()

        def to_layer(self):
            raise NotImplementedError

    class Trace:
        def __init__(self, values):
            self.values = values

    for name, kind, fields in (("Burst", Burst, None), ("Trace", Trace, ["values"]), ("Mark", Mark, None)):
        assert register_type(name, fields)(kind) is kind
    assert stored_type(Burst).fields == ("report", "outputs", "constant_in", "constant_out", "spikes", "extra")
    burst = Burst(report=OBJECTS["Report"], outputs=numbers(2, 1), spikes=numbers(3), extra=Trace([Mark(2)]))
    back = kept(burst, tmp_path)
    assert type(back) is Burst
    assert torch.equal(back.spikes, burst.spikes)
    assert type(back.extra) is Trace
    assert back.extra.values == [Mark(2)]
    with pytest.raises(ValueError, match=r"saved type 'Mark' is taken by test_saving\.Mark"):
        register_type("Mark", ["values"])(Trace)


def test_a_class_that_a_notebook_defines_again_takes_its_place(tmp_path):
    def cell():
        @register_type("Cell")
        @dataclass(frozen=True)
        class Cell:
            number: int

        return Cell

    first = cell()
    save(first(3), tmp_path / FILE)
    assert type(load(tmp_path / FILE)) is first
    second = cell()
    assert load(tmp_path / FILE) == second(3)


def test_types_that_cannot_join():
    with pytest.raises(TypeError, match="Own is no dataclass and no NamedTuple: name its fields"):
        register_type("Own")(Own)
    with pytest.raises(TypeError, match="stands above a class, got <built-in function max>"):
        register_type("Max")(max)
    with pytest.raises(ValueError, match="must be an identifier"):
        register_type("my type", ["a"])(Own)
    with pytest.raises(TypeError, match="fields must be a sequence of texts"):
        register_type("Own", "values")
    with pytest.raises(TypeError, match="make must be callable"):
        register_type("Own", ["values"], make=3)


PLUGIN = """
from dataclasses import dataclass
from tensornet_interp import register_type


@register_type("Spikes")
@dataclass(frozen=True)
class Spikes:
    count: int


def spiking(layer):
    return layer
"""
ENTRIES = {
    "of a type": "[tensornet_interp.types]\nSpikes = brains:Spikes\n",
    "of a decomposition": "[tensornet_interp.decompositions]\nbroken = no_such_module:X\nspiking = brains:spiking\n",
}


@pytest.mark.parametrize("kind", ["of a type", pytest.param("of a decomposition", marks=pytest.mark.slow)])
def test_an_installed_plugin_is_imported_when_its_type_is_met(kind, tmp_path):
    (tmp_path / "brains.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "brains-1.0.dist-info").mkdir()
    (tmp_path / "brains-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: brains\nVersion: 1.0\n")
    (tmp_path / "brains-1.0.dist-info" / "entry_points.txt").write_text(ENTRIES[kind])
    code = """
import sys, tensornet_interp as t
if sys.argv[2] == "save":
    import brains
    t.save([brains.Spikes(3)], sys.argv[1])
else:
    print(t.load(sys.argv[1]), "brains" in sys.modules)
"""

    def run(what, *paths):
        path = os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")]), *sys.path[1:]])
        command = [sys.executable, "-c", code, str(tmp_path / FILE), what]
        return subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=100, check=False
        )

    saved = run("save", tmp_path)
    assert saved.returncode == 0, saved.stderr
    assert run("load", tmp_path).stdout == "[Spikes(count=3)] True\n"
    without = run("load").stderr
    assert "ValueError" in without
    assert "holds a Spikes of the package 'brains'" in without
    (tmp_path / "brains.py").write_text("import no_such_module", encoding="utf-8")
    broken = run("load", tmp_path).stderr
    if kind == "of a type":
        assert "ImportError: saved type 'Spikes' cannot be used: brains 1.0, brains:Spikes failed to load" in broken
    else:
        assert "holds a Spikes of the package 'brains'" in broken


def test_a_report_of_a_result_says_the_same_after_a_round_trip(tmp_path):
    report = decompose(layer_of(3, 5, 4, name="a"), "cp", rank=2, starts=2, max_iterations=3).report
    back = kept(report, tmp_path)
    assert isinstance(back, Report)
    assert back == report
    assert repr(back) == repr(report)


def test_the_package_name_in_files_is_that_of_the_types():
    assert all(kind.__module__.split(".")[0] == PACKAGE for kind in map(type, OBJECTS.values()))
    assert Path(round_trip.__file__).is_file()
