"""``ffalora run``: one run, or a sweep; everything is checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.composition import SHOWN, show
from ffalora_cli.cli.place import Place
from ffalora_cli.cli.running import play_shared
from ffalora_cli.compose.hydra_keys import take
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.job import Job

_EXAMPLES = """\
examples:
  ffalora run experiment=quickstart
  ffalora run task=sst2 paths.data=DATA partition=severe method=lora privacy.epsilon_target=3
  ffalora run experiment=glue_sst2_dp federation=short model=minilm
  ffalora run -m method=lora,ffa_lora seed='range(5)'     10 runs, one after another
  ffalora run debug=smoke                                 two short rounds of anything
  ffalora run experiment=quickstart --cfg job --resolve   the whole configuration, as YAML

A run that stopped on the way goes on when it is asked for again; a finished one is not repeated.

Groups and their names: ffalora ls. Keys: configs/config.yaml and the group files beside it."""


def main(arguments: Sequence[str]) -> int:
    """Check the command line, then run it; a sweep of several runs is ``ffalora sweep``."""
    parser = Parser("run", "Train one federation, or a sweep of them.", _EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep: a=1,2 range() glob()")
    parser.add_argument("--fail-fast", action="store_true", help="sweep: stop at the first failure")
    parser.add_argument("--quiet", action="store_true", help="print only the last lines")
    parser.add_argument("--again", action="store_true", help="start over, in a new folder")
    parser.add_argument("-c", "--cfg", choices=SHOWN, help="print the configuration, run nothing")
    parser.add_argument("--resolve", action="store_true", help="--cfg: with references resolved")
    parser.add_argument("-p", "--package", metavar="KEY", help="--cfg: one section of it")
    parser.add_argument("--info", nargs="?", const="all", metavar="WHAT", help="what was composed")
    options = parser.read(arguments)
    if options.cfg or options.info or options.resolve or options.package:
        return show(options)
    command = ("ffalora", "run", *arguments)
    if options.multirun:
        Place.of(os.environ).check_alone("run -m")
        if options.again:
            raise ConfigError("--again is for one run; a sweep gets new folders with name=NEW")
        from ffalora_cli.cli.verbs.sweep import sweep

        return sweep(options.overrides, command, options.quiet, options.fail_fast)
    overrides, _ = take(options.overrides, sweep=False)

    def job() -> Job:
        (one,) = plan(overrides)
        return replace(one, command=command, again=options.again)

    return play_shared(job, options.quiet)
