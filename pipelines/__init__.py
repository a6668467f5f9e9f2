"""The method, distributed on Ray: one module per command, and what they share."""

import os

# A small file can claim any number of pixels; OpenCV reads this when it is loaded, in every process.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))
