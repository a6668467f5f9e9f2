"""What a label map itself says about how good it is."""

import numpy as np
import numpy.typing as npt

from dmlcsr.taxonomy import Taxonomy


def looks_mirrored(label: npt.NDArray[np.uint8], taxonomy: Taxonomy) -> bool:
    """Whether the left/right ids of a (H, W) uint8 label map are on the wrong sides.

    True where more pairs have their viewer-left part to the right of its partner than to its left. Pairs of which
    one part is hidden say nothing; a face that is upside down looks mirrored too.
    """
    votes = 0
    for left, right in taxonomy.sides:
        columns = [np.flatnonzero(label == part) % label.shape[1] for part in (left, right)]
        if all(len(found) for found in columns):
            votes += 1 if columns[0].mean() > columns[1].mean() else -1
    return votes > 0
