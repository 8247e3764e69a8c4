"""The whole recipe: what to learn, as one strict, frozen tree. Nothing in it names an import path.

Every field carries its unit and meaning in `description`; `nearfar recipe explain` and the JSON
Schema are made of those. Reading, overriding and explaining are in `trainer.recipe.load`. Imports
no torch: `nearfar --help` must be quick.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PositiveFloat,
    PositiveInt,
)
from pydantic_core import CoreSchema, core_schema

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change once read, numbers are not
    guessed from strings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Lora(Section):
    """Low-rank adapters on the frozen backbone (Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = Field(32, description="rank of every adapter")
    alpha: PositiveFloat = Field(64.0, description="the update is scaled by alpha / rank")
    dropout: Ratio = Field(0.0, description="dropout before the adapter, training only")
    target_modules: tuple[str, ...] | None = Field(
        None, description="names of the linear layers to adapt; null: all of the architecture's"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) (rank-stabilised LoRA)")
    dora: bool = Field(False, description="learn magnitude and direction apart (DoRA)")
    quantize_4bit: bool = Field(
        False, description="QLoRA: the frozen backbone in 4 bits; needs bitsandbytes and a GPU"
    )


class FullTuning(Section):
    """Every weight of the backbone is trained."""

    kind: Literal["full"] = "full"


class LateInteraction(Section):
    """How texts become one vector a token (ColBERT, Khattab & Zaharia 2020); null everywhere: as
    the folder says, else as described.
    """

    query_marker: str | None = Field(
        None,
        description=(
            "token of the vocabulary put before every query, '' for none; else BERT's [unused0] if"
            " there is one"
        ),
    )
    document_marker: str | None = Field(
        None, description="the same for documents; else BERT's [unused1] if there is one"
    )
    query_expansion: bool | None = Field(
        None,
        description=(
            "fill queries up with mask tokens to `query_max_length_tokens` and score those too;"
            " else true where there is a mask token"
        ),
    )
    attend_to_expansion: bool | None = Field(
        None, description="other tokens attend to these mask tokens; else false"
    )
    skip_punctuation: bool | None = Field(
        None, description="punctuation in documents has no vector; else true"
    )


class Static(Section):
    """A table of one vector a token, of which a text's vector is the mean: no transformer, so some
    ninety times as fast as MiniLM on a CPU.
    """

    dimensions: PositiveInt = Field(
        256,
        description=(
            "width of a vector; those of the backbone are brought to it by principal components"
        ),
    )
    start: Literal["vocabulary", "token_embeddings"] = Field(
        "vocabulary",
        description=(
            "the table starts as the backbone's vectors of single tokens, each a text of its own,"
            " or as its input embeddings"
        ),
    )


class Model(Section):
    """The encoder: a backbone, how its token vectors become one vector (or stay one a token), and
    what is trained.
    """

    backbone: str = Field(
        description="folder or hub name of a Hugging Face encoder or a sentence-transformers model"
    )
    pooling: Literal["mean", "cls", "last_token", "weighted_mean"] | None = Field(
        None,
        description=(
            "token vectors to one vector; null: as the folder says, else last_token for decoders"
            " and mean for the rest"
        ),
    )
    projection_dimensions: PositiveInt | None = Field(
        None,
        description=(
            "width of a linear layer behind the backbone; null: as the folder says, else none for"
            " bi_encoder and 128 for colbert"
        ),
    )
    projection_start: Literal["orthogonal", "pca"] = Field(
        "orthogonal",
        description=(
            "a new projection starts as random directions, or as those that keep most of the dot"
            " products between training texts"
        ),
    )
    layers: PositiveInt | tuple[NonNegativeInt, ...] | None = Field(
        None,
        description=(
            "keep only these layers of the backbone, numbered from 0, or so many evenly spaced"
            " ones; null: all"
        ),
    )
    static: Static | None = Field(
        None,
        description=(
            "train a table of token vectors made from the backbone instead; null: the backbone"
            " itself"
        ),
    )
    late_interaction: LateInteraction | None = Field(
        None, description="with kind: colbert only; null: all of its defaults"
    )
    normalize: bool | None = Field(
        None, description="scale every vector to length 1; null: as the folder says, else true"
    )
    query_prompt: str | None = Field(
        None, description="text put before every query; null: as the folder says, else nothing"
    )
    document_prompt: str | None = Field(
        None, description="text put before every document; null: as the folder says, else nothing"
    )
    query_max_length_tokens: PositiveInt | None = Field(
        None, description="longer queries are cut, special tokens counted; null: as the folder says"
    )
    document_max_length_tokens: PositiveInt | None = Field(
        None,
        description="longer documents are cut, special tokens counted; null: as the folder says",
    )
    dropout: Ratio | None = Field(
        0.0,
        description=(
            "dropout inside the backbone while training; null: as the backbone's configuration says"
        ),
    )
    tuning: Annotated[Lora | FullTuning, Field(discriminator="kind")] = Field(
        Lora(), description="which weights are trained"
    )
    activation_checkpointing: bool = Field(
        False,
        description="recompute each layer in the backward pass: less memory, a third more time",
    )


class Source(Section):
    """One of several training sets."""

    source: str = Field(
        description=(
            "as `data.train` where it is one set: a file, a folder in BEIR layout, or the name of a"
            " hub data set"
        )
    )
    weight: PositiveFloat | None = Field(
        None,
        description=(
            "share of the samples (or batches) in proportion to the other sets' weights; null, then"
            " for all sets: its number of rows"
        ),
    )
    columns: dict[str, str] | None = Field(
        None, description="role to column name in this set; null: as `data.columns`"
    )


class _TextOrSources:
    """Text is taken as it is, anything else as a list of sources, so that a problem inside the list
    is reported at its own place.
    """

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        several = handler.generate_schema(
            Annotated[
                tuple[Annotated[Source, Field(strict=False)], ...],
                Field(min_length=1, strict=False),
            ]
        )
        return core_schema.no_info_wrap_validator_function(
            lambda value, read: value if isinstance(value, str) else read(value),
            several,
            serialization=core_schema.simple_ser_schema("any"),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


class Data(Section):
    """Where the training pairs come from and what they are tested on."""

    train: Annotated[str | tuple[Source, ...], _TextOrSources()] = Field(
        description=(
            "JSONL, CSV, TSV, Parquet or Arrow file, a folder in BEIR layout, or the name of a hub"
            " data set; for a mixture a list of them, e.g. [{source: a.jsonl, weight: 2}, {source:"
            " b.csv, weight: 1}]"
        )
    )
    mixing: Literal["samples", "one_source_per_batch"] = Field(
        "samples",
        description=(
            "of a mixture: every batch has its share of each set, or each batch comes from one set"
            " and the sets take turns; an epoch is as many steps as all rows together fill batches,"
            " whatever the weights"
        ),
    )
    validation: str | None = Field(
        None,
        description=(
            "one set, as in `train`; null: the dev split where `train` is one BEIR folder, else a"
            " part of all of `train` is held out"
        ),
    )
    test: str | None = Field(
        None,
        description=(
            "one set, as in `train`; null: the test split where `train` is one BEIR folder, else no"
            " test"
        ),
    )
    columns: dict[str, str] = Field(
        {},
        description=(
            "role to column name where they differ, e.g. {query: question, positive: answer}"
        ),
    )
    negatives_per_query: NonNegativeInt = Field(
        0, description="hard negatives of each row to use; rows with fewer repeat theirs"
    )
    validation_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="share of the training rows held out when there is no validation set"
    )
    validation_max_queries: PositiveInt = Field(
        1000, description="at most so many queries are held out or validated on"
    )
    max_bad_rows_ratio: Ratio = Field(
        0.001,
        description=(
            "share of unreadable rows that is set aside; more end the run with exit code 87"
        ),
    )

    @property
    def sources(self) -> tuple[Source, ...]:
        """The training sets; a single one as a list of one."""
        return (Source(source=self.train),) if isinstance(self.train, str) else self.train


class Hardness(Section):
    """Which in-batch negatives count, by how hard they are for the model as it is; over the
    documents of all ranks.
    """

    top_k: PositiveInt | None = Field(
        None, description="so many hardest negatives of each query; null: all"
    )
    semi_hard: bool = Field(
        False,
        description="only negatives that score below the query's positive (Schroff et al. 2015)",
    )
    beta: NonNegativeFloat = Field(
        0.0,
        description=(
            "weigh each by exp(beta x score / temperature) over the mean weight (Robinson et al."
            " 2021); 0: all alike"
        ),
    )


class Contrastive(Section):
    """InfoNCE over all documents of the batch (van den Oord 2018)."""

    kind: Literal["contrastive"] = "contrastive"
    temperature: PositiveFloat = Field(0.05, description="scores are divided by it")
    learn_temperature: bool = Field(
        False, description="train the temperature, starting from the one given"
    )
    symmetric: bool = Field(
        False, description="mean of both directions: query to documents and positive to queries"
    )
    xtr_top_k: PositiveInt | None = Field(
        None,
        description=(
            "with kind: colbert, XTR's score: of each query token so many best document tokens of"
            " the whole batch count, and the score is their mean; null: MaxSim"
        ),
    )
    hardness: Hardness | None = Field(
        None, description="which in-batch negatives count; null: all alike; not with `symmetric`"
    )
    guide: str | None = Field(
        None,
        description=(
            "a frozen model with the same tokenizer; documents that it scores above the query's"
            " positive are no negatives; null: none"
        ),
    )
    guide_margin: float = Field(
        0.0,
        description=(
            "they are already left out from so far below the positive's score, in units of the"
            " guide's score"
        ),
    )
    teacher_margin: float | None = Field(
        None,
        description=(
            "hard negatives whose score in the data is above the positive's less this are no"
            " negatives; null: all are"
        ),
    )


class Distillation(Section):
    """KL divergence to a teacher's scores over each query's own candidates (ColBERTv2, Santhanam et
    al. 2022).
    """

    kind: Literal["distillation"] = "distillation"
    temperature: PositiveFloat = Field(0.05, description="the student's scores are divided by it")
    teacher_temperature: PositiveFloat = Field(
        1.0, description="the teacher's scores, those of the data, are divided by it"
    )


class MarginMse(Section):
    """The margin between positive and each negative must be the teacher's (Hofstaetter et al.
    2020).
    """

    kind: Literal["margin_mse"] = "margin_mse"


class Cosent(Section):
    """CoSENT for pairs with a graded score: a pair scored higher must be more similar (Su 2022)."""

    kind: Literal["cosent"] = "cosent"
    temperature: PositiveFloat = Field(0.05, description="scores are divided by it")


class Triplet(Section):
    """The positive must score higher than each negative of its row by a margin (Schroff et al.
    2015, on scores).
    """

    kind: Literal["triplet"] = "triplet"
    margin: PositiveFloat = Field(0.2, description="in units of the score")


class _Taught(Section):
    """What is common to all that teachers teach. The loss is `objective_weight` x the objective +
    `weight` x what is taught, both means over the batch.
    """

    kind: str
    models: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description=(
            "folders or names of the teachers, of one vector a text or a token, of any tokenizer;"
            " they encode the training texts once, kept in `<output>/teachers`"
        )
    )
    weight: PositiveFloat = Field(1.0, description="of what is taught")
    objective_weight: NonNegativeFloat = Field(
        1.0, description="of the objective; 0: the student learns from the teachers alone"
    )


