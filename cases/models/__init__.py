"""Seeded builders of the bundled cases' models.

Each returns an onnx.ModelProto that depends on its arguments alone: opset 17 or older (what TensorRT 8.5 reads; a case
of a newer one requires a release that reads it), IR version 9 or older, every node named, every tensor named after
the node that writes it. A model with a planted fault has a clean twin: the same graph, in which one constant is
harmless.
"""

from .borrowed import resnet50, whisper_encoder
from .convolutional import conv_residual, densenet, dynamic_batch, grid_sample, unet
from .mlp import residual_growth, rmsnorm_mlp
from .quantised import quantised_conv
from .recurrent import branches, lstm, refinement_loop
from .transformer import attention_encoder

__all__ = [
    "attention_encoder",
    "branches",
    "conv_residual",
    "densenet",
    "dynamic_batch",
    "grid_sample",
    "lstm",
    "quantised_conv",
    "refinement_loop",
    "residual_growth",
    "resnet50",
    "rmsnorm_mlp",
    "unet",
    "whisper_encoder",
]
