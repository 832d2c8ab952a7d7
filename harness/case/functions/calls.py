"""Calls of the functions that a case names as `module:function`, and blame for what goes wrong in them.

A module beside the case file wins over an installed one. It is found by an import hook instead of `sys.path`,
compiled from its source instead of from a cached `.pyc` (whose check has a resolution of one second), and
taken out of `sys.modules` again, so that two folders of cases may each have their own `models.py`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Self, TypeVar

from harness.case.functions.config_file import CONFIG_NAME
from harness.case.functions.messages import Watched
from harness.case.functions.settings import function_settings
from harness.case.schema import Case
from harness.errors import BuilderError, HarnessError, Place
from harness.text import suggestion

T = TypeVar("T")
OWN = "name a function of your own, in a module beside the case file"
_MOST = 4000
"""Characters of what a function says that are handed on."""
_DEEPEST = 20
"""Exceptions, each the cause of the one before, that are looked at."""

_HARNESS = __name__.partition(".")[0]
_lock = threading.RLock()  # sys.meta_path and sys.modules belong to the whole process


Tell = Callable[[Watched], None]
_watchers: list[Tell] = []


def watch(tell: Tell) -> None:
    """Have `tell` called with what begins to work in this process. Its time goes on when it has returned: what harness
    does with what it returned is work of it, too."""
    _watchers.append(tell)


def _tell(watched: Watched) -> None:
    for tell in _watchers:
        tell(watched)


class UserFunction:
    """A function of a module beside the case file, or of an installed one; called inside a `with` block.

    Args:
        name: `module:function`.
        case: the case that names it.
        kind: what it is to the case: `builder`, `metric`, `ops`.

    Raises:
        BuilderError: on entering, the module or the function cannot be found, the module raised, or the function is
            one of Python's standard library or of harness (`os:system` would run a command that a case file holds), or
            of an installed package that harness.toml does not name.
    """

    def __init__(self, name: str, case: Case, kind: str = "builder") -> None:
        self.name = name
        self._case = case
        self._kind = kind
        self._settings = function_settings()
        self._imports = _FolderImports(case.folder, name.partition(":")[0])
        self._stack = contextlib.ExitStack()
        self._function: Callable[..., Any]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._imports)
            # stdout belongs to the document that a command prints, not to what a builder says meanwhile.
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            module_name, _, attribute = self.name.partition(":")
            if owner := owner_of(module_name, self._case.folder):
                # It is not even imported: some modules act when they are.
                raise self._refusal(f"{module_name!r} {owner}")
            if foreign := not_allowed(module_name, self._case.folder, self._settings.packages):
                raise self._refusal(foreign, hint=f"allow it in {CONFIG_NAME}: [functions] packages = […]")
            module = self.within_limit(lambda: self._import(module_name))
            self._function = self._find(module, attribute)
            if owner := owner_of(home := _home(self._function), self._case.folder):
                raise self._refusal(f"{attribute!r} is {home}'s, which {owner}")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        self._stack.close()
        if error is None or isinstance(error, HarnessError):
            return
        # Raised by an object that the function has made, wherever harness used it.
        if self.line_of(error) is not None:
            raise self.blame(error) from error

    def __call__(self, **arguments: Any) -> Any:
        """Call the function.

        Raises:
            BuilderError: it does not take these arguments, or it raised.
        """
        self._check_arguments(arguments)
        return self.run(lambda: self._function(**arguments))

    def run(self, work: Callable[[], T], verb: str = "raised") -> T:
        """What `work` returns, which calls the function or uses what it has returned.

        Raises:
            BuilderError: it raised.
        """
        try:
            return self.within_limit(work)
        except HarnessError:
            raise
        except BaseException as error:  # KeyboardInterrupt, too: nobody else interrupts here
            raise self.blame(error, verb) from error

    def within_limit(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises; whoever watches this process ends it where the answer takes longer than
        harness.toml allows.
        """
        _tell(Watched(tuple(self.files), self._defined))
        return work()

    def error(self, message: str, *, where: Place | None = None, hint: str | None = None) -> BuilderError:
        """A BuilderError that points at `where`, by default at the definition of the function."""
        place = where or self._defined or self._where
        return BuilderError(f"{self._kind} {self.name} {message}", where=place, hint=hint)

    @property
    def files(self) -> frozenset[str]:
        """The files of the function's own module and its neighbours, while it is entered."""
        own = (sys.modules.get(name) for name in self._own)
        return frozenset(str(module.__file__) for module in own if module is not None and module.__file__)

    @property
    def _own(self) -> frozenset[str]:
        return frozenset({*self._imports.loaded, self.name.partition(":")[0]})

    @staticmethod
    def short(path: str) -> Path:
        """`path` as messages show it."""
        return short(path)

    @property
    def _defined(self) -> Place | None:
        """Where the function is defined."""
        function = getattr(self, "_function", None)
        code = None if function is None else getattr(inspect.unwrap(function), "__code__", None)
        return Place(short(code.co_filename), code.co_firstlineno) if code else None

    @property
    def _where(self) -> Path | Place | str:
        return self._case.path or self._case.name

    def _refusal(self, reason: str, *, hint: str = OWN) -> BuilderError:
        from harness.case.document import read_document

        where = self._where
        if self._case.path is not None:
            key = "torch" if self._case.model.torch is not None else "builder"
            place = ("model", key) if self._kind == "builder" else (self._kind,)
            line, _ = read_document(self._case.path).position(place)
            where = Place(self._case.path, line)
        return BuilderError(f"{self._kind} {self.name}: {reason}", where=where, hint=hint)

    def _import(self, name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
                near = suggestion(name, modules_in(self._case.folder))
                places = f"it is looked up in {self._case.folder.resolve()}, then among installed packages"
                raise BuilderError(
                    f"{self._kind} {self.name}: there is no module {error.name!r}",
                    where=self._where,
                    hint=near or unsearched(error) or places,
                ) from None
            raise self.blame(error, "cannot be imported:") from error
        except BaseException as error:
            raise self.blame(error, "cannot be imported:") from error

    def _find(self, module: ModuleType, attribute: str) -> Callable[..., Any]:
        found: Callable[..., Any] | None = getattr(module, attribute, None)
        if callable(found):
            return found
        where = short(module.__file__) if module.__file__ else self._where
        if found is not None:
            raise BuilderError(f"{self._kind} {self.name}: {attribute!r} is not a function", where=where)
        own = [
            name
            for name, value in vars(module).items()
            if callable(value)
            and not name.startswith("_")
            and _package(getattr(value, "__module__", None) or "") == _package(module.__name__)
        ]
        hint = suggestion(attribute, own) or f"it defines {', '.join(own) or 'no function'}"
        raise BuilderError(
            f"{self._kind} {self.name}: module {module.__name__!r} has no function {attribute!r}",
            where=where,
            hint=hint,
        )

    def _check_arguments(self, arguments: dict[str, Any]) -> None:
        try:
            signature = inspect.signature(self._function)
        except (TypeError, ValueError):
            return  # built-in functions need not have one
        try:
            signature.bind(**arguments)
        except TypeError as error:
            unknown = [name for name in arguments if name not in signature.parameters]
            near = suggestion(unknown[0], signature.parameters) if unknown else None
            raise BuilderError(
                f"{self._kind} {self.name}: {error}" + (f", {near}" if near else ""),
                where=self._where,
                hint=f"its signature is {self.name.partition(':')[2]}{signature}",
            ) from None

    def blame(self, error: BaseException, verb: str = "raised", place: Place | None = None) -> BuilderError:
        """A BuilderError for what was raised, or caused it in the function's own module, at the innermost line there;
        where there is none, at `place`, or where the function is defined."""
        raised: BaseException | None = error
        for _ in range(_DEEPEST):
            if raised is None or self.line_of(raised) is not None:
                break
            raised = raised.__cause__ or raised.__context__
        blamed = error if raised is None else raised
        where = self.line_of(blamed) or place
        return self.error(f"{verb} {said(blamed)}", where=where, hint=unsearched(blamed))

    def line_of(self, error: BaseException) -> Place | None:
        """The line of the innermost frame in the function's module or a neighbour of it."""
        if isinstance(error, SyntaxError) and error.filename:
            return Place(short(error.filename), error.lineno)
        return self._line_in(traceback.walk_tb(error.__traceback__))

    def _line_in(self, frames: Iterable[tuple[FrameType, int]]) -> Place | None:
        """The last of `frames`, which go inwards, that is the function's own module or a neighbour of it."""
        own = self._own
        found = None
        for frame, line in frames:
            if frame.f_globals.get("__name__") in own:
                found = Place(short(frame.f_code.co_filename), line)
        return found


class _FromSource(SourceFileLoader):
    """Compiles the source every time; neither reads nor writes `__pycache__`."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _FolderImports(MetaPathFinder):
    """While active, modules of `folder` come first; afterwards `sys.modules` is as it was.

    A module that was already loaded from the folder stays. Names of the standard library are left alone, save
    for `module`, which is wanted.

    Args:
        folder: where modules are looked up.
        module: the dotted name of the module that is wanted.
    """

    def __init__(self, folder: Path, module: str) -> None:
        self._folder = folder.resolve()
        self._wanted = module.partition(".")[0]
        self._names: set[str] = set()
        self._hidden: dict[str, ModuleType] = {}
        self.loaded: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module in the folder, or in a package that was found there."""
        parent = fullname.rpartition(".")[0]
        if (parent not in self.loaded) if parent else (fullname not in self._names):
            return None
        for entry in [str(self._folder)] if path is None else path:
            spec = FileFinder(entry, (_FromSource, [".py"])).find_spec(fullname)
            if spec is not None and spec.loader is not None:
                self.loaded.add(fullname)
                return spec
        return None

    def __enter__(self) -> Self:
        _lock.acquire()
        own = set(modules_in(self._folder))
        self._names = (own - sys.stdlib_module_names) | (own & {self._wanted})
        self._hidden = {
            name: module for name, module in sys.modules.items() if self._is_foreign(name, module)
        }
        for name in self._hidden:
            del sys.modules[name]
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)
        for name in self.loaded:
            sys.modules.pop(name, None)
        sys.modules.update(self._hidden)
        _lock.release()

    def _is_foreign(self, name: str, module: ModuleType) -> bool:
        """Whether a loaded module has the name of one of the folder's, and comes from elsewhere."""
        top = name.partition(".")[0]
        file = getattr(sys.modules.get(top, module), "__file__", None)
        return top in self._names and (file is None or not Path(file).resolve().is_relative_to(self._folder))


