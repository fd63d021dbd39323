"""Dictionaries as SAELens writes them, with what it computes of them, in `sae_lens/`.

    python tests/make_sae_files.py  # write the files again, with sae-lens 6.54.12, circuit-tracer 0.5.0, torch 2.13.0
    python tests/make_sae_files.py --old  # write the files of an earlier version, with sae-lens 3.22.2 or 5.11.0
    python tests/make_sae_files.py --check  # compare objects of the installed versions with `Dictionary.from_sae`

The tests read the files and do not need either package. `expected.safetensors` has the inputs "x" and, per folder, the
codes and the reconstruction of the library: "{folder}/codes", "{folder}/output"; so has
`expected-3.safetensors` of what version 3 computes.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HOME = Path(__file__).with_name("sae_lens")
D, D_OUT, FEATURES = 6, 4, 10
PLACES = {"hook_name": "blocks.3.hook_mlp_out", "model_name": "a model", "prepend_bos": True}
BOTH = {"hook_name": "blocks.3.ln2.hook_normalized", "hook_name_out": "blocks.3.hook_mlp_out"}
X = torch.randn(8, D, generator=torch.Generator().manual_seed(0))


def drawn(module: Any, seed: int) -> Any:
    """Draw all weights anew, also those that start at zero; norms of decoder rows differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(module.named_parameters()):
            size = {"W_enc": 0.6, "W_dec": 0.6, "W_skip": 0.5, "threshold": 0.5}.get(name, 0.3)
            value.copy_(size * torch.randn(value.shape, generator=generator))
            if name == "threshold" and "Training" in type(module).__name__:
                value.abs_()  # as training keeps them
        for name, value in module.named_buffers():
            if name == "topk_threshold":
                value.fill_(0.4)
    return module.eval()


def objects() -> dict[str, Callable[[], Any]]:
    """Return how each object is made, by the name of its folder."""
    from sae_lens import saes
    from sae_lens.saes.sae import SAEMetadata

    def make(name: str, seed: int = 1, places: Any = PLACES, **options: Any) -> Callable[[], Any]:
        kind, config = getattr(saes, name), getattr(saes, f"{name}Config")

        def made() -> Any:
            given = {"d_in": D, "d_sae": FEATURES, "metadata": SAEMetadata(**places)} | options
            return drawn(kind(config(**given)), seed)

        return made

    def after(step: Callable[[Any], object], made: Callable[[], Any]) -> Callable[[], Any]:
        def changed() -> Any:
            step(sae := made())
            return sae

        return changed

    mixing = torch.eye(D) + 0.3 * torch.randn(D, D, generator=torch.Generator().manual_seed(5))
    mean = torch.randn(D, generator=torch.Generator().manual_seed(6))

    def whiten(sae: Any) -> None:
        sae.fold_activation_whitening(mean, mixing, torch.linalg.inv(mixing))

    def scale(sae: Any) -> None:
        sae.fold_activation_norm_scaling_factor(1.7)

    writes = {"d_out": D_OUT, "apply_b_dec_to_input": False, "places": BOTH}
    return {
        "standard": make("StandardSAE"),
        "standard-not-centered": make("StandardSAE", apply_b_dec_to_input=False),
        "standard-bfloat16": make("StandardSAE", dtype="bfloat16"),
        "standard-heads": make(
            "StandardSAE", reshape_activations="hook_z", places={"hook_name": "blocks.3.attn.hook_z"}
        ),
        "standard-scale-folded": after(scale, make("StandardSAE", normalize_activations="expected_average_only_in")),
        "standard-whitening-folded": after(whiten, make("StandardSAE", normalize_activations="covariance_whitening")),
        "topk": make("TopKSAE", k=3),
        "topk-rescaled": make("TopKSAE", k=3, rescale_acts_by_decoder_norm=True),
        "topk-rescaled-not-centered": make(
            "TopKSAE", k=2, rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=False
        ),
        "topk-trained": make("TopKTrainingSAE", k=3),
        "jumprelu": make("JumpReLUSAE"),
        "jumprelu-not-centered": make("JumpReLUSAE", apply_b_dec_to_input=False),
        "jumprelu-trained-bfloat16": make("JumpReLUTrainingSAE", dtype="bfloat16"),
        "batchtopk": make("BatchTopKTrainingSAE", k=2.5),
        "batchtopk-not-rescaled": make("BatchTopKTrainingSAE", k=2.5, rescale_acts_by_decoder_norm=False),
        "matryoshka": make("MatryoshkaBatchTopKTrainingSAE", k=2.5, matryoshka_widths=[4, FEATURES]),
        "gated": make("GatedSAE"),
        "gated-not-centered": make("GatedSAE", apply_b_dec_to_input=False),
        "gated-scale-folded": after(scale, make("GatedSAE", normalize_activations="expected_average_only_in")),
        "transcoder": make("Transcoder", **writes),
        "skip-transcoder": make("SkipTranscoder", **writes),
        "jumprelu-transcoder": make("JumpReLUTranscoder", **writes),
        "jumprelu-skip-transcoder": make("JumpReLUSkipTranscoder", **writes),
        "transcoder-of-one-size": make("Transcoder", **(writes | {"d_out": D})),
        "refused-abstopk": make("AbsTopKSAE", k=3),
        "refused-temporal": make(
            "TemporalSAE",
            n_heads=2,
            bottleneck_factor=5,
            sae_diff_type="topk",
            kval_topk=3,
            normalize_activations="none",
        ),
        "refused-matching-pursuit": make("MatchingPursuitSAE"),
        "refused-layer-norm": make("StandardSAE", normalize_activations="layer_norm"),
        "refused-norm": make("TopKSAE", k=3, normalize_activations="constant_norm_rescale"),
        "refused-scale": make("StandardSAE", normalize_activations="expected_average_only_in"),
        "refused-whitening": make("StandardSAE", normalize_activations="covariance_whitening"),
    }


