"""The page in a real browser. In: facts and Chromium. Out: what a person sees, hears, hovers, sorts and opens."""

import json
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from report_browser import CONTRAST, DESKTOP, PAGE_LOAD_MS, PHONE
from report_samples import HOSTILE, bare_facts, layer, some_facts, unmeasured

from separable.errors import FileError
from separable.report import Distillation, Facts, Latency, Metric, render, write_page
from separable.report.outcome import headline
from separable.spec import Budget

PREFIXES = {"p": 1e-12, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
LONG = "backbone." + "a_very_long_name_without_a_break_" * 6 + "conv"

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def contexts() -> dict[str, BrowserContext]:
    """One for each way to look (a phone, the dark ...): starting one takes longer than opening a page."""
    return {}


@pytest.fixture
def open_page(browser: Browser, contexts: dict[str, BrowserContext], tmp_path: Path) -> Iterator[Open]:
    """A function that shows facts; at the end nothing may have been complained about or asked from a network."""
    troubles: list[str] = []
    pages: list[Page] = []

    def show(facts: Facts, **options: Any) -> Page:
        if str(options) not in contexts:
            contexts[str(options)] = browser.new_context(**{"viewport": DESKTOP, **options})
        path = tmp_path / f"report-{len(pages)}.html"
        write_page(facts, path)
        page = contexts[str(options)].new_page()
        pages.append(page)
        page.set_default_timeout(PAGE_LOAD_MS)
        page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        return page

    yield show
    for page in pages:
        page.close()
    assert [trouble for trouble in troubles if not trouble.startswith(("data:", "blob:"))] == []


@pytest.fixture(scope="module")
def facts() -> Facts:
    return some_facts(16)


def number_in(text: str) -> float:
    """The number that a person reads in "12.1 ms", "2.97 %" or "3.10×", within half a unit of its third digit."""
    digits, unit = re.fullmatch(r"−?([\d.,]+)\s?(.*)", text.strip()).groups()  # type: ignore[union-attr]
    scale = 0.01 if unit == "%" else 1.0 if unit in ("×", "B", "s") else PREFIXES[unit[:1]]
    return float(digits.replace(",", "")) * scale


def values(page: Page, selector: str) -> list[tuple[str, float]]:
    """What is read and what is meant, for every number below ``selector``."""
    found = page.eval_on_selector_all(f"{selector} data", "all => all.map(d => [d.textContent, Number(d.value)])")
    return [(text, value) for text, value in found]


def names(page: Page, selector: str) -> list[str]:
    return page.locator(f"{selector} bdi").all_text_contents()


def test_the_headline_numbers_are_those_of_the_facts(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    gain = facts.speedups
    assert [value for _, value in values(page, ".hero")] == [gain.counted, gain.predicted, gain.measured]
    assert page.title() == "ResNet on digits · separable"
    was, now = facts.before, facts.after
    assert was.measured is not None
    assert now.measured is not None
    shown = [value for _, value in values(page, "#glance")]
    for before, after in (
        (was.macs, now.macs), (was.parameters, now.parameters), (was.weight_bytes, now.weight_bytes),
        (was.predicted_s, now.predicted_s), (was.measured.median_s, now.measured.median_s),
    ):  # fmt: skip
        assert shown[:2] == [before, after]
        assert shown[2] == pytest.approx((before or 1) / (after or 1))
        shown = shown[3:]
    assert shown == [0.0123, 0.993, 0.9844, 0.9811, pytest.approx(-0.0033)]


def test_every_number_reads_as_what_it_means_to_three_digits(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    read = [v for part in (".hero", "#glance td:not(.change)", "#layers", "#theory") for v in values(page, part)]
    assert len(read) > 500
    for text, value in read:
        assert number_in(text) == pytest.approx(value, rel=0.006, abs=0.0005 if "×" in text else 0), text


def test_a_row_of_the_table_says_what_the_facts_say_about_the_layer(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    for i, item in enumerate(facts.layers):
        was, now, row = item.before, item.after, f"#layer-{i} .main"
        assert [value for _, value in values(page, row)] == [
            was.macs, now.macs, was.parameters, now.parameters, was.predicted_s, now.predicted_s, was.measured_s,
            now.measured_s, now.error, item.sensitivity,
        ]  # fmt: skip
        text = page.locator(row).inner_text()
        assert item.name in text
        assert item.spec in text
        assert item.why in text
        assert ("kept" if item.is_kept else item.after.label) in text


def test_the_figure_shows_counted_predicted_and_measured_speed_up_of_every_layer(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    gains = [facts.speedups, *(item.speedups for item in facts.layers)]
    assert [v for _, v in values(page, "#theory")] == [v for g in gains for v in (g.counted, g.predicted, g.measured)]


def test_a_shape_stands_where_its_number_is_on_the_axis(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    places = page.eval_on_selector_all(
        "#theory li.layer:not(.kept)",
        """all => all.map(li => ['counted', 'measured'].map(kind => [
            li.querySelector(`use[href="#${kind}"]`).x.baseVal.valueInSpecifiedUnits,
            Math.log(li.querySelector(`.${kind} data`).value)])).flat()""",
    )
    (x0, y0), (x1, y1) = min(places), max(places)
    for x, y in places:
        assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=0.002)


def test_a_column_head_sorts_the_table_and_the_figure_both_ways(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    head = page.locator('th[data-key="measured_s_after"]')
    head.get_by_role("button").click()
    times = [item.after.measured_s or 0 for item in facts.layers]
    falling = [facts.layers[i].name for i in sorted(range(len(times)), key=lambda i: (-times[i], i))]
    assert names(page, "#layers .main") == falling
    assert names(page, "#theory li.layer") == falling
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [v for _, v in values(page, '#layers .main [data-key="measured_s_after"]')] == sorted(times)


def test_names_sort_as_people_count_and_the_order_of_the_network_comes_back(open_page: Open) -> None:
    facts = some_facts(3, names=("conv10", "conv9", "conv1"))
    page = open_page(facts)
    page.get_by_role("button", name="Layer", exact=True).click()
    assert names(page, "#layers .main") == ["conv1", "conv9", "conv10"]
    page.locator("select").select_option("network")
    assert names(page, "#layers .main") == ["conv10", "conv9", "conv1"]


def test_a_layer_without_the_number_sorts_last_both_ways(open_page: Open) -> None:
    made = [layer(f"conv{i}", seed=i) for i in range(3)]
    made[1] = replace(made[1], sensitivity=None)
    page = open_page(replace(some_facts(1), layers=tuple(made)))
    for _ in range(2):
        page.locator('th[data-key="sensitivity"]').get_by_role("button").click()
        assert names(page, "#layers .main")[-1] == "conv1"


def test_the_filter_and_the_kept_box_choose_what_is_shown(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    page.get_by_label("Filter").fill("LAYER2")
    assert page.locator("#layers > tbody:visible").count() == 4
    assert page.locator("#theory li.layer:visible").count() == 4
    assert page.locator(".tools output").inner_text() == "4 of 16 layers"
    page.get_by_label("Filter").fill("")
    page.get_by_label("show kept layers").uncheck()
    rewritten = sum(not item.is_kept for item in facts.layers)
    assert 0 < rewritten < 16
    assert page.locator("#layers > tbody:visible").count() == rewritten


def test_many_layers_start_folded_and_open_on_demand(open_page: Open) -> None:
    page = open_page(some_facts(120))
    assert page.locator("#layers > tbody:visible").count() == 40
    page.get_by_role("button", name="Show all 120 layers").click()
    assert page.locator("#layers > tbody:visible").count() == 120
    assert page.locator("#theory li.layer:visible").count() == 120


def test_pointing_at_a_layer_shows_its_numbers_and_escape_or_leaving_hides_them(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    tip, link = page.get_by_role("tooltip"), page.locator("#theory li.layer a").nth(3)
    assert not tip.is_visible()
    link.hover()
    text = tip.inner_text()
    row = page.locator("#layer-3 .main")
    assert facts.layers[3].name in text
    for cell in row.locator("[data-label]").all():
        assert cell.inner_text() in text
    for kind in ("counted", "predicted", "measured"):
        assert f"Speed-up, {kind}" in text
    box = tip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= DESKTOP["width"]
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    link.hover()
    page.mouse.move(2, 2)
    assert not tip.is_visible()


def test_the_keyboard_reaches_the_tooltip_and_opens_the_alternatives(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    page.get_by_label("show kept layers").focus()
    page.keyboard.press("Tab")
    assert page.get_by_role("tooltip").is_visible()
    page.keyboard.press("Enter")
    page.locator("#layer-0 .more").wait_for(state="visible")
    button = page.locator("#layer-0 th button").first
    assert button.get_attribute("aria-expanded") == "true"
    button.focus()
    page.keyboard.press("Enter")
    assert not page.locator("#layer-0 .more").is_visible()


def test_a_click_on_a_row_shows_what_was_priced_with_the_chosen_one_marked(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    item, more = facts.layers[1], page.locator("#layer-1 .more")
    assert not more.is_visible()
    page.locator("#layer-1 .became").click()
    assert more.is_visible()
    shown = [value for _, value in values(page, "#layer-1 .more")]
    assert shown == [
        value for o in item.options for value in (o.macs, o.parameters, o.predicted_s, o.measured_s, o.error)
    ]
    assert more.locator("tbody th").all_inner_texts() == [
        f"{o.label}✓ chosen" if o == item.after else o.label for o in item.options
    ]
    page.locator("#layer-1 .became").click()
    assert not more.is_visible()


@pytest.mark.parametrize("name", [HOSTILE, '"onfocus="document.title=\'owned\'" x="', "${alert}$style", "\ud800 half"])
def test_a_hostile_name_stays_text(open_page: Open, name: str) -> None:
    sample = some_facts(2, names=(name,))
    page = open_page(replace(
        sample, model=name, notes=(name,), warnings=(name,), unknown=(name,), versions={name: name},
        skipped=tuple(replace(s, name=name, reason=name) for s in sample.skipped),
        layers=(replace(sample.layers[0], why=name, spec=name), *sample.layers[1:]),
    ))  # fmt: skip
    shown = name.replace("\ud800", "?")
    page.locator("#theory li.layer a").first.hover()
    assert page.get_by_role("tooltip").locator("b").text_content() == shown
    page.locator("#layer-0 .became").click()
    assert page.locator("h1").inner_text() == shown
    assert names(page, "#layer-0 .main") == [shown]
    assert page.title() == f"{shown} · separable"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("JSON.parse(document.querySelector('#facts').textContent).model") == name


def test_nothing_but_the_page_s_own_script_may_run_or_load() -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', render(bare_facts()))
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "http" not in policy[1]


def test_the_facts_inside_the_page_are_the_facts(open_page: Open, facts: Facts) -> None:
    page = open_page(facts)
    assert Facts.from_json(json.loads(page.locator("#facts").text_content() or "")) == facts
    with page.expect_download() as download:
        page.get_by_text("Save these facts as JSON").click()
    assert Facts.from_json(json.loads(download.value.path().read_text(encoding="utf-8"))) == facts


def _edge_cases() -> dict[str, Facts]:
    full = some_facts(6)
    zero = replace(full.before, measured=Latency(median_s=0.0, spread_s=0.0, samples_s=(0.0, 0.0)), predicted_s=0.0)
    kept = tuple(replace(item, after=item.before, fit_error_before=0.0, fit_error_after=0.0) for item in full.layers)
    return {
        "full": full,
        "nothing known": bare_facts(),
        "one layer": some_facts(1),
        "200 layers": some_facts(200),
        "all kept": replace(full, layers=kept, after=full.before, verdict="unclear"),
        "not measured": unmeasured(full),
        "no accuracy": replace(full, metrics=()),
        "many metrics": replace(full, metrics=(Metric(name=LONG, before=27.1, after=1e-9, is_share=False),) * 5),
        "zero times": replace(full, before=zero, after=zero, verdict="unclear"),
        "names": replace(some_facts(8, names=(LONG, "модель.слой", "模型.卷积", "نموذج", "", HOSTILE)), model=LONG),
        "every budget": replace(full, budget=Budget(latency=0.5, latency_s=1.0, macs=0.5, parameters=7, error=0.1)),
        "one step": replace(full, distillation=Distillation(steps=(1,), losses=(0.0,))),
        "nothing priced": replace(full, layers=tuple(replace(item, options=()) for item in full.layers)),
    }  # fmt: skip


@pytest.mark.parametrize("case", _edge_cases())
def test_a_phone_shows_everything_without_scrolling_sideways(open_page: Open, case: str) -> None:
    page = open_page(_edge_cases()[case], viewport=PHONE)
    for button in page.locator("#layers th button:visible").all()[:2]:
        button.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    visible = page.locator("main").inner_text()
    for word in ("NaN", "Infinity", "undefined", "None", "null", "[object"):
        assert word not in visible


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(open_page: Open, facts: Facts, scheme: str) -> None:
    page = open_page(replace(facts, warnings=("No data.",)), color_scheme=scheme, reduced_motion="reduce")
    page.locator("#layer-1 .became").click()
    page.locator("#theory li.layer a").first.hover()
    found = page.evaluate(CONTRAST)
    assert len(found) > 300
    assert [(round(contrast, 2), html) for contrast, html in found if contrast < 4.5] == []


def test_dark_mode_has_its_own_colours(open_page: Open, facts: Facts) -> None:
    color = "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"
    light, dark = (open_page(facts, color_scheme=scheme).evaluate(color) for scheme in ("light", "dark"))
    assert light != dark


def test_without_a_script_the_numbers_the_table_and_the_alternatives_are_there(open_page: Open, facts: Facts) -> None:
    page = open_page(facts, java_script_enabled=False)
    assert page.locator(".hero data").count() == 3
    assert page.locator("#layer-1 .main").is_visible()
    assert page.locator("#layer-1 .more").is_visible()
    assert not page.locator(".tools").is_visible()


def test_the_arrow_keys_read_the_loss_at_a_step(open_page: Open, facts: Facts) -> None:
    assert facts.distillation is not None
    page = open_page(facts)
    page.locator(".curve").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#distillation output").inner_text() == f"Step 2: loss {facts.distillation.losses[1]:.3g}"


def test_every_kind_of_number_is_named_and_every_warning_and_reason_is_shown(open_page: Open, facts: Facts) -> None:
    page = open_page(replace(facts, warnings=("No data: weights only.",)))
    text = page.locator("main").inner_text()
    for words in (
        "counted", "predicted", "measured", "Warning: No data: weights only.", "depthwise: already separable",
        "aten::_fft_r2c", "AMD EPYC 9R14", "torch 2.13.0", "2026-01-12", "batch 1", "2 threads", "median of 41",
        *facts.notes,
    ):  # fmt: skip
        assert words in text
    for head in page.locator("#glance tbody th").all():
        assert head.locator(".kind").count() == 1


@pytest.mark.parametrize(
    ("budget", "reached"), [(Budget(macs=0.99), "✓ within"), (Budget(macs=0.01), "✗ over"), (Budget(macs=2), "✗ over")]
)
def test_a_budget_stands_beside_what_was_reached(facts: Facts, budget: Budget, reached: str) -> None:
    sentence = render(replace(facts, budget=budget)).split('class="budget"')[1].split("</p>")[0]
    assert str(budget) in sentence
    assert "counted" in sentence
    assert reached in sentence


def test_the_headline_says_faster_slower_unclear_or_not_measured(facts: Facts) -> None:
    assert headline(facts).startswith("Measured 1.15× faster:")
    slower = replace(facts, before=facts.after, after=facts.before, verdict="slower")
    assert headline(slower).startswith("Measured slower, at 0.87× the speed:")
    assert "unclear" in headline(replace(facts, verdict="unclear"))
    assert headline(unmeasured(facts)).endswith("Nothing was measured.")
    assert headline(bare_facts()).startswith("No layer was rewritten.")


def test_the_same_facts_give_the_same_page(facts: Facts) -> None:
    assert render(facts) == render(Facts.from_json(facts.to_json()))


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, facts: Facts) -> None:
    with pytest.raises(FileError, match="folder"):
        write_page(facts, tmp_path / "missing" / "report.html")
    with pytest.raises(FileError, match="folder"):
        write_page(facts, tmp_path)
    write_page(facts, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) & stat.S_IRUSR