def modules_in(folder: Path) -> list[str]:
    """Names of the modules and packages in a folder."""
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted([*packages, *(path.stem for path in folder.glob("*.py"))])


def unsearched(error: BaseException) -> str | None:
    """How a module is found that `error` misses and the working directory has; None if that is not why."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    if not name or not (Path(name).is_dir() or Path(f"{name}.py").is_file()):
        return None
    return f"{name!r} is in the working directory, which is not searched: try `PYTHONPATH=. harness …`"


def owner_of(module: str, folder: Path) -> str:
    """Whose a module is that builds no models: Python's own or harness; empty if neither, or if `folder` has it."""
    top = _package(module)
    if top in modules_in(folder):
        return ""
    if top == _HARNESS:
        return "belongs to harness, so it builds no models"
    if top == "__main__" or top in sys.stdlib_module_names or _lies_in_standard_library(top):
        return "belongs to Python's standard library, so it builds no models"
    return ""


def not_allowed(module: str, folder: Path, packages: Iterable[str]) -> str:
    """Why a module may not be called: it is installed, and nobody allowed it; empty if it may be, or is not there."""
    top = _package(module)
    if top in modules_in(folder) or top in packages:
        return ""
    try:
        installed = importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        installed = True
    return (
        f"{top!r} is an installed package, and only those that {CONFIG_NAME} names may be called"
        if installed
        else ""
    )


