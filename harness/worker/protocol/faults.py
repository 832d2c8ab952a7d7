"""What can go wrong in a worker, by kind. The host turns each kind into an exception class of its own."""

from typing import Iterable, Tuple

#: kind: what it means, and what the host does.
KINDS = {
    "environment": "TensorRT cannot be loaded here, or there is no GPU; fatal",
    "unsupported": "the release cannot do what is asked; the worker goes on",
    "build_failed": "the builder returned no engine; the worker goes on",
    "marks_failed": "the build failed because of its marks; the host splits them and asks again",
    "out_of_memory": "memory of the GPU or of the machine ran out; the host makes smaller builds",
    "cuda_error": "a CUDA call failed; fatal: the worker is replaced",
    "disk_full": "a tensor file or an engine could not be written; the worker goes on",
    "bad_request": "the request names what does not exist: a tensor, an engine, a file",
    "internal": "a defect of the adapter; the worker is replaced",
}


class Fault(Exception):
    """Raised by an adapter; the worker answers with `messages.Error`.

    Args:
        kind: one of KINDS.
        message: one sentence that says what failed and what to try.
        evidence: lines that support it, such as TensorRT's own errors.
        fatal: the worker cannot be trusted any more; always so for `environment`,
            `cuda_error` and `internal`.
        marks: for `marks_failed`, the names that are to blame, if known.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        evidence: Iterable[str] = (),
        fatal: bool = False,
        marks: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        if kind not in KINDS:
            raise ValueError("{!r} is no kind of fault, these are: {}".format(kind, ", ".join(KINDS)))
        self.kind = kind
        self.message = message
        self.evidence: Tuple[str, ...] = tuple(evidence)
        self.fatal = fatal or kind in ("environment", "cuda_error", "internal")
        self.marks: Tuple[str, ...] = tuple(marks)
