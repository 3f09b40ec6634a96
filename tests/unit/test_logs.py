"""One line an action, with its values as fields."""

from __future__ import annotations

import json
import logging

from ovnagent import logs
from ovnagent.core.vm import VmKey


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
