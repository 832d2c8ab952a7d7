"""The builder's configuration: the build options of a case, the shapes of dynamic inputs, and INT8 calibration."""

from typing import Any, Dict, List, Optional, Sequence

from ...protocol import BuilderOptions, BuildRequest, Fault, Tensor, read_tensor_file
from .. import dtypes
from ..release import Release, asks_for_tf32
from ..runtime import Buffer, Cuda

_MIB = 1 << 20


def apply_options(trt: Any, release: Release, config: Any, options: BuilderOptions, precision: str) -> None:
    """Set what `options` ask for.

    Raises:
        Fault: `unsupported`: this release has no such option.
    """
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector reports names only
    if asks_for_tf32(options, precision):
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    if options.optimization_level is not None:
        release.require("optimization_level", "builder optimization levels")
        config.builder_optimization_level = options.optimization_level
    if options.avg_timing_iterations is not None:
        config.avg_timing_iterations = options.avg_timing_iterations
    if options.tactic_sources is not None:
        _tactic_sources(trt, release, config, options.tactic_sources)
    if options.sparsity:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.version_compatible:
        release.require("version_compatible", "version-compatible engines")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility:
        _hardware_compatibility(trt, release, config, options.hardware_compatibility)
    for feature in options.preview_features or ():
        _preview_feature(trt, release, config, feature)
    if options.build_route:
        release.require("build_routes", "build routes")
        config.build_route = options.build_route
    if options.compute_capability:
        _compute_capability(trt, release, config, options.compute_capability)


def _tactic_sources(trt: Any, release: Release, config: Any, names: Sequence[str]) -> None:
    bits = 0
    for name in names:
        member = name.upper()
        if member not in release.tactic_sources:
            raise Fault(
                "unsupported",
                "{} has no tactic source {}: it has {}".format(
                    release, member, ", ".join(release.tactic_sources)
                ),
            )
        bits |= 1 << int(trt.TacticSource.__members__[member])
    if not config.set_tactic_sources(bits):
        raise Fault("unsupported", "TensorRT refuses the tactic sources {}".format(", ".join(names)))


def _preview_feature(trt: Any, release: Release, config: Any, feature: str) -> None:
    """Switch `+feature` on, or `-feature` off."""
    member = feature[1:].upper()
    if feature[:1] not in ("+", "-") or member not in release.preview_features:
        raise Fault(
            "unsupported",
            "{} has no preview feature {}: it has {}, each with + or - in front".format(
                release, feature, ", ".join(release.preview_features).lower()
            ),
        )
    config.set_preview_feature(trt.PreviewFeature.__members__[member], feature[0] == "+")


def _compute_capability(trt: Any, release: Release, config: Any, target: str) -> None:
    """Build for one target, `current` or `sm86`; unset, an engine of TensorRT for RTX is for all that it supports."""
    release.require("compute_capability", "compute capabilities to build for")
    if target.lower() not in release.compute_capabilities:
        raise Fault(
            "unsupported",
            "{} cannot build for compute capability {}: it has {}".format(
                release, target, ", ".join(release.compute_capabilities)
            ),
        )
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(trt.ComputeCapability.__members__[target.upper()], 0):
        raise Fault("unsupported", "{} refuses the compute capability {}".format(release, target))


def _hardware_compatibility(trt: Any, release: Release, config: Any, level: str) -> None:
    release.require("hardware_compatibility:" + level, "hardware compatibility level " + level)
    if level == "ampere_plus":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    else:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY


def make_profile(builder: Any, network: Any, request: BuildRequest) -> Optional[Any]:
    """A profile for the inputs with dynamic axes; None if there are none.

    Raises:
        Fault: `bad_request`: an input without a range, or a range that does not fit; `unsupported`: an input
            whose values, not whose shape, must be known.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    unknown = sorted(set(request.profiles) - {tensor.name for tensor in inputs})
    if unknown:
        raise Fault("bad_request", "the model has no input {}".format(", ".join(map(repr, unknown))))
    dynamic = [tensor for tensor in inputs if any(extent < 0 for extent in tensor.shape)]
    for tensor in inputs:
        if tensor.is_shape_tensor and tensor not in dynamic:
            raise Fault(
                "unsupported",
                "input {!r} decides shapes by its values: make it a constant of the model".format(
                    tensor.name
                ),
            )
    if not dynamic:
        return None
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        if tensor.name not in request.profiles:
            raise Fault(
                "bad_request",
                "input {!r} has dynamic axes {}: give it min, opt and max shapes".format(
                    tensor.name, tuple(tensor.shape)
                ),
            )
        minimum, optimum, maximum = request.profiles[tensor.name]
        try:
            profile.set_shape(tensor.name, minimum, optimum, maximum)
        except (ValueError, RuntimeError) as error:
            raise Fault(
                "bad_request",
                "input {!r} of shape {} cannot range over {}, {}, {}: {}".format(
                    tensor.name, tuple(tensor.shape), minimum, optimum, maximum, error
                ),
            ) from error
    return profile


def make_calibrator(trt: Any, cuda: Cuda, paths: Sequence[str], wanted: Dict[str, str]) -> Any:
    """A `trt.IInt8EntropyCalibrator2` that gives TensorRT one file a batch.

    What goes wrong is kept in its `errors`; TensorRT only sees that there are no more batches.
    """

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.errors: List[str] = []
            self._waiting = list(paths)
            self._buffers: Dict[str, Buffer] = {}

        def get_batch_size(self) -> int:
            return 1  # the batch axis is part of the shapes

        def get_batch(self, names: Sequence[str]) -> Optional[List[int]]:
            if not self._waiting:
                return None
            path = self._waiting.pop(0)
            try:
                return self._upload(read_tensor_file(path), names)
            except Exception as error:
                self.errors.append("calibration file {}: {}".format(path, error))
                return None

        def _upload(self, tensors: Dict[str, Tensor], names: Sequence[str]) -> List[int]:
            addresses = []
            for name in names:
                array = dtypes.fit(tensors[name], wanted[name], name)
                buffer = self._buffers.setdefault(name, Buffer(cuda))
                cuda.upload(buffer.reserve(array.nbytes), array)
                addresses.append(buffer.address)
            return addresses

        def read_calibration_cache(self) -> Optional[bytes]:
            return None  # of another set of batches, perhaps

        def write_calibration_cache(self, cache: Any) -> None:
            return

        def close(self) -> None:
            for buffer in self._buffers.values():
                buffer.free()

    return Calibrator()
