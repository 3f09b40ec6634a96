"""The collector is away while anything loads, and back when the last load is done."""

from __future__ import annotations

import gc

import pytest

from ovnagent.garbage import held_back


def test_loads_that_overlap() -> None:
    with held_back():
        with pytest.raises(ValueError, match="no"), held_back():
            raise ValueError("no")
        assert not gc.isenabled()
    assert gc.isenabled()
