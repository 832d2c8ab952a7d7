"""What to ask for less of, where a weakly typed network cannot be built as it was asked for.

An island in FP32 between layers that are all pinned to FP16, and a builder that must obey, leave no implementation
for what TensorRT fuses across the border. Measured on an H200 with TensorRT 8.6.0: `No supported formats for
b0_up + b0_relu`, where the island has b0_up and the ReLU that is fused into it is pinned to FP16. Such builds fail
within two seconds, so trying again costs little; a build that succeeds is never touched.
"""

import re
from typing import Any, Iterator, NamedTuple, Sequence

from ..protocol import BuildRequest
from .network import Graph
from .weak import Weak

_NO_IMPLEMENTATION = re.compile(
    r"could not find any implementation|no supported formats|no implementation", re.IGNORECASE
)


class Relaxed(NamedTuple):
    """What was given up.

    Args:
        name: for `BuildReply.realised`.
        told: what it means, for a person.
    """

    name: str
    told: str


def helps(errors: Sequence[str]) -> bool:
    """Whether a build failed for want of an implementation, which asking for less may cure."""
    return any(_NO_IMPLEMENTATION.search(error) for error in errors)


def steps(typing: Weak, graph: Graph, config: Any, request: BuildRequest) -> Iterator[Relaxed]:
    """Ask for less, step by step: each is in force on the network and its configuration once it is drawn.

    Args:
        typing: what pinned the layers of the network.
        graph: the network.
        config: the `trt.IBuilderConfig`.
        request: what was asked for. Nothing is relaxed without islands in a pinned network; nor where tactics are
            recorded or ordered, for these belong to the network that was asked for.
    """
    if not request.islands or not request.options.get("pin_precision") or request.tactics is not None:
        return
    freed = typing.free_neighbours(graph)
    if freed:
        shown = ", ".join(freed[:5]) + (" and {} more".format(len(freed) - 5) if len(freed) > 5 else "")
        yield Relaxed(
            "neighbours_free",
            "the layers around the island are not pinned to {} ({})".format(request.precision, shown),
        )
    if typing.is_pinning(request):
        typing.prefer(config)
        text = "the precisions are preferred, not obeyed: TensorRT may compute in another one"
        if freed:
            text = "the layers around the island are not pinned to {}, and {}".format(request.precision, text)
        yield Relaxed("preferred", text)
