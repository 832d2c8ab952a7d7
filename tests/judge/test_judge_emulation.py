"""What the emulator assumes of engines: by option, case file and harness.toml."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.case import Case, ModelSource, RunSpec, load_case
from harness.compiler import probe_of
from harness.environments import select, shared_supervisor
from harness.errors import EnvironmentConfigError
from harness.judge import Emulation, JudgeOptions, Verdict, run
from harness.model import stands_in
from harness.tensors import Accumulate, Precision

CASES = Path(__file__).parents[2] / "cases"
PYTHON = os.environ.get("HARNESS_RTX_PYTHON")
BUILDER = "benchmarks.wide_mlp:wide_mlp"


def long_product(accumulate: Accumulate = Accumulate.AUTO) -> Case:
    model = ModelSource(builder=BUILDER, args={"blocks": 1, "width": 64, "inner": 2048, "rows": 16})
    return Case(name="long", model=model, runs=(RunSpec(precision=Precision.FP16),), accumulate=accumulate)


def judged(case: Case, **options: object) -> tuple[float, Emulation]:
    (result,) = run(case, options=JudgeOptions(layers=False, **options)).results
    assert result.worst is not None
    return result.worst.metrics.nrmse, result.emulation


def test_products_are_added_up_in_fp32_unless_somebody_says_else() -> None:
    plain, assumed = judged(long_product())
    assert assumed == Emulation()
    by_option, assumed = judged(long_product(), accumulate=Accumulate.FP16)
    by_case, _ = judged(long_product(Accumulate.FP16))
    assert str(assumed) == "FP16 sums"
    assert by_option == by_case > 1.3 * plain
    assert judged(long_product(Accumulate.FP16), accumulate=Accumulate.FP32)[0] == plain


def test_kernels_are_those_of_an_environment_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "harness.toml"
    config.write_text('[emulator]\nkernels = "rtx"\n\n[environments.rtx-1]\npython = "/nowhere/python"\n')
    monkeypatch.setenv("HARNESS_CONFIG", str(config))
    with pytest.raises(EnvironmentConfigError, match="no environment is called 'rtx'"):
        run(long_product())
    assert judged(long_product(), kernels="none")[1] == Emulation()


@pytest.mark.skipif(PYTHON is None, reason="HARNESS_RTX_PYTHON names no TensorRT for RTX")
def test_attention_overflow_fails_without_kernels_and_passes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harness.toml").write_text(
        f'[emulator]\nkernels = "rtx"\n\n[environments.rtx]\npython = "{PYTHON}"\n'
    )
    monkeypatch.setenv("HARNESS_CONFIG", str(tmp_path / "harness.toml"))
    case = load_case(CASES / "attention-overflow.case.yaml")
    (assumed,) = run(case, precisions="fp16").results
    probe = probe_of(environment := select("rtx"), shared_supervisor(environment))
    stands_for = stands_in(probe.product, probe.tensorrt)
    said = "kernels of rtx, FP16 sums" + (f" as on {stands_for}" if stands_for else "")
    assert (assumed.verdict, str(assumed.emulation)) == (Verdict.PASS, said)
    (plain,) = run(case, precisions="fp16", options=JudgeOptions(kernels="none")).results
    assert plain.verdict is Verdict.XFAIL
