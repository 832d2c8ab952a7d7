"""Sparse initializers, which nothing else here knows, as the dense tensors that ONNX Runtime makes of them."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from harness.errors import ModelError
from harness.model.analysis import all_graphs

MOST_BYTES = 1 << 31
"""Of a tensor that a few numbers in the file stand for: what a protobuf can hold."""


def with_dense_tensors(proto: onnx.ModelProto, where: Path | str) -> onnx.ModelProto:
    """`proto`, or a copy of it in which each sparse initializer is an ordinary one.

    Raises:
        ModelError: the places or the number of its values do not fit its shape, or it is over 2 GB.
    """
    if not any(graph.sparse_initializer for graph in all_graphs(proto.graph)):
        return proto
    made = copy.deepcopy(proto)
    folder = where.parent if isinstance(where, Path) else Path()
    for graph in all_graphs(made.graph):
        for sparse in graph.sparse_initializer:
            try:
                graph.initializer.append(_dense(sparse, folder))
            except (ValueError, IndexError, TypeError) as error:
                raise ModelError(
                    f"the sparse tensor {sparse.values.name!r} is malformed: {error}", where=where
                ) from error
        del graph.sparse_initializer[:]
    return made


def _dense(sparse: onnx.SparseTensorProto, folder: Path) -> onnx.TensorProto:
    """The tensor; its places are flat indices [count], or one index an axis [count, rank]."""
    values = numpy_helper.to_array(sparse.values, str(folder))
    places = numpy_helper.to_array(sparse.indices, str(folder))
    shape = tuple(sparse.dims)
    if min(shape, default=0) < 0 or math.prod(shape) * values.itemsize > MOST_BYTES:
        raise ValueError(f"its shape is {list(shape)}")
    dense = np.zeros(shape, values.dtype)
    if places.ndim == 2:
        places = np.ravel_multi_index(tuple(places.T), shape)
    if places.shape != values.shape or (places.size and not 0 <= places.min() <= places.max() < dense.size):
        raise ValueError(f"{values.size} values at places of shape {list(places.shape)}")
    dense.reshape(-1)[places] = values
    tensor = numpy_helper.from_array(dense, sparse.values.name)
    tensor.data_type = sparse.values.data_type
    return tensor
