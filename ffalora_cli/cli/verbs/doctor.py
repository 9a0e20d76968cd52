"""``ffalora doctor``: is this machine fit for a run? One line a check, one remedy a trouble."""

from __future__ import annotations

import json
import netrc
import os
import shutil
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE, FAILED
from ffalora_cli.cli.screen.units import human_bytes
from ffalora_cli.config.packages import EXTRA, QUICKSTART
from ffalora_cli.hub.access import is_offline, offline_switch

PROGRAM = "ffalora"
CLASHING = ("torch", "transformers", "peft", "opacus", "wandb", "datasets", "dp-accounting")
LITTLE, TIGHT = 10**8, 2 * 10**9  # free bytes: below the first nothing can be written
SCHEMA = 1
MEASURED = 0.2  # seconds of products, each precision and library
_NAME = 22
_EXAMPLES = """\
examples:
  ffalora doctor
  ffalora doctor --no-self-test --format json

Exit code 1 when something fails. Nothing is sent over a network; of a tracker's key only its
presence is looked at."""


State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    name: str
    state: State
    said: str
    remedy: str = ""


def main(arguments: Sequence[str]) -> int:
    """Check the installation, then the machinery."""
    parser = Parser("doctor", "Check versions, devices, caches, and the machinery.", _EXAMPLES)
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--cache", help="paths.cache; default: $FFALORA_CACHE or ~/.cache/ffalora")
    parser.add_argument(
        "--no-self-test", action="store_true", help="leave out the 10 seconds of it"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.read(arguments)
    table, seen = options.format == "table", []
    for finding in findings(options.runs, options.cache, not options.no_self_test):
        seen.append(finding)
        if table:
            print("\n".join(_lines(finding)), flush=True)
    states = [finding.state for finding in seen]
    if table:
        counts = ", ".join(f"{states.count(s)} {s}" for s in ("ok", "warn", "fail"))
        print(f"\n{counts}")
    else:
        print(json.dumps({"schema": SCHEMA, "checks": [asdict(f) for f in seen]}, indent=2))
    return FAILED if "fail" in states else DONE


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.state:<5}{finding.name:<{_NAME}}"
    lines = _wrapped(head, finding.said)
    return lines + (_wrapped(" " * len(head) + "-> ", finding.remedy) if finding.remedy else [])


