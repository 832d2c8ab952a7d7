"""Checks of environments, and what the doctor says of a machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.environments import DoctorFinding, Environment, Status, check_all, examine
from harness.environments.doctor import check_environment

MISBEHAVING = Path(__file__).parents[1] / "worker" / "misbehaving.py"


def test_a_check_describes_the_environment(environment: Environment) -> None:
    check = check_environment(environment, adapter=MISBEHAVING)
    assert check.passed
    document = check.to_dict()
    assert document["tensorrt"] == "8.6.0"
    assert document["capabilities"] == ["fp16", "weak"]
    assert document["name"] == "fake-8.6"


def test_checks_of_several_environments_come_in_order_with_their_evidence(environment: Environment) -> None:
    broken = replace(environment, name="broken", command=("/bin/sh", "-c", "echo no libnvinfer; exit 1"))
    no_gpu = replace(environment, name="no-gpu", gpu=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        first, second, third = check_all([broken, environment, no_gpu], adapter=MISBEHAVING)
    assert (first.passed, second.passed, third.passed) == (False, True, False)
    assert "no libnvinfer" in first.evidence
    assert "lets only 1 be seen" in third.problems[0]


def test_an_interrupt_ends_the_checks_that_are_waiting(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISBEHAVE", "sleep in probe")
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(check_all([environment, replace(environment, name="other")], adapter=MISBEHAVING))
    assert time.monotonic() - began < environment.limits.start / 2


def findings(**options: bool) -> dict[str, DoctorFinding]:
    return {finding.area: finding for finding in examine(**options)}


def test_the_doctor_needs_nothing_but_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = findings()
    assert {name: finding.status for name, finding in found.items()} == {
        "python": Status.OK,
        "onnxruntime": Status.OK,
        "gpu": Status.WARNING,
        "scratch": Status.OK,
        "cache": Status.OK,
        "harness.toml": Status.OK,
    }
    assert "the emulator, which is the default, needs no GPU" in found["gpu"].message
    assert all(finding.advice for finding in found.values() if finding.status is not Status.OK)


def test_the_doctor_reads_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.159.03, 142771, 143771'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert findings()["gpu"] == DoctorFinding(
        "gpu", Status.OK, "GPU 0: NVIDIA H200, 139.4 GiB of 140.4 GiB free, driver 580.159.03"
    )
    smi.write_text('#!/bin/sh\necho "couldn\'t communicate with the NVIDIA driver"; exit 9\n')
    assert "couldn't communicate" in findings()["gpu"].message
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert findings()["gpu"].advice == "unset CUDA_VISIBLE_DEVICES"


def test_the_doctor_tries_the_environments() -> None:
    Path("harness.toml").write_text("[environments.none]\npython = '/nowhere/python'\n")
    found = findings()
    assert found["harness.toml"].message.endswith("environments: none")
    assert found["environment none"].status is Status.BROKEN
    assert "environment none" not in findings(probe=False)
    Path("harness.toml").write_text("[environments.none]\npyton = '/nowhere/python'\n")
    assert findings()["harness.toml"].status is Status.BROKEN