def computed(sae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes and the reconstruction of X, as 2 heads for an autoencoder of heads."""
    x = X.to(sae.dtype)
    x = x.reshape(len(X), 2, -1) if sae.cfg.reshape_activations == "hook_z" else x
    with torch.no_grad():
        return sae.encode(x).float(), sae(x).float().flatten(1)


def saved(sae: Any, folder: Path) -> Any:
    """Save an object; return what the library loads from there, which computes in float32."""
    from sae_lens import SAE

    getattr(sae, "save_inference_model", sae.save_model)(folder)
    return SAE.load_from_disk(folder, dtype="float32")


def gemma_scope(folder: Path) -> Any:
    """Write params.npz; return what the library makes of it, which takes the sizes from names on the hub."""
    from sae_lens import saes
    from sae_lens.loading import pretrained_sae_loaders as loaders

    generator = torch.Generator().manual_seed(7)
    shapes = {"W_enc": (D, FEATURES), "W_dec": (FEATURES, D), "b_enc": (FEATURES,), "b_dec": (D,)}
    arrays = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    arrays["threshold"] = 0.5 * torch.rand(FEATURES, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{name: array.numpy() for name, array in arrays.items()})
    loaders.hf_hub_download = lambda **_: str(folder / "params.npz")
    sizes = {"d_in": D, "d_sae": FEATURES}
    kind = next(part for part in folder.parts if part.startswith("gemma-scope"))
    place = "/".join(folder.parts[-3:])
    load = loaders.gemma_2_transcoder_huggingface_loader if "trans" in kind else loaders.gemma_2_sae_huggingface_loader
    config, state, _ = load(
        f"google/{kind}", place, "cpu", cfg_overrides=sizes | ({"d_out": D} if "trans" in kind else {})
    )
    kind, config_kind = saes.sae.get_sae_class(config["architecture"])
    made = kind(config_kind.from_dict(saes.sae.handle_config_defaulting(config)))
    made.load_state_dict(state)
    return made


def cross_layer(folder: Path, activation: str) -> dict[str, torch.Tensor]:
    """Write a cross-layer transcoder of three layers; return inputs, codes and outputs, each (layer, token, ...)."""
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt

    made = CrossLayerTranscoder(3, FEATURES, D, activation, lazy_decoder=False, device=torch.device("cpu"))
    made = made.to(torch.float32)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(0.4 * torch.randn(value.shape, generator=generator))
    made.to_safetensors(str(folder))
    (folder / "config.yaml").write_text(
        'model_kind: cross_layer_transcoder\nfeature_input_hook: "hook_resid_mid"\nfeature_output_hook: hook_mlp_out\n'
    )
    made = load_clt(str(folder), device=torch.device("cpu"), dtype=torch.float32, lazy_decoder=False)
    x = torch.stack([X, X.flip(0), X.roll(1, 1)])
    with torch.no_grad():
        return {"x": x, "codes": made.encode(x), "output": made(x)}


def write(home: Path) -> None:
    expected = {"x": X}
    for name, make in objects().items():
        if name.startswith("refused"):
            make().save_model(home / name)
            continue
        loaded = saved(make(), home / name)
        expected[f"{name}/codes"], expected[f"{name}/output"] = computed(loaded)
    make = objects()["batchtopk"]
    make().save_model(home / "refused-checkpoint")
    for kind in ("res", "transcoders"):
        name = f"gemma-scope-2b-pt-{kind}/layer_20/width_16k/average_l0_71"
        expected[f"{name}/codes"], expected[f"{name}/output"] = computed(gemma_scope(home / name))
    for activation in ("relu", "jump_relu"):
        found = cross_layer(home / f"cross-layer-{activation}", activation)
        expected |= {f"cross-layer-{activation}/{key}": value.contiguous() for key, value in found.items()}
    save_file({name: value.contiguous() for name, value in expected.items()}, home / "expected.safetensors")


def write_old(home: Path) -> None:
    from sae_lens import __version__
    from sae_lens.sae import SAE, SAEConfig

    major = __version__.partition(".")[0]
    given = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": FEATURES,
        "activation_fn_str": "relu",
        "apply_b_dec_to_input": True,
    }
    given |= {
        "finetuning_scaling_factor": False,
        "context_size": 9,
        "model_name": "a model",
        "hook_layer": 3,
        "prepend_bos": True,
    }
    given |= {"hook_name": "blocks.3.hook_mlp_out", "hook_head_index": None, "dataset_path": "", "device": "cpu"}
    given |= {"dataset_trust_remote_code": True, "normalize_activations": "none", "dtype": "torch.float32"}
    given |= {"sae_lens_training_version": __version__, "activation_fn_kwargs": {}}
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    kinds = {
        "standard": {},
        "finetuned": {"finetuning_scaling_factor": True, "apply_b_dec_to_input": False},
        "gated": {"architecture": "gated"},
        "jumprelu": {"architecture": "jumprelu", "apply_b_dec_to_input": False},
        "topk": topk if major == "3" else topk | {"architecture": "topk"},
    }
    expected = {"x": X}
    for name, options in kinds.items():
        sae = drawn(SAE(SAEConfig(**(given | options))), 1)
        folder = f"version-{major}-{name}"
        sae.save_model(str(home / folder))
        with torch.no_grad():
            codes = sae.encode(X)
            expected |= {f"{folder}/codes": codes, f"{folder}/output": sae.decode(codes)}
    save_file({name: value.contiguous() for name, value in expected.items()}, home / f"expected-{major}.safetensors")


def check() -> None:
    """Compare with `Dictionary.from_sae` of objects in memory, and with what the library loads from fresh files."""
    from tensornet_interp.features import Dictionary
    from tensornet_interp.weights import load_dictionary

    for name, make in objects().items():
        sae = make()
        try:
            found = Dictionary.from_sae(sae)
        except ValueError as error:
            print(f"{name}: refused, {error}")
            if not name.startswith(("refused", "batchtopk", "matryoshka")):
                raise
        else:
            compare(name + ", in memory", found, sae)
        if not name.startswith("refused"):
            with tempfile.TemporaryDirectory() as folder:
                loaded = saved(sae, Path(folder) / "sae")
                compare(name, load_dictionary(Path(folder) / "sae", dtype=torch.float32), loaded)


def compare(name: str, found: Any, sae: Any) -> None:
    codes, output = computed(sae)
    x = X.to(found.encoder.dtype)
    gaps = [
        float((ours.float() - theirs).abs().max())
        for ours, theirs in ((found.encode(x), codes), (found.reconstruct(x), output))
    ]
    print(f"{name}: codes {gaps[0]:.1e}, reconstruction {gaps[1]:.1e}, active {float((codes != 0).float().mean()):.0%}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--old", action="store_true")
    options = parser.parse_args()
    if options.check:
        check()
    elif options.old:
        write_old(HOME)
    else:
        write(HOME)
        print(json.dumps({file.parent.name: len(load_file(file)) for file in HOME.rglob("sae_weights.safetensors")}))
    sys.exit()
