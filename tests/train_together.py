"""One of the processes that test_language_processes.py starts: trains a small model, and prints what it is asked for.

torchrun --nproc-per-node 2 tests/train_together.py FOLDER '{"steps": 50, ...}'
"""

import json
import os
import sys

import torch

from models import processes
from models.language import LanguageConfig, train_language
from models.transformer import TransformerConfig, build_transformer

SMALL = TransformerConfig(vocabulary=11, d_model=8, d_hidden=12, n_layers=2, n_heads=2, context=6, gate="silu")


def train(folder, dtype="float64", seed=0, stop=None, **config):
    """The losses at every step, and of held-out text; `stop` is a step that ends the process."""

    def callback(step, model):
        if step == stop:
            sys.exit("stopped here")

    tokens = torch.randint(11, (400,), generator=torch.Generator().manual_seed(seed))
    model = build_transformer(SMALL, 0).to(getattr(torch, dtype))
    config = LanguageConfig(**{"batch_size": 8, "lr": 1e-2, "warmup": 5} | config)
    options = {"held_out": tokens[:50], "callback": callback, "every": 1, "progress": False}
    history = train_language(model, tokens, config, folder, **options)
    return [[record["loss"], record["held_out_loss"]] for record in history.records]


if __name__ == "__main__":
    folder, options = sys.argv[1], json.loads(sys.argv[2])
    own = options.pop(f"process {os.environ['RANK']}", {})
    options = {name: value for name, value in options.items() if not name.startswith("process")} | own
    with processes.joined("cpu"):
        print(json.dumps(train(folder or None, **options)))
