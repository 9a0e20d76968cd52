"""``ffalora completion SHELL``: completes verbs, groups, their options and keys; no torch."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.compose import catalogue
from ffalora_cli.config import plugins
from ffalora_cli.config.build import leaf_keys
from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.config.own_rows import ENDINGS

# The shell hands the line up to the cursor over and gets the words that may end it.
_BASH = """\
_ffalora() {
  local line="${COMP_LINE:0:COMP_POINT}" word
  word="${line##* }"
  COMPREPLY=($(compgen -W "$(ffalora completion --line "$line")" -- "$word"))
  # bash counts what follows a "=" as a word of its own
  if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
    COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
  fi
}
complete -o nospace -F _ffalora ffalora"""

SCRIPTS = {
    "bash": _BASH,
    "zsh": "autoload -U +X bashcompinit && bashcompinit\n" + _BASH,
    "fish": "complete -c ffalora -f -a '(ffalora completion --line (commandline -cp))'",
}
_EXAMPLES = """\
examples:
  eval "$(ffalora completion bash)"         in ~/.bashrc; zsh the same
  ffalora completion fish > ~/.config/fish/completions/ffalora.fish"""
# A shell runs what stands in $() of a word that may end a line: of a file's name, too.
_PLAIN = re.compile(r"[\w./:@%+=,-]+")
# Verbs that take overrides.
_CONFIGURED = (
    "run",
    "sweep",
    "tune",
    "plan",
    "validate",
    "explain",
    "partition",
    "audit",
    "attack",
)


def main(arguments: Sequence[str]) -> int:
    """Print the script of a shell, or the words that may end a line."""
    parser = Parser("completion", "Print a completion script for a shell.", _EXAMPLES)
    parser.add_argument("shell", nargs="?", default="bash", help=", ".join(SCRIPTS))
    parser.add_argument("--line", help="a command line up to the cursor: print what may end it")
    options = parser.read(arguments)
    if options.line is not None:
        print("\n".join(filter(_PLAIN.fullmatch, words(options.line))))
        return DONE
    if options.shell not in SCRIPTS:
        raise choose("", options.shell, SCRIPTS)
    print(SCRIPTS[options.shell])
    return DONE


def _rows_here() -> list[str]:
    """Files and folders that could be rows of one's own."""
    here = sorted(path for path in Path().iterdir() if not path.name.startswith("."))
    return [path.name for path in here if path.is_dir() or path.suffix in ENDINGS]


def words(line: str) -> list[str]:
    """Words that may stand at the end of ``line``, which is the text up to the cursor."""
    from ffalora_cli.cli.main import VERBS

    before = line.split(" ")[1:]
    if len(before) <= 1:
        return list(VERBS)
    verb, last = before[0], before[-1]
    groups = catalogue.groups()
    if verb == "new":
        return ["task"] if len(before) == 2 else _rows_here()
    if verb == "ls":
        return ["runs", *groups] if len(before) == 2 else []
    if verb not in _CONFIGURED:
        return []
    _look(before)
    group, equals, _ = last.partition("=")
    if verb == "explain" and len(before) == 2:
        return [*groups, *(name for name in leaf_keys() if not name.endswith("*"))]
    if not equals:
        return [f"{name}=" for name in (*groups, *leaf_keys()) if not name.endswith("*")]
    names = catalogue.options(group) if group in groups else _registered(group)
    return [f"{group}={name}" for name in names]


def _look(before: Sequence[str]) -> None:
    """Take options and names from the folders that the line has typed so far."""
    for word, following in itertools.pairwise(before):
        key, _, value = word.partition("=")
        folder = following if word in ("-cd", "--config-dir") else value
        take = plugins.load_from if key == "paths.plugins" else catalogue.look_in
        if folder and key in ("paths.plugins", "paths.configs", "-cd", "--config-dir"):
            with contextlib.suppress(ConfigError):  # the shell is not told
                take(folder)


def _registered(key: str) -> list[str]:
    """Names of what is found by name: methods, forms, kinds of task."""
    from ffalora_cli.adapters.registry import FORMS
    from ffalora_cli.methods.registry import METHODS
    from ffalora_cli.tasks.registry import KINDS

    return next((one.names() for one in (METHODS, FORMS, KINDS) if one.key == key), [])
