"""The benchmark at sizes where it takes a moment: rows, columns, fits and counts; never seconds."""

import csv
import math

import pytest
import torch

from examples import benchmark, benchmark_imports
from examples.benchmarks import fits, measure, sections
from examples.benchmarks.measure import Checked, Outcome, Row, Table
from models import ClassifierConfig, build_classifier, save_model
from tensornet_interp import BilinearLayer, CPResult, decompose, relative_error


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = ClassifierConfig(inputs=9, width=7, hidden=6, classes=4)
    save_model(build_classifier(config, 0), folder, extra={"dataset": "digits"})
    return str(folder)


@pytest.fixture(scope="module")
def layer(model):
    return fits.load_layer(model)


needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon, which came with 2.9")


@pytest.mark.parametrize("section", [pytest.param(s, marks=needs_muon) if s == "a" else s for s in sections.SECTIONS])
def test_every_row_runs_and_finds_what_its_table_names(section, model):
    for table in sections.SECTIONS[section](model, sections.SMOKE):
        assert table.title.startswith(f"{section}. ")
        checked = {}
        for row in table.rows:
            subject = row.prepare(**row.given)
            outcome = row.run(subject, **row.options)
            assert outcome.work
            assert measure.flops(row, subject, outcome.iterations) > 0
            if row.check is not None:
                checked[row.what] = row.check(subject, outcome.found).fit
        assert checked
        if "cosine" in table.fit:
            assert all(0 < fit < 1 + 1e-6 for fit in checked.values()), checked
        elif section in "de":
            assert all(fit < 1e-5 for fit in checked.values()), checked
        else:
            assert all(-1 <= fit <= 1 for fit in checked.values()), checked


