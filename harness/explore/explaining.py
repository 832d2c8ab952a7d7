"""What happens at one node: ranges before and behind it, and what it does to the error."""

from __future__ import annotations

from harness.diagnosis import (
    FORMATS,
    Effects,
    Held,
    Prognosis,
    Subject,
    explain_nodes,
    tensors_around,
    usual_error,
)
from harness.explore.answers import Explanation, TensorShown
from harness.judge import LayerResult
from harness.model import Model, NodeInfo

NOT_LOWERED = (
    "it computes no float32 tensor from the inputs, or from sizes that are known at run time only, or none that "
    "{precision} rounds"
)


def explain_node(
    subject: Subject,
    prognosis: Prognosis,
    effects: Effects,
    node: NodeInfo,
    layers: tuple[LayerResult, ...],
    kept: frozenset[str],
) -> Explanation:
    """Everything that is known of `node`.

    Args:
        subject: the model on the emulator.
        prognosis: the emulator with everything lowered.
        effects: of nodes lowered alone.
        node: the node.
        layers: the layers with `kept` in FP32.
        kept: names of the nodes that are kept in FP32.
    """
    model, precision = subject.model, subject.precision
    limit = FORMATS[precision].largest
    if node.name not in subject.units:
        reason = NOT_LOWERED.format(precision=precision)
        return Explanation(node, len(model.nodes), False, False, reason, largest=limit)
    introduced = prognosis.introduced.get(node.name)
    usual = usual_error(prognosis.introduced)
    occurrence = tensors_around(subject, [node], precision).occurrence(node, introduced, usual)
    return Explanation(
        node=node,
        nodes=len(model.nodes),
        lowered=True,
        kept=node.name in kept,
        reason=explain_nodes(subject, prognosis, [node.name])[0].why,
        layer=max(
            (layer for layer in layers if layer.node == node.name),
            key=lambda layer: layer.metrics.nrmse,
            default=None,
        ),
        usual=usual,
        alone=effects.of([node.name]),
        reads=tuple(
            TensorShown(held, _writer(model, held.name), held.largest / limit)
            for held in _once(occurrence.inputs)
        ),
        writes=(
            TensorShown(
                occurrence.output,
                _readers(model, occurrence.output.name),
                occurrence.output.largest / limit,
            ),
        ),
        largest=limit,
    )


def _once(inputs: tuple[Held, ...]) -> tuple[Held, ...]:
    """A tensor that a node reads twice is shown once."""
    return tuple({held.name: held for held in inputs}.values())


def _writer(model: Model, tensor: str) -> tuple[NodeInfo, ...]:
    producer = model.producer(tensor)
    return () if producer is None else (producer,)


def _readers(model: Model, tensor: str) -> tuple[NodeInfo, ...]:
    return tuple(node for node in model.nodes if tensor in node.inputs)
