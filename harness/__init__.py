"""Judge TensorRT engines against their ONNX models, find the culprit, and catch drift across releases.

    import harness

    report = harness.run("cases/", precisions=["fp16"])
    diagnosis = harness.diagnose("cases/rmsnorm-overflow.case.yaml", precision="fp16")
    drifted = harness.drift("cases/", environments=["trt-8.5", "trt-8.6"])
    drifted.to_frame()  # and so have the others

The names of `__init__.pyi` are the public API; everything else may change between minor versions. Here and in each
package below, that file lists what the package offers. A name is imported when it is first asked for, so that
`import harness` and `harness --help` stay light.
"""

import lazy_loader

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name != "__version__":
        return _import(name)
    from importlib.metadata import (
        PackageNotFoundError,
        version,
    )  # it takes longer than the rest of this module

    try:
        return version(__name__)
    except PackageNotFoundError as error:
        raise AttributeError(f"{__name__} is not installed, so its version is not known") from error
