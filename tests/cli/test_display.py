"""What a run prints: piped, quiet and live; plain text, 80 columns, the same numbers everywhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ffalora_cli.cli.screen import table, words
from ffalora_cli.cli.screen.display import Display, LiveDisplay, PlainDisplay, open_display
from ffalora_cli.cli.screen.units import human_bytes, human_seconds, number, score
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.job import Job
from ffalora_cli.types import RoundRecord

SENTENCE = (
    "epsilon 5.99 (largest of 3 clients; unit example, add/remove one, delta 1e-5, "
    "Poisson sampling, PLD accountant)"
)
FACTS = {
    "run_dir": "runs/bbc_news-ffa_lora-s7-0123456789ab",
    "signature": "0123456789ab",
    "task": "bbc_news",
    "model": "minilm",
    "method": "ffa_lora",
    "clients": 3,
    "client_sizes": [449, 527, 1027],
    "trainable_parameters": 36864,
    "frozen_parameters": 22713216,
    "device": "cpu",
    "privacy": {"sentence": "planned " + SENTENCE},
    "rounds": 4,
    "notes": [],
}


def record(round: int, evaluated: bool = True) -> RoundRecord:
    metrics = {
        "comm/uplink_bytes_total": 442368.0 * round,
        "comm/downlink_bytes_total": 442368.0 * max(0, round - 1),
        "comm/setup_bytes_total": 48.0,
        "comm/head_bytes_total": 0.0,
        "privacy/epsilon_spent": 1.5 * round - 0.01,
        "time/samples_per_second": 143.4,
    }
    if evaluated:
        metrics |= {"eval/accuracy": 0.2 + 0.1 * round, "eval/loss": 1.6 - 0.1 * round}
    return RoundRecord(round, metrics)


def summary(last: RoundRecord) -> dict:
    return {
        "run_dir": FACTS["run_dir"],
        "rounds": last.round,
        "seconds": 83.0,
        "headline": "eval/accuracy",
        "value": last.metrics["eval/accuracy"],
        "final": dict(last.metrics),
        "privacy": {"sentence": SENTENCE},
    }


def play(display: Display, rounds: int = 4, every: int = 2) -> None:
    with display:
        display.note("reading data")
        display.started(FACTS)
        for round in range(rounds + 1):
            display.round_done(record(round, evaluated=round % every == 0))
        display.finished(summary(record(rounds)))


@pytest.fixture(scope="module")
def job() -> Job:
    return plan(["federation.rounds=4", "federation.eval_every=2", "seed=7"])[0]


PIPED = """\
note      reading data
run       ffa_lora on bbc_news with minilm, 3 clients with 449 to 1,027 rows
training  36,864 parameters, 22,713,216 frozen, on cpu
protocol  {protocol}
privacy   planned epsilon 5.99 (largest of 3 clients; unit example, add/remove
          one, delta 1e-5, Poisson sampling, PLD accountant)
records   runs/bbc_news-ffa_lora-s7-0123456789ab

    round  accuracy   loss  epsilon       up     down samples/s     ETA
      0/4    20.0 %  1.600    -0.01      0 B      0 B       143       -
      2/4    40.0 %  1.400     2.99   885 kB   442 kB       143    0:00
      4/4    60.0 %  1.200     5.99   1.8 MB   1.3 MB       143    0:00

result    accuracy 60.0 %, loss 1.200 (after 4 rounds in 1:23)
bytes     up 1.8 MB, down 1.3 MB, together 3.1 MB (all clients); of it set-up
          48 B
privacy   epsilon 5.99 (largest of 3 clients; unit example, add/remove one,
          delta 1e-5, Poisson sampling, PLD accountant)
records   runs/bbc_news-ffa_lora-s7-0123456789ab
try       ffalora show 0123456789ab
          ffalora run ... privacy=none
          ffalora sweep ... method=ffa_lora,lora seed=0,1,2
