"""What a node's plugger asks the API server of its pods: when, how often, and what counts as an answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import orjson
import pytest

from ovnagent.core import reduce
from ovnagent.core.plugging import Machine
from ovnagent.kube.client import ApiError
from ovnagent.plugger.machines import Machines
from tests.desk import pod_object


class Api:
    """Answers questions, and counts them."""

    def __init__(self) -> None:
        self.objects: dict[str, object] = {}
        self.asked: Counter[str] = Counter()
        self.away = False

    def request(self, method: str, path: str) -> bytes:
        self.asked[path] += 1
        path = path.partition("?")[0]
        if self.away:
            raise ApiError(503, method, path, "away")
        if path not in self.objects:
            raise ApiError(404, method, path, "not found")
        return orjson.dumps(self.objects[path])


def wait(news: threading.Event) -> None:
    assert news.wait(5)
    news.clear()


def test_questions_have_pauses_that_grow() -> None:
    api, news = Api(), threading.Event()
    failures: list[str] = []
    machines = Machines(api, news.set, failures.append)  # type: ignore[arg-type]
    pod = reduce.launcher(pod_object("p", "web", "node1"))
    api.away = True
    pauses = []
    for _ in range(4):
        assert machines.ask(pod, hurry=False) == float("inf"), "it is being asked"
        wait(news)
        pauses.append(machines.ask(pod))
        time.sleep(max(0.0, pauses[-1]))
    assert failures == ["http_503"] * 4
    assert machines.known == {}, "no answer is not the answer that there is none"
    assert pauses[3] > 4 * pauses[0]
    api.away = False
    machines.ask(pod, hurry=True)
    wait(news)
    assert machines.known[pod.uid] == Machine(None, None, ())
    machines.forget_all_but(set())
    assert machines.known == {}
    machines.stop()


def test_many_answers_are_told_together_and_none_is_forgotten() -> None:
    """A full node's first look has hundreds of questions, and what is known is looked at anew each time one is told."""
    api, told = Api(), threading.Semaphore(0)
    calls: list[int] = []

    def changed() -> None:
        calls.append(len(machines.known))
        told.release()

    machines = Machines(api, changed, lambda _: None)  # type: ignore[arg-type]
    pods = [reduce.launcher(pod_object(f"p{number}", f"vm{number}", "node1")) for number in range(300)]
    for pod in pods:
        machines.ask(pod)
    assert machines.asking
    while not calls or calls[-1] < len(pods):
        assert told.acquire(timeout=10), "the last answer was told of"
    assert not machines.asking
    assert len(calls) < len(pods) / 4
    machines.ask(pods[0], hurry=True)
    while told.acquire(timeout=10) and machines.asking:
        pass
    assert len(calls) < len(pods) / 4
    machines.stop()


def test_what_is_in_an_owner_s_name_stays_a_name() -> None:
    api, news = Api(), threading.Event()
    machines = Machines(api, news.set, lambda _: None)  # type: ignore[arg-type]
    pod = reduce.launcher(pod_object("p", "web", "node1"))
    machines._get("/api", "../../x", "pods", "a/b?c=d#e", reduce.launcher)
    assert list(api.asked) == ["/api/namespaces/..%2F..%2Fx/pods/a%2Fb%3Fc%3Dd%23e"]
    object.__setattr__(pod, "vmi", "")
    machines.ask(pod)
    wait(news)
    assert machines.known[pod.uid] == Machine(None, None, ()), "without a name one would ask for a list"
    assert len(api.asked) == 1
    machines.stop()


def test_the_first_answer_may_be_from_the_cache_and_a_further_one_is_not() -> None:
    api, news = Api(), threading.Event()
    machines = Machines(api, news.set, lambda _: None)  # type: ignore[arg-type]
    pod = reduce.launcher(pod_object("p", "web", "node1"))
    for cached in (True, False):
        api.asked.clear()
        machines.ask(pod, hurry=True)
        wait(news)
        assert {path.endswith("?resourceVersion=0") for path in api.asked} == {cached}
    api.asked.clear()
    machines.ask_whether_gone("other", "default/p")
    wait(news)
    assert list(api.asked) == ["/api/v1/namespaces/default/pods/p"], "what is taken away is never taken on an old answer"
    machines.stop()


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        (None, True),
        (pod_object("p", "web", "node1"), False),
        (pod_object("p", "web", "node1", phase="Succeeded"), True),
        (pod_object("other", "web", "node1"), True),
    ],
)
def test_whether_a_pod_is_gone(answer: dict[str, Any] | None, gone: bool) -> None:
    api, news = Api(), threading.Event()
    machines = Machines(api, news.set, lambda _: None)  # type: ignore[arg-type]
    if answer is not None:
        api.objects["/api/v1/namespaces/default/pods/p"] = answer
    machines.ask_whether_gone("pod-p", "default/p")
    wait(news)
    assert machines.gone == (frozenset({"pod-p"}) if gone else frozenset())
    machines.stop()
