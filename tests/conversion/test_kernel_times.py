"""Times of kernels: the real adapter in a real worker, on the double of TensorRT with a GPU and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.conversion import check
from harness.conversion.timing import timed
from harness.worker.protocol import TENSORRT_RTX, Kernel, KernelList


@pytest.fixture
def model(doubled_environments, chain) -> Path:
    """A product and a square root beside environments with and without a GPU."""
    doubled_environments(
        {
            "gpu": ["RELEASE=1.6.1.120"],
            "none": ["RELEASE=1.6.1.120", "GPU=none"],
            "old": ["RELEASE=8.6.0"],
        }
    )
    return chain("Sqrt")


@pytest.mark.parametrize("environment", ["gpu", "old"])
def test_with_a_gpu_each_kernel_has_its_time(model: Path, environment: str) -> None:
    (result,) = check(model, precision="fp16", environments=environment, times=True).results[0].environments
    assert result.report.kernels is not None
    assert result.times is not None
    assert (result.times.inference_ms, result.not_timed) == (1.5, "")
    assert result.times.kernel_ms == (0.25,) * len(result.report.kernels.kernels)
    assert result.times.other_ms == 0
    assert result.report.kernels.source == "inspector"  # of the engine that was run


def test_nothing_is_timed_that_was_not_asked_for(model: Path) -> None:
    (result,) = check(model, precision="fp16", environments="gpu").results[0].environments
    assert (result.times, result.not_timed) == (None, "")


def test_without_a_gpu_it_says_why_there_are_no_times(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = model.with_suffix(".json")
    assert main(["check", str(model), "--env", "none", "--list-kernels", "--json", str(kept)]) == 0
    assert "Not timed: there is no GPU" in capsys.readouterr().out
    (result,) = json.loads(kept.read_text())["results"]
    assert (result["environments"][0]["times"], result["environments"][0]["not_timed"]) == (
        None,
        "there is no GPU",
    )


def test_times_are_shown_on_the_console_and_drawn_on_the_page(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = model.with_suffix(".html")
    assert main(["check", str(model), "--env", "gpu", "--list-kernels", "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "An inference takes 1.500 ms on" in shown
    assert "its kernels, timed one by one, " in shown
    assert "0.2500 ms (" in shown
    assert '"ms":0.25' in page.read_text()


def test_kernels_of_one_name_share_its_time_and_unknown_names_are_kept_apart() -> None:
    kernels = tuple(Kernel(name, "kgen") for name in ("a", "b", "a", "c"))
    listed = KernelList(TENSORRT_RTX, "1.6.1.120", "inspector", kernels)
    times = timed(listed, {"a": 0.5, "b": 0.125, "reformat": 0.25}, "H200", None)
    assert times.kernel_ms == (0.25, 0.125, 0.25, None)
    assert (times.all_kernels_ms, times.other_ms) == (0.625, 0.25)