class TaughtDistribution(_Taught):
    """KL divergence to the mean of the teachers' distributions over documents (Hinton et al. 2015;
    ColBERTv2, Santhanam et al. 2022).
    """

    kind: Literal["distribution"] = "distribution"
    candidates: Literal["batch", "own"] = Field(
        "batch",
        description="over all documents of the batch, on all ranks, or each query's own candidates",
    )
    temperature: PositiveFloat = Field(0.05, description="the student's scores are divided by it")
    teacher_temperature: PositiveFloat = Field(
        0.05,
        description=(
            "the teachers' scores are divided by it; those of a colbert model are sums over tokens"
        ),
    )


class TaughtMargins(_Taught):
    """The margins between positive and each negative must be those of the teachers' mean scores
    (Hofstaetter et al. 2020).
    """

    kind: Literal["margins"] = "margins"


class TaughtVectors(_Taught):
    """The one teacher's vectors themselves, behind a learned projection where widths differ
    (Reimers & Gurevych 2020).
    """

    kind: Literal["vectors"] = "vectors"
    distance: Literal["mse", "cosine"] = Field(
        "mse", description="mean squared difference over texts and numbers, or mean of 1 - cosine"
    )


class Matryoshka(Section):
    """Vectors whose beginnings are vectors too, and layers of which the first are a model too
    (Kusupati et al. 2022; in both, Li et al. 2024).

    The loss is the sum over every pair of `layers` and `dimensions`, each times both weights.
    """

    dimensions: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = Field(
        None, description="widths to train, the model's own among them; null: that one alone"
    )
    weights: tuple[PositiveFloat, ...] | None = Field(
        None, description="of the loss at each width; null: 1 each"
    )
    layers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = Field(
        None,
        description=(
            "of how many first layers vectors are trained, e.g. [6, 3], the number of all among"
            " them; null: of all alone"
        ),
    )
    layer_weights: tuple[PositiveFloat, ...] | None = Field(
        None, description="of the loss at each of `layers`; null: 1 each"
    )


