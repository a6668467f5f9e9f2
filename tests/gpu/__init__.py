"""Checks and timings on a real GPU: `make test-gpu`. They need torch, cv2, pyarrow and safetensors, but no Ray."""
