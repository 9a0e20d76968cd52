"""``ffalora export``: a run as a PEFT adapter or a full model, checked, with a model card."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE, FAILED
from ffalora_cli.cli.screen import words
from ffalora_cli.config import plugins
from ffalora_cli.config.errors import ConfigError, RunFailed

if TYPE_CHECKING:
    from ffalora_cli.records.reading import RunRecords

_EXAMPLES = """\
examples:
  ffalora export RUN --to model                 an adapter for peft, with tokenizer and model card
  ffalora export RUN --to model --merge         a full model for transformers
  ffalora export RUN --to model --round best    of the best evaluated round, as the card says
  ffalora export RUN --to model --client 0      where factors or heads stay with the clients
  ffalora export RUN --to model --push USER/REPO

The folder is loaded again by plain transformers and peft in a process of its own; it is kept only
if the outputs for real rows are ours. Only safetensors and JSON are written."""


def main(arguments: Sequence[str]) -> int:
    """Export, say what was compared, push if asked to."""
    parser = Parser("export", "Write a run's model for peft or transformers.", _EXAMPLES)
    parser.add_argument("run", help="a folder, or the beginning of its name or signature")
    parser.add_argument("--to", metavar="DIR", required=True, help="folder to write")
    parser.add_argument("--merge", action="store_true", help="a full model, not an adapter")
    parser.add_argument("--round", default="last", help="last, best or a number (default: last)")
    parser.add_argument("--client", type=int, help="whose model, of a method that keeps tensors")
    parser.add_argument("--push", metavar="USER/REPO", help="upload it to the hub (new: private)")
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--plugins", metavar="DIR", help="folder of its code, as in paths.plugins")
    options = parser.read(arguments)
    if options.plugins:
        plugins.load_from(options.plugins)

    from ffalora_cli.export.export import export
    from ffalora_cli.export.hub import check_repository, push
    from ffalora_cli.records.reading import find_run, read_run

    if options.push:
        check_repository(options.push)
    records = read_run(find_run(options.runs, options.run))
    if options.push:
        _check_publishable(records)
    try:
        to = Path(options.to).expanduser()
        done, standalone = export(
            records, to, options.round, options.merge, options.client, options.force
        )
        _print("export", f"{to}, the model after round {done.round}")
        _print(
            "checked",
            f"reloaded in a fresh process: outputs for {done.rows} real rows differ by "
            f"{done.difference:.1e} of the largest at most",
        )
        if not standalone:
            _print("note", "its base model is not on the hub: README.md there says how to load it")
        if options.push:
            _print("pushed", push(to, options.push))
    except RunFailed as error:
        print(f"ffalora: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _check_publishable(records: RunRecords) -> None:
    """Refuse to publish a private model together with what its noise is drawn from."""
    if records.privacy and records.config["privacy"]["noise"] == "reproducible":
        raise ConfigError(
            "--push: seed and config, which the card states, give this run's noise away; run it "
            "again with privacy.noise=secure"
        )


def _print(label: str, text: str) -> None:
    print(*words.labelled(label, text), sep="\n", flush=True)