class Refresh(Section):
    """Hard negatives mined anew while training, by the model as it then is, for the queries of the
    steps to come (ANCE, Xiong et al. 2021).
    """

    every_steps: PositiveInt = Field(200, description="steps between minings")
    first_step: NonNegativeInt = Field(
        0,
        description=(
            "the first mining comes before this step, counted from 0; steps before it have no mined"
            " negatives"
        ),
    )
    negatives: PositiveInt = Field(
        4,
        description=(
            "mined for each query, beside `data.negatives_per_query` of the data's own; where fewer"
            " are left, the query has fewer"
        ),
    )
    depth: PositiveInt = Field(
        100, description="ranks that are looked at, known positives left out"
    )
    skip_top: NonNegativeInt = Field(0, description="ranks left out at the top")
    pick: Literal["top", "random"] = Field(
        "top", description="of what is left the best, or any, drawn anew each time"
    )
    percent_of_positive: Annotated[float, Field(ge=0.0, le=100.0)] = Field(
        95.0, description="a negative scores at most this share of the positive; 0: no such limit"
    )
    margin: float | None = Field(
        None,
        description="a negative scores at least so much below the positive; null: no such limit",
    )
    relative_margin: Ratio | None = Field(
        None, description="the same as a share of the positive's score; null: no such limit"
    )
    min_score: float | None = Field(
        None, description="a negative scores at least this; null: no such limit"
    )
    max_score: float | None = Field(
        None, description="a negative scores at most this; null: no such limit"
    )
    corpus: str | None = Field(
        None,
        description=(
            "further documents to search: JSON Lines, a .txt file, or a BEIR folder; null: those of"
            " `data.train` alone"
        ),
    )


