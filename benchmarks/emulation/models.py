"""The models of the score: fixed, seeded, half of them stressing. Engines are asked once, and emulators ever again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx

from benchmarks.emulation import probes
from benchmarks.emulation.probes import gaussian
from benchmarks.faults.generate import generate, sample
from benchmarks.wide_mlp import wide_mlp
from cases.models import convolutional, layers, mlp, recurrent, transformer
from cases.models.graph import Graph
from harness.case import load_case, load_cases, make_feeds, resolve_model
from harness.model import Model, load_model

CASES = Path(__file__).parents[2] / "cases"
PLANTED = 60
Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Entry:
    """One model of the set.

    Args:
        name: unique.
        group: `bundled`, `planted`, `further` or `probe`.
        stressing: wide and deep products, attention with large logits, norms in primitives, near ties, overflows.
        source: makes the model and its inputs.
    """

    name: str
    group: str
    stressing: bool
    source: Callable[[], tuple[onnx.ModelProto | Model, Feeds]]

    @cached_property
    def made(self) -> tuple[Model, Feeds]:
        """The model and its inputs."""
        proto, feeds = self.source()
        model = proto if isinstance(proto, Model) else load_model(proto, name=self.name)
        return model, feeds or {
            info.name: gaussian(info.name, *map(int, info.shape or ())) for info in model.inputs
        }


def catalogue() -> Iterator[Entry]:
    """Every model, in an order that mixes the groups."""
    groups = [list(_bundled()), list(_planted()), list(_further()), list(_probes())]
    ranked = (
        (place / len(group), entry.name, entry) for group in groups for place, entry in enumerate(group)
    )
    yield from (entry for _, _, entry in sorted(ranked, key=lambda each: each[:2]))


def _bundled() -> Iterator[Entry]:
    def made(path: Path) -> tuple[Model, Feeds]:
        case = load_case(path)
        model = load_model(resolve_model(case), name=case.name)
        return model, make_feeds(case, model.inputs)[0]

    for case in load_cases(CASES):
        assert case.path is not None
        faulty = "faulty" in case.tags or case.name in ("whisper-encoder", "residual-growth")
        yield Entry(case.name, "bundled", faulty, partial(made, case.path))


def _planted() -> Iterator[Entry]:
    for spec in sample(PLANTED):

        def made(spec=spec) -> tuple[onnx.ModelProto, Feeds]:
            case = generate(spec)
            return case.model, case.feeds

        yield Entry(f"planted-{spec.name}", "planted", spec.faults > 0, made)


def _further() -> Iterator[Entry]:
    def entry(name: str, stressing: bool, source: Callable[[], onnx.ModelProto]) -> Entry:
        return Entry(name, "further", stressing, lambda: (source(), {}))

    for rows in (1, 4, 64, 512):
        for width, inner in ((256, 1024), (512, 4096)):
            name = f"mlp-{rows}x{width}x{inner}"
            source = partial(wide_mlp, seed=rows, blocks=4, width=width, inner=inner, rows=rows)
            yield entry(name, inner > 2048, source)
    for rows in (64, 2048):
        yield entry(f"wide-mlp-{rows}", True, partial(wide_mlp, rows=rows, blocks=6 if rows == 64 else 3))
    for blocks, width, batch in ((4, 64, 8), (24, 64, 64), (12, 512, 64), (32, 128, 256), (6, 1024, 16)):
        name = f"rmsnorm-{blocks}x{width}-{batch}"
        source = partial(mlp.rmsnorm_mlp, seed=blocks, blocks=blocks, width=width, batch=batch)
        yield entry(name, blocks > 12 or width > 512, source)
    for scale in (30.0, 100.0, 200.0, 250.0, 300.0, 600.0):
        source = partial(mlp.rmsnorm_mlp, blocks=6, width=128, scale=scale, scaled_block=3, activation="silu")
        yield entry(f"rmsnorm-scale-{scale:g}", True, source)
    for terms in (1024, 4096, 16384):
        for rows in (1, 16, 512):
            yield entry(f"long-{rows}x{terms}", True, partial(_chain, rows, terms))
    for depth in (8, 24, 48):
        yield entry(f"chain-{depth}", True, partial(_deep, depth))
    for width, tokens, heads in ((64, 16, 4), (128, 128, 2), (256, 64, 4), (256, 197, 4), (512, 128, 8)):
        source = partial(_encoder, width=width, tokens=tokens, heads=heads)
        yield entry(f"encoder-{width}x{tokens}x{heads}", width > 256, source)
    for scale in (10.0, 1e3, 1e4, 3e4, 1e5, 1e6):
        source = partial(_encoder, width=128, tokens=48, heads=4, logit_scale=scale, planted_layer=0)
        yield entry(f"encoder-logits-{scale:g}", True, source)
    for shift in (4.0, 8.0, 10.0):
        source = partial(_encoder, width=64, tokens=24, heads=4, softmax_shift=shift, planted_layer=1)
        yield entry(f"encoder-naive-{shift:g}", True, source)
    for gain in (1.0, 4.0, 16.0):
        for mask in ("none", "additive", "where"):
            yield entry(f"attention-{mask}-gain{gain:g}", gain > 1, partial(_attention, gain, mask))
    for channels, image in ((8, 16), (32, 16), (64, 32), (128, 16), (256, 8)):
        source = partial(convolutional.conv_residual, seed=channels, channels=channels, image=image)
        yield entry(f"conv-{channels}x{image}", channels > 64, source)
    for channels, image in ((16, 32), (32, 64)):
        source = partial(convolutional.unet, seed=channels, channels=channels, image=image)
        yield entry(f"unet-{channels}x{image}", channels > 16, source)
    for channels, image in ((8, 16), (32, 32)):
        source = partial(convolutional.grid_sample, seed=channels, channels=channels, image=image)
        yield entry(f"grid-sample-{channels}x{image}", False, source)
    for hidden in (32, 128, 256):
        yield entry(f"lstm-{hidden}", hidden > 128, partial(recurrent.lstm, seed=hidden, width=2 * hidden))
    for count, scale in ((64, 1.0), (512, 1.0), (512, 1e-2)):
        yield entry(f"near-ties-{count}-{scale:g}", True, partial(_ranked, count, scale))


def _probes() -> Iterator[Entry]:
    for name, source in probes.PROBES.items():
        yield Entry(f"probe-{name}", "probe", True, source)


def _chain(rows: int, terms: int) -> onnx.ModelProto:
    """Up to a wide layer and back, without a norm: one long product."""
    graph = Graph("chain", seed=terms)
    x = graph.input("x", [rows, 256])
    wide = layers.gelu(graph, layers.linear(graph, x, "up", 256, terms), "gelu")
    return graph.model({layers.linear(graph, wide, "down", terms, 256): [rows, 256]})


def _deep(depth: int) -> onnx.ModelProto:
    """Products and a tanh, over and over: nothing is added to a stream, and errors multiply."""
    graph = Graph("deep", seed=depth)
    x = graph.input("x", [32, 256])
    for number in range(depth):
        x = graph.node("Tanh", f"tanh{number}", layers.linear(graph, x, f"fc{number}", 256, 256, gain=1.5))
    return graph.model({x: [32, 256]})


def _encoder(*, width: int, tokens: int, heads: int, **options: float) -> onnx.ModelProto:
    return transformer.attention_encoder(
        seed=width, layers=2, width=width, heads=heads, tokens=tokens, batch=1, logit_head=1, **options
    )


def _attention(gain: float, mask: str) -> onnx.ModelProto:
    """Scaled dot-product attention with LayerNormalization, whose logits are `gain` times as large as usual."""
    graph = Graph("attention", seed=int(gain), opset=17)
    tokens, width, heads = 64, 128, 4
    depth = width // heads
    x = graph.input("x", [1, tokens, width])
    normed = graph.node(
        "LayerNormalization",
        "norm",
        x,
        graph.weight("gamma", (width,), 0.1, 1.0),
        graph.weight("beta", (width,), 0.1),
    )
    split = graph.constant("split", [1, tokens, heads, depth], np.int64)
    part = {}
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        flat = layers.linear(graph, normed, name, width, width, gain=1.0 if name == "v" else gain)
        part[name] = graph.node(
            "Transpose", f"{name}_heads", graph.node("Reshape", f"{name}_split", flat, split), perm=order
        )
    logits = graph.node("MatMul", "qk", part["q"], part["k"])
    logits = graph.node("Mul", "scaled", logits, graph.constant("scale", depth**-0.5))
    causal = np.triu(np.ones((tokens, tokens), bool), 1)
    if mask == "additive":
        added = np.where(causal, -60000.0, 0.0)
        logits = graph.node("Add", "masked", logits, graph.constant("mask", added))
    elif mask == "where":
        minimum = graph.constant("minimum", -65504.0)
        logits = graph.node("Where", "masked", graph.constant("mask", causal, bool), minimum, logits)
    mixed = graph.node("MatMul", "av", graph.node("Softmax", "softmax", logits, axis=-1), part["v"])
    merged = graph.node("Transpose", "merge", mixed, perm=[0, 2, 1, 3])
    flat = graph.node("Reshape", "flat", merged, graph.constant("joined", [1, tokens, width], np.int64))
    out = graph.node("Add", "add", x, layers.linear(graph, flat, "out", width, width))
    return graph.model({out: [1, tokens, width]})


def _ranked(count: int, scale: float) -> onnx.ModelProto:
    """Logits of which the best differ by little, as a probability each."""
    graph = Graph("ranked", seed=count)
    x = graph.input("x", [16, 128])
    logits = layers.linear(graph, x, "fc", 128, count, gain=scale)
    return graph.model({graph.node("Softmax", "softmax", logits, axis=-1): [16, count]})
