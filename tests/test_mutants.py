"""The mutation tool: its mutants are programs, it notices what a test notices and says what none does."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("coverage")
from mutants import EQUIVALENT, affordable, equivalent, summary
from mutations import mutations

TOOL = Path(__file__).with_name("mutants.py")
PACKAGE = TOOL.parents[1] / "tensornet_interp"

TOY = {
    "toy/__init__.py": '"""Toy."""\nfrom toy.numbers import area, clipped, forever, unused\n',
    "toy/numbers.py": '''"""Numbers."""

def area(width, height):
    if width < 0:
        raise ValueError("width")
    return width * height


def clipped(x):
    return x + 0 if x < 10 else 10  # at 10 both branches say 10


def forever(n):
    while n > 0:
        n -= 1
    return n


def unused(x):
    return x - 1
''',
    "tests/test_area.py": """import sys
from contextlib import suppress
from pathlib import Path
from toy import area

def test_that_fails_at_first_and_passes_again():
    with suppress(ValueError):  # it never notices a mutant, whichever test of this file is faster and so runs first
        area(1, 1)
    if "coverage" not in sys.modules:  # it passes while it is measured
        again = Path("mark").exists()
        Path("mark").unlink() if again else Path("mark").touch()
        assert again
def test_area():
    assert area(2, 3) == 6
""",
    "tests/test_rest.py": """import pytest
from toy import clipped, forever

@pytest.fixture(scope="module")
def limit():
    return clipped(11)

def test_first(limit):
    pass

def test_clipped(limit):
    assert limit == 10 and clipped(9) == 9 and clipped(10) == 10

def test_forever():
    assert forever(2) == 0
""",
}


@pytest.mark.parametrize("path", ["planning.py", "spectral.py", "plots/networks.py"])
def test_mutants_are_programs_that_differ_in_one_place(path):
    source = (PACKAGE / path).read_text(encoding="utf-8")
    drawn = mutations(path, source)
    assert len({mutation.key for mutation in drawn}) == len(drawn) > 50
    assert len({mutation.kind for mutation in drawn}) >= 6
    original = ast.dump(ast.parse(source))
    for mutation in drawn[::7]:
        if mutation.is_valid(source):
            changed = mutation.apply(source)
            assert ast.dump(ast.parse(changed)) != original
            assert changed.startswith(source[: len(source.encode()[: mutation.start].decode())])
    assert sum(mutation.is_valid(source) for mutation in drawn[::7]) > 0.9 * len(drawn[::7])


def test_annotations_messages_and_docstrings_are_left_alone():
    source = '''"""1 + 1."""
def f(x: 1 | 2 = None) -> 3 - 4:
    """5 * 6."""
    y: 7 / 8
    if x:
        raise ValueError(f"{9 + 10} {11 - 12}")
    for a, b in zip(x, x, strict=True):
        return f"{13 * 14}"
'''
    assert {mutation.key for mutation in mutations("m.py", source)} == {
        'm.py::f [guard] raise ValueError(f"{9 + 10} {11 - 12}") => pass',
        "m.py::f [condition] x => (not x)",
        "m.py::f [swapped] zip(x, x, strict=True) => (zip(x, x, strict=True))",
    }


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Every mutant of the toy package, by key; the run is resumed once, with an output that a first run left."""
    root = tmp_path_factory.mktemp("toy")
    for name, text in TOY.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    out = root.parent / f"{root.name}.jsonl"
    for count in (4, 100):
        command = [sys.executable, TOOL, "--root", root, "--package", "toy", "--work", f"{root}.work", "--out", out]
        done = subprocess.run(
            [*map(str, command), "--seed", "3", "--slack", "2", "--count", str(count)],
            capture_output=True,
            text=True,
            check=True,
        )
    records = [json.loads(line) for line in out.read_text().splitlines()]
    shown = subprocess.run([*map(str, command), "--survivors"], capture_output=True, text=True, check=True).stdout
    unnoticed = [record["key"] for record in records if record["outcome"] in ("survived", "no test")]
    assert [line.partition("  (")[0] for line in shown.splitlines() if line.startswith("toy/")] == unnoticed
    assert done.stdout.splitlines()[-1].startswith(f"{len(records)} mutants: ")
    assert (root / "toy/numbers.py").read_text() == TOY["toy/numbers.py"]
    return {record["key"].partition("::")[2]: record for record in records}


@pytest.mark.parametrize(
    ("key", "outcome", "killer"),
    [
        ("area [operator] width * height => (width / height)", "killed", "tests/test_area.py::test_area"),
        ("area [condition] width < 0 => (not width < 0)", "killed", "tests/test_area.py::test_area"),
        ("area [comparison] width < 0 => (width <= 0)", "survived", None),
        ('area [guard] raise ValueError("width") => pass', "no test", None),
        # run by the fixture alone, noticed by the second test that uses it
        ("clipped [constant] 10 => (11) (1)", "killed", "tests/test_rest.py::test_clipped"),
        ("clipped [comparison] x < 10 => (x <= 10)", "survived", None),
        ("forever [operator] n -= 1 => n += 1", "timeout", None),
        ("unused [operator] x - 1 => (x + 1)", "no test", None),
    ],
)
def test_what_a_test_notices_is_killed_and_what_none_does_is_not(records, key, outcome, killer):
    assert (records[key]["outcome"], records[key]["killer"]) == (outcome, killer)


def test_equivalent_mutants_have_a_reason_and_do_not_count(tmp_path):
    file = tmp_path / "equivalent.txt"
    file.write_text("# a comment\nm.py::f [constant] 1 => (2)  # both round to 1\n")
    reasons = equivalent(file)
    assert reasons == {"m.py::f [constant] 1 => (2)": "both round to 1"}
    records = [
        {"key": key, "outcome": outcome}
        for key, outcome in (("m.py::f [constant] 1 => (2)", "survived"), ("b", "killed"))
    ]
    assert summary(records, reasons).endswith("1 of 1 that differ noticed")
    assert all(key and reason for key, reason in equivalent(EQUIVALENT).items())


def test_only_the_first_tests_that_fit_the_time_run():
    times = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert affordable(["a", "b", "c"], times, 3.0) == ["a", "b"]
    assert affordable(["c", "a"], times, 0.5) == ["c"]
    assert affordable([], times, 3.0) == []
    assert affordable(["a", "b", "c"], times, float("inf")) == ["a", "b", "c"]
