"""A real Kubernetes control plane on loopback: API server with etcd, controller-manager, scheduler (hack/kube)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from hack.lab.process import run, start, stop_all, wait_for

HERE = Path(__file__).resolve().parent
CRDS = HERE / "crds"
ADMIN_TOKEN = "lab-admin"
CONTROLLERS = "*,-nodeipam,-nodelifecycle,-cloud-node-lifecycle,-service-lb-controller,-node-route-controller,-ttl"
"""All but those that would make something of our Nodes, which no kubelet keeps alive."""
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


def binary() -> str:
    """The control plane program, built if need be."""
    return run(HERE.parent / "kube" / "build").strip()


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class ControlPlane:
    """`with ControlPlane(directory) as kube:` — everything it starts and writes is below that directory."""

    def __init__(self, directory: Path, audit: bool = False, scheduler: bool = True) -> None:
        self.directory = directory
        self.audit_log = directory / "audit.log" if audit else None
        self.scheduler = scheduler
        self.kubeconfig = directory / "admin.kubeconfig"
        self.binary = ""
        self.port = 0

    def __enter__(self) -> ControlPlane:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        self.down()
        self.directory.mkdir(parents=True)
        self.binary = binary()
        try:
            self.port, client, peer = free_ports(3)
            self._etcd = (client, peer)
            self._credentials()
            self.start_api_server()
            # Before the garbage collector: it asks for resource types when it starts, and then only every 30 s; a VM
            # orphaned while it learns of them loses its VMI.
            self.install_crds()
            self._start("controller-manager", "--controllers", CONTROLLERS, "--use-service-account-credentials=false",
                        f"--service-account-private-key-file={self.directory}/sa.key", f"--root-ca-file={self.directory}/tls/apiserver.crt",
                        "--leader-elect=false", "--secure-port=0", "--concurrent-gc-syncs=20")  # fmt: skip
            if self.scheduler:
                self._start("scheduler", "--leader-elect=false", "--secure-port=0")
        except BaseException as error:
            log = self.directory / "api-server.log"
            tail = "\n".join(log.read_text().splitlines()[-15:]) if log.exists() else ""
            self.down()
            raise RuntimeError(f"the control plane did not come up: {error}\n{tail}") from error

    def down(self) -> None:
        if self.directory.exists():
            stop_all(self.directory, seconds=0.2)  # there is nothing worth a graceful end
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- parts

    def start_api_server(self) -> None:
        """(Re)start it on the data it has, and wait until it is ready."""
        directory, (client, peer) = self.directory, self._etcd
        arguments = [
            f"--etcd-directory={directory}/etcd",
            f"--etcd-client=127.0.0.1:{client}",
            f"--etcd-peer=127.0.0.1:{peer}",
            f"--etcd-servers=http://127.0.0.1:{client}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            f"--token-auth-file={directory}/tokens.csv",
            f"--cert-dir={directory}/tls",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={directory}/sa.pub",
            f"--service-account-signing-key-file={directory}/sa.key",
            "--max-requests-inflight=3000",
            "--max-mutating-requests-inflight=1000",
        ]
        if self.audit_log:
            (directory / "audit.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
            arguments += [f"--audit-policy-file={directory}/audit.yaml", f"--audit-log-path={self.audit_log}"]
        pid = start(
            [self.binary, "up", *arguments], directory / "api-server.log", directory / "api-server.pid",
            env={"GOMAXPROCS": "2"},
        )  # fmt: skip
        wait_for(lambda: self._ready(pid), 60, "API server ready")
        self._write_kubeconfig(self.kubeconfig, ADMIN_TOKEN)

    def stop_api_server(self) -> None:
        from hack.lab.process import stop

        stop(self.directory / "api-server.pid")

    def _start(self, command: str, *arguments: str) -> None:
        start(
            [self.binary, command, f"--kubeconfig={self.kubeconfig}", *arguments],
            self.directory / f"{command}.log",
            self.directory / f"{command}.pid",
        )

    def _ready(self, pid: int) -> bool:
        if not Path(f"/proc/{pid}").exists():
            raise RuntimeError("the API server has ended")
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/readyz", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
        )
        try:
            with urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _credentials(self) -> None:
        directory = self.directory
        run("openssl", "genrsa", "-out", directory / "sa.key", "2048")
        run("openssl", "rsa", "-in", directory / "sa.key", "-pubout", "-out", directory / "sa.pub")
        (directory / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')

    def _write_kubeconfig(self, path: Path, token: str) -> None:
        certificate = base64.b64encode((self.directory / "tls" / "apiserver.crt").read_bytes()).decode()
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "lab",
                    "clusters": [
                        {
                            "name": "lab",
                            "cluster": {
                                "server": f"https://127.0.0.1:{self.port}",
                                "certificate-authority-data": certificate,
                            },
                        }
                    ],
                    "users": [{"name": "user", "user": {"token": token}}],
                    "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
                }
            )
        )

    # -- use

    @property
    def env(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.directory / "cache")}

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the cluster's admin; its output.

        Raises RuntimeError with what it said."""
        return run(self.binary, "kubectl", *arguments, stdin=stdin, env=self.env)

    def apply(self, manifest: str) -> str:
        return self.kubectl("apply", "-f", "-", stdin=manifest)

    def install_crds(self) -> None:
        self.kubectl("apply", "-f", str(CRDS))
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token of this ServiceAccount."""
        token = wait_for(lambda: self._token(namespace, name), 20, f"a token of {namespace}/{name}")
        path = self.directory / f"{namespace}-{name}.kubeconfig"
        self._write_kubeconfig(path, token)
        return path

    def _token(self, namespace: str, name: str) -> str:
        try:
            return self.kubectl("-n", namespace, "create", "token", name).strip()
        except RuntimeError:
            return ""

    def get(self, *arguments: str) -> dict[str, object]:
        """`kubectl get ... -o json`."""
        answer: dict[str, object] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return answer


