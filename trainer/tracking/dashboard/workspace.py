"""The W&B workspace of a project, with the package wandb-workspaces."""

from importlib.util import find_spec
from typing import Any

from trainer.errors import BadRecipe, NearfarError
from trainer.storage.redaction import redact
from trainer.tracking.dashboard.panels import SECTIONS, Panel
from trainer.tracking.kinds.wandb_run import has_wandb_key, prepare_wandb

NAME = "Nearfar"
_COLUMNS, _ROWS = 3, 2


def workspace(project: str, entity: str | None) -> Any:
    """Returns the workspace, which is not saved. Raises BadRecipe if the package is missing."""
    if find_spec("wandb_workspaces") is None:
        raise BadRecipe(
            "a dashboard needs the package wandb-workspaces, which is not installed; run `pip"
            " install wandb-workspaces`"
        )
    prepare_wandb()
    from wandb_workspaces import workspaces

    layout = workspaces.SectionLayoutSettings(columns=_COLUMNS, rows=_ROWS)
    return workspaces.Workspace(
        entity=entity or "",
        project=project,
        name=NAME,
        sections=[
            workspaces.Section(
                name=section.title,
                panels=[_panel(panel) for panel in section.panels],
                layout_settings=layout,
                is_open=True,
            )
            for section in SECTIONS
        ],
        settings=workspaces.WorkspaceSettings(x_axis="Step", max_runs=20),
    )


def workspace_json(project: str, entity: str | None) -> str:
    """Returns the workspace as JSON, as it would be sent to the server."""
    return str(workspace(project, entity)._to_model().model_dump_json(by_alias=True, indent=1))


def save_workspace(project: str, entity: str | None, url: str | None) -> str:
    """Saves the workspace on the server, and returns its address.

    With `url`, the workspace there gets these sections; its filters and colours stay. Without it, a
    new one is created. Raises NearfarError if the server does not take it.
    """
    new = workspace(project, entity)
    if not has_wandb_key():
        raise NearfarError(
            "there is no key for W&B, so the dashboard cannot be saved; run `wandb login`, or write"
            " it to a file with -o FILE"
        )
    import wandb
    from wandb_workspaces import workspaces

    try:
        if url is not None:
            server_workspace = workspaces.Workspace.from_url(url)
            server_workspace.sections, new = new.sections, server_workspace
        elif entity is None:
            new.entity = wandb.Api().default_entity
        return str(new.save().url)
    except Exception as error:
        reason = " ".join(redact(f"{type(error).__name__}: {error}").split())[:300]
        place = url or f"project {project}"
        raise NearfarError(
            f"the dashboard of {place} was not saved ({reason}); check --entity, --project and"
            " --update. A workspace of another version needs another wandb-workspaces, or a visit"
            " in the browser, which converts it"
        ) from error


def _panel(panel: Panel) -> Any:
    from wandb_workspaces.reports import v2

    names = list(panel.metrics)
    match panel.kind:
        case "line":
            return v2.LinePlot(title=panel.title, x="Step", y=names, log_y=panel.is_logarithmic)
        case "bar":
            return v2.BarPlot(title=panel.title, metrics=names)
        case "scatter":
            across, upward = map(v2.SummaryMetric, names)
            return v2.ScatterPlot(title=panel.title, x=across, y=upward)
        case "importance":
            return v2.ParameterImportancePlot(with_respect_to=names[0])
        case "comparison":
            return v2.RunComparer(diff_only="split")
        case "tables":
            return v2.MediaBrowser(title=panel.title, media_keys=names)
