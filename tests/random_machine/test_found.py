"""What the machine has found, each as a story of its own."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from tests.random_machine.cluster import NAMESPACE, Nic, Vm
from tests.random_machine.fabric import insert_port
from tests.random_machine.machine import Episode
from tests.random_machine.world import world


@pytest.fixture
def episode() -> Iterator[Episode]:
    with world() as place:
        made = Episode(place, "found")
        made.begin()
        yield made


def create_vm(episode: Episode, name: str, *nics: Nic, **annotations: str) -> None:
    machine = episode.cluster.machines[name]
    asked = {f"ovn.kubernetes.io/{key}": value for key, value in annotations.items()}
    machine.vm = Vm(f"uid-{name}", episode.cluster.stamp(), False, nics or (Nic("default"),), asked)
    episode.cluster.begin(machine.vm.uid)
    episode.cluster.put_vm(machine)


def on(episode: Episode) -> None:
    """All is told, the agent does what it has to do, and its records are written."""
    episode.after(Random(0), 0.0)
    episode.driver.write_records()


def ports(episode: Episode) -> list[str]:
    return sorted(row["name"] for row in episode.nb.own())


def test_a_port_that_the_database_refuses_leaves_no_record(episode: Episode) -> None:
    """A record follows behind its row: nothing is on record that nobody has."""
    episode.nb.edit(*insert_port("elsewhere", f"vm1.{NAMESPACE}", "0a:00:00:00:00:99 172.16.0.9"))
    create_vm(episode, "vm1")
    on(episode)
    assert not ports(episode)
    assert episode.world.api.record(NAMESPACE, "vm1") == ""
    assert episode.driver.living.reconciler.notes.problems
