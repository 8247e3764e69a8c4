"""A run of Weights & Biases: online with a key, else as files that are sent later."""

import netrc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer.recipe.schema.trackers import WandbTracker
from trainer.runtime.console import say
from trainer.storage.redaction import without_user
from trainer.tracking.tracked_run import (
    LARGEST_UPLOAD_BYTES,
    Description,
    Results,
    size_bytes,
    warn_of_tracker,
)

CONNECT_TIMEOUT_SECONDS = 10.0
_SYNC_SECONDS = 1_800.0
"""How long the values of a run that is not here may take to be sent."""
_SLOWEST_BYTES_PER_SECOND = 1e6
_STEP = "step"


def prepare_wandb() -> None:
    """Sets the variables of the client, and imports it."""
    # The server gets the key, never a password in its address, which the client writes to its logs.
    if "WANDB_BASE_URL" in os.environ:
        os.environ["WANDB_BASE_URL"] = without_user(os.environ["WANDB_BASE_URL"])
    # W&B's own usage data: with a server that hangs, they hold the end of the run up by 20 seconds.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # noqa: F401


def has_wandb_key() -> bool:
    """Returns True if Weights & Biases can log in, with WANDB_API_KEY or with the server's line in
    netrc.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = (
        urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
        or "api.wandb.ai"
    )
    paths = (
        [os.environ["NETRC"]]
        if os.environ.get("NETRC")
        else [Path.home() / ".netrc", Path.home() / "_netrc"]
    )
    for path in paths:
        try:
            if netrc.netrc(str(path)).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


class WandbRun:
    """A run of W&B, which all attempts continue under the same id.

    Every row has an explicit step. So the server drops what it knows already, and a run that is
    sent twice has no point twice.
    """

    def __init__(self, settings: WandbTracker, description: Description) -> None:
        self._settings, self._description = settings, description
        self._latest_step, self._latest_time = 0, time.time()
        self._scores: set[str] = set()
        mode = os.environ.get("WANDB_MODE", "online" if has_wandb_key() else "offline")
        try:
            self._run = self._open(mode)
        except Exception as error:
            if mode == "offline":
                raise
            warn_of_tracker(
                f"the server of wandb cannot be used; {_advice(description)} later", error
            )
            import wandb

            # The client's process would go on with the settings of the first attempt.
            wandb.teardown()
            self._run = self._open("offline")
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)

    def log(self, values: Mapping[str, float], step: int, timestamp: float) -> None:
        """Writes values of a step. The summary of a validation score is its best value."""
        for name in values.keys() - self._scores:
            if name.startswith("validation/"):
                self._run.define_metric(name, step_metric=_STEP, summary="max")
                self._scores.add(name)
        self._latest_step, self._latest_time = max(step, self._latest_step), timestamp
        self._write(values, step)

    def end(self, results: Results, is_done: bool) -> None:
        """Writes the results as summary, tables and artifacts, and ends the run."""
        import wandb

        self._run.summary.update(dict(results.summary))
        if is_done and self._settings.tables and results.tables:
            tables = {
                f"tables/{name}": wandb.Table(list(table.columns), [*map(list, table.rows)])
                for name, table in results.tables.items()
            }
            # A step of their own: the server may know the latest one from an earlier attempt. So a
            # run that can be continued gets no tables, as it needs that step itself.
            self._write(tables, self._latest_step + 1)
        uploads = [
            self._log_file(name, path)
            for name, path in results.files.items()
            if self._settings.artifacts and path.exists()
        ]
        if not self._run.offline:
            for artifact, seconds in uploads:
                artifact.wait(timeout=seconds)
        self._run.finish(exit_code=0 if is_done else 1)

    def _write(self, values: Mapping[str, Any], step: int) -> None:
        self._run.log({**values, _STEP: step, "_timestamp": self._latest_time}, step=step)

    def _log_file(self, name: str, path: Path) -> tuple[Any, float]:
        """Stores a file or folder, and returns its artifact and how long its upload may take."""
        import wandb

        size, artifact = size_bytes(path), wandb.Artifact(f"{name}-{self._run.id}", type=name)
        if size > LARGEST_UPLOAD_BYTES:
            artifact.add_reference(path.absolute().as_uri(), max_objects=10_000_000)
            size = 0
        else:
            for file in path.rglob("*") if path.is_dir() else [path]:
                if file.is_file():
                    inner = file.relative_to(path if path.is_dir() else path.parent)
                    artifact.add_file(str(file), str(inner), policy="immutable", skip_cache=True)
        seconds = CONNECT_TIMEOUT_SECONDS + size / _SLOWEST_BYTES_PER_SECOND
        return self._run.log_artifact(artifact), seconds

    def _open(self, mode: str) -> Any:
        """Opens the run. W&B gets no code, command line, git remote, console output or package
        list.
        """
        import wandb

        settings, description = self._settings, self._description
        description.folder.mkdir(parents=True, exist_ok=True)  # else W&B takes another place
        options = wandb.Settings(
            mode=mode,
            silent=True,
            save_code=False,
            console="off",
            disable_git=True,
            disable_job_creation=True,
            init_timeout=CONNECT_TIMEOUT_SECONDS,
            login_timeout=CONNECT_TIMEOUT_SECONDS,
            finish_timeout=CONNECT_TIMEOUT_SECONDS if description.source else _SYNC_SECONDS,
            finish_timeout_raises=True,
            x_disable_meta=True,
            x_disable_stats=not description.source,  # the run itself is not here
            x_save_requirements=False,
        )
        run = wandb.init(
            name=description.name,
            id=description.run_id,
            resume="allow" if mode == "online" else None,
            dir=description.folder,
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            job_type=settings.job_type or description.job_type,
            tags=settings.tags,
            notes=settings.notes,
            config=dict(description.config),
            settings=options,
        )
        place = run.url if mode == "online" else f"no server; {_advice(description)}"
        say(f"tracker wandb: {place}; its files are in {description.folder / 'wandb'}")
        return run


def _advice(description: Description) -> str:
    command = description.source or f"wandb sync {description.folder}/wandb/offline-run-*"
    return f"`{command}` sends it"