class Ranking(Section):
    """What the objectives of a cross-encoder share: they compare a query's own candidates, of which
    the first is right.
    """

    random_negatives: NonNegativeInt = Field(
        0,
        description=(
            "negatives of each row, where the data have none: positives of other rows of the batch,"
            " drawn anew in each pass"
        ),
    )
    graded: bool = Field(
        False,
        description=(
            "the data's scores say how right each candidate is; false: the positive is right and"
            " the others are not"
        ),
    )


class Pointwise(Ranking):
    """Binary cross-entropy of each candidate (Nogueira & Cho 2019). Graded: scores from 0 to 1, of
    scored pairs too.
    """

    kind: Literal["pointwise"] = "pointwise"


class Pairwise(Ranking):
    """RankNet: the better of two candidates must score higher (Burges et al. 2005). Graded: the
    order of the scores counts.
    """

    kind: Literal["pairwise"] = "pairwise"


class Listwise(Ranking):
    """Cross-entropy of the softmax over a query's candidates (Cao et al. 2007). Graded: shares of
    scores of 0 or more.
    """

    kind: Literal["listwise"] = "listwise"


class LambdaLoss(Ranking):
    """RankNet's pairs weighted by their worth in nDCG (NDCG-Loss2++, Wang et al. 2018). Graded:
    grades from 0 to 30.
    """

    kind: Literal["lambda_loss"] = "lambda_loss"


class Optimization(Section):
    """AdamW and its schedule."""

    batch_size: Annotated[int, Field(ge=2)] = Field(
        64, description="global queries per optimizer step, whatever the hardware"
    )
    epochs: PositiveInt = Field(
        1,
        description=(
            "passes over the training rows; rows that fill no batch at the end of a pass share one"
            " with the next"
        ),
    )
    max_steps: PositiveInt | None = Field(
        None, description="stop after so many steps; null: `epochs` decides"
    )
    learning_rate: PositiveFloat = Field(1e-3, description="peak rate of LoRA or backbone weights")
    head_learning_rate: PositiveFloat | None = Field(
        None, description="peak rate of the projection; null: `learning_rate`"
    )
    temperature_learning_rate: PositiveFloat | None = Field(
        None, description="peak rate of a learned temperature; null: `learning_rate`"
    )
    weight_decay: NonNegativeFloat = Field(
        0.01, description="decoupled; not on biases, normalisation weights and the temperature"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the rate falls after warm-up; cosine and linear end at 0"
    )
    warmup_ratio: Ratio = Field(
        0.1, description="share of all steps over which the rate rises from 0"
    )
    warmup_steps: NonNegativeInt | None = Field(
        None, description="the same in steps; wins over `warmup_ratio`"
    )
    gradient_clip_norm: PositiveFloat | None = Field(
        1.0, description="largest global norm of the gradient; null: no clipping"
    )


