"""The lab's OVN in the sandbox's container instead of this machine's own packages; the rest of the lab does not notice:
the container shares the lab's folder, the network namespaces and the process ids with the host."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from hack.lab.ovn import OvnLab
from hack.lab.process import run, wait_for

AGENT_IMAGE, SANDBOX_IMAGE = "localhost/ovnagent:latest", "localhost/ovn-sandbox:latest"
NETNS = Path("/run/netns")
CONF = Path(__file__).parents[1] / "containers.conf"


@functools.cache
def program() -> str:
    """Docker if it runs, else podman: as hack/images decides."""
    docker = subprocess.run(["docker", "info"], capture_output=True, check=False).returncode if shutil.which("docker") else 1
    return "docker" if docker == 0 else "podman"


def engine(*arguments: str | Path) -> str:
    """A command of the container engine; its standard output."""
    # podman's own settings work where there are systemd and all cgroups; elsewhere these do.
    conf = os.environ.get("CONTAINERS_CONF") or ("" if Path("/run/systemd/system").is_dir() else str(CONF))
    return run(program(), *arguments, env={"CONTAINERS_CONF": conf} if conf else {})


class SandboxLab(OvnLab):
    """`OvnLab`, with its daemons in a container of the sandbox's image."""

    def __init__(self, name: str, directory: Path, chassis: int = 3, root: Path | None = None) -> None:
        if root is not None:
            raise ValueError("the sandbox has the OVN that is in its image")
        super().__init__(name, directory, chassis)
        self._container = f"ovnagent-{name}"

    def up(self) -> None:
        self.claim()
        self._clear()
        if not NETNS.exists():  # made by the first one, and shared with containers from then on
            run("ip", "netns", "add", self.bridge_netns)
            run("ip", "netns", "del", self.bridge_netns)
        parent = self.directory.parent  # the lab makes its folder itself
        parent.mkdir(parents=True, exist_ok=True)
        shares = ("-v", f"{parent}:{parent}", "-v", f"{NETNS}:{NETNS}:rshared")
        place = ("--privileged", "--network", "host", "--pid", "host")
        try:
            engine("run", "-d", "--name", self._container, *place, *shares, SANDBOX_IMAGE, "lab", self.name, self.directory)
            wait_for((self.directory / "ready").exists, 30, f"the sandbox's OVN (podman logs {self._container})")
        except BaseException:
            self.down()
            raise

    def _clear(self) -> None:
        if engine("ps", "-a", "-q", "--filter", f"name=^{self._container}$").strip():
            engine("rm", "-f", "-t", "20", self._container)
        super()._clear()
