"""The example on gated models, end to end on a tiny one: every stage runs, is kept, and comes back."""

from dataclasses import replace

import pytest
import torch
from helpers import read_rows
from test_examples_anneal_gate import stories

from examples import gated_model
from models.published import load_transformer
from tensornet_interp.features import Dictionary
from tensornet_interp.gated import GatedLayer
from tensornet_interp.lifting import lift
from tensornet_interp.testing import random_layer

SIZES = "--vocabulary 300 --d-model 8 --layers 2 --heads 2 --context 16 --batch 4 --model-steps 6 --warmup 2"
AUTOENCODERS = "--steps 16 --batch-size 32 --buffer 64 --k 3 --lr 0.01 --circuits 2 --fit-tokens 900 --no-progress"


def test_a_model_is_trained_linearized_and_read(tmp_path, capsys):
    train, held_out, out = tmp_path / "train.txt", tmp_path / "held_out.txt", tmp_path / "out"
    train.write_text(stories(80), encoding="utf-8")
    held_out.write_text(stories(140)[-5000:], encoding="utf-8")
    arguments = [*SIZES.split(), *AUTOENCODERS.split(), "--out", str(out)]
    gated_model.main([*arguments, "--text", str(train), "--held-out", str(held_out)])
    printed = "".join(line for line in capsys.readouterr().out.splitlines(True) if not line.startswith("kept:"))
    rows = {(row["way"], row["layer"]): row for row in read_rows(out / "ways.csv")}
    assert len(rows) == 5 * 3
    errors = [float(rows[way, "blocks.1.mlp"]["error"]) for way in (gated_model.HALF, *gated_model.WAYS)]
    assert errors[-1] < errors[0]
    assert load_transformer(out / "silu-0").config.gate == "silu"
    assert load_transformer(out / "linearized").config.mlp_linear
    assert [row["layer"] for row in read_rows(out / "units.csv")] == ["blocks.0.mlp", "blocks.1.mlp"]
    found = read_rows(out / "circuits.csv")
    assert {row["run in"] for row in found} == {"gated", "linearized"}
    assert {row["verdict"] for row in found} <= {"confirmed", "refuted", "untested"}
    assert "confirmed: the removal takes at least 50%" in printed
    gated_model.main([*arguments, "--model", str(out / "silu-0")])  # read back, from the tokens beside the model
    again = capsys.readouterr().out
    assert again[again.index("error: of") :] in printed

    with pytest.raises(ValueError, match=r"results of other settings.*fit_tokens"):
        gated_model.main([*arguments, "--model", str(out / "silu-0"), "--fit-tokens", "800"])

    plain = tmp_path / "plain"
    with pytest.raises(ValueError, match="has no gates"):
        gated_model.main([*arguments[:-1], str(plain), "--model", str(out / "linearized")])
    with pytest.raises(SystemExit):
        gated_model.main([*arguments[:-1], str(plain)])


@pytest.mark.parametrize("biases", [(), ("left_bias", "bias"), ("right_bias",)])
def test_half_a_gate_keeps_the_biases(biases):
    generator = torch.Generator().manual_seed(0)
    sizes = {"left": (5, 4), "right": (5, 4), "down": (4, 5), "left_bias": (5,), "right_bias": (5,), "bias": (4,)}
    given = {n: torch.randn(sizes[n], generator=generator).double() for n in ("left", "right", "down", *biases)}
    layer = GatedLayer.from_weights(**given, gate=lambda u: u / 2)
    x = torch.randn(6, 4, generator=generator).double()
    torch.testing.assert_close(gated_model.halved(layer)(x), layer(x))


def test_the_circuit_holds_the_largest_terms():
    """Against the matrix of all terms, made from the layer's own values at pairs of features."""
    plain = replace(random_layer(4, 6, 5, seed=0), basis="inputs")
    layer = lift(plain, bias=plain.down[:, 0], linear=torch.eye(4, 6).double()).drop_constant()
    inputs = Dictionary.from_matrix(torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).double())
    direction, alive = layer.down.new_tensor([1, -2, 1, 0.5]), torch.tensor([0, 2, 3, 5, 8])
    size = torch.tensor([0.5, 2.0, 1.0, 3.0, 1.0], dtype=torch.float64)
    members = gated_model.circuit(layer, inputs, direction, alive, size)

    def value(*features):
        x = sum((size[list(alive).index(f)] * inputs.decoder[:, f] for f in features), torch.zeros(6).double())
        return float(layer(x) @ direction)

    zero, terms = value(), {}
    for i in alive.tolist():
        plus = value(i) - zero
        square = (value(i, i) - zero - 2 * plus) / 2
        terms[i, i], terms[i, None] = square, plus - square
        terms |= {(i, j): value(i, j) - plus - value(j) for j in alive.tolist() if j > i}
    best = sorted(terms, key=lambda term: -abs(terms[term]))[:12]
    assert set(members.tolist()) == {f for term in best for f in term if f is not None}
