"""Cures applied to a model: a new model, never the old one changed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from harness.conversion.cures.building import Inapplicable, constant_of, given
from harness.conversion.cures.cure import Applied, Cure, Feeds, Transformed, rewrite_rules
from harness.errors import ModelError
from harness.model import Model, add_constant, at_opset, load_model, own_type

#: The rules write operators of this opset and later ones; an older model is converted first.
OLDEST = 13


@dataclass(frozen=True)
class Rewrite:
    """A model that a cure made of another.

    Args:
        cure: the cure.
        made: what it wrote.
        model: the new model.
    """

    cure: Cure
    made: Transformed
    model: Model

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that it replaced."""
        return self.made.nodes


def apply(
    cure: Cure, model: Model, refused: frozenset[str] | None = None, feeds: Sequence[Feeds] = ()
) -> Rewrite | None:
    """`model` rewritten by `cure`; None where it does not apply.

    Args:
        cure: the cure.
        model: stays as it is.
        refused: names of the nodes that a compiler refuses; None: nobody knows.
        feeds: samples of the inputs, to calibrate on.

    Raises:
        Inapplicable: it would apply to nodes that are refused, and cannot be; with the reason.
    """
    if not _concerns(cure, model):
        return None
    wanted = max(OLDEST, cure.opset)
    if model.opset < wanted:
        try:
            model = at_opset(model, wanted)
        except ModelError as reason:
            raise Inapplicable(reason.message) from reason
    if cure.calibrate is not None:
        found = cure.calibrate(model, feeds)
    elif cure.transform is not None:
        found = cure.transform(model, refused)
    else:
        found = _with_patterns(cure, model, refused)
    if found is None:
        return None
    inlined = load_model(found.graph, name=model.name).ir  # a transform may leave calls of local functions
    graph = cleaned(inlined)
    for new, old in zip(graph.graph.outputs, model.ir.graph.outputs, strict=True):
        new.shape, new.type = old.shape, own_type(old)  # inference would write down what is declared free
    return Rewrite(cure, found, load_model(graph, name=model.name))


def with_shapes(model: Model) -> ir.Model:
    """A copy of the graph in which ONNX's inference wrote what it knows of shapes and dtypes."""
    graph = model.clone()
    with _quietly():
        common_passes.ShapeInferencePass()(graph)
    return graph


def cleaned(graph: ir.Model) -> ir.Model:
    """`graph` without what nothing reads, its Shape nodes of known shapes folded, every name once."""
    with _quietly():
        common_passes.ShapeInferencePass()(graph)
        _fold_constants(graph)
        if _fold_splits(graph):
            _fold_constants(graph)
        common_passes.RemoveUnusedNodesPass()(graph)
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
        common_passes.NameFixPass()(graph)
    return graph


def _fold_constants(graph: ir.Model) -> None:
    import onnxscript.optimizer

    with contextlib.suppress(
        RuntimeError
    ):  # of a node that it makes no sense of: what is folded by then stays
        onnxscript.optimizer.fold_constants_ir(graph)


def _fold_splits(graph: ir.Model) -> bool:
    """Compute Split nodes of constants, which onnxscript leaves as they are; returns whether there were any."""
    found = False
    for node in list(graph.graph):
        values = constant_of(node, 0) if node.op_type == "Split" else None
        sizes = constant_of(node, 1)
        if values is None or (given(node, 1) is not None and sizes is None):
            continue
        axis = node.attributes.get_int("axis", 0)
        if sizes is None:
            each = -(-values.shape[axis] // len(node.outputs))
            sizes = np.full(len(node.outputs), each)
        parts = np.split(values, np.cumsum(sizes)[:-1], axis)
        for output, part in zip(node.outputs, parts, strict=True):
            if output.is_graph_output():
                continue
            constant = add_constant(graph.graph, f"{output.name}/constant", part)
            ir.convenience.replace_all_uses_with(output, constant)
            found = True
    return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What these libraries cannot infer or fold they leave as it is, which is no warning to a user."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _with_patterns(cure: Cure, model: Model, refused: frozenset[str] | None) -> Transformed | None:
    from onnxscript.rewriter import RewriteRuleSet

    graph = with_shapes(model)
    applied = Applied()
    only = refused if cure.where_refused else None
    RewriteRuleSet(rewrite_rules(cure, model.opset, only, applied)).apply_to_model(graph)
    if not applied.nodes:
        for reason in applied.reasons.values():
            alike = (name for name, each in applied.reasons.items() if each == reason)
            raise Inapplicable(reason, tuple(name for name in alike if name in (refused or ())))
        return None
    return Transformed(graph, tuple(applied.nodes))


def _concerns(cure: Cure, model: Model) -> bool:
    """Whether the model has an operator that `cure` replaces; cures of no operator concern every model."""
    if not cure.operators:
        return True
    every = ir.traversal.RecursiveGraphIterator(model.ir.graph)
    return any(node.op_type in cure.operators for node in every)
