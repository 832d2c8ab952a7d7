import numpy as np
import pytest

from harness.comparison import find_fill

LOGITS = np.random.default_rng(0).standard_normal((4, 100)).astype(np.float32)


def masked(value: float, share: float = 0.5, logits: np.ndarray = LOGITS) -> np.ndarray:
    found = logits.copy()
    found[:, : int(share * logits.shape[1])] = value
    return found


@pytest.mark.parametrize("value", [-1e4, -6e4, -1e9, float(np.finfo(np.float32).min), 1e6])
def test_what_a_mask_writes_is_a_fill(value: float) -> None:
    found = find_fill(masked(value))
    assert found is not None
    assert np.array_equal(found, masked(value) == value)


def test_a_mask_that_is_added_leaves_its_sums_alike() -> None:
    found = find_fill(LOGITS + np.where(np.arange(100) < 30, np.float32(-1e4), np.float32(0)))
    assert found is not None
    assert (found.sum(), found[:, :30].all()) == (120, True)


@pytest.mark.parametrize(
    "tensor",
    [
        LOGITS,
        masked(-1e4, share=0.0),
        masked(-10.0),  # not so large that it hides the others
        masked(1.0, logits=LOGITS * np.float32(1e-6)),  # a saturated probability was computed
        np.where(np.arange(400).reshape(4, 100) == 7, np.float32(-1e4), LOGITS),  # one outlier
        np.where(np.arange(100) < 50, LOGITS * np.float32(1e4), LOGITS),  # large, but not alike
        np.where(np.arange(100) < 50, np.float32(1e4) * np.sign(LOGITS), LOGITS),  # of either sign
        masked(-1e4, logits=np.zeros_like(LOGITS)),  # nothing is hidden
        np.full((4, 100), -1e4, np.float32),
        np.zeros((4, 100), np.float32),
        np.zeros((0, 4), np.float32),
        np.arange(400) * 1000,
    ],
    ids=str,
)
def test_what_is_no_fill(tensor: np.ndarray) -> None:
    assert find_fill(tensor) is None


def test_infinities_are_neither_fill_nor_hidden() -> None:
    tensor = masked(-1e4)
    tensor[:, -1] = -np.inf
    found = find_fill(tensor)
    assert found is not None
    assert (found.sum(), found[:, -1].any()) == (200, False)
    assert find_fill(masked(-np.inf)) is None


def test_a_large_tensor_is_searched_as_a_whole_where_a_sample_of_it_has_a_fill() -> None:
    large = np.random.default_rng(1).standard_normal((1000, 200)).astype(np.float32)
    assert find_fill(large) is None
    found = find_fill(masked(-1e4, 0.02, large))
    assert found is not None
    assert found.sum() == 4000
    assert find_fill(masked(-1e4, 0.005, large)) is None
