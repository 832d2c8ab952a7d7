"""The made-up results as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import report_factories


@pytest.fixture
def make_layer() -> Callable[..., Any]:
    return report_factories.layer


@pytest.fixture
def make_output() -> Callable[..., Any]:
    return report_factories.output


@pytest.fixture
def make_layers() -> Callable[..., Any]:
    return report_factories.growing


@pytest.fixture
def make_result() -> Callable[..., Any]:
    return report_factories.result


@pytest.fixture
def make_report() -> Callable[..., Any]:
    return report_factories.report
