"""Connections that never die: whatever answers, or happens in their thread, it is said, and tried again."""

from __future__ import annotations

import http.server
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hack.lab.databases import SCHEMAS, Server, server
from hack.lab.free_ports import free_ports
from hack.lab.process import run, wait_for
from ovnagent.ovn import aside, connection, replica, session
from ovnagent.ovn.changes import CreateSwitch
from ovnagent.ovn.connection import Tls
from ovnagent.ovn.nb_replica import NorthboundReplica
from tests.integration.nb_agent import SECONDS, Agent, Start


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports and attempts to connect come sooner than they usually do."""
    monkeypatch.setattr(session, "BACKOFF_MILLISECONDS", (300, 600))
    monkeypatch.setattr(connection, "REPORT_SECONDS", 0.2)
    monkeypatch.setattr(connection, "FIRST_REPORT_SECONDS", 0.2)


def said(caplog: pytest.LogCaptureFixture, words: str) -> None:
    wait_for(
        lambda: any(words in getattr(record, "reason", "") for record in caplog.records), SECONDS, f"the reason: {words}"
    )


def works(agent: Agent) -> None:
    agent.ready()
    assert agent.commit(CreateSwitch("pods")) is None
    assert agent.northbound.connection.failures == 0
    assert agent.northbound.connection.alive


# -- TLS


def certificates(directory: Path, name: str = "cert", password: str = "") -> Tls:
    """A self-signed certificate that both sides use and trust."""
    tls = Tls(directory / f"{name}-key.pem", directory / f"{name}.pem", directory / f"{name}.pem")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    secret = ("-passout", f"pass:{password}") if password else ("-nodes",)
    out = ("-keyout", tls.private_key, "-out", tls.certificate)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, *secret, *out)
    return tls


@contextmanager
def tls_server(directory: Path, tls: Tls) -> Iterator[str]:
    (number,) = free_ports(1)
    files = (f"--private-key={tls.private_key}", f"--certificate={tls.certificate}", f"--ca-cert={tls.ca}")
    with server(directory, remotes=(f"--remote=pssl:{number}:127.0.0.1", *files)):
        yield f"ssl:127.0.0.1:{number}"


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@needs_openssl
def test_tls(tmp_path: Path, start: Start) -> None:
    tls = certificates(tmp_path)
    with tls_server(tmp_path / "nb", tls) as remote:
        works(start(remote, tls=tls))
        assert aside.transact(remote, "OVN_Northbound", [{"op": "abort"}]) == [
            {"details": "aborted by request", "error": "aborted"}
        ]
        assert aside.hangs_up(remote, "OVN_Northbound", [{"op": "comment", "comment": "\0"}])
        assert not aside.hangs_up(remote, "OVN_Northbound", [{"op": "comment", "comment": "\1"}, {"op": "nonsense"}])


@needs_openssl
@pytest.mark.parametrize("fault", ["missing", "garbage", "another's", "password"])
def test_tls_files_that_are_repaired_count_without_a_restart(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    good = certificates(tmp_path)
    other = certificates(tmp_path, "other", password="secret" if fault == "password" else "")
    used = Tls(tmp_path / "used-key.pem", tmp_path / "used.pem", tmp_path / "used-ca.pem")
    if fault != "missing":
        for path, source in ((used.private_key, other.private_key), (used.certificate, other.certificate)):
            path.write_text("no PEM" if fault == "garbage" else source.read_text())
        used.ca.write_text(other.ca.read_text())
    with tls_server(tmp_path / "nb", good) as remote:
        agent = start(remote, ready=False, tls=used)
        words = {"another's": "TLS: ", "password": "has a password"}.get(fault, "cannot be used")
        said(caplog, words)
        spent = time.process_time()
        time.sleep(0.5)  # nothing is waited for: this is what trying costs
        assert time.process_time() - spent < 0.25, "the thread spins"
        for path, source in ((used.private_key, good.private_key), (used.certificate, good.certificate), (used.ca, good.ca)):
            path.write_text(source.read_text())
        works(agent)


@needs_openssl
def test_tls_files_that_are_replaced_count_from_the_next_connection_on(tmp_path: Path, start: Start) -> None:
    used = certificates(tmp_path)
    (number,) = free_ports(1)
    files = (f"--private-key={used.private_key}", f"--certificate={used.certificate}", f"--ca-cert={used.ca}")
    with server(tmp_path / "nb", remotes=(f"--remote=pssl:{number}:127.0.0.1", *files)) as nb:
        agent = start(f"ssl:127.0.0.1:{number}", tls=used)
        nb.stop()
        renewed = certificates(tmp_path, "renewed")
        for old, new in ((used.private_key, renewed.private_key), (used.certificate, renewed.certificate)):
            shutil.copy(new, old)
        wait_for(lambda: not agent.now.complete, SECONDS, "the loss noticed")
        nb.start()
        works(agent)


# -- what is no OVN database, or not the one that is needed


class Html(http.server.BaseHTTPRequestHandler):
    """As a load balancer answers that has no backend."""

    def handle_one_request(self) -> None:
        self.connection.recv(65536)
        self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n<html><h1>502</h1></html>\r\n")
        self.close_connection = True


class Garbage(Html):
    def handle_one_request(self) -> None:
        self.connection.recv(65536)
        self.wfile.write(bytes(range(256)) * 100)
        self.close_connection = True


class WrongAnswers(Html):
    """JSON-RPC, but no answer is what was asked for."""

    def handle_one_request(self) -> None:
        asked = json.loads(self.connection.recv(65536).decode())
        self.wfile.write(json.dumps({"id": asked["id"], "result": [1, {"tables": None}], "error": None}).encode())
        self.close_connection = True


@pytest.mark.parametrize(
    ("handler", "words"),
    [(Html, "does not speak OVSDB"), (Garbage, "does not speak OVSDB"), (WrongAnswers, "the schema is none")],
)
def test_an_endpoint_that_is_no_database_is_said_and_tried_again(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture, handler: type[Html], words: str
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as wrong:
        number = wrong.server_address[1]
        threading.Thread(target=wrong.serve_forever, args=(0.05,), daemon=True).start()
        agent = start(f"tcp:127.0.0.1:{number}", ready=False)
        said(caplog, words)
        wrong.shutdown()
    with server(tmp_path / "nb", remotes=(f"--remote=ptcp:{number}:127.0.0.1",)):
        works(agent)


@contextmanager
def without_column(directory: Path, table: str, column: str, remotes: tuple[str, ...] = ()) -> Iterator[Server]:
    """A database from a time when OVN had no such column."""
    schema = json.loads(Path(SCHEMAS["OVN_Northbound"]).read_text())
    schema.pop("cksum")
    del schema["tables"][table]["columns"][column]
    directory.mkdir(exist_ok=True)
    (directory / "schema").write_text(json.dumps(schema))
    old = Server(directory, remotes=remotes)
    run("ovsdb-tool", "create", old.file, directory / "schema")
    old.start()
    try:
        yield old
    finally:
        old.stop()


def test_a_schema_that_lacks_a_column_is_said_until_the_database_is_upgraded(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with without_column(tmp_path / "nb", "Logical_Router_Port", "ipv6_ra_configs") as old:
        agent = start(old.remote, ready=False)
        said(caplog, "has no Logical_Router_Port.ipv6_ra_configs: OVN 22.09 or newer is needed")
    with server(tmp_path / "nb"):
        works(agent)


def test_a_database_that_is_replaced_by_an_older_one_is_said_until_it_is_back(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with server(tmp_path / "nb") as nb:
        agent = start(nb.remote)
    (tmp_path / "nb" / "db").unlink()
    with without_column(tmp_path / "nb", "Logical_Router_Port", "ipv6_ra_configs"):
        said(caplog, "the database refuses to be copied")
        assert not agent.now.complete
    with server(tmp_path / "nb"):
        works(agent)


# -- the thread


def test_an_exception_in_the_thread_is_logged_and_counted_and_the_thread_goes_on(
    nb: Server, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = start(nb.remote)
    monkeypatch.setattr(connection, "FAILED_SECONDS", (0.05, 0.1))
    honest, times = NorthboundReplica.wait, []

    def broken(*arguments: Any) -> None:
        times.append(time.monotonic())
        if len(times) == 5:
            monkeypatch.setattr(NorthboundReplica, "wait", honest)
        raise RuntimeError("a bug")

    monkeypatch.setattr(NorthboundReplica, "wait", broken)
    wait_for(lambda: len(times) == 5, SECONDS, "the bug has struck five times")
    agent.ready()
    assert agent.northbound.connection.failures == 5
    assert times[-1] - times[0] > 0.3, "there are pauses between"
    assert agent.commit(CreateSwitch("pods")) is None
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)


def test_a_listener_that_fails_costs_a_new_copy(nb: Server, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = start(nb.remote)
    generation, honest = agent.now.generation, agent.northbound._listeners.everything

    def broken() -> None:
        object.__setattr__(agent.northbound._listeners, "everything", honest)
        raise RuntimeError("a bug")

    object.__setattr__(agent.northbound._listeners, "everything", broken)
    nb.nbctl("ls-add", "pods")
    wait_for(lambda: agent.now.generation != generation and agent.now.complete, SECONDS, "a new copy")
    assert "pods" in agent.now.switches
    assert agent.northbound.connection.failures == 1


def test_a_thread_that_makes_no_progress_shows(nb: Server, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = start(nb.remote)
    monkeypatch.setattr(connection, "TURN_MILLISECONDS", 50)
    link = agent.northbound.connection
    seen = link.last_turn
    wait_for(lambda: link.last_turn > seen, SECONDS, "a turn without any news")
    stuck = threading.Event()
    link.request(lambda: stuck.wait(SECONDS))
    try:
        wait_for(lambda: time.monotonic() - link.last_turn > 0.5, SECONDS, "the standstill")
        assert link.alive
    finally:
        stuck.set()
    wait_for(lambda: time.monotonic() - link.last_turn < 0.2, SECONDS, "the next turn")


def test_a_connection_that_is_lost_is_made_again_at_once_but_not_in_a_hurry(
    nb: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "QUICK_RETURN_SECONDS", 5.0)
    monkeypatch.setattr(session, "BACKOFF_MILLISECONDS", (1000, 2000))
    agent = start(nb.remote)
    took = []
    for _ in range(2):
        generation, began = agent.now.generation, time.monotonic()
        nb.appctl("ovsdb-server/reconnect")
        wait_for(
            lambda generation=generation: agent.now.complete and agent.now.generation != generation, SECONDS, "a new copy"
        )
        took.append(time.monotonic() - began)
    assert took[0] < 0.9 < took[1]
