"""Where a case's model comes from: a file, a download, a builder function, or a PyTorch export."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from harness.case.exporting import TraceWarning, blame_export, export_module, trace_warnings
from harness.case.functions import UserFunction, call_apart
from harness.case.schema import Case
from harness.errors import ChecksumError, HarnessError, MissingDependencyError, ModelError, Place
from harness.tensors import atomic_path, hash_file
from harness.text import duration, size, suggestion

if TYPE_CHECKING:
    import http.client

    import numpy as np
    import onnx
    from pydantic import JsonValue

_UNWRITTEN = "returned a model that cannot be written:"
_BLOCK = 1 << 20
_SILENCE = 60.0  # seconds without a byte
_LONGEST = 3600.0  # seconds that a download may take
_LARGEST = 32 << 30  # bytes that it may have


def resolve_model(case: Case) -> Path | onnx.ModelProto:
    """The model of `case`: the path of an ONNX file, or a model made by its builder.

    A download is kept in `$XDG_CACHE_HOME/harness/models` and its checksum is verified on every use. The file
    itself is not read as ONNX here.

    Raises:
        ModelError: the file is missing, or the download failed.
        ChecksumError: the file does not have the SHA-256 that the case gives.
        BuilderError: the builder cannot be found or called, raised, did not return, ended its process, or returned no
            model.
        MissingDependencyError: PyTorch is needed and not installed.

    Warns:
        TraceWarning: an export by tracing keeps what a line gave for the example inputs.
    """
    source = case.model
    if source.path is not None:
        return _local(case, source.path, source.sha256)
    if source.url is not None:
        assert source.sha256 is not None  # the schema asks for it
        return download(source.url, source.sha256)
    import onnx

    if source.builder is not None:
        return onnx.load_from_string(call_apart(build, case, source.builder, "builder"))
    assert source.torch is not None
    data, frozen = call_apart(export, case, source.torch, "builder")
    for place, said in frozen:
        warnings.warn(TraceWarning(place, said), stacklevel=2)
    return onnx.load_from_string(data)


def _local(case: Case, name: str, sha256: str | None) -> Path:
    path = case.resolve(name)
    if not path.is_file():
        what = "is a folder, not a model file" if path.is_dir() else "no such model file"
        beside = sorted(path.parent.glob("*.onnx")) if path.parent.is_dir() else []
        hint = suggestion(path.name, [sibling.name for sibling in beside if sibling.is_file()])
        raise ModelError(what, where=path, hint=hint or (f"named by {case.path}" if case.path else None))
    if sha256 is not None and (actual := hash_file(path)) != sha256:
        raise ChecksumError(path, expected=sha256, actual=actual)
    return path


def build(case: Case, name: str) -> bytes:
    """The model that a builder makes, as a file has it; called in the process of users' functions."""
    with UserFunction(name, case) as function:
        returned = function(**_arguments(case))
        proto = function.run(lambda: _to_proto(function, returned), _UNWRITTEN)
        made: bytes = function.run(proto.SerializeToString, _UNWRITTEN)
    return made


def export(case: Case, name: str) -> tuple[bytes, list[tuple[Place, str]]]:
    """The model that a PyTorch module is exported to, and what its trace keeps: each line, and PyTorch's words; called
    in the process of users' functions."""
    with _torch_module(case, name, _arguments(case)) as (function, torch, module, examples, given):
        options = {"verbose": False, **given}
        options.pop("dynamo", None)
        if case.model.opset is not None:
            options["opset_version"] = case.model.opset
        exporter = case.model.exporter or "dynamo"
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                program = function.within_limit(
                    lambda: export_module(torch, module, examples, options, exporter)
                )
        except ImportError as error:  # onnxscript, which the exporter is built on
            raise _needs_torch(case, error) from error
        except HarnessError:
            raise
        except Exception as error:
            raise blame_export(function, error, exporter) from error
        proto = function.run(lambda: _to_proto(function, program), _UNWRITTEN)
        data: bytes = function.run(_at_opset(function, proto, case.model.opset).SerializeToString, _UNWRITTEN)
        frozen = [(each.place, each.said) for each in trace_warnings(function, caught)]
    return data, frozen


