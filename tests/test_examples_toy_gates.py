"""The toy task of boolean gates, from training to figure."""

import pytest
import torch
from matplotlib.figure import Figure

from examples import toy_gates
from models import LogicGate, LogicGateConfig, train_logic_gates


@pytest.fixture(scope="module")
def model():
    return train_logic_gates(toy_gates.CONFIG, steps=600, seed=0)


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def test_main_prints_the_table_and_writes_the_figure(tmp_path, capsys):
    toy_gates.main(["--steps", "600", "--seed", "0", "--out", str(tmp_path / "new" / "folder")])
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if "(" in line and line.startswith(("and", "or", "xor", "n", "xnor"))]
    assert [row.split("  ")[0].strip() for row in rows] == list(toy_gates.CONFIG.names)
    for row in rows:
        accuracy, error, *eigenvalues = row.split(")")[1].split()
        assert float(accuracy) == 1
        assert float(error) < 0.1
        assert len(eigenvalues) == 5
    written = (tmp_path / "new" / "folder" / "table.txt").read_text()
    assert written.strip() in printed
    picture = (tmp_path / "new" / "folder" / "interaction_matrices.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_matrices_are_the_gates(model):
    raw, symmetric = toy_gates.matrices(model)
    torch.testing.assert_close(symmetric, (raw + raw.mT) / 2)
    assert not torch.allclose(raw, raw.mT, atol=1e-3)  # else symmetrization would show nothing
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    z = torch.cat([torch.ones(16, 1), bits], 1)
    for tensor in (raw, symmetric):
        y = torch.einsum("oij,ni,nj->no", tensor, z, z)
        torch.testing.assert_close(y, model(bits).detach(), atol=1e-4, rtol=0)


def test_table_eigenvalues_are_those_of_the_interaction_matrix(model):
    _, symmetric = toy_gates.matrices(model)
    for line, matrix in zip(toy_gates.table(model).splitlines()[1:], symmetric, strict=True):
        printed = [float(value) for value in line.split(")")[1].split()[2:]]
        expected = torch.linalg.eigvalsh(matrix.double())
        assert sorted(printed) == pytest.approx(expected.tolist(), abs=2e-3)


def test_figure_shows_the_matrices(model):
    figure = toy_gates.figure(model)
    assert isinstance(figure, Figure)
    axes = panels(figure)
    raw, symmetric = toy_gates.matrices(model)
    assert len(axes) == 12
    for axis, matrix in zip(axes, [*raw, *symmetric], strict=True):
        torch.testing.assert_close(torch.as_tensor(axis.images[0].get_array().data), matrix)
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "x0", "x1", "x2", "x3"]
        assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "x0", "x1", "x2", "x3"]
    assert [axis.get_title() for axis in axes[:6]] == list(toy_gates.CONFIG.names)
    assert "as trained" in axes[0].get_ylabel()
    assert "symmetrized" in axes[6].get_ylabel()
    limits = {axis.images[0].get_clim() for axis in axes}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high
    assert high == pytest.approx(float(raw.abs().max()))
    assert [axis for axis in figure.axes if axis.get_ylabel() == "B[gate, in1, in2]"]  # the colour bar


def test_figure_of_many_bits_shows_the_coordinates_of_the_gate():
    config = LogicGateConfig(n_bits=9, gates=(LogicGate("xor", 7, 2),), hidden=3)
    model = train_logic_gates(config, steps=2, seed=0)
    top, bottom = panels(toy_gates.figure(model))
    raw, symmetric = toy_gates.matrices(model)
    shown = [0, 8, 3]
    for axis, tensor in ((top, raw), (bottom, symmetric)):
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "x7", "x2"]
        torch.testing.assert_close(torch.as_tensor(axis.images[0].get_array().data), tensor[0][shown][:, shown])
