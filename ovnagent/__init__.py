"""ovnagent: addresses for life and seamless live migration for KubeVirt virtual machines on OVN."""

__version__ = "0.1.0"
