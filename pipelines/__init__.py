"""The method, distributed on Ray: a package per capability (docs/architecture.md, Rooms)."""

import os
import time

from pipelines.run import ray_settings

# A small file can claim any number of pixels; OpenCV reads this when it is loaded, in every process.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))
# Ray reads these two when it is imported.
if ray_settings.ADDRESS not in os.environ:
    ray_settings.LOOPBACK_ONLY.set_default()
ray_settings.AUTHENTICATION.set_default()
# On AMD's Zen 4 NumPy's AVX-512 sort, on which the Lovasz loss lives, takes five times as long as its AVX2 sort
# (131,072 int64: 5.1 against 1.0 ms). NumPy reads this when it is imported; processes of a local cluster inherit it.
os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4")

STARTED = time.time()
"""When this process' command began: before the large imports."""
