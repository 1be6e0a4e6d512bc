"""The notebooks run from top to bottom, with few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_first_character.ipynb", "02_mix_subjects_and_motion.ipynb"])
def test_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("CASTMIX_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("CASTMIX_STEPS", "2")
    monkeypatch.setenv("CASTMIX_SHOTS", "3")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" for output in shown)
    assert sum("video/mp4" in str(output.get("data", {}).get("text/html", "")) for output in shown) >= 5
    pictures = sum("image/png" in output.get("data", {}) for output in shown)
    assert pictures >= (2 if name.startswith("02") else 0)  # the log and the maps
