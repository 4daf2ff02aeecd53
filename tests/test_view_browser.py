"""The page of `diffplan view`, in a browser that is clicked through.

With `DIFFPLAN_SCREENSHOTS=docs/pictures` the browser leaves the pictures of the docs.
"""

import io
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_folder import ITERATIONS, new_run, record_swing_up, shown

import diffplan as dp
from diffplan import _cli
from diffplan._colours import PLANNERS
from diffplan.training import RunLogger

ROOT = Path(__file__).parents[1]
CHROME = [
    shutil.which(each) for each in ("chromium", "chromium-browser", "google-chrome")
]
BROWSER, DRIVER = next(filter(None, CHROME), None), shutil.which("chromedriver")
FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    *("disable-dev-shm-usage", "hide-scrollbars"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_run(tmp_path_factory)


class Page:
    """A page in a browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def look(self, width: int, *, dark: bool, height: int = 1000) -> None:
        """Take a size and a scheme of colours."""
        tell = self.driver.execute_cdp_cmd
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        tell("Emulation.setDeviceMetricsOverride", {**size, "mobile": width < 600})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tell("Emulation.setEmulatedMedia", {"features": [scheme]})

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def paths(self, selector: str) -> list[str]:
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".map(each => each.getAttribute('d'))"
        )
        return list(self.run(script, f"{selector} path"))

    def wait(self, script: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60).until(
            lambda driver: driver.execute_script(script)
        )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    selenium = pytest.importorskip("selenium", reason="no selenium: the extra `dev`")
    if not (BROWSER and DRIVER):
        pytest.skip("no chromium and chromedriver: apt-get install chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    del selenium
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield Page(driver)
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser: Page, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    file = tmp_path_factory.mktemp("page") / "page.html"
    assert _cli.main(["view", str(run), "--output", str(file)]) == 0
    browser.look(1200, dark=False)
    browser.driver.get(file.as_uri())
    return browser


def picture(opened: Page, name: str, selector: str) -> None:
    """Leave a picture of a section for the docs, where they are asked for."""
    folder = os.environ.get("DIFFPLAN_SCREENSHOTS")
    if folder:
        from PIL import Image

        part = opened.find(selector)
        opened.run("document.activeElement.blur(); arguments[0].scrollIntoView()", part)
        drawn = Image.open(io.BytesIO(part.screenshot_as_png)).convert("RGB")
        # Median cut would lose a colour of thin lines.
        small = drawn.quantize(160, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        small.save(Path(folder, f"{name}.png"), optimize=True)


def choose_plan(opened: Page, name: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(opened.find("#plans")).select_by_visible_text(name)


def test_the_slider_goes_through_the_iterations(opened: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    choose_plan(opened, "latco_0")
    told = shown(opened.driver.page_source)
    plan = next(each for each in told["plans"] if each["name"] == "latco_0")
    slider, now = opened.find("#iteration"), opened.find("#now")
    assert int(slider.get_attribute("max")) == ITERATIONS
    first = opened.paths("#states"), opened.find("#strips img").get_attribute("src")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert now.text.startswith(f"iteration 3 of {ITERATIONS}")
    cost, violation = (float(part.split()[1]) for part in now.text.split(" · ")[1:])
    assert cost == pytest.approx(plan["cost"][3], rel=1e-2)
    assert violation == pytest.approx(plan["violation"][3], rel=1e-2)
    later = opened.paths("#states"), opened.find("#strips img").get_attribute("src")
    assert later[0] != first[0]
    assert later[1] != first[1]
    # Of each state: now, the answer, what happened. The latter two stand still.
    assert later[0][1::3] == first[0][1::3]
    assert later[0][2::3] == first[0][2::3]
    assert len(later[0]) == 3 * 5
    assert all(path.count("L") == 30 for path in later[0])
    slider.send_keys(Keys.END)
    assert now.text.startswith("answer")
    states = opened.paths("#states")
    assert states[0::3] == states[1::3]
    slider.send_keys(Keys.HOME)
    opened.find("#play").click()
    opened.wait(
        "return document.getElementById('now').textContent.startsWith('answer')"
    )
    assert opened.find("#play").text == "Play"
    captions = [
        each.text
        for each in opened.driver.find_elements("css selector", ".film figcaption")
    ]
    assert captions == [f"imagined, iteration {ITERATIONS}", "what happened"]


def test_another_plan_has_its_own_iterations(opened: Page) -> None:
    choose_plan(opened, "ilqr_0")
    assert int(opened.find("#iteration").get_attribute("max")) == 8
    assert opened.find("#planner").text.startswith("ILQR(")


def test_columns_are_chosen_and_hovered(opened: Page) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import Select

    def titles() -> list[str]:
        found = opened.driver.find_elements("css selector", "#metrics figcaption")
        return [each.text for each in found]

    assert titles()[:2] == ["test/return", "train/loss"]
    label = "//p[@id='columns']/label[normalize-space()='time/seconds']"
    assert "time/seconds" not in titles()
    opened.driver.find_element("xpath", label).click()
    assert "time/seconds" in titles()
    opened.driver.find_element("xpath", label).click()
    assert "time/seconds" not in titles()
    chart = opened.find("#metrics svg")
    opened.run("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(opened.driver).move_to_element(chart).perform()
    tip = opened.find("#tip")
    steps, value = (line.split()[-1] for line in tip.text.splitlines())
    table = shown(opened.driver.page_source)["metrics"]["test/return"]
    assert any(
        row[1] == float(steps) and row[2] == pytest.approx(float(value), rel=1e-3)
        for row in table
    )
    Select(opened.find("#against")).select_by_visible_text("rounds")
    assert "29 rounds" in opened.find("#metrics svg").text
    # A loss that is not finite is a gap.
    gaps = [path.count("M") for path in opened.paths("#metrics")]
    assert gaps == [2 if "grad" in title else 1 for title in titles()]


def test_videos_play_and_are_wound(opened: Page) -> None:
    film = opened.find("video")
    opened.run("arguments[0].scrollIntoView()", film)
    opened.wait("return document.querySelector('video').readyState >= 2")
    assert opened.run("return arguments[0].duration", film) == pytest.approx(
        3.1, abs=0.11
    )
    assert opened.run(
        "return [arguments[0].videoWidth, arguments[0].videoHeight]", film
    ) == [96, 48]
    opened.run("arguments[0].currentTime = 2", film)
    opened.wait("return !document.querySelector('video').seeking")
    assert opened.run("return arguments[0].currentTime", film) == pytest.approx(
        2, abs=0.1
    )
    opened.run("return arguments[0].play()", film)
    opened.wait(
        "const v = document.querySelector('video');"
        "return !v.paused && v.currentTime > 2.2"
    )
    opened.run("arguments[0].pause()", film)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_and_can_be_read(opened: Page, width: int, dark: bool) -> None:
    opened.look(width, dark=dark)
    choose_plan(opened, "latco_0")
    opened.wait(f"return innerWidth === {width}")
    assert opened.run("return document.documentElement.scrollWidth") <= width
    colours = opened.run(
        "const s = getComputedStyle(document.body);"
        "return [s.color, s.backgroundColor,"
        " getComputedStyle(document.querySelector('#states path')).stroke]"
    )
    text, back, line = (brightness(each) for each in colours)
    assert (text > back) == dark
    assert contrast(text, back) > 7  # WCAG AAA, and of graphics AA
    assert contrast(line, back) > 3
    wanted = PLANNERS["LatCo"][dark]
    rgb = ", ".join(str(int(wanted[i : i + 2], 16)) for i in (1, 3, 5))
    assert f"rgb({rgb})" == colours[2]
    opened.run(
        "const s = document.getElementById('iteration'); s.value = 5;"
        "s.dispatchEvent(new Event('input'))"
    )
    scheme = "dark" if dark else "light"
    if width > 600:
        picture(opened, f"view-{scheme}", "#plan")
    else:
        picture(opened, f"view-phone-{scheme}", "#plan")


@pytest.fixture(scope="module")
def sparse(browser: Page, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page of late rounds, of gaps, and of plans whose episodes ended early."""
    pytest.importorskip("imageio")
    folder = tmp_path_factory.mktemp("sparse")
    logger = RunLogger(folder, tensorboard=False)
    for index, value in enumerate([float("nan"), 3.0, float("nan"), 5.0, 6.0, 7.0]):
        logger.write(12345 + index, 1_234_567 + index, {"train/loss": value})
    early = record_swing_up(dp.ILQR(40, iterations=1))
    replace(early, seen=early.seen[:11]).save(folder / "plans" / "early.npz")
    short = record_swing_up(dp.ILQR(1, iterations=1))
    ended = replace(short, happened=short.happened[:1])
    ended.save(folder / "plans" / "short.npz")
    file = folder / "page.html"
    assert _cli.main(["view", str(folder), "--output", str(file)]) == 0
    browser.look(1200, dark=False)
    browser.driver.get(file.as_uri())
    return browser


def test_whole_numbers_are_told_as_they_are(sparse: Page) -> None:
    from selenium.webdriver.support.ui import Select

    for number, (axis, first) in enumerate((("rounds", 12345), ("steps", 1_234_567))):
        Select(sparse.find("#against")).select_by_value(str(number))
        sparse.wait("return document.querySelector('#metrics svg path')")
        told = sparse.run(
            "const chart = document.querySelector('#metrics svg'), found = [];"
            "const { left, width } = chart.getBoundingClientRect();"
            "for (let i = 0; i < 6; i += 1) {"
            "  const clientX = left + 48 + i * (width - 58) / 5;"
            "  chart.dispatchEvent(new PointerEvent('pointermove', { clientX }));"
            "  found.push(document.getElementById('tip').textContent.split('\\n')[0]);"
            "}"
            "return found"
        )
        assert told == [f"{axis} {first + index}" for index in range(6)]
        text = sparse.find("#metrics svg").text
        assert {str(first), f"{first + 5} {axis}"} <= set(text.splitlines())


def test_a_number_between_gaps_is_a_dot(sparse: Page) -> None:
    (path,) = sparse.paths("#metrics")
    dots = sparse.run(
        "return [...document.querySelectorAll('#metrics circle')]"
        ".map(each => [+each.getAttribute('cx'), +each.getAttribute('cy')])"
    )
    places = [tuple(map(float, p.split())) for p in re.findall(r"[ML]([^ML]+)", path)]
    assert len(places) == 4
    assert dots == [pytest.approx(places[0], abs=0.06)]  # 3, and no part of 5, 6, 7


def test_each_strip_has_its_own_times(sparse: Page) -> None:
    choose_plan(sparse, "early")
    sparse.wait("return document.querySelectorAll('.film')[1].querySelector('span')")
    sparse.wait(
        "return [...document.querySelectorAll('.film span')].every(e => e.style.flex)"
    )
    found = sparse.run(
        "return [...document.querySelectorAll('.film')].map(film => {"
        "  const image = film.querySelector('img');"
        "  const texts = [...film.querySelectorAll('span')];"
        "  return [image.naturalWidth, image.clientWidth,"
        "    texts.map(e => e.textContent),"
        "    texts.map(e => e.getBoundingClientRect().width)];"
        "})"
    )
    for (natural, width, texts, widths), last in zip(found, (40, 8), strict=True):
        assert texts == [f"t = {time}" for time in range(0, last + 1, 4)]
        assert natural == 49 * len(texts) - 1  # pictures of 48 pixels, one between
        assert widths == [pytest.approx(width / len(texts), abs=0.5)] * len(texts)


def test_dots_have_the_colours_of_their_lines(sparse: Page) -> None:
    choose_plan(sparse, "short")
    colours = sparse.run(
        "const of = (e, kind) => getComputedStyle(e)[kind];"
        "const line = k => of(document.querySelector(`#legend path.${k}`), 'stroke');"
        "const dot = k => of(document.querySelector(`#plan circle.${k}`), 'fill');"
        "return ['now', 'answer', 'happened'].map(k => [line(k), dot(k)])"
    )
    assert [dot for _, dot in colours] == [line for line, _ in colours]
    assert len({dot for _, dot in colours}) == 3


def test_nothing_went_wrong_in_the_browser(opened: Page) -> None:
    assert opened.driver.get_log("browser") == []


def brightness(colour: str) -> float:
    """Relative luminance of WCAG 2, of `rgb(…)`."""
    channels = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return sum(
        weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
