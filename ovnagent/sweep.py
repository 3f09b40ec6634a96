"""The brake on mass deletion: an empty answer from a broken API server must not cost a cluster its network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from ovnagent.core.plan import Result
from ovnagent.core.ports import NETWORK
from ovnagent.core.vm import VmKey
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn.northbound import Northbound

LOG = logging.getLogger(__name__)

FEW = 10
"""So many ports may always be deleted."""
APPROVAL = "ovnagent-approve-sweep"
"""external_ids key of NB_Global by which an operator lets a held sweep go on; its value is the cluster id."""


def too_many(ports: int, owned: int) -> bool:
    """So many deletions for which there is no evidence need an operator's word."""
    return ports > FEW and ports * 2 > owned


def go_ahead(cluster: str) -> str:
    """The command by which an operator gives it."""
    return f"ovn-nbctl set NB_Global . external_ids:{APPROVAL}={cluster}"


class SweepGuard:
    """Holds back deletions for which there is no evidence but absence from a list, if they are more than half."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self.held_ports = 0
        self.orphaned: frozenset[str] = frozenset()
        """Networks that the configuration does not name any more, and on which more than half of all ports are: those
        ports stay."""

    def held(self, gone: set[VmKey], kube: Kubernetes, northbound: Northbound) -> set[VmKey]:
        """Of the VMs of which nothing is left, those whose rows must stay for now."""
        if not gone and not self.held_ports:
            return set()
        nb = northbound.snapshot
        unseen = (set(nb.by_vm) - kube.keys()) - kube.store.seen_deleted()
        at_stake = sum(len(nb.by_vm[key]) for key in unseen)
        owned = len(nb.ports) + len(nb.virtual)
        if not too_many(at_stake, owned) or self._approved(northbound, at_stake):
            self.held_ports = 0
            return set()
        if self.held_ports != at_stake:
            self._announce(
                f"{at_stake} of {owned} ports belong to VMs that Kubernetes does not list, and nobody saw them deleted. "
                f"Nothing is deleted. If they are really gone: {go_ahead(northbound.cluster)}"
            )
        self.held_ports = at_stake
        return gone & unseen

    def look_at_networks(self, configured: set[str], northbound: Northbound) -> None:
        """A network may be missing from the configuration by mistake: see `orphaned`."""
        rows = [row.port.external_id(NETWORK) for row in northbound.snapshot.own()]
        lost = [name for name in rows if name and name not in configured]
        if not too_many(len(lost), len(rows)) or self._approved(northbound, len(lost)):
            self.orphaned = frozenset()
            return
        if self.orphaned != frozenset(lost):
            self._announce(
                f"{len(lost)} of {len(rows)} ports are on networks that the configuration does not name: "
                f"{', '.join(sorted(set(lost)))}. They stay. If they shall go: {go_ahead(northbound.cluster)}"
            )
        self.orphaned = frozenset(lost)

    def spare(self, result: Result) -> Result:
        """The result without the deletions that are held."""
        if not self.orphaned:
            return result
        obsolete = tuple(row for row in result.obsolete if row.port.external_id(NETWORK) not in self.orphaned)
        return replace(result, obsolete=obsolete)

    def _approved(self, northbound: Northbound, ports: int) -> bool:
        if northbound.snapshot.global_ids.get(APPROVAL) != northbound.cluster:
            return False
        LOG.warning("sweep approved", extra={"ports": ports, "of": len(northbound.snapshot.ports)})
        northbound.set_global_external_id(APPROVAL, "")
        return True
