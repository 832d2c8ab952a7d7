"""Case files found and read; every mistake of every file is reported at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from harness.case.document import Document, Location, read_document
from harness.case.functions import OWN, owner_of
from harness.case.inputs import FileFill
from harness.case.mistakes import explain
from harness.case.scalars import describe
from harness.case.schema import CASE_SUFFIX, Case, CaseBody
from harness.errors import CaseFileError, Mistake, NothingSelectedError
from harness.text import suggestion

TEXTS = ("description", "reason")
"""The keys whose values are sentences."""


def load_case(path: str | Path) -> Case:
    """Read one case file.

    Raises:
        CaseFileError: the file cannot be read or holds mistakes; all of them are listed.
    """
    case, _, mistakes = _read(Path(path))
    if case is None:
        raise CaseFileError(mistakes)
    return case


def load_cases(paths: str | Path | Iterable[str | Path]) -> list[Case]:
    """Read case files and all `*.case.yaml` in folders, at any depth, in the order given and then by name.

    `paths` is one path or several.

    Raises:
        CaseFileError: a target does not exist, or files hold mistakes; all of all files are listed.
        NothingSelectedError: there is no case file in the folders.
    """
    return _load_all(paths, look_for_files=False)


def check_cases(paths: str | Path | Iterable[str | Path]) -> list[Case]:
    """Read cases as `load_cases` does, and see that the model and input files they name are there.

    Raises:
        CaseFileError: as `load_cases`, or a file is missing, or a builder is one of Python's standard library or of
            harness.
        NothingSelectedError: as `load_cases`.
    """
    return _load_all(paths, look_for_files=True)


def one_or_more(names: Iterable[str]) -> tuple[str, ...]:
    """`names` as a tuple; a text is one name, although it is iterable."""
    return (names,) if isinstance(names, str) else tuple(names)


def case_name(path: Path) -> str:
    """The name of the case in the file `path`: the file's name without `.case.yaml`."""
    for suffix in (CASE_SUFFIX, ".yaml", ".yml"):
        if path.name.endswith(suffix) and path.name != suffix:
            return path.name[: -len(suffix)]
    return path.stem


def _load_all(paths: str | Path | Iterable[str | Path], *, look_for_files: bool) -> list[Case]:
    listed = [paths] if isinstance(paths, (str, Path)) else paths
    targets = [Path(path) for path in listed]
    files, mistakes = _find(targets)
    cases: list[Case] = []
    named: dict[str, Path] = {}
    for file in files:
        case, document, found = _read(file)
        mistakes += found
        name = case_name(file)
        if name in named:
            mistakes.append(
                Mistake(file, 0, 0, "", f"a case named {name!r} is also in {named[name]}; rename one")
            )
        named.setdefault(name, file)
        if case is not None:
            cases.append(case)
            if look_for_files:
                mistakes += [*_missing_files(case, document), *_refused_builders(case, document)]
    if mistakes:
        raise CaseFileError(mistakes)
    if not cases:
        where = ", ".join(str(target) for target in targets) or "nothing"
        raise NothingSelectedError(
            f"no *{CASE_SUFFIX} found", where=where, hint="write one with `harness case new MODEL`"
        )
    return cases


def _find(targets: Sequence[Path]) -> tuple[list[Path], list[Mistake]]:
    """The case files of `targets`, each once, and what is wrong with the targets."""
    files: dict[Path, Path] = {}
    mistakes = []
    for target in targets:
        if target.is_dir():
            for file in _walk(target):
                files.setdefault(file.resolve(), file)
        elif not target.exists():
            mistakes.append(Mistake(target, 0, 0, "", f"no such file or folder{_near_file(target)}"))
        elif target.suffix not in (".yaml", ".yml"):
            mistakes.append(Mistake(target, 0, 0, "", f"not a case file; its name must end in {CASE_SUFFIX}"))
        else:
            files.setdefault(target.resolve(), target)
    return list(files.values()), mistakes


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if name.endswith(CASE_SUFFIX))


def _read(path: Path) -> tuple[Case | None, Document, list[Mistake]]:
    if not path.exists():
        mistake = Mistake(path, 0, 0, "", f"no such file{_near_file(path)}")
        return None, Document(path), [mistake]
    document = read_document(path)
    mistakes = list(document.mistakes)
    body = None
    if isinstance(document.data, dict):
        try:
            body = CaseBody.model_validate(document.data)
        except ValidationError as error:
            mistakes += explain(error, CaseBody, document)
    elif not mistakes:
        found = describe(document.data)
        mistakes.append(document.mistake((), f"a case is a mapping of keys, this is {found}"))
    mistakes += _cut_texts(document)
    if body is None or mistakes:
        return None, document, mistakes
    return Case(name=case_name(path), path=path, **dict(body)), document, []


def _cut_texts(document: Document) -> list[Mistake]:
    """Texts for people that end before a ` #word`, which is hardly meant as a comment."""
    return [
        document.mistake(
            location, f"the text ends before {word!r}, which YAML takes for a comment; put it in quotes"
        )
        for location, word in document.cut.items()
        if location and location[-1] in TEXTS
    ]


def _missing_files(case: Case, document: Document) -> list[Mistake]:
    named: list[tuple[Location, str | None]] = [(("model", "path"), case.model.path)]
    named += [(("data", place), path) for place, path in enumerate(case.data)]
    if case.reference is not None:
        named.append((("reference", "path"), case.reference.path))
        named += [
            (("reference", "outputs", place), path) for place, path in enumerate(case.reference.outputs)
        ]
    for name, spec in case.inputs.items():
        files = spec.fill.path if isinstance(spec.fill, FileFill) else ()
        at: Location = ("inputs", name, "fill", "path")
        named += [((*at, place) if len(files) > 1 else at, file) for place, file in enumerate(files)]
    return [
        document.mistake(where, f"no such file: {path}{_near_file(case.resolve(path))}")
        for where, path in named
        if path is not None and not case.resolve(path).is_file()
    ]


def _refused_builders(case: Case, document: Document) -> list[Mistake]:
    named: list[tuple[Location, str | None]] = [
        (("model", "builder"), case.model.builder),
        (("model", "torch"), case.model.torch),
        (("reference", "torch"), case.reference.torch if case.reference else None),
        *((("metric",), metric.function) for metric in case.metric),
    ]
    return [
        document.mistake(at, f"{module!r} {owner}; {OWN}")
        for at, function in named
        if function is not None and (owner := owner_of(module := function.partition(":")[0], case.folder))
    ]


def _near_file(path: Path) -> str:
    try:
        siblings = [sibling.name for sibling in path.parent.iterdir()]
    except OSError:
        return ""
    near = suggestion(path.name, siblings)
    return f", {near}" if near else ""
