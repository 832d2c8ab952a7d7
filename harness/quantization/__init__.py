"""Quantised models: calibrate them, place Q/DQ pairs, say which pair hurts and why, and give it a better scale.

A Q/DQ model runs in one session in which each pair is switched and each scale is fed (`SwitchedModel`); ranking,
repair, mixed models and calibration all ask that session.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
