"""Verbs, help, and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import ffalora_cli
import ffalora_cli.experiment
from ffalora_cli.cli.main import VERBS, main
from ffalora_cli.cli.signals import stop_on_signals
from ffalora_cli.compose import catalogue
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.stopping import SIGNALS, Stopped
from ffalora_cli.sweep.jobs import Command, Ended
from ffalora_cli.sweep.launchers.process import play


def test_version_and_help(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"ffalora {ffalora_cli.__version__}"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert max(map(len, text.splitlines())) <= 88
    assert main([]) == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_within_80_columns(verb, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ffalora {verb}")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["rnu"], "'run'"),
        (["shwo"], "'show'"),
        (["seed=1"], "ffalora run seed=1"),
        (["ls", "taks"], "'tasks'"),
        (["ls", "--all"], "--all"),
        (["show"], "run"),
        (["show", "nothing-like-it"], "nothing-like-it"),
        (["partition", "--figure", "split.gif"], ".png"),
        (["partition", "--figure", "no/such/split.png"], "no/such"),
        (["partition", "partition=shard"], "'shards'"),
        (["partition", "seed=1,2"], "several values"),
    ],
)
def test_bad_usage_is_one_line(typed, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(typed) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert len(line) <= 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group", ["tasks", "models", "methods", "partitions", "experiments"])
def test_ls_names_every_option_once_within_80_columns(group, capsys) -> None:
    assert main(["ls", group]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line.split()[0] for line in lines if line and not line.startswith((" ", "choose"))]
    assert named == list(catalogue.options(group.removesuffix("s")))
    assert max(map(len, lines)) <= 80


def failing(error: BaseException):
    """Stands in for a run that breaks after its checks; what breaks is not what is tested."""

    def run(*args: object, **kwargs: object) -> dict:
        raise error

    return run


def test_a_crash_is_one_line_and_a_traceback_file(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ffalora_cli.experiment, "run", failing(RuntimeError("no memory\nleft")))
    assert main(["run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "RuntimeError: no memory" in line
    (file,) = (tmp_path / "runs").iterdir()
    assert str(file.relative_to(tmp_path)) in line
    assert "Traceback" in file.read_text()


def test_the_traceback_is_shown_when_asked_for(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FFALORA_TRACEBACK", "1")
    monkeypatch.setattr(ffalora_cli.experiment, "run", failing(RuntimeError("no memory")))
    assert main(["run"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interruption_and_late_config_errors(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ffalora_cli.experiment, "run", failing(Stopped(signal.SIGINT)))
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "ffalora: stopped: nothing was trained yet\n"
    monkeypatch.setattr(ffalora_cli.experiment, "run", failing(ConfigError("task=x: too few")))
    assert main(["run"]) == 2
    assert capsys.readouterr().err == "ffalora: task=x: too few\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("bad", "code"), [((), 0), ((1,), 3), ((0, 1, 2), 1)])
def test_a_sweep_goes_on_after_a_failure_and_ends_with_a_table(
    bad, code, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[int] = []

    def play(command, stop, threads, gpus) -> Ended:  # the process of a job
        seen.append(int(command.arguments[-1].removeprefix("seed=")))
        return Ended(1, 1.0, "broken") if seen[-1] in bad else Ended(0, 1.0)

    monkeypatch.setattr("ffalora_cli.sweep.launchers.basic.play", play)
    assert main(["run", "--quiet", "seed=0,1,2", "-m"]) == code
    assert seen == [0, 1, 2]
    rows = capsys.readouterr().out.splitlines()[1:4]
    for number, row in enumerate(rows):
        state = "failed" if number in bad else "done"
        assert row.split()[:3] == [str(number + 1), str(number), state]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_with_128_and_its_number_and_a_line(number, tmp_path) -> None:
    code = (
        "import ffalora_cli, time, sys, types\n"
        "def run(*a, **k):\n    print('up', flush=True)\n    time.sleep(30)\n"
        "room = types.ModuleType('ffalora_cli.experiment')  # loads no torch\n"
        "room.run, sys.modules[room.__name__], ffalora_cli.experiment = run, room, room\n"
        "from ffalora_cli.cli.main import main\nsys.exit(main(['run']))\n"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "up\n"
    began = time.monotonic()
    os.kill(process.pid, number)
    assert process.wait(timeout=20) == 128 + number
    assert time.monotonic() - began < 10
    assert process.stderr.read() == "ffalora: stopped: nothing was trained yet\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_that_comes_twice_in_a_moment_is_one(number) -> None:
    """A preempted Slurm job gets SIGTERM twice, a rank Ctrl-C; meant, it would end the tests."""
    with stop_on_signals(relayed=number == signal.SIGINT) as stop:
        stop.defer()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped) as caught:
            stop.poll()
    assert caught.value.signal == number


def test_main_in_threads_runs_and_leaves_signals_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ffalora_cli.experiment, "run", failing(ConfigError("task=x: too few")))
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with ThreadPoolExecutor(3) as pool:
        codes = list(pool.map(lambda seed: main(["run", f"seed={seed}"]), range(3)))
    assert codes == [2, 2, 2]
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_a_job_does_not_import_what_lies_in_the_folder(tmp_path) -> None:
    for name in ("random", "logging", "torch", "ffalora_cli"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    command = Command(("ls", "models"), tmp_path, tmp_path / "log", tmp_path / "stop")
    ended = play(command)
    assert (ended.code, ended.error) == (0, None)
    assert "minilm" in command.log.read_text()


def test_a_reader_that_goes_away_is_not_an_error_message() -> None:
    done = subprocess.run(
        f"{sys.executable} -m ffalora_cli.cli.main ls methods | true",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
