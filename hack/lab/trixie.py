"""A second OVN: Debian 13's packages (OVN 25.03, OVS 3.5) in a folder, from which the lab's daemons run.

python -m hack.lab.trixie        make the folder (once; about 20 s and 260 MB below the cache) and print it
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from hack.lab.process import run

PACKAGES = "ca-certificates,openvswitch-switch,ovn-central,ovn-host,iproute2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovnagent"


def root() -> Path:
    """The folder, made if need be.

    Raises RuntimeError where it cannot be made."""
    folder = CACHE / "trixie"
    if (folder / "usr" / "bin" / "ovn-northd").exists():
        return folder
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError("mmdebstrap is not installed (package mmdebstrap)")
    CACHE.mkdir(parents=True, exist_ok=True)
    fresh = CACHE / f"trixie.{os.getpid()}"
    # No daemon of a package is started while it is installed: the folder gets a policy-rc.d of its own.
    run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", fresh)
    fresh.rename(folder)
    return folder


if __name__ == "__main__":
    print(root())
    sys.exit(0)
