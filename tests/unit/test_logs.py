"""One line an action, with its values as fields."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import threading

from ovnagent.core.vm import VmKey
from ovnagent.process import logs


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelname": "INFO", "created": 0.0})
    vars(made).update(extra)
    return made


def test_text_is_key_value_with_quotes_where_they_are_needed() -> None:
    line = logs.TextFormatter().format(record("port created", vm=VmKey("ns", "web"), reason='it said "no"', empty=""))
    assert line == '1970-01-01T00:00:00.000Z INFO port created vm=ns/web reason="it said \\"no\\""'


def test_json_is_an_object_a_line() -> None:
    line = logs.JsonFormatter().format(record("port created", port="web.ns", seconds=0.5))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "INFO",
        "message": "port created",
        "port": "web.ns",
        "seconds": 0.5,
    }


def test_an_exception_stays_on_the_line_in_json() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        made = record("failed")
        made.exc_info = (type(error), error, error.__traceback__)
    text = logs.JsonFormatter().format(made)
    assert "\n" not in text
    assert "ValueError: broken" in json.loads(text)["exception"]


def test_a_burst_is_written_in_one_go_in_its_order_and_also_where_it_fails() -> None:
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    handler = logs._Lines(Stream())
    logger = logging.Logger("burst")
    logger.addHandler(handler)
    with contextlib.suppress(ValueError), logs.together():
        logger.warning("one")
        logger.warning("two")
        assert not writes
        raise ValueError
    assert writes == ["one\ntwo\n"]
    logger.warning("three")
    assert "".join(writes) == "one\ntwo\nthree\n"


def test_another_threads_lines_do_not_wait_for_a_burst() -> None:
    stream = io.StringIO()
    logger = logging.Logger("burst")
    logger.addHandler(logs._Lines(stream))
    with logs.together():
        logger.warning("mine")
        other = threading.Thread(target=logger.warning, args=("theirs",))
        other.start()
        other.join()
        assert stream.getvalue() == "theirs\n"
    assert stream.getvalue() == "theirs\nmine\n"
