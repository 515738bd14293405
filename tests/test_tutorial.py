"""The tutorial in both languages: its code runs and prints what it says, its numbers are in the code, figures fit."""

from __future__ import annotations

import doctest
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parent.parent / "docs"
LANGUAGES = {"English": DOCS / "tutorial.md", "Chinese": DOCS / "tutorial.zh.md"}
BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
NUMBER = r"\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?"
# In prose what is part of a word (MobileNetV2), of another number or of a power (10⁸) is no number of its own.
PROSE_NUMBER = re.compile(rf"(?<![A-Za-z\d.,^])(?:{NUMBER})(?![A-Za-z\d⁰¹²³⁴⁵⁶⁷⁸⁹])")
REFERENCE = re.compile(r"[Ss]ection (\d+)|第 (\d+) 节")
YEAR = re.compile(r"(?:19|20)\d\d")
EVERYDAY = 10  # whole numbers below it need no proof


def sections(text: str) -> list[str]:
    """The text before the first heading, then each section with its subsections."""
    return re.split(r"^## ", text, flags=re.MULTILINE)


def numbers_in_prose(section: str) -> set[str]:
    """The numbers that a reader could take the text's word for, without commas."""
    prose = REFERENCE.sub("", re.sub(r"`[^`]*`", "", BLOCK.sub("", section)))
    prose = re.sub(r"^\d+\. ", "", prose, flags=re.MULTILINE)  # of headings and lists
    found = {number.replace(",", "") for number in PROSE_NUMBER.findall(prose) if not YEAR.fullmatch(number)}
    return {number for number in found if "." in number or int(number) >= EVERYDAY}


def numbers_in_code(section: str) -> set[str]:
    return {number.replace(",", "") for block in BLOCK.findall(section) for number in re.findall(NUMBER, block)}


def unproven(text: str) -> list[str]:
    """Numbers of the prose that no block of their section has, neither in its code nor in what it prints."""
    parts = sections(text)
    return [f"{part.splitlines()[0]}: {n}" for part in parts for n in numbers_in_prose(part) - numbers_in_code(part)]


def complaints(text: str) -> list[str]:
    """What runs otherwise than it says, with the line in the file."""
    kept = "".join(line for line in _code_only(text))
    test = doctest.DocTestParser().get_doctest(kept, {}, "tutorial", "tutorial", 0)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    return said if test.examples else ["nothing to run"]


def _code_only(text: str) -> list[str]:
    """The file with every line blank that is no code, so that line numbers stay."""
    is_code, lines = False, []
    for line in text.splitlines(keepends=True):
        is_fence = line.startswith("```")
        lines.append(line if is_code and not is_fence else "\n")
        is_code = is_code != is_fence
    return lines


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)#]+)", text)


@pytest.fixture(scope="module")
def texts() -> Mapping[str, str]:
    return {language: path.read_text(encoding="utf-8") for language, path in LANGUAGES.items()}


@pytest.mark.timeout(900)  # some fifteen seconds of work, on a machine that may have other work
def test_every_block_prints_what_the_tutorial_says(texts: Mapping[str, str]) -> None:
    assert "".join(complaints(texts["English"])) == ""


def test_both_languages_have_the_same_code_section_by_section(texts: Mapping[str, str]) -> None:
    english, chinese = ([BLOCK.findall(part) for part in sections(text)] for text in texts.values())
    assert english == chinese
    assert sum(map(len, english)) > 25


def test_both_languages_say_the_same_numbers_section_by_section(texts: Mapping[str, str]) -> None:
    english, chinese = ([numbers_in_prose(part) for part in sections(text)] for text in texts.values())
    assert english == chinese


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_number_in_the_text_comes_out_of_the_code_beside_it(texts: Mapping[str, str], language: str) -> None:
    assert unproven(texts[language]) == []
    assert sum(len(numbers_in_prose(part)) for part in sections(texts[language])) > 80


@pytest.mark.parametrize("language", LANGUAGES)
def test_links_and_references_lead_somewhere(texts: Mapping[str, str], language: str) -> None:
    text = texts[language]
    assert [link for link in links(text) if not (DOCS / link).exists()] == []
    meant = {one or other for one, other in REFERENCE.findall(text)}
    assert meant
    assert meant <= set(re.findall(r"^## (\d+)\.", text, flags=re.MULTILINE))


def test_a_planted_mistake_is_caught(texts: Mapping[str, str]) -> None:
    text = texts["English"]
    wrong = text.replace("1,228,800 MACs with", "1,228,801 MACs with")
    assert unproven(wrong) == ["1. What a convolution costs: 1228801"]
    assert unproven(text.replace("needs 0.115 of", "needs 0.125 of")) == ["5. Depthwise separable convolution: 0.125"]
    assert complaints("```python\n>>> 2 + 2\n5\n```\n")[0].count("Expected:\n    5") == 1
    assert complaints("no code") == ["nothing to run"]


def test_numbers_are_told_from_words_years_and_powers() -> None:
    said = "MobileNetV2 (2018), ResNet-18, 10⁸, `12`, 1.2^φ, in section 11 共 1,228,800 次, 12×13, 2-D, [7](a14.svg)."
    assert numbers_in_prose(said) >= {"1.2", "1228800", "12", "13"}
    assert not numbers_in_prose(said) & {"10", "11", "2018", "8"}


# --- figures ---


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", DOCS / "figures" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_are_those_that_the_script_draws(drawing: ModuleType) -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "figures").glob("*.svg")}
    assert drawing.figures() == kept


def test_every_figure_is_shown_in_the_language_of_its_words(texts: Mapping[str, str]) -> None:
    files = {path.name for path in (DOCS / "figures").glob("*.svg")}
    in_chinese = {name for name in files if name.endswith(".zh.svg")}
    shown = {language: {Path(link).name for link in links(text) if ".svg" in link} for language, text in texts.items()}
    assert shown["English"] == files - in_chinese
    assert shown["Chinese"] == {name for name in files if name.replace(".svg", ".zh.svg") not in in_chinese}


def test_every_figure_is_well_formed_named_and_has_colours_for_the_dark() -> None:
    for path in (DOCS / "figures").glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert root.findtext("{http://www.w3.org/2000/svg}title")
        assert "prefers-color-scheme: dark" in (root.findtext("{http://www.w3.org/2000/svg}style") or "")
