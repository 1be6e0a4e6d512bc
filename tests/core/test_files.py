"""Files are written completely or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit.core.files import partial_file, write_jsonl


def test_a_partial_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with partial_file(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert [one.name for one in path.parent.iterdir()] == ["file.txt"]
    assert path.read_text() == "whole"


def test_after_an_error_the_old_file_is_untouched(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def stopped() -> None:
        with partial_file(path) as partial:
            partial.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [one.name for one in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_rows_are_lines(tmp_path: Path) -> None:
    rows = [{"name": "Zoë", "size": 1}, {}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    text = (tmp_path / "rows.jsonl").read_text("utf-8")
    assert [json.loads(line) for line in text.splitlines()] == rows
    assert "Zoë" in text
