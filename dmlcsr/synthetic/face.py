"""The parameters of a face, as frozen dataclasses.

Lengths are in the head frame (u, v): u points to the viewer's right; the top of the skull is at v = -1, the chin at
v = 1, and the origin lies in the middle of the face. `Pose` places that frame in the picture.
"""

from dataclasses import dataclass

from .canvas import Color


@dataclass(frozen=True)
class Pose:
    """Angles of the head in radians, and its position and size in the picture.

    Yaw > 0 turns to the viewer's right, pitch > 0 looks down, roll > 0 is clockwise.
    """

    yaw: float
    pitch: float
    roll: float
    scale: float
    """Half the height of the head, as a fraction of the picture's size."""
    center: tuple[float, float]
    """Position of the head frame's origin in unit image coordinates."""


@dataclass(frozen=True)
class Eyes:
    """The two eyes."""

    gap: float
    """Distance of an eye's center from the middle of the face."""
    width: float
    """Half the width of an eye."""
    openness: tuple[float, float]
    """Opening of the viewer's left and right eye: 1 is relaxed, 0.15 is nearly closed."""
    tilt: float
    """Slant of the eyes; above 0 the outer corners are higher."""
    iris: Color
    gaze: tuple[float, float]
    """Direction of the gaze (right, down), each within -1..1."""
    makeup: float
    """Strength of the makeup, 0..1."""


@dataclass(frozen=True)
class Brows:
    """The eyebrows: `height` is the v of a flat brow, `arch` its rise; `tilt` > 0 raises the outer ends."""

    height: float
    thickness: float
    arch: float
    tilt: float
    color: Color


@dataclass(frozen=True)
class Mouth:
    """The mouth: `height` is the v of the line between the lips, `upper` and `lower` are the lips' thicknesses.

    `smile` is within -0.5..1, `teeth`, the brightness of the teeth, within 0..1.
    """

    width: float
    height: float
    upper: float
    lower: float
    opening: float
    """Height of the mouth's interior, 0 for closed lips."""
    smile: float
    teeth: float
    color: Color


@dataclass(frozen=True)
class Skin:
    """Color and surface of the skin; `blush`, `freckles`, `age` and `gloss` are strengths within 0..1."""

    color: Color
    blush: float
    freckles: float
    age: float
    gloss: float
    beard: str
    """"none", "stubble", "full", "goatee" or "moustache". It is drawn as texture and labelled skin."""
    beard_color: Color


@dataclass(frozen=True)
class Light:
    """One lamp and ambient light. `direction` points to the lamp, as (right, down, towards the viewer)."""

    direction: tuple[float, float, float]
    ambient: float
    tint: Color
    """Factor on each channel of the whole picture."""


@dataclass(frozen=True)
class Hair:
    """The hair: `volume` is its distance from the skull, `length` the v that it reaches down to."""

    style: str
    """"bald", "buzz", "short", "medium", "long", "bun" or "curly"."""
    color: Color
    volume: float
    length: float
    hairline: float
    """The v of the middle of the hairline."""
    parting: float
    fringe: str
    """"none", "full" or "side"."""
    strands: int
    waviness: float


@dataclass(frozen=True)
class Wear:
    """Accessories and clothes; an empty string means that the accessory is not worn."""

    glasses: str
    glasses_color: Color
    glasses_shape: float
    hat: str
    hat_color: Color
    earrings: str
    necklace: str
    jewel: Color
    collar: str
    cloth: str
    cloth_colors: tuple[Color, Color]


@dataclass(frozen=True)
class Face:
    """All parameters of one person in one picture."""

    pose: Pose
    half_width: float
    jaw: float
    chin: float
    nose_width: float
    nose_length: float
    ear_size: float
    eyes: Eyes
    brows: Brows
    mouth: Mouth
    skin: Skin
    light: Light
    hair: Hair
    wear: Wear
