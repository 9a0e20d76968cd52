"""Words a forecast: one run in full, a sweep as a table of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ffalora_cli.cli.screen.units import count, human_bytes, human_seconds
from ffalora_cli.cli.screen.words import labelled, privacy_sentence, protocol
from ffalora_cli.config.errors import counted
from ffalora_cli.config.schema import Config
from ffalora_cli.privacy.rounding import delta_text, epsilon_text

_KINDS = ("adapter", "head", "merge", "index", "seed", "setup", "framing")


def one(found: Mapping[str, Any], config: Config) -> list[str]:
    """Everything about one run, in lines of at most 80 characters."""
    what = f"{config.method.name} on {config.task.name} with {config.model.name}"
    lines = labelled("run", f"{what}, signature {found['signature']}")
    lines += labelled("protocol", protocol(config))
    lines += _clients(found["clients"]) + _sampling(found["sampling"])
    lines += labelled("privacy", privacy_sentence(found["privacy"]))
    if found["privacy"]:
        lines += ["", *_accountants(found["privacy"])]
    lines += ["", *_bytes(found["communication"]), ""]
    lines += _parameters(found["parameters"])
    lines += _time(found["time"], found["rounds"], config) + _memory(found["memory"])
    lines += labelled("padding", found["padding"] or "none: all examples' tokens lie end to end")
    lines += _disk(found["disk"])
    for warning in found["warnings"]:
        lines += labelled("warning", warning)
    for note in found["notes"]:
        lines += labelled("note", note)
    planned, asked = found["rounds"]["planned"], found["rounds"]["asked"]
    if planned < asked:
        lines += labelled("warning", f"the budget affords {planned} of {counted(asked, 'round')}")
    return lines


def several(
    found: Sequence[Mapping[str, Any]], total: Mapping[str, Any], names: Sequence[str]
) -> list[str]:
    """A row a job, then the sum."""
    lines = [f"{'job':>4}{'epsilon':>9}{'noise':>9}{'up':>9}{'down':>9}{'time':>9}  overrides"]
    for number, (job, name) in enumerate(zip(found, names, strict=True), start=1):
        privacy, sent = job["privacy"], job["communication"]
        epsilon = epsilon_text(privacy["epsilon_planned"]) if privacy else "-"
        noise = f"{privacy['largest']['noise_multiplier']:.4g}" if privacy else "-"
        seconds = job["time"]["seconds"] if job["time"] else None
        cells = (
            epsilon,
            noise,
            human_bytes(sent["uplink"]["total"]),
            human_bytes(sent["downlink"]["total"]),
            human_seconds(seconds),
        )
        lines.append(f"{number:>4}{''.join(f'{cell:>9}' for cell in cells)}  {name}".rstrip())
    lines += ["", *_sum(total)]
    private = next((job["privacy"] for job in found if job["privacy"]), None)
    if private:
        text = f"unit {private['unit']}, {private['relation']}, planned; noise of the client with "
        lines += labelled("epsilon", f"{text}the largest epsilon (ffalora plan of one job has all)")
    for warning in dict.fromkeys(w for job in found for w in job["warnings"]):
        lines += labelled("warning", warning)
    for note in dict.fromkeys(n for job in found for n in job["notes"]):
        lines += labelled("note", note)
    return lines


def _sum(total: Mapping[str, Any]) -> list[str]:
    up, down = human_bytes(total["uplink_bytes"]), human_bytes(total["downlink_bytes"])
    work = f"{counted(total['jobs'], 'job')}, {counted(total['rounds'], 'round')}"
    lines = labelled("total", f"{work}, up {up}, down {down}")
    if total["seconds"] is not None:
        lines += labelled("time", f"{_range(total)} one after another")
        lines += labelled("memory", f"{human_bytes(total['peak_bytes'])} at most, one at a time")
    return lines + labelled("disk", f"{human_bytes(total['run_folders'])} in run folders")


def _clients(clients: Mapping[str, Any]) -> list[str]:
    rows, labels = clients["rows"], clients["labels_of_a_client"]
    sizes = f"{count(rows['min'])} to {count(rows['max'])} rows (median {count(rows['median'])})"
    units = clients["units"]["total"]
    inside = f" ({count(units)} units of privacy)" if units < rows["total"] else ""
    mixed = (
        f"{labels['min']} to {labels['max']}" if labels["min"] < labels["max"] else labels["max"]
    )
    names = len(clients["labels"])
    mix = f"; {mixed} of {names} labels each" if names > 1 else ""
    evaluated = ", ".join(f"{count(n)} of {k}" for k, n in clients["evaluated_rows"].items())
    return labelled(
        "clients",
        f"{count(clients['number'])} with {sizes}, {count(rows['total'])} in all{inside}{mix}; "
        f"scored on {evaluated}",
    )


def _sampling(sampling: Mapping[str, Any]) -> list[str]:
    cohort, rows = sampling["cohort"], sampling["rows"]
    who = "every client in every round"
    if cohort["scheme"] != "full":
        who = f"{cohort['scheme']} cohorts of {cohort['size']} (rate {cohort['rate']:.4g})"
    rate = rows["rate"]
    rates = f"{rate['min']:.4g} to {rate['max']:.4g} of a client's {rows['of']} a step"
    return labelled("sampling", f"{who}; {rows['scheme']} batches of {rows['batch']}, {rates}")


def _accountants(privacy: Mapping[str, Any]) -> list[str]:
    """PLD and RDP side by side, for the client with the largest epsilon."""
    largest = privacy["largest"]
    head = f"{'accountant':>12}{'noise multiplier':>18}{'its epsilon':>13}{'noise for target':>18}"
    lines = [head]
    for name, row in largest["accountants"].items():
        needed = row["noise_multiplier_for_target"]
        cells = (
            f"{largest['noise_multiplier']:.5f}",
            epsilon_text(row["epsilon"]),
            "-" if needed is None else f"{needed:.5f}",
        )
        mark = "  the claim" if name == privacy["accountant"] else ""
        lines.append(f"{name:>12}{cells[0]:>18}{cells[1]:>13}{cells[2]:>18}{mark}")
    return lines + labelled(
        "",
        f"client {largest['client']} (the largest epsilon), unit {privacy['unit']}, "
        f"{privacy['relation']}, delta {delta_text(privacy['delta'])}, "
        f"{privacy['sampling']} sampling, {counted(largest['steps'], 'step')} at rate "
        f"{largest['sample_rate']:.4g}",
    )


def _bytes(sent: Mapping[str, Any]) -> list[str]:
    """Both directions over all clients: rounds, total, and the total by kind."""
    ways = [sent["uplink"], sent["downlink"]]
    lines = [f"{'bytes':<22}{'uplink':>12}{'downlink':>12}"]
    for name in ("first_round", "median_round", "total"):
        cells = "".join(f"{human_bytes(way[name]):>12}" for way in ways)
        lines.append(f"  {name.replace('_', ' '):<20}{cells}")
    for kind in _KINDS:
        if any(kind in way["by_kind"] for way in ways):
            cells = "".join(f"{human_bytes(way['by_kind'].get(kind, 0)):>12}" for way in ways)
            lines.append(f"    {'of it ' + kind:<18}{cells}")
    if sent["budget"]:
        used = sum(way["total"] for way in ways)
        share = f"{100 * used / sent['budget']:.3g} % of {human_bytes(sent['budget'])}"
        said = f"both ways {human_bytes(used)}: {share} (federation.budget_megabytes)"
        lines += labelled("", said)
    mark = "exact" if sent["exact"] else "typical"
    return lines + labelled("", f"{mark}: {sent['how']}; set-up {human_bytes(sent['setup'])}")


def _parameters(parameters: Mapping[str, Any]) -> list[str]:
    personal = parameters["personal"]
    kept = f", {count(personal)} of them stay with each client" if personal else ""
    return labelled(
        "training",
        f"{count(parameters['trainable'])} parameters{kept}, {count(parameters['frozen'])} frozen, "
        f"{counted(parameters['adapted_layers'], 'adapted layer')}",
    )


def _time(time: Mapping[str, Any] | None, rounds: Mapping[str, int], config: Config) -> list[str]:
    if time is None:
        return labelled("time", "not measured")
    more = "" if config.task.generate is None else " and generated answers"
    return labelled(
        "time",
        f"{_range(time)}: {counted(rounds['planned'], 'round')} of {time['round']:.3g} s, "
        f"evaluation {human_seconds(time['evaluation'])}; from {time['how']}; "
        f"loading and records{more} not counted",
    )


def _range(time: Mapping[str, Any]) -> str:
    """``about 2:10 (1:51 to 2:30)``."""
    middle, error = time["seconds"], time["error"]
    low, high = human_seconds(middle / (1 + error)), human_seconds(middle * (1 + error))
    return f"about {human_seconds(middle)} ({low} to {high})"


def _memory(memory: Mapping[str, Any]) -> list[str]:
    """What was measured, then the largest a step may hold, by kind."""
    kinds = [f"{human_bytes(n)} {kind}" for kind, n in memory["by_kind"].items() if n]
    how = "kept by layers that recompute" if memory["recomputes"] else "kept"
    peak = memory["peak_bytes"]
    return labelled(
        "memory",
        (f"{human_bytes(peak)} at most in those steps" if peak else "not measured")
        + f"; {human_bytes(memory['total'])} foretold of {human_bytes(memory['free_bytes'])} free: "
        f"{', '.join(kinds)}; micro-batches of {count(memory['max_tokens'])} tokens, "
        f"{human_bytes(memory['token_bytes'])} {how} of each",
    )


def _disk(disk: Mapping[str, Any]) -> list[str]:
    return labelled(
        "disk",
        f"about {human_bytes(disk['run_folder'])} in the run folder, {disk['checkpoints_kept']} "
        f"checkpoints of {human_bytes(disk['checkpoint'])} among it; "
        f"{human_bytes(disk['token_cache'])} of encoded rows in the cache",
    )
