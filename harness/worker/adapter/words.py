"""What TensorRT says where it gives no code: the one module of the adapter that reads its errors."""

import re
from typing import Iterable, Tuple

#: An error without a word on what was wrong: TensorRT for RTX ends each failed build with it where there is no GPU.
_WORDLESS = re.compile(r"\[checkMacros\.cpp::catchCudaError")
_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|could not be allocated|cudaErrorMemoryAllocation|bad_alloc",
    re.IGNORECASE,
)
_NO_IMPLEMENTATION = re.compile(
    r"could not find any implementation|no supported formats|no implementation", re.IGNORECASE
)
#: A call of the CUDA runtime that failed: TensorRT for RTX 1.4 to 1.6 ask the GPU at hand when they quantize to INT8.
_CUDA_RUNTIME = re.compile(r"Error Code 1: Cuda Runtime \(In (?!catchCudaError)")


def telling(errors: Iterable[str]) -> Tuple[str, ...]:
    """Those that say what was wrong; all, if none does."""
    every = tuple(errors)
    return tuple(error for error in every if not _WORDLESS.search(error)) or every


def out_of_memory(errors: Iterable[str]) -> bool:
    """Whether one says that memory ran out."""
    return any(map(_OUT_OF_MEMORY.search, errors))


def lacks_implementation(errors: Iterable[str]) -> bool:
    """Whether one says that no implementation was found, which asking for less may cure."""
    return any(map(_NO_IMPLEMENTATION.search, errors))


def lacks_gpu(error: str) -> bool:
    """Whether it says that the CUDA runtime failed."""
    return _CUDA_RUNTIME.search(error) is not None
