"""Attention in checkpoints: what is loaded computes what the models compute, and what no layer computes is refused."""

import json
import math

import published
import pytest
import torch
from helpers import normal
from safetensors.torch import load_file, save_file

from models.published import save_transformer
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp.attention import Norm, Part, SequenceNetwork, read_back
from tensornet_interp.weights import load_attention, load_network, load_tensor

TOKENS = torch.arange(14).reshape(2, 7) % 11
SIZES = {"num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 24, "vocab_size": 11}
LLAMA = SIZES | {"intermediate_size": 10, "num_key_value_heads": 2, "max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.5}
SCALED = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3 | {"original_max_position_embeddings": 64},
    "yarn": YARN | {"original_max_position_embeddings": 16},
    "yarn, untruncated": YARN | {"original_max_position_embeddings": 16, "truncate": False, "attention_factor": 0.7},
}


def write(folder, kind, **options):
    """A random model of `transformers` on disk; itself, in float64."""
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**options, attn_implementation="eager")
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
        for name, parameter in model.named_parameters():
            parameter.data = torch.randn_like(parameter) * (0.5 if name.endswith("bias") else 1 / math.sqrt(24))
    model.save_pretrained(folder)
    return model


def watched(model, modules):
    """The input and the output of every module in one call of the model."""
    seen = {}

    def keep(module, args, kwargs, out):
        seen[module] = (args[0] if args else kwargs["hidden_states"], out)

    for module in modules:
        module.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(TOKENS)
    return seen


