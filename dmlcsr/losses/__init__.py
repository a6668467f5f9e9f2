"""The loss of DML-CSR, from logits to one differentiable scalar (docs/method.md, section 4)."""

from dmlcsr.losses.dml_loss import (
    PAPER_WEIGHTS,
    DistillationTargets,
    LossTerms,
    LossWeights,
    binary_weights,
    category_weights,
    dml_loss,
)

__all__ = [
    "PAPER_WEIGHTS",
    "DistillationTargets",
    "LossTerms",
    "LossWeights",
    "binary_weights",
    "category_weights",
    "dml_loss",
]