@contextlib.contextmanager
def _torch_module(case: Case, name: str, arguments: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The function, PyTorch, the module in evaluation mode, its example inputs, and the arguments of the export."""
    try:
        import torch
    except ImportError as error:
        raise _needs_torch(case, error) from error
    with UserFunction(name, case) as function, torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(case.seed)
        returned = function(**arguments)
        if not _is_exportable(returned, torch.nn.Module):
            raise function.error(
                f"returned {_kind(returned)} instead of a torch.nn.Module and a tuple of example inputs",
                hint="return module, (input,) or module, (input,), {argument of torch.onnx.export: …}",
            )
        module, examples, *rest = returned
        yield function, torch, module.eval(), examples, dict(rest[0]) if rest else {}


def call_torch(
    case: Case, name: str, arguments: Mapping[str, JsonValue], samples: Sequence[Sequence[np.ndarray]]
) -> list[list[np.ndarray]]:
    """What the PyTorch module that the function `name` returns computes by itself, without an export.

    Args:
        case: the case that names it.
        name: `module:function`.
        arguments: its keyword arguments.
        samples: the inputs of each sample, in the order of the module's arguments.

    Returns:
        For each sample the tensors that the module returned, in the order in which they are nested.

    Raises:
        BuilderError: the function cannot be called or returns something else, or the module raised, did not return, or
            ended its process.
        MissingDependencyError: PyTorch is not installed.
    """
    fed = [list(arrays) for arrays in samples]
    return call_apart(run_module, case, name, "builder", json.dumps(dict(arguments)), fed)


def run_module(
    case: Case, name: str, arguments: str, samples: list[list[np.ndarray]]
) -> list[list[np.ndarray]]:
    """See `call_torch`; called in the process of users' functions, with the arguments as JSON."""
    with _torch_module(case, name, json.loads(arguments)) as (function, torch, module, examples, given):
        names = list(given.get("kwargs") or {})
        found = []
        for arrays in samples:
            tensors = [torch.from_numpy(array.copy()) for array in arrays]
            named = dict(zip(names, tensors[len(examples) :], strict=False))

            def forward(tensors: Any = tensors[: len(examples)], named: Any = named) -> list[np.ndarray]:
                with torch.no_grad():
                    leaves = torch.utils._pytree.tree_leaves(module(*tensors, **named))
                    return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

            found.append(function.run(forward, "returned a module that raised"))
        return found


def example_shapes(case: Case) -> list[tuple[int, ...]]:
    """The shapes of the example inputs of a PyTorch module, in the order of its arguments.

    Raises:
        BuilderError, MissingDependencyError: see `call_torch`.
    """
    assert case.model.torch is not None
    return [tuple(shape) for shape in call_apart(shapes_of_examples, case, case.model.torch, "builder")]


def shapes_of_examples(case: Case, name: str) -> list[tuple[int, ...]]:
    """See `example_shapes`; called in the process of users' functions."""
    with _torch_module(case, name, _arguments(case)) as (_, torch, __, examples, given):
        leaves = torch.utils._pytree.tree_leaves((examples, given.get("kwargs") or {}))
        return [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _is_exportable(returned: Any, module_class: type) -> bool:
    return (
        isinstance(returned, tuple)
        and len(returned) in (2, 3)
        and isinstance(returned[0], module_class)
        and isinstance(returned[1], tuple)
        and (len(returned) == 2 or isinstance(returned[2], Mapping))
    )


def _at_opset(function: UserFunction, model: onnx.ModelProto, opset: int | None) -> onnx.ModelProto:
    """`model` after a check that it has `opset`, with the oldest IR version that goes with it."""
    if opset is None:
        return model
    from onnx.helper import find_min_ir_version_for

    actual = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if actual != opset:  # the exporter writes its own opset, and keeps it where the conversion fails
        raise function.error(f"cannot be exported to opset {opset}, only to {actual}", hint="change `opset`")
    model.ir_version = min(model.ir_version, find_min_ir_version_for(model.opset_import, ignore_unknown=True))
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks (torchvision is missing, an opset will be converted, …)."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.fx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _to_proto(function: UserFunction, model: Any) -> onnx.ModelProto:
    import onnx

    if isinstance(model, onnx.ModelProto):
        return model
    onnx_ir: Any = sys.modules.get("onnx_ir")  # whoever has made a model of it has imported it
    if onnx_ir is not None and isinstance(model, onnx_ir.Model):
        made: onnx.ModelProto = onnx_ir.to_proto(model)
        return made
    proto = getattr(model, "model_proto", None)  # torch.onnx.ONNXProgram
    if isinstance(proto, onnx.ModelProto):
        return proto
    raise function.error(f"returned {_kind(model)} instead of an onnx.ModelProto or an onnx_ir.Model")


def _arguments(case: Case) -> dict[str, Any]:
    return dict(case.model.args or {})


def _needs_torch(case: Case, error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"the model is exported from PyTorch, and {error.name or 'a package for it'} is not installed",
        where=case.path or case.name,
        hint="pip install 'harness[torch]'",
    )


def _kind(value: Any) -> str:
    """`a torch.Tensor`; of a tuple also what is in it."""
    if value is None:
        return "None"
    if isinstance(value, tuple) and value:
        return f"a tuple ({', '.join(_kind(each).removeprefix('a ') for each in value)})"
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def cache_folder() -> Path:
    """The folder of downloaded models: `$XDG_CACHE_HOME/harness/models`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "harness" / "models"


def download(url: str, sha256: str) -> Path:
    """The path of the file at `url`, from the cache if it is there. Processes that want the same file wait.

    Args:
        url: http, https or file.
        sha256: checksum that the file must have, in lower-case hexadecimal digits.

    Raises:
        ChecksumError: the file has another checksum; nothing is kept.
        ModelError: the download failed; nothing is kept.
    """
    from http.client import HTTPException

    from filelock import FileLock

    target = cache_folder() / f"{sha256}.onnx"
    locks = cache_folder().with_name("locks")  # lock files cannot be removed without a race
    try:
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / sha256):
            if not (target.is_file() and hash_file(target) == sha256):
                _fetch(url, target, sha256)
    except HarnessError:
        raise
    except OSError as error:  # urllib's errors and timeouts are among them
        raise _failed(url, getattr(error, "reason", None) or error.strerror or error) from error
    except (HTTPException, ValueError) as error:
        raise _failed(url, f"{type(error).__name__}: {error}") from error
    return target


def _fetch(url: str, target: Path, sha256: str) -> None:
    import urllib.request

    for left_over in target.parent.glob(f".{target.name}.*.tmp"):  # of a process that was killed
        left_over.unlink(missing_ok=True)
    request = urllib.request.Request(url, headers={"User-Agent": "harness"})
    with urllib.request.urlopen(request, timeout=_SILENCE) as response, _whole_or_nothing(target) as file:
        actual = _copy(response, file, url)
        if actual != sha256:
            raise ChecksumError(url, expected=sha256, actual=actual)


@contextlib.contextmanager
def _whole_or_nothing(target: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when the block ends, where the file system can do that; no kill leaves a part of it.

    Elsewhere it is a temporary file, which the next download of `target` removes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            yield file
        return
    with open(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(descriptor)
        target.unlink(missing_ok=True)  # what is there has another checksum
        os.link(
            f"/proc/self/fd/{descriptor}", target, src_dir_fd=descriptor
        )  # with a src_dir_fd the link is followed


def _copy(response: http.client.HTTPResponse, file: BinaryIO, url: str) -> str:
    """Copy the response to `file`; its SHA-256."""
    digest, copied, begun = hashlib.sha256(), 0, time.monotonic()
    while block := response.read(_BLOCK):
        copied += len(block)
        if copied > _LARGEST:
            raise _failed(url, f"it has more than {size(_LARGEST)}")
        if time.monotonic() - begun > _LONGEST:
            raise _failed(url, f"after {duration(_LONGEST)} only {size(copied)} have come")
        digest.update(block)
        file.write(block)
    return digest.hexdigest()


def _failed(url: str, reason: object) -> ModelError:
    return ModelError(
        f"cannot be downloaded: {reason}",
        where=url,
        hint="check the URL, or download the file and use `path`",
    )