def test_an_unknown_section_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="--only"):
        benchmark.main(["--only", "a,z", "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def given(megabytes):
    return megabytes


def hold(megabytes):
    array = torch.ones(megabytes, 2**18)
    return Outcome("ones", float(array[-1, -1]))


def doubled(megabytes, found):
    return Checked(2 * found, "checked")


@pytest.mark.slow
def test_main_times_rows_in_processes_and_writes_the_table(model, tmp_path, capsys, monkeypatch):
    rows = [Row(f"{n} MiB", given, {"megabytes": n}, hold, check=doubled) for n in (10, 200)]
    monkeypatch.setitem(sections.SECTIONS, "d", lambda model, sizes: [Table("d. Memory", "", rows, base=1)])
    threads = torch.get_num_threads()
    options = ["--only", "d", "--repeats", "2", "--threads", "1", "--out", str(tmp_path / "new")]
    benchmark.main(["--smoke", "--model", model, *options])
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert "threads 1" in printed
    assert "d. Memory" in printed
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["d.csv"]
    with (tmp_path / "new" / "d.csv").open() as file:
        records = list(csv.DictReader(file))
    assert [record["what"] for record in records] == ["10 MiB", "200 MiB"]
    columns = {"table", *measure.COLUMNS, "machine", "threads", "load_average", "torch", "model"}
    assert columns == set(records[0])
    small, large = records
    assert float(large["ratio"]) == 1
    assert float(small["ratio"]) == pytest.approx(float(small["seconds"]) / float(large["seconds"]))
    assert all(record["runs"] == "2" and record["complete"] == "True" for record in records)
    assert all(float(record["fit"]) == 2 and record["note"] == "checked" for record in records)
    if large["peak_mib"]:  # else the system does not tell
        assert 10 <= float(small["peak_mib"]) < 60
        assert 200 <= float(large["peak_mib"]) < 250


def test_an_error_in_a_row_is_an_error_here_that_names_it():
    with pytest.raises(RuntimeError, match=r"(?s)row 'bad' failed.*could not convert string to float"):
        measure.measure(Table("t", "", [Row("bad", str, {"object": "no number"}, float)]), repeats=1, threads=1)


def product(size, *, steps=5):
    for _ in range(steps):
        torch.ones(size, 3) @ torch.ones(3, size)
    return Outcome(f"{steps} products", iterations=steps)


def test_flops_of_iterations_are_extended_from_two():
    whole = Row("", given, {}, product)
    extended = Row("", given, {}, product, counted="steps")
    assert measure.flops(whole, 4, 5) == measure.flops(extended, 4, 5) == 5 * 2 * 4 * 3 * 4
    assert measure.flops(extended, 4, 9) == 9 * 2 * 4 * 3 * 4


def test_the_dense_target_is_the_symmetrized_layer(layer):
    torch.testing.assert_close(fits.dense(layer), layer.symmetrize().to_tensor(), atol=1e-7, rtol=0)


def test_iterations_to_is_the_smallest_number(layer):
    def cosine(n):
        found: CPResult = decompose(layer, "cp", rank=3, max_iterations=n)
        return math.sqrt(1 - found.report.relative_error**2)

    wanted = (cosine(4) + cosine(5)) / 2  # reached by 5, not by 4
    assert cosine(4) < wanted
    assert fits.iterations_to(layer, 3, wanted) == 5
    with pytest.raises(ValueError, match=r"rank 1 does not reach cosine 0\.999"):
        fits.iterations_to(layer, 1, 0.999)


@needs_muon
def test_fits_end_where_the_cosine_is_reached_and_say_where_it_is_not(layer):
    found = fits.dense_cosine_fit(layer, rank=3, cosine=0.5, lr=0.3)
    assert found.complete
    assert fits.cosine_to(layer, found.found).fit >= 0.5
    assert found.iterations < 200
    short = fits.dense_cosine_fit(layer, rank=1, cosine=0.99, lr=0.3, steps=3)
    assert not short.complete
    assert short.iterations == 3
    found = fits.tensorly_parafac(layer, rank=3, cosine=0.7, init="svd", cap=30.0)
    assert found.complete
    assert fits.cosine_to(layer, found.found).fit >= 0.7 - 1e-6
    capped = fits.tensorly_parafac(layer, rank=1, cosine=0.999, init="svd", cap=0.0)
    assert not capped.complete


def test_subspaces_are_compared_with_those_of_hosvd(layer):
    found = fits.tensorly_hosvd(layer, ranks=(2, 3), dtype="float64").found
    checked = fits.same_subspaces(layer, found)
    assert float(checked.note.split()[3]) < 1e-6
    result = decompose(layer, "hosvd", ranks=(2, 3))
    assert checked.fit == pytest.approx(math.sqrt(1 - relative_error(result, layer) ** 2), abs=1e-6)
    basis = torch.eye(4, dtype=torch.float64)
    turned = torch.stack([basis[0], (3 * basis[1] + 4 * basis[2]) / 5], 1)
    assert fits.projector_distance(basis[:, :2], turned) == pytest.approx(0.8)
    assert fits.projector_distance(basis[:, :2], basis[:, [1, 0]]) < 1e-15


def test_a_random_layer_has_the_sizes_asked_for():
    layer = fits.random_layer(3, 5, 4)
    assert isinstance(layer, BilinearLayer)
    assert layer.shape == (4, 3, 3)
    assert layer.rank == 5


@pytest.mark.slow
def test_the_import_benchmark_prints_the_ratio_of_its_two_times(capsys):
    benchmark_imports.main(["--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    needed, ours = (float(line.split()[-2]) for line in lines[1:3])
    assert min(needed, ours) > 0
    assert float(lines[3].split()[1].rstrip(",")) == pytest.approx(ours / needed, abs=0.01)


@pytest.mark.parametrize(("option", "kind"), [("0", ValueError), ("x", SystemExit)])
def test_the_import_benchmark_refuses_what_is_no_number_of_repeats(option, kind):
    with pytest.raises(kind):
        benchmark_imports.main(["--repeats", option])
