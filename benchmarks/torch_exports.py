"""Modules of PyTorch with seeded weights as both of its exporters write them, kept as ONNX files.

Operators that exports bring and compilers refuse or take by their attributes, and small nets of the usual kinds. They
are kept in benchmarks/results/torch_exports.zip, so that rules can be asked about them without PyTorch.

Run: python -m benchmarks.torch_exports FOLDER [--part 0/2] (PyTorch 2.13, onnxscript; nothing of harness)
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.spread import no_scheduler

KEPT = Path(__file__).parent / "results" / "torch_exports.zip"
OPSETS = {"dynamo": 18, "legacy": 17}
_SEED = 20261130


def modules() -> dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]]:
    """By name: a module and its inputs, made when called."""
    import torch
    from torch import nn
    from torch.nn import functional as f

    class Apply(nn.Module):
        def __init__(self, function: Callable[..., Any]) -> None:
            super().__init__()
            self.function = function

        def forward(self, *inputs: Any) -> Any:
            return self.function(*inputs)

    def ints(*shape: int, high: int = 8) -> Any:
        return torch.randint(0, high, shape)

    draw, found = torch.randn, {}

    def of(name: str, function: Callable[..., Any], *inputs: Callable[[], Any]) -> None:
        found[name] = lambda: (Apply(function), tuple(each() for each in inputs))

    def net(name: str, make: Callable[[], Any], *inputs: Callable[[], Any], train: bool = False) -> None:
        found[name] = lambda: (make().train(train), tuple(each() for each in inputs))

    image, rows = (lambda: draw(2, 3, 16, 16)), (lambda: draw(4, 16))
    tokens, wide = (lambda: draw(2, 12, 32)), (lambda: draw(1, 8000))
    for name in ("erf", "gelu", "mish", "celu", "elu", "selu", "hardswish", "softplus", "silu", "logsigmoid"):
        function = getattr(torch, name, None) or getattr(f, name)
        of(name, function, rows)
    for name in (
        "asinh",
        "atan",
        "cosh",
        "expm1",
        "log1p",
        "rsqrt",
        "sign",
        "trunc",
        "round",
        "ceil",
        "isnan",
    ):
        of(name, getattr(torch, name), lambda: draw(4, 16).abs() + 0.1)
    of("topk", lambda x: torch.topk(x, 5), rows)
    of("topk-large", lambda x: torch.topk(x, 5000), wide)
    of("sort", lambda x: torch.sort(x), rows)
    of("sort-large", lambda x: torch.sort(x), wide)
    of("argsort", lambda x: torch.argsort(x, dim=0), rows)
    of("median", lambda x: torch.median(x, dim=1)[0], rows)
    of("nonzero", torch.nonzero, rows)
    of("masked-select", lambda x: torch.masked_select(x, x > 0), rows)
    of("unique", lambda x: torch.unique(x), lambda: ints(12))
    of("bincount", lambda x: torch.bincount(x, minlength=8), lambda: ints(12))
    of("where", lambda x, y: torch.where(x > 0, x, y), rows, rows)
    of("masked-fill-inf", lambda x: torch.softmax(x.masked_fill(x < 0, -torch.inf), -1), rows)
    of("scatter", lambda x, i, u: x.scatter(1, i, u), rows, lambda: ints(4, 3), lambda: draw(4, 3))
    of("scatter-add", lambda x, i, u: x.scatter_add(1, i, u), rows, lambda: ints(4, 3), lambda: draw(4, 3))
    of(
        "scatter-reduce",
        lambda x, i, u: x.scatter_reduce(1, i, u, "amax"),
        rows,
        lambda: ints(4, 3),
        lambda: draw(4, 3),
    )
    of(
        "index-put",
        lambda x, i, u: torch.index_put(x, (i,), u),
        rows,
        lambda: ints(3, high=4),
        lambda: draw(3, 16),
    )
    of(
        "index-put-accumulate",
        lambda x, i, u: torch.index_put(x, (i,), u, accumulate=True),
        rows,
        lambda: ints(3, high=4),
        lambda: draw(3, 16),
    )
    of("index-add", lambda x, i, u: x.index_add(0, i, u), rows, lambda: ints(3, high=4), lambda: draw(3, 16))
    of("gather", lambda x, i: x.gather(1, i), rows, lambda: ints(4, 3))
    of("take-rows", lambda x, i: x[i], rows, lambda: ints(3, high=4))
    of("cumsum", lambda x: torch.cumsum(x, 1), rows)
    of("cumprod", lambda x: torch.cumprod(x, 1), rows)
    of("logcumsumexp", lambda x: torch.logcumsumexp(x, 1), rows)
    of("remainder", lambda x, y: torch.remainder(x, y), rows, rows)
    of("fmod", lambda x, y: torch.fmod(x, y), rows, rows)
    of("floor-divide", lambda x: torch.div(x, 3, rounding_mode="floor"), rows)
    of("bitwise-and", lambda x, y: x & y, lambda: ints(4, 4), lambda: ints(4, 4))
    of("bitwise-not", lambda x: ~x, lambda: ints(4, 4))
    of("shift-left", lambda x: x << 2, lambda: ints(4, 4))
    of("logical-xor", lambda x, y: torch.logical_xor(x > 0, y > 0), rows, rows)
    of("any", lambda x: (x > 0).any(1), rows)
    of("all-equal", lambda x, y: torch.eq(x, y).all(1), rows, rows)
    of("one-hot", lambda x: f.one_hot(x, 8), lambda: ints(5))
    of("eye", lambda x: x + torch.eye(16)[:4], rows)
    of("tril", torch.tril, lambda: draw(6, 6))
    of("roll", lambda x: torch.roll(x, 2, 1), rows)
    of("flip", lambda x: torch.flip(x, (1,)), rows)
    of("einsum", lambda x, y: torch.einsum("bik,bjk->bij", x, y), tokens, tokens)
    of("double", lambda x: (x.double() * 1.5).float(), rows)
    of("uint8", lambda x: (x * 10).to(torch.uint8).float(), lambda: draw(4, 16).abs())
    of("int8-sum", lambda x: (x.to(torch.int8) + 1).float(), lambda: ints(4, 4))
    of("half", lambda x: x.half().float(), rows)
    of("det", torch.det, lambda: draw(2, 3, 3))
    of("norm", lambda x: torch.linalg.vector_norm(x, dim=1), rows)
    of("std", lambda x: torch.std(x, 1), rows)
    of("logsumexp", lambda x: torch.logsumexp(x, 1), rows)
    of("cdist", torch.cdist, tokens, tokens)
    of("cross", lambda x, y: torch.linalg.cross(x, y), lambda: draw(4, 3), lambda: draw(4, 3))
    of("fft", lambda x: torch.fft.rfft(x).abs(), rows)
    of(
        "stft",
        lambda x: torch.stft(x, 64, 16, window=torch.ones(64), return_complex=False),
        lambda: draw(2, 512),
    )
    for mode in ("bilinear", "nearest", "bicubic"):
        grid = lambda: torch.rand(2, 8, 8, 2) * 2 - 1  # noqa: E731
        of(
            f"grid-sample-{mode}",
            lambda x, g, m=mode: f.grid_sample(x, g, mode=m, align_corners=False),
            image,
            grid,
        )
    of(
        "grid-sample-volume",
        lambda x, g: f.grid_sample(x, g, align_corners=False),
        lambda: draw(1, 2, 4, 4, 4),
        lambda: torch.rand(1, 3, 3, 3, 3),
    )
    of("affine-grid", lambda t: f.affine_grid(t, [2, 3, 8, 8], align_corners=False), lambda: draw(2, 2, 3))
    for mode in ("nearest", "bilinear", "bicubic", "area"):
        of(f"resize-{mode}", lambda x, m=mode: f.interpolate(x, scale_factor=2.0, mode=m), image)
    of("resize-antialias", lambda x: f.interpolate(x, size=(8, 8), mode="bilinear", antialias=True), image)
    of("resize-corners", lambda x: f.interpolate(x, size=(9, 9), mode="bilinear", align_corners=True), image)
    of("max-pool", lambda x: f.max_pool2d(x, 3, 2, 1), image)
    of("max-pool-dilated", lambda x: f.max_pool2d(x, 3, dilation=2), image)
    of("max-pool-indices", lambda x: f.max_pool2d(x, 2, return_indices=True), image)
    of("max-unpool", lambda x: f.max_unpool2d(*f.max_pool2d(x, 2, return_indices=True), 2), image)
    of("avg-pool", lambda x: f.avg_pool2d(x, 3, 2, 1, count_include_pad=False), image)
    of("lp-pool", lambda x: f.lp_pool2d(x.abs(), 3, 2), image)
    of("adaptive-avg", lambda x: f.adaptive_avg_pool2d(x, 4), image)
    of("adaptive-max", lambda x: f.adaptive_max_pool2d(x, 1), image)
    of("unfold", lambda x: f.unfold(x, 3), image)
    of("fold", lambda x: f.fold(f.unfold(x, 2, stride=2), (16, 16), 2, stride=2), image)
    of("pixel-shuffle", lambda x: f.pixel_shuffle(x, 2), lambda: draw(2, 8, 4, 4))
    of("pad-reflect", lambda x: f.pad(x, (2, 2, 1, 1), "reflect"), image)
    of("pad-circular", lambda x: f.pad(x, (2, 2, 1, 1), "circular"), image)
    of("conv-dynamic-weight", lambda x, w: f.conv2d(x, w), image, lambda: draw(4, 3, 3, 3))
    of("dropout-train", lambda x: f.dropout(x, 0.5, training=True), rows)
    of("bernoulli", lambda x: torch.bernoulli(torch.sigmoid(x)), rows)
    of("normal", lambda x: x + torch.randn_like(x), rows)
    of("multinomial", lambda x: torch.multinomial(x.softmax(1), 1), rows)
    of("nll-loss", lambda x, t: f.cross_entropy(x, t), rows, lambda: ints(4))
    of("baked-view", lambda x: x.reshape(int(x.shape[0]), -1), image)
    of("range", lambda x: x + torch.arange(x.shape[1]), rows)
    of("sdpa", lambda q: f.scaled_dot_product_attention(q, q, q), lambda: draw(2, 4, 12, 16))
    of(
        "sdpa-causal",
        lambda q: f.scaled_dot_product_attention(q, q, q, is_causal=True),
        lambda: draw(2, 4, 12, 16),
    )
    of("rms-norm", lambda x: f.rms_norm(x, (32,)), tokens)
    of("embedding-bag", lambda i, w: f.embedding_bag(i, w), lambda: ints(3, 4), lambda: draw(8, 16))
    of("cond", lambda x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,)), rows)
    of("while", lambda x: _doubled(torch, x), rows)
    net("linear", lambda: nn.Linear(16, 8), rows)
    net("conv", lambda: nn.Conv2d(3, 8, 3, padding=1), image)
    net("conv-transpose", lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), image)
    net("conv3d", lambda: nn.Conv3d(2, 4, 3), lambda: draw(1, 2, 6, 6, 6))
    net("conv1d-dilated", lambda: nn.Conv1d(3, 4, 3, dilation=2), lambda: draw(2, 3, 20))
    net("batch-norm", lambda: nn.BatchNorm2d(3), image)
    net("batch-norm-train", lambda: nn.BatchNorm2d(3), image, train=True)
    net("instance-norm", lambda: nn.InstanceNorm2d(3, affine=True), image)
    net("group-norm", lambda: nn.GroupNorm(4, 8), lambda: draw(2, 8, 6, 6))
    net("layer-norm", lambda: nn.LayerNorm(32), tokens)
    net("prelu", lambda: nn.PReLU(3), image)
    net("embedding", lambda: nn.Embedding(20, 8), lambda: ints(2, 5))
    net("lstm", lambda: nn.LSTM(32, 16, batch_first=True), tokens)
    net("lstm-both", lambda: nn.LSTM(32, 16, bidirectional=True, batch_first=True), tokens)
    net("gru", lambda: nn.GRU(32, 16, batch_first=True), tokens)
    net("rnn", lambda: nn.RNN(32, 16, batch_first=True), tokens)
    net("encoder-layer", lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), tokens)
    net("decoder-layer", lambda: nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), tokens, tokens)
    net("attention", lambda: _Attention(nn), tokens)
    net("cnn", lambda: _cnn(nn), image)
    net("mlp", lambda: nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 4)), rows)
    net(
        "up",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3)),
        image,
    )
    net("quantised", lambda: _fake_quantised(torch, nn), rows)
    return found


def _doubled(torch: Any, x: Any) -> Any:
    from torch._higher_order_ops.while_loop import while_loop

    zero = torch.zeros((), dtype=torch.int64)
    return while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (zero, x))[1]


def _Attention(nn: Any) -> Any:  # noqa: N802
    class SelfAttention(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.inner(x, x, x, need_weights=False)[0]

    return SelfAttention()


def _cnn(nn: Any) -> Any:
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
    ]
    return nn.Sequential(*layers, nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def _fake_quantised(torch: Any, nn: Any) -> Any:
    class FakeQuantised(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 8)

        def forward(self, x: Any) -> Any:
            return self.linear(torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127))

    return FakeQuantised()


def export(name: str, exporter: str, batch: bool) -> bytes | None:
    """The ONNX file of a module; None where the exporter makes none. `batch`: the first axis of every input is open."""
    import torch

    torch.manual_seed(_SEED)
    module, inputs = modules()[name]()
    if not module.training:
        module.eval()
    dims = torch.export.Dim("batch", min=2, max=64)
    shapes = {"dynamic_shapes": (tuple({0: dims} for _ in inputs),)} if batch else {}
    if type(module).__name__ != "Apply" and batch:
        shapes = {"dynamic_shapes": tuple({0: dims} for _ in inputs)}
    names = [f"i{number}" for number, _ in enumerate(inputs)]
    if exporter == "legacy":
        shapes = {"dynamic_axes": {each: {0: "batch"} for each in names}} if batch else {}
    try:
        if exporter == "dynamo":
            program = torch.onnx.export(
                module, inputs, dynamo=True, opset_version=OPSETS[exporter], verbose=False, **shapes
            )
            return bytes(program.model_proto.SerializeToString(deterministic=True))
        written = io.BytesIO()
        torch.onnx.export(
            module, inputs, written, dynamo=False, opset_version=OPSETS[exporter], input_names=names, **shapes
        )
        return written.getvalue()
    except Exception as reason:  # what an exporter lacks is not what is measured
        print(
            name,
            exporter,
            batch,
            f"{type(reason).__name__}: {str(reason).splitlines()[0][:100]}",
            file=sys.stderr,
        )
        return None


def kept() -> Iterator[tuple[str, bytes]]:
    """The exports that are kept: name and ONNX file."""
    with zipfile.ZipFile(KEPT) as archive:
        for name in sorted(archive.namelist()):
            yield name.removesuffix(".onnx"), archive.read(name)


def main() -> int:
    """Export everything, with fixed sizes and with an open batch; goes on where it was stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it writes one file")
    parser.add_argument("folder", type=Path, help="where each export is kept as it is made; empty: it failed")
    parser.add_argument("--part", default="0/1", help="of several that run side by side")
    options = parser.parse_args()
    number, parts = map(int, options.part.split("/"))
    warnings.simplefilter("ignore")
    wanted = [(name, exporter, batch) for name in modules() for exporter in OPSETS for batch in (False, True)]
    paths = {
        (name, exporter, batch): options.folder / f"{name}/{exporter}{'/batch' * batch}.onnx"
        for name, exporter, batch in wanted
    }
    for key in wanted[number::parts]:
        if not paths[key].exists():
            paths[key].parent.mkdir(parents=True, exist_ok=True)
            paths[key].write_bytes(export(*key) or b"")
    if all(path.exists() for path in paths.values()):
        with zipfile.ZipFile(KEPT, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(path for path in paths.values() if path.stat().st_size):
                name = path.relative_to(options.folder).as_posix()
                info = zipfile.ZipInfo(f"torch/{name}", (1980, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, path.read_bytes())
        print(KEPT, KEPT.stat().st_size, "bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
