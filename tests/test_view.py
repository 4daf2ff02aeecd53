"""`diffplan view` and `diffplan plan`: the page, in a browser that is clicked through.

With `DIFFPLAN_SCREENSHOTS=docs/pictures` the browser leaves the pictures of the docs.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folder import ITERATIONS, write_run

import diffplan as dp
from diffplan import _cli
from diffplan._cli._page import _some, page
from diffplan._colours import PLANNERS, planner_styles
from diffplan.training import load_plan_record

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
    pytest.importorskip("imageio_ffmpeg")
    folder = tmp_path_factory.mktemp("runs") / "cartpole & <i>"
    write_run(folder)
    return folder


def shown(text: str) -> dict[str, Any]:
    """What the page holds."""
    (found,) = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_the_page_holds_the_run_and_nothing_of_it_is_markup(run: Path) -> None:
    text = page(run)
    content = shown(text)
    assert content["title"] == run.name
    assert "<i>" not in text
    assert "cartpole &amp; &lt;i&gt;" in text
    assert not re.search(r"(src|href)=\W?https?:", text)
    assert "seed 7" in content["facts"]
    assert "test/episode_0" not in content["metrics"]
    rows = content["metrics"]["train/grad_norm"]
    assert rows[4] == [4.0, 2500.0, None]
    assert rows[29][2] == pytest.approx(2 + torch.tensor(29.0).cos().item(), rel=1e-4)
    assert [each["name"] for each in content["videos"]] == [
        "round 000029",
        "round 000010",
    ]
    plans = {plan["name"]: plan for plan in content["plans"]}
    record = load_plan_record(run / "plans" / "latco_0.npz")
    told = plans["latco_0"]
    assert told["cost"] == pytest.approx(record.cost.tolist(), rel=1e-5)
    assert told["states"][2][3] == pytest.approx(
        record.states[3, :, 2].tolist(), rel=1e-5
    )
    assert told["happened"][2] == pytest.approx(
        record.happened[:, 2].tolist(), rel=1e-5
    )
    assert tuple(told["colour"]) == PLANNERS["LatCo"]


def test_every_planner_has_a_colour_of_its_own() -> None:
    planners = {name for name in dp.planners.__all__ if hasattr(dp, name)}
    planners = {n for n in planners if isinstance(getattr(dp, n), type)} - {"Planner"}
    assert set(PLANNERS) == planners
    assert len({shade for pair in PLANNERS.values() for shade in pair}) == 2 * len(
        PLANNERS
    )


def test_planners_are_found_in_names_and_their_variants_told_apart() -> None:
    styles = planner_styles(
        *("LatCo", "latco_duals", "Grad-MPC", "PlaNet (CEM)", "dcem", "random"),
        *("Shooting GD, many starts", "latco_first_order", "iLQR", "still"),
    )
    colours = [PLANNERS[name][0] for name in ("LatCo", "GradMPC", "CEM", "DCEM")]
    latco, gradient, cem, dcem = colours
    assert styles[:5] == [
        *((latco, "-"), (latco, "--"), (gradient, "-"), (cem, "-"), (dcem, "-"))
    ]
    assert styles[6] == (PLANNERS["ShootingGD"][0], "-")
    assert styles[7] == (latco, ":")
    assert styles[8] == (PLANNERS["ILQR"][0], "-")
    assert styles[5][0] == styles[9][0] not in colours
    assert len(set(styles)) == len(styles)


def test_videos_are_chosen_evenly_with_the_last() -> None:
    files = [Path(str(index)) for index in range(11)]
    assert [int(file.name) for file in _some(files, 3)] == [10, 5, 0]
    assert [int(file.name) for file in _some(files, 1)] == [10]
    assert _some(files, 0) == []
    assert len(_some(files, 20)) == 11


def test_what_cannot_be_shown_is_an_error(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*given: object) -> tuple[int, str]:
        status = _cli.main(["view", *map(str, given)])
        return status, capsys.readouterr().err

    out = ("--output", tmp_path / "page.html")
    assert told(tmp_path / "none", *out)[0] == 64
    status, text = told(tmp_path, *out)
    assert status == 64
    assert "expected metrics.csv, videos or plans" in text
    assert told(run, "--videos", "-1", *out)[0] == 64
    assert told(run, "--port", "70000")[0] == 64
    (tmp_path / "metrics.csv").write_text("no,such,table\n1,2,3\n")
    status, text = told(tmp_path, *out)
    assert status == 1
    assert "metrics of a run" in text
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "cut.npz").write_bytes(b"PK")
    status, text = told(tmp_path, *out)
    assert status == 1
    assert "cut.npz" in text
    assert not out[1].exists()


def test_a_plan_alone_is_a_page(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "plans" / "latco_0.npz", tmp_path / "mine.npz")
    for given in (tmp_path, tmp_path / "mine.npz"):
        out = tmp_path / "page.html"
        assert _cli.main(["view", str(given), "--output", str(out)]) == 0
        (plan,) = shown(out.read_text(encoding="utf-8"))["plans"]
        assert plan["name"] == "mine"


def test_the_page_is_served_to_this_machine_until_interrupted(run: Path) -> None:
    command = [sys.executable, "-m", "diffplan", "view", str(run), "--no-browser"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DIFFPLAN_TYPECHECK": "0"}
    # In the background of a shell that gives it to nobody, Ctrl-C is ignored.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, text=True, preexec_fn=heard
    ) as served:
        try:
            address = served.stdout.readline().split()[0]
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address) as answer:
                assert shown(answer.read().decode())["title"] == run.name
            for path, host in (("favicon.ico", "127.0.0.1:1"), ("", "evil.example:80")):
                asked = urllib.request.Request(address + path, headers={"Host": host})
                with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                    urllib.request.urlopen(asked)
                refused.value.close()
        finally:
            served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0


def test_a_plan_of_a_trained_run_goes_to_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gymnasium")
    folder = tmp_path / "run"
    given = [
        f"training.{name}"
        for name in (
            *("rounds=0", "seed_episodes=1", "pretrain_updates=1", "batch_size=2"),
            *("sequence_length=5", "evaluate_every=0", "keep_best=false"),
        )
    ]
    small = [*given, "scale_episodes=0", "model.belief_size=8", "model.state_size=4"]
    train = ["train", "Pendulum-v1", *small, "--directory", str(folder), "--quiet"]
    assert _cli.main(train) == 0
    words = ["planner=latco", "planner.iterations=4", "horizon=6"]
    assert _cli.main(["plan", str(folder), *words, "--seed", "3"]) == 0
    path = folder / "plans" / "latco_3.npz"
    assert str(path) in capsys.readouterr().out
    record = load_plan_record(path)
    assert record.states.shape == (5, 7, 12)
    assert record.happened.shape == (7, 12)
    # What both begin with is what the filter made of the first observation.
    assert (record.happened[0] == record.states[:, 0]).all()
    # Pendulum pays at most nothing.
    assert (record.rewards < 0).all()
    assert [each["name"] for each in shown(page(folder))["plans"]] == ["latco_3"]
    assert _cli.main(["plan", str(folder), "--name", "../there"]) == 64
    assert _cli.main(["plan", str(folder), "horizont=3"]) == 64
    assert _cli.main(["plan", str(tmp_path)]) == 1


# In a browser


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
