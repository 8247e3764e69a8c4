"""The workspace, built with the real package, and the refusal of one of another version."""

import pytest
from forked import nearfar
from tracking_server import tracking_server

from trainer.tracking.dashboard.panels import SECTIONS

pytest.importorskip("wandb_workspaces")


def test_workspace_file_is_what_the_package_reads_back(tmp_path):
    from wandb_workspaces.workspaces import Workspace, internal

    result = nearfar("dashboard", "--project", "search", "--entity", "me", "-o", tmp_path / "w")
    assert result.returncode == 0, result.stderr
    model = internal.View.model_validate_json((tmp_path / "w").read_text())
    workspace = Workspace._from_model(model)
    assert (workspace.entity, workspace.project, workspace.name) == ("me", "search", "Nearfar")
    assert [section.name for section in workspace.sections] == [
        section.title for section in SECTIONS
    ]
    for section, stored in zip(SECTIONS, workspace.sections, strict=True):
        kinds = [type(panel).__name__ for panel in stored.panels]
        assert "UnknownPanel" not in kinds
        titles = [panel.title for panel in stored.panels if getattr(panel, "title", None)]
        assert set(titles) <= {panel.title for panel in section.panels}
        lines = [
            [metric.name for metric in panel.y]
            for panel in stored.panels
            if type(panel).__name__ == "LinePlot"
        ]
        assert lines == [list(panel.metrics) for panel in section.panels if panel.kind == "line"]


def test_dry_run_lists_sections_and_sends_nothing(tmp_path):
    with tracking_server("answers") as server:
        environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40}
        result = nearfar("dashboard", "--dry-run", environment=environment)
    assert result.returncode == 0, result.stderr
    for section in SECTIONS:
        assert f"{section.title}: {section.panels[0].title}" in result.stdout
    assert server.received == []


def test_dashboard_without_a_key_is_refused(tmp_path):
    environment = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "NETRC": str(tmp_path / "none")}
    result = nearfar("dashboard", environment=environment)
    assert result.returncode == 2
    assert "run `wandb login`, or write it to a file with -o FILE" in result.stderr


def test_file_in_a_missing_folder_is_refused(tmp_path):
    result = nearfar("dashboard", "-o", tmp_path / "missing" / "w.json")
    assert result.returncode == 2
    assert f"the folder {tmp_path / 'missing'} does not exist" in result.stderr


def test_workspace_of_another_version_is_named(tmp_path):
    with tracking_server("answers") as server:
        environment = {
            "HOME": str(tmp_path),
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "k" * 40,
        }
        url = "https://wandb.ai/me/search?nw=abc"
        result = nearfar("dashboard", "--update", url, environment=environment)
    assert result.returncode == 2, result.stderr
    assert f"the dashboard of {url} was not saved (SpecVersionError" in result.stderr
    assert "actual_version=7" in result.stderr
