"""Command line to checked jobs: compose, build, rules, signature; nothing heavy yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.compose.run_name import fork_name, named, run_name
from ffalora_cli.compose.wandb_environment import with_environment
from ffalora_cli.config import rules
from ffalora_cli.config.build import build, earlier_words, of_earlier
from ffalora_cli.config.errors import ConfigError, naming_job, one_line
from ffalora_cli.config.job import Job
from ffalora_cli.config.rates import guessed

if TYPE_CHECKING:
    from ffalora_cli.compose.overrides import Setting

_RATE = "federation.local_lr"


def plan(
    overrides: Sequence[str],
    sweep: bool = False,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Job]:
    """Every job of a command line, all checked before the first runs.

    Args:
        overrides: as typed.
        sweep: whether ``-m`` was given.
        told: how many jobs were checked, of how many; after each.

    Raises:
        ConfigError: the first thing wrong; in a sweep it names the job.
    """
    from ffalora_cli.compose.compose import compose_job
    from ffalora_cli.compose.overrides import expand

    jobs: list[Job] = []
    expanded = expand(overrides, sweep)
    typed = [[one.text for one in settings] for settings in expanded]
    for number, settings in enumerate(expanded, start=1):
        with naming_job(number, typed):
            job = _job(settings, compose_job(settings))
            follows = _follows_model(settings)
            jobs.append(replace(job, notes=(*job.notes, *guessed(job.config) * follows)))
        told(number, len(expanded))
    return jobs


def recorded(folder: Path, overrides: Sequence[str], fork: bool = False) -> Job:
    """The job a run folder was made by, with settings changed: what was typed then and now.

    Args:
        folder: of the run.
        overrides: as typed.
        fork: whether it is for a new run, which is named by what was changed.

    Raises:
        ConfigError: a folder that is no run, or anything wrong with an override.
    """
    from ffalora_cli.compose.compose import change
    from ffalora_cli.compose.overrides import expand
    from ffalora_cli.records.reading import read_config

    plain = of_earlier(read_config(folder))
    (settings,) = expand(overrides, sweep=False)
    before = _typed_before(folder, {setting.key for setting in settings})
    job = _job(settings, change(plain, settings), before)
    if fork and all(setting.key != "name" for setting in settings):
        config = replace(job.config, name=fork_name(job.config.name, settings))
        job = replace(job, config=config, named=False)
    return replace(job, overrides=(*before, *job.overrides))


def _typed_before(folder: Path, anew: Set[str]) -> list[str]:
    """The overrides in a run's manifest that are not given anew."""
    from ffalora_cli.records.files import read_json
    from ffalora_cli.records.run_directory import MANIFEST

    typed = read_json(folder / MANIFEST).get("overrides")
    texts = [t for t in typed if isinstance(t, str)] if isinstance(typed, list) else []
    return [t for t in texts if t.isprintable() and t.partition("=")[0] not in anew]


def from_file(file: Path, overrides: Sequence[str]) -> Job:
    """The job of a whole configuration in one file, as run folders have it, with settings changed.

    Raises:
        ConfigError: a file that is none, or anything wrong with it or an override.
    """
    import yaml

    from ffalora_cli.compose.compose import change
    from ffalora_cli.compose.overrides import expand
    from ffalora_cli.compose.yaml_files import mapping

    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a file") from None
    mapping(str(file), content)
    try:
        plain = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # a date that is none, and their kind
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{file}{line}: {one_line(str(error))[:100]}; give a config.yaml of a run folder"
        ) from None
    try:
        (settings,) = expand(overrides, sweep=False)
        return _job(settings, change(plain, settings))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _follows_model(settings: Sequence[Setting]) -> bool:
    """Whether the learning rate is the model's: neither typed nor set by an experiment."""
    from ffalora_cli.compose.compose import choices_of
    from ffalora_cli.compose.origins import who_set

    typed = {one.key for one in settings}
    line = who_set(_RATE, choices_of(settings))
    return not typed & {_RATE, "federation"} and line is not None and "${model." in line.written


def _job(settings: Sequence[Setting], plain: dict[str, Any], before: Sequence[str] = ()) -> Job:
    """A checked job.

    Args:
        settings: as typed.
        plain: the configuration that they make.
        before: overrides of the command that began the run, if it goes on.
    """
    from ffalora_cli.compose import catalogue
    from ffalora_cli.methods import registry
    from ffalora_cli.models.precision import settle_precision

    config = build(plain)
    own = named(config)
    typed = {one.key for one in settings} | {text.partition("=")[0] for text in before}
    if own:
        typed.add("name")
    config, tracked = with_environment(config, typed, os.environ)
    if not named(config):
        config = replace(config, name=run_name(config, settings))
    rules.refuse_secrets(plain)
    registry.check(config)
    config, said = settle_precision(config)
    notes = (*catalogue.own_words(), *earlier_words(plain), *said, *tracked)
    return Job(config, tuple(one.text for one in settings), notes, named=own)
