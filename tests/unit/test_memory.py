"""The collector is away while anything loads, and back when the last load is done."""

from __future__ import annotations

import gc

import pytest

from ovnagent.process.memory import loading


def test_loads_that_overlap() -> None:
    with loading():
        with pytest.raises(ValueError, match="no"), loading():
            raise ValueError("no")
        assert not gc.isenabled()
    assert gc.isenabled()
