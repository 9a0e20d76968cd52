"""Methods by name: a method is a file in this folder or an entry point of ``ffalora.methods``."""

from __future__ import annotations

from ffalora_cli.config import rules
from ffalora_cli.config.plugins import Folder
from ffalora_cli.config.schema import Config
from ffalora_cli.methods.base import Method
from ffalora_cli.tasks import registry as tasks

METHODS = Folder("method.name", "ffalora_cli.methods", "ffalora.methods", "METHOD")


def names() -> list[str]:
    """Names of all methods, sorted; imports none of them."""
    return METHODS.names()


def get(name: str) -> Method:
    """The method of this name; its declaration is readable without torch.

    Raises:
        ConfigError: no method has this name.
    """
    method: Method = METHODS.get(name)
    return method


def headline(config: Config) -> str:
    """The metric a run is judged by: the clients' own models' where there is no common one."""
    task = config.task
    if "lora_b" in get(config.method.name).personal:  # the global model has no B
        return f"eval/personalized_{tasks.get(task.kind).client_metric}"
    return f"eval/{task.metrics[0]}"


def check(config: Config) -> None:
    """Refuse a configuration that cannot be, with what its task and method declare.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    method = get(config.method.name)
    tasks.check(config)
    rules.check(
        config,
        units=method.units,
        refusal=method.refusal,
        needs_plain_averaging=method.needs_plain_averaging,
        linear=method.linear,
    )
