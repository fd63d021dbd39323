# %% [markdown]
# # The first hour
#
# A bilinear layer `y = down((left x) * (right x))` is a quadratic function of its input, so its weights alone say what
# it computes. This notebook trains two small models, reads their layers, decomposes them and draws the result. It runs
# in a checkout with the extras `examples` and `notebook`, in under a minute.

# %%
import torch
from sklearn.datasets import load_wine

from models import ClassifierConfig, TrainingConfig, build_classifier, load_dataset, train
from tensornet_interp import BilinearLayer, decompose, lift, plan, relative_error
from tensornet_interp.plots import components, eigenvectors, explanation, spectrum

# %% [markdown]
# ## A classifier of images
#
# `network` gives the model as a stack of bilinear layers, exactly. Embedding and head are absorbed, so the inputs are
# pixels and the outputs are logits.

# %%
digits = load_dataset("digits")
model = build_classifier(ClassifierConfig(inputs=64, width=32, hidden=32), seed=0)
train(model, digits, TrainingConfig(epochs=20, lr=0.01, batch_size=128, noise=0.3), progress=False)
network = model.network(basis="input")
layer = network[0]
layer  # the layer knows that its inputs are images, and which classes it has

# %% [markdown]
# Every class has a symmetric interaction matrix. Its eigenvectors are images, and an image x adds
# `eigenvalue * (v . x)^2` to the class.

# %%
result = decompose(layer, "eigen")
result

# %%
eigenvectors(result)

# %%
spectrum(result, 3)

# %% [markdown]
# ## How few components are enough?

# %%
for rank in (1, 2, 4, 8, 16):
    small = result.truncate(rank)
    agree = (small(digits.test_x).argmax(-1) == network(digits.test_x).argmax(-1)).float().mean()
    print(f"{rank:>2} eigenvectors per class: relative error {relative_error(small, layer):.3f}, agreement {agree:.3f}")

# %% [markdown]
# ## Why this decision?

# %%
explanation(result, digits.test_x[0], label=int(digits.test_y[0]))

# %% [markdown]
# ## A model of your own, with names
#
# Weights have the layout of `torch.nn.Linear`, biases go through `lift`, and `with_names` says what the inputs and
# outputs are. Here the inputs are 13 measurements of a wine, and the figures show bars instead of images.

# %%
wine = load_wine()
x = torch.tensor(wine.data, dtype=torch.float32)
x = (x - x.mean(0)) / x.std(0)
y = torch.tensor(wine.target)
torch.manual_seed(0)
left, right, down = torch.nn.Linear(13, 8), torch.nn.Linear(13, 8), torch.nn.Linear(8, 3)
optimizer = torch.optim.AdamW([*left.parameters(), *right.parameters(), *down.parameters()], lr=0.01, weight_decay=0.1)
for _ in range(200):
    loss = torch.nn.functional.cross_entropy(down(left(x) * right(x)), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"cross-entropy {loss.item():.4f}")

# %%
for linear in (left, right, down):
    linear.requires_grad_(False)
wines = BilinearLayer.from_weights(left=left.weight, right=right.weight, down=down.weight, name="wine")
wines = lift(wines, left_bias=left.bias, right_bias=right.bias, bias=down.bias).drop_constant()
wines = wines.with_names(input_names=wine.feature_names, output_names=wine.target_names.tolist())
torch.testing.assert_close(wines(x), down(left(x) * right(x)), rtol=1e-4, atol=1e-4)
wines

# %%
eigenvectors(decompose(wines, "eigen"), count=1)

# %%
fit = decompose(wines, "cp", rank=2)
components(fit)

# %% [markdown]
# ## What does a contraction cost?
#
# A layer, a stack and a decomposition are tensor networks. `plan` says what a contraction costs before anything is
# computed.

# %%
plan(network)
