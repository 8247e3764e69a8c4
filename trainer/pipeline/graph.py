"""Which stage needs which: what `${...}` in a command stands for, and an order in which everything
is there when it is needed.
"""

import re
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter

from trainer.errors import BadPipeline
from trainer.pipeline.file import FOLDER, Pipeline
from trainer.recipe.nearest import nearest, question

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")

At = Callable[[str, str], str]
"""Stage and path inside its folder ("" for the folder itself) to the text to be put in."""


def fill(pipeline: Pipeline, name: str, text: str, at: At) -> str:
    """`text` of stage `name` with every `${...}` replaced; `at` says where the folders of stages
    are. Raises `BadPipeline` for an unknown name.
    """

    def one(match: re.Match[str]) -> str:
        first, dot, output = match[1].partition(".")
        if dot:
            return at(first, _inside(pipeline, name, match[0], first, output))
        if first in pipeline.values:
            value = pipeline.values[first]
            return str(value).lower() if isinstance(value, bool) else str(value)
        return at(name, _inside(pipeline, name, match[0], name, first))

    return _REFERENCE.sub(one, text)


def needs(pipeline: Pipeline, name: str) -> list[str]:
    """The stages whose outputs stage `name` names, and those it is to come after, in the order of
    the file. Raises `BadPipeline` for unknown names.
    """
    stage = pipeline.stages[name]
    found = set(stage.after)
    if unknown := [other for other in stage.after if other not in pipeline.stages]:
        raise BadPipeline(
            f"stage {name}: after: there is no stage"
            f" {unknown[0]}{_question(unknown[0], pipeline.stages)}"
        )
    for text in [*stage.words, *stage.reads, *([stage.machine] if stage.machine else [])]:
        fill(pipeline, name, text, lambda stage, inside: inside)
        if "${" in _REFERENCE.sub("", text):
            raise BadPipeline(
                f"stage {name}: {text} has a ${{ without its }}; write ${{stage.output}}"
            )
        found |= {
            match[1].partition(".")[0] for match in _REFERENCE.finditer(text) if "." in match[1]
        }
    return [other for other in pipeline.stages if other in found]


def order(pipeline: Pipeline) -> list[str]:
    """The stages, each behind all that it needs. Raises `BadPipeline` with the loop where there is
    one.
    """
    sorter = TopologicalSorter({name: needs(pipeline, name) for name in pipeline.stages})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        loop = " -> ".join(reversed(error.args[1]))
        raise BadPipeline(
            f"the stages wait for each other in a loop: {loop} (each needs the next); take one of"
            " these references out"
        ) from error


def _inside(pipeline: Pipeline, name: str, written: str, stage: str, output: str) -> str:
    """The path of a named output inside its stage's folder."""
    if stage not in pipeline.stages:
        raise BadPipeline(
            f"stage {name}: {written}: there is no stage {stage}{_question(stage, pipeline.stages)}"
        )
    outputs = {FOLDER: "", **pipeline.stages[stage].outputs}
    if output in outputs:
        return outputs[output]
    if "." in written:
        raise BadPipeline(
            f"stage {name}: {written}: stage {stage} has no output"
            f" {output}{_question(output, outputs)}"
        )
    known = [*outputs, *pipeline.values]
    raise BadPipeline(
        f"stage {name}: {written} is neither an output of this stage nor in"
        f" `values`{_question(output, known)}; another stage's output is written ${{stage.output}}"
    )


def _question(word: str, known: Iterable[str]) -> str:
    names = list(known)
    return question(nearest(word, names)) or f"; there are {', '.join(names)}"