def agree(model, layers, module_of, tolerance=1e-5):
    """Outputs and patterns of attention are those of the modules, with float32 rotary positions in the models."""
    modules = [module_of(i) for i in range(3)]
    seen = watched(model, modules)
    for layer, module in zip(layers, modules, strict=True):
        x, (y, pattern) = seen[module]
        torch.testing.assert_close(layer.pattern(x)[:, : pattern.shape[1]], pattern, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(layer(x), y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scaled", SCALED)
def test_llama(tmp_path, scaled):
    bias = scaled == "llama3"
    rope = SCALED[scaled] | {"rope_theta": 100.0}
    model = write(tmp_path, "Llama", **LLAMA, attention_bias=bias, head_dim=8, rope_parameters=rope)
    layers = [load_attention(tmp_path, i, layout="llama") for i in range(3)]
    assert all(layer.constant_in == bias and layer.positions == 16 for layer in layers)
    assert bias or layers[0].shared_heads == 2
    agree(model, layers, lambda i: model.model.layers[i].self_attn)


@pytest.mark.parametrize(
    ("kind", "options", "windows"),
    [
        ("Mistral", {"sliding_window": 3}, [3, 3, 3]),
        ("Mistral", {"sliding_window": None}, [None, None, None]),
        ("Mistral", {"sliding_window": 4096}, [None, None, None]),
        ("Qwen2", {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}, [None, 4, 4]),
        ("Qwen2", {"sliding_window": 4, "use_sliding_window": False}, [None, None, None]),
        ("Gemma", {"head_dim": 10}, [None, None, None]),
        ("Gemma2", {"sliding_window": 4, "query_pre_attn_scalar": 5, "attn_logit_softcapping": None}, [4, None, 4]),
        ("Granite", {"attention_multiplier": 0.3}, [None, None, None]),
        ("SmolLM3", {"no_rope_layers": [1, 0, 1], "pad_token_id": 0}, [None, None, None]),
    ],
)
def test_relatives_of_llama(tmp_path, kind, options, windows):
    model = write(tmp_path, kind, **LLAMA | {"head_dim": 6} | options)
    known = kind in ("Mistral", "Qwen2", "Gemma")
    config = {} if known else {"model_type": "llama"}  # as the error says
    layers = [load_attention(tmp_path, i, layout="llama", config=config) for i in range(3)]
    for layer, window in zip(layers, windows, strict=True):
        ones = torch.ones(16, 16, dtype=torch.float64).tril()
        assert torch.equal(layer.mask[0], ones if window is None else ones.triu(1 - window))
    agree(model, layers, lambda i: model.model.layers[i].self_attn)


@pytest.mark.parametrize("options", [{}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}])
def test_gpt2(tmp_path, options):
    model = write(tmp_path, "GPT2", n_head=4, n_layer=3, n_embd=24, vocab_size=11, n_positions=16, **options)
    layers = [load_attention(tmp_path, i, layout="gpt2") for i in range(3)]
    assert all(layer.rotation is None for layer in layers)
    agree(model, layers, lambda i: model.transformer.h[i].attn, 1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_a_block_of_llama_without_a_gate(tmp_path, bias):
    options = {"hidden_act": "linear", "attention_bias": bias, "mlp_bias": bias}
    model = write(tmp_path, "Llama", **LLAMA, **options)
    network = load_network(tmp_path, layout="llama", gate_removed=True)
    block = model.model.layers[1]
    attention, mlp, before, between = block.self_attn, block.mlp, block.input_layernorm, block.post_attention_layernorm
    seen = watched(model, [block, attention, mlp, before, between])
    (x, _), (h, (_, pattern)), (_, mlp_out) = seen[block], seen[attention], seen[mlp]
    layer = network[2].map

    # scores, from the module's own projections and rotary positions
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    cos, sin = model.model.rotary_emb(h, torch.arange(7)[None])
    with torch.no_grad():
        q, k = (side(h).unflatten(-1, (-1, 6)).transpose(1, 2) for side in (attention.q_proj, attention.k_proj))
        q, k = llama.apply_rotary_pos_emb(q, k, cos, sin)
        scores = attention.scaling * q @ llama.repeat_kv(k, 2).mT
    torch.testing.assert_close(layer.scores(h)[:, :4], scores, rtol=1e-5, atol=1e-5)

    # OV of every head; two heads share a value
    out, value = attention.o_proj.weight.detach().unflatten(1, (4, 6)), attention.v_proj.weight.detach()
    for head in range(4):
        expected = out[:, head] @ value.unflatten(0, (2, 6))[head // 2]
        ov = layer.ov(head).entries()[-24:, -24:]  # without constants
        torch.testing.assert_close(ov, expected, rtol=1e-5, atol=1e-5)

    # read-back at the module's own pattern and norm scalars
    def frozen(norm):
        scale = torch.rsqrt(seen[norm][0].square().mean(-1) + norm.variance_epsilon)
        return Norm(weight=norm.weight.detach(), scale=scale)

    own = torch.eye(7, dtype=torch.float64).expand(2, 1, 7, 7)  # that of the head which carries the bias
    given = layer.given(torch.cat([pattern, own], 1) if bias else pattern)
    parts = [Part(given, 1.0, frozen(before)), Part(network[3].map, 1.0, frozen(between))]
    u = normal(24, seed=5)
    found = read_back(SequenceNetwork(parts), 1, u).contributions(x).sum((-2, -1))
    torch.testing.assert_close(found, mlp_out @ u, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("Llama", {"tie_word_embeddings": True}), ("Qwen2", {}), ("Mistral", {"sliding_window": 3, "head_dim": 8})],
)
def test_networks_of_whole_llamas(tmp_path, kind, options):
    model = write(tmp_path, kind, **LLAMA, **options, hidden_act="linear")
    network = load_network(tmp_path, layout="llama", gate_removed=True, positions=7)
    embedded = load_tensor(tmp_path, "model.embed_tokens.weight")[TOKENS]
    with torch.no_grad():
        torch.testing.assert_close(network(embedded), model(TOKENS).logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="the layer has a gate"):
        load_network(tmp_path, layout="llama")


@pytest.mark.parametrize("d_hidden", [0, 10])
@pytest.mark.parametrize("norm", ["rms", "none"])
@pytest.mark.parametrize("attention", ["softmax", "bilinear"])
def test_the_published_layout(tmp_path, attention, norm, d_hidden):
    config = TransformerConfig(11, 12, d_hidden, 2, 3, 9, attention=attention, norm=norm)
    model = build_transformer(config, seed=0).double()
    save_transformer(model, tmp_path)
    x = normal(2, 9, 12)
    for i in range(2):
        layer, expected = load_attention(tmp_path, i), model.block(i).attention
        assert (len(layer.queries), layer.softmax) == ((1, True) if attention == "softmax" else (2, False))
        torch.testing.assert_close(layer(x), expected(x).detach(), rtol=1e-12, atol=1e-12)
        assert ("no norm" in layer.basis) == (norm == "none")
    network = load_network(tmp_path, positions=8)
    torch.testing.assert_close(network(model.embedding(TOKENS)), model(TOKENS), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [("transformer.", ""), ("transformer.", "module.transformer.")])
def test_what_stands_in_front_of_names_is_found(tmp_path, old, new):
    write(tmp_path, "GPT2", **LLAMA)
    x, file = normal(7, 24), tmp_path / "model.safetensors"
    expected = load_attention(tmp_path, 2, layout="gpt2")(x)
    tensors = {name.replace(old, new): tensor for name, tensor in load_file(file).items()}
    save_file(tensors | {"transformer.h.2.attn.bias".replace(old, new): torch.ones(1, 1, 16, 16)}, file)  # the mask
    assert torch.equal(load_attention(tmp_path, 2, layout="gpt2")(x), expected)


def test_published_weights_without_the_new_entries(tmp_path):
    tensors = published.make_tensors()
    published.write(tmp_path, tensors)
    expected = published.logits(tensors, TOKENS[0], lambda i, x: published.raw_mlp(tensors, i, x))
    found = load_network(tmp_path)(tensors["transformer.wte.weight"][TOKENS[0]])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


LENS = {"d_model": 12, "n_heads": 4, "d_head": 6, "n_ctx": 9, "n_layers": 2}
KINDS = {
    "learned positions": {"positional_embedding_type": "standard"},
    "rotary": {"positional_embedding_type": "rotary", "rotary_dim": 6, "rotary_base": 50, "n_key_value_heads": 2},
    "rotary of a part": {"positional_embedding_type": "rotary", "rotary_dim": 4, "rotary_adjacent_pairs": True},
    "a scale": {"positional_embedding_type": "standard", "attn_scale": 3.0, "scale_attn_by_inverse_layer_idx": True},
    "no scale": {"positional_embedding_type": "standard", "use_attn_scale": False, "attn_scale": -1},
    "a window": {
        "positional_embedding_type": "standard",
        "use_local_attn": True,
        "window_size": 2,
        "attn_types": ["global", "local"],
    },
}


def lens(folder, biases=True, **options):
    """Attention under the names of TransformerLens, in layers 0 and 1."""
    config = LENS | options
    shared = config.get("n_key_value_heads", 4)
    low = "_" if shared < 4 else ""  # as its grouped-query attention names them
    shapes = {"W_Q": (4, 12, 6), f"{low}W_K": (shared, 12, 6), f"{low}W_V": (shared, 12, 6), "W_O": (4, 6, 12)}
    if biases:
        shapes |= {"b_Q": (4, 6), f"{low}b_K": (shared, 6), f"{low}b_V": (shared, 6), "b_O": (12,)}
    names = [f"blocks.{i}.attn.{name}" for i in (0, 1) for name in shapes]
    tensors = {name: normal(*shapes[name.split(".")[-1]], seed=seed) for seed, name in enumerate(names)}
    folder.mkdir(exist_ok=True)
    mask = {f"blocks.{i}.attn.mask": torch.ones(9, 9) for i in (0, 1)}
    save_file(tensors | mask, folder / "model.safetensors")
    return {name.removeprefix("blocks.1.attn.").removeprefix("_"): w for name, w in tensors.items()}, config


def turn(x, config):
    """Rotary positions by complex numbers; x is (batch, position, head, size)."""
    if config["positional_embedding_type"] == "standard":
        return x
    n = config["rotary_dim"]
    adjacent = config.get("rotary_adjacent_pairs", False)
    first, second = (x[..., 0:n:2], x[..., 1:n:2]) if adjacent else (x[..., : n // 2], x[..., n // 2 : n])
    angle = torch.arange(9.0, dtype=torch.float64)[:, None] * config.get("rotary_base", 10000) ** (
        -2 * torch.arange(n // 2, dtype=torch.float64) / n
    )
    turned = torch.complex(first, second) * torch.exp(1j * angle)[:, None]
    parts = (turned.real, turned.imag)
    both = torch.stack(parts, -1).flatten(-2) if adjacent else torch.cat(parts, -1)
    return torch.cat([both, x[..., n:]], -1)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_transformer_lens(tmp_path, kind, biases):
    w, config = lens(tmp_path, biases, **KINDS[kind])
    layer, x = load_attention(tmp_path, 1, layout="transformer_lens", config=config), normal(2, 9, 12, seed=50)
    q, k, v = (torch.einsum("bsd,hde->bshe", x, w[f"W_{side}"]) + w.get(f"b_{side}", 0) for side in "QKV")
    k, v = (side.repeat_interleave(4 // side.shape[2], 2) for side in (turn(k, config), v))
    divisor = {"a scale": 6.0, "no scale": 1.0}.get(kind, math.sqrt(6))
    scores = torch.einsum("bshe,bthe->bhst", turn(q, config), k) / divisor
    seen = torch.ones(9, 9, dtype=torch.bool).tril()
    seen = seen.triu(-1) if kind == "a window" else seen
    mixed = torch.einsum("bhst,bthe->bshe", scores.masked_fill(~seen, -math.inf).softmax(-1), v)
    expected = torch.einsum("bshe,hed->bsd", mixed, w["W_O"]) + w.get("b_O", 0)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def spoiled(folder, layout, add=(), drop=(), **changes):
    """A small checkpoint in a layout, with more or fewer tensors in layer 0 and other entries in its config."""
    if layout == "transformer_lens":
        config = lens(folder, positional_embedding_type="standard")[1]
    else:
        config = write(folder, {"llama": "Llama", "gpt2": "GPT2"}[layout], **LLAMA).config.to_dict()
    config |= changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name not in drop}))
    file = folder / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if n not in drop} | {n: torch.ones(6) for n in add}, file)
    return folder


SELF = "model.layers.0.self_attn"


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        (
            "llama",
            {"add": [f"{SELF}.q_norm.weight"]},
            r"a norm of queries and keys \(.*q_norm.weight\), which has no place",
        ),
        ("llama", {"add": [f"{SELF}.q_norm.weight"], "model_type": "qwen3"}, "a norm of queries and keys"),
        ("llama", {"add": [f"{SELF}.sinks"], "model_type": "gpt_oss"}, "attention sinks"),
        ("llama", {"no_rope_layers": [1], "num_hidden_layers": 1}, None),
        ("llama", {"no_rope_layers": 4}, "no_rope_layers in config.json must be a list with an entry for layer 0"),
        ("llama", {"add": [f"{SELF}.kv_a_proj_with_mqa.weight"]}, "latent attention"),
        ("llama", {"kv_lora_rank": 4}, "kv_lora_rank=4 in config.json means latent attention"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0 in config.json means soft-capped"),
        ("llama", {"clip_qkv": 8.0}, "clipped queries and keys"),
        ("llama", {"model_type": "granite"}, "model_type='granite' in config.json is not one of llama, gemma"),
        ("llama", {"add": [f"{SELF}.gate.weight"]}, f"does not name: {SELF}.gate.weight"),
        ("llama", {"drop": [f"{SELF}.k_proj.weight"]}, f"no tensor {SELF}.k_proj.weight"),
        ("llama", {"num_key_value_heads": 3}, "key-value heads must divide heads, got 3 and 4"),
        (
            "llama",
            {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None},
            "heads must divide the width, got 5",
        ),
        (
            "llama",
            {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": None},
            "head_dim in config.json must be even, got 3",
        ),
        ("llama", {"head_dim": 8}, r"q_proj.weight' has shape \(24, 24\), the config says \(32, 24\)"),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_type in config.json must be one of default"),
        (
            "llama",
            {"rope_parameters": {"full_attention": {"rope_theta": 5.0}}},
            "by kind of layer, full_attention; pass those",
        ),
        ("llama", {"rope_parameters": [1]}, "the rotary positions in config.json must be a JSON object, got .1."),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor in config.json must be 1, got 0.5"),
        ("llama", {"rope_parameters": SCALED["yarn"] | {"mscale": 0.7}}, "mscale in config.json belongs to latent"),
        ("llama", {"num_hidden_layers": 0}, "index must be below 0, which is num_hidden_layers"),
        ("llama", {"drop": [f"{SELF}.{side}_proj.weight" for side in "qkvo"]}, "module .* is not there"),
        ("llama", {"add": ["vision.layers.0.self_attn.q_proj.weight"]}, "is there 2 times, as .*, vision.layers.0"),
        ("llama", {"model_type": "qwen2", "layer_types": ["linear"]}, "layer_types in config.json must be one of"),
        ("llama", {"max_position_embeddings": 10**6}, "positions=1000000 have 4.0e.12 entries"),
        ("llama", {"num_hidden_layers": "a"}, None),
        ("llama", {"drop": ["num_attention_heads"]}, "no num_attention_heads or n_heads or n_head in config.json"),
        ("gpt2", {"n_head": 5}, "heads must divide the width, got 5 and 24"),
        ("transformer_lens", {"attn_scores_soft_cap": 30.0}, "soft-capped scores"),
        ("transformer_lens", {"attn_scores_soft_cap": -1.0}, None),
        ("transformer_lens", {"use_qk_norm": True}, "a norm of queries and keys"),
        (
            "transformer_lens",
            {"positional_embedding_type": "alibi"},
            "positional_embedding_type in config.json must be",
        ),
        (
            "transformer_lens",
            {"positional_embedding_type": "rotary", "rotary_dim": 5},
            "rotary_dim in config.json must be even",
        ),
    ],
)
def test_what_no_layer_computes_is_refused_before_a_weight_is_read(tmp_path, layout, changes, message, monkeypatch):
    folder = spoiled(tmp_path, layout, **changes)
    if message is None:  # taken
        assert load_attention(folder, 0, layout=layout).positions in (9, 16)
        return
    monkeypatch.setattr("tensornet_interp.weights.files.WeightFiles.read", None)
    with pytest.raises(ValueError, match=message) as caught:
        load_attention(folder, 0, layout=layout)
    assert str(folder) in str(caught.value)


def test_another_layout_is_named(tmp_path):
    write(tmp_path, "Llama", **LLAMA)
    with pytest.raises(ValueError, match="of layout='published' is not there; the file has layout='llama'"):
        load_attention(tmp_path, 0)


def test_windows_of_a_config_without_types_of_layers(tmp_path):
    write(tmp_path, "Qwen2", **LLAMA)
    old = {"layer_types": None, "sliding_window": 3, "use_sliding_window": True, "max_window_layers": 2}
    full, window = (load_attention(tmp_path, i, layout="llama", config=old).mask[0] for i in (1, 2))
    assert torch.equal(window, full.triu(-2))
    assert not torch.equal(window, full)


def test_local_attention_needs_the_kinds_of_layers(tmp_path):
    _, config = lens(tmp_path, **KINDS["a window"] | {"attn_types": ["global"]})
    with pytest.raises(ValueError, match=r"attn_types in config\.json must be a list with an entry for layer 1"):
        load_attention(tmp_path, 1, layout="transformer_lens", config=config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "model_type in config.json must be one of llama, mistral, qwen2; got 'gemma'"),
        ({"num_hidden_layers": 10**9}, "config.json says 1000000000 layers, but the file has"),
        ({"drop": ["lm_head.weight"]}, "tensor of name 'lm_head.weight' is not in"),
        ({"drop": ["model.norm.weight"]}, "tensor of name 'model.norm.weight' is not in it"),
        ({"add": ["model.norm.bias"]}, "tensors that no part of the network reads: model.norm.bias"),
        ({"add": ["lm_head.bias"]}, "tensors that no part of the network reads: lm_head.bias"),
        ({"add": ["model.layers.1.post_feedforward_layernorm.weight"]}, "no part .* model.layers.1.post_feedforward"),
        ({"num_hidden_layers": 2}, "no part of the network reads: model.layers.2.input_layernorm.weight"),
        ({"residual_multiplier": 0.3}, "residual_multiplier=0.3 in config.json has no place in a network"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 in config.json has no place"),
        ({"add": ["model.layers.0.mlp.norm.weight"]}, "model.layers.0.mlp.norm.weight"),
    ],
)
def test_networks_that_cannot_be_loaded(tmp_path, changes, message):
    folder = spoiled(tmp_path, "llama", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_network(folder, layout="llama", gate_removed=True)
    assert str(folder) in str(caught.value)


def test_dynamic_angles_are_those_of_the_context_of_the_model(tmp_path):
    write(tmp_path, "Llama", **LLAMA, rope_parameters=SCALED["dynamic"])
    assert load_attention(tmp_path, 0, layout="llama", positions=16).positions == 16
    with pytest.raises(ValueError, match="the length above max_position_embeddings=16"):
        load_attention(tmp_path, 0, layout="llama", positions=17)


def test_a_config_completes_and_replaces_that_of_the_file(tmp_path):
    model = write(tmp_path, "GPT2", **LLAMA)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="there is no hidden_size"):
        load_attention(tmp_path, 0, layout="gpt2")
    config = model.config.to_dict()
    layer = load_attention(tmp_path, 0, layout="gpt2", config=config, positions=5)
    halved = load_attention(tmp_path, 0, layout="gpt2", config=config | {"scale_attn_weights": False}, positions=5)
    x = normal(5, 24)
    torch.testing.assert_close(halved.scores(x), layer.scores(x) * math.sqrt(6))
