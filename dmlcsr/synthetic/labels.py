"""Class ids of CELEBAMASK_HQ by name. l_ and r_ are the viewer's left and right."""

from ..taxonomy import CELEBAMASK_HQ

_IDS = {name: i for i, name in enumerate(CELEBAMASK_HQ.classes)}

BACKGROUND = _IDS["background"]
SKIN = _IDS["skin"]
NOSE = _IDS["nose"]
GLASSES = _IDS["eye_g"]
L_EYE, R_EYE = _IDS["l_eye"], _IDS["r_eye"]
L_BROW, R_BROW = _IDS["l_brow"], _IDS["r_brow"]
L_EAR, R_EAR = _IDS["l_ear"], _IDS["r_ear"]
MOUTH = _IDS["mouth"]
UPPER_LIP, LOWER_LIP = _IDS["u_lip"], _IDS["l_lip"]
HAIR = _IDS["hair"]
HAT = _IDS["hat"]
EARRING = _IDS["ear_r"]
NECKLACE = _IDS["neck_l"]
NECK = _IDS["neck"]
CLOTH = _IDS["cloth"]
