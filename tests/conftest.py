"""What tests need of the machine: root and programs. Missing on a laptop they are skipped, with the reason; in CI they
fail."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from hack.lab.cluster import Cluster
from hack.lab.container import SandboxLab

TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"
PACKAGES = {
    "ovn-nbctl": "ovn-central",
    "ovn-controller": "ovn-host",
    "ovs-vswitchd": "openvswitch-switch",
    "ip": "iproute2",
    "ethtool": "ethtool",
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "openssl": "openssl",
    "podman": "podman",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "socat": "socat",
}
NEEDS = {
    "deploy": (
        "ovn-nbctl",
        "ovn-controller",
        "ovs-vswitchd",
        "ip",
        "ethtool",
        "openssl",
        "qemu-system-x86_64",
        "podman",
        "socat",
    ),
    "integration": ("ovn-nbctl", "ovn-controller", "ovs-vswitchd", "ip", "ethtool"),
    "random_machine": ("ovn-nbctl", "ovs-vswitchd"),
    "e2e": ("ovn-nbctl", "ovn-controller", "ovs-vswitchd", "ip", "ethtool", "openssl"),
    "monitoring": ("promtool", "prometheus", "ovn-nbctl", "ovn-controller", "ovs-vswitchd", "ip", "ethtool", "openssl"),
    "lab": ("ovn-nbctl", "ovn-controller", "ovs-vswitchd", "ip", "ethtool", "qemu-system-x86_64", "busybox", "openssl"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ovn", choices=("lab", "sandbox"), default="lab", help="where OVN runs: this machine's packages, or the container"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--ovn") == "sandbox":
        Cluster.ovn_class = SandboxLab


def missing(programs: tuple[str, ...]) -> str:
    """What this machine lacks, as a sentence; empty if nothing."""
    absent = [f"{program} (package {PACKAGES[program]})" for program in programs if shutil.which(program) is None]
    if absent:
        return f"needs {', '.join(absent)}; hack/test installs them where it may"
    return "" if os.geteuid() == 0 else "needs root (network namespaces)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in NEEDS and (reason := missing(NEEDS[folder])):
            item.add_marker(pytest.mark.unavailable(reason=reason))


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("unavailable")
    if marker is not None:
        reason = marker.kwargs["reason"]
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time went, by folder and file."""
    spent: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder, _, file = report.nodeid.split("::")[0].rpartition("/")
                spent[folder] += report.duration
                spent[f"{folder}/{file}"] += report.duration
    terminalreporter.section("where the time went")
    for name, seconds in spent.most_common(25):
        if seconds >= 1:
            terminalreporter.line(f"{seconds:7.0f} s  {name}")


@pytest.fixture(scope="session")
def traces() -> Path:
    """The recorded object streams of the real KubeVirt control plane."""
    if not TRACES.is_dir():
        pytest.skip(f"the recorded traces are not beside the checkout ({TRACES})")
    return TRACES
