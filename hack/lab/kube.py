"""A real Kubernetes control plane on loopback: etcd, API server, controller-manager, scheduler (the program in hack/kube).

Who has KUBEBUILDER_ASSETS set (the convention of envtest) gets the programs of that folder instead.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import secrets
import shutil
import ssl
import urllib.request
import warnings
from pathlib import Path

import yaml

from hack.lab.free_ports import free_ports
from hack.lab.kubevirt_build import crds
from hack.lab.process import run, running, start, stop, stop_all, wait_for

HERE = Path(__file__).resolve().parent
CRDS = HERE / "crds"
CONTROLLERS = "*,-nodeipam,-nodelifecycle,-cloud-node-lifecycle,-service-lb-controller,-node-route-controller,-ttl"
"""All but those that would make something of our Nodes, which no kubelet keeps alive."""
NEW_CERTIFICATE = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@functools.cache
def built() -> str:
    """The program in hack/kube, built if need be."""
    return run(HERE.parent / "kube" / "build").strip()


def command(program: str) -> tuple[str, ...]:
    """How to call one of Kubernetes' programs; empty if there is no such program.

    Raises RuntimeError if the lab cannot do without it."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return built(), program
    path = Path(assets) / program
    if path.is_file():
        return (str(path),)
    if program in ("kube-controller-manager", "kube-scheduler"):  # envtest has none; what needs them fails by itself
        warnings.warn(f"no {program} in KUBEBUILDER_ASSETS ({assets}): the lab runs without", stacklevel=2)
        return ()
    raise RuntimeError(f"no {program} in KUBEBUILDER_ASSETS ({assets}): unset it, or run `setup-envtest use`")


