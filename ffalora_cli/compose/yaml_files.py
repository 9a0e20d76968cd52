"""Checks YAML files before Hydra reads them: every slip is one line with file and line.

Hydra would merge an empty file to nothing, put an experiment without its ``@package`` line where
nobody looks for it, take the last of two equal keys, and fail on the rest with a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

from ffalora_cli.compose import catalogue
from ffalora_cli.config.build import is_known, known_keys, unknown_key
from ffalora_cli.config.errors import ConfigError, brief, choose, listed, one_line

if TYPE_CHECKING:
    import yaml

GLOBAL = ("experiment", "debug")  # options of these may set any key
_PACKAGE = "# @package _global_"
_OF_HYDRA = ("defaults", "hydra")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
TYPED = ("paths.configs", "paths.plugins")  # where configs and code are: never said by a config


def dumped(content: Any, **how: Any) -> str:
    """Plain values as YAML that Hydra reads as they are: to it 1e3 is a number, to PyYAML a text.

    Args:
        content: what is written.
        how: of ``yaml.dump``.
    """
    import yaml

    return yaml.dump(content, Dumper=_dumper(), sort_keys=False, allow_unicode=True, **how)


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    number = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)(e[-+]?\d+)?", re.IGNORECASE)
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", number, [*"-+.0123456789"])
    return Dumper


def check_option(group: str, option: str) -> None:
    """Refuse an option whose file, or one that its defaults list names, is not what it should be.

    Raises:
        ConfigError: file, line, what is wrong there, and what should be.
    """
    _check_file(group, catalogue.file(group, option))


@cache
def _check_file(group: str, path: Traversable) -> None:
    file = catalogue.label(group, path)
    try:
        content = catalogue.read(path)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); make it a file") from None
    root = mapping(file, content)
    _check_package(file, group, content)
    prefix = "" if group in GLOBAL else f"{group}."
    _check_keys(file, root, prefix)
    for other, name in _defaults(file, root, group):
        if other not in catalogue.groups():  # Hydra would look for files of it, above us even
            raise ConfigError(
                f"{file}: defaults: {brief(other)[1:-1]} is not one of {listed(catalogue.groups())}"
            )
        if name == "null":
            continue
        if name not in catalogue.options(other):
            raise ConfigError(f"{file}: defaults: {choose(other, name, catalogue.options(other))}")
        check_option(other, name)


def mapping(file: str, content: bytes) -> yaml.MappingNode:
    """The tree of a YAML file that holds keys at its top.

    Args:
        file: as it is named in an error.
        content: of the file.

    Raises:
        ConfigError: file, line, what is wrong there, and what should be.
    """
    import yaml

    if content.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{file}, line 1: begins with a byte order mark; save it as plain UTF-8")
    try:
        root = yaml.compose(content.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise _at(file, content, error.start, "is not UTF-8; save it in that encoding") from None
    except yaml.reader.ReaderError as error:
        start = len(content.decode("utf-8")[: error.position].encode())
        letter = f"character {error.character:#04x}"
        raise _at(file, content, start, f"holds a {letter}; remove it") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise ConfigError(f"{file}, line {line}: {_problem(error, content, line)}") from None
    except RecursionError:
        raise ConfigError(f"{file}: is nested too deeply; flatten it") from None
    if root is None:
        raise ConfigError(f"{file}, line 1: is empty; write keys, as in 'rounds: 20'")
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "text"
        line = root.start_mark.line + 1
        raise ConfigError(f"{file}, line {line}: is {kind}, not keys, as in 'rounds: 20'")
    _refuse_twice(file, root, set())
    return root


def _at(file: str, content: bytes, start: int, what: str) -> ConfigError:
    line = content.count(b"\n", 0, start) + 1
    return ConfigError(f"{file}, line {line}: {what}")


def _problem(error: yaml.MarkedYAMLError, content: bytes, line: int) -> str:
    """What YAML says, or what a person did where that is clear."""
    written = content.decode("utf-8").splitlines()[line - 1 : line]
    if any("\t" in text[: len(text) - len(text.lstrip())] for text in written):
        return "is indented by a tab; use blanks"
    return f"{one_line(str(error.problem))}; check indentation, colons and brackets up to there"


def _refuse_twice(file: str, node: yaml.Node, met: set[int]) -> None:
    """Of two equal keys YAML keeps the last, and nobody is told; an alias can hold itself, or much.

    Args:
        file: as it is named in an error.
        node: the tree.
        met: ``id`` of its lists and sections so far.
    """
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return
    if id(node) in met:
        line = node.start_mark.line + 1
        raise ConfigError(f"{file}, line {line}: stands elsewhere as an alias, *; write it out")
    met.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(file, item, met)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name, yaml.ScalarNode):
            raise ConfigError(f"{file}, line {line}: a key should be a word")
        if name.value in seen:
            raise ConfigError(
                f"{file}, line {line}: {brief(name.value)} stands in line {seen[name.value]} "
                "already; keep one"
            )
        seen[name.value] = line
        _refuse_twice(file, value, met)


def _check_package(file: str, group: str, content: bytes) -> None:
    """An experiment sets keys anywhere and says so; an option of a group sets those of its own."""
    lines = content.decode("utf-8").splitlines()
    said = next(((n, t.strip()) for n, t in enumerate(lines, 1) if "@package" in t), None)
    if group in GLOBAL:
        if said is None or said[1] != _PACKAGE:
            line = 1 if said is None else said[0]
            raise ConfigError(f"{file}, line {line}: should be '{_PACKAGE}', as in every {group}")
    elif said is not None and said[1] != f"# @package {group}":
        raise ConfigError(
            f"{file}, line {said[0]}: moves the keys of a {group} elsewhere; remove the line"
        )


def _check_keys(file: str, node: yaml.MappingNode, prefix: str) -> None:
    """Every key is one of the schema, and a section holds keys."""
    import yaml

    for name, value in node.value:
        key, line = f"{prefix}{name.value}", name.start_mark.line + 1
        if key in _OF_HYDRA or key.removeprefix(prefix) == "defaults":
            continue
        if not is_known(key):
            raise ConfigError(f"{file}, line {line}: {unknown_key(key)}")
        if key in TYPED:
            raise ConfigError(f"{file}, line {line}: {key} is typed, no file may set it; remove it")
        inner = next((k for k in known_keys() if k.startswith(f"{key}.") and k[-1] != "*"), None)
        if inner is None:
            continue
        if isinstance(value, yaml.MappingNode):
            _check_keys(file, value, f"{key}.")
        elif "${" not in str(value.value) and value.value not in ("null", "~"):
            example = inner.removeprefix(f"{key}.")
            raise ConfigError(
                f"{file}, line {line}: {key} is a section; its keys stand below it, indented "
                f"by two blanks, as in '{example}: VALUE'"
            )


def _defaults(file: str, root: yaml.MappingNode, group: str) -> Iterator[tuple[str, str]]:
    """(group, option) of every entry of a file's own defaults list.

    Raises:
        ConfigError: file, line, and what stands there that is neither an option nor GROUP: OPTION.
    """
    import yaml

    entries = next((value for name, value in root.value if name.value == "defaults"), None)
    if entries is None:
        return
    if not isinstance(entries, yaml.SequenceNode):
        line = entries.start_mark.line + 1
        raise ConfigError(f"{file}, line {line}: defaults should be a list, as in '- _self_'")
    for entry in entries.value:
        pairs = entry.value if isinstance(entry, yaml.MappingNode) else [(None, entry)]
        for name, value in pairs:
            if not isinstance(value, yaml.ScalarNode) or value.value in ("", "~"):
                line = value.start_mark.line + 1
                raise ConfigError(
                    f"{file}, line {line}: defaults: write OPTION, or override /GROUP: OPTION"
                )
            if not value.style and value.tag in _NUMBERS:  # Hydra wants a text
                line = value.start_mark.line + 1
                number = value.value
                raise ConfigError(
                    f'{file}, line {line}: defaults: {number} is a number; write "{number}"'
                )
            if name is None and value.value != "_self_":
                yield group, value.value
            elif name is not None:
                yield name.value.split()[-1].strip("/"), value.value
