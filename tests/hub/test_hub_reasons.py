"""Reasons that no server can be made to give, and how long a busy hub is waited for."""

from __future__ import annotations

import errno

import httpx
import pytest
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HfHubHTTPError

from ffalora_cli.hub import access
from ffalora_cli.hub.reasons import Wanted, reason

MODEL = Wanted("model", "lab/m", "main", "model.revision", "use model=minilm")
DATA = Wanted("dataset", "lab/d", "main", "task.hub_path=NAME@REVISION", "set paths.data", "a")


def caused(outer, *inner):
    """An exception with a chain of causes, as the libraries wrap them."""
    error = outer
    for cause in inner:
        error.__cause__ = cause
        error = cause
    return outer


def answer(status, **headers):
    request = httpx.Request("GET", "http://hub.example/api/models/lab/m")
    return HfHubHTTPError("no", response=httpx.Response(status, headers=headers, request=request))


@pytest.mark.parametrize("wanted", [MODEL, DATA])
def test_a_full_disk_names_the_folder_and_where_to_go(wanted):
    full = OSError(errno.ENOSPC, "No space left on device", "/cache/hub/blobs/x.incomplete")
    error = caused(DatasetGenerationError("An error occurred"), ValueError("wrapped"), full)
    said = reason(error, wanted)
    assert said.startswith("no space left in /cache/hub/blobs; ") and "HF_HOME" in said
    locked = OSError(errno.EACCES, "Permission denied", "/cache/hub/x")
    assert "/cache/hub cannot be written" in reason(locked, wanted)
    assert "no space left in " in reason(OSError(errno.ENOSPC, "No space left"), wanted)


def test_a_silent_hub_names_the_keys_of_patience():
    said = reason(caused(OSError("Can't load the model"), httpx.ReadTimeout("")), MODEL)
    assert "did not answer within 10 s" in said and "HF_HUB_ETAG_TIMEOUT" in said


def test_what_is_unknown_is_told_whole_and_by_name(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    long = "word " * 60
    assert reason(RuntimeError(long), MODEL) == f"RuntimeError: {long.strip()}; use model=minilm"


def test_a_busy_hub_is_waited_for_as_it_asks(monkeypatch):
    waits, answers = [], [answer(503), answer(429, **{"Retry-After": "7"}), answer(502)]
    monkeypatch.setattr(access.time, "sleep", waits.append)

    def ask():
        if answers:
            raise answers.pop(0)
        return "here"

    assert access.patiently(ask) == "here" and waits == [1.0, 7.0, 4.0]


@pytest.mark.parametrize(
    "error",
    [answer(404), answer(429, **{"Retry-After": "600"}), httpx.ConnectError("refused"), OSError()],
)
def test_what_does_not_pass_is_not_asked_again(monkeypatch, error):
    monkeypatch.setattr(access.time, "sleep", lambda _: pytest.fail("waited"))
    asked = []

    def ask():
        asked.append(1)
        raise error

    with pytest.raises(type(error)):
        access.patiently(ask)
    assert asked == [1]


def test_a_hub_that_stays_busy_is_given_up_and_says_so(monkeypatch):
    monkeypatch.setattr(access.time, "sleep", lambda _: None)
    asked = []

    def ask():
        asked.append(1)
        raise answer(503)

    with pytest.raises(HfHubHTTPError) as caught:
        access.patiently(ask)
    assert len(asked) == len(access.WAITS) + 1
    assert reason(caught.value, MODEL) == (
        "the hub answered 503 again and again; the same command tries again"
    )