"""


def test_a_column_is_as_wide_as_its_metric():
    (job,) = plan(["experiment=dolly_small", "task.metrics=[token_accuracy]"])
    chosen = table.columns(job.config)
    line = table.Line(1, 8, {"eval/token_accuracy": 0.5, "eval/loss": 3.4})
    assert len(table.heading(chosen)) == len(table.row(chosen, line))
    assert table.row(chosen, line).index("50.0 %") + 6 == len("    round token_accuracy")


def test_piped_output_is_plain_and_whole(job) -> None:
    stream = io.StringIO()
    play(PlainDisplay(job, stream))
    text = stream.getvalue()
    protocol = re.search(r"protocol  (.*?)\nprivacy", text, re.DOTALL)
    assert protocol is not None
    assert text == PIPED.format(protocol=protocol.group(1))
    assert "4 rounds of 10 steps, batch" in protocol.group(1)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("typed", "title", "key"),
    [
        ([], None, None),
        (["method=fedsa_lora"], "personal", "eval/personalized_accuracy"),
        (["head.mode=personal"], "personal", "eval/personalized_accuracy"),
        (["federation.eval_clients=true"], "own-label", "eval/client_accuracy_own_labels"),
    ],
)
def test_the_clients_column_shows_what_such_runs_record(typed, title, key) -> None:
    (job,) = plan(["privacy=none", *typed])
    lines = [table.Line(r, 2, {"eval/accuracy": 0.5, key: 0.25} if r else {}) for r in (0, 1)]
    chosen = table.columns(job.config, live=False)
    titles = [column.title for column in chosen]
    assert titles[2] == (title or "loss")
    shown = [column.title for column in table.filled(chosen, lines)]
    assert shown == ["round", "accuracy", *([title] if title else [])]  # no loss, no bytes: gone
    if title:
        assert chosen[2].cell(lines[1]) == "25.0 %"


@pytest.mark.parametrize("layers, said", [(1, "last layer"), (2, "last 2 layers")])
def test_where_adapters_are_is_said_in_words(layers, said) -> None:
    (job,) = plan([f"adapter.layers={layers}"])
    assert f"rank 8 at query_value of the {said}, " in words.protocol(job.config)


def test_clients_own_models_say_what_they_are_scored_by() -> None:
    final = {"eval/nll": 3.0, "eval/loss": 3.0, "eval/personalized_token_accuracy": 0.05}
    text = words.closing({"final": final, "rounds": 1, "headline": "eval/nll"}, ["nll"])
    assert "clients' own models' token_accuracy 5.0 % on average" in " ".join(
        " ".join(text).split()
    )


def test_no_part_of_the_bytes_is_larger_than_its_whole() -> None:
    """Head bytes go both ways: 3.649 MB each way round down, their sum rounds up."""
    sent = {"comm/uplink_bytes_total": 3_649_000.0, "comm/downlink_bytes_total": 3_649_000.0}
    said = words.communication({**sent, "comm/head_bytes_total": 7_298_000.0})
    assert said == "up 3.6 MB, down 3.6 MB, together 7.3 MB (all clients); of it head 7.3 MB"
    assert words.communication(sent) == "up 3.6 MB, down 3.6 MB, together 7.3 MB (all clients)"


def test_quiet_prints_only_the_last_lines(job) -> None:
    stream = io.StringIO()
    play(Display(job, stream))
    assert stream.getvalue() == PIPED[PIPED.index("result ") : PIPED.index("try ")]


def test_live_ends_with_the_same_lines_and_stays_within_80_columns(job) -> None:
    stream = io.StringIO()
    play(LiveDisplay(job, Console(file=stream, force_terminal=True, width=80)))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert text.endswith(PIPED[PIPED.index("result ") :])
    lines = [line for part in text.splitlines() for line in part.split("\r")]
    assert max(map(len, lines)) <= 80
    start = max(i for i, line in enumerate(lines) if line.startswith("    round  accuracy"))
    frame = [line.split()[0] for line in lines[start + 1 : start + 4]]
    assert frame == ["0/4", "2/4", "4/4"]  # the last redraw, left on the screen


def test_the_terminal_is_left_as_it_was_when_a_run_breaks(job) -> None:
    stream = io.StringIO()
    with (
        pytest.raises(RuntimeError),
        LiveDisplay(job, Console(file=stream, force_terminal=True)) as display,
    ):
        display.started(FACTS)
        raise RuntimeError
    shown, hidden = stream.getvalue().rindex("\x1b[?25h"), stream.getvalue().rindex("\x1b[?25l")
    assert shown > hidden  # the cursor


def test_the_display_follows_the_stream(job, capsys) -> None:
    assert type(open_display(job, quiet=True)) is Display
    assert type(open_display(job, quiet=False)) is PlainDisplay  # pytest's stdout is no terminal


def test_columns_follow_the_run() -> None:
    stream = io.StringIO()
    play(
        PlainDisplay(plan(["task=cola", "privacy=none", "federation.eval_clients=true"])[0], stream)
    )
    heading = next(line for line in stream.getvalue().splitlines() if "round  " in line)
    assert heading.split() == [
        "round",
        "mcc",
        "own-label",
        "loss",
        "up",
        "down",
        "samples/s",
        "ETA",
    ]


def test_no_epsilon_without_its_sentence(job) -> None:
    stream = io.StringIO()
    play(PlainDisplay(job, stream))
    before_the_table = stream.getvalue().split("\n\n")[0]
    for word in ("unit", "add/remove", "delta", "sampling", "accountant"):
        assert word in before_the_table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (147_456, "147 kB"),
        (999_600, "1.0 MB"),
        (3_145_728, "3.1 MB"),
        (2.5e13, "25.0 TB"),
        (None, "-"),
    ],
)
def test_bytes(value, text) -> None:
    assert human_bytes(value) == text


def test_other_numbers() -> None:
    assert [human_seconds(s) for s in (0, 59.6, 3599, 3661, None)] == [
        "0:00", "1:00", "59:59", "1:01:01", "-",
    ]  # fmt: skip
    assert score("accuracy", 0.8766) == "87.7 %"
    assert score("mcc", -0.0312) == "-0.031"
    assert score("f1", float("nan")) == "-"
    assert number(None) == number(float("nan")) == "-"
    assert number(float("inf")) == "inf"


def test_a_looser_accountant_has_pld_beside_it() -> None:
    from ffalora_cli.cli.screen.words import privacy_sentence

    statement = {"sentence": "epsilon 6.00 (RDP accountant)", "accountant": "rdp"}
    statement["largest"] = {"epsilon": {"pld": 5.524, "rdp": 6.0}}
    assert privacy_sentence(statement).endswith("by the PLD accountant: epsilon 5.53")
    assert "PLD" not in privacy_sentence({**statement, "accountant": "pld"})


@pytest.mark.parametrize("width", [24, 40, 60, 80])
def test_columns_give_way_and_no_number_is_cut(width) -> None:
    from ffalora_cli.cli.screen import table

    (private,) = plan(["federation.rounds=1000000"])
    columns = table.columns(private.config)
    chosen = table.fitting(columns, width)
    line = table.Line(999_999, 1_000_000, record(2).metrics, 36_543.0)
    assert len(table.row(chosen, line)) == len(table.heading(chosen)) <= max(width, 25)
    assert [c.title for c in chosen][:2] == ["round", "accuracy"]
    assert all(column in columns for column in chosen)


def test_a_dumb_terminal_gets_plain_lines(job, monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert type(open_display(job, quiet=False)) is PlainDisplay
    monkeypatch.setenv("TERM", "xterm")
    assert type(open_display(job, quiet=False)) is LiveDisplay


def test_a_plain_display_shows_that_it_is_alive_between_evaluations(job, monkeypatch) -> None:
    monkeypatch.setattr("ffalora_cli.cli.screen.display._SILENCE", 0.0)
    stream = io.StringIO()
    play(PlainDisplay(job, stream))
    rows = [line.split()[0] for line in stream.getvalue().splitlines() if "/4 " in line[:12]]
    assert rows == ["0/4", "1/4", "2/4", "3/4", "4/4"]


def test_long_work_within_a_round_is_shown_with_the_time_that_is_left(job, monkeypatch):
    clock = iter(range(0, 1000, 6)).__next__
    monkeypatch.setattr("ffalora_cli.cli.screen.display.time.monotonic", clock)
    stream = io.StringIO()
    display = PlainDisplay(job, stream)  # at 0 s
    for done in (0.0, 25.0, 50.5):  # each call looks at the clock: about 12 s pass between lines
        display.working("answers", done, 100)
    said = stream.getvalue().splitlines()
    assert said and re.fullmatch(r"answers 50 of 100, 0:\d\d left", said[-1])
    console = Console(file=io.StringIO(), width=100)
    live = LiveDisplay(job, console)
    live.working("answers", 50.0, 100)
    console.print(live._view())
    assert "answers 50 of 100, 0:0" in console.file.getvalue()
    live.round_done(record(1))
    console.print(live._view())
    assert "answers" not in console.file.getvalue().splitlines()[-1]
