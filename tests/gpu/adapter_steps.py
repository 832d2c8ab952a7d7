"""Carry out requests with the adapter of the Python that runs this, one after the other, in this process.

    PYTHON adapter_steps.py STEPS.json ANSWERS.json

STEPS is a list of messages; `engine_id` "last" is the engine built last. ANSWERS are the replies, written as they
come, so that a crash leaves those before it. Python 3.8 and NumPy are enough: no harness need be installed.
"""

import importlib
import importlib.util
import json
import os
import sys
import time

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "harness", "worker")


def load_worker():
    """The worker's package, as the worker itself loads it."""
    spec = importlib.util.spec_from_file_location(
        "harness_worker", os.path.join(WORKER, "__init__.py"), submodule_search_locations=[WORKER]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["harness_worker"] = module
    spec.loader.exec_module(module)
    importlib.import_module("harness_worker.preload").preload()
    return module


def main(steps_path, answers_path):
    """Read the steps, write the answers."""
    load_worker()
    protocol = importlib.import_module("harness_worker.protocol")
    adapter = importlib.import_module("harness_worker.adapter").create_adapter(print)
    handlers = {
        protocol.Probe: lambda step: adapter.probe(),
        protocol.BuildRequest: adapter.build,
        protocol.InferRequest: adapter.infer,
        protocol.SaveCache: lambda step: protocol.Done(
            cache_refused=bool(adapter.save_cache(protocol.TIMING, step.path))
        ),
        protocol.LoadCache: lambda step: protocol.Done(
            cache_refused=not adapter.load_cache(protocol.TIMING, step.path)
        ),
    }
    with open(steps_path) as file:
        steps = json.load(file)
    answers, last = [], None
    for step in steps:
        if step.get("engine_id") == "last":
            step["engine_id"] = last
        request = protocol.message_from_json(step)
        start = time.perf_counter()
        try:
            reply = handlers[type(request)](request)
        except protocol.Fault as fault:
            reply = protocol.Error(fault.kind, fault.message, fault.evidence, fault.fatal, fault.marks)
        if isinstance(request, protocol.BuildRequest):
            last = getattr(reply, "engine_id", "none: the build before it failed")
        answer = dict(protocol.message_to_json(reply), seconds=time.perf_counter() - start)
        answers.append(answer)
        print("##", type(request).__name__, json.dumps(answer)[:1500], flush=True)
        with open(answers_path, "w") as file:
            json.dump(answers, file)
    adapter.close()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
