"""The benchmark of leading eigenpairs, at a size where only its table matters."""

import torch

from examples.benchmark_spectra import main
from examples.benchmarks.spectral import DECAYS, Products, dense, make_layer, product_rates


def test_main_prints_one_line_a_layer(capsys):
    threads = torch.get_num_threads()
    main(["--sizes", "48x96", "--directions", "9", "--batch", "4", "--repeats", "1"])
    head, rates, names, *lines = capsys.readouterr().out.splitlines()
    assert "1 threads" in head
    assert rates.startswith("matrix products: torch.float32 ")
    assert [line.split()[0] for line in lines] == list(DECAYS)
    for line in lines:
        cells = line.split()
        assert len(cells) == len(names.replace("ms ", "ms_").split())
        assert all(float(cell.rstrip("%")) >= 0 for cell in cells[1:])
    assert torch.get_num_threads() == threads


def test_layers_decay_as_they_say():
    for decay, ratio in (("exponential", 0.9**9), ("inverse", 0.1), ("flat", 1.0)):
        left = make_layer(48, 4800, 3, decay, seed=0).left
        values = torch.linalg.svdvals(left)
        assert 0.7 * ratio < values[9] / values[0] < 1.3 * ratio


def test_dense_takes_the_largest_magnitudes():
    layer = make_layer(12, 30, 5, "flat", seed=0)
    values = torch.linalg.eigvalsh(layer.interaction_matrix(torch.eye(5))).abs().sort(descending=True).values
    torch.testing.assert_close(dense(layer, torch.eye(5), 2, batch=2).abs(), values[:, :2])


def test_products_are_counted_by_dtype():
    single, double = torch.ones(4, 5), torch.ones(2, 3, 4, dtype=torch.float64)
    with Products() as products:
        single @ single.T
        double @ double.mT
        torch.linalg.qr(single)
    assert products.flops == {torch.float32: 2 * 4 * 5 * 4, torch.float64: 2 * 2 * 3 * 4 * 3}
    assert products.limit({torch.float32: 160.0, torch.float64: 72.0}) == 1 + 2


def test_rates_are_those_of_both_dtypes():
    rates = product_rates(repeats=1)
    assert set(rates) == {torch.float32, torch.float64}
    assert all(rate > 0 for rate in rates.values())
