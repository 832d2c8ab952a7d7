"""Models with planted faults: what is asked for, how it is written, and what is known of it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from benchmarks.faults.families import ARCHITECTURES, Family
from benchmarks.faults.kinds import GADGETS, Clause, Kind, Place, Site
from cases.models.graph import Graph
from cases.models.layers import linear
from harness.tensors import Precision


@dataclass(frozen=True)
class Spec:
    """What to plant.

    Args:
        family: what the model is made of.
        kind: what goes wrong.
        faults: at how many places; 0 is the clean twin, where every place is harmless. An accumulated error is
            at every place, and this is 1.
        nodes: about how many nodes the model has.
        seed: of the weights, the inputs, and the choice of the places.
    """

    family: Family
    kind: Kind
    faults: int
    nodes: int
    seed: int = 0

    @property
    def name(self) -> str:
        """`family-kind-faults-nodes-seed`, with `clean` for no faults."""
        faults = f"x{self.faults}" if self.faults else "clean"
        return f"{self.family}-{self.kind}-{faults}-{self.nodes}-{self.seed}"

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers that depend on the whole specification but for `faults` being 0."""
        return np.random.default_rng(
            [self.seed, zlib.crc32(f"{self.family}-{self.kind}-{self.nodes}".encode())]
        )


@dataclass(frozen=True)
class PlantedCase:
    """A model, its inputs, and what is known of its faults.

    Args:
        spec: what it was made to.
        model: the model; its output is `head`.
        feeds: inputs by name, float32.
        precision: the precision that it fails at.
        clauses: for each fault, the sets of nodes of which one must go back to FP32.
        places: for an accumulated error, the pairs of nodes that lose resolution; else empty.
    """

    spec: Spec
    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    clauses: tuple[Clause, ...]
    places: tuple[frozenset[str], ...] = ()
    precision: Precision = Precision.FP16

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.clauses and not self.places

    @property
    def truth(self) -> frozenset[str] | None:
        """The nodes that must go back to FP32 (the first alternative of each pair); None if accumulated."""
        return None if self.places else frozenset().union(*(clause[0] for clause in self.clauses))


def build(spec: Spec, strengths: Sequence[float] = ()) -> PlantedCase:
    """The planted case of a specification; the same bytes every time.

    Args:
        spec: what to plant.
        strengths: of an accumulated error in each block: see Place.

    Raises:
        ValueError: the model has fewer blocks than faults are asked for.
    """
    blocks = count_blocks(spec)
    if spec.faults > blocks:
        raise ValueError(f"{spec.name}: {spec.faults} faults do not fit into {blocks} blocks")
    rng = spec.rng
    order = rng.permutation(blocks)
    chosen = set(range(blocks)) if strengths else set(order[: spec.faults].tolist())
    plan = [(index in chosen, strengths[index] if strengths else 0.0) for index in range(blocks)]
    graph, sites = _write(spec, plan)
    shape = ARCHITECTURES[spec.family].shape
    places = tuple(frozenset(_place_nodes(index)) for index in range(blocks)) if strengths else ()
    return PlantedCase(
        spec=spec,
        model=graph.model({"head": shape}),
        feeds={"x": rng.standard_normal(shape).astype(np.float32)},
        clauses=tuple(clause for site in sites for clause in site.clauses),
        places=places,
    )


def count_blocks(spec: Spec) -> int:
    """How many blocks a model of `spec.nodes` nodes has."""
    one, two = (len(_write(spec, [(False, 0.0)] * blocks)[0].nodes) for blocks in (1, 2))
    return max(1, round((spec.nodes - one) / (two - one)) + 1)


def _place_nodes(index: int) -> Sequence[str]:
    return f"b{index}_fault_shift", f"b{index}_fault_unshift"


def _write(spec: Spec, plan: Sequence[tuple[bool, float]]) -> tuple[Graph, list[Site]]:
    """A residual stream, whose branches are each a gadget on a bounded tensor and a block; and a head.

    The stream is damped before it is read, so that errors do not grow from branch to branch; it gets an offset, so
    that no row is all zeros; and branches are added and subtracted in turn, so that it does not drift away.
    """
    architecture = ARCHITECTURES[spec.family]
    shape = architecture.shape
    graph = Graph(spec.name, seed=spec.seed)
    x = graph.input("x", shape)
    sites = []
    for index, (planted, strength) in enumerate(plan):
        name = f"b{index}"
        damped = graph.node("Mul", f"{name}_damp", x, graph.constant("damping", 0.125))
        offset = graph.node("Add", f"{name}_offset", damped, graph.weight(f"{name}_bias", shape[1:], 0.7))
        bounded = graph.node("Tanh", f"{name}_bound", offset)
        site = GADGETS[spec.kind](Place(graph, bounded, f"{name}_fault", shape, planted, strength))
        branch = architecture.block(graph, site.tensor, name, shape)
        x = graph.node("Sub" if index % 2 else "Add", f"{name}_join", x, branch)
        sites.append(site)
    linear(graph, x, "head", shape[-1], shape[-1])
    return graph, sites
