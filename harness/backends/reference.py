"""The reference: ONNX Runtime on the CPU, FP32, every tensor kept if asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.backends.session import GraphRunner
from harness.model import Model, lower
from harness.tensors import Precision


class Reference:
    """FP32 evaluation of a model. Sessions are kept by the tensors they return.

    Args:
        model: the model.
        own: whether the roundings that the model brings itself (its own float16 and bfloat16 tensors, its Q/DQ pairs)
            are kept, as they are in what candidates are held against. Without them the model must have some.
    """

    name = "reference"

    def __init__(self, model: Model, *, own: bool = True) -> None:
        self.model = model
        self.own = own
        self._runners: dict[tuple[str, ...], GraphRunner] = {}
        self._weights: dict[str, np.ndarray] = {}

    def run(
        self, feeds: Mapping[str, np.ndarray], tensors: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """`tensors` (by default the model's outputs) by name, in the model's dtypes; bfloat16 comes as float32.

        Raises:
            ModelError: ONNX Runtime does not accept the model, or a node failed.
            InputDataError: the feeds do not fit.
        """
        wanted = tuple(tensors) if tensors is not None else tuple(info.name for info in self.model.outputs)
        if wanted not in self._runners:
            graph = lower(self.model, Precision.FP32, wanted, own=self.own)
            self._runners[wanted] = GraphRunner(self.model, graph, Precision.FP32, self._weights)
        return self._runners[wanted].run(feeds)

    def close(self) -> None:
        """Free the sessions."""
        self._runners.clear()
        self._weights.clear()
