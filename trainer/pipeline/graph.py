"""The dependencies between stages: the replacement of `${...}` in commands, and an order in which
every stage runs after the stages that it needs.
"""

import re
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter

from trainer.errors import BadPipeline
from trainer.pipeline.file import FOLDER, Pipeline
from trainer.recipe.nearest import nearest, question

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")

OutputPath = Callable[[str, str], str]
"""A function from a stage and a path inside its folder ("" for the folder itself) to a path."""


def fill(pipeline: Pipeline, name: str, text: str, output_path: OutputPath) -> str:
    """Returns `text` of stage `name` with every `${...}` replaced.

    `output_path` returns the paths of outputs. Raises `BadPipeline` for an unknown name.
    """

    def replacement(match: re.Match[str]) -> str:
        first, dot, output = match[1].partition(".")
        if dot:
            return output_path(first, _inside(pipeline, name, match[0], first, output))
        if first in pipeline.values:
            value = pipeline.values[first]
            return str(value).lower() if isinstance(value, bool) else str(value)
        return output_path(name, _inside(pipeline, name, match[0], name, first))

    return _REFERENCE.sub(replacement, text)


def needs(pipeline: Pipeline, name: str) -> list[str]:
    """Returns the stages that stage `name` needs, in the order of the file.

    These are the stages whose outputs it uses and those in its `after`. Raises `BadPipeline` for
    unknown names.
    """
    stage = pipeline.stages[name]
    needed_stages = set(stage.after)
    if unknown := [other_name for other_name in stage.after if other_name not in pipeline.stages]:
        raise BadPipeline(
            f"stage {name}: after: there is no stage"
            f" {unknown[0]}{_question(unknown[0], pipeline.stages)}"
        )
    for text in [*stage.words, *stage.reads, *([stage.machine] if stage.machine else [])]:
        fill(pipeline, name, text, lambda stage, inside: inside)
        if "${" in _REFERENCE.sub("", text):
            raise BadPipeline(
                f"stage {name}: {text} has a ${{ without a }}; write ${{stage.output}}"
            )
        needed_stages |= {
            match[1].partition(".")[0] for match in _REFERENCE.finditer(text) if "." in match[1]
        }
    return [stage_name for stage_name in pipeline.stages if stage_name in needed_stages]


def order(pipeline: Pipeline) -> list[str]:
    """Returns the stages in an order in which each comes after all stages that it needs.

    Raises `BadPipeline` if stages need each other in a loop.
    """
    sorter = TopologicalSorter({name: needs(pipeline, name) for name in pipeline.stages})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        loop = " -> ".join(reversed(error.args[1]))
        raise BadPipeline(
            f"the stages wait for each other in a loop: {loop} (each needs the next); remove one of"
            " these references"
        ) from error


def _inside(pipeline: Pipeline, name: str, reference: str, stage: str, output: str) -> str:
    """Returns the path of an output inside its stage's folder."""
    if stage not in pipeline.stages:
        raise BadPipeline(
            f"stage {name}: {reference}: there is no stage"
            f" {stage}{_question(stage, pipeline.stages)}"
        )
    outputs = {FOLDER: "", **pipeline.stages[stage].outputs}
    if output in outputs:
        return outputs[output]
    if "." in reference:
        raise BadPipeline(
            f"stage {name}: {reference}: stage {stage} has no output"
            f" {output}{_question(output, outputs)}"
        )
    valid_names = [*outputs, *pipeline.values]
    raise BadPipeline(
        f"stage {name}: {reference} is neither an output of this stage nor in"
        f" `values`{_question(output, valid_names)}; write ${{stage.output}} for an output of"
        " another stage"
    )


def _question(word: str, valid_names: Iterable[str]) -> str:
    """Suggests the nearest names, or lists all valid ones."""
    names = list(valid_names)
    return question(nearest(word, names)) or f"; there are {', '.join(names)}"
