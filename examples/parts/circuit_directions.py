"""Output directions of an MLP: those that all features share, and sets of features that make up the whole tensor."""

import math
from typing import Any

import torch
from torch import Tensor

from examples.parts.circuit_job import Job
from examples.parts.circuit_tables import Names
from tensornet_interp import decompose
from tensornet_interp.features import label_directions

Row = dict[str, Any]
REASSEMBLY = (
    "the tensor from the eigenpairs of output features, by the pseudoinverse: relative errors with all eigenpairs, a "
    "quarter and a sixteenth of them; mean |cosine| of leading eigenvectors of two features, and of random directions; "
    "largest |cosine| of two eigenvectors of one feature"
)


def directions(job: Job, blocks: int = 6) -> list[Row]:
    """Find the leading output directions that all features share, with their nearest tokens and output features."""
    result = decompose(job.layer, "output_svd", blocks=min(blocks, job.layer.shape[0]), rank=1)
    found, head = result.outputs.T, job.model.head.weight.detach()
    outputs, names = job.dictionary(job.config().steps, "mlp-out"), Names.read(job.out, "mlp-out")
    pieces = [job.piece(token) for token in range(len(head))]
    labels = [names.label(feature) for feature in range(outputs.features)]
    rows = []
    for block, (tokens, features) in enumerate(
        zip(label_directions(found, head, pieces, 5), label_directions(found, outputs.encoder, labels, 3), strict=True)
    ):
        text = ["; ".join(f"{label.name!r} {label.cosine:+.2f}" for label in part) for part in (tokens, features)]
        rows.append({"block": block, "tokens": text[0], "features": text[1]})
    return rows


def reassembly(job: Job) -> list[Row]:
    """Put the tensor together again from the eigenpairs of output features, by the pseudoinverse (appendix K).

    The features are all of the dictionary, random ones as many as there are outputs, and half as many. "within" is the
    largest |cosine| of two eigenvectors of one feature, "between" the mean |cosine| of the leading eigenvectors of two
    features, and "random" its expectation for random directions.
    """
    outputs = job.dictionary(job.config().steps, "mlp-out")
    n_out, n_in, _ = job.layer.shape
    order = torch.randperm(outputs.features, generator=torch.Generator().manual_seed(job.options.seed))
    rows = []
    for count in (max(2, n_out // 2), n_out, outputs.features):
        chosen = outputs.encoder[order[:count].to(outputs.encoder.device)]
        whole = decompose(job.layer, "eigen", directions=chosen)
        row: Row = {"features": count, "outputs": n_out, "eigenpairs": whole.rank, "error": whole.relative_error}
        for name, share in (("quarter", 4), ("sixteenth", 16)):  # of the eigenpairs
            part = decompose(job.layer, "eigen", directions=chosen, rank=max(1, whole.rank // share))
            row[f"error_{name}"] = part.relative_error
        vectors = whole.eigenvectors.double()  # (feature, in, eigenpair)
        row |= {"within": largest_cosine(vectors), "between": mean_cosine(vectors[:, :, 0])}
        half = math.lgamma(n_in / 2) - math.lgamma((n_in + 1) / 2)
        rows.append(row | {"random": math.exp(half) / math.sqrt(math.pi)})
    return rows


def largest_cosine(vectors: Tensor) -> float:
    """Return the largest |cosine| of two unit columns of one of the matrices (matrix, size, column)."""
    grams = vectors.mT @ vectors
    return float((grams - torch.diag_embed(grams.diagonal(dim1=1, dim2=2))).abs().max())


def mean_cosine(vectors: Tensor) -> float:
    """Return the mean |cosine| of two of the unit vectors (vector, size)."""
    gram = (vectors @ vectors.T).abs()
    return float((gram.sum() - gram.trace()) / (gram.numel() - len(gram)))
