"""Norms folded into layers, against the norms and MLPs of torch and transformers."""

import pytest
import torch
from helpers import normal
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from tensornet_interp import BilinearLayer, lift
from tensornet_interp.attention import AttentionLayer, Norm
from tensornet_interp.gated import GatedLayer
from tensornet_interp.weights import fold_norm, load_attention, load_layer, load_norm, pack

EPS = torch.finfo(torch.float64).eps
D, HIDDEN = 8, 12


def streams():
    """Vectors of very different lengths, with a mean that is not zero."""
    return (normal(30, D, seed=1) + 0.7) * torch.logspace(-1, 2, 30, dtype=torch.float64)[:, None]


def real(kind, **more):
    norm = nn.RMSNorm(D, eps=1e-5, dtype=torch.float64) if kind == "rms" else nn.LayerNorm(D, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(normal(D, seed=2) + 1)
        if kind != "rms":
            norm.bias.copy_(normal(D, seed=3))
    bias = None if kind == "rms" else norm.bias.detach()
    return norm, Norm(centered=kind != "rms", eps=1e-5, weight=norm.weight.detach(), bias=bias)


def weights():
    return {"left": normal(HIDDEN, D, seed=4), "right": normal(HIDDEN, D, seed=5), "down": normal(D, HIDDEN, seed=6)}


def layers():
    plain = BilinearLayer.from_weights(**weights())
    biases = {"left_bias": normal(HIDDEN, seed=7), "right_bias": normal(HIDDEN, seed=8), "bias": normal(D, seed=9)}
    sides = {"queries": [normal(D, D, seed=10)], "keys": [normal(D, D, seed=11)]}
    attention = AttentionLayer.from_weights(
        **sides, value=normal(D, D, seed=12), out=normal(D, D, seed=13), heads=2, positions=30, softmax=True
    )
    return {
        "plain": plain,
        "lifted": lift(plain, **biases, linear=normal(D, D, seed=14)),
        "gated": GatedLayer.from_weights(**weights(), gate="silu"),
        "gated with biases": GatedLayer.from_weights(**weights(), **biases, gate="gelu"),
        "attention": attention,
    }


def off(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("name", layers())
def test_a_folded_norm_is_the_norm_of_torch_up_to_one_number_per_vector(kind, name):
    """Sums of D and HIDDEN terms round by a few eps of the length of the outputs; 64 eps are 1.4e-14."""
    module, norm = real(kind)
    layer, x = layers()[name], streams()
    folded = fold_norm(layer, norm)
    scaled = norm.scales(x)[:, None] * x
    expected = layer(module(x).detach())
    assert off(folded(scaled), expected) < 64 * EPS
    assert folded.basis.startswith("residual stream over its")
    assert folded.history[-1] == "norm folded"
    if isinstance(folded, BilinearLayer):  # the known scalar carried: y = scale^2 B([1 / scale, x])
        scale = norm.scales(x)[:, None]
        carried = torch.cat([1 / scale, x], 1) if folded.constant_in else x
        y = scale.square() * folded.multilinear(carried)
        assert off(y[:, folded.constant_out :], expected) < 64 * EPS
        if folded.constant_in:  # the plain call of the unscaled stream is another function
            assert off(folded(x) * scale.square(), expected) > 1e-3


def test_scales_are_what_the_norm_multiplies_by():
    x = streams()
    _, norm = real("rms")
    torch.testing.assert_close(norm.scales(x), (x.square().mean(-1) + 1e-5).rsqrt())
    _, norm = real("layer")
    torch.testing.assert_close(norm.scales(x), (x.var(-1, correction=0) + 1e-5).rsqrt())


def llama(folder, **config):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra huggingface")
    sizes = {"hidden_size": D, "intermediate_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=11, max_position_embeddings=30, **sizes | config)
    ).double()
    with torch.no_grad():
        for layer in model.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight.copy_(normal(D, seed=15) + 1)
    model.save_pretrained(folder)
    return model.model.layers[1]


def test_the_loader_folds_the_norm_of_a_llama(tmp_path):
    block, x = llama(tmp_path, hidden_act="silu"), streams()
    norm = load_norm(tmp_path, 1, layout="llama")
    scaled = norm.scales(x)[:, None] * x
    # the RMSNorm of transformers divides in float32, so its vectors are off by its rounding
    expected = block.mlp(block.post_attention_layernorm(x)).detach()
    found = load_layer(tmp_path, 1, layout="llama", gated=True, fold_norm=True)
    assert off(found(scaled), expected) < 16 * torch.finfo(torch.float32).eps
    exact = functional.silu(norm(x) @ block.mlp.gate_proj.weight.T) * (norm(x) @ block.mlp.up_proj.weight.T)
    assert off(found(scaled), (exact @ block.mlp.down_proj.weight.T).detach()) < 64 * EPS

    attention = load_attention(tmp_path, 1, layout="llama")
    before = load_norm(tmp_path, 1, layout="llama", before="attention")
    folded = load_attention(tmp_path, 1, layout="llama", fold_norm=True)
    assert off(folded(before.scales(x)[:, None] * x), attention(before(x))) < 64 * EPS
    torch.testing.assert_close(folded.ov(0).to_tensor(), attention.ov(0).to_tensor() * before.weight)


def test_published_norms_have_nothing_to_fold(tmp_path):
    import published

    published.write(tmp_path)
    norm = load_norm(tmp_path, 0)
    assert (norm.centered, norm.weight, norm.eps) == (False, None, 1e-8)
    layer, folded = load_layer(tmp_path, 0), load_layer(tmp_path, 0, fold_norm=True)
    assert torch.equal(layer.left, folded.left)
    assert folded.basis == "residual stream over its root mean square"
    published.write(tmp_path, config=published.make_config(normalization="none"))
    assert load_norm(tmp_path, 0) is None
    assert load_layer(tmp_path, 0, fold_norm=True).basis == load_layer(tmp_path, 0).basis


def test_transformer_lens_names_no_norm_as_none(tmp_path):
    save_file({"blocks.0.mlp.W_in": normal(D, HIDDEN)}, tmp_path / "model.safetensors")
    assert load_norm(tmp_path, 0, layout="transformer_lens", config={"normalization_type": None}) is None


@pytest.mark.parametrize(("kind", "weighted"), [("LN", True), ("LNPre", False), ("RMS", True), ("RMSPre", False)])
def test_norms_of_transformer_lens(tmp_path, kind, weighted):
    tensors = {"blocks.0.mlp.W_gate": normal(D, HIDDEN), "blocks.0.mlp.W_in": normal(D, HIDDEN, seed=1)}
    tensors |= {"blocks.0.mlp.W_out": normal(HIDDEN, D, seed=2), "blocks.0.mlp.b_in": normal(HIDDEN, seed=3)}
    tensors |= {"blocks.0.ln2.w": normal(D, seed=4), "blocks.0.ln2.b": normal(D, seed=5)}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"normalization_type": kind, "eps": 1e-3}
    norm = load_norm(tmp_path, 0, layout="transformer_lens", config=config)
    assert (norm.centered, norm.eps) == (kind.startswith("LN"), 1e-3)
    assert (norm.weight is not None) == weighted
    assert (norm.bias is not None) == (kind == "LN")
    x = streams()
    layer = load_layer(tmp_path, 0, layout="transformer_lens", gate_removed=True)
    folded = load_layer(tmp_path, 0, layout="transformer_lens", gate_removed=True, fold_norm=norm)
    assert off(folded(norm.scales(x)[:, None] * x), layer(norm(x))) < 64 * EPS


def test_gpt2_attention_takes_its_norm(tmp_path):
    tensors = {"attn.c_attn.weight": normal(D, 3 * D), "attn.c_attn.bias": normal(3 * D, seed=1)}
    tensors |= {"attn.c_proj.weight": normal(D, D, seed=2), "attn.c_proj.bias": normal(D, seed=3)}
    tensors |= {"ln_1.weight": normal(D, seed=4), "ln_1.bias": normal(D, seed=5)}
    save_file({f"transformer.h.0.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    config = {"n_embd": D, "n_head": 2, "n_positions": 30}
    options = {"layout": "gpt2", "config": config}
    norm = load_norm(tmp_path, 0, before="attention", **options)
    layer, folded = (load_attention(tmp_path, 0, fold_norm=fold, **options) for fold in (False, True))
    x = streams()
    assert off(folded(norm.scales(x)[:, None] * x), layer(norm(x))) < 64 * EPS


def test_gemma_adds_one_to_its_weights(tmp_path):
    name = "model.layers.0.post_attention_layernorm.weight"
    (tmp_path / "model.safetensors").write_bytes(pack({name: normal(D)}, {}))
    found = load_norm(tmp_path, 0, layout="llama", config={"model_type": "gemma"})
    assert torch.equal(found.weight, normal(D) + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "llama", "config": {"model_type": "gemma2"}}, "model_type in config.json must be one of llama"),
        (
            {"layout": "llama", "before": "attention"},
            "'layers.0.input_layernorm.weight' is not in it",
        ),
        ({"layout": "transformer_lens"}, "normalization_type in config.json must be one of LN, LNPre, RMS, RMSPre"),
        ({"before": "head"}, "before must be one of attention, mlp"),
        ({"layout": "torch_bilinear"}, "layout must be one of"),
        ({}, "normalization in config.json must be one of none, rms"),
    ],
)
def test_norms_that_are_not_known_are_refused(tmp_path, options, message):
    name = "model.layers.0.post_attention_layernorm.weight"
    (tmp_path / "model.safetensors").write_bytes(pack({name: normal(D)}, {}))
    with pytest.raises(ValueError, match=message):
        load_norm(tmp_path, 0, **options)


def test_norms_that_do_not_fit_are_refused(tmp_path):
    layer, (_, norm) = layers()["plain"], real("rms")
    with pytest.raises(ValueError, match="fixed scales"):
        fold_norm(layer, norm.given(streams()))
    with pytest.raises(ValueError, match="has a norm folded already"):
        fold_norm(fold_norm(layer, norm), norm)
    with pytest.raises(ValueError, match=r"size 8 in layer but 7 in norm\.weight"):
        fold_norm(layer, Norm(weight=torch.ones(7, dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"one dtype; got layer torch\.float64, norm\.weight torch\.float32"):
        fold_norm(layer, norm.to(dtype=torch.float32))
    with pytest.raises(TypeError, match="layer must be a bilinear, gated or attention layer, got Linear"):
        fold_norm(nn.Linear(2, 2), norm)
    (tmp_path / "model.safetensors").write_bytes(pack({"0.weight": normal(4, D, D)}, {}))
    with pytest.raises(ValueError, match=r"for others pass fold_norm=Norm\("):
        load_layer(tmp_path, 0, layout="torch_bilinear", fold_norm=True)
