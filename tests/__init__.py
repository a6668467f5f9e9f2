"""The tests; their rooms mirror those of the code."""

import os

# Ray reads both when it is imported.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only; see pipelines/__init__.py
