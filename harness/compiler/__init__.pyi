from .cache import ReportCache as ReportCache
from .compilation import compile_model as compile_model
from .compilation import kernels_of as kernels_of
from .compilation import node_hints as node_hints
