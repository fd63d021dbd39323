"""The models to interpret: architectures, their data and their training.

`models` imports `tensornet_interp`, and `tensornet_interp` never imports `models`. The wheel does not contain `models`.

- `bilinear`: `Bilinear`, `BilinearClassifier`, `ClassifierConfig`, `build_classifier`
- `logic_gates`: pairs of boolean operations, the paper's toy task
- `toy_language`: `ToyLanguage`, a language with planted patterns, of which every probability is known
- `data`: `Dataset`, `load_dataset` (digits, mnist, fashion_mnist)
- `augment`: `perturbation` (translation, blur, dropout, ... in training, by name and strength)
- `attacks`: `PGD`, the samples of adversarial training
- `training`: `train`, `TrainingConfig`, `History`, `accuracy`
- `transformer`: `Transformer`, `TransformerConfig`, `build_transformer` (a decoder whose MLPs are `Bilinear`)
- `text`: `read_stories`, `train_tokenizer`, `encode` (in memory), `encode_to_file` (on disk)
- `language`: `train_language`, `LanguageConfig`, `held_out_loss`, `generate`
- `windows`: `Windows`, the pieces of a text that a training takes, in order
- `processes`: `joined`, training on several processes that `torchrun` starts
- `published`: `save_transformer`, `load_transformer` (the published layout)
- `annealing`: `anneal`, `schedule`, `remove_gates` (turn a gated model into a bilinear one by fine-tuning)
- `linearizing`: `linearized_mlps`, `put_layers` (the best bilinear layer in the place of every gated MLP)
- `huggingface`: `build_llama`, `load_huggingface`, `save_huggingface` (Llama-type models in the same training loop)
- `vectors`: `vectors_at`, `VectorBuffer` (the vectors that pass at a transformer's hook points)
- `sae`: `train_autoencoder`, `autoencoder_at` (TopK autoencoders)
- `quality`: `evaluate` (reconstruction error and loss recovered of a dictionary on held-out text)
- `contexts`: `strongest`, `contexts`, `as_text`, `as_html` (max-activating examples)
- `storage`: `save_model`, `load_model` (safetensors and JSON, never a pickle)
- `tables`: `write_table`, `read_table` (CSV), `summarise` (means over seeds with intervals), `plus_minus` (as text)
"""

from models.bilinear import Bilinear, BilinearClassifier, ClassifierConfig, build_classifier
from models.data import Dataset, load_dataset
from models.logic_gates import LogicGate, LogicGateConfig, LogicGateModel, train_logic_gates, truth_table
from models.storage import load_info, load_model, save_model
from models.tables import write_table
from models.training import History, TrainingConfig, accuracy, train

__all__ = [
    "Bilinear",
    "BilinearClassifier",
    "ClassifierConfig",
    "Dataset",
    "History",
    "LogicGate",
    "LogicGateConfig",
    "LogicGateModel",
    "TrainingConfig",
    "accuracy",
    "build_classifier",
    "load_dataset",
    "load_info",
    "load_model",
    "save_model",
    "train",
    "train_logic_gates",
    "truth_table",
    "write_table",
]
