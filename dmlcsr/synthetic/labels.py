"""Class ids of CELEBAMASK_HQ by name."""

from ..taxonomy import CELEBAMASK_HQ

_IDS = {name: i for i, name in enumerate(CELEBAMASK_HQ.classes)}

BACKGROUND = _IDS["background"]
SKIN = _IDS["skin"]
NOSE = _IDS["nose"]
GLASSES = _IDS["eye_g"]
MOUTH = _IDS["mouth"]
UPPER_LIP, LOWER_LIP = _IDS["u_lip"], _IDS["l_lip"]
HAIR = _IDS["hair"]
HAT = _IDS["hat"]
EARRING = _IDS["ear_r"]
NECKLACE = _IDS["neck_l"]
NECK = _IDS["neck"]
CLOTH = _IDS["cloth"]


def _by_side(part: str) -> dict[int, int]:
    """The ids of a pair by side: -1 is the viewer's left, +1 the viewer's right."""
    ids = (_IDS[f"l_{part}"], _IDS[f"r_{part}"])
    left, right = next(pair for pair in CELEBAMASK_HQ.sides if set(pair) == set(ids))
    return {-1: left, 1: right}


EYES, BROWS, EARS = _by_side("eye"), _by_side("brow"), _by_side("ear")
