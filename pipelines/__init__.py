"""The method, distributed on Ray: a package per capability (docs/architecture.md, Rooms)."""

import os
import time

# A small file can claim any number of pixels; OpenCV reads this when it is loaded, in every process.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))
# A local cluster listens on loopback only. Ray reads this when it is imported and, its name notwithstanding, heeds it
# on Linux too; an explicit node address of 127.0.0.1 it would replace by the machine's outer one.
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Every cluster asks for a token, also one that a benchmark or a notebook starts. Ray reads this when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# On AMD's Zen 4 NumPy's AVX-512 sort, on which the Lovasz loss lives, takes five times as long as its AVX2 sort
# (131,072 int64: 5.1 against 1.0 ms). NumPy reads this when it is imported; processes of a local cluster inherit it.
os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4")

STARTED = time.time()
"""When this process' command began: before the large imports."""
