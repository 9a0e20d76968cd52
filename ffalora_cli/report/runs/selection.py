"""Selects runs by folders, globs, beginnings of names or signatures, and settings.

The words of a selection are either paths (a folder, a glob, the beginning of a run's name or
signature), of which a run matches any, or conditions (``key=value``), all of which it matches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from ffalora_cli.config.build import is_known, leaf_keys, unknown_key
from ffalora_cli.config.errors import ConfigError, brief, counted, listed, nearest
from ffalora_cli.records.reading import RunRecords, find_runs, read_run, signed
from ffalora_cli.records.run_directory import MANIFEST

GROUP_KEYS = {
    "task": "task.name",
    "model": "model.name",
    "method": "method.name",
    "privacy": "privacy.unit",
    "engine": "engine.name",
    "tracking": "tracking.name",
}
"""What choosing a group by name sets; ``partition`` has two, see ``values_of``."""

_RECORDED = ("experiment", "federation", "debug")  # known from a run's overrides alone


def select_runs(
    runs_root: str | Path,
    selectors: Sequence[str] = (),
    left_out: Callable[[str], None] | None = None,
) -> list[RunRecords]:
    """The runs that a person named, finished or not, by folder name.

    Args:
        runs_root: folder of all runs (``paths.runs``).
        selectors: a run's folder or a folder of runs, a glob over paths or names, the beginning of
            a name or signature: any of them; and ``key=value`` conditions, all of them:
            ``experiment=``, ``tag=``, a group (``method=lora``) or any key of the configuration,
            with several allowed values between commas. None: all finished runs.
        left_out: is told of every run whose records are damaged, which are left out; where it is
            None the first such run is an error.

    Raises:
        ConfigError: when a selector is unknown or matches nothing, and where all runs are damaged;
            names the nearest.
    """
    conditions = [text for text in selectors if _is_condition(text)]
    paths = [text for text in selectors if text not in conditions]
    folders = [path for text in paths for path in _folders(Path(runs_root).expanduser(), text)]
    if not paths:
        folders = find_runs(runs_root)
        if not folders:
            raise ConfigError(f"--runs {runs_root}: holds no runs; give the folder of your runs")
    unique = {folder.resolve(): folder for folder in folders}
    found = _read(sorted(unique.values(), key=lambda f: (f.name, f)), left_out)
    for text in conditions:
        found = _matching(found, text)
    if selectors:
        return found
    finished = [run for run in found if run.finished]
    if not finished:
        raise ConfigError(
            f"--runs {runs_root}: {counted(len(found), 'run')}, none finished; wait for one"
        )
    return finished


def _read(folders: Sequence[Path], left_out: Callable[[str], None] | None) -> list[RunRecords]:
    """All runs that can be read.

    Raises:
        ConfigError: when none can, or nobody wants to hear of it.
    """
    found = []
    for folder in folders:
        try:
            found.append(read_run(folder))
        except ConfigError as error:
            if left_out is None or (folder == folders[-1] and not found):
                raise
            left_out(str(error))
    return found


def dotted_keys(keys: Sequence[str]) -> list[str]:
    """Keys as a configuration has them: ``method.name`` for ``method``.

    Raises:
        ConfigError: for a key that does not exist.
    """
    dotted = [GROUP_KEYS.get(key, "partition.name" if key == "partition" else key) for key in keys]
    for key, known in zip(keys, dotted, strict=True):
        if not is_known(known):
            raise unknown_key(key)
    return dotted


def filters(selectors: Sequence[str]) -> dict[str, Any]:
    """Conditions as a mapping, for runs that are not in folders: dotted key -> allowed values.

    Raises:
        ConfigError: for a path, an unknown key, and what only folders know.
    """
    found: dict[str, Any] = {}
    for text in selectors:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{brief(text)} is a path; logged runs are chosen by key=value")
        if key in _RECORDED:
            raise ConfigError(f"{key}= is known of local runs alone; use tag=NAME or settings")
        values = value.strip("[]").split(",")
        if key == "tag":
            found["tags"] = value if len(values) == 1 else {"$in": values}
            continue
        if key == "partition":
            key = "partition.label_mix" if value in ("severe", "mild") else "partition.name"
        dotted = GROUP_KEYS.get(key, key)
        if not is_known(dotted):
            raise unknown_key(key)
        found[dotted] = values
    return found


def typed_lists(selectors: Sequence[str]) -> dict[str, list[str]]:
    """Lists of values in conditions, as they were typed: ``method=ffa_lora,lora`` by its key."""
    found = {}
    for text in filter(_is_condition, selectors):
        key, _, values = text.partition("=")
        names = {dotted: group for group, dotted in GROUP_KEYS.items()}
        found[names.get(key, key)] = [
            _number(value.strip()) for value in values.strip("[]").split(",")
        ]
    return found


def values_of(run: RunRecords, key: str) -> list[Any]:
    """What a run has under a selector's key; several for tags and for a partition's two names.

    Raises:
        ConfigError: for a key that does not exist.
    """
    if key == "tag":
        return list(run.config.get("tracking", {}).get("tags") or ())
    if key == "partition":
        section = run.config.get("partition", {})
        return [value for n in ("label_mix", "name") if (value := section.get(n)) is not None]
    if key in _RECORDED:
        return [value for name, value in typed(run.manifest) if name == key]
    dotted = GROUP_KEYS.get(key, key)
    if not is_known(dotted):
        hint = nearest(key, (*GROUP_KEYS, *_RECORDED, "partition", "tag"))
        if hint and "." not in key and nearest(key, leaf_keys()) is None:
            raise ConfigError(f"{brief(key)} is not a key of a run; did you mean {hint!r}?")
        raise unknown_key(key)
    return [value_at(run.config, dotted)]


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; None where an older run does not have it."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def spelled(value: Any) -> str:
    """A value as it is typed in an override: ``null``, ``true``, ``6`` for 6.0, ``[a,b]``."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(spelled, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{spelled(item)}" for name, item in value.items()) + "}"
    return str(value)


