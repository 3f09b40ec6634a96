"""What the outside sees: metrics as documented, readiness with reasons; and no client keeps it from others."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hack.lab.process import wait_for
from ovnagent.core.books import Books
from ovnagent.core.networks import Networks
from ovnagent.process.supervision import Supervisor
from ovnagent.serve import http
from ovnagent.serve.http import Server
from ovnagent.serve.metrics import Metrics
from tests.desk import network

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


class Front:
    def __init__(self, address: str = "127.0.0.1") -> None:
        self.why: list[str] = []
        self.troubles: list[str] = []
        self.free = threading.Event()
        self.free.set()
        self.metrics = Metrics()
        self.supervisor = Supervisor()
        self.server = Server(address, 0, self.metrics, self.reasons, lambda: self.troubles, self.supervisor)
        self.server.start()

    def reasons(self) -> list[str]:
        self.free.wait(20)
        return self.why

    def get(self, path: str, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, str]:
        request = urllib.request.Request(f"http://{host}:{self.server.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=20)


@pytest.fixture
def front() -> Iterator[Front]:
    made = Front()
    yield made
    made.free.set()
    made.server.stop()


def test_ready_says_why_not(front: Front) -> None:
    assert front.get("/readyz") == (200, '{"ready": true, "reasons": []}\n')
    front.why = ["Northbound: away"]
    status, body = front.get("/readyz")
    assert status == 503
    assert json.loads(body)["reasons"] == ["Northbound: away"]


def test_healthy_as_long_as_all_threads_work(front: Front) -> None:
    assert front.get("/healthz") == (200, "ok\n")
    front.troubles = ["thread reload has ended"]
    assert front.get("/healthz") == (503, "thread reload has ended\n")


def test_unknown_paths(front: Front) -> None:
    assert front.get("/")[0] == 404


def test_what_may_be_asked_how(front: Front) -> None:
    assert front.get("/healthz", method="HEAD") == (200, "")
    assert front.get("/healthz", method="POST")[0] == 405
    assert front.get("/healthz?verbose")[0] == 200


def test_the_documented_metrics_are_the_served_ones(front: Front) -> None:
    served = set(re.findall(r"^# TYPE (ovnagent_\w+) ", front.get("/metrics")[1], re.MULTILINE))
    served = {name for name in served if not name.endswith("_created")}
    documented = set(re.findall(r"^\| `(ovnagent_\w+)`", DOCUMENTED.read_text(), re.MULTILINE))
    assert served == documented


def test_an_address_of_either_family_and_all(front: Front) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    for address, hosts in (("::1", ["[::1]"]), ("", ["[::1]", "127.0.0.1"]), ("0.0.0.0", ["127.0.0.1"])):
        other = Front(address)
        try:
            for host in hosts:
                assert other.get("/healthz", host) == (200, "ok\n")
        finally:
            other.server.stop()


# -- many clients, and slow ones


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\n\r\n"])
def test_two_hundred_slow_clients_do_not_keep_a_probe_from_its_answer(front: Front, said: bytes) -> None:
    """They say nothing, do not end their request, or do not take their answer."""
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(front.connect()).sendall(said)
        for path in ("/healthz", "/readyz", "/metrics"):
            started = time.monotonic()
            assert front.get(path)[0] == 200
            assert time.monotonic() - started < 2


def test_a_request_has_a_length_and_a_time(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.3)
    with front.connect() as long, front.connect() as silent:
        long.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
        assert long.recv(100).startswith(b"HTTP/1.1 400 ")
        started = time.monotonic()
        assert silent.recv(100) == b"", "cut off"
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("said", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" + b"\0" * 300 + b"\r\n\r\n"])
def test_what_is_no_request_is_told_so(front: Front, said: bytes) -> None:
    with front.connect() as client:
        client.sendall(said)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_an_answer_that_cannot_be_found_keeps_no_other_waiting(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.5)
    front.free.clear()
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(front.connect()).sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert front.get("/healthz")[0] == 200
        assert front.get("/metrics")[0] == 200
        assert front.get("/readyz")[0] == 503
    front.free.set()
    wait_for(lambda: front.get("/readyz")[0] == 200, 5, "ready again")


def test_metrics_are_computed_once_for_all_who_ask_within_a_second(front: Front) -> None:
    scrapes: list[float] = []
    front.metrics.on_scrape("count", lambda: scrapes.append(time.monotonic()))
    started = time.monotonic()
    for _ in range(50):
        assert front.get("/metrics")[0] == 200
    assert len(scrapes) <= 2 + (time.monotonic() - started)
    wait_for(lambda: front.get("/metrics") and len(scrapes) > 1, 5, "the next second's")


# -- metrics that cannot be found out


def test_a_metric_that_cannot_be_found_out_costs_no_other(front: Front) -> None:
    def broken() -> None:
        raise KeyError("switch")

    front.metrics.on_scrape("broken", broken)
    front.metrics.on_scrape("works", lambda: front.metrics.ports.set(7))
    status, text = front.get("/metrics")
    assert status == 200
    assert "ovnagent_ports 7.0" in text
    assert 'ovnagent_scrape_errors_total{part="broken"} 1.0' in text
    assert "process_cpu_seconds_total" in text


def test_a_network_that_the_books_do_not_know_yet_costs_no_scrape(front: Front) -> None:
    """A standby goes over to a configuration with another switch; its books follow when it leads."""
    old, new = network(), network("10.17.0.0/16", name="new", switch="new")
    books = Books()
    front.metrics.on_scrape("pools", lambda: front.metrics.pools(Networks((old, new)), books))
    status, text = front.get("/metrics")
    assert status == 200
    assert 'ovnagent_pool_addresses{family="ipv4",network="pods",state="used"} 0.0' in text
    assert "ovnagent_scrape_errors_total{" not in text
