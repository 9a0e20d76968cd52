"""``ffalora``: finds the verb and turns every way to fail into one line and an exit code.

Nothing heavy is imported here: a verb's module is loaded when it is asked for.
"""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from ffalora_cli import __version__
from ffalora_cli.cli.exits import BAD_USAGE, BROKEN_PIPE, DONE, FAILED, INTERRUPTED
from ffalora_cli.cli.place import Place
from ffalora_cli.cli.screen.streams import Screen, screens
from ffalora_cli.cli.screen.waiting import Waiting
from ffalora_cli.config.errors import ConfigError, brief, nearest, one_line
from ffalora_cli.config.own_rows import ENDINGS, refuse_rows
from ffalora_cli.config.secrets import redact
from ffalora_cli.stopping import Stopped

VERBS = {
    "run": "train one federation, or a sweep of them",
    "sweep": "run a grid of federations, or search for the best",
    "tune": "choose rates and clips for each method by itself, then run them",
    "resume": "go on with a run that stopped, or fork it",
    "sync": "replay a run's records into a tracker",
    "plan": "say what a run will cost and promise, before it runs",
    "validate": "check a configuration, and what of it was run already",
    "explain": "a configuration key: value, type, allowed values, who set it",
    "new": "write a task of your own rows: ffalora new task my.csv",
    "budget": "plan privacy: epsilon, noise multiplier, steps: two give the third",
    "partition": "print and draw which client gets which labels",
    "doctor": "check versions, devices, caches, and that the machinery works",
    "ls": "list runs, tasks, models, methods, partitions, experiments, ...",
    "show": "print what a run did, and how its numbers came about",
    "compare": "put runs side by side, with spread over seeds",
    "plot": "draw runs: accuracy against rounds, bytes, epsilon, seconds",
    "report": "one page about runs: tables, pictures, privacy, commands",
    "export": "write a run as a peft adapter or full model, checked, with its card",
    "audit": "test the privacy mechanism of a run as it is implemented",
    "attack": "recover tokens from one step, with and without privacy",
    "completion": "print a completion script for bash, zsh or fish",
}

_HELP = """\
usage: ffalora VERB ...

Private federated LoRA fine-tuning of Hugging Face models, one command a run.

verbs:
{verbs}

examples:
  ffalora run                                      the embedded default: no hub, no GPU
  ffalora run experiment=glue_sst2_dp model=minilm paths.data=DATA federation=short
  ffalora run -m method=lora,ffa_lora seed=0,1,2   a sweep: six runs
  ffalora ls methods

`ffalora VERB --help` says more. Options: -h, --help; --version.
Exit codes: 0 done, 1 run failed, 2 bad usage or config, 3 sweep partly done,
128 + n signal n (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1, 140 SIGUSR2),
141 nobody reads what it prints. FFALORA_TRACEBACK=1 shows tracebacks."""

_SHARED = ("run", "resume")  # between the processes that torchrun starts
# Their results are on disk, whatever the screen takes.
_RECORDED = ("run", "sweep", "tune", "resume")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: without the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Threads that wait for work should sleep: spinning ones take the cores from other runs (and
    # from torch itself, where there are more threads than cores). Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # oneDNN keeps about a megabyte for each of the last 1,024 matrix shapes; 256 cost no time.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "256")
    # Matrix products with the same bits on one thread and on several; costs nothing measurable.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    if "--quiet" in arguments or not sys.stderr.isatty():  # bars are for who looks at them
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    with screens() as (output, error):
        spoken = "--quiet" not in arguments and Place.of(os.environ).rank == 0
        verb = next(iter(arguments), "")
        try:
            with Waiting(verb, output, error) if spoken else nullcontext():
                code = _code(arguments)
        except SystemExit as ended:  # of --help
            output.flush()
            raise SystemExit(_printed(int(ended.code or 0), output)) from None
        output.flush()
        return code if arguments and arguments[0] in _RECORDED else _printed(code, output)


def _printed(code: int, output: Screen) -> int:
    """The exit code of a verb that is nothing but what it prints."""
    if output.lost is None or code != DONE:
        return code
    if output.errno == errno.EPIPE:  # `ffalora ls tasks | head`: who left knows
        return BROKEN_PIPE
    print(f"ffalora: standard output cannot be written ({output.lost})", file=sys.stderr)
    return FAILED


def _code(arguments: list[str]) -> int:
    """The exit code of a command line; a line on standard error for whatever is not done."""
    try:
        return _dispatch(arguments)
    except ConfigError as error:
        _traceback_if_wanted()
        if Place.of(os.environ).rank == 0:  # of several processes one speaks
            print(f"ffalora: {one_line(str(error))}", file=sys.stderr)
        return BAD_USAGE
    except Stopped as stopped:
        print(": ".join(["ffalora", "stopped", *map(str, stopped.args[1:])]), file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt as interrupt:
        print(": ".join(["ffalora", "interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        _traceback_if_wanted()
        what = one_line(f"{type(error).__name__}: {error}")[:150]
        print(f"ffalora: {what}; FFALORA_TRACEBACK=1 shows where", file=sys.stderr)
        return FAILED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP.format(verbs="\n".join(f"  {n:<12}{t}" for n, t in VERBS.items())))
        return DONE if arguments else BAD_USAGE
    if arguments[0] == "--version":
        print(f"ffalora {__version__}")
        return DONE
    verb = arguments[0]
    if verb not in VERBS:
        for word in arguments:  # what `ffalora run` would say next
            if word.endswith(ENDINGS) and "=" in word:
                refuse_rows(word, word.rpartition("=")[2])
        if "=" in verb:
            example = brief(verb, 60)[1:-1]
            raise ConfigError(f"{brief(verb)} is an override; write ffalora run {example}")
        if verb.startswith("-") and any("=" in word for word in arguments):
            raise ConfigError(f"options follow a verb; write ffalora run {shlex.join(arguments)}")
        refuse_rows(verb, verb)
        hint = nearest(verb, VERBS)
        advice = f"did you mean {hint!r}?" if hint else f"verbs are {', '.join(VERBS)}"
        raise ConfigError(f"{brief(verb)} is not a verb; {advice}")
    if verb not in _SHARED:
        Place.of(os.environ).check_alone(verb)
    module = importlib.import_module(f"ffalora_cli.cli.verbs.{verb}")
    code: int = module.main(arguments[1:])
    return code


def _traceback_if_wanted() -> None:
    if os.environ.get("FFALORA_TRACEBACK") == "1":
        import traceback

        print(redact(traceback.format_exc()), end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
