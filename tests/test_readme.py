"""The README's Python lines run as they stand, one block after the other."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.usefixtures("clock")
def test_the_readme_runs_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"print": lambda *values: printed.append(str(*values))}
    printed: list[str] = []
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {"program.safetensors", "report.html", "small.pt2"}
    assert len(blocks) == 5
    assert all(printed)
