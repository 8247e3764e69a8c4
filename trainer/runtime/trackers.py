"""Experiment trackers as Lightning loggers. If a tracker fails, the run continues.

A tracker gets a copy of `log.jsonl`, which is complete in any case. The files of a tracker are in
the run folder.
"""

import netrc
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from pytorch_lightning.loggers import Logger

from trainer.errors import BadRecipe
from trainer.runtime.environment import redact, redact_tree

CONNECT_TIMEOUT_SECONDS = 30.0


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

    `config` is the recipe, from which secrets are removed. Raises BadRecipe.
    """
    check_trackers(trackers)
    return [_logger(tracker, run_folder, name, redact_tree(dict(config))) for tracker in trackers]


class BestEffort(Logger):
    """Forwards every call to another logger until it fails; then it warns once and does nothing."""

    def __init__(
        self, label: str, make: Callable[[], Logger], finish: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.label = label
        self._finish = finish
        self.has_failed = False
        self.inner: Logger | None = None
        self.inner = self._attempt(make)

    @property
    def name(self) -> str:
        """The kind of the tracker."""
        return self.label

    @property
    def version(self) -> str:
        """The empty string: a run folder has one run."""
        return ""

    @property
    def experiment(self) -> Any:
        """The tracker's own object, created on first use; None if the tracker has failed."""
        return self._attempt(lambda: getattr(self.inner, "experiment", None))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Forwards the metrics."""
        self._forward("log_metrics", dict(metrics), step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Forwards the hyperparameters, without secrets."""
        self._forward("log_hyperparams", redact_tree(params), *args, **kwargs)

    def save(self) -> None:
        """Forwards the call."""
        self._forward("save")

    def finalize(self, status: str) -> None:
        """Forwards the status, and calls the tracker's own end."""
        self._forward("finalize", status)
        if self._finish is not None:
            self._attempt(self._finish)

    def _forward(self, method: str, *args: Any, **kwargs: Any) -> None:
        self._attempt(lambda: getattr(self.inner, method)(*args, **kwargs))

    def _attempt(self, action: Callable[[], Any]) -> Any:
        if self.has_failed:
            return None
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - training continues in any case
            self.has_failed = True
            reason = " ".join(redact(f"{type(error).__name__}: {error}").split())[:300]
            warnings.warn(
                f"tracker {self.label} failed and is not used any more ({reason}); log.jsonl stays"
                " complete",
                stacklevel=3,
            )
            return None


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
    tracker: TrackerSettings, run_folder: Path, name: str, config: dict[str, Any]
) -> Logger:
    if tracker.kind == "tensorboard":
        return BestEffort("tensorboard", lambda: _tensorboard(run_folder, config))
    project = tracker.project
    return BestEffort("wandb", lambda: _wandb(project, run_folder, name, config), _finish_wandb)


def _wandb(project: str, run_folder: Path, name: str, config: dict[str, Any]) -> Logger:
    """Returns the logger of W&B.

    W&B gets only metrics and the recipe: no code, command line, git remote, console output or
    package list.
    """
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    settings = wandb.Settings(
        mode=os.environ.get("WANDB_MODE", "online" if has_wandb_key() else "offline"),
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
        name=name, save_dir=run_folder, project=project, config=config, settings=settings
    )


def _finish_wandb() -> None:
    import wandb

    wandb.finish()


def _tensorboard(run_folder: Path, config: dict[str, Any]) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger

    logger = TensorBoardLogger(
        save_dir=run_folder, name="tensorboard", version="", default_hp_metric=False
    )
    logger.log_hyperparams(config)
    return logger