def _package(module: str) -> str:
    """The top-level package of a module: what a package hands on from its modules is its own."""
    return module.partition(".")[0]


def _home(function: Callable[..., Any]) -> str:
    """The module that defines what is called in the end, behind partial objects, decorators and bound methods."""
    while True:
        inner = function.func if isinstance(function, functools.partial) else inspect.unwrap(function)
        if inner is function:
            break
        function = inner
    bound = getattr(function, "__self__", None)
    if isinstance(bound, ModuleType):
        return bound.__name__
    defined = getattr(function, "__globals__", {}).get("__name__") or getattr(function, "__module__", None)
    if defined is None:
        owner = function if bound is None else bound
        defined = (owner if isinstance(owner, type) else type(owner)).__module__
    return str(defined)


def _lies_in_standard_library(module: str) -> bool:
    """Whether a top-level module is built in, frozen, or a file of Python's own that is not an installed one."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # ValueError: a loaded module without a spec
        return False
    if spec is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    paths = sysconfig.get_paths()
    file = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), "")).resolve()
    if {"site-packages", "dist-packages"} & set(file.parts):
        return False
    return any(file.is_relative_to(Path(paths[key]).resolve()) for key in ("stdlib", "platstdlib"))


def said(error: BaseException) -> str:
    """What an exception is called and says, cut."""
    try:
        message = str(error).strip() or "without a message"
    except BaseException as another:
        message = f"no message, as its __str__ raised {type(another).__name__}"
    return cut(f"{type(error).__name__}: {message}")


def shown(value: object) -> str:
    """`value` for a message, in 60 characters; a class or what cannot be shown by its name."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        return f"{value!r:.60}"
    except Exception:
        return f"a {type(value).__module__}.{type(value).__qualname__}"


def cut(text: str, most: int = _MOST) -> str:
    """`text`, or its first `most` characters and how many are left out."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"


def short(path: str | Path) -> Path:
    """`path` seen from the working directory, where it lies below it."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
