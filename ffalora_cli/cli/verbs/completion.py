"""``ffalora completion SHELL``: completes verbs, groups, their options and keys; no torch."""

from __future__ import annotations

from collections.abc import Sequence

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.compose import catalogue
from ffalora_cli.config.build import leaf_keys
from ffalora_cli.config.errors import choose

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
        print("\n".join(words(options.line)))
        return DONE
    if options.shell not in SCRIPTS:
        raise choose("", options.shell, SCRIPTS)
    print(SCRIPTS[options.shell])
    return DONE


def words(line: str) -> list[str]:
    """Words that may stand at the end of ``line``, which is the text up to the cursor."""
    from ffalora_cli.cli.main import VERBS

    before = line.split(" ")[1:]
    if len(before) <= 1:
        return list(VERBS)
    verb, last = before[0], before[-1]
    groups = catalogue.groups()
    if verb == "ls":
        return ["runs", *groups] if len(before) == 2 else []
    if verb not in _CONFIGURED:
        return []
    group, equals, _ = last.partition("=")
    if verb == "explain" and len(before) == 2:
        return [*groups, *(name for name in leaf_keys() if not name.endswith("*"))]
    if not equals:
        return [f"{name}=" for name in (*groups, *leaf_keys()) if not name.endswith("*")]
    return [f"{group}={option}" for option in catalogue.options(group)] if group in groups else []
