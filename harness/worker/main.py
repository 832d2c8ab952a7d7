"""Start a worker: `python /path/to/harness/worker/main.py --connect SOCKET`, with the environment's Python.

Nothing of harness but this folder is importable here: it becomes the package `harness_worker`, so that no
module of the host shadows one of the environment.
"""

import argparse
import faulthandler
import importlib
import importlib.util
import os
import resource
import signal
import socket
import sys
from types import ModuleType
from typing import Any, Optional, Sequence

PACKAGE = "harness_worker"
FOLDER = os.path.dirname(os.path.abspath(__file__))


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Connect to the host and serve it until it lets go."""
    options = _parse(arguments)
    if sys.path[0] == FOLDER:
        del sys.path[0]  # what is in here is reached through the package only
    # A crash leaves its Python stack on stderr; a host that has waited too long asks for it with SIGUSR1.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    # Of private, writable memory: the address space that drivers reserve, and do not use, is not counted.
    limit = hard if options.memory is None else options.memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whether to stop is the host's to decide

    package = load_package(PACKAGE, FOLDER)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    importlib.import_module(PACKAGE + ".protocol").use_socket(options.connect, channel.connect)
    importlib.import_module(PACKAGE + ".lifeline").hold(options.connect)
    importlib.import_module(PACKAGE + ".preload").preload()
    server = importlib.import_module(package.__name__ + ".server")
    server.Server(channel, _adapter_factory(options.adapter), _log).run()
    # The adapter has freed what it held. Destructors that run in no order at exit crash in some releases.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="harness worker", description="Serve one TensorRT release and GPU.")
    parser.add_argument("--connect", required=True, metavar="SOCKET", help="Unix socket of the host")
    parser.add_argument("--adapter", metavar="FILE.py", help="an adapter instead of the one for TensorRT")
    parser.add_argument("--memory", type=int, metavar="BYTES", help="the most memory to have")
    return parser.parse_args(arguments)


def load_package(name: str, folder: str) -> ModuleType:
    """Import the package in `folder` under `name`, without making its neighbours importable."""
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError("{} is not a package".format(folder))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _adapter_factory(path: Optional[str]) -> Any:
    """`create_adapter` of the adapter package, or of the file at `path`; imported when it is first called."""

    def create(log: Any) -> Any:
        if path is None:
            module = importlib.import_module(PACKAGE + ".adapter")
        else:
            spec = importlib.util.spec_from_file_location(PACKAGE + ".given_adapter", path)
            if spec is None or spec.loader is None:
                raise ImportError("{} is not a Python file".format(path))
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return module.create_adapter(log)

    return create


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
