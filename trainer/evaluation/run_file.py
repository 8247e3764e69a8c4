"""Run files of TREC, which hold the rankings of a system: `query Q0 document rank score tag`.

trec_eval, ir_measures and most search libraries read and write them. Like trec_eval, we rank by
score and then by document id, in descending order; the column `rank` is not read. Spaces separate
the fields, so a space in an id is written as %20.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from trainer.errors import BadData, BadFolder
from trainer.evaluation.metrics import Qrels, RetrievalRun
from trainer.retrieval.fusion import rank_documents
from trainer.storage.atomic import write_text
from trainer.storage.near_paths import nearest_path

_FORMAT = "query Q0 document rank score tag"


def read_run_file(path: Path) -> RetrievalRun:
    """Returns query id to document id to score.

    Raises BadData for a file that cannot be read, and names the line of the first problem.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise BadData(f"there is no run file {path}; check the path{nearest_path(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(
            f"{path} cannot be read as a run file ({error}); give a text file with lines of"
            f" '{_FORMAT}'"
        ) from error
    run: RetrievalRun = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            query, document, score = _fields(line, f"{path}:{number}")
            if document in run.setdefault(query, {}):
                raise BadData(
                    f"{path}:{number}: document {document!r} is listed twice for query {query!r};"
                    " keep one of the lines"
                )
            run[query][document] = score
    if not run:
        raise BadData(f"{path} is empty; a run file has lines of '{_FORMAT}'")
    return run


def _fields(line: str, place: str) -> tuple[str, str, float]:
    fields = line.split()
    if len(fields) != 6:
        raise BadData(
            f"{place}: a line of a run file has 6 fields, '{_FORMAT}', but this one has"
            f" {len(fields)}; correct it"
        )
    query, _, document, _, score, _ = fields
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadData(f"{place}: the score, field 5, is {score!r}; it must be a finite number")
    return query, document, value


def file_id(identifier: str) -> str:
    """Returns an id as run files hold it.

    >>> file_id("vm list")
    'vm%20list'
    """
    return re.sub(r"\s", lambda space: quote(space[0]), identifier)


def with_spaces(
    run: RetrievalRun, queries: Iterable[str], documents: Iterable[str]
) -> RetrievalRun:
    """Returns a run with the ids of these queries and documents where it has their `file_id`."""
    query_ids, document_ids = (
        {file_id(name): name for name in names if len(name.split()) > 1}
        for names in (queries, documents)
    )
    return {
        query_ids.get(query, query): {
            document_ids.get(document, document): score for document, score in hits.items()
        }
        for query, hits in run.items()
    }


def make_runs_folder(folder: Path) -> None:
    """Makes the folder for `write_runs`. Raises BadFolder if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFolder(
            f"the folder {folder} cannot be made ({error}); name another one"
        ) from error


def write_runs(runs: Mapping[str, RetrievalRun], qrels: Qrels, folder: Path) -> list[Path]:
    """Writes the run of each system, by its name, and `qrels.trec`. Returns the paths."""
    make_runs_folder(folder)
    paths: list[Path] = []
    for name, run in runs.items():
        file_name = re.sub(r"[^\w.-]+", "_", name).strip("._")
        path = folder / f"{file_name}.trec"
        if path in paths:
            path = folder / f"{file_name}_{len(paths)}.trec"
        write_run_file(run, path, file_name)
        paths.append(path)
    judgements = (
        f"{file_id(query)} 0 {file_id(document)} {grade}\n"
        for query, grades in qrels.items()
        for document, grade in grades.items()
    )
    write_text(folder / "qrels.trec", "".join(judgements))
    return [*paths, folder / "qrels.trec"]


def write_run_file(run: RetrievalRun, path: Path, tag: str) -> None:
    """Writes a run file, the best document of each query first. `tag` has no space."""
    lines = (
        f"{file_id(query)} Q0 {file_id(document)} {rank} {score!r} {tag}\n"
        for query, hits in run.items()
        for rank, (document, score) in enumerate(rank_documents(hits), 1)
    )
    write_text(path, "".join(lines))
