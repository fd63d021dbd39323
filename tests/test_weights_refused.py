"""What is no bilinear layer, or no file of one, is refused with a word on what to do."""

from dataclasses import replace

import pytest
import torch
from helpers import normal
from published import make_config, make_tensors, write

from tensornet_interp import BilinearLayer, save
from tensornet_interp.weights import LAYOUTS, Layout, load_layer

MLP = "transformer.h.1.mlp"


def without(name):
    return {key: value for key, value in make_tensors().items() if key != name}


def changed(name, *size):
    return make_tensors() | {name: normal(*size)}


SPLIT = Layout("transformer.h.{i}.mlp.l", "transformer.h.{i}.mlp.r", "transformer.h.{i}.mlp.p.weight")


REFUSED = {  # tensors, changes of the config, index, layout, message
    "missing": (
        without(f"{MLP}.p.weight"),
        {},
        1,
        "published",
        r"down 'transformer\.h\.1\.mlp\.p\.weight' \(pattern 'transformer\.h\.{i}\.mlp\.p\.weight'\); did you mean",
    ),
    "near name": (
        make_tensors(),
        {},
        1,
        replace(LAYOUTS["published"], down="transformer.h.{i}.mlp.P.weight"),
        r"mlp\.P\.weight'\); did you mean .* does not name: transformer\.h\.1\.mlp\.p\.weight; pass layout=Layout",
    ),
    "another layout": (make_tensors(), {}, 0, SPLIT, r"left 'transformer\.h\.0\.mlp\.l' .*right 'transformer"),
    "extra": (
        changed(f"{MLP}.w.scale", 3),
        {},
        1,
        "published",
        r"not name: transformer\.h\.1\.mlp\.w\.scale",
    ),
    "bias not there": (
        make_tensors(),
        {"bias": True},
        1,
        "published",
        r"no tensor for left_bias 'transformer.*w\.bias'",
    ),
    "odd rows": (changed(f"{MLP}.w.weight", 21, 12), {}, 1, "published", r"rows must be even, got shape \(21, 12\)"),
    "modes": (
        changed(f"{MLP}.w.weight", 20),
        {},
        1,
        "published",
        r"must have 2 modes \('rank', 'in'\), got shape \(20,\)",
    ),
    "rank": (
        changed(f"{MLP}.p.weight", 12, 9),
        {"d_hidden": None},
        1,
        "published",
        r"mode 'rank' has size 10 in 'transformer.*w\.weight' but 9 in 'transformer.*p\.weight', of shape \(12, 9\)",
    ),
    "config": (
        make_tensors(),
        {"d_hidden": 11},
        1,
        "published",
        r"size 11 in config.json's d_hidden but 10 in .* \(half",
    ),
    "bias size": (
        changed(f"{MLP}.p.bias", 11),
        {},
        1,
        "published",
        r"mode 'out' has size 12 in .* but 11 in .*p\.bias'",
    ),
    "NaN": (
        make_tensors() | {f"{MLP}.p.weight": torch.full((12, 10), torch.nan)},
        {},
        1,
        replace(LAYOUTS["published"], residual=0.0),
        "down has 120 entries that are NaN",
    ),
    "dtypes": (
        make_tensors() | {f"{MLP}.p.weight": normal(12, 10).float()},
        {},
        1,
        "published",
        "tensors must share one dtype",
    ),
    "index": (make_tensors(), {}, 3, "published", r"index must be below 3, which is n_layer in config\.json, got 3"),
    "index, no count": (
        make_tensors(),
        {"n_layer": None},
        3,
        "published",
        r"index must be one of \[0, 1, 2\], .*got 3",
    ),
    "layer lost": (without(f"{MLP}.w.weight"), {}, 1, "published", r"no tensor for left 'transformer\.h\.1"),
    "index below": (make_tensors(), {}, -1, "published", "index must be at least 0, got -1"),
    "layout": (
        make_tensors(),
        {},
        0,
        "publshed",
        r"layout must be one of llama, .*got 'publshed'; did you mean 'published'",
    ),
    "gate": (
        make_tensors(),
        {"gate": "silu"},
        0,
        "published",
        r"has a gate \(gate='silu' in config.json\).*gate_removed",
    ),
    "ordinary MLP": (make_tensors(), {"bilinear": False}, 0, "published", "bilinear=false: the MLP is an ordinary one"),
    "not ours": (make_tensors(), {}, 0, "tensornet_interp", "models that this project saved .* names class None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_bilinear_layer(case, tmp_path):
    tensors, config, index, layout, message = REFUSED[case]
    write(tmp_path, tensors, make_config(**config))
    with pytest.raises(ValueError, match=message):
        load_layer(tmp_path, index, layout=layout)


def test_a_file_of_save_is_no_checkpoint(tmp_path):
    save(BilinearLayer(down=normal(3, 4), left=normal(5, 4), right=normal(5, 4)), tmp_path / "kept.safetensors")
    for source in (tmp_path, tmp_path / "kept.safetensors"):
        with pytest.raises(ValueError, match=r"was written by save: tensornet_interp\.load opens it"):
            load_layer(source, 0)
