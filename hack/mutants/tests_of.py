"""The tests that mutants of ovnagent/core/ are tried with."""

PLAN = tuple(f"tests/unit/test_{name}.py" for name in ("plan", "port_names", "mangled_rows", "plan_told"))
HOLDING = tuple(f"tests/unit/test_{name}.py" for name in ("holding", "pools", "on_record", "macs", "shared"))
TESTS = (
    *PLAN,
    *HOLDING,
    *(f"tests/unit/test_{name}.py" for name in (
        "attachments", "books", "claims", "commands", "deletion", "dhcp", "dhcp_options", "difference", "documents", "free",
        "grants", "identity", "interfaces", "network_rules", "placement", "plan_edges", "plugging", "reduce", "reduce_edges",
        "requests", "routers", "settle", "takeover", "timeline", "timeline_told", "values", "vm", "why",
    )),
    "tests/scenarios/test_plugging.py",
    "tests/scenarios/test_scenarios.py",
    "tests/property/test_addresses.py",
    "tests/property/test_tenants.py",
)  # fmt: skip
"""The tests of `make unit` that are about core/, but for those that need the recorded streams."""
TESTS_OF: dict[str, tuple[str, ...]] = {
    "deletion.py": ("tests/unit/test_deletion.py",),
    "dhcp.py": ("tests/unit/test_dhcp.py",),
    "plan.py": (
        *PLAN,
        "tests/unit/test_plan_edges.py",
        "tests/unit/test_identity.py",
        "tests/unit/test_deletion.py",
    ),
    "ports.py": ("tests/unit/test_identity.py", *HOLDING, *PLAN),
    "dhcp_options.py": ("tests/unit/test_dhcp_options.py", "tests/unit/test_values.py"),
    "limits.py": ("tests/unit/test_values.py",),
    "problems.py": (
        *PLAN,
        "tests/unit/test_plan_edges.py",
        "tests/unit/test_network_rules.py",
        *HOLDING,
        "tests/scenarios",
    ),
    "placement.py": ("tests/unit/test_placement.py", "tests/unit/test_commands.py", "tests/scenarios"),
    "free.py": ("tests/unit/test_free.py",),
    "vm.py": (
        "tests/unit/test_vm.py",
        "tests/unit/test_reduce.py",
        "tests/unit/test_requests.py",
        "tests/unit/test_identity.py",
    ),
    "requests.py": ("tests/unit/test_requests.py",),
    "reduce.py": ("tests/unit/test_reduce.py", "tests/unit/test_reduce_edges.py", "tests/unit/test_vm.py"),
    "values.py": ("tests/unit/test_values.py",),
    "plugging.py": ("tests/unit/test_plugging.py", "tests/scenarios/test_plugging.py"),
    "takeover.py": ("tests/unit/test_takeover.py",),
    "timeline.py": ("tests/unit/test_timeline.py", "tests/unit/test_timeline_told.py", "tests/unit/test_why.py"),
    "networks.py": ("tests/unit/test_dhcp.py", "tests/unit/test_network_rules.py", "tests/unit/test_interfaces.py"),
}
"""File of core/ -> the tests that pin its constants; those of another file are pinned anywhere."""
