"""Saves a W&B report: scores over rounds, bytes and epsilon, grouped by settings; a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.metric_keys import EPSILON, UPLINK_TOTAL, evaluated, short_name
from ffalora_cli.report.wandb.runs import connect, reason_of

if TYPE_CHECKING:
    from wandb_workspaces.reports import v2

AXES = (
    ("round", "over rounds", "round"),
    (UPLINK_TOTAL, "over bytes sent by clients", "uplink bytes, all clients"),
    (EPSILON, "over epsilon spent", "epsilon (see each run's statement)"),
)
"""Metric of the x axis, what the title says of it, its label."""

COLUMNS = (
    "config:method.value.name",
    "config:task.value.name",
    "config:privacy.value.unit",
    "config:privacy.value.epsilon_target",
    "config:seed.value",
    "summary:comm/uplink_bytes_total",
    "summary:privacy/epsilon_spent",
)
_NOTE = (
    "Lines are means over the runs of a group, bands their standard deviation. An epsilon means "
    "little without its unit, relation, delta and accountant: they are in each run's config under "
    "ffalora.privacy. Runs that promise different units do not belong on one epsilon axis."
)


def build_report(
    entity: str,
    project: str,
    scores: Sequence[str] = (evaluated("accuracy"),),
    by: Sequence[str] = ("method.name",),
    conditions: Mapping[str, Any] | None = None,
) -> v2.Report:
    """The report, not saved; needs neither network nor account.

    Args:
        entity: user or team of the runs.
        project: of the runs.
        scores: metrics on the y axes, a row of panels each.
        by: settings (dotted keys) whose values make the lines.
        conditions: which runs it shows, as ``selection.filters`` has them.

    Raises:
        ConfigError: when wandb-workspaces is not installed.
    """
    wr = _library()
    alone = by[0] if len(by) == 1 else None  # several group as the run set does
    panels = [
        wr.LinePlot(
            title=f"{short_name(score)} {what}",
            x=axis,
            y=[score],
            title_x=label,
            title_y=score,
            groupby=alone,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=wr.Layout(x=8 * column, y=8 * row, w=8, h=8),
        )
        for row, score in enumerate(scores)
        for column, (axis, what, label) in enumerate(AXES)
    ]
    columns = [*COLUMNS, *(f"config:{_there(key)}" for key in by)]
    columns += [f"summary:{name}" for score in scores for name in (score, f"best/{score}")]
    runs = wr.Runset(
        entity=entity,
        project=project,
        name="runs",
        filters=list(_conditions(conditions or {})),
        groupby=[f"config.{key}" for key in by],
        pinned_columns=list(dict.fromkeys(columns)),
    )
    return wr.Report(
        entity=entity,
        project=project,
        title=f"ffalora: {project}",
        description=f"Scores against rounds, bytes and epsilon, by {' and '.join(by)}",
        width="fluid",
        blocks=[wr.P(_NOTE), wr.PanelGrid(runsets=[runs], panels=panels)],
    )


def _conditions(asked: Mapping[str, Any]) -> Iterator[Any]:
    """Filters of the run set; numbers are compared as numbers."""
    import yaml
    from wandb_workspaces import expr

    for key, wanted in asked.items():
        if key == "tags":
            yield expr.Tags().isin(wanted["$in"] if isinstance(wanted, Mapping) else [wanted])
        else:
            yield expr.Config(_there(key)).isin([yaml.safe_load(value) for value in wanted])


def _there(key: str) -> str:
    """Where W&B keeps a nested setting: what is logged stands under ``value`` of its first part."""
    first, _, rest = key.partition(".")
    return f"{first}.value.{rest}" if rest else f"{first}.value"


def save_report(report: v2.Report) -> str:
    """Save a report in its project; its address.

    Raises:
        ConfigError: without account, network or permission.
    """
    where = f"W&B {report.entity}/{report.project}"
    connect(where)
    try:
        report.save()
    except Exception as error:
        reason = reason_of(error).split(". ")[0][:120]
        raise ConfigError(
            f"{where}: {reason}; check the name, your rights and `wandb login`"
        ) from error
    return str(report.url)


def _library() -> Any:
    try:
        from wandb_workspaces.reports import v2
    except ImportError:
        raise ConfigError(
            "report --wandb: wandb-workspaces is not installed; pip install 'ffalora[trackers]'"
        ) from None
    return v2
