"""What the examples of language models refuse before any work, and batches without a variance."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from examples.feature_circuits import main as circuits
from examples.language_model import main as language
from models.published import save_transformer
from models.transformer import TransformerConfig, build_transformer
from models.vectors import VectorBuffer

SIZES = TransformerConfig(vocabulary=7, d_model=8, d_hidden=6, n_layers=2, n_heads=2, context=3)


@pytest.mark.parametrize("share", ["0", "-1", "inf"])
def test_a_share_of_the_steps_is_above_0(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        language(["--text", "a.txt", "--held-out", "b.txt", "--shares", share])
    assert "--shares must be above 0" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seeds", "--steps"])
def test_nothing_to_train_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        language(["--text", "a.txt", "--held-out", "b.txt", option, "0"])
    assert f"{option} must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gate", "options", "message"),
    [("silu", [], "gate='silu'"), ("none", ["--layer", "9"], "layer must be"), ("none", [], "tokenizer")],
)
def test_what_cannot_be_used_leaves_no_settings(tmp_path: Path, gate: str, options: list[str], message: str) -> None:
    save_transformer(build_transformer(TransformerConfig(**vars(SIZES) | {"gate": gate}), seed=0), tmp_path / "model")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        circuits(["--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out" / "settings.json").exists()


def test_a_last_batch_of_one_is_left_out_of_endless_training() -> None:
    rows = torch.randint(7, (3, 3), generator=torch.Generator().manual_seed(0))  # 9 = 2 batches of 4 and one
    buffer = VectorBuffer(build_transformer(SIZES, seed=0), rows, 0, "mlp-in", size=8, batch_size=4)
    assert 1 in [len(batch) for batch in buffer]
    assert {len(batch) for batch in islice(buffer.endless(), 6)} == {4}
