"""Names to decompositions: by decorator, by the entry point of an installed package, and what may go wrong."""

import importlib
import json
import os
import subprocess
import sys
import textwrap
import warnings
import zipfile
from dataclasses import dataclass

import pytest
import torch

from tensornet_interp import decompose, list_decompositions, register_decomposition, registry
from tensornet_interp.decompositions import BUILT_IN, Eigen
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.registry import ENTRY_POINT_GROUP, Registry, scratch_registry


def names():
    return [listed.name for listed in list_decompositions()]


@pytest.fixture
def layer():
    g = torch.Generator().manual_seed(0)
    sizes = ((3, 4), (5, 4), (5, 4))
    return BilinearLayer.from_cp(
        (None, [torch.randn(size, generator=g, dtype=torch.float64) for size in sizes]), name="layer 0"
    )


@pytest.fixture
def things():
    return Registry("thing", "no.such.entry.point.group")


@scratch_registry()
def test_a_decorated_class_is_used_by_name_with_its_options(layer):
    @register_decomposition("scaled")
    @dataclass(frozen=True)
    class Scaled:
        factor: float = 2.0

        def __call__(self, layer):
            return BilinearLayer(
                down=layer.down * self.factor,
                left=layer.left,
                right=layer.right,
                name=layer.name,
                history=layer.history,
            )

    assert "scaled" in names()
    torch.testing.assert_close(decompose(layer, "scaled").to_tensor(), 2 * layer.to_tensor())
    torch.testing.assert_close(decompose(layer, "scaled", factor=3.0).to_tensor(), 3 * layer.to_tensor())
    with pytest.raises(TypeError, match=r"'scaled' has no option 'facto'; it has: factor; did you mean 'factor'\?"):
        decompose(layer, "scaled", facto=3.0)


def test_what_is_registered_in_a_scratch_block_is_forgotten_at_its_end():
    before = names()
    with scratch_registry():
        register_decomposition("scaled")(dict)
        with scratch_registry():
            register_decomposition("nested")(list)
        assert names() == sorted([*before, "scaled"])
        assert registry.get_decomposition("scaled") is dict
    assert names() == before
    with scratch_registry():
        register_decomposition("scaled")(list)  # the name is free again


def test_a_scratch_block_that_fails_is_forgotten_too():
    @scratch_registry()
    def fail():
        register_decomposition("scaled")(dict)
        raise KeyError("scaled")

    with pytest.raises(KeyError):
        fail()
    assert "scaled" not in names()


def test_every_built_in_of_the_table_is_registered():
    assert set(BUILT_IN) <= set(names())
    assert all(registry.get_decomposition(name) is built_in for name, built_in in BUILT_IN.items())


def test_the_decorator_returns_the_object_and_takes_it_twice(things):
    def item():
        pass

    assert things.register("one")(item) is item
    assert things.register("one")(item) is item
    assert things.names() == ["one"]
    assert things.get("one") is item


def test_another_object_under_a_taken_name_is_an_error_and_changes_nothing(things):
    things.register("one")(dict)
    with pytest.raises(ValueError, match=r"thing 'one' is taken by builtins\.dict"):
        things.register("one")(list)
    assert things.get("one") is dict


def test_an_object_that_is_not_callable_is_refused_when_it_is_registered(things):
    with pytest.raises(TypeError, match="thing 'one' must be callable, got 3"):
        things.register("one")(3)
    assert "one" not in things.names()


def test_a_taken_name_is_reported_for_an_object_without_a_qualified_name(things, layer):
    things.register("one")(Eigen(rank=2))  # callable, but an instance
    with pytest.raises(ValueError, match="thing 'one' is taken by"):
        things.register("one")(Eigen(rank=3))


def test_a_built_in_cannot_be_replaced_by_decorator():
    with pytest.raises(ValueError, match="decomposition 'eigen' is taken by tensornet_interp"):
        register_decomposition("eigen")(dict)
    assert registry.get_decomposition("eigen") is Eigen


@pytest.mark.parametrize("name", ["two words", "", "1st", "a-b", 3, None])
def test_a_name_is_an_identifier(things, name):
    with pytest.raises(ValueError, match="the name of a thing must be an identifier, got"):
        things.register(name)
    assert things.names() == []


