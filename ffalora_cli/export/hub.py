"""Uploads an exported folder to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from ffalora_cli.config.errors import ConfigError, RunFailed, one_line
from ffalora_cli.hub.access import is_offline, offline_switch
from ffalora_cli.records.leaving import may_leave


def check_repository(name: str) -> None:
    """Refuse what cannot be a repository's name, before anything is written.

    Raises:
        ConfigError: not ``USER/REPO``.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if name.count("/") != 1:
        raise ConfigError("--push should be USER/REPO in the hub's letters (A-Z a-z 0-9 . _ -)")


def push(folder: Path, repository: str) -> str:
    """Upload the files of an export; a repository that is not there is made, private.

    Args:
        folder: of a finished export; stays as it is.
        repository: ``USER/REPO``.

    Returns:
        Its address.

    Raises:
        RunFailed: not uploaded, why, and the command that does it later.
    """
    from huggingface_hub import HfApi, get_token

    later = f"{folder} is complete; later: hf upload {repository} {folder}"
    if is_offline():
        raise RunFailed(f"not pushed, {offline_switch()}; {later}")
    if get_token() is None:
        raise RunFailed(f"not pushed, no hub token (hf auth login); {later}")
    try:
        api = HfApi()
        address = str(api.create_repo(repository, private=True, exist_ok=True))
        listed = [file.name for file in folder.iterdir() if may_leave(f"file.{file.name}", "none")]
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=listed,
            commit_message="ffalora export",
        )
    except Exception as error:  # of several libraries, all meaning "not there"
        reason = one_line(str(error)).rstrip(". ")
        raise RunFailed(f"not pushed ({type(error).__name__}: {reason}); {later}") from error
    return address
