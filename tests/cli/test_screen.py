"""What the screen cannot take ends nothing: closed terminals, readers that leave, full disks."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.screen.streams import Screen, in_columns
from ffalora_cli.cli.screen.waiting import Waiting
from tests.tiny import save_tiny_bert


def left():
    """Standard output whose reader went away."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full():
    return open("/dev/full", "w")


@pytest.mark.parametrize(("stream", "reason"), [(left, "Broken pipe"), (full, "No space left")])
def test_a_stream_that_fails_is_dark_and_says_why(stream, reason) -> None:
    with stream() as under:
        screen = Screen(under)
        assert screen.write("a line\n") == 7 and screen.lost is None
        screen.flush()
        assert screen.lost is not None and reason in screen.lost
        screen.write("another\n")
        screen.flush()


def test_a_closed_descriptor_is_dark_from_the_start() -> None:
    screen = Screen(None)
    screen.write("nothing")
    assert (screen.lost, screen.isatty()) == ("closed", False)


def test_a_letter_that_the_stream_lacks_is_replaced() -> None:
    under = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    screen = Screen(under)
    screen.write("97.24 ± 0.31\n")
    screen.flush()
    assert screen.lost is None and under.buffer.getvalue() == b"97.24 ? 0.31\n"


@pytest.mark.parametrize("room", [30, 40, 60, 80])
def test_columns_are_broken_between_cells_alone(room) -> None:
    cells = ["job", "1,234,567", "97.24 ± 0.31", "123.4 MB", "12:34:56", "method=ffa_lora"]
    row = "   ".join(cells)
    command = "ffalora run task=sst2 paths.data=/somewhere/long federation.rounds=1000 seed=0"
    lines = in_columns(f"{row}\n{command}\n", room).split("\n")
    assert max(map(len, lines[:-2])) <= room
    assert all(any(cell in line for line in lines) for cell in cells)
    assert lines[-2:] == [command, ""]


@pytest.mark.parametrize(("stream", "code"), [(left, 141), (full, 1)])
def test_a_verb_that_only_prints_tells_the_shell(stream, code, monkeypatch, capsys) -> None:
    with stream() as under:
        monkeypatch.setattr(sys, "stdout", under)
        assert main(["ls", "methods"]) == code
    with stream() as under, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr(sys, "stdout", under)
        main(["ls", "--help"])
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert said == "" if code == 141 else said.startswith("ffalora: standard output cannot be")


@pytest.mark.parametrize("stream", [left, full])
def test_a_run_goes_on_without_its_screen_and_records_it(stream, tmp_path, monkeypatch, capsys):
    model = save_tiny_bert(tmp_path / "model")
    typed = ["run", "model=auto", f"model.source={model}", "debug=tiny", "privacy=none"]
    with stream() as under:
        monkeypatch.setattr(sys, "stdout", under)
        assert main([*typed, f"paths.runs={tmp_path / 'runs'}"]) == 0
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    (note,) = json.loads(summary.read_text())["notes"]
    assert "standard output failed on the way" in note
    assert note in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def impatient(patient, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("ffalora_cli.cli.screen.waiting.PATIENCE", 5.0)


def silent(under, seconds, news=()):
    """What is said of seconds in which only ``news`` are printed, in pieces."""
    now, output, error = [0.0], Screen(io.StringIO()), Screen(under)
    waiting = Waiting("plan", output, error, clock=lambda: now[0])
    output.heard = waiting._heard
    for second in range(seconds):
        now[0] = float(second)
        if second in news:
            output.write("news\n")
        waiting.look()
    output.write("the end\n")
    return under.getvalue().replace("ffalora plan: still working, ", "")


def test_silence_is_ever_rarer_lines_on_a_pipe(impatient) -> None:
    wanted = ["0:05", "0:10", "0:20", "0:40", "1:20", "2:20", "0:05", ""]
    assert silent(io.StringIO(), 156, news=(150,)).split("\n") == wanted


def test_silence_is_one_line_on_a_terminal_and_gone_with_the_next(impatient) -> None:
    assert silent(Terminal(), 8).split("\r\x1b[2K") == ["", "0:05", "0:06", "0:07", ""]


@pytest.mark.parametrize("words", [[], ["--quiet"]])
def test_a_quiet_command_says_nothing_of_its_silence(words, monkeypatch) -> None:
    started = []
    own = Waiting.__enter__
    monkeypatch.setattr(Waiting, "__enter__", lambda self: started.append(1) or own(self))
    main(["ls", "tasks", *words])
    assert bool(started) != bool(words)
