"""The main job, shown line by line: what is done, how long it took, and what OVN says then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hack.lab.cluster import REPOSITORY, Cluster
from hack.lab.kubevirt import KubeVirt
from hack.lab.kubevirt_build import version
from hack.lab.peer import Peer
from hack.lab.process import wait_for

MANIFESTS = REPOSITORY / "hack" / "lab" / "manifests"
NAME = "demo"
NETWORKS: list[dict[str, object]] = [
    {
        "name": "pods",
        "logicalSwitch": "ovn-default",
        "podNetwork": True,
        "subnets": [{"cidr": "10.16.0.0/16", "gateway": "10.16.0.1"}],
        "router": "demo",
    },
    {
        "name": "tenant",
        "nads": ["default/tenant-net"],
        "subnets": [{"cidr": "192.168.0.0/24", "gateway": "192.168.0.1"}],
        "dhcp": {},
        "mtu": 1400,
        "router": "demo",
    },
]
SECONDS = 60.0


class Story:
    """Prints and checks: a story that goes wrong ends with an error and not with a nice line."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, text: str = "") -> None:
        print(f"{time.monotonic() - self.started:7.2f} s  {text}" if text else "", flush=True)

    def chapter(self, text: str) -> None:
        print(f"\n\033[1m{text}\033[0m", flush=True)

    def show(self, command: str, output: str) -> None:
        print(f"           $ {command}")
        for line in output.rstrip().splitlines():
            print(f"             {line}")
        sys.stdout.flush()


def tell(cluster: Cluster, kubevirt: KubeVirt, story: Story) -> None:
    """Everything from the first manifest to the last migration."""
    ovn, kube = cluster.ovn, cluster.kube

    def port(name: str) -> None:
        command = ("--columns=name,addresses,options", "find", "Logical_Switch_Port", f'name="{name}"')
        story.show(f"ovn-nbctl {' '.join(command)}", ovn.nbctl(*command) or "(no such port)")

    def address(name: str) -> str:
        return ovn.nbctl("get", "Logical_Switch_Port", name, "addresses").strip().strip('[]"').split()[1]

    def until(what: Callable[[], object], text: str) -> None:
        started = time.monotonic()
        wait_for(what, SECONDS, text)
        story.say(f"{text} ({(time.monotonic() - started) * 1000:.0f} ms later)")

    story.chapter("1. A VM, as KubeVirt's users write it: no address asked for, nothing of ours in it")
    story.show("kubectl apply -f testvm.yaml", kube.kubectl("apply", "-f", str(MANIFESTS / "testvm.yaml")))
    until(lambda: ovn.port("testvm.default"), "its logical switch port is there")
    kubevirt.wait_running("default", "testvm", SECONDS)
    story.say("the guest has booted (a real QEMU)")
    port("testvm.default")
    first = address("testvm.default")

    with Peer(ovn, "node3", "10.16.255.10", gateway="10.16.0.1") as peer:
        reachable(peer, first, story)
        story.chapter("2. Stop, start, restart: the address stays")
        story.show("virtctl stop testvm", kubevirt.virtctl("stop", "testvm"))
        kubevirt.wait_phase("default", "testvm", "", SECONDS)
        until(lambda: not ovn.placed("testvm.default"), "stopped: the port is kept, bound nowhere")
        port("testvm.default")
        story.show("virtctl start testvm", kubevirt.virtctl("start", "testvm"))
        kubevirt.wait_running("default", "testvm", SECONDS)
        same(first, address("testvm.default"), "started", story)
        reachable(peer, first, story)
        uid = kubevirt.vmi("default", "testvm")["metadata"]["uid"]  # type: ignore[index]
        story.show("virtctl restart testvm", kubevirt.virtctl("restart", "testvm"))
        wait_for(lambda: (vmi := kubevirt.vmi("default", "testvm")) and vmi["metadata"]["uid"] != uid, SECONDS, "restarted")
        kubevirt.wait_running("default", "testvm", SECONDS)
        same(first, address("testvm.default"), "restarted", story)
        reachable(peer, first, story)

        story.chapter("3. An address of one's own choice, and two who choose the same")
        story.show("kubectl apply -f chosen.yaml", kube.kubectl("apply", "-f", str(MANIFESTS / "chosen.yaml")))
        until(lambda: ovn.port("chosen.default"), "its port is there")
        same("10.16.0.15", address("chosen.default"), "chosen", story)
        story.show("kubectl apply -f clone.yaml", kube.kubectl("apply", "-f", str(MANIFESTS / "clone.yaml")))
        events = ("get", "events", "--field-selector", "involvedObject.name=clone,type=Warning", "--no-headers")
        until(lambda: "AddressConflict" in kube.kubectl(*events), "it is refused, and its owner is told")
        story.show("kubectl get events --field-selector involvedObject.name=clone,type=Warning", kube.kubectl(*events))
        if ovn.port("clone.default"):
            raise RuntimeError("the refused VM has a port")

        story.chapter("4. Delete the first of the two: its port goes, the address is free, and the other gets it")
        story.show("kubectl delete vm chosen", kube.kubectl("delete", "vm", "chosen", "--wait=false"))
        until(lambda: not ovn.port("chosen.default"), "its port is gone, with the launcher's end and not before")
        until(lambda: ovn.port("clone.default"), "the refused VM has its port")
        same("10.16.0.15", address("clone.default"), "clone", story)
        kube.kubectl("delete", "vm", "clone", "--wait=false")
        story.show("ovn-nbctl lsp-list ovn-default", ovn.nbctl("lsp-list", "ovn-default"))

        story.chapter("5. Live migration around three nodes, with a ping every 10 ms and one TCP connection from node3")
        migrations(cluster, kubevirt, peer, story)

        story.chapter(
            "6. A network of its own: the guest asks OVN's DHCP for its address, and a router joins the two switches"
        )
        story.show("kubectl apply -f tenant.yaml", kube.kubectl("apply", "-f", str(MANIFESTS / "tenant.yaml")))
        kubevirt.wait_running("default", "tenant", SECONDS)
        name = "tenant.default.tenant-net.default"
        port(name)
        story.show("ovn-nbctl list DHCP_Options", ovn.nbctl("--columns=cidr,options", "list", "DHCP_Options"))
        reachable(peer, address(name), story)  # from the other switch


