"""The method, distributed on Ray, with one package for each capability (docs/architecture.md, Rooms)."""

import os
import time

from pipelines.run import ray_settings

# The header of a small file can declare any number of pixels. OpenCV reads this limit when a process loads it.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))
# Ray reads both settings when it is imported.
if ray_settings.ADDRESS not in os.environ:
    ray_settings.LOOPBACK_ONLY.set_default()
ray_settings.AUTHENTICATION.set_default()
# On Zen 4, NumPy's AVX-512 sort is five times slower than its AVX2 sort (5.1 against 1.0 ms for 131,072 int64), and
# sorting dominates the Lovasz loss. NumPy reads this when it is imported; processes of a local cluster inherit it.
os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4")

STARTED = time.time()
"""Unix time at which this process imported `pipelines`: the start of its command, before the slow imports."""
