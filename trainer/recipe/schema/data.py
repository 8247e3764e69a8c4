"""The section `data`: the data sets of training, validation and test."""

from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PositiveFloat, PositiveInt
from pydantic_core import CoreSchema, core_schema

from trainer.recipe.schema.section import NonNegativeInt, Ratio, Section


class Source(Section):
    """One of several training sets."""

    source: str = Field(
        description=(
            "a training set as in `data.train`: a file, a BEIR folder, or the name of a hub data"
            " set"
        )
    )
    weight: PositiveFloat | None = Field(
        None,
        description=(
            "share of the samples (or batches), relative to the other sets' weights; null (for all"
            " sets or none): its number of rows"
        ),
    )
    columns: dict[str, str] | None = Field(
        None, description="role to column name in this set; null: as in `data.columns`"
    )


class _TextOrSources:
    """A type that accepts a text or a list of sources.

    A problem in the list is reported at its own place, without a step for the union member.
    """

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        sources = handler.generate_schema(
            Annotated[
                tuple[Annotated[Source, Field(strict=False)], ...],
                Field(min_length=1, strict=False),
            ]
        )
        return core_schema.no_info_wrap_validator_function(
            lambda value, read: value if isinstance(value, str) else read(value),
            sources,
            serialization=core_schema.simple_ser_schema("any"),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


class DataSection(Section):
    """The data sets of training, validation and test."""

    train: Annotated[str | tuple[Source, ...], _TextOrSources()] = Field(
        description=(
            "a JSONL, CSV, TSV, Parquet or Arrow file, a BEIR folder, or the name of a hub data"
            " set; several sets as a list, e.g. [{source: a.jsonl, weight: 2}, {source: b.csv,"
            " weight: 1}]"
        )
    )
    mixing: Literal["samples", "one_source_per_batch"] = Field(
        "samples",
        description=(
            "with several sets: each batch has rows of all sets, or each batch comes from one set;"
            " the number of steps per epoch follows from the rows of all sets, not from the weights"
        ),
    )
    validation: str | None = Field(
        None,
        description=(
            "one set as in `train`; null: the dev split if `train` is a BEIR folder that has it,"
            " else a part of the training rows"
        ),
    )
    test: str | None = Field(
        None,
        description=(
            "one set as in `train`; null: the test split if `train` is a BEIR folder that has it,"
            " else no test"
        ),
    )
    corpus: str | None = Field(
        None,
        description=(
            "documents among which validation and test queries are searched, together with all"
            " documents of these sets: a JSONL, .txt, CSV, TSV, Parquet or Arrow file, or a BEIR"
            " folder; a set that is a BEIR folder keeps its own corpus; null: only the documents of"
            " the set itself, which makes figures too high"
        ),
    )
    general: str | tuple[str, ...] = Field(
        (),
        description=(
            "BEIR folders with a test split, of other subjects than the training data: the model"
            " searches them before and after training, which shows what it has forgotten; one"
            " folder or a list"
        ),
    )
    columns: dict[str, str] = Field(
        {},
        description=(
            "role to column name if they differ, e.g. {query: question, positive: answer}"
        ),
    )
    negatives_per_query: NonNegativeInt = Field(
        0, description="hard negatives per row; rows with fewer repeat theirs"
    )
    validation_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="share of the training rows for validation if there is no validation set"
    )
    validation_max_queries: PositiveInt = Field(
        1000, description="largest number of validation queries"
    )
    max_bad_rows_ratio: Ratio = Field(
        0.001,
        description=(
            "largest share of unreadable rows, which are skipped; more end the run with exit code"
            " 87"
        ),
    )

    @property
    def sources(self) -> tuple[Source, ...]:
        """The training sets as a tuple, also if there is only one."""
        return (Source(source=self.train),) if isinstance(self.train, str) else self.train

    @property
    def general_folders(self) -> tuple[str, ...]:
        """The folders of general collections as a tuple, also if there is only one."""
        return (self.general,) if isinstance(self.general, str) else self.general
