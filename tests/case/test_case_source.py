import contextlib
import hashlib
import http.server
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from harness.case import Case, resolve_model
from harness.case.functions import UserFunction
from harness.errors import BuilderError, ChecksumError, ModelError

MODELS = """\
import numpy as np
import onnx
from onnx import helper, numpy_helper

SIZE = 4

def scaled(scale: float = 2.0, *, size: int = SIZE):
    weights = numpy_helper.from_array(np.full(size, scale, np.float32), "w")
    node = helper.make_node("Mul", ["x", "w"], ["y"], name="mul")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", 1, [size])], [value("y", 1, [size])], [weights]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

def in_ir():
    import onnx_ir
    return onnx_ir.from_proto(scaled())

def nothing():
    return None

def broken():
    return _inner()

def _inner():
    raise KeyError("no weights")

def ends():
    raise SystemExit(3)
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A case in `cases/`, a folder of the working directory; its model source is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("cases").mkdir()

    def make_case(**source) -> Case:
        body = {"name": "x", "path": Path("cases/x.case.yaml"), "model": source}
        return Case.model_validate(body)

    return make_case


@pytest.fixture
def models(make):
    def write(text: str = MODELS, name: str = "models.py") -> None:
        path = Path("cases", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    write()
    return write


# Files


def test_a_path_is_relative_to_the_case(make):
    Path("cases/m.onnx").write_bytes(b"abc")
    assert resolve_model(make(path="m.onnx")) == Path("cases/m.onnx")


def test_a_missing_model_names_its_nearest_neighbour(make):
    Path("cases/resnet.onnx").touch()
    with pytest.raises(ModelError, match="no such model file") as caught:
        resolve_model(make(path="resnet5.onnx"))
    assert caught.value.where == "cases/resnet5.onnx"
    assert caught.value.hint == "did you mean `resnet.onnx`?"


def test_a_folder_is_no_model(make):
    with pytest.raises(ModelError, match="is a folder"):
        resolve_model(make(path="../cases"))


def test_a_file_that_is_none_is_no_neighbour_of_itself(make):
    Path("cases/folder.onnx").mkdir()
    Path("cases/dangling.onnx").symlink_to("gone")
    for name in ("folder.onnx", "dangling.onnx"):
        with pytest.raises(ModelError) as caught:
            resolve_model(make(path=name))
        assert "did you mean" not in str(caught.value)


def test_the_checksum_of_a_path_is_verified(make):
    Path("cases/m.onnx").write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert resolve_model(make(path="m.onnx", sha256=digest)) == Path("cases/m.onnx")
    with pytest.raises(ChecksumError) as caught:
        resolve_model(make(path="m.onnx", sha256="0" * 64))
    assert (caught.value.expected, caught.value.actual) == ("0" * 64, digest)


# Downloads


class _Server:
    """A real HTTP server of one payload, which counts its requests."""

    def __init__(self, payload: bytes) -> None:
        server = self
        self.requests = 0
        self.cut = 0
        self.hold = threading.Event()  # cleared, half of the payload is sent, and no more
        self.hold.set()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                time.sleep(0.2)  # long enough for a second download to start
                self.send_response(200 if self.path == "/m.onnx" else 404)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):
                    self.wfile.write(payload[: len(payload) // 2])
                    server.hold.wait(60)
                    self.wfile.write(payload[len(payload) // 2 : len(payload) - server.cut])

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/m.onnx"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


PAYLOAD = b"a model" * 1000
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = _Server(PAYLOAD)
    yield server
    server.close()


def cached() -> list[Path]:
    return [path for path in Path("cache").rglob("*") if path.is_file() and path.parent.name == "models"]


def test_a_download_is_kept_and_not_repeated(make, server):
    case = make(url=server.url, sha256=DIGEST)
    first = resolve_model(case)
    assert first.read_bytes() == PAYLOAD
    assert resolve_model(case) == first
    assert server.requests == 1


def test_a_damaged_download_is_fetched_again(make, server):
    case = make(url=server.url, sha256=DIGEST)
    resolve_model(case).write_bytes(b"damaged")
    assert resolve_model(case).read_bytes() == PAYLOAD


def test_downloads_at_the_same_time_are_one(make, server):
    case = make(url=server.url, sha256=DIGEST)
    found = []
    threads = [threading.Thread(target=lambda: found.append(resolve_model(case))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert server.requests == 1


def test_a_wrong_checksum_leaves_nothing(make, server):
    with pytest.raises(ChecksumError) as caught:
        resolve_model(make(url=server.url, sha256="0" * 64))
    assert caught.value.actual == DIGEST
    assert caught.value.where == server.url
    assert cached() == []


def test_a_download_that_is_cut_short_leaves_nothing(make, server):
    server.cut = 10
    with pytest.raises(ModelError):
        resolve_model(make(url=server.url, sha256=DIGEST))
    assert cached() == []


def test_a_download_that_never_ends_is_given_up(make, server, monkeypatch):
    monkeypatch.setattr("harness.case.source._LARGEST", len(PAYLOAD) - 1)
    with pytest.raises(ModelError, match="it has more than 0 MiB"):
        resolve_model(make(url=server.url, sha256=DIGEST))
    monkeypatch.setattr("harness.case.source._LARGEST", 1 << 30)
    monkeypatch.setattr("harness.case.source._LONGEST", -1.0)
    with pytest.raises(ModelError, match="only 0 MiB have come"):
        resolve_model(make(url=server.url, sha256=DIGEST))
    assert cached() == []


@pytest.mark.parametrize("nameless", [True, False])
def test_a_kill_in_a_download_leaves_nothing_for_long(make, server, tmp_path, nameless):
    case = make(url=server.url, sha256=DIGEST)
    server.hold.clear()
    lines = ["import os, sys", "from harness.case.source import download"]
    lines += [] if nameless else ["del os.O_TMPFILE"]
    code = "\n".join([*lines, "download(*sys.argv[1:])"])
    models, until = tmp_path / "cache" / "harness" / "models", time.monotonic() + 60
    process = subprocess.Popen([sys.executable, "-c", code, server.url, DIGEST])
    try:
        while not models.exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)  # and the file is opened
    finally:
        process.kill()
        process.wait()
        server.hold.set()
    left = [path.name for path in models.iterdir()]
    assert len(left) == (0 if nameless else 1), left
    assert resolve_model(case).read_bytes() == PAYLOAD
    assert [path.name for path in models.iterdir()] == [f"{DIGEST}.onnx"]


def test_what_a_killed_download_left_is_removed_by_the_next(make, server):
    case = make(url=server.url, sha256=DIGEST)
    target = resolve_model(case)
    target.unlink()
    (left_over := target.with_name(f".{target.name}.0123.tmp")).write_bytes(PAYLOAD[:3])
    resolve_model(case)
    assert not left_over.exists()


def test_an_address_without_a_model_is_one_message(make, server):
    with pytest.raises(ModelError, match="cannot be downloaded: Not Found"):
        resolve_model(make(url=server.url + "x", sha256=DIGEST))
    assert cached() == []


def test_a_server_that_is_not_there_is_one_message(make, server):
    server.close()
    with pytest.raises(ModelError, match=r"cannot be downloaded: .*refused"):
        resolve_model(make(url=server.url, sha256=DIGEST))


def test_a_file_url_is_copied(make, tmp_path):
    (tmp_path / "m.onnx").write_bytes(PAYLOAD)
    copied = resolve_model(make(url=(tmp_path / "m.onnx").as_uri(), sha256=DIGEST))
    assert copied.read_bytes() == PAYLOAD
    assert copied.is_relative_to(tmp_path / "cache" / "harness" / "models")


# Builders


def weights(model: onnx.ModelProto) -> np.ndarray:
    return onnx.numpy_helper.to_array(model.graph.initializer[0])


def test_a_builder_gets_its_arguments(make, models):
    model = resolve_model(make(builder="models:scaled", args={"scale": 3, "size": 2}))
    assert weights(model).tolist() == [3.0, 3.0]


def test_what_a_builder_prints_does_not_reach_stdout(make, models, capfd):
    models(MODELS + "print('importing')\ndef talks():\n    print('building')\n    return scaled()\n")
    resolve_model(make(builder="models:talks"))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "importing\nbuilding\n")


def test_a_builder_may_return_an_ir_model(make, models):
    assert isinstance(resolve_model(make(builder="models:in_ir")), onnx.ModelProto)


def test_a_changed_builder_is_read_anew(make, models, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    case = make(builder="models:scaled")
    os.utime("cases/models.py", (1e9, 1e9))
    assert weights(resolve_model(case))[0] == 2.0
    models(MODELS.replace("2.0", "5.0"))
    os.utime("cases/models.py", (1e9, 1e9))  # same size, same time: a cached .pyc would still be valid
    assert weights(resolve_model(case))[0] == 5.0


def test_a_builder_leaves_no_trace_in_the_process(make, models):
    before = (list(sys.path), list(sys.meta_path), {name for name in sys.modules if "models" in name})
    models("import helpers\nfrom pack.inner import f\ndef g():\n    return f()\n", "other.py")
    models("VALUE = 1\n", "helpers.py")
    models("", "pack/__init__.py")
    models(
        "import helpers\nfrom models import scaled\ndef f():\n    return scaled(helpers.VALUE)\n",
        "pack/inner.py",
    )
    assert weights(resolve_model(make(builder="other:g")))[0] == 1.0
    assert (list(sys.path), list(sys.meta_path), {name for name in sys.modules if "models" in name}) == before
    assert not {"other", "helpers", "pack", "pack.inner"} & set(sys.modules)
    assert not list(Path("cases").rglob("__pycache__"))


def test_a_module_beside_the_case_hides_a_loaded_one_for_the_moment(make, models, monkeypatch):
    stranger = type(sys)("models")
    monkeypatch.setitem(sys.modules, "models", stranger)
    assert weights(resolve_model(make(builder="models:scaled")))[0] == 2.0
    assert sys.modules["models"] is stranger


def test_packages_installed_below_the_folder_are_not_the_case_s(make, models, monkeypatch):
    """A virtual environment often lies beside the cases; what is loaded from it stays loaded."""
    site = Path("cases/.venv/site").resolve()
    models("from third_party_package import sub\nfrom models import scaled\n", "other.py")
    for name in ("__init__.py", "sub.py"):
        models("", f".venv/site/third_party_package/{name}")
    monkeypatch.syspath_prepend(str(site))
    case = make(builder="other:scaled")
    resolve_model(case)
    with UserFunction("other:scaled", case) as function:  # as the process of functions does it
        function()
    loaded = {name for name in sys.modules if name.startswith("third_party_package")}
    for name in loaded:
        del sys.modules[name]
    assert loaded == {"third_party_package", "third_party_package.sub"}


def test_an_installed_module_can_build(make, monkeypatch, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "installed_builders.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(BuilderError, match="an installed package, and only those"):
        resolve_model(make(builder="installed_builders:scaled"))
    (tmp_path / "harness.toml").write_text('[functions]\npackages = ["installed_builders"]\n')
    (tmp_path / "harness.toml").chmod(0o644)
    monkeypatch.setenv("HARNESS_CONFIG", str(tmp_path / "harness.toml"))
    assert weights(resolve_model(make(builder="installed_builders:scaled")))[0] == 2.0
    with pytest.raises(BuilderError) as caught:
        resolve_model(make(builder="installed_builders:broken"))
    assert caught.value.where == "site/installed_builders.py:27"


REEXPORTS = """
import functools
import os
import pathlib
from os import system
from subprocess import Popen

