"""What guests get from OVN's DHCP, DNS and routers, on OVN 25.03."""

from collections.abc import Iterator

import pytest

from hack.lab import trixie
from tests.e2e.conftest import Lab
from tests.e2e.test_guest_networks import (  # noqa: F401 - pytest finds them here, with this folder's lab
    peer,
    pytestmark,
    test_a_guest_has_the_address_and_mtu_of_its_port,
    test_guests_reach_each_other_by_name_and_over_the_router,
    three_guests,
)


@pytest.fixture(scope="module")
def tenants() -> Iterator[Lab]:
    with three_guests("dhc25", trixie.root()) as lab:
        yield lab
