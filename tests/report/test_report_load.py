"""What is loaded ahead of a page."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from harness.report import load_diagnosis_page
from harness.report.pages import _environment
load_diagnosis_page()
print(sorted({"matplotlib", "jinja2", "pandas"} & set(sys.modules)), len(_environment().cache))
"""


def test_what_a_page_needs_is_there_when_it_is_drawn_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split(" ")[:2] == ["['jinja2',", "'matplotlib']"]
    assert int(done.stdout.split()[-1]) == 3
