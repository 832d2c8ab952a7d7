"""The worker as a program: on old and new Pythons, with nothing of the host's in its way."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import harness.worker
from harness.environments import Environment
from harness.environments.command import start_command, start_variables
from harness.environments.process import WorkerProcess
from harness.worker import preload, protocol

FOLDER = Path(harness.worker.__file__).parent
MISBEHAVING = Path(__file__).parent / "misbehaving.py"
ALLOWED = {"numpy", "tensorrt"}


def pythons() -> list[str]:
    """Interpreters from 3.8 on that have NumPy: $HARNESS_TEST_PYTHONS, and what is on PATH."""
    named = os.environ.get("HARNESS_TEST_PYTHONS", "").split(os.pathsep)
    found = [shutil.which(f"python3.{minor}") or "" for minor in range(8, 15)]
    return [python for python in dict.fromkeys([sys.executable, *named, *found]) if python]


@pytest.mark.parametrize(
    "path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.relative_to(FOLDER).as_posix()
)
def test_every_module_is_python_3_8_and_imports_nothing_else(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names | ALLOWED, f"line {node.lineno} imports {name}"


@pytest.mark.parametrize("python", pythons())
def test_the_worker_runs_on_this_python(python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode:
        pytest.skip(f"{python} has no NumPy")
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path))
    worker = WorkerProcess(Environment("other", (python,)), adapter=MISBEHAVING)
    try:
        assert worker.hello.pid == worker._started._process.pid
        probe = worker.request(protocol.Probe(), 20)
        assert probe.tensorrt == "8.6.0"
        reply = worker.request(protocol.BuildRequest("/m.onnx", "fp16"), 20)
        assert reply.engine_id == "engine-0"
    finally:
        worker.close()


def test_nothing_of_the_host_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tmp_path / "looks_around.py"
    adapter.write_text(
        textwrap.dedent(
            """
            import importlib.util, sys
            from harness_worker import protocol

            def create_adapter(log):
                return LooksAround()

            class LooksAround:
                def probe(self, request):
                    names = ["onnx", "polygraphy", "harness", "errors", "case", "messages", "server", "numpy"]
                    found = [name for name in names if importlib.util.find_spec(name)]
                    return protocol.ProbeReply("1", capabilities=tuple(found))

                def close(self):
                    pass
            """
        )
    )
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent.parent))
    site = next((bare / "lib").iterdir()) / "site-packages"
    import numpy

    for package in Path(numpy.__file__).parent.parent.glob("numpy*"):
        (site / package.name).symlink_to(package)

    worker = WorkerProcess(Environment("bare", (str(bare / "bin" / "python"),)), adapter=adapter)
    try:
        reply = worker.request(protocol.Probe(), 20)
    finally:
        worker.close()
    assert reply.capabilities == ("numpy",)


def test_a_container_command_is_filled_in(tmp_path: Path) -> None:
    command = (
        "docker",
        "run",
        "-v",
        "{scratch}:{scratch}",
        "-v",
        "{worker}:{worker}:ro",
        "--gpus",
        "device={gpu}",
        "python3",
    )
    environment = Environment("box", command, gpu=2)
    folder = tmp_path / "w1"
    found = start_command(environment.launch, folder, folder / "socket", MISBEHAVING)
    assert found[:8] == [
        *(
            "docker",
            "run",
            "-v",
            f"{tmp_path}:{tmp_path}",
            "-v",
            f"{FOLDER}:{FOLDER}:ro",
            "--gpus",
            "device=2",
        ),
    ]
    assert found[8:12] == ["python3", str(FOLDER / "main.py"), "--connect", str(folder / "socket")]


def test_variables_of_the_hosts_python_do_not_reach_the_worker() -> None:
    caller = {"PYTHONPATH": "/host", "VIRTUAL_ENV": "/venv", "PYTHONHOME": "/home", "PATH": "/bin", "A": "1"}
    environment = Environment("e", ("python3",), gpu=1, variables=(("A", "2"), ("PYTHONPATH", "/mine")))
    assert start_variables(environment.launch, caller) == {
        "PATH": "/bin",
        "A": "2",
        "PYTHONPATH": "/mine",
        "PYTHONUNBUFFERED": "1",
        "CUDA_MODULE_LOADING": "LAZY",
        "CUDA_VISIBLE_DEVICES": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def test_the_worker_says_how_it_is_started() -> None:
    done = subprocess.run([sys.executable, str(FOLDER / "main.py")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--connect" in done.stderr


def library(folder: Path, name: str, *needs: Path) -> Path:
    """A shared library that only loads after `needs`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    source = folder / "source.c"
    needed = [need.name.split(".")[0] for need in needs]
    uses = "".join(f"int {other}(void); int (*use_{other})(void) = {other};" for other in needed)
    source.write_text(f"int {name.split('.')[0]}(void) {{ return 1; }} {uses}")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    source.unlink()
    return path


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_cuda_libraries_of_pip_are_loaded_before_those_that_need_them(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    runtime = library(site / "nvidia" / "cuda_runtime" / "lib", "libcudart.so.12")
    nvrtc = library(site / "nvidia" / "cuda_nvrtc" / "lib", "libnvrtc.so.12")
    # Not in the order of the list: cuBLASLt is loaded before cuBLAS, here it needs it.
    cublas = library(site / "nvidia" / "cu13" / "lib", "libcublas.so.13", runtime)
    lt = library(site / "nvidia" / "cu13" / "lib", "libcublasLt.so.13", cublas)
    library(site / "nvidia" / "nccl" / "lib", "libnccl.so.2")  # nothing that TensorRT opens
    broken = site / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not a library")

    assert set(preload.candidates([str(site)])) == {
        str(path) for path in (runtime, nvrtc, cublas, lt, broken)
    }
    script = textwrap.dedent(
        f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("preload", {str(FOLDER / "preload.py")!r})
        preload = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(preload)
        found = preload.preload([{str(site)!r}])
        print(*found.loaded, sep="\\n")
        print("failed", *[path for path, reason in found.failed if reason])
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *loaded, failed = done.stdout.splitlines()
    assert set(loaded) == {str(path) for path in (runtime, nvrtc, cublas, lt)}
    assert loaded.index(str(cublas)) < loaded.index(str(lt))
    assert failed == f"failed {broken}"
