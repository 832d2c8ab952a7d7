"""What was built: layers and kernels as the inspector and the log name them, and whether they are as asked for."""

from .inspector import layers_of, members_of, parse_inspector
from .kernels import KernelLog, Unreadable, kernels_of_inspector, list_kernels
from .realised import check_realised

__all__ = [
    "KernelLog",
    "Unreadable",
    "check_realised",
    "kernels_of_inspector",
    "layers_of",
    "list_kernels",
    "members_of",
    "parse_inspector",
]
