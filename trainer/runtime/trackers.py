"""Trackers a recipe names, as Lightning loggers that can fail without the run failing.

`log.jsonl` is the truth; a tracker is a copy for people. Everything local to a tracker lies inside
the run folder.
"""

import netrc
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import urlsplit

from pytorch_lightning.loggers import Logger

from trainer.errors import BadRecipe
from trainer.recipe.schema import Tensorboard, Tracker, Wandb
from trainer.runtime.environment import redact, redact_tree

CONNECT_SECONDS = 30.0


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Raises BadRecipe if the package of a tracker is not installed; call it before anything is
    spent on the run.
    """
    for tracker in trackers:
        if find_spec(tracker.kind) is None:
            raise BadRecipe(
                f"trackers: {tracker.kind!r} needs the package {tracker.kind}, which is not"
                f" installed; run `pip install {tracker.kind}`, or leave it out (log.jsonl and"
                " report.html are always written)"
            )


def tracker_loggers(
    trackers: Sequence[Tracker], run_folder: Path, name: str, config: Mapping[str, Any]
) -> list[Logger]:
    """One logger a tracker, writing inside `run_folder`, given the recipe as `config` without its
    secrets. Raises BadRecipe.
    """
    check_trackers(trackers)
    return [_logger(tracker, run_folder, name, redact_tree(dict(config))) for tracker in trackers]


class BestEffort(Logger):
    """Passes everything on to another logger until that one fails; then says so once and is
    silent.
    """

    def __init__(
        self, label: str, make: Callable[[], Logger], finish: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.label = label
        self._finish = finish
        self.alive = True
        self.inner: Logger | None = None
        self.inner = self._attempt(make)

    @property
    def name(self) -> str:
        """The tracker's kind."""
        return self.label

    @property
    def version(self) -> str:
        """Nothing; a run folder holds one run."""
        return ""

    @property
    def experiment(self) -> Any:
        """The tracker's own object, opened on first use; None when the tracker has failed."""
        return self._attempt(lambda: getattr(self.inner, "experiment", None))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Passed on."""
        self._pass_on("log_metrics", dict(metrics), step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Passed on, without secrets."""
        self._pass_on("log_hyperparams", redact_tree(params), *args, **kwargs)

    def save(self) -> None:
        """Passed on."""
        self._pass_on("save")

    def finalize(self, status: str) -> None:
        """Passed on, and the tracker's own ending."""
        self._pass_on("finalize", status)
        if self._finish is not None:
            self._attempt(self._finish)

    def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> None:
        self._attempt(lambda: getattr(self.inner, method)(*args, **kwargs))

    def _attempt(self, action: Callable[[], Any]) -> Any:
        if not self.alive:
            return None
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - whatever a tracker does, training goes on
            self.alive = False
            reason = " ".join(redact(f"{type(error).__name__}: {error}").split())[:300]
            warnings.warn(
                f"tracker {self.label} failed and is left out from here on ({reason}); log.jsonl"
                " stays complete",
                stacklevel=3,
            )
            return None


def wandb_key_present() -> bool:
    """Whether Weights & Biases can log in on this machine: WANDB_API_KEY, or the server's line in
    netrc.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = (
        urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
        or "api.wandb.ai"
    )
    places = (
        [os.environ["NETRC"]]
        if os.environ.get("NETRC")
        else [Path.home() / ".netrc", Path.home() / "_netrc"]
    )
    for place in places:
        try:
            if netrc.netrc(str(place)).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _logger(tracker: Tracker, run_folder: Path, name: str, config: dict[str, Any]) -> Logger:
    match tracker:
        case Wandb():
            return BestEffort(
                "wandb", lambda: _wandb(tracker, run_folder, name, config), _finish_wandb
            )
        case Tensorboard():
            return BestEffort("tensorboard", lambda: _tensorboard(run_folder, config))
        case _:
            assert_never(tracker)


def _wandb(tracker: Wandb, run_folder: Path, name: str, config: dict[str, Any]) -> Logger:
    """W&B told nothing but metrics and recipe: no code, command line, git remote, console output or
    package list.
    """
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    settings = wandb.Settings(
        mode=os.environ.get("WANDB_MODE", "online" if wandb_key_present() else "offline"),
        save_code=False,
        console="off",
        disable_git=True,
        disable_job_creation=True,
        init_timeout=CONNECT_SECONDS,
        login_timeout=CONNECT_SECONDS,
        finish_timeout=CONNECT_SECONDS,
        x_disable_meta=True,
        x_save_requirements=False,
    )
    return WandbLogger(
        name=name, save_dir=run_folder, project=tracker.project, config=config, settings=settings
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
