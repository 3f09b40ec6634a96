"""What the outside sees: metrics as documented, readiness with reasons."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovnagent.serve.http import Server
from ovnagent.serve.metrics import Metrics
from ovnagent.supervision import Supervisor

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


class Front:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.troubles: list[str] = []
        self.metrics = Metrics()
        self.server = Server("127.0.0.1", 0, self.metrics, lambda: self.reasons, lambda: self.troubles, Supervisor())
        self.server.start()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def front() -> Iterator[Front]:
    made = Front()
    yield made
    made.server.stop()


def test_ready_says_why_not(front: Front) -> None:
    assert front.get("/readyz") == (200, '{"ready": true, "reasons": []}\n')
    front.reasons = ["Northbound: away"]
    status, body = front.get("/readyz")
    assert status == 503
    assert json.loads(body)["reasons"] == ["Northbound: away"]


def test_healthy_as_long_as_all_threads_work(front: Front) -> None:
    assert front.get("/healthz") == (200, "ok\n")
    front.troubles = ["thread reload has ended"]
    assert front.get("/healthz") == (503, "thread reload has ended\n")


def test_unknown_paths(front: Front) -> None:
    assert front.get("/")[0] == 404


def test_the_documented_metrics_are_the_served_ones(front: Front) -> None:
    served = set(re.findall(r"^# TYPE (ovnagent_\w+) ", front.get("/metrics")[1], re.MULTILINE))
    served = {name for name in served if not name.endswith("_created")}
    documented = set(re.findall(r"^\| `(ovnagent_\w+)`", DOCUMENTED.read_text(), re.MULTILINE))
    assert served == documented
