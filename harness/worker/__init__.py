"""The worker: one process for each TensorRT release and GPU, started by path with that environment's own Python.

It runs on Python 3.8 and later and imports nothing but the standard library, NumPy and TensorRT. What it shares with
the host is `protocol`. Inside the worker this package is called `harness_worker`; on the host it is `harness.worker`.
So modules in here import each other relatively, and nothing else of harness.
"""