def migrations(cluster: Cluster, kubevirt: KubeVirt, peer: Peer, story: Story) -> None:
    """Three of them. Cordons choose the target, as the scheduler would choose any other node."""
    ovn = cluster.ovn
    address = ovn.nbctl("get", "Logical_Switch_Port", "testvm.default", "addresses").strip().strip('[]"').split()[1]
    rows = []
    with peer.connect(address) as tcp, peer.stream(address) as stream:
        for number in range(1, 4):
            source = kubevirt.vmi("default", "testvm")["status"]["nodeName"]  # type: ignore[index]
            target = f"node{int(source[-1]) % 3 + 1}"
            kubevirt.cordon(*(node for node in kubevirt.nodes if node != target))
            seen: list[str] = []
            began, tcp.longest_gap = stream.mark(), 0.0
            story.show("virtctl migrate testvm", kubevirt.virtctl("migrate", "testvm"))
            name = kubevirt.newest_migration("default", "testvm")
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                options = ovn.placed("testvm.default")
                if not seen or seen[-1] != options:
                    seen.append(options)
                    story.say(f"migration {number}: requested-chassis, activation-strategy: {options}")
                if any("," in each for each in seen) and "," not in options:  # prepared, and done
                    break
            if kubevirt.wait_migration("default", name) != "Succeeded" or "," in seen[-1]:
                raise RuntimeError(f"the migration did not succeed: {seen}")
            kubevirt.uncordon(*kubevirt.nodes)
            report, loss = kubevirt.report("default", name), stream.loss(began)
            rows.append((number, source, target, report.paused_ms, loss, tcp.longest_gap))
    print(f"\n             {'migration':16} {'QEMU paused':>12} {'ping gap':>10} {'lost':>5} {'dup':>4} {'TCP gap':>9}")
    for number, source, target, paused, loss, tcp_gap in rows:
        figures = f"{paused:9.0f} ms {loss.longest_gap:7.0f} ms {loss.lost:5} {loss.duplicates:4} {tcp_gap:6.0f} ms"
        print(f"             {number} {source}->{target} {figures}")
    if tcp.error:
        raise RuntimeError(f"the TCP connection broke after {tcp.echoed} echoes: {tcp.error}")
    story.say(f"the TCP connection has lived through it all ({tcp.echoed} echoes)")


def same(expected: str, found: str, what: str, story: Story) -> None:
    if found != expected:
        raise RuntimeError(f"{what}: {found}, and not {expected}")
    story.say(f"{what}: its address is {found}")


def reachable(peer: Peer, address: str, story: Story) -> None:
    if not peer.ping(address, 20):
        raise RuntimeError(f"{address} does not answer a ping from {peer.node}")
    story.say(f"{address} answers a ping from {peer.node}")


def main(arguments: list[str]) -> int:
    cluster = Cluster(NAME)
    if arguments[:1] == ["down"]:
        cluster.down()
        print("everything of the demo has ended")
        return 0
    story = Story()
    keep = os.environ.get("KEEP") == "1"
    story.say("starting OVN with three chassis, and the control planes of Kubernetes and KubeVirt")
    cluster.up()
    try:
        with KubeVirt(cluster.kube, cluster.ovn, guests="qemu") as kubevirt:
            story.say(f"all is up (KubeVirt {version()}); starting the agent, as its own ServiceAccount")
            agent = cluster.agent(NETWORKS).start()
            story.say("the agent is ready")
            tell(cluster, kubevirt, story)
            story.chapter("Done")
            if keep:
                stay(cluster, kubevirt, agent.log)
    except KeyboardInterrupt:
        print("\ninterrupted; ending everything")
        return 130
    finally:
        cluster.down()
    return 0


def stay(cluster: Cluster, kubevirt: KubeVirt, log: Path) -> None:
    """Until Ctrl-C, or until `hack/demo down` takes everything away."""
    directory = cluster.directory
    kubectl = " ".join(cluster.kube.kubectl_command)
    virtctl = " ".join(kubevirt.control_plane.virtctl_command)
    print(f"""
Everything keeps running until Ctrl-C here, or `make demo-down` elsewhere. Use it:

  export KUBECONFIG={cluster.kube.kubeconfig}
  {kubectl} get vm,vmi,pods -A
  {kubectl} apply -f {MANIFESTS}/testvm.yaml
  {virtctl} migrate testvm
  ovn-nbctl --db={cluster.ovn.nb_remote} show
  ovn-sbctl --db={cluster.ovn.sb_remote} show
  tail -f {log}
""")
    try:
        while directory.exists():
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("ending everything")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
