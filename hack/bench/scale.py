"""An agent beside many VMs: how long a start takes, and what memory it needs.

    python -m hack.bench.scale [-n VMS]

The VMs are stopped ones on a real API server, their ports are in a real Northbound database; no guest runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from hack.lab.cluster import Agent, Cluster
from hack.lab.process import wait_for
from ovnagent.kube.client import Client, KubeConfig

PATH = "/apis/kubevirt.io/v1/namespaces/default/virtualmachines"


def vm(number: int) -> dict[str, object]:
    template = {
        "metadata": {"annotations": {}},
        "spec": {
            "domain": {"devices": {"interfaces": [{"name": "default", "bridge": {}}]}},
            "networks": [{"name": "default", "pod": {}}],
        },
    }
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": f"vm{number}", "namespace": "default"},
        "spec": {"runStrategy": "Halted", "template": template},
    }


def megabytes(agent: Agent) -> float:
    return agent.metric("process_resident_memory_bytes") / 1e6


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10_000, metavar="VMS", help="how many VMs (default 10000)")
    options = parser.parse_args(arguments)
    with Cluster("scale") as cluster:
        agent = cluster.agent().start()
        print(f"no VMs: {megabytes(agent):.0f} MB resident", flush=True)
        client = Client(KubeConfig(cluster.kube.kubeconfig))
        started = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            for number, _ in enumerate(pool.map(lambda each: client.request("POST", PATH, vm(each)), range(options.n)), 1):
                if number % 1000 == 0:
                    print(f"  {number} VMs created after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        wait_for(lambda: agent.metric("ovnagent_ports") == options.n, 300, "a port for each")
        print(f"{options.n} VMs: created and given ports in {time.monotonic() - started:.1f} s", flush=True)
        wait_for(lambda: agent.metric("ovnagent_records_pending") == 0, 600, "a record on each")
        print(f"  records on all of them after {time.monotonic() - started:.1f} s; {megabytes(agent):.0f} MB resident")
        before = agent.metric("process_cpu_seconds_total")
        time.sleep(10)
        print(f"  at rest: {(agent.metric('process_cpu_seconds_total') - before) * 100:.0f} millicores")
        agent.stop()
        started = time.monotonic()
        agent.start(ready=False)
        agent.wait_ready(120)
        print(
            f"  a start takes {time.monotonic() - started:.1f} s until all is reconciled; {megabytes(agent):.0f} MB resident"
        )
        written = agent.metric("ovnagent_row_changes_total")
        print(f"  rows written by that start: {written:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
