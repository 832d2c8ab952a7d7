"""Reads pages as a browser would, and minds that their tags close."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "hr", "input", "wbr"}


class Page(HTMLParser):
    """A strict enough reader: tags must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.glued = False  # whether the next text goes on with the word before, which may break there
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.glued = tag == "wbr"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("style", "script"):
            if self.glued:
                data = self.texts.pop() + data
            self.texts.append(data)
        self.glued = False

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def age_of(page: str) -> timedelta:
    """How long ago a page says that it was made."""
    (made,) = re.findall(r"Made by harness on (\d{4}-\d\d-\d\d \d\d:\d\d) UTC\.", page)
    return datetime.now(UTC) - datetime.strptime(made, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
