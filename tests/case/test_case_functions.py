"""The process that calls users' functions: what goes wrong in it is said of the function, and of no other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from harness.case import Case, resolve_model
from harness.case.functions import frames, messages, serving, take_score
from harness.case.functions.operators import load_operators
from harness.case.functions.process import call_apart
from harness.errors import BuilderError, InternalError, Place

HEAD = """\
import onnx
from onnx import TensorProto, helper


def model(name="y"):
    x, y = (helper.make_tensor_value_info(each, TensorProto.FLOAT, [2]) for each in ("x", name))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], [name])], "g", [x], [y])
    return helper.make_model(graph)


"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def case_of(text: str, **more) -> Case:
    """A case beside `users.py`, which holds `text`."""
    Path("users.py").write_text(HEAD + textwrap.dedent(text))
    source = {"model": {"path": "m.onnx"}} if "ops" in more else {"model": {"builder": "users:build"}}
    return Case.model_validate({"name": "x", "path": Path("x.case.yaml").absolute(), **source, **more})


def build(text: str) -> onnx.ModelProto:
    """What the builder `users:build` of `text` makes."""
    made = resolve_model(case_of(text))
    assert isinstance(made, onnx.ModelProto)
    return made


def line_of(text: str) -> int:
    """The first line of users.py that has `text`."""
    lines = Path("users.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


# Warnings


def test_threads_may_warn_at_the_same_time() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build(
            """
            import warnings
            from concurrent.futures import ThreadPoolExecutor

            def warn(number):
                for count in range(40):
                    warnings.warn(f"{number} {count} " + "x" * 3000)

            def build():
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(warn, range(8)))
                return model()
            """
        )
    said = {str(each.message).rpartition(" ")[0] for each in caught}
    assert said == {f"{number} {count}" for number in range(8) for count in range(40)}


def test_what_a_handler_says_while_something_is_sent_comes_behind_it(monkeypatch) -> None:
    sent = []
    voice = serving._Voice(line=None)

    def send(line, frame) -> None:
        if not sent:
            sent.append("begun")
            voice.say(
                messages.Returned("the handler")
            )  # as a handler of a signal does, in the middle of sendall
        sent.append(frame)

    monkeypatch.setattr(frames, "send", send)
    voice.say(messages.Returned("the function"))
    assert [bytes(each[-1]).decode() for each in sent[1:]] == [
        '{"harness": ["Returned", {"value": "the function"}]}',
        '{"harness": ["Returned", {"value": "the handler"}]}',
    ]


def test_workers_that_are_forked_warn_on_stderr(capfd) -> None:
    build(
        """
        import multiprocessing
        import warnings

        def warn(number):
            for count in range(40):
                warnings.warn(f"{number} {count} " + "x" * 500)

        def build():
            warnings.simplefilter("always")
            with multiprocessing.get_context("fork").Pool(4) as pool:
                pool.map(warn, range(8))
            return model()
        """
    )
    assert capfd.readouterr().err.count("UserWarning") == 8 * 40


def test_a_function_may_return_on_both_sides_of_a_fork() -> None:
    text = "import os\n\ndef build():\n    os.fork()\n    return model(f'y{os.getpid()}')\n"
    first, second = build(text), build(text)
    assert first.graph.output[0].name == second.graph.output[0].name  # the same process, still in order


@pytest.mark.parametrize("kind", ["Warning", "Own"])
def test_a_warning_that_is_an_error_is_the_functions(kind: str) -> None:
    text = f"""
    import warnings

    class Own(UserWarning):
        pass

    def build():
        warnings.warn("old", {kind if kind == "Own" else "UserWarning"})
        return model()
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BuilderError, match=r"builder users:build raised \w+: old") as caught:
            build(text)
    assert caught.value.where == f"users.py:{line_of('warnings.warn(')}"


def test_a_filter_that_only_harness_has_is_obeyed_too() -> None:
    text = "import warnings\n\ndef build():\n    warnings.simplefilter('always')\n    warnings.warn('old')\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BuilderError, match="builder users:build raised UserWarning: old") as caught:
            build(text)
    assert caught.value.where == f"users.py:{line_of('warnings.warn(')}"


# Frames


def test_a_function_that_writes_on_the_socket_is_blamed() -> None:
    text = """
    import os
    import socket
    import stat

    def build():
        for number in range(3, 64):
            try:
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.write(number, b"junk" * 20)
            except OSError:
                pass
        return model()
    """
    with pytest.raises(
        BuilderError, match="users:build wrote to a descriptor that harness had opened"
    ) as caught:
        build(text)
    assert caught.value.where == f"users.py:{line_of('def build')}"


def test_a_function_that_closes_the_socket_is_blamed(capfd) -> None:
    with pytest.raises(BuilderError, match="descriptor that harness had opened, or closed it") as caught:
        build("import os\n\ndef build():\n    os.closerange(3, 200)\n    return model()\n")
    assert caught.value.where == f"users.py:{line_of('def build')}"
    assert capfd.readouterr().err == ""


MALFORMED = {
    "another kind": messages.Restore(),
    "a field of another type": messages.Warned("old", "UserWarning", "users.py", "the third"),
    "a value instead of an object": messages.Watched(("users.py",), where=3),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_message_of_another_form_is_no_frame(kind: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames.send(theirs, frames.frame_of(MALFORMED[kind]))
        with pytest.raises(frames.FrameError):
            frames.receive(ours, messages.Reply)


def test_every_message_arrives_as_it_was_sent() -> None:
    place = Place(Path("users.py"), 3, None)
    told = [
        messages.Watched(("users.py", "neighbour.py"), place),
        messages.Watched((), None),
        messages.Warned("old", "UserWarning", "users.py", 3),
        messages.Raised("BuilderError", "raised Own: no", place, None, ("one",), "Traceback"),
        messages.Raised("BuilderError", "raised Own: no", "tiny", "try another", (), "Traceback"),
        messages.Returned({"paths": [Path("a"), place], "bytes": b"\xff", "none": None}),
    ]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for each in told:
            frames.send(theirs, frames.frame_of(each))
        assert [frames.receive(ours, messages.Reply) for _ in told] == told


def test_an_environment_of_any_bytes_reaches_the_function(monkeypatch) -> None:
    monkeypatch.setenv("OURS", os.fsdecode(b"\xff"))
    made = build("import os\n\ndef build():\n    return model(os.environb[b'OURS'].hex())\n")
    assert made.graph.output[0].name == "ff"


def test_complex_tensors_cross_between_operators() -> None:
    case = case_of(
        """
        import numpy as np
        from onnx.reference.op_run import OpRun

        class Double(OpRun):
            op_domain = "our.ops"

            def _run(self, x):
                return (2 * x,)

        def ops():
            return Double
        """,
        ops="users:ops",
    )
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.COMPLEX64, None) for name in "xy"]
    node = onnx.helper.make_node("Double", ["x"], ["y"], "double", domain="our.ops")
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("our.ops", 1)])
    given = {"x": np.array([1 + 2j, 3], np.complex64)}
    found = load_operators(case).compute(made.SerializeToString(), "double", given, {"y": "complex64"})
    assert found["y"].dtype == np.complex64
    assert found["y"].tolist() == [2 + 4j, 6]


def returns_an_object(case: Case, name: str) -> object:
    """A fault of harness: no frame carries this."""
    return object()


def test_a_fault_of_harness_is_not_called_the_functions(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    case = case_of("")
    with pytest.raises(InternalError, match="internal error: TypeError") as caught:
        call_apart(returns_an_object, case, "users:build", "builder")
    assert any("frame_of" in line for line in caught.value.evidence)


# What a function has returned or raised, and harness looks at


HANDED = {
    "proto": (
        "class Lazy:\n    @property\n    def model_proto(self):\n        DO\n\ndef build():\n    return Lazy()\n",
        "builder users:build returned a model that cannot be written: Own: at work",
    ),
    "tensor": (
        "import onnx_ir as ir\n\ndef give():\n    DO\n\ndef build():\n    made = ir.from_proto(model())\n"
        "    lazy = ir.LazyTensor(give, ir.DataType.FLOAT, ir.Shape([4]), name='w')\n"
        "    made.graph.register_initializer(ir.Value(name='w', const_value=lazy))\n    return made\n",
        "builder users:build returned a model that cannot be written: Own: at work",
    ),
    "message": (
        "class Bad(Exception):\n    def __str__(self):\n        DO\n\ndef build():\n    raise Bad\n",
        "builder users:build raised Bad: no message, as its __str__ raised Own",
    ),
    "float": (
        "class Score:\n    def __float__(self):\n        DO\n\ndef score(reference, candidate):\n    return Score()\n",
        "metric users:score returned something that is not a float: Own: at work",
    ),
    "repr": (
        "class Score:\n    def __repr__(self):\n        DO\n\ndef score(reference, candidate):\n    return Score()\n",
        "metric users:score returned a users.Score instead of a number",
    ),
    "operators": (
        "from onnx.reference.op_run import OpRun\n\nclass One(OpRun):\n    pass\n\n"
        "def ops():\n    yield One\n    DO\n",
        "ops users:ops raised Own: at work",
    ),
}
"""What runs when harness uses what came from the function, and what is said where it raises."""


def use(text: str) -> None:
    """Have harness call the function that `text` holds."""
    if "def ops" in text:
        load_operators(case_of(text, ops="users:ops"))
    elif "def score" in text:
        call_apart(take_score, case_of(text), "users:score", "metric", [], [], "{}")
    else:
        build(text)


@pytest.mark.parametrize("kind", HANDED)
def test_what_a_returned_object_raises_is_blamed_on_its_line(kind: str) -> None:
    text, message = HANDED[kind]
    with pytest.raises(BuilderError) as caught:
        use("class Own(Exception):\n    pass\n\n" + text.replace("DO", "raise Own('at work')"))
    assert caught.value.message == message
    line = {"message": "raise Bad", "repr": "def score"}.get(kind, "raise Own")
    assert caught.value.where == f"users.py:{line_of(line)}"


@pytest.mark.parametrize("kind", HANDED)
def test_what_a_returned_object_never_ends_is_ended_on_its_line(kind: str, monkeypatch) -> None:
    build(
        "import onnx.reference.op_run\nimport onnx_ir\n\ndef build():\n    return model()\n"
    )  # takes its time
    Path("harness.toml").write_text("[functions]\nseconds = 0.5\n")
    monkeypatch.setenv("HARNESS_CONFIG", str(Path("harness.toml").absolute()))
    text, _ = HANDED[kind]
    with pytest.raises(BuilderError, match=r"did not return within 0\.5 s") as caught:
        use(text.replace("DO", "while True: pass"))
    assert caught.value.where == f"users.py:{line_of('while True')}"


def test_a_number_that_is_no_float_is_blamed() -> None:
    with pytest.raises(BuilderError, match="returned something that is not a float: OverflowError") as caught:
        use("def score(reference, candidate):\n    return 10 ** 5000\n")
    assert caught.value.where == f"users.py:{line_of('def score')}"


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("Own('gone')", "builder users:build raised Own: gone"),
        ("KeyboardInterrupt('gone')", "builder users:build raised KeyboardInterrupt: gone"),
        ("SystemExit('gone')", "builder users:build raised SystemExit: gone"),
        ("GeneratorExit", "builder users:build raised GeneratorExit: without a message"),
    ],
)
def test_whatever_is_raised_keeps_its_message(raised: str, message: str, capfd) -> None:
    with pytest.raises(BuilderError) as caught:
        build(f"class Own(BaseException):\n    pass\n\ndef build():\n    raise {raised}\n")
    assert caught.value.message == message
    assert caught.value.where == f"users.py:{line_of('raise')}"
    assert capfd.readouterr().err == ""


def test_long_messages_are_cut() -> None:
    with pytest.raises(BuilderError) as caught:
        build("def build():\n    raise ValueError('x' * 5_000_000)\n")
    assert "more characters)" in caught.value.message
    assert len(str(caught.value)) < 5_000
    assert len(str(caught.value.__cause__)) < 20_000


def test_strings_between_operators_are_blamed_on_the_operator() -> None:
    case = case_of(
        """
        import numpy as np
        from onnx.reference.op_run import OpRun

        class Words(OpRun):
            op_domain = "our.ops"

            def _run(self, x):
                return (np.array(["a"], dtype=object),)

        def ops():
            return Words
        """,
        ops="users:ops",
    )
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy")
    node = onnx.helper.make_node("Words", ["x"], ["y"], "words", domain="our.ops")
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("our.ops", 1)])
    given = {"x": np.float32([1])}
    with pytest.raises(BuilderError, match="returned object for 'y' at node 'words'"):
        load_operators(case).compute(made.SerializeToString(), "words", given, {"y": None})


# What one function leaves behind for the next


PID = "import os\n\ndef build():\n    return model(f'y{os.getpid()}')\n"


@pytest.mark.parametrize(
    "change",
    [
        "import signal; signal.alarm(1)",
        "import signal; signal.setitimer(signal.ITIMER_REAL, 0.3)",
        "import warnings; warnings.simplefilter('error')",
    ],
)
def test_what_can_be_restored_is(change: str) -> None:
    first = build(PID.replace("    return", f"    {change}\n    return"))
    second = build(
        PID.replace(
            "    return", "    import time, warnings; time.sleep(1.2); warnings.warn('old')\n    return"
        )
    )
    assert first.graph.output[0].name == second.graph.output[0].name


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("import sys; sys.stdout.close()", "print('said', flush=True)"),
        ("import sys; sys.stderr = None", "import sys; sys.stderr.write('')"),
        ("import numpy as np; np.seterr(all='raise')", "import numpy as np; np.float32(1) / np.zeros(1)"),
        ("import sys; sys.setrecursionlimit(5000)", "import sys; assert sys.getrecursionlimit() < 5000"),
        (
            "import signal; signal.signal(signal.SIGINT, lambda *_: os._exit(3))",
            "import signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler",
        ),
        (
            "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (99, 4096))",
            "import resource as r; assert r.getrlimit(r.RLIMIT_NOFILE)[0] != 99",
        ),
        (
            "import threading, time; threading.Thread(target=time.sleep, args=[60]).start()",
            "import threading; assert len(threading.enumerate()) == 2",
        ),
    ],
)
def test_what_cannot_be_restored_costs_the_process(change: str, seen: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = build(PID.replace("    return", f"    {change}\n    return"))
        second = build(PID.replace("    return", f"    {seen}\n    return"))
    assert first.graph.output[0].name != second.graph.output[0].name


@pytest.mark.parametrize("by", ["SIGKILL", "SIGHUP", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("child", ["fork", "subprocess"])
def test_what_a_function_has_started_ends_with_harness(child: str, by: str) -> None:
    start = {
        "fork": "if os.fork() == 0:\n        open('born', 'w').write(f'{os.getpid()}\\n')\n        while True: pass",
        "subprocess": "child = subprocess.Popen(['sleep', '600'])\n    open('born', 'w').write(f'{child.pid}\\n')",
    }[child]
    case_of(f"import os, subprocess\n\ndef build():\n    {start}\n    return sum(iter(int, 1))\n")
    Path("a.case.yaml").write_text("model: {builder: users:build}\nruns: [fp32]\n")
    command = [sys.executable, "-m", "harness", "run", "a.case.yaml"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as started:
        until = time.monotonic() + 60
        while not (Path("born").exists() and Path("born").read_text().endswith("\n")):
            assert time.monotonic() < until
            time.sleep(0.05)
        started.send_signal(getattr(signal, by))
        _, said = started.communicate(timeout=30)
    assert "Traceback" not in said
    state = Path(f"/proc/{int(Path('born').read_text())}/stat")
    until = time.monotonic() + 10
    while lives(state) and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives(state)


def lives(state: Path) -> bool:
    """Whether the process of /proc/…/stat runs."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    return False
