"""The planted circuits of a checkpoint are found from its weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from examples import weights_alone
from tensornet_interp.features import rank_by_structure

BASIS = "residual stream after the norm before the layer (normalization=True)"


def opened(folder, layer):
    return weights_alone.open_all(str(folder), layer, weights_alone.dictionary_folders(folder))


@pytest.mark.parametrize("seed", range(20))
def test_the_planted_gate_is_found_at_noise_as_large_as_the_gate(seed, tmp_path):
    gate = weights_alone.plant(tmp_path, seed=seed, noise=1.0)
    assert weights_alone.recovered(tmp_path, gate) == {
        "ranks first": True,
        "opposite signs": True,
        "top interaction": True,
    }


def test_a_gate_under_much_noise_is_not_reported_as_found(tmp_path):
    gate = weights_alone.plant(tmp_path, seed=0, noise=100.0)
    found = weights_alone.recovered(tmp_path, gate)
    assert not found["ranks first"]
    assert not found["top interaction"]


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_the_noise_level_is_what_it_says(noise, tmp_path):
    """Without noise the planted matrix has norm g; with it, noise and gate are nearly orthogonal: g sqrt(1 + n^2)."""
    gate = weights_alone.plant(tmp_path, seed=3, noise=noise)
    layer, inputs, outputs, _ = opened(tmp_path, 1)
    direction = outputs.encoder[gate.output]
    a, b = inputs.decoder[:, gate.first], inputs.decoder[:, gate.second]
    strength = (direction @ layer.down)[-1]
    planted = strength * (torch.outer(a, b) + torch.outer(b, a)) / 2
    rest = layer.interaction_matrix(direction) - planted
    assert float(rest.norm() / planted.norm()) == pytest.approx(noise, rel=1e-5)


def test_the_layer_is_the_one_of_the_file(tmp_path):
    weights_alone.plant(tmp_path, seed=0)
    first, second = (opened(tmp_path, index)[0] for index in (0, 1))
    assert first.shape == second.shape == (64, 64, 64)
    assert first.rank == second.rank == 96
    assert first.name == f"{tmp_path.name} layer 0"
    assert first.basis == BASIS
    assert not torch.equal(first.down, second.down)
    shares = [record["share"] for record in rank_by_structure(first, torch.eye(64))]
    assert max(shares) < 0.4  # nothing is planted there


def test_main_prints_the_tables_and_writes_the_figures(tmp_path, capsys):
    weights_alone.main(["--seeds", "2", "--out", str(tmp_path / "made")])
    printed = capsys.readouterr().out
    for what in ("ranks first", "opposite signs", "top interaction"):
        assert f"the planted feature, {what}: 2 of 2 seeds" in printed
    output, _, first, _, second = printed.split("seed 0 has output feature ")[1].split()[:5]
    ranked = printed.split(f"{BASIS}\nplace ")[1].split("effective rank\n")[1].splitlines()[0].split()
    assert ranked[:2] == ["1", output]
    assert "yes" in ranked
    top = next(line for line in printed.splitlines() if line.startswith("   1  "))
    assert top.endswith(" x ".join(sorted((first, second), key=int)))
    for name in ("interactions", "plane", "correlation"):
        assert (tmp_path / "made" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def shard(folder):
    """The same weights in two files with an index, the unembedding tied to the embedding."""
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_real_checkpoint_is_opened_by_its_folders(sharded, tmp_path, capsys):
    gate = weights_alone.plant(tmp_path, seed=5, layer=0)
    if sharded:
        shard(tmp_path)
    folders = [str(path) for path in weights_alone.dictionary_folders(tmp_path)]
    options = ["--checkpoint", str(tmp_path), "--layer", "0", "--out", str(tmp_path / "out")]
    weights_alone.main([*options, "--dictionaries", *folders])
    printed = capsys.readouterr().out
    assert "seeds" not in printed
    assert f"for output feature {gate.output}\n" in printed
    apart = float(printed.split("random inputs: ")[1].split(" apart")[0])
    assert apart <= 1e-5  # float32 against float64


def test_a_checkpoint_needs_its_dictionaries(tmp_path, capsys):
    with pytest.raises(SystemExit):
        weights_alone.main(["--checkpoint", str(tmp_path)])
    assert "--checkpoint and --dictionaries go together" in capsys.readouterr().err


def test_a_folder_that_is_no_dictionary_is_named(tmp_path):
    weights_alone.plant(tmp_path / "made", seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        weights_alone.open_all(str(tmp_path / "made"), 1, [tmp_path / "empty"] * 2)
