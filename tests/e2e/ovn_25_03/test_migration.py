"""The migrations of tests/e2e/test_migration.py whose outcome depends on OVN, on OVN 25.03."""

from tests.e2e.test_migration import (  # noqa: F401 - pytest finds them here, with this folder's lab
    test_a_migration_that_fails,
    test_around_three_nodes,
    test_the_agent_is_frozen_over_the_switch,
    test_the_announcement_is_lost,
)
