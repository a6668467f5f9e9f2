"""Keys of stored results that more than one module reads."""

from typing import Final

VAL_MEAN_F1: Final = "val_mean_f1"
"""Mean F1 on the validation split, 0..1. Epochs, ensembles and trials are compared by it."""
