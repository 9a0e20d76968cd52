"""Saves a W&B report: accuracy over rounds, bytes and epsilon, grouped by method; a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.metric_keys import EPSILON, UPLINK_TOTAL, evaluated, short_name
from ffalora_cli.report.wandb.runs import connect, reason_of

if TYPE_CHECKING:
    from wandb_workspaces.reports import v2

SCORE = evaluated("accuracy")
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
_METHOD = "method.name"
_NOTE = (
    "Lines are means over the runs of a method, bands their standard deviation. An epsilon means "
    "little without its unit, relation, delta and accountant: they are in each run's config under "
    "ffalora.privacy. Runs that promise different units do not belong on one epsilon axis."
)


def build_report(entity: str, project: str, score: str = SCORE) -> v2.Report:
    """The report, not saved; needs neither network nor account.

    Args:
        entity: user or team of the runs.
        project: of the runs.
        score: metric on the y axes.

    Raises:
        ConfigError: when wandb-workspaces is not installed.
    """
    wr = _library()
    panels = [
        wr.LinePlot(
            title=f"{short_name(score)} {what}",
            x=axis,
            y=[score],
            title_x=label,
            title_y=score,
            groupby=_METHOD,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=wr.Layout(x=8 * column, y=0, w=8, h=8),
        )
        for column, (axis, what, label) in enumerate(AXES)
    ]
    runs = wr.Runset(
        entity=entity,
        project=project,
        name="runs",
        groupby=[f"config.{_METHOD}"],
        pinned_columns=[*COLUMNS, f"summary:{score}"],
    )
    return wr.Report(
        entity=entity,
        project=project,
        title=f"ffalora: {project}",
        description="Accuracy against rounds, bytes and epsilon, by method",
        width="fluid",
        blocks=[wr.P(_NOTE), wr.PanelGrid(runsets=[runs], panels=panels)],
    )


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
