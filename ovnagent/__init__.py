"""ovnagent: addresses for life and seamless live migration for KubeVirt virtual machines on OVN."""
