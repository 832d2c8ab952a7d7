"""`harness doctor`: check what works on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import JsonFile
from harness.cli.outputs import Outputs, write_json

app = typer.Typer(add_completion=False)

DOCTOR_SCHEMA = "harness.doctor/1"
_LOOKS = {"ok": ("ok", "green"), "warning": ("note", "yellow"), "broken": ("BROKEN", "bold red")}


@app.command()
def doctor(
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Start a worker in each environment, or do not.")
    ] = True,
    json_file: JsonFile = None,
) -> None:
    """Check what works on this machine, and say how to fix the rest.

    Exit status: 3 if something is broken.
    """
    from rich.text import Text

    from harness.environments import DoctorFinding, Status, examine

    outputs = Outputs(json_file)
    outputs.check()
    console = outputs.console
    findings: list[DoctorFinding] = []
    for finding in examine(probe=probe):
        findings.append(finding)
        word, style = _LOOKS[finding.status]
        console.print(Text.assemble((f"{word:>6}", style), f"  {finding.message}"), soft_wrap=True)
        if finding.advice is not None:
            console.print(Text(f"        try: {finding.advice}"), soft_wrap=True)
    broken = any(finding.status is Status.BROKEN for finding in findings)
    if json_file is not None:
        rows = [vars(finding) for finding in findings]
        write_json(json_file, {"schema": DOCTOR_SCHEMA, "broken": broken, "findings": rows})
    raise typer.Exit(3 if broken else 0)
