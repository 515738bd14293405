"""One convolution in every form: the numbers against hand-worked ones, the page with sliders in a real browser."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from report_browser import CONTRAST, DESKTOP, PAGE_LOAD_MS, PHONE

from separable.cost import Machine
from separable.errors import FileError, SpecError
from separable.report import Explanation, Setting, explain, write_explainer
from separable.report.explain import MOST

MACHINE = Machine(name="test", cores=2, threads=2, instruction_sets=(), fma_per_s=9.3e10, bytes_per_s=2.1e10)
HARDEST = [
    dict.fromkeys(MOST, 1),
    dict(MOST),
    {**MOST, "stride": 1},
    {**MOST, "c_in": 1, "stride": 3},
    {**MOST, "c_out": 1},
    {**MOST, "kernel": 1},
    {"kernel": 4, "c_in": 3, "c_out": 17, "size": 13, "stride": 2, "rank": 5, "terms": 3},
    {"kernel": 3, "c_in": 64, "c_out": 128, "size": 56, "stride": 2, "rank": 64, "terms": 961},
]

Open = Callable[..., Page]


def forms(**given: int) -> dict[str, Any]:
    return {form.name: form for form in explain(Setting(**given), MACHINE).forms}


def test_the_forms_cost_what_the_literature_and_the_closed_forms_say() -> None:
    found = forms(c_in=512, c_out=512, size=14, rank=256, terms=4)
    assert {name: form.cost.macs for name, form in found.items()} == {
        "dense": 462_422_016,
        "depthwise separable": 52_283_392,
        "spatial": 154_140_672,
        "depthwise": 209_133_568,
        "channel": 256 * 512 * (9 + 1) * 14 * 14,
        "tucker": 256 * (512 + 9 * 256 + 512) * 14 * 14,
    }
    assert (found["dense"].cost.parameters, found["depthwise separable"].cost.parameters) == (2_359_296, 266_752)


def test_at_stride_2_the_first_spatial_pass_works_on_the_whole_width() -> None:
    found = forms(c_in=64, c_out=128, size=56, stride=2, rank=64)
    assert (found["spatial"].cost.macs, found["dense"].cost.macs) == (38_535_168, 57_802_752)


def test_the_predicted_time_is_the_sum_of_what_binds_each_pass() -> None:
    found = forms(c_in=8, c_out=16, size=10)["depthwise separable"]
    first = 4 * (9 * 8 + 2 * 8 * 100) / MACHINE.bytes_per_s
    second = max(8 * 16 * 100 / MACHINE.fma_per_s, 4 * (8 * 16 + (8 + 16) * 100) / MACHINE.bytes_per_s)
    assert found.predicted_s == pytest.approx(first + second, rel=1e-12)
    assert found.bytes == 4 * (9 * 8 + 2 * 8 * 100) + 4 * (8 * 16 + (8 + 16) * 100)


def test_a_rank_beyond_the_full_one_is_the_full_one_and_said_to_be_exact() -> None:
    found = forms(c_in=4, c_out=6, rank=4096, terms=9)
    assert found["spatial"].label == "spatial 12, exact"
    assert found["depthwise"].label == "depthwise 6, exact"
    assert found["tucker"].label == "tucker 4×6, exact"
    assert forms(rank=7)["channel"].label == "channel 7"


def test_forms_that_there_are_not_are_named_with_the_reason() -> None:
    found = explain(Setting(kernel=1, c_in=1, c_out=1), MACHINE)
    assert [form.name for form in found.forms] == ["dense"]
    assert list(found.refused) == ["depthwise separable", "spatial", "depthwise", "channel", "tucker"]
    assert "No spatial: A kernel of 1×1 has no second axis" in str(found)


@pytest.mark.parametrize("name", MOST)
@pytest.mark.parametrize("value", [0, -1, True, 2.0, 10_000])
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"Setting.{name}: got {value}; expected a whole number from 1 to {MOST[name]}"):
        Setting(**{name: value})


def test_an_even_kernel_keeps_the_size_of_the_map() -> None:
    assert Setting(kernel=4, size=9).spec.size_out == (9, 9)
    assert Setting(kernel=4, size=9, stride=2).spec.size_out == (5, 5)


def test_the_table_says_what_is_counted_and_what_is_predicted() -> None:
    text = str(explain(Setting(c_in=512, c_out=512, size=14), MACHINE))
    assert "462,422,016" in text
    assert "8.84" in text  # 1 / (1/512 + 1/9)
    assert "Parameters, MACs and bytes counted; time predicted" in text


# --- the page ---


@pytest.fixture(scope="module")
def contexts() -> dict[str, BrowserContext]:
    return {}


@pytest.fixture
def open_page(browser: Browser, contexts: dict[str, BrowserContext], tmp_path: Path) -> Iterator[Open]:
    """A function that opens the page; at the end nothing may have been complained about or asked from a network."""
    troubles: list[str] = []
    pages: list[Page] = []
    path = tmp_path / "explain.html"

    def show(machine: Machine = MACHINE, setting: Setting | None = None, hash: str = "", **options: Any) -> Page:
        if str(options) not in contexts:
            contexts[str(options)] = browser.new_context(**{"viewport": DESKTOP, **options})
        write_explainer(setting or Setting(), machine, path)
        page = contexts[str(options)].new_page()
        pages.append(page)
        page.set_default_timeout(PAGE_LOAD_MS)
        page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(path.as_uri()) else troubles.append(asked.url))
        page.goto(path.as_uri() + hash)
        return page

    yield show
    for page in pages:
        page.close()
    assert [trouble for trouble in troubles if not trouble.startswith("data:")] == []


READ = """() => {
  const row = (node) => [node.dataset.form, Object.fromEntries(
    [...node.querySelectorAll('data')].map(d => [d.dataset.key, [Number(d.value), d.textContent]]))];
  return {
    setting: Object.fromEntries(NAMES.map(name => [name, Number(document.getElementById(name).value)])),
    forms: [...document.querySelectorAll('#forms tr[data-form]')].map(row),
    refused: [...document.querySelectorAll('#forms tr[data-refused]')].map(node => node.dataset.refused),
    seconds: [...document.querySelectorAll('#time data')].map(d => Number(d.value)),
    lead: document.getElementById('lead').textContent,
  };
}""".replace("NAMES", str(list(MOST)))
MOVE = f"""(moves) => moves.map(([name, part]) => {{
  const slider = document.getElementById(name + '-slider');
  slider.value = Math.round(part * slider.max);
  slider.dispatchEvent(new Event('input', {{ bubbles: true }}));
  return ({READ})();
}})"""
TYPE = f"""(settings) => settings.map((setting) => {{
  Object.entries(setting).forEach(([name, value]) => {{
    const field = document.getElementById(name);
    field.value = value;
    field.dispatchEvent(new Event('input', {{ bubbles: true }}));
  }});
  return ({READ})();
}})"""


def same_numbers(shown: dict[str, Any], machine: Machine = MACHINE) -> Explanation:
    """Checks that what the page shows is what the library counts, integer by integer."""
    found = explain(Setting(**shown["setting"]), machine)
    assert [name for name, _ in shown["forms"]] == [form.name for form in found.forms]
    assert shown["refused"] == list(found.refused)
    dense = found.forms[0]
    for (_, numbers), form, seconds in zip(shown["forms"], found.forms, shown["seconds"], strict=True):
        whole = {"parameters": form.cost.parameters, "macs": form.cost.macs, "bytes": form.bytes}
        assert {key: numbers[key] for key in whole} == {key: [value, f"{value:,}"] for key, value in whole.items()}
        assert numbers["counted"][0] == pytest.approx(dense.cost.macs / form.cost.macs, rel=1e-12)
        assert numbers["predicted"][0] == pytest.approx(dense.predicted_s / form.predicted_s, rel=1e-9)
        assert seconds == pytest.approx(form.predicted_s, rel=1e-12)
    return found


def test_every_setting_of_the_sliders_gives_the_integers_of_the_library(open_page: Open) -> None:
    page, chance = open_page(), random.Random(0)
    moves = [(name, place) for name in MOST for place in (0.0, 1.0)]
    moves += [(chance.choice(list(MOST)), chance.random()) for _ in range(130)]
    seen = page.evaluate(MOVE, moves)
    for shown in seen:
        same_numbers(shown)
    assert len({str(shown["setting"]) for shown in seen}) > 100


def test_the_largest_and_smallest_numbers_are_whole_too(open_page: Open) -> None:
    for setting, shown in zip(HARDEST, open_page().evaluate(TYPE, HARDEST), strict=True):
        assert shown["setting"] == setting
        found = same_numbers(shown)
        assert max(form.cost.macs for form in found.forms) < 2**53


def test_the_speed_up_follows_the_rates_that_a_person_types(open_page: Open) -> None:
    page = open_page()
    page.locator("#fma").fill("1000")
    page.locator("#bandwidth").fill("50")
    mine = replace(MACHINE, fma_per_s=1e12, bytes_per_s=5e10)
    same_numbers(page.evaluate(READ), mine)
    assert "Below 20.0 MACs a byte" in page.locator("#balance").inner_text()
    page.locator("#fma").fill("-3")
    same_numbers(page.evaluate(READ), mine)
    page.get_by_role("button", name="Back to the start").click()
    same_numbers(page.evaluate(READ))


def test_a_field_that_is_wrong_says_what_it_wants_and_changes_nothing(open_page: Open) -> None:
    page = open_page()
    before = page.evaluate(READ)["forms"]
    for text in ("", "0", "4097", "2.5"):
        page.get_by_role("spinbutton", name="channels in").fill(text)
        assert page.get_by_text("a whole number from 1 to 4096").first.is_visible()
        assert page.evaluate(READ)["forms"] == before
    page.locator("#c_in").fill("7")
    assert not page.get_by_text("a whole number from 1 to 4096").first.is_visible()
    assert same_numbers(page.evaluate(READ)).setting.c_in == 7


def test_the_keyboard_moves_a_slider_which_says_its_value(open_page: Open) -> None:
    page = open_page()
    slider = page.get_by_role("slider", name="kernel k×k")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#kernel").input_value() == "4"
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "31"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "c_in"
    assert same_numbers(page.evaluate(READ)).setting.kernel == 31


def test_the_address_keeps_the_setting(open_page: Open) -> None:
    page = open_page(hash="#kernel=5&c_in=24&stride=2&rank=0&terms=x&size=9999&nothing=1")
    assert page.evaluate(READ)["setting"] == Setting(kernel=5, c_in=24, stride=2).to_json()
    page.locator("#c_out").fill("40")
    assert "c_out=40" in page.url


def test_the_page_starts_where_it_was_told(open_page: Open) -> None:
    setting = Setting(kernel=7, c_in=6, c_out=10, size=33, stride=3, rank=4, terms=5)
    assert page_setting(open_page(setting=setting)) == setting.to_json()


def page_setting(page: Page) -> dict[str, int]:
    setting: dict[str, int] = page.evaluate(READ)["setting"]
    return setting


def test_the_lead_names_the_form_that_is_predicted_fastest(open_page: Open) -> None:
    page = open_page()
    best = min(explain(Setting(), MACHINE).forms, key=lambda form: form.predicted_s)
    assert f"written as {best.name}, it needs 8.41× fewer MACs" in page.evaluate(READ)["lead"]
    shown = page.evaluate(TYPE, [{"kernel": 1, "c_in": 8, "c_out": 8, "rank": 8}])[0]
    assert "no form is predicted to be faster" in shown["lead"]


def test_english_and_chinese_are_switched_and_start_as_the_browser_speaks(open_page: Open) -> None:
    page = open_page(locale="zh-CN")
    assert page.locator("html").get_attribute("lang") == "zh"
    assert page.locator("h1").inner_text() == "一次卷积，代价几何"
    assert "深度可分离" in page.locator("#forms").inner_text()
    assert "channels" not in page.locator("main").inner_text()
    page.get_by_role("button", name="English").click()
    assert page.title() == "What a convolution costs · separable"
    assert page.get_by_role("button", name="English").get_attribute("aria-pressed") == "true"
    text = page.locator("main").inner_text().replace("中文", "")
    assert not any("\u4e00" <= letter <= "\u9fff" for letter in text)
    assert page.get_by_role("slider", name="channels out").count() == 1


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_phone_shows_every_setting_without_scrolling_sideways(open_page: Open, language: str) -> None:
    page = open_page(viewport=PHONE)
    page.locator(f"[data-language={language}]").click()
    for setting in HARDEST[:4]:
        text = page.evaluate(TYPE, [setting])[0]["lead"] + page.locator("main").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert not any(word in text for word in ("NaN", "Infinity", "undefined", "null", "[object"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_of_the_explainer_stands_out_from_its_ground(open_page: Open, scheme: str) -> None:
    page = open_page(setting=Setting(rank=4096), color_scheme=scheme)
    page.locator("summary").click()
    found = page.evaluate(CONTRAST)
    assert len(found) > 150
    assert [(round(contrast, 2), html) for contrast, html in found if contrast < 4.5] == []


def test_what_binds_a_pass_is_said_by_pattern_and_by_word_not_by_colour_alone(open_page: Open) -> None:
    page = open_page()
    page.locator("summary").click()
    words = page.locator("#passes tbody tr td:last-child").all_inner_texts()
    shown = page.locator("#time i").evaluate_all("all => all.map(i => i.className)")
    assert [{"arithmetic": "compute", "memory": "memory"}[word] for word in words] == shown
    assert set(shown) == {"compute", "memory"}
    pattern = "node => getComputedStyle(node).backgroundImage"
    assert "repeating-linear-gradient" in page.locator("#time i.memory").first.evaluate(pattern)
    assert page.locator("#time i.compute").first.evaluate(pattern) == "none"


def test_without_a_script_the_table_is_there(open_page: Open) -> None:
    page = open_page(java_script_enabled=False)
    assert "115,605,504" in page.locator("pre").inner_text()
    assert not page.locator(".desk").is_visible()


def test_a_hostile_name_of_a_machine_stays_text(open_page: Open) -> None:
    name = "</script><img src=x onerror=\"document.title='owned'\">"
    page = open_page(replace(MACHINE, name=name))
    assert name in page.locator("#machine").inner_text()
    assert page.locator("img").count() == 0


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="folder"):
        write_explainer(Setting(), MACHINE, tmp_path / "missing" / "explain.html")
