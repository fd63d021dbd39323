"""Cost laws: docstrings state what is quoted, every call runs, fits are right, and the page is up to date."""

import csv
import math
from pathlib import Path

import pytest

from examples import cost_laws
from examples.benchmarks.laws import Call, Growth, memory, slope
from examples.cost_laws import CALLS, main

PAGE = Path(__file__).parents[1] / "docs" / "costs.md"


@pytest.mark.parametrize("name", CALLS)
def test_the_docstring_states_the_cost_that_is_quoted(name):
    call = CALLS[name]
    text = call.docstring()
    assert "Cost" in text
    assert [quote for quote in (*call.cost, *call.memory) if quote not in text] == []


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if not call.workers])
def test_every_call_runs_at_tiny_sizes(name):
    for growth in CALLS[name].growths:
        smallest = growth.points(smoke=True)[0]
        assert CALLS[name].make(**smallest)() is not None


@pytest.mark.parametrize("name", CALLS)
def test_sizes_grow_in_geometric_steps(name):
    for growth in CALLS[name].growths:
        steps = [math.log(b / a) for a, b in zip(growth.sizes, growth.sizes[1:], strict=False)]
        assert min(steps) > 0.2
        assert max(steps) < 1.2 * min(steps)


def quoted(cost, names=(), **memory):
    return Call("call", "norm", lambda **sizes: lambda: None, cost, [], names=dict(names), **memory)


@pytest.mark.parametrize(
    ("cost", "names", "exponent"),
    [
        ({"2 * in^3": "1"}, {}, 3),
        ({"2 * rank * rank' * in": "out"}, {"rank": "d", "rank'": "d^2"}, 4),
        ({"r^2": "1"}, {}, 2),  # r = min(in, 2 * hidden), and hidden is large
        ({"n / workers": "1"}, {"workers": "d", "n": "out"}, -1),
        ({"out^2": "1"}, {}, 0),
    ],
)
def test_the_predicted_exponent_is_that_of_the_quoted_terms(cost, names, exponent):
    growth = Growth("d", (8, 16, 32), {"out": 3, "hidden": 1000})
    assert quoted(cost, names).predicted(growth, cost) == pytest.approx(exponent, abs=1e-12)


def test_the_predicted_exponent_of_a_sum_is_its_slope_and_without_terms_there_is_none():
    growth = Growth("d", (8, 16), {"out": 4})
    cost = {"in": "out", "in^2": "1"}
    expected = math.log2((16 * 4 + 16**2) / (8 * 4 + 8**2))
    assert quoted(cost).predicted(growth, cost) == pytest.approx(expected, rel=1e-12)
    assert quoted(cost).predicted(growth, {}) is None


def test_exponents_are_fitted_over_the_three_largest_sizes():
    sizes = [1, 2, 4, 8]
    found = slope(sizes, [1000, 2**2, 4**2, 8**2])
    assert found == pytest.approx((2, 2, 2), abs=1e-12)
    found = slope(sizes, [1, 1, 2, 8])  # steps of 1 and 2
    assert found == pytest.approx((1.5, 1, 2), abs=1e-12)


def test_little_memory_and_that_of_workers_has_no_exponent():
    sizes, peaks = [1, 2, 4, 8], [0.1, 20.0, 40.0, 80.0]
    call = quoted({"in": "1"})
    assert memory(call, sizes, peaks) == pytest.approx((1, 1, 1), abs=1e-12)
    assert memory(call, sizes, [5.0, 15.0, 40.0, 80.0]) is None
    assert memory(call, sizes, [math.nan] * 4) is None
    assert memory(quoted({"in": "1"}, workers=True), sizes, peaks) is None


def test_an_unknown_call_is_refused_before_anything_is_written(tmp_path):
    for options in (["--only", "norm,none"], ["--repeats", "0"]):
        with pytest.raises(ValueError, match=options[0]):
            main([*options, "--out", str(tmp_path / "new" / "laws.csv")])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="--replot"):
        main(["--replot", "--out", str(tmp_path / "laws.csv")])


@pytest.mark.slow
def test_main_measures_a_part_keeps_the_rest_and_prints_the_table_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # set back at the end
    path = tmp_path / "new" / "laws.csv"
    options = ["--smoke", "--repeats", "1", "--no-progress", "--out", str(path)]
    main([*options, "--only", "norm"])
    main([*options, "--only", "encode"])
    shown = capsys.readouterr()
    assert shown.err == ""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    sizes = {"norm": [len(growth.sizes) for growth in CALLS["norm"].growths], "encode": [4]}
    assert [row["name"] for row in rows] == [name for name, counts in sizes.items() for _ in range(sum(counts))]
    assert all(float(row["seconds"]) > 0 and float(row["calls"]) == 2 for row in rows)
    main([*options, "--replot"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["`norm(layer)`"] * 2 + ["`dictionary.encode(x)`"]
    assert lines == shown.out.splitlines()[-len(lines) :]


def test_the_page_shows_every_call_with_the_sizes_and_the_predictions_of_the_script():
    rows = [
        {"name": name, "parameter": growth.parameter, "size": size, "seconds": 1.0}
        for name, call in CALLS.items()
        for growth in call.growths
        for size in growth.sizes
    ]

    def fixed_cells(text):
        lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]
        return [[cell.strip() for cell in (*cells[:3], cells[5], cells[8])] for cells in lines]

    assert fixed_cells(PAGE.read_text(encoding="utf-8")) == fixed_cells(cost_laws.table(rows))
