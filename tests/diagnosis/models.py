"""Small models for the tests of the diagnosis, and their inputs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from harness.case import load_case, resolve_model
from harness.model import Model, load_model

ROOT = Path(__file__).parents[2]


def case_path(name: str) -> Path:
    return ROOT / "cases" / f"{name}.case.yaml"


@cache
def rmsnorm(blocks: int = 3, scale: float = 1.0, scaled_block: int = 1) -> Model:
    """A pre-norm MLP: 11 nodes a block; a scale of 600 makes the squares of one block overflow FP16."""
    case = load_case(case_path("rmsnorm-mlp"))
    source = case.model.model_copy(
        update={
            "args": {"seed": 0, "blocks": blocks, "width": 32, "scale": scale, "scaled_block": scaled_block}
        }
    )
    return load_model(resolve_model(case.model_copy(update={"model": source})), name="rmsnorm")


def feeds(model: Model, samples: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [
        {
            info.name: rng.standard_normal([int(size or 1) for size in info.shape or ()]).astype(np.float32)
            for info in model.inputs
        }
        for _ in range(samples)
    ]


ISLAND = ("b1_sq", "b1_mean", "b1_addeps", "b1_sqrt")
