"""Answers options that a verb does not have: Hydra's own, and settings typed as options."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ffalora_cli.compose import catalogue
from ffalora_cli.config.build import leaf_keys
from ffalora_cli.config.errors import brief, nearest

_ANSWERS = {
    "-c --cfg --resolve -p --package": "it belongs to: ffalora run ... --cfg job",
    "-i --info": "it belongs to: ffalora run ... --info",
    "-cn --config-name": "every run starts from config.yaml; a protocol of your own is a file "
    "configs/experiment/NAME.yaml, chosen with experiment=NAME",
    "-cp --config-path": "name a folder of your own groups with paths.configs=DIR",
    "-cd --config-dir": "name a folder of your own groups with paths.configs=DIR",
    "-m --multirun": "a sweep is: ffalora sweep key=a,b (or ffalora run -m)",
    "-r --run": "leave it out: ffalora run runs",
    "-sc --shell-completion": "write: ffalora completion bash",
    "--hydra-help": "groups and their names: ffalora ls; keys: ffalora explain KEY",
    "--experimental-rerun": "the command of a run stands in: ffalora show RUN",
}
"""What stands for an option of Hydra's; ``run`` has some of them itself."""
OF_HYDRA = {option: answer for names, answer in _ANSWERS.items() for option in names.split()}

_USUAL = {
    "lr": "federation.local_lr",
    "learning_rate": "federation.local_lr",
    "batch_size": "federation.local_batch_size",
    "epsilon": "privacy.epsilon_target",
    "eps": "privacy.epsilon_target",
    "sigma": "privacy.noise_multiplier",
    "clip": "privacy.max_grad_norm",
    "alpha": "partition.dirichlet_alpha",
    "clients": "federation.num_clients",
    "device": "engine.device",
    "dataset": "task",
    "output_dir": "paths.runs",
}
"""Settings by the names they have as options of other programs."""


def answer(prog: str, unknown: str, typed: Sequence[str], options: Collection[str]) -> str:
    """One line about an option that is none of a verb's.

    Args:
        prog: ``ffalora VERB``.
        unknown: the word, as typed.
        typed: all words of the command line, among them the option's value.
        options: those of the verb.
    """
    option, equals, value = unknown.partition("=")
    said = f"{brief(unknown)[1:-1]} is not an option of {prog}"
    if option in OF_HYDRA:
        return f"{said}; {OF_HYDRA[option]}"
    key = _key(option)
    if key is not None:
        after = list(typed[typed.index(unknown) + 1 :][:1]) if not equals else [value]
        given = next((one for one in after if "=" not in one and one[:1] != "-"), "") or "VALUE"
        return f"{said}; settings go without dashes: {key}={brief(given)[1:-1]}"
    hint = nearest(option, options, 0.7)
    return f"{said}; {f'did you mean {hint}?' if hint else f'see {prog} --help'}"


def _key(option: str) -> str | None:
    """The group or key that an option is meant for, if that is clear."""
    word = option.lstrip("-").replace("-", "_")
    if option[:2] != "--":
        return None
    if word in catalogue.groups() or word in leaf_keys():
        return word
    ends = [key for key in leaf_keys() if key.rsplit(".", 1)[-1] == word]
    return _USUAL.get(word) or (ends[0] if len(ends) == 1 else None)