class ControlPlane:
    """`with ControlPlane(directory) as kube:` — everything that it starts and writes is below that directory.

    RBAC is on; `kubeconfig` is the admin's. A ControlPlane on the directory of one that was not ended (its process was
    killed) ends that one first."""

    def __init__(self, directory: Path, audit: bool = False) -> None:
        self.directory = directory
        self.kubeconfig = directory / "admin.kubeconfig"
        self.audit_log = directory / "audit.log" if audit else None
        """One JSON object a line and request, with user, verb and resource."""
        self._token = secrets.token_hex()
        self.kubectl_command: tuple[str, ...] = ()
        """What `kubectl` runs; on a command line it needs KUBECONFIG."""
        self._port = self._etcd_port = 0

    @property
    def port(self) -> int:
        """The API server's, on 127.0.0.1."""
        return self._port

    @property
    def etcd_url(self) -> str:
        """Where etcd answers, its JSON gateway included."""
        return f"http://127.0.0.1:{self._etcd_port}"

    def __enter__(self) -> ControlPlane:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Start everything; returns when pods and KubeVirt's objects can be created.

        Raises RuntimeError with the end of the log of what failed."""
        self.down()
        self.kubectl_command = command("kubectl")
        self.directory.mkdir(parents=True, mode=0o700)
        self._port, self._etcd_port, peer = free_ports(3)
        try:
            self._make_credentials()
            self._start(
                "etcd",
                "--unsafe-no-fsync",  # a lab's data is worth nothing after its end
                "--log-level=error",
                # One member elects itself after this many ms; the default of 1000 is half of the time to start everything.
                "--election-timeout=100",
                "--heartbeat-interval=10",
                f"--data-dir={self.directory}/etcd",
                f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
                f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster=default=http://127.0.0.1:{peer}",
            )
            self.start_api_server()
            # Before the garbage collector: it asks for resource types when it starts, and then only every 30 s; a VM
            # orphaned while it learns of them loses its VMI.
            self.kubectl("create", "--validate=false", "-f", "-", stdin=crds())
            self.kubectl("create", "-f", str(CRDS))
            wait_for(self._established, 60, "all resource types are served")
            self._start(
                "kube-controller-manager",
                f"--kubeconfig={self.kubeconfig}",
                f"--controllers={CONTROLLERS}",
                f"--service-account-private-key-file={self.directory}/sa.key",
                f"--root-ca-file={self.directory}/tls/apiserver.crt",
                "--leader-elect=false",
                "--secure-port=0",
            )
            self._start("kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0")
            if command("kube-controller-manager"):  # it makes the ServiceAccount without which no pod is admitted
                self.kubectl("wait", "--for=create", "--timeout=30s", "serviceaccount/default")
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End everything, and remove the directory."""
        if self.directory.exists():
            stop_all(self.directory, seconds=0.2)  # nothing is worth a graceful end
            shutil.rmtree(self.directory)

    def start_api_server(self) -> None:
        """Start it (again, on the same port and data), and wait until it is ready."""
        audit = []
        proxy = self.certificate("front-proxy")
        if self.audit_log:
            policy = self.directory / "audit.yaml"
            policy.write_text(yaml.safe_dump(AUDIT_POLICY))
            audit = [f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}"]
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            "--endpoint-reconciler-type=none",  # it refuses to publish a loopback address as its own endpoint
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            # Aggregated API servers (virt-api) believe whom this certificate says a request is from.
            f"--requestheader-client-ca-file={self.authority}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-key-file={proxy[0]}",
            f"--proxy-client-cert-file={proxy[1]}",
            f"--token-auth-file={self.directory}/tokens.csv",
            f"--cert-dir={self.directory}/tls",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory}/sa.pub",
            f"--service-account-signing-key-file={self.directory}/sa.key",
            *audit,
        )
        wait_for(self._ready, 60, "API server ready")
        self._write_kubeconfig(self.kubeconfig, self._token)

    def stop_api_server(self) -> None:
        """End it at once, as a crash does; etcd stays."""
        stop(self.directory / "kube-apiserver.pid", seconds=0)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as admin; its output.

        Raises RuntimeError with what it said."""
        env = {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.directory / "cache")}
        return run(*self.kubectl_command, *arguments, stdin=stdin, env=env)

    def apply(self, manifest: str) -> str:
        """`kubectl apply` of YAML text."""
        return self.kubectl("apply", "-f", "-", stdin=manifest)

    def get(self, *arguments: str) -> dict[str, object]:
        """`kubectl get ... -o json`."""
        answer: dict[str, object] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return answer

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token, of a day, of this ServiceAccount."""
        token = self.kubectl("--namespace", namespace, "create", "token", name, "--duration=24h").strip()
        path = self.directory / f"{namespace}-{name}.kubeconfig"
        self._write_kubeconfig(path, token)
        return path

    @property
    def authority(self) -> Path:
        """The certificate of the lab's own authority."""
        return self.directory / "ca.crt"

    def certificate(self, name: str, names: str = "") -> tuple[Path, Path]:
        """Key and certificate, made once; `names` as openssl's subjectAltName wants them: `DNS:localhost,IP:127.0.0.1`."""
        key, certificate = self.directory / f"{name}.key", self.directory / f"{name}.crt"
        if not certificate.exists():
            signed = ("-CA", self.authority, "-CAkey", self.directory / "ca.key", "-subj", f"/CN={name}")
            names = f"subjectAltName={names or f'DNS:{name}'}"
            extensions = ("-addext", names, "-addext", "basicConstraints=critical,CA:FALSE")
            run("openssl", *NEW_CERTIFICATE, *signed, *extensions, "-keyout", key, "-out", certificate)
        return key, certificate

    # -- parts

    def _start(self, program: str, *arguments: str) -> None:
        if argv := command(program):
            start([*argv, *arguments], self.directory / f"{program}.log", self.directory / f"{program}.pid")

    def _ready(self) -> bool:
        for program in ("etcd", "kube-apiserver"):
            if running(self.directory / f"{program}.pid") is None:
                log = (self.directory / f"{program}.log").read_text().splitlines()
                raise RuntimeError("\n".join((f"{program} has ended; the end of its log:", *log[-15:])))
        url = f"https://127.0.0.1:{self._port}/readyz"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._token}"})
        try:
            tls = ssl.create_default_context(cafile=str(self.directory / "tls" / "apiserver.crt"))
            with urllib.request.urlopen(request, context=tls, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # no certificate yet, nobody listens yet, or an error status
            return False

    def _established(self) -> bool:
        try:
            self.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        except RuntimeError:  # it gives up where an object has no conditions yet
            return False
        return True

    def _make_credentials(self) -> None:
        private, public = self.directory / "sa.key", self.directory / "sa.pub"
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
        run("openssl", "ec", "-in", private, "-pubout", "-out", public)
        run("openssl", *NEW_CERTIFICATE, "-subj", "/CN=lab CA", "-keyout", self.directory / "ca.key", "-out", self.authority)
        (self.directory / "tokens.csv").write_text(f'{self._token},admin,admin,"system:masters"\n')

    def _write_kubeconfig(self, path: Path, token: str) -> None:
        certificate = base64.b64encode((self.directory / "tls" / "apiserver.crt").read_bytes()).decode()
        server = {"server": f"https://127.0.0.1:{self._port}", "certificate-authority-data": certificate}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": server}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        }
        path.write_text(yaml.safe_dump(content))
