"""What must hold of addresses whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ovnagent.core import records
from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, vm_object

NAMES = st.sampled_from([f"vm{number}" for number in range(8)])
ADDRESSES = st.sampled_from(
    ["", *(f"10.16.0.{number}" for number in range(12)), "10.17.0.1", "nonsense", "10.16.0.5,10.16.0.6"]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), NAMES, ADDRESSES),
        st.tuples(st.just("delete"), NAMES, st.just("")),
        st.tuples(st.just("recreate"), NAMES, ADDRESSES),
        st.tuples(st.just("clone"), NAMES, st.sampled_from([f"vm{number}" for number in range(8)])),
        st.tuples(st.just("restart"), st.just(""), st.just("")),
    ),
    max_size=30,
)


class Zoo:
    """VMs that come, ask, go and come back, on a subnet too small for all of them (8 VMs, 6 addresses)."""

    def __init__(self) -> None:
        self.desk = Desk(network("10.16.0.0/29", reserved=()))
        self.generation: dict[str, int] = {}
        self.alive: dict[str, dict[str, object]] = {}

    def do(self, action: str, name: str, value: str) -> None:
        if action == "restart":
            self.desk.forget()
        elif action == "delete":
            if name in self.alive:
                self.desk.feed("DELETED", "virtualmachines", self.alive.pop(name))
        elif action == "ask":
            self._put(name, value, "")
        elif action == "recreate":
            self.do("delete", name, "")
            self.desk.look()
            self._put(name, value, self.desk.records.get(VmKey("default", name), ""))
        elif action == "clone" and name not in self.alive:
            self._put(name, "", self.desk.records.get(VmKey("default", value), ""))
        self.desk.look()

    def _put(self, name: str, value: str, record: str) -> None:
        if name not in self.alive:
            self.generation[name] = self.generation.get(name, 0) + 1
        uid = f"{name}-{self.generation[name]}"
        annotations = {"ovn.kubernetes.io/ip_address": value} if value else {}
        if name in self.alive:  # the agent's own record is on the object by now
            record = self.desk.records.get(VmKey("default", name), "")
        self.alive[name] = vm_object(name, uid, annotations, record=record)
        self.desk.feed("MODIFIED", "virtualmachines", self.alive[name])

    def check(self) -> None:
        rows = [row.port for row in self.desk.rows.values()]
        ips = [ip for port in rows for ip in port.ips]
        assert len(ips) == len(set(ips)), "an address is held twice"
        assert len({port.mac for port in rows}) == len(rows), "a MAC is held twice"
        book = self.desk.books["ovn-default"]
        assert {str(ip) for ip in book.ips} == set(ips), "the books and the rows differ"
        assert book.used.get(("pods", 4), 0) == len(ips)
        assert {port.vm.name for port in rows} <= set(self.alive), "a port outlives its VM"
        for name in self.alive:
            held = [port for port in rows if port.vm.name == name]
            assert held or self.desk.says(name), f"{name} has no port and nobody says why"


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_no_address_is_held_twice_and_the_books_are_right(steps: list[tuple[str, str, str]]) -> None:
    zoo = Zoo()
    for step in steps:
        zoo.do(*step)
        zoo.check()


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_an_address_stays_while_its_vm_exists_and_asks_for_no_other(steps: list[tuple[str, str, str]]) -> None:
    zoo = Zoo()
    for action, name, value in steps:
        before = {
            port.vm.name: port.ips
            for port in (row.port for row in zoo.desk.rows.values())
            if not zoo.desk.says(port.vm.name)  # one that waits for another address may get it now
        }
        zoo.do(action, name, value)
        after = {port.vm.name: port.ips for port in (row.port for row in zoo.desk.rows.values())}
        for other, ips in before.items():
            if other != name:
                assert after[other] == ips, f"{action} {name} changed what {other} has"


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_restart_changes_nothing(steps: list[tuple[str, str, str]]) -> None:
    zoo = Zoo()
    for step in steps:
        zoo.do(*step)
    zoo.desk.writes.clear()
    zoo.desk.forget()
    zoo.desk.look()
    assert not zoo.desk.writes


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_lost_rows_come_back_with_the_addresses_of_the_records(steps: list[tuple[str, str, str]]) -> None:
    zoo = Zoo()
    for step in steps:
        zoo.do(*step)
    for name in list(zoo.alive):  # the record follows behind the port
        zoo._put(name, _asked(zoo.alive[name]), "")
    zoo.desk.look()
    before = {name: row.port.addresses for name, row in zoo.desk.rows.items()}
    zoo.desk.rows.clear()
    zoo.desk.forget()
    zoo.desk.look()
    assert {name: row.port.addresses for name, row in zoo.desk.rows.items()} == before


def _asked(obj: dict[str, object]) -> str:
    return obj["spec"]["template"]["metadata"]["annotations"].get("ovn.kubernetes.io/ip_address", "")  # type: ignore[index]


def printable(size: int) -> st.SearchStrategy[str]:
    """What an operator may call a network."""
    return st.text(min_size=1, max_size=size).filter(lambda text: text.isprintable() and text == text.strip())


@given(
    st.builds(
        records.Record,
        vm=st.builds(
            VmKey, st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.from_regex(r"[a-z]([a-z.]?[a-z]){0,9}", fullmatch=True)
        ),
        uid=st.from_regex(r"[0-9a-f-]{1,36}", fullmatch=True),
        leases=st.lists(
            st.builds(
                records.Lease,
                port=printable(9),
                interface=st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True),
                network=printable(9).filter(lambda name: not set(name) & set('"\\')),
                ips=st.lists(
                    st.ip_addresses().filter(lambda ip: not getattr(ip, "ipv4_mapped", None)),
                    min_size=1,
                    max_size=2,
                    unique_by=lambda ip: ip.version,
                ).map(tuple),
                mac=st.from_regex(r"0[2468ace](:[0-9a-f]{2}){5}", fullmatch=True),
            ),
            max_size=3,
            unique_by=lambda lease: lease.port,
        ).map(lambda leases: tuple(sorted(leases, key=lambda lease: lease.port))),
    )
)
def test_a_record_reads_back_as_written(record: records.Record) -> None:
    assert records.parse(records.render(record)) == record


@given(st.text())
def test_a_damaged_record_claims_nothing(text: str) -> None:
    parsed = records.parse(text)
    assert parsed is None or records.parse(records.render(parsed)) == parsed
