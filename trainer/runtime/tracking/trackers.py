"""Experiment trackers as Lightning loggers. If a tracker fails or hangs, the run continues.

A tracker gets a copy of `log.jsonl`, which is complete in any case. The files of a tracker are in
the run folder.
"""

import netrc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from pytorch_lightning.loggers import Logger

from trainer.collectives import rank
from trainer.errors import BadRecipe
from trainer.runtime.tracking.best_effort import BestEffort, warn_of_tracker
from trainer.runtime.tracking.course import Course, read_course
from trainer.storage.redaction import redact_tree, without_user

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

CONNECT_TIMEOUT_SECONDS = 10.0


@runtime_checkable
class TensorboardSettings(Protocol):
    """TensorBoard, which has no settings."""

    @property
    def kind(self) -> Literal["tensorboard"]: ...


@runtime_checkable
class WandbSettings(Protocol):
    """Weights & Biases with the name of a project."""

    @property
    def kind(self) -> Literal["wandb"]: ...
    @property
    def project(self) -> str: ...


TrackerSettings = TensorboardSettings | WandbSettings


def check_trackers(trackers: Sequence[TrackerSettings]) -> None:
    """Raises BadRecipe if the package of a tracker is not installed. Call it before the run."""
    for tracker in trackers:
        if find_spec(tracker.kind) is None:
            raise BadRecipe(
                f"trackers: {tracker.kind!r} needs the package {tracker.kind}, which is not"
                f" installed; run `pip install {tracker.kind}`, or remove the tracker (log.jsonl"
                " and report.html are always written)"
            )


def tracker_loggers(
    trackers: Sequence[TrackerSettings], run_folder: Path, name: str, config: Mapping[str, Any]
) -> list[Logger]:
    """Returns one logger per tracker, which writes into `run_folder`.

    `config` is the recipe, from which secrets are removed. All ranks but the first have none.
    Raises BadRecipe.
    """
    check_trackers(trackers)
    if rank() > 0 or not trackers:
        return []
    course = read_course(run_folder)
    clean = redact_tree(dict(config))
    return [_logger(tracker, run_folder, name, clean, course) for tracker in trackers]


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


def _logger(
    tracker: TrackerSettings, run_folder: Path, name: str, config: dict[str, Any], course: Course
) -> Logger:
    if tracker.kind == "tensorboard":
        return BestEffort("tensorboard", lambda: _tensorboard(run_folder, config, course))
    # The server gets the key, never a password in its address, which the client writes to its logs.
    if "WANDB_BASE_URL" in os.environ:
        os.environ["WANDB_BASE_URL"] = without_user(os.environ["WANDB_BASE_URL"])
    # W&B's own usage data: with a server that hangs, they hold the end of the run up by 20 seconds.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # Imported here and not in the thread of the tracker: a process that is forked in the middle of
    # an import would have half of the modules.
    import wandb  # noqa: F401

    settings = _WandbRun(tracker.project, run_folder, name, config, course.run_id)
    return BestEffort("wandb", settings.logger, _finish_wandb, course.latest_steps)


@dataclass(frozen=True)
class _WandbRun:
    """A run of W&B, which all attempts continue."""

    project: str
    run_folder: Path
    name: str
    config: dict[str, Any]
    run_id: str

    def logger(self) -> Logger:
        """Returns the logger of W&B, which only writes files if the server cannot be used."""
        import wandb

        mode = os.environ.get("WANDB_MODE", "online" if has_wandb_key() else "offline")
        logger = self._connecting_logger(mode)
        try:
            _ = logger.experiment
        except Exception as error:
            if mode == "offline":
                raise
            warn_of_tracker(
                f"the server of wandb cannot be used; `wandb sync"
                f" {self.run_folder}/wandb/offline-run-*` sends the run later",
                error,
            )
            # The client's process would go on with the settings of the first attempt.
            wandb.teardown()
            logger = self._connecting_logger("offline")
            _ = logger.experiment
        return logger

    def _connecting_logger(self, mode: str) -> "WandbLogger":
        """Returns a logger that connects on first use.

        W&B gets only metrics and the recipe: no code, command line, git remote, console output or
        package list.
        """
        import wandb
        from pytorch_lightning.loggers import WandbLogger

        settings = wandb.Settings(
            mode=mode,
            save_code=False,
            console="off",
            disable_git=True,
            disable_job_creation=True,
            init_timeout=CONNECT_TIMEOUT_SECONDS,
            login_timeout=CONNECT_TIMEOUT_SECONDS,
            finish_timeout=CONNECT_TIMEOUT_SECONDS,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        return WandbLogger(
            name=self.name,
            id=self.run_id,
            resume="allow" if mode == "online" else None,
            save_dir=self.run_folder,
            project=self.project,
            config=self.config,
            settings=settings,
        )


def _finish_wandb() -> None:
    import wandb

    wandb.finish()


def _tensorboard(run_folder: Path, config: dict[str, Any], course: Course) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger

    logger = TensorBoardLogger(
        save_dir=run_folder,
        name="tensorboard",
        version="",
        default_hp_metric=False,
        purge_step=course.first_step or None,
    )
    logger.log_hyperparams(config)
    return logger
