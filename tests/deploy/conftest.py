"""What the manifests say, and the images that they run."""

from __future__ import annotations

import subprocess
from functools import cache
from typing import Any

import pytest
import yaml

from hack.lab.cluster import REPOSITORY
from hack.lab.kube import command
from hack.lab.process import run

OVERLAYS = ("unix", "tcp", "tls")


@cache
def manifests(overlay: str) -> tuple[dict[str, Any], ...]:
    """Every object of an overlay."""
    text = run(*command("kubectl"), "kustomize", REPOSITORY / "deploy" / "overlays" / overlay)
    return tuple(each for each in yaml.safe_load_all(text) if each)


def of_kind(overlay: str, kind: str, name: str = "ovnagent") -> dict[str, Any]:
    """The object of this kind and name."""
    (found,) = (each for each in manifests(overlay) if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


@pytest.fixture(scope="session")
def images() -> None:
    """Both images, built if need be."""
    done = subprocess.run([REPOSITORY / "hack" / "images"], capture_output=True, text=True, check=False)
    print(done.stdout)
    if done.returncode != 0:
        pytest.fail(f"hack/images: {done.stderr[-3000:]}", pytrace=False)
