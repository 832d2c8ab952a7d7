"""`harness doctor`: what works on this machine, in plain words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

DOCTOR_SCHEMA = "harness.doctor/1"
_LOOKS = {"ok": ("ok", "green"), "warning": ("note", "yellow"), "broken": ("BROKEN", "bold red")}


@app.command()
def doctor(
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Whether to start a worker in each environment.")
    ] = True,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write it as JSON; - is stdout, and nothing else."),
    ] = None,
) -> None:
    """Say what works on this machine and what to do about what does not: exit status 3 if a thing is broken."""
    from rich.text import Text

    from harness.cli.consoles import make_console
    from harness.environments import Finding, Status, examine

    console = make_console(sys.stderr if json_file == Path("-") else sys.stdout)
    findings: list[Finding] = []
    for finding in examine(probe=probe):
        findings.append(finding)
        word, style = _LOOKS[finding.status]
        console.print(Text.assemble((f"{word:>6}", style), f"  {finding.message}"), soft_wrap=True)
        if finding.advice is not None:
            console.print(Text(f"        try: {finding.advice}"), soft_wrap=True)
    broken = any(finding.status is Status.BROKEN for finding in findings)
    if json_file is not None:
        _write_json(json_file, [vars(finding) for finding in findings], broken=broken)
    raise typer.Exit(3 if broken else 0)


def _write_json(path: Path, findings: list[dict[str, str | None]], *, broken: bool) -> None:
    import json

    from harness.tensors import write_text

    text = json.dumps({"schema": DOCTOR_SCHEMA, "broken": broken, "findings": findings}, indent=1)
    if path == Path("-"):
        print(text)
    else:
        write_text(path, text + "\n")