def test_an_unknown_name_lists_what_there_is_and_suggests(things):
    things.register("alpha")(dict)
    things.register("beta")(list)
    with pytest.raises(ValueError, match=r"no thing named 'alhpa'; available: alpha, beta; did you mean 'alpha'\?"):
        things.get("alhpa")
    with pytest.raises(ValueError, match=r"no thing named 'zzz'; available: alpha, beta$"):
        things.get("zzz")


# An entry point is found by what is installed, so these run in a process of their own, on packages made here.

GOOD = """
from dataclasses import dataclass, replace
from tensornet_interp import BilinearLayer

@dataclass(frozen=True)
class Twice:
    factor: float = 2.0

    def __call__(self, layer):
        return replace(layer, down=layer.down * self.factor)

class Impostor:
    def __call__(self, layer):
        raise RuntimeError("an entry point took the place of a built-in")

not_callable = 3
"""
BOTH = """
import tensornet_interp as ti

@ti.register_decomposition("both")
class Both:
    \"\"\"Return the layer unchanged.

    The rest is not shown.
    \"\"\"

    def __init__(self, rank: int, seed: int = 0) -> None:
        pass

    def __call__(self, layer):
        return layer
"""
PLUGINS = {  # distribution: (module, its text, entry points)
    "good_plugin": (
        "good_plugin_module",
        GOOD,
        {"twice": "Twice", "eigen": "Impostor", "number": "not_callable", "absent": "Nothing"},
    ),
    "broken_plugin": ("broken_plugin_module", "raise RuntimeError('half installed')", {"broken": "Anything"}),
    "second_plugin": ("second_plugin_module", "class Other:\n    pass", {"twice": "Other", "later": "Other"}),
    "both_plugin": ("both_plugin_module", BOTH, {"both": "Both"}),
}
SCRIPT = """
import json, sys, warnings
import tensornet_interp as ti
from tensornet_interp import registry
from tensornet_interp.decompositions import Eigen
import torch

def error(action):
    try:
        action()
    except Exception as problem:
        return [type(problem).__name__, str(problem)]

layer = ti.BilinearLayer(down=torch.ones(2, 3), left=torch.ones(4, 3), right=torch.ones(4, 3), name="layer 0")
modules = ["good_plugin_module", "broken_plugin_module"]
def names():
    return [listed.name for listed in ti.list_decompositions()]

out = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import both_plugin_module  # its decorator comes before its entry point
    out["eigen is ours"] = type(ti.decompose(layer, "eigen")).__name__ == "SpectralResult"
    out["warnings of eigen"] = [str(warning.message) for warning in caught]
    out["imported by eigen"] = [name for name in modules if name in sys.modules]
    ti.register_decomposition("later")(dict)
    with registry.scratch_registry():
        ti.decompose(layer, "twice")
        error(lambda: ti.decompose(layer, "broken"))
        out["names in a scratch block"] = names()
    out["names after a scratch block"] = out["names"] = names()
    out["warnings"] = [str(warning.message) for warning in caught]
out["listed"] = {listed.name: listed[1:] for listed in ti.list_decompositions()}
out["broken"] = error(lambda: ti.decompose(layer, "broken"))
out["broken again"] = error(lambda: ti.decompose(layer, "broken"))
out["number"] = error(lambda: ti.decompose(layer, "number"))
out["absent"] = error(lambda: ti.decompose(layer, "absent"))
out["unknown"] = error(lambda: ti.decompose(layer, "brokn"))
out["twice"] = ti.decompose(layer, "twice").to_tensor().unique().tolist()
out["twice, factor 5"] = ti.decompose(layer, "twice", factor=5.0).to_tensor().unique().tolist()
out["option"] = error(lambda: ti.decompose(layer, "twice", factr=5.0))
out["problems"] = registry.decomposition_problems()
out["eigen is ours after all"] = registry.get_decomposition("eigen") is Eigen
out["names after"] = names()
print(json.dumps(out))
"""


