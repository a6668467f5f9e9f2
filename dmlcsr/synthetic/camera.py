"""The simulated camera: light across the scene, blur, sensor noise and JPEG."""

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import Color, Image
from .texture import Field

Rng = np.random.Generator


@dataclass(frozen=True)
class Camera:
    """Parameters of one photograph.

    `blur` and `motion` are fractions of the picture's size. `noise` is a standard deviation in gray levels.
    """

    jpeg_quality: int
    first_quality: int
    """Quality of an earlier JPEG compression of the picture; 0: there was none."""
    blur: float
    motion: float
    motion_angle: float
    noise: float
    vignette: float
    falloff: tuple[float, float]
    """Change of brightness from the left to the right and from the top to the bottom edge."""
    contrast: float
    gain: float


def sample_camera(rng: Rng) -> Camera:
    """Draws a camera: 35 % are out of focus, 10 % move, 30 % of the pictures were compressed before."""
    return Camera(
        jpeg_quality=int(rng.integers(62, 97)),
        first_quality=int(rng.integers(28, 75)) * int(rng.random() < 0.3),
        blur=float(rng.uniform(0.0008, 0.004) if rng.random() < 0.35 else 0.0),
        motion=float(rng.uniform(0.006, 0.02) if rng.random() < 0.1 else 0.0),
        motion_angle=float(rng.uniform(0, np.pi)),
        noise=float(rng.gamma(1.6, 2.0)),
        vignette=float(rng.uniform(0, 0.35)),
        falloff=(float(rng.normal(0, 0.16)), float(rng.normal(0, 0.1))),
        contrast=float(np.clip(rng.normal(1.0, 0.1), 0.72, 1.25)),
        gain=float(np.clip(rng.normal(1.0, 0.1), 0.7, 1.25)),
    )


def photograph(image: Image, camera: Camera, tint: Color, rng: Rng) -> Image:
    """(S, S, 3) uint8 painted picture -> photographed picture.

    It draws numbers for every pixel from `rng`, so the caller must draw all other numbers before.
    """
    lit = np.asarray(cv2.multiply(image, _light_field(image.shape[0], camera, tint), dtype=cv2.CV_32F), np.float32)
    lit = _blurred(lit, camera)
    # The sum of three bytes is close to normal and four times faster to draw; its deviation is 128.
    grain = rng.integers(0, 256, (3, *image.shape[:2]), dtype=np.uint8).sum(axis=0, dtype=np.float32)
    grain -= np.float32(382.5)
    grain *= np.float32(camera.noise / 128)
    grain += np.float32(128 * (1 - camera.contrast))
    noisy = np.asarray(cv2.add(lit, cv2.merge([grain, grain, grain]), dtype=cv2.CV_8U), np.uint8)
    return _recompressed(noisy, camera.first_quality)


def encode_jpeg(image: Image, quality: int) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG bytes. Raises ValueError if OpenCV cannot encode the image."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"cannot encode an image of shape {image.shape} as JPEG")
    return data.tobytes()


def _light_field(size: int, camera: Camera, tint: Color) -> Field:
    """(S, S, 3) float32 factors: falloff across the scene, vignette, tint and gain."""
    axis = np.linspace(-1, 1, 24, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    field = 1 + camera.falloff[0] * x + camera.falloff[1] * y - 0.5 * camera.vignette * (x * x + y * y)
    field = np.clip(field, 0.25, 1.6) * camera.gain * camera.contrast
    small = field[..., None] * np.asarray(tint, np.float32)
    return np.asarray(cv2.resize(small.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def _blurred(image: Field, camera: Camera) -> Field:
    """The picture with defocus and motion blur, whose extents are fractions of the picture's size."""
    size = image.shape[0]
    if camera.blur * size > 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), camera.blur * size), np.float32)
    if (length := camera.motion * size) >= 1.5:
        n = int(np.ceil(length)) // 2 * 2 + 1
        kernel = np.zeros((n, n), np.float32)
        reach = 0.5 * (n - 1) * np.array([np.cos(camera.motion_angle), np.sin(camera.motion_angle)])
        start, end = (np.rint(0.5 * (n - 1) + s * reach).astype(int).tolist() for s in (-1, 1))
        cv2.line(kernel, start, end, 1.0)
        image = np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)
    return image


def _recompressed(image: Image, quality: int) -> Image:
    """The picture after one JPEG compression and decoding; quality 0 leaves it unchanged."""
    if not quality:
        return image
    data = np.frombuffer(encode_jpeg(image, quality), np.uint8)
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
