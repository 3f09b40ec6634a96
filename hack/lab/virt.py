"""KubeVirt's own control plane on loopback: virt-api with its webhooks, virt-controller, virtctl (see hack/kubevirt).

What virt-operator would install is printed by its own packages (`manifests.jsonl`); this module does the rest of its work:
certificates, and the address of the one service that runs.
"""

from __future__ import annotations

import base64
import json
import signal
import ssl
import threading
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hack.lab.free_ports import free_ports
from hack.lab.kube import ControlPlane
from hack.lab.kubevirt_build import as_list, built, manifests, version
from hack.lab.process import run, running, send, start, stop, wait_for

NAMESPACE = "kubevirt"
SERVICE = "virt-api"
LATER = ("APIService", "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
"""Kinds that would stop the API server's work before virt-api runs."""
FEATURE_GATES = ("NodeRestriction", "LiveUpdateNADRef", "PasstBinding", "NetworkBindingPlugins", "VMLiveUpdateFeatures")
"""Those that networks have to do with, and the one that looks at who a virt-handler is. Unknown ones do no harm."""
RATES = {"restClient": {"rateLimiter": {"tokenBucketRateLimiter": {"qps": 1000, "burst": 2000}}}}
CONFIGURATION: dict[str, Any] = {
    "developerConfiguration": {"useEmulation": True, "featureGates": list(FEATURE_GATES)},
    "vmRolloutStrategy": "LiveUpdate",
    # A cluster's defaults are 5 and 2; the agent has to cope with more.
    "migrations": {"parallelMigrationsPerCluster": 200, "parallelOutboundMigrationsPerNode": 200},
    "network": {"binding": {"managedtap": {"domainAttachmentType": "managedTap", "migration": {}}}},
    "apiConfiguration": RATES,
    "controllerConfiguration": RATES,
    "webhookConfiguration": RATES,
}
WORKLOAD_UPDATES = {"workloadUpdateMethods": ["LiveMigrate"], "batchEvictionInterval": "1s", "batchEvictionSize": 100}
"""A hot-plugged interface gets in by a migration that KubeVirt starts by itself."""


class VirtControlPlane:
    """virt-api and virt-controller on a control plane that has KubeVirt's resource types. They end with it."""

    def __init__(self, kube: ControlPlane) -> None:
        self._kube = kube
        self._directory = kube.directory / "kubevirt"
        self._ports = dict(zip(("virt-api", "console", "virt-controller"), free_ports(3), strict=True))
        self.virtctl_command = (str(built() / "kubevirt"), "virtctl")
        """What `virtctl` runs; on a command line it needs KUBECONFIG."""
        self._kept: dict[str, list[str | Path]] = {}
        """Program -> its command line, of those that are started again when they end: virt-controller does when it loses its
        lease, and the kubelet starts its container anew."""
        self._lock, self._down = threading.Lock(), threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="restarts", daemon=True)

    def up(self) -> None:
        """Install and start both; returns when VMs can be created.

        Raises RuntimeError with the end of the log of what failed."""
        self._directory.mkdir()
        host = f"{SERVICE}.{NAMESPACE}.svc"
        self._key, self._certificate = self._kube.certificate(SERVICE, f"DNS:{host},DNS:localhost,IP:127.0.0.1")
        authority = base64.b64encode(self._kube.authority.read_bytes()).decode()
        objects = [self._settled(each, authority) for each in manifests() if each["kind"] != "CustomResourceDefinition"]
        self._create(
            [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
                *(each for each in objects if each["kind"] not in LATER),
                _kubevirt(),
            ]
        )
        status = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": _DEPLOYED}))
        self._kube.kubectl("-n", NAMESPACE, "patch", "kubevirt", "kubevirt", *status)
        self.start("virt-api")
        self.start("virt-controller")
        wait_for(lambda: self._answers("virt-api", "/apis/subresources.kubevirt.io/v1/healthz"), 60, "virt-api ready")
        self._create(each for each in objects if each["kind"] in LATER)
        self._kube.kubectl("wait", "--for=condition=Available", "--timeout=30s", "apiservice/v1.subresources.kubevirt.io")
        self.wait_ready()
        self._keeper.start()

    def down(self) -> None:
        """Start nothing again any more. The programs end with the control plane."""
        self._down.set()
        if self._keeper.ident is not None:
            self._keeper.join()

    def _keep(self) -> None:
        while not self._down.wait(0.2):
            with self._lock:
                for program in self._kept:
                    if running(self._pidfile(program)) is None:
                        self._run(program)

    def wait_ready(self, seconds: float = 60) -> None:
        """Wait until virt-controller works."""
        wait_for(lambda: '"true"' in self._answers("virt-controller", "/leader"), seconds, "virt-controller leads")

    def start(self, program: str) -> None:
        """Start `virt-api` or `virt-controller` (again)."""
        account = {"virt-api": "kubevirt-apiserver", "virt-controller": "kubevirt-controller"}[program]
        key, certificate = self._key, self._certificate
        flags = {
            "virt-api": (
                "--subresources-only",
                f"--console-server-port={self._ports['console']}",
                *(f"--{use}-cert-file={certificate}" for use in ("tls", "handler")),
                *(f"--{use}-key-file={key}" for use in ("tls", "handler")),
            ),
            "virt-controller": (
                f"--launcher-image=quay.io/kubevirt/virt-launcher:v{version()}",
                f"--exporter-image=quay.io/kubevirt/virt-exportserver:v{version()}",
                f"--prom-cert-file={certificate}",
                f"--prom-key-file={key}",
                # Who is killed and started again does not wait 15 s for its own lease.
                "--leader-elect-lease-duration=4s",
                "--leader-elect-renew-deadline=3s",
                "--leader-elect-retry-period=1s",
            ),
        }
        command: list[str | Path] = [
            *((built() / program,) if program == "virt-api" else (built() / "kubevirt", program)),
            f"--kubeconfig={self._kube.service_account_kubeconfig(NAMESPACE, account)}",
            "--listen=127.0.0.1",
            f"--port={self._ports[program]}",
            *flags[program],
        ]
        with self._lock:
            self._kept[program] = command
            self._run(program)

    def _run(self, program: str) -> None:
        # virt-api builds its schemas anew at each start: 3.3 s with Go's default of 100, 2.3 s so
        start(self._kept[program], self._log(program), self._pidfile(program), env={"GOGC": "400"})

    def hold(self, program: str) -> None:
        """Freeze `virt-api` or `virt-controller`, until `resume`."""
        send(self._pidfile(program), signal.SIGSTOP)

    def resume(self, program: str) -> None:
        send(self._pidfile(program), signal.SIGCONT)

    def kill(self, program: str) -> None:
        """As a crash does it, on a node that does not start it again: `start` does."""
        with self._lock:
            self._kept.pop(program, None)
            stop(self._pidfile(program), seconds=0)

    def virtctl(self, *arguments: str) -> str:
        """Run virtctl as admin; its output.

        Raises RuntimeError with what it said."""
        return run(*self.virtctl_command, *arguments, env={"KUBECONFIG": str(self._kube.kubeconfig)})

    # -- parts

    def _settled(self, obj: Mapping[str, Any], authority: str) -> Mapping[str, Any]:
        """An object with what virt-operator writes into it when it installs it."""
        obj = json.loads(json.dumps(obj))
        service = {"namespace": NAMESPACE, "name": SERVICE, "port": self._ports["virt-api"]}
        match obj["kind"]:
            case "APIService":
                obj["spec"] |= {"caBundle": authority, "service": service}
            case "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration":
                for webhook in obj["webhooks"]:
                    webhook["clientConfig"] = {
                        "caBundle": authority,
                        "service": service | {"path": webhook["clientConfig"]["service"]["path"]},
                    }
            case "ValidatingAdmissionPolicy" | "ValidatingAdmissionPolicyBinding":
                obj["apiVersion"] = "admissionregistration.k8s.io/v1"  # the generator says `v1`
            case "Service" if obj["metadata"]["name"] == SERVICE:
                obj["spec"] = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": service["port"]}]}
            case "ConfigMap" if obj["metadata"]["name"].endswith("-ca"):
                obj["data"] = {"ca-bundle": self._kube.authority.read_text()}
        return obj  # type: ignore[no-any-return]

    def _create(self, objects: Iterable[Mapping[str, Any]]) -> None:
        self._kube.kubectl("create", "--validate=false", "-f", "-", stdin=as_list(objects))

    def _answers(self, program: str, path: str) -> str:
        """What the program's HTTPS server says; empty while it does not."""
        if running(self._pidfile(program)) is None and not self._keeper.is_alive():
            end = "\n".join(self._log(program).read_text().splitlines()[-15:])
            raise RuntimeError(f"{program} has ended; the end of its log:\n{end}")
        tls = ssl.create_default_context(cafile=str(self._kube.authority))
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{self._ports[program]}{path}", context=tls, timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return str(error)
        except OSError:
            return ""

    def _log(self, program: str) -> Path:
        return self._directory / f"{program}.log"

    def _pidfile(self, program: str) -> Path:
        return self._directory / f"{program}.pid"


_DEPLOYED = {
    "phase": "Deployed",
    "defaultArchitecture": "amd64",
    "conditions": [{"type": kind, "status": "True", "reason": "Lab", "message": ""} for kind in ("Available", "Created")],
}


def _kubevirt() -> Mapping[str, Any]:
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": NAMESPACE},
        "spec": {"configuration": CONFIGURATION, "workloadUpdateStrategy": WORKLOAD_UPDATES},
    }
