"""Methods by name: a method is a file in this folder or an entry point of ``ffalora.methods``."""

from __future__ import annotations

from ffalora_cli.adapters.registry import FORMS
from ffalora_cli.config import rules
from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.config.plugins import Folder
from ffalora_cli.config.schema import QUANTISED, Config
from ffalora_cli.methods.base import Method
from ffalora_cli.metric_keys import evaluated, personalized
from ffalora_cli.tasks import registry as tasks

METHODS = Folder("method.name", "ffalora_cli.methods", "ffalora.methods", "METHOD", "Method")


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
    """The metric a run is judged by, as its summary names it."""
    task = config.task
    if get(config.method.name).personal:  # there is no global model, only clients' own
        return personalized(tasks.get(task.kind).client_metric)
    return evaluated(task.metrics[0])


def check(config: Config) -> None:
    """Refuse a configuration that cannot be, with what its task and method declare.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    method = get(config.method.name)
    tasks.check(config)
    form = config.adapter.form
    if form != method.form:
        if form not in (known := FORMS.names()):
            raise choose("adapter.form", form, known)
        raise ConfigError(
            f"adapter.form={form}: method={method.name} is written for adapter.form="
            f"{method.form}; set that, or choose another method"
        )
    if method.merges and config.engine.precision in QUANTISED:
        raise ConfigError(
            f"engine.precision={config.engine.precision}: method={method.name} adds to the frozen "
            "weights, and what it adds would be rounded away; use engine.precision=bf16"
        )
    rules.check(
        config,
        units=method.units,
        refusal=method.refusal,
        needs_plain_averaging=method.needs_plain_averaging,
        linear=method.linear,
    )