def make_wheel(folder, distribution, module, text, entry_points):
    """A wheel written by hand: no build backend need be installed."""
    info = f"{distribution}-1.0.dist-info"
    points = "".join(f"{name} = {module}:{item}\n" for name, item in entry_points.items())
    files = {
        f"{module}.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[{ENTRY_POINT_GROUP}]\n{points}",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / f"{distribution}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """What a process sees that has the three distributions of PLUGINS on its path."""
    folder, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    wheels = [make_wheel(folder, name, *plugin) for name, plugin in PLUGINS.items()]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "--no-index", "--target", str(site), *map(str, wheels)], check=True, timeout=100)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_the_entry_point_of_an_installed_package_is_used_by_name(plugins):
    assert {"twice", "eigen"} <= set(plugins["names"])
    assert plugins["twice"] == [6.0]  # rank 3 of ones, doubled
    assert plugins["twice, factor 5"] == [15.0]
    kind, message = plugins["option"]
    assert kind == "TypeError"
    assert "'twice' has no option 'factr'; it has: factor; did you mean 'factor'?" in message


def test_plugins_are_imported_on_first_need_only(plugins):
    assert plugins["imported by eigen"] == []


def test_a_broken_entry_point_is_reported_with_its_distribution_each_time_and_breaks_nothing_else(plugins):
    assert plugins["broken"] == plugins["broken again"]
    kind, message = plugins["broken"]
    assert kind == "ImportError"
    for part in ("decomposition 'broken'", "broken_plugin 1.0", "broken_plugin_module:Anything", "half installed"):
        assert part in message.replace("-", "_")
    assert plugins["eigen is ours"]
    assert plugins["twice"] == [6.0]
    assert "broken" in plugins["unknown"][1]  # still listed, and suggested to who misspells it


@pytest.mark.parametrize(("name", "why"), [("number", "must be callable"), ("absent", "Nothing")])
def test_an_entry_point_to_the_wrong_thing_is_reported(plugins, name, why):
    kind, message = plugins[name]
    assert kind == "ImportError"
    assert why in message
    assert "1.0" in message


def test_an_entry_point_never_replaces_a_built_in_and_is_listed_as_a_problem(plugins):
    assert plugins["eigen is ours"]
    assert plugins["eigen is ours after all"]
    clash = [f"{name}: {why}" for name, why in plugins["problems"].items() if "Impostor" in f"{name}{why}"]
    assert len(clash) == 1
    assert "eigen" in clash[0]
    assert "taken" in clash[0]


def test_two_plugins_with_one_name_one_wins_and_the_other_is_listed(plugins):
    losers = [f"{name}: {why}" for name, why in plugins["problems"].items() if name.startswith("twice")]
    assert len(losers) == 1
    assert "second_plugin" in losers[0].replace("-", "_")


def test_a_refused_entry_point_warns_with_its_distribution(plugins):
    """At the first name that is asked for, also if it is another, and once; the same object twice is no clash."""
    taken, second = plugins["warnings of eigen"]
    words = "the decomposition 'eigen' of good-plugin 1.0, good_plugin_module:Impostor is not used: the name 'eigen' is"
    assert f"{words} taken by tensornet_interp.decompositions.eigen.Eigen" == taken.replace("_plugin ", "-plugin ")
    assert second.replace("_plugin ", "-plugin ").startswith(
        "the decomposition 'twice' of second-plugin 1.0, second_pl"
    )
    later = [text for text in plugins["warnings"] if text not in (taken, second)]
    assert len(later) == 1
    assert "'later' of second" in later[0]


def test_the_list_says_what_a_method_does_where_it_is_from_and_what_it_takes(plugins):
    listed = {
        name: (summary, origin.replace("_plugin ", "-plugin "), options)
        for name, (summary, origin, options) in plugins["listed"].items()
    }
    assert listed["both"] == (
        "Return the layer unchanged.",
        "both-plugin 1.0, both_plugin_module:Both",
        ["rank", "seed=0"],
    )
    assert listed["twice"] == ("", "good-plugin 1.0, good_plugin_module:Twice", ["factor=2.0"])
    summary, origin, options = listed["broken"]
    assert summary.endswith("failed to load: RuntimeError: half installed")
    assert (origin, options) == ("broken-plugin 1.0, broken_plugin_module:Anything", [])
    summary, origin, options = listed["eigen"]
    assert summary == "Decompose the symmetrized interaction matrix M_u of each output direction u into eigenpairs."
    assert (origin, options) == ("tensornet_interp", ["directions=None", "rank=None"])


def test_a_scratch_block_loses_no_plugin(plugins):
    assert plugins["names in a scratch block"] == plugins["names after a scratch block"] == plugins["names"]


def test_every_problem_is_listed(plugins):
    assert {"broken", "number", "absent"} <= set(plugins["problems"])


def test_the_available_names_can_all_be_asked_for(plugins):
    """A refused entry point is no name: nobody can pass 'eigen (good_plugin 1.0, ...)' to decompose."""
    assert [name for name in plugins["names"] if not name.isidentifier()] == []
    assert [name for name in plugins["names after"] if not name.isidentifier()] == []


TOOLS = '''
def hammer(size, weight=2):
    """Return a hammer."""


def saw(size):
    """Return a saw."""


def late(size):
    """Return a tool that comes late."""


number = 3
'''


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A registry that finds two distributions on the path of this process, the first with the module of TOOLS."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tools_of_the_shop", raising=False)
    (tmp_path / "tools_of_the_shop.py").write_text(TOOLS, encoding="utf-8")
    offers = {
        "first": {"hammer": "hammer", "number": "number", "absent": "absent", "late": "late", "own": "saw"},
        "second": {"hammer": "saw"},
    }
    for name, entries in offers.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"{entry} = tools_of_the_shop:{item}" for entry, item in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[shop.tools]", *lines]), encoding="utf-8")
    made = Registry("tool", "shop.tools")
    made.register("own")(dict)
    return made


def hired(shop):
    """The shop after its entry points were looked up, and the warnings of this."""
    with pytest.warns(UserWarning, match="is not used") as caught:
        shop.names()
    return shop, sorted(str(warning.message) for warning in caught)


def test_an_entry_point_is_found_in_this_process_and_loaded_at_need(shop):
    shop, _ = hired(shop)
    assert shop.names() == ["absent", "hammer", "late", "number", "own"]
    assert "tools_of_the_shop" not in sys.modules
    found = shop.get("hammer")
    assert found is getattr(sys.modules["tools_of_the_shop"], found.__name__)
    assert found.__name__ in ("hammer", "saw")  # two distributions offer the name, in an order of the file system


def test_names_that_are_taken_are_refused_with_both_owners(shop):
    shop, said = hired(shop)
    assert len(said) == 2
    assert "the tool 'hammer' of " in said[0]
    assert said[0].endswith("has the name already")
    assert said[1].startswith("the tool 'own' of first 1.0, tools_of_the_shop:saw is not used: the name 'own' is taken")
    assert shop.get("own") is dict
    assert {key.partition(" ")[0] for key in shop.problems()} == {"hammer", "own", "number", "absent"}


def test_what_fails_to_load_is_an_error_of_its_name_alone(shop):
    shop, _ = hired(shop)
    with pytest.raises(
        ImportError, match=r"'number' cannot be used: first 1.0, .*TypeError: .* must be callable, got 3"
    ):
        shop.get("number")
    with pytest.raises(TypeError, match="the name of a tool must be a string, got int"):
        shop.get(3)
    with pytest.raises(ImportError, match=r"'absent' cannot be used: .*AttributeError"):
        shop.get("absent")
    listed = {line.name: line for line in shop.listing() if line.name in ("late", "absent")}
    assert listed["late"].origin == "first 1.0, tools_of_the_shop:late"
    assert listed["absent"].summary.startswith("cannot be used: first 1.0, tools_of_the_shop:absent failed to load")


def test_the_same_object_registered_by_hand_and_by_entry_point_is_no_clash(shop):
    shop, _ = hired(shop)
    late = importlib.import_module("tools_of_the_shop").late
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shop.register("late")(late) is late
    origins = {line.name: line.origin for line in shop.listing()}
    assert origins["late"] == "first 1.0, tools_of_the_shop:late"


def test_another_object_under_the_name_of_a_waiting_entry_point_wins_with_a_warning(shop):
    shop, _ = hired(shop)
    with pytest.warns(UserWarning, match="the tool 'late' of first 1.0, .* is not used: the name 'late' is taken"):
        shop.register("late")(set)
    assert shop.get("late") is set
