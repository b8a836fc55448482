"""Multiply-accumulates (MACs) of a model for one view, counted on the meta device: no weights, no arithmetic.

`torch.utils.flop_counter` knows what matrix products and convolutions cost; this module adds what makes the number
comparable and safe: fvcore's rule for norms, kept apart from matrix work; attention run as plain matrix products, so
that no fused operator hides any; and an error, never a silent zero, for an operator whose cost nobody stated.

Conventions: one multiply-add is one MAC, so FLOPs are twice the MACs; biases, softmax, activations and pooling without
weights count nothing; a layer norm counts 5 operations per element and a batch norm in eval mode 2 (fvcore's rule).
"""

from dualformer.macs.counts import MacCount, TrainingMacs, closed_form, count_macs, count_training_macs
from dualformer.macs.operators import FREE, MACS, UncountedOperatorError

__all__ = [
    "FREE",
    "MACS",
    "MacCount",
    "TrainingMacs",
    "UncountedOperatorError",
    "closed_form",
    "count_macs",
    "count_training_macs",
]
