"""Checks a file that `nearfar mine` has written against the report beside it."""

import json
from pathlib import Path

from trainer.errors import BadData
from trainer.storage.manifest import Damaged, verify_files

_REPORT = "report.json"


def check_mined_file(path: Path) -> None:
    """Raises BadData if the report of a mining job records another content of this file.

    Files without such a report are not checked.
    """
    report_path = path.with_name(_REPORT)
    try:
        report = json.loads(report_path.read_text(encoding="utf-8"))
        record = report["files"][path.name] if "made_with" in report else None
    except (OSError, ValueError, KeyError, TypeError):
        return
    if record is None:
        return
    try:
        verify_files(path.parent, {path.name: record})
    except Damaged as error:
        raise BadData(
            f"{error} of {report_path}; mine again, or remove {report_path} to train on the file as"
            " it is"
        ) from error
