"""The one environment of all pages: templates, filters, shared style and script."""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.text import command, duration, number

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
LONG_WORD = 25  # letters from which on a word may break


@dataclass(frozen=True)
class _Script:
    """A script of a page, and the hash by which the page's policy lets it in."""

    text: Markup
    sha256: str


def render_page(template: str, *, scripts: tuple[str, ...] = (), **values: Any) -> str:
    """The page that `template` makes of `values`, and of the time at which it is `made`. It and `scripts`, besides that
    of all pages, are files in `templates/`."""
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    loaded = [_script(name) for name in ("page.js", *scripts)]
    return _environment().get_template(template).render(made=made, scripts=loaded, **values)


def load_template(template: str) -> None:
    """Load `template` and those that it is made from, which takes as long as filling them."""
    for name in (template, "page.html.j2", "macros.html.j2"):
        _environment().get_template(name)


def trusted(text: str) -> Markup:
    """Text that goes into a page as it is: our script, and pictures, in which matplotlib escapes every text."""
    from markupsafe import Markup

    return Markup(text)


def _script(name: str) -> _Script:
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    return _Script(trusted(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def _breaks(text: object) -> Markup:
    """Text in which long words, such as names of nodes, break at their separators only."""
    from markupsafe import Markup, escape

    def separate(word: re.Match[str]) -> str:
        return re.sub(r"([/._:,=-])(?=[^/._:,=-])", r"\1<wbr>", word[0])

    return Markup(re.sub(rf"\S{{{LONG_WORD},}}", separate, str(escape(text))))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=number, duration=duration, quoted=command, breaks=_breaks, id=id)
    return made
