"""The same lab on another OVN: Debian 13's 25.03 instead of Debian 12's 23.03."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hack.lab import trixie
from hack.lab.cluster import Cluster
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import run
from tests.e2e.conftest import Lab


@pytest.fixture(scope="session")
def session_lab() -> Iterator[Lab]:
    root = trixie.root()
    assert "25.03" in run("chroot", root, "ovn-northd", "--version")
    with Cluster("e25", root=root) as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        yield Lab(cluster, cluster.replicas().start(), kubevirt)