from harness.tensors import write_text

partial = functools.partial(os.system, "touch done")
nested = functools.partial(functools.partial(os.system), "touch done")
cached = functools.lru_cache(os.system)
method = pathlib.Path("done").touch
builtin = exec
bound = [].append
caller = __import__("operator").methodcaller("touch")
"""


@pytest.mark.parametrize("key", ["builder", "torch"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("os:system", "'os' belongs to"),
        ("posix:system", "'posix' belongs to"),
        ("builtins:exec", "'builtins' belongs to"),
        ("os.path:join", "'os.path' belongs to"),
        ("subprocess:Popen", "'subprocess' belongs to"),
        ("importlib.util:find_spec", "'importlib.util' belongs to"),
        ("test.support:run_unittest", "'test.support' belongs to"),  # no name of sys.stdlib_module_names
        ("__main__:main", "'__main__' belongs to"),
        ("harness:run", "'harness' belongs to harness"),
        ("harness.tensors:write_text", "'harness.tensors' belongs to harness"),
        ("reexports:write_text", "'write_text' is harness."),
        ("reexports:system", "'system' is posix's"),
        ("reexports:Popen", "'Popen' is subprocess's"),
        ("reexports:partial", "'partial' is posix's"),
        ("reexports:nested", "'nested' is posix's"),
        ("reexports:cached", "'cached' is posix's"),
        ("reexports:method", "'method' is pathlib's"),
        ("reexports:builtin", "'builtin' is builtins's"),
        ("reexports:bound", "'bound' is builtins's"),
        ("reexports:caller", "'caller' is operator's"),
    ],
)
def test_the_standard_library_builds_no_models(make, models, key, name, reason):
    models(REEXPORTS, "reexports.py")
    case = make(**{key: name}, args={"command": "touch done"})
    case.path.write_text(
        f"description: x\nmodel:\n  {key}: {name}\n  args: {{command: touch done}}\nruns: [fp32]\n"
    )
    with pytest.raises(BuilderError) as caught, UserFunction(name, case):
        pass  # what exporting a PyTorch module begins with, too
    error = caught.value
    assert error.message.startswith(f"builder {name}: {reason}")
    assert (error.where, error.hint) == (
        "cases/x.case.yaml:3",
        "name a function of your own, in a module beside the case file",
    )
    assert not Path("done").exists()


def test_a_module_of_the_standard_library_is_not_even_imported(make, monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with pytest.raises(BuilderError):
        resolve_model(make(builder="this:s"))
    assert "this" not in sys.modules


OWN = """
import functools
from models import scaled

