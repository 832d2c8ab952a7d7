"""Optimization profiles: the ranges of shapes that an engine is built for."""

from typing import Any, Optional

from ..protocol import BuildRequest, Fault


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
