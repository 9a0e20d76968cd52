"""Defines a launcher: it plays jobs somewhere and says how each of them ended.

One file per launcher in this folder, named as ``hydra/launcher=NAME``, with

- ``Settings``, a frozen dataclass: what ``hydra.launcher.KEY=VALUE`` can set, with defaults;
- ``LIBRARY``, the distribution it needs, or None;
- ``PROGRAMS`` of the scheduler in whose queue its jobs wait; none where they begin at once;
- ``launch(jobs, settings, on_change, stop, note)``, which is given *all* jobs at once, so that it
  may group them, and returns when none of them runs any more. For each job that it starts it calls
  ``on_change(job, None)`` and later ``on_change(job, ended)``, from any thread. It polls ``stop``
  at least every second; once that gives a signal, no other job is started and those that run are
  sent it (``process.play`` does so by itself) and waited for. A job that fails is no exception.
  What the user should know beside that is a ``note``, shown once a sweep.

Ours because Hydra's launchers call a function with pickled configs: they know no job that is done
already or may be resumed, no signal passed on, no ending beside its result, and no group of jobs.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin, get_type_hints

from ffalora_cli.config.errors import ConfigError, brief, choose, listed, nearest
from ffalora_cli.sweep.jobs import Note, OnChange, Stop, SweepJob

# Of this folder; the rest are launchers.
_SHARED = {"base", "gpus", "process", "ray_driver", "remote", "submitit_queue"}
Launch = Callable[[Sequence[SweepJob], OnChange, Stop, Note], None]
_JOBLIB = "joblib"  # Hydra's name for processes side by side, which takes every core unless told


def names() -> list[str]:
    """Launchers at hand: the files of this folder."""
    folder = str(Path(__file__).parent)
    return sorted(m.name for m in pkgutil.iter_modules([folder]) if m.name not in _SHARED)


def open_launcher(name: str, typed: Mapping[str, str]) -> Launch:
    """The launcher of a name, with its settings.

    Args:
        name: of a file here.
        typed: settings as they were typed, by key.

    Raises:
        ConfigError: for a name without a file, a setting that is none of its own, a value of
            another kind, or a library or program that is not installed.
    """
    if name == _JOBLIB:
        name, typed = "basic", {"n_jobs": "-1", **typed}
    module = _module(name)
    settings = read_settings("hydra.launcher", name, module.Settings, typed)
    if module.LIBRARY is not None and importlib.util.find_spec(module.LIBRARY) is None:
        raise ConfigError(
            f"hydra/launcher={name} needs {module.LIBRARY}, which is not installed; "
            "pip install 'ffalora[sweeps]'"
        )
    missing = [program for program in module.PROGRAMS if shutil.which(program) is None]
    if missing:
        raise ConfigError(
            f"hydra/launcher={name}: {listed(missing)} of the scheduler not on this machine; "
            "hydra/launcher=submitit_local tries the same here"
        )
    said: set[str] = set()  # a search launches its trials batch by batch

    def launch(jobs: Sequence[SweepJob], on_change: OnChange, stop: Stop, note: Note) -> None:
        def once(text: str) -> None:
            if text not in said:
                said.add(text)
                note(text)

        module.launch(jobs, settings, on_change, stop, once)

    return launch


def waits(name: str) -> bool:
    """Whether jobs of a launcher wait in a queue, for what may turn out to be missing."""
    return bool(_module(name).PROGRAMS)


def _module(name: str) -> ModuleType:
    if name not in [*names(), _JOBLIB]:
        raise choose("hydra/launcher", name, [*names(), _JOBLIB])
    return importlib.import_module(f"{__package__}.{'basic' if name == _JOBLIB else name}")


def read_settings(section: str, name: str, kind: Any, typed: Mapping[str, str]) -> Any:
    """Settings of one kind from text.

    Raises:
        ConfigError: naming the key and the nearest one, or what its value should be.
    """
    known = [field.name for field in fields(kind)]
    hints = get_type_hints(kind)
    values = {}
    for key, text in typed.items():
        if key not in known:
            hint = nearest(key, known)
            raise ConfigError(
                f"{section}.{key} is not a setting of {name}; "
                + (f"did you mean {hint!r}?" if hint else f"its settings are {listed(known)}")
            )
        values[key] = _value(f"{section}.{key}", text, hints[key])
    return kind(**values)


_WANTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    list: "a list, like ['module load cuda','. env/bin/activate']",
    dict: "a dictionary, like {reservation:NAME}",
}


def _value(key: str, text: str, hint: Any) -> Any:
    """One value of the kind a field is declared with (``int``, ``float | None``, ``list[str]``)."""
    kind = get_origin(hint)
    if kind in (list, dict):
        return _structure(key, text, kind)
    kinds = [k for k in getattr(hint, "__args__", (hint,)) if k is not type(None)]
    if text == "null" and kinds != [hint]:
        return None
    try:
        return kinds[0](text)
    except ValueError:
        raise ConfigError(f"{key}={brief(text)} should be {_WANTED[kinds[0]]}") from None


def _structure(key: str, text: str, kind: Any) -> Any:
    """A list of texts or a dictionary, as Hydra writes them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(f"{key}={text}").value()
    except HydraException:
        value = None
    if not isinstance(value, kind):
        raise ConfigError(f"{key}={brief(text)} should be {_WANTED[kind]}")
    return value if kind is dict else [str(item) for item in value]