class Validation(Section):
    """How often nDCG@10 is measured on held-out queries, and when that ends the run."""

    every_steps: PositiveInt | None = Field(
        None, description="steps between validations; null: once an epoch"
    )
    patience: PositiveInt | None = Field(
        None, description="stop after so many validations without a better nDCG@10; null: never"
    )
    first_stage: str | None = Field(
        None,
        description=(
            "of a cross_encoder: folder or name of the model that finds the documents it puts in"
            " order, here and in the test; null: BM25"
        ),
    )
    rerank_depth: PositiveInt | None = Field(
        None, description="of a cross_encoder: how many documents of each query; null: 20"
    )


class Machine(Section):
    """This machine's share: changes the time a run takes and nothing else (beyond rounding)."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where to compute"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the hardware has instructions for it, else fp32"
    )
    micro_batch_tokens: PositiveInt | Literal["auto"] = Field(
        "auto", description="padded tokens the encoder takes at once"
    )
    kept_tokens: NonNegativeInt | Literal["auto"] = Field(
        "auto",
        description=(
            "padded tokens of a step whose activations are kept; the rest is computed again, a"
            " third more time; auto: what fits in memory"
        ),
    )
    maxsim: Literal["auto", "pieces", "plain", "kernels"] = Field(
        "auto",
        description=(
            "how late interaction is computed: in pieces, as the formula is read, or by"
            " late-interaction-kernels on an NVIDIA GPU; auto: in pieces"
        ),
    )
    threads: PositiveInt | None = Field(None, description="CPU threads; null: all cores")


class Wandb(Section):
    """Weights & Biases, offline where there is no key."""

    kind: Literal["wandb"] = "wandb"
    project: str = Field("nearfar", description="W&B project")


class Tensorboard(Section):
    """TensorBoard event files inside the run folder."""

    kind: Literal["tensorboard"] = "tensorboard"


Objective = Annotated[
    Contrastive
    | Distillation
    | MarginMse
    | Cosent
    | Triplet
    | Pointwise
    | Pairwise
    | Listwise
    | LambdaLoss,
    Field(discriminator="kind"),
]
Teacher = Annotated[TaughtDistribution | TaughtMargins | TaughtVectors, Field(discriminator="kind")]
Tracker = Annotated[Wandb | Tensorboard, Field(discriminator="kind")]


class Recipe(Section):
    """One run: what to learn, from what, how."""

    kind: Literal["bi_encoder", "colbert", "cross_encoder"] = Field(
        "bi_encoder",
        description=(
            "the family of the model: one vector a text, one a token, or one score a pair of query"
            " and document"
        ),
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = Field(
        description="the run folder is `<output>/<name>`"
    )
    output: str = Field("runs", description="folder of all runs")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        13, description="decides the order of the data, dropout and new weights"
    )
    model: Model
    data: Data
    objective: Objective = Field(Contrastive(), description="what is minimised")
    teacher: Teacher | None = Field(
        None,
        description=(
            "models that the student learns from beside the objective, or instead of it; null: none"
        ),
    )
    matryoshka: Matryoshka | None = Field(
        None,
        description=(
            "train beginnings of the vectors, or the first layers, too; null: the whole alone"
        ),
    )
    refresh: Refresh | None = Field(
        None, description="hard negatives mined anew while training; null: none"
    )
    optimization: Optimization = Field(Optimization(), description="AdamW and its schedule")
    validation: Validation = Field(Validation(), description="when to measure on held-out queries")
    machine: Machine = Field(Machine(), description="what this machine may decide")
    trackers: tuple[Tracker, ...] = Field(
        (), description="where metrics go besides log.jsonl, e.g. [{kind: wandb}]"
    )

    @property
    def negatives_per_query(self) -> int:
        """Hard negatives of each query in a batch, before negatives drawn at random: the data's own
        and those to be mined.
        """
        return self.data.negatives_per_query + (
            self.refresh.negatives if self.refresh is not None else 0
        )
