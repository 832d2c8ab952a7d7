"""The one environment of all pages: templates, filters, shared style and script."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.text import command, duration, number

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def render_page(template: str, made: datetime.datetime | None, **values: Any) -> str:
    """The page that `template` makes of `values`; `made` is when, now by default."""
    when = (made or datetime.datetime.now(datetime.UTC)).strftime("%Y-%m-%d %H:%M UTC")
    return _environment().get_template(template).render(made=when, **values)


def trusted(text: str) -> Markup:
    """Text that goes into a page as it is: our script, and pictures, in which matplotlib escapes every text."""
    from markupsafe import Markup

    return Markup(text)


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
    made.filters.update(number=number, duration=duration, quoted=command, id=id)
    return made
