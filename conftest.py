"""Runs before any test: each xdist worker gets a GPU of its own, which CUDA asks for only once."""

import os

from harness.pytest_plugin import pin_gpu

pin_gpu(os.environ)
