"""A configuration that changes while the agent runs, and files that end no thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hack.lab.process import wait_for
from ovnagent.config import reload
from ovnagent.config.file import Config, load
from ovnagent.config.reload import Reloader
from ovnagent.process.supervision import Supervisor

NETWORK = {"name": "pods", "subnets": [{"cidr": "10.16.0.0/16"}]}
OVN = {"northbound": ["tcp:127.0.0.1:1"], "southbound": ["tcp:127.0.0.1:2"]}
FILE = {"cluster": "c1", "ovn": OVN, "networks": [NETWORK]}
OTHER = {**FILE, "networks": [NETWORK, {"name": "more", "subnets": [{"cidr": "10.17.0.0/16"}]}]}


class Reloading:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(yaml.safe_dump(FILE))
        self.applied: list[Config] = []
        self.accepted: list[bool] = []
        self.failures: list[str] = []
        self.supervisor = Supervisor(self.failures.append)
        self.obstacle = threading.Event()
        self.reloader = Reloader(path, load(path), lambda: (), self._apply, self.accepted.append, self.supervisor)
        self.reloader.start()

    def _apply(self, config: Config) -> None:
        if self.obstacle.is_set():
            self.obstacle.clear()
            raise RuntimeError("not now")
        self.applied.append(config)

    def write(self, text: str | bytes) -> None:
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def reloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reloading]:
    monkeypatch.setattr(reload, "LOOK_SECONDS", 0.02)
    made = Reloading(tmp_path / "config.yaml")
    yield made
    made.reloader.stop()
    assert not made.supervisor.troubles()


@pytest.mark.parametrize(
    "text", ["? [a]", "networks: *nowhere", "- - -\n:", b"\xff\xfe\x00", "a: &a [*a]", "[" * 5000, "", "cluster: 7", "\0"]
)
def test_a_file_that_cannot_be_read_changes_nothing_and_the_next_one_counts(reloading: Reloading, text: str | bytes) -> None:
    reloading.write(text)
    wait_for(lambda: reloading.accepted[-1] is False, 10, "refused")
    reloading.write(yaml.safe_dump(OTHER))
    wait_for(lambda: reloading.applied, 10, "the next one is in force")
    assert [network.name for network in reloading.applied[0].networks.all] == ["pods", "more"]
    assert not reloading.failures


def test_what_could_not_be_put_into_force_is_tried_again(reloading: Reloading) -> None:
    reloading.obstacle.set()
    reloading.write(yaml.safe_dump(OTHER))
    wait_for(lambda: reloading.applied, 10, "in force")
    assert reloading.failures == ["reload"]
