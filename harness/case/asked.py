"""How a person asks for a case on the command line: the words that name it, and the shapes of a bare model."""

from __future__ import annotations

from collections.abc import Iterable

from harness.case.schema import Case


def asked_shapes(case: Case) -> tuple[str, ...]:
    """What `--input` gave to a bare .onnx file, as it takes it: `x:[1,3,224,224]`; a case file has its own."""
    if case.path is not None or case.model.path is None:
        return ()
    return tuple(
        f"{name}:[{','.join(map(str, spec.shape))}]"
        for name, spec in case.inputs.items()
        if spec.shape is not None
    )


def target_words(target: str, shapes: Iterable[str]) -> list[str]:
    """The words that name `target` on the command line, with `--input` before each of its shapes."""
    return [target, *(word for shape in shapes for word in ("--input", shape))]
