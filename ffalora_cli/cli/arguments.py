"""Parses arguments with complaints of one line, as all our errors are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ffalora_cli.cli.other_options import OF_HYDRA, answer
from ffalora_cli.config.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """``argparse``, with options and overrides in any order and errors as ``ConfigError``.

    Args:
        verb: of the command.
        description: what it does.
        examples: printed under the help, as they are.
    """

    def __init__(self, verb: str, description: str, examples: str = "") -> None:
        super().__init__(
            prog=f"ffalora {verb}",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse; an option that the verb does not have is answered with what to type instead."""
        if {"overrides", "words"} & {action.dest for action in self._actions}:
            arguments = _with_folder(arguments)
        for word in arguments:  # before -cn is read as -c n
            option = word.partition("=")[0]
            if option in OF_HYDRA and option not in self._option_string_actions:
                raise self._unknown(word, arguments)
        known, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            raise self._unknown(unknown[0], arguments)
        return known

    def _unknown(self, word: str, arguments: Sequence[str]) -> ConfigError:
        return ConfigError(answer(self.prog, word, arguments, self._option_string_actions))

    def error(self, message: str) -> NoReturn:
        """A usage error as one line."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def _with_folder(arguments: Sequence[str]) -> list[str]:
    """``--config-dir DIR`` and ``-cd DIR``, as Hydra has them, written as the key they are."""
    found: list[str] = []
    rest = iter(arguments)
    for text in rest:
        option, equals, value = text.partition("=")
        if option not in ("--config-dir", "-cd"):
            found.append(text)
            continue
        folder = value if equals else next(rest, None)
        if not folder:
            raise ConfigError(f"{option} needs a folder, as in {option} DIR")
        quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
        found.append(f"paths.configs='{quoted}'")
    return found


def words_of(text: str) -> tuple[str, ...]:
    """The words of an option that takes several, ``A,B``; one that is typed twice is one."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def file_to_write(option: str, text: str) -> Path:
    """The file that an option names, in a folder that is there.

    Raises:
        ConfigError: it is not.
    """
    file = Path(text).expanduser()
    if not file.parent.is_dir():
        raise ConfigError(f"{option} {file}: folder {file.parent} is not there; make it first")
    return file


OVERRIDES = "key=value or group=name, as in federation.rounds=50 model=roberta_base"
