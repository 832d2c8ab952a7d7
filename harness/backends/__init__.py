"""What computes tensors: the FP32 reference, the emulator, and TensorRT engines; one protocol for the last two."""

from harness.backends.plan import Candidate, Evaluation, Observation, ObservedEngine, Plan

__all__ = ["Candidate", "Evaluation", "Observation", "ObservedEngine", "Plan"]
