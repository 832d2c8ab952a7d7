"""Build a TensorRT engine with pinned tactics, and fail if TensorRT does not take them. Needs TensorRT alone.

    python build_pinned.py MODEL.onnx ENGINE [--pins pins.json]

Uses the timing cache beside the pins where the release can edit timing caches (10.8 and later), and an algorithm
selector otherwise. Exit status: 0 every pinned choice was taken, 1 some were not, 3 no engine was built.

With trtexec, on releases that have a timing cache beside the pins:

    trtexec --onnx=MODEL.onnx --saveEngine=ENGINE --timingCacheFile=timing.cache --errorOnTimingCacheMiss

and the options of the build as they stand in pins.json.
"""

# mypy: ignore-errors

import argparse
import json
import os
import sys


def main(arguments=None):
    """Build, check, write; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("engine")
    parser.add_argument(
        "--pins", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "pins.json")
    )
    options = parser.parse_args(arguments)
    with open(options.pins, encoding="utf-8") as file:
        pins = json.load(file)
    import tensorrt as trt

    wanted = pins["fingerprint"].get("tensorrt")
    if wanted != trt.__version__:
        print(f"the pins are of TensorRT {wanted}, this is {trt.__version__}", file=sys.stderr)
        return 3
    serialized, missed = build(trt, options.model, pins, os.path.dirname(os.path.abspath(options.pins)))
    if serialized is None:
        print("TensorRT built no engine", file=sys.stderr)
        return 3
    for line in missed:
        print("not taken: " + line, file=sys.stderr)
    if missed:
        return 1
    with open(options.engine, "wb") as file:
        file.write(serialized)
    print("built with {} pinned choices".format(len(pins["choices"])))
    return 0


def build(trt, model, pins, folder):
    """The serialized engine, and the choices that it was built without."""
    logger = make_logger(trt)
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    flags = 0
    creation = getattr(trt, "NetworkDefinitionCreationFlag", None)
    weak = hasattr(trt.BuilderFlag, "FP16")
    if hasattr(creation, "EXPLICIT_BATCH"):
        flags |= 1 << int(creation.EXPLICIT_BATCH)
    if pins["typing"] == "strong" and weak:
        flags |= 1 << int(creation.STRONGLY_TYPED)
    network = builder.create_network(flags)
    onnx = trt.OnnxParser(network, logger)
    if not onnx.parse_from_file(model):
        for index in range(onnx.num_errors):
            print(onnx.get_error(index).desc(), file=sys.stderr)
        return None, []
    for typed in pins["layer_types"]:
        layer = network.get_layer(typed["index"])
        if layer.name != typed["layer"]:
            print(
                "the model is not the one that was pinned: {} is {}".format(typed["layer"], layer.name),
                file=sys.stderr,
            )
            return None, []
        if typed["precision"] is not None:
            layer.precision = getattr(trt.DataType, typed["precision"])
        for index, dtype in enumerate(typed["outputs"]):
            if dtype is not None:
                layer.set_output_type(index, getattr(trt.DataType, dtype))
    config = builder.create_builder_config()
    configure(trt, builder, config, pins)
    check = by_cache if pins["mechanism"] == "cache" else by_selector
    again, missed = check(trt, config, pins["choices"], folder)
    serialized = builder.build_serialized_network(network, config)
    if serialized is not None and again():
        serialized = builder.build_serialized_network(network, config)
    return serialized, [] if serialized is None else missed()


def configure(trt, builder, config, pins):
    """The options of the build that was pinned."""
    options = pins["build"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in pins["flags"]:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if options.get("workspace_mib") is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_mib"] << 20)
    for name in ("optimization_level", "avg_timing_iterations", "build_route"):
        if options.get(name) is not None:
            setattr(
                config, {"optimization_level": "builder_optimization_level"}.get(name, name), options[name]
            )
    if options.get("tactic_sources") is not None:
        bits = 0
        for name in options["tactic_sources"]:
            bits |= 1 << int(getattr(trt.TacticSource, name.upper()))
        config.set_tactic_sources(bits)
    for feature in options.get("preview_features") or ():
        config.set_preview_feature(getattr(trt.PreviewFeature, feature[1:].upper()), feature[0] == "+")
    if options.get("hardware_compatibility"):
        level = getattr(trt.HardwareCompatibilityLevel, options["hardware_compatibility"].upper())
        config.hardware_compatibility_level = level
    if pins.get("profiles"):
        profile = builder.create_optimization_profile()
        for name, (low, middle, high) in pins["profiles"].items():
            profile.set_shape(name, low, middle, high)
        config.add_optimization_profile(profile)


def by_cache(trt, config, choices, folder):
    """Pin through the timing cache: an operator that is not in it is an error of the build.

    Without the cache's file the network is built twice: entries can be overwritten, and not made.
    """
    path = os.path.join(folder, "timing.cache")
    content = b""
    if os.path.exists(path):
        with open(path, "rb") as file:
            content = file.read()
        config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    config.set_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)
    cache = config.create_timing_cache(content)
    config.set_timing_cache(cache, ignore_mismatch=False)

    def write():
        written = []
        for choice in choices:
            value = trt.TimingCacheValue(int(choice["tactic"], 16), choice["milliseconds"] or 0.0)
            written.append(cache.update(trt.TimingCacheKey.parse(choice["key"]), value))
        return all(written)

    complete = write()

    def again():
        return not complete and write()

    def missed():
        found = []
        for choice in choices:
            value = cache.query(trt.TimingCacheKey.parse(choice["key"]))
            if int(value.tacticHash) != int(choice["tactic"], 16):
                found.append("{} at {}".format(choice["tactic"], choice["layer"]))
        return found

    return again, missed


def by_selector(trt, config, choices, folder):
    """Pin through an algorithm selector."""
    pinned = {}
    for choice in choices:
        pinned.setdefault(place_of(choice), []).append(variant_of(choice))

    class Selector(trt.IAlgorithmSelector):
        def __init__(self):
            trt.IAlgorithmSelector.__init__(self)
            self.taken = {}

        def select_algorithms(self, context, offered):
            wanted = pinned.get(place(context), [])
            exact = [index for index, each in enumerate(offered) if variant(context, each) in wanted]
            return exact or list(range(len(offered)))

        def report_algorithms(self, contexts, chosen):
            for context, each in zip(contexts, chosen):  # noqa: B905 - Python 3.8
                self.taken.setdefault(place(context), []).append(variant(context, each))

    selector = Selector()
    config.algorithm_selector = selector

    def missed():
        found = []
        for choice in choices:
            taken = selector.taken.get(place_of(choice))
            # A copy between formats is there only where the formats around it need one.
            needless = taken is None and choice["layer"].startswith("Reformatting CopyNode")
            if not needless and variant_of(choice) not in (taken or []):
                found.append("{} at {}".format(choice["tactic"], choice["layer"]))
        return found

    return (lambda: False), missed


def place_of(choice):
    """Where a recorded choice was made: the layer and its shapes."""
    return choice["layer"], tuple(tuple(shape) for shape in choice["shapes"])


def place(context):
    """Likewise, of what TensorRT asks about."""
    shapes = []
    for index in range(context.num_inputs + context.num_outputs):
        ranges = context.get_shape(index)
        if len(ranges):
            shapes.append(tuple(int(size) for size in ranges[len(ranges) // 2]))
    return context.name, tuple(shapes)


def variant_of(choice):
    """What was chosen: implementation, tactic, and how tensors are read and written."""
    forms = [
        (form["dtype"], tuple(form["strides"]), form["vectorized_dim"], form["components"], form["layout"])
        for form in (*choice["inputs"], *choice["outputs"])
    ]
    return int(choice["implementation"], 16), int(choice["tactic"], 16), tuple(forms)


def variant(context, algorithm):
    """Likewise, of what TensorRT offers."""
    forms = []
    for index in range(context.num_inputs + context.num_outputs):
        info = algorithm.get_algorithm_io_info(index)
        layout = getattr(info, "tensor_format", None)
        forms.append(
            (
                DTYPES.get(info.dtype.name, info.dtype.name.lower()),
                tuple(int(stride) for stride in info.strides),
                getattr(info, "vectorized_dim", None),
                getattr(info, "components_per_element", None),
                None if layout is None else layout.name,
            )
        )
    ids = algorithm.algorithm_variant
    mask = 0xFFFFFFFFFFFFFFFF
    return int(ids.implementation) & mask, int(ids.tactic) & mask, tuple(forms)


DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}


def make_logger(trt):
    """A logger that shows warnings and errors."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, msg):
            if "ERROR" in str(severity) or "WARNING" in str(severity):
                print(msg, file=sys.stderr)

    return Logger()


if __name__ == "__main__":
    sys.exit(main())
