"""Forms by name: a form is a file in this folder or an entry point of ``ffalora.forms``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffalora_cli.config.plugins import Folder

if TYPE_CHECKING:
    from ffalora_cli.adapters.base import Form

FORMS = Folder(
    "adapter.form",
    "ffalora_cli.adapters",
    "ffalora.forms",
    "FORM",
    "Form",
    interface=frozenset({"base", "registry", "context", "head", "sites", "layout", "ghost"}),
)


def get(name: str) -> Form:
    """The form of this name.

    Raises:
        ConfigError: no form has this name.
    """
    form: Form = FORMS.get(name)
    return form
