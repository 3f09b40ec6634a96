"""The brake on mass deletion: an empty answer from a broken API server must not cost a cluster its network."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ovnagent.core.shared import NO_VM
from ovnagent.core.vm import VmKey
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn.northbound import Northbound

LOG = logging.getLogger(__name__)

FEW = 10
"""So many ports may always be deleted."""
APPROVAL = "ovnagent-approve-sweep"
"""external_ids key of NB_Global by which an operator lets a held sweep go on; its value is the cluster id."""


class SweepGuard:
    """Holds back deletions for which there is no evidence but absence from a list, if they are more than half."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self.held_ports = 0

    def held(self, gone: set[VmKey], kube: Kubernetes, northbound: Northbound) -> set[VmKey]:
        """Of the VMs of which nothing is left, those whose rows must stay for now."""
        if not gone and not self.held_ports:
            return set()
        unseen = (northbound.vm_keys() - {NO_VM} - kube.keys()) - kube.store.seen_deleted()
        at_stake = sum(len(northbound.ports_of(key)) for key in unseen)
        owned = len(northbound.ports)
        if at_stake <= FEW or at_stake * 2 <= owned:
            self.held_ports = 0
            return set()
        if northbound.global_external_id(APPROVAL) == northbound.cluster:
            LOG.warning("sweep approved", extra={"ports": at_stake, "of": owned})
            northbound.set_global_external_id(APPROVAL, "")
            self.held_ports = 0
            return set()
        if self.held_ports != at_stake:
            self._announce(
                f"{at_stake} of {owned} ports belong to VMs that Kubernetes does not list, and nobody saw them deleted. "
                f"Nothing is deleted. If they are really gone: ovn-nbctl set NB_Global . external_ids:{APPROVAL}="
                f"{northbound.cluster}"
            )
        self.held_ports = at_stake
        return gone & unseen
