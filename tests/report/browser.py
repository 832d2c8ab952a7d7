"""A real browser without a window: loads a page, and hands on what the page saw.

With HARNESS_BROWSER_REQUIRED a missing browser is a failure, not a skip: CI has one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
WAIT = ("--dump-dom", "--virtual-time-budget=5000")

needs_browser = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("HARNESS_BROWSER_REQUIRED"),
    reason=f"needs a browser: one of {', '.join(NAMES)}",
)


def with_script(page: str, script: str) -> str:
    """`page` with `script` run after its own; its policy, which would not let it in, is taken out."""
    return POLICY.sub("", page).replace("</body>", f"{script}</body>")


def browse(page: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Load `page`; its document when it has come to rest is what is printed."""
    assert CHROMIUM is not None, f"none of {', '.join(NAMES)} is installed"
    return subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={home}", *WAIT, *options),
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )


def browse_framed(page: str, folder: Path, width: int) -> str:
    """Load `page` in a frame of `width` pixels; what it posts to its parent with `postMessage`.

    Windows without a screen are never narrower than 500 pixels; a frame is as narrow as one likes.
    """
    (folder / "page.html").write_text(page, encoding="utf-8")
    listen = "addEventListener('message', event => { document.body.dataset.seen = event.data; });"
    (folder / "frame.html").write_text(
        f'<body><iframe width="{width}" height="800" src="page.html"></iframe><script>{listen}</script></body>'
    )
    done = browse(folder / "frame.html", folder / "home")
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-1500:]
    return found[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">")
