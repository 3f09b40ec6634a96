"""KubeVirt in the lab: its own virt-api and virt-controller, and an imitation of what cannot run here: virt-handler, the
kubelet and the CNI on each node.

The order of the imitation's writes and their shape follow recordings of KubeVirt v1.9; the guests are real QEMU, or fakes
where no test looks at packets.
"""

from hack.lab.kubevirt.faults import Delays, Faults
from hack.lab.kubevirt.standin import KubeVirt

__all__ = ["Delays", "Faults", "KubeVirt"]
