"""Makes and keeps the run secret: the key of every privacy draw (sampling, noise, cohorts).

``reproducible`` secrets are a hash of everything the run is made of: were one thing left out, two
runs that differ in it alone would share their noise, and the difference of what they release would
be the bare difference of their sums (with one row more: its gradient). ``secure`` ones are
operating-system entropy that exists in two places only: the process, and one file of the run folder
that its owner alone can read, until the run is finished. Whoever reads it can subtract the noise.
"""

from __future__ import annotations

import os
from pathlib import Path

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.keys import Key, SecureKey, derive

SECRET = "secret.key"
BYTES = 32


def run_secret(
    noise: str,
    seed: int,
    signature: str,
    inputs: str | None,
    path: Path | None = None,
    resumed: bool = False,
) -> Key:
    """The key of all privacy draws of one run.

    Args:
        noise: ``reproducible`` (hash of seed, signature and inputs: runs that differ in anything
            share no noise, but whoever knows all three can subtract it) or ``secure``
            (operating-system entropy).
        seed: of the run.
        signature: of the run's config, and of what it was forked from.
        inputs: hash of the training rows with their partition, of the weights and of the tokenizer
            (``experiment.inputs.Loaded.digest``); None for a run without privacy, whose secret
            keys its dropout alone and is the same on any rows.
        path: file that keeps a secure secret from the run's first round to its last (``SECRET`` in
            the run folder); None keeps it in memory, so that the run cannot be resumed.
        resumed: whether rounds were played already: a secure secret must be there then, because
            other noise for the same round would be a second release.

    Returns:
        32 bytes; secure ones draw their noise hardened (``keys.SecureKey``).

    Raises:
        ConfigError: for an unknown mode, and for a secret that is damaged, readable by others, or
            missing from a run that is resumed.
    """
    if noise == "reproducible":
        return derive(seed, "run secret", signature, *(() if inputs is None else (inputs,)))
    if noise != "secure":
        raise choose("privacy.noise", noise, ("reproducible", "secure"))
    if path is None:
        return SecureKey(os.urandom(BYTES))
    if path.exists():
        return _read(path)
    if resumed:
        raise ConfigError(
            f"{path}: the run secret is gone, and other noise for its rounds would be a second "
            "release; start a new run with another name="
        )
    secret = SecureKey(os.urandom(BYTES))
    _write(path, secret, os.O_CREAT | os.O_EXCL)
    return secret


def erase_secret(path: Path) -> None:
    """Overwrite and remove a run's secret, if there is one: nothing of the run is drawn any more.

    Once it is gone nobody can recompute the noise. Journaling and copy-on-write file systems and
    worn SSD cells may keep old blocks; an encrypted disk is what helps against that.
    """
    if path.exists():
        _write(path, bytes(BYTES), 0)
        path.unlink()


def _read(path: Path) -> Key:
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others can read the run secret; chmod 600 it or start anew")
    secret = path.read_bytes()
    if len(secret) != BYTES or secret == bytes(BYTES):
        raise ConfigError(f"{path}: the run secret is damaged; start a new run")
    return SecureKey(secret)


def _write(path: Path, content: bytes, flags: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | flags, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
