"""The model of a run folder, and the test set that its recipe names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.readers.beir import is_beir_folder, source_of_split
from trainer.errors import BadModel, BadRecipe
from trainer.recipe.load import load_recipe
from trainer.runtime.attempts import describe_run, has_run


@dataclass(frozen=True)
class JudgedQueries:
    """The test queries of a run's recipe, with its corpus and names of columns."""

    run: str
    source: str
    corpus: str | None
    columns: Mapping[str, str]


def model_of(name: str) -> str:
    """Returns the folder of the model of a run folder; any other name is returned as it is.

    Raises BadModel if the run has no model.
    """
    if not has_run(Path(name)):
        return name
    model = Path(name) / "model"
    if not model.is_dir():
        raise BadModel(
            f"{name} is the folder of {describe_run(Path(name))}, which has saved no model;"
            " continue it with `nearfar fit RECIPE --resume`"
        )
    return str(model)


def judged_queries_of(names: Sequence[str]) -> JudgedQueries:
    """Returns the test set of the first run folder whose recipe has one. Raises BadRecipe if none
    has.
    """
    for name in filter(lambda name: has_run(Path(name)), names):
        data = load_recipe(Path(name) / "recipe.yaml").data
        training_sets = [source.source for source in data.sources]
        source = data.test or source_of_split(training_sets, "test")
        if source is not None:
            corpus = None if is_beir_folder(Path(source)) else data.corpus  # which has its own
            return JudgedQueries(name, source, corpus, data.columns)
    raise BadRecipe(
        "no judged queries are given; name them with --data. It can be left out for the folder of"
        " a run whose recipe has a test set"
    )
