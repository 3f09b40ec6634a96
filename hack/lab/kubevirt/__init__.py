"""The KubeVirt stand-in: what virt-controller, virt-handler, the kubelet and the CNI do to objects of a real API server.

Placing pods and collecting garbage is left to the real scheduler and controller-manager. The order of writes and their
shape follow recordings of KubeVirt v1.9; the guests are real QEMU, or fakes where no test looks at packets.
"""

from hack.lab.kubevirt.faults import Delays, Faults
from hack.lab.kubevirt.standin import KubeVirt

__all__ = ["Delays", "Faults", "KubeVirt"]
