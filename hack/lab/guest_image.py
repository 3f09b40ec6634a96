"""The guest that the lab boots: Debian's cloud kernel and an initramfs of busybox, dhclient and a few modules.

Built once into the cache folder (`$XDG_CACHE_HOME/ovnagent` or `~/.cache/ovnagent`), keyed by the files that it is made
from. Needs the packages apt, busybox-static and cpio.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

KERNEL_PACKAGE = "linux-image-cloud-amd64"
"""The metapackage; its dependency holds the kernel."""
DHCLIENT_PACKAGE = "isc-dhcp-client"
"""For DHCPv6, which Debian's busybox has not."""

# In the order of loading. virtio_net needs all the rest; evdev and button make the power button work.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "evdev",
    "button",
)

_HERE = Path(__file__).parent
_SCRIPTS = (("guest_init.sh", "init"), ("guest_dhcp.sh", "dhcp"), ("guest_dhcp6.sh", "dhcp6"))
_SOURCES = (_HERE / "guest_image.py", *(_HERE / source for source, _ in _SCRIPTS))


class GuestImageError(Exception):
    """The image cannot be built; the message names what is missing."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """Files to boot from."""

    kernel: Path
    initrd: Path


def cache_folder() -> Path:
    """Where the lab keeps what it builds once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovnagent"


def build() -> GuestImage:
    """The image, built if it is not there yet (2-3 seconds and a download of 27 MB)."""
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in _SOURCES)).hexdigest()[:16]
    folder = cache_folder() / f"guest-{digest}"
    image = GuestImage(folder / "vmlinuz", folder / "initrd.gz")
    if folder.is_dir():
        return image
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch_name:
        scratch, finished = Path(scratch_name), Path(scratch_name) / "image"
        finished.mkdir()
        kernel, dhclient = _unpack_kernel(scratch), _unpack(scratch, DHCLIENT_PACKAGE) / "sbin" / "dhclient"
        shutil.copy(next(kernel.glob("boot/vmlinuz-*")), finished / "vmlinuz")
        (finished / "initrd.gz").write_bytes(gzip.compress(_initramfs(scratch / "root", kernel, dhclient), compresslevel=6))
        try:
            finished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, and its image is as good
                raise
    return image


def _unpack_kernel(scratch: Path) -> Path:
    """Download and unpack the kernel package; returns the folder it was unpacked to."""
    depends = _run("apt-cache", "depends", "--no-recommends", "--no-suggests", KERNEL_PACKAGE, cwd=scratch)
    package = next((line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line), None)
    if package is None:
        raise GuestImageError(f"apt knows no package {KERNEL_PACKAGE}: run apt-get update")
    return _unpack(scratch, package)


def _unpack(scratch: Path, package: str) -> Path:
    """Download and unpack a package; returns the folder it was unpacked to."""
    # Its own user cannot write to our folder; the warning that apt prints about that means nothing.
    _run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package, cwd=scratch)
    _run("dpkg-deb", "-x", str(next(scratch.glob(f"{package}_*.deb"))), package, cwd=scratch)
    return scratch / package


def _initramfs(root: Path, kernel: Path, dhclient: Path) -> bytes:
    """The initramfs as an uncompressed cpio archive."""
    busybox = shutil.which("busybox")
    if busybox is None or subprocess.run(["ldd", busybox], capture_output=True).returncode == 0:
        raise GuestImageError("no static busybox found: install the package busybox-static")
    for folder in ("bin", "modules"):
        (root / folder).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    _copy_program(dhclient, root)
    for source, name in _SCRIPTS:
        shutil.copy(_HERE / source, root / name)
        (root / name).chmod(0o755)
    present = {path.stem: path for path in kernel.glob("lib/modules/**/*.ko")}
    order = [module for module in MODULES if module in present]  # the others are built in
    for module in order:
        shutil.copy(present[module], root / "modules")
    (root / "modules" / "order").write_text("\n".join(order))
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), cwd=root, capture_output=True, check=True
    )
    return archive.stdout


def _copy_program(program: Path, root: Path) -> None:
    """A program with the shared libraries that it needs, which are this machine's."""
    shutil.copy(program, root / "bin")
    for word in _run("ldd", str(program), cwd=root).split():
        if word.startswith("/"):
            target = root / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)


def _run(*argv: str, cwd: Path) -> str:
    try:
        return subprocess.run(argv, cwd=cwd, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise GuestImageError(f"{argv[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise GuestImageError(f"{' '.join(argv)} failed: {error.stderr.strip()}") from error