def _is_condition(text: str) -> bool:
    return "=" in text and not Path(text).exists()


def typed(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Overrides of one run: its own, or those of its command where that was no sweep.

    A fork has none: it began with another run's rounds, so it is no run of that protocol.
    """
    if manifest.get("forked_from"):
        return []
    overrides = manifest.get("overrides")
    if overrides is None:
        command = [str(word) for word in manifest.get("command") or ()]
        sweep = "-m" in command or "--multirun" in command
        overrides = [word for word in command if not (sweep and "," in word)]
    pairs = [str(word).partition("=") for word in overrides]
    return [(name.lstrip("+"), value) for name, equals, value in pairs if equals]


def _folders(root: Path, text: str) -> list[Path]:
    """Folders of runs that a path means.

    Raises:
        ConfigError: when there is none.
    """
    path = Path(text).expanduser()
    if any(letter in text for letter in "*?["):
        hits = [Path(hit) for hit in (*glob(str(path)), *glob(str(root / text)))]
    elif path.is_dir():
        hits = [path] if (path / MANIFEST).is_file() else find_runs(path)
    else:
        hits = []
    hits = [hit for hit in hits if (hit / MANIFEST).is_file()]
    if hits:
        return hits
    names = {folder.name: folder for folder in find_runs(root)}
    begun = [folder for name, folder in names.items() if text and name.startswith(text)]
    if begun:
        return [names[text]] if text in names else begun
    if by_signature := signed(names, text):
        return [names[name] for name in by_signature]
    hint = nearest(text, names)
    advice = (
        f"did you mean {hint!r}?" if hint else f"--runs {root} has {counted(len(names), 'run')}"
    )
    raise ConfigError(f"{brief(text, 80)} is no run, folder or beginning of a name; {advice}")


def _matching(runs: Iterable[RunRecords], text: str) -> list[RunRecords]:
    """The runs that fulfil one condition.

    Raises:
        ConfigError: when none does; names the nearest value there is.
    """
    key, _, wanted = text.partition("=")
    values = {value.strip() for value in wanted.strip("[]").split(",")}
    having = [(run, {spelled(value) for value in values_of(run, key)}) for run in runs]
    found = [run for run, own in having if own & (values | {_number(v) for v in values})]
    if found:
        return found
    there = sorted(set().union(*(own for _, own in having)))
    hint = nearest(wanted, there)
    advice = f"did you mean {hint!r}?" if hint else f"there is {listed(there) or 'none at all'}"
    raise ConfigError(
        f"{brief(text, 60)[1:-1]} matches none of {counted(len(having), 'run')}; {advice}"
    )


def _number(text: str) -> str:
    """``6.0`` and ``1e-5`` as ``spelled`` writes them."""
    try:
        return spelled(float(text))
    except ValueError:
        return text
