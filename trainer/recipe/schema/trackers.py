"""The section `trackers`: where the values of a run are shown, in addition to its folder."""

from typing import Annotated, Literal

from pydantic import Field

from trainer.recipe.schema.section import Section

_GROUP = "runs with the same group are shown together; null: none"
_TABLES = (
    "also write tables with the texts of test queries that were gained and lost, and of mined"
    " negatives"
)
_FILES = "also store report.html and model/; above 100 MB, only the path on this machine is stored"


class WandbTracker(Section):
    """Weights & Biases, offline if there is no key."""

    kind: Literal["wandb"] = "wandb"
    project: str = Field("nearfar", description="W&B project")
    entity: str | None = Field(None, description="W&B user or team; null: that of the key")
    group: str | None = Field(None, description=_GROUP)
    job_type: str | None = Field(
        None, description="W&B job type; null: the work, such as train, mine or evaluate"
    )
    tags: tuple[str, ...] = Field((), description="words to filter runs by")
    notes: str | None = Field(None, description="a text about the run; null: none")
    tables: bool = Field(True, description=_TABLES)
    artifacts: bool = Field(True, description=_FILES)


class TensorboardTracker(Section):
    """TensorBoard event files in the run folder."""

    kind: Literal["tensorboard"] = "tensorboard"
    tables: bool = Field(True, description=_TABLES)


class MlflowTracker(Section):
    """MLflow, on a server or in a local database."""

    kind: Literal["mlflow"] = "mlflow"
    project: str = Field("nearfar", description="MLflow experiment")
    tracking_uri: str | None = Field(
        None,
        description=(
            "address of the server, or of a database such as sqlite:///mlflow.db; null: the"
            " variable MLFLOW_TRACKING_URI, or MLflow's default"
        ),
    )
    group: str | None = Field(None, description=_GROUP)
    tags: tuple[str, ...] = Field((), description="words to filter runs by")
    tables: bool = Field(True, description=_TABLES)
    artifacts: bool = Field(True, description=_FILES)


class TrackioTracker(Section):
    """Trackio, in its local database (the variable TRACKIO_DIR says where)."""

    kind: Literal["trackio"] = "trackio"
    project: str = Field("nearfar", description="Trackio project")
    group: str | None = Field(None, description=_GROUP)
    tables: bool = Field(True, description=_TABLES)


Tracker = Annotated[
    WandbTracker | TensorboardTracker | MlflowTracker | TrackioTracker,
    Field(discriminator="kind"),
]
