"""What a face is: the drawn parameters, as plain frozen dataclasses.

Lengths are in the head frame: the origin between the eyes' height and the face's middle, the chin at v = 1, the top
of the skull at v = -1, u to the viewer's right. `Pose` places that frame in the picture.
"""

from dataclasses import dataclass

from .canvas import Color


@dataclass(frozen=True)
class Pose:
    """Angles in radians. Yaw > 0 turns to the viewer's right, pitch > 0 looks down, roll > 0 is clockwise."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    """Head-frame unit (half the head's height) as a share of the picture's size."""
    center: tuple[float, float]


@dataclass(frozen=True)
class Eyes:
    """Distance of an eye from the middle, half its width, slant, where it looks; `makeup` 0..1."""

    gap: float
    width: float
    openness: tuple[float, float]
    """Of the viewer's left and right eye: 1 is relaxed, 0.15 nearly closed."""
    tilt: float
    iris: Color
    gaze: tuple[float, float]
    makeup: float


@dataclass(frozen=True)
class Brows:
    """`height` is the v of a flat brow, `arch` how far it rises, `tilt` > 0 raises the outer ends."""

    height: float
    thickness: float
    arch: float
    tilt: float
    color: Color


@dataclass(frozen=True)
class Mouth:
    """`height` is the v of the lips' meeting line, `upper` and `lower` the lips' thickness, `smile` -0.5..1."""

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
    """Colour and surface; `blush`, `freckles`, `age` and `gloss` are strengths within 0..1."""

    color: Color
    blush: float
    freckles: float
    age: float
    gloss: float
    beard: str
    """"none", "stubble", "full", "goatee" or "moustache"; drawn as texture, labelled skin."""
    beard_color: Color


@dataclass(frozen=True)
class Light:
    """One lamp and its surroundings. `direction` points to the lamp: right, down, towards the viewer."""

    direction: tuple[float, float, float]
    ambient: float
    tint: Color
    """Factor per channel of the whole picture."""


@dataclass(frozen=True)
class Hair:
    """`volume` is how far hair stands out from the skull, `length` the v it reaches down to."""

    style: str
    """"bald", "buzz", "short", "medium", "long", "bun" or "curly"."""
    color: Color
    volume: float
    length: float
    hairline: float
    """v of the hairline's middle."""
    parting: float
    fringe: str
    """"none", "full" or "side"."""
    strands: int
    waviness: float


@dataclass(frozen=True)
class Wear:
    """Accessories and clothes; an empty string is "not worn"."""

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
    """Everything about one person in one picture."""

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