def _wrapped(head: str, text: str) -> list[str]:
    wrap = {"width": 80, "break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, initial_indent=head, subsequent_indent=" " * len(head), **wrap)  # type: ignore[arg-type]


def findings(runs: str, cache: str | None, thorough: bool) -> Iterator[Finding]:
    """Every check, quick ones first.

    Args:
        runs: ``paths.runs``.
        cache: ``paths.cache``.
        thorough: test the machinery, too.
    """
    from ffalora_cli.data.cache import cache_root
    from ffalora_cli.privacy.accounting.disk_cache import folder

    yield from versions()
    yield device()
    yield precision()
    yield _folder("tokens", cache_root(cache), "paths.cache")
    yield _folder("noise", folder(), "FFALORA_CACHE")
    yield _folder("hub", hub_cache(), "HF_HOME")
    yield quickstart()
    yield offline()
    yield disk(Path(runs).expanduser())
    yield tracker()
    if not thorough:
        return
    from ffalora_cli.audit.self_test import self_test
    from ffalora_cli.engine.build import pick_device

    for result in self_test(pick_device("auto")):
        remedy = "do not trust runs of this machine; report it with this line"
        state: tuple[State, str] = ("ok", "") if result.passed else ("fail", remedy)
        yield Finding(f"self-test {result.name}", state[0], result.said, state[1])


def versions() -> Iterator[Finding]:
    """What ffalora and the packages it rests on ask for, against what is installed."""
    from packaging.requirements import Requirement

    problems: list[Finding] = []
    for name in (PROGRAM, *CLASHING):
        for text in _requirements(name):
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            found, state = _version(wanted.name), "fail"
            if found is None:
                said = f"{name} needs {wanted.name}, which is not installed"
                state = "fail" if name == PROGRAM else "warn"  # others may do without
            elif wanted.specifier.contains(found, prereleases=True):
                continue
            else:
                said = f"{name} needs {wanted}, installed is {found}"
            remedy = f"pip install '{text.split(';')[0]}'"
            problems.append(Finding("versions", state, said, remedy))  # type: ignore[arg-type]
    if problems:
        yield from problems
        return
    there = [f"{name} {v}" for name in CLASHING if (v := _version(name))]
    yield Finding("versions", "ok", ", ".join(there))


def device() -> Finding:
    """GPU and driver, or the processor; a GPU that torch cannot use is worth a word."""
    import torch

    from ffalora_cli.engine.machine import machine_name

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        free, total = torch.cuda.mem_get_info()
        memory = f"{human_bytes(free)} of {human_bytes(total)} free"
        said = f"{', '.join(names)}; CUDA {torch.version.cuda}, {memory}"
        return Finding("device", "ok", said)
    if Path("/proc/driver/nvidia/version").exists():
        said = f"a GPU driver is there, but torch ({torch.version.cuda or 'no CUDA'}) sees no GPU"
        remedy = "install a torch built for this driver, or set engine.device=cpu"
        return Finding("device", "warn", said, remedy)
    name, threads = machine_name(torch.device("cpu")), torch.get_num_threads()
    memory = human_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    said = f"{name}, {threads} threads of {os.cpu_count()} cores, {memory} of memory"
    return Finding("device", "ok", said)


def precision() -> Finding:
    """How fast matrices are multiplied here, and which ``engine.precision`` that suggests."""
    import torch

    from ffalora_cli.engine.build import pick_device
    from ffalora_cli.engine.machine import product_rates
    from ffalora_cli.models.precision import matrix_units

    device = torch.device(pick_device("auto"))
    units, told = matrix_units(str(device)), []
    for name in ("fp32", "bf16") if units or device.type == "cpu" else ("fp32",):
        rates = product_rates(device, name, MEASURED)
        each = ", ".join(f"{library} {rate / 1e9:,.0f}" for library, rate in rates.items())
        told.append(f"{name} {each}")
    suits = f"bf16 ({units})" if units else "fp32"
    said = f"products, GFLOP/s: {'; '.join(told)}; suggests engine.precision={suits}"
    return Finding("precision", "ok", said)


def _folder(name: str, path: Path, key: str) -> Finding:
    """A cache: its size, and whether it can be written (made where it is not there)."""
    here = next(p for p in (path, *path.parents) if p.exists())
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink())
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        said = f"{path} cannot be written ({error.strerror}); everything is computed again"
        return Finding(f"cache {name}", "warn", said, f"set {key} to a folder you can write to")
    return Finding(f"cache {name}", "ok", f"{human_bytes(size)} in {path}")


def hub_cache() -> Path:
    """Where Hugging Face keeps what it downloaded."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def quickstart() -> Finding:
    """Whether the packages are there that the defaults read their model and rows from."""
    missing = [pip for module, pip in QUICKSTART.items() if util.find_spec(module) is None]
    if missing:
        return Finding("quickstart", "warn", f"{' and '.join(missing)} missing", EXTRA)
    return Finding("quickstart", "ok", "its packaged model and data are there")


def offline() -> Finding:
    """Whether requests to the hub are forbidden, and what is at hand of it."""
    cached = len(list(hub_cache().glob("models--*")))
    switch = f"{offline_switch()} is set" if is_offline() else "HF_HUB_OFFLINE is not set"
    return Finding("offline", "ok", f"{switch}; {cached} hub models cached")


def disk(runs: Path) -> Finding:
    """Room for run folders."""
    here = next(p for p in (runs.absolute(), *runs.absolute().parents) if p.exists())
    free = shutil.disk_usage(here).free
    state: State = "fail" if free < LITTLE else "warn" if free < TIGHT else "ok"
    remedy = "" if state == "ok" else "free some, or set paths.runs to another disk"
    return Finding("disk", state, f"{human_bytes(free)} free for {runs}", remedy)


def tracker() -> Finding:
    """Whether a W&B key is at hand; no call is made and no value is read into a line."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    mode = os.environ.get("WANDB_MODE", "")
    found = "WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else ""
    if not found and _in_netrc(host):
        found = "the netrc file"
    if found:
        return Finding("tracker", "ok", f"W&B: a key for {host} in {found}; not tried")
    if mode == "offline":
        return Finding("tracker", "ok", "W&B: offline (WANDB_MODE), no key needed")
    said = f"W&B: no key for {host}; only tracking=wandb needs one"
    remedy = "wandb login, or tracking.mode=offline, or tracking=none (the default)"
    return Finding("tracker", "warn", said, remedy)


def _in_netrc(host: str) -> bool:
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc").expanduser()
    try:
        return host in netrc.netrc(str(file)).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def _requirements(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
