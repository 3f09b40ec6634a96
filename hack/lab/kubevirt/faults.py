"""How fast the stand-in works, and what it is told to do wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

END_ORDER = ("domain ready", "node name", "succeeded", "source completed")
"""What is written after the guest has switched, in the order of a migration that was recorded. The source's end may come
anywhere in a real cluster, and the first two may come in one write."""


@dataclass
class Delays:
    """Seconds between one write and the next. Real ones are longer; none of them may matter."""

    pod_pending: float = 0.01
    """From a pod's binding to the kubelet's first status."""
    network: float = 0.02
    """From there until the CNI has plugged."""
    pod_running: float = 0.03
    domain: float = 0.02
    """From Scheduled to the domain's start."""
    pod_completed: float = 0.05
    """From the end of the domain to the pod's Succeeded."""
    unplug: float = 0.05
    """From the pod's Succeeded to the CNI's unplugging: the kubelet tears the sandbox down afterwards."""
    pod_removed: float = 0.02
    migration_step: float = 0.03
    """Between the writes of a migration."""
    domain_ready: float = 0.03
    """From the switch to `targetNodeDomainReadyTimestamp`."""
    source_lingers: float = 0.0
    """From the moment at which the source launcher should end until it does."""


@dataclass
class Faults:
    """What goes wrong with migrations that start from now on; `reset()` ends it all."""

    delays: Delays = field(default_factory=Delays)
    suppress_announce: bool = False
    """The target sends no RARP."""
    target_dies: str = ""
    """Phase of the migration after which its target pod fails: `Scheduling`, `Scheduled`, `PreparingTarget`,
    `TargetReady` or `Running`."""
    fails: str = ""
    """Phase after which the migration fails: `PreparingTarget`, `TargetReady` or `Running`."""
    stalls: bool = False
    """The migration runs, and never ends."""
    end_order: tuple[str, ...] = END_ORDER

    def reset(self) -> None:
        fresh = Faults()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))
