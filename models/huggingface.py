"""Llama-type models of Hugging Face's `transformers`, called like this project's models: tokens to logits."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.storage import CONFIG, WEIGHTS, save_unit
from models.transformer import LanguageModel, TransformerConfig
from tensornet_interp.checks import check_int
from tensornet_interp.disk import read_json, replace_files
from tensornet_interp.optional import optional
from tensornet_interp.weights import WeightFiles

ACTIVATIONS = {"none": "linear", "relu": "relu", "silu": "silu", "gelu": "gelu"}  # our gate names -> theirs
SIZES = (  # keys of a config
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)
WHY = ("for Llama-type models", "huggingface")


class HuggingFaceModel(LanguageModel):
    """A `HuggingFaceModel` wraps a causal language model of `transformers`.

    logits = model(tokens).logits: (batch, position) -> (batch, position, vocabulary)

    `config` holds its sizes under this project's names, so `train_language` and `held_out_loss` accept it.
    Raises ValueError if the gate (hidden_act) is not in `ACTIVATIONS`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        theirs: Any = model.config
        gates = {name: gate for gate, name in ACTIVATIONS.items()} | {"swish": "silu", "identity": "none"}
        if theirs.hidden_act not in gates:
            raise ValueError(f"hidden_act must be one of {', '.join(sorted(gates))}; got {theirs.hidden_act!r}")
        self.config = TransformerConfig(
            vocabulary=theirs.vocab_size,
            d_model=theirs.hidden_size,
            d_hidden=theirs.intermediate_size,
            n_layers=theirs.num_hidden_layers,
            n_heads=theirs.num_attention_heads,
            context=theirs.max_position_embeddings,
            gate=gates[theirs.hidden_act],
            mlp_bias=bool(getattr(theirs, "mlp_bias", False)),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits: (batch, position) -> (batch, position, vocabulary)."""
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


def build_llama(config: TransformerConfig, seed: int, *, device: torch.device | str = "cpu") -> HuggingFaceModel:
    """Return a new Llama of these sizes, in float32, with weights drawn on the CPU from `seed`.

    The entries of the embedding and of linear maps are N(0, 1 / d_model). The global random streams stay as they are.
    Needs `transformers` (the extra "huggingface"). Raises ImportError, saying how to install it, if it is missing;
    ValueError for a negative seed, and for a config that no Llama has: bilinear attention, no norms, no MLPs, or MLPs
    with a linear part.
    """
    check_int("seed", seed, 0)
    if config.attention != "softmax" or config.norm != "rms" or not config.d_hidden or config.mlp_linear:
        raise ValueError(
            f"a Llama has softmax attention, RMS norms, and MLPs without a linear part, so none fits {config}"
        )
    transformers = optional("transformers", *WHY)
    theirs = transformers.LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.d_model,
        intermediate_size=config.d_hidden,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        max_position_embeddings=config.context,
        hidden_act=ACTIVATIONS[config.gate],
        mlp_bias=config.mlp_bias,
        initializer_range=config.d_model**-0.5,  # the library's 0.02 fits width 2,500
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = transformers.LlamaForCausalLM(theirs)
    return HuggingFaceModel(model).to(device)


def load_huggingface(folder: str | Path, *, device: torch.device | str = "cpu") -> HuggingFaceModel:
    """Return the model that `save_huggingface` (or `save_pretrained`) wrote to `folder`; nothing is downloaded.

    Raises FileNotFoundError for a missing folder or config; ValueError for a gate that is not in `ACTIVATIONS`, for
    sizes in the config that no tensor has, and for tensors that are missing, too many or of a wrong shape.
    """
    transformers = optional("transformers", *WHY)
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"folder {str(folder)!r} is missing")
    files = WeightFiles(Path(folder))
    info = files.config()
    largest = max((size for name in files.names for size in files.shape(name)), default=0)
    for name in SIZES:  # checked before memory is spent
        size, most = info.get(name), len(files.names) if name == "num_hidden_layers" else largest
        if isinstance(size, int) and size > most:
            raise ValueError(f"{folder} does not fit its config: {name} is {size}, its tensors have at most {most}")
    state = {name: files.read(name) for name in files.names}
    try:
        theirs = transformers.AutoConfig.for_model(**info)
        kind = transformers.AutoModelForCausalLM._model_mapping[type(theirs)]
        model, found = kind.from_pretrained(None, config=theirs, state_dict=state, output_loading_info=True)
    except Exception as error:  # the library has no family of errors for files
        raise ValueError(f"{folder} is no model that transformers can open: {error}") from error
    wrong = {name: sorted(map(str, keys)) for name, keys in found.items() if keys}
    if wrong:  # the library would continue with random weights
        raise ValueError(f"{folder} does not fit its config: {wrong}")
    return HuggingFaceModel(model).to(device)


def save_huggingface(model: HuggingFaceModel, folder: str | Path) -> None:
    """Write config.json and model.safetensors as `transformers` does, with the config also in the weights' metadata.

    `tensornet_interp.weights.load_layer(folder, i, layout="llama", gate_removed=True)` opens the layers of a model
    without gates. If the process is killed, the old model or the new one is complete on disk.
    Cost: memory and temporary files of the size of the weights.
    """
    inner: Any = model.model
    with tempfile.TemporaryDirectory() as temporary:
        inner.save_pretrained(temporary, max_shard_size="1000000GB")
        written = {path.name: path for path in Path(temporary).iterdir()}
        tensors, info = load_file(written.pop(WEIGHTS)), read_json(written.pop(CONFIG))
        more = [(Path(folder) / name, path.read_bytes()) for name, path in written.items()]
    save_unit(folder, tensors, info, {"format": "pt"})
    replace_files(more)
