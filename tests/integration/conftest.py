"""What several of these tests begin with: a database server of their own, and edges of agents that end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.databases import Server, server
from tests.integration.nb_agent import Start, agents


@pytest.fixture
def nb(tmp_path: Path) -> Iterator[Server]:
    with server(tmp_path / "nb") as each:
        yield each


@pytest.fixture
def start() -> Iterator[Start]:
    with agents() as found:
        yield found
