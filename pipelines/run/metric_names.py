"""Names under which results are stored, where more than one module reads them."""

from typing import Final

VAL_MEAN_F1: Final = "val_mean_f1"
"""Mean F1 on the validation split, 0..1: by it epochs, ensembles and trials are compared."""