partial = functools.partial(scaled, 3.0)
cached = functools.lru_cache(scaled)

@functools.wraps(scaled)
def wrapped():
    return scaled(3.0)

class Builder:
    def __call__(self):
        return scaled(3.0)

    @classmethod
    def build(cls):
        return scaled(3.0)

    def method(self):
        return scaled(3.0)

instance = Builder()
build = Builder.build
method = instance.method
anonymous = lambda: scaled(3.0)
"""


@pytest.mark.parametrize("name", ["partial", "cached", "wrapped", "instance", "build", "method", "anonymous"])
@pytest.mark.parametrize("module", ["own", "calendar"])
def test_own_functions_build_whatever_they_are_wrapped_in(make, models, module, name):
    models(OWN, f"{module}.py")  # calendar.py beside the case is the case's, not Python's
    assert weights(resolve_model(make(builder=f"{module}:{name}")))[0] in (2.0, 3.0)


@pytest.mark.parametrize(
    ("source", "message", "where", "hint"),
    [
        (
            {"builder": "modls:scaled"},
            "builder modls:scaled: there is no module 'modls'",
            "cases/x.case.yaml",
            "did you mean `models`?",
        ),
        (
            {"builder": "models:scald"},
            "builder models:scald: module 'models' has no function 'scald'",
            "cases/models.py",
            "did you mean `scaled`?",
        ),
        (
            {"builder": "models:zzz"},
            "builder models:zzz: module 'models' has no function 'zzz'",
            "cases/models.py",
            "it defines scaled, in_ir, nothing, broken, ends",
        ),
        (
            {"builder": "models:SIZE"},
            "builder models:SIZE: 'SIZE' is not a function",
            "cases/models.py",
            None,
        ),
        (
            {"builder": "models:scaled", "args": {"scal": 1}},
            "builder models:scaled: got an unexpected keyword argument 'scal', did you mean `scale`?",
            "cases/x.case.yaml",
            "its signature is scaled(scale: float = 2.0, *, size: int = 4)",
        ),
        (
            {"builder": "models:broken"},
            "builder models:broken raised KeyError: 'no weights'",
            "cases/models.py:27",
            None,
        ),
        ({"builder": "models:ends"}, "builder models:ends raised SystemExit: 3", "cases/models.py:30", None),
        (
            {"builder": "models:nothing"},
            "builder models:nothing returned None instead of an onnx.ModelProto or an onnx_ir.Model",
            "cases/models.py:20",
            None,
        ),
    ],
)
def test_a_builder_that_fails_is_blamed_precisely(make, models, source, message, where, hint):
    with pytest.raises(BuilderError) as caught:
        resolve_model(make(**source))
    error = caught.value
    assert (error.message, error.where, error.hint) == (message, where, hint)
    assert error.exit_code == 2


def test_the_traceback_of_the_users_code_stays_with_the_error(make, models):
    with pytest.raises(BuilderError) as caught:
        resolve_model(make(builder="models:broken"))
    assert "in _inner\n" in str(caught.value.__cause__)


@pytest.mark.parametrize("builder", ["uses:build", "elsewhere:build", "late:build"])
def test_a_module_of_the_working_directory_comes_with_the_way_to_have_it_found(make, models, builder):
    Path("elsewhere").mkdir()
    models("import elsewhere\n", "uses.py")
    models("def build():\n    import elsewhere\n", "late.py")
    with pytest.raises(BuilderError, match=r"(No|no) module") as caught:
        resolve_model(make(builder=builder))
    assert (
        caught.value.hint
        == "'elsewhere' is in the working directory, which is not searched: try `PYTHONPATH=. harness …`"
    )


def test_functions_that_a_package_hands_on_are_suggested(make):
    package = Path("cases/nets")
    package.mkdir()
    (package / "__init__.py").write_text("from pathlib import Path\nfrom .conv import resnet\n")
    (package / "conv.py").write_text("def resnet():\n    return None\n")
    with pytest.raises(BuilderError) as caught:
        resolve_model(make(builder="nets:resnt"))
    assert caught.value.hint == "did you mean `resnet`?"
    with pytest.raises(BuilderError) as caught:
        resolve_model(make(builder="nets:zzz"))
    assert caught.value.hint == "it defines resnet"


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("def f(:\n", "cannot be imported: SyntaxError: invalid syntax", 1),
        ("x = 1\nraise RuntimeError('too early')\n", "cannot be imported: RuntimeError: too early", 2),
        (
            "import not_there_at_all\n",
            "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'",
            1,
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_blamed(make, models, text, message, line):
    models(text, "bad.py")
    with pytest.raises(BuilderError) as caught:
        resolve_model(make(builder="bad:f"))
    assert message in caught.value.message
    assert caught.value.where == f"cases/bad.py:{line}"
    assert "bad" not in sys.modules
