"""report.html in headless Chromium: layout, sorting, viewer, keyboard, and no console errors.

The tests use Chromium's debugging pipe (file descriptors 3 and 4, JSON messages that end with a zero byte), so no
driver has to be installed. They are skipped without Chromium.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.all import make_all
from analysis.report import render
from analysis.run_data.run_folder import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
    pytest.mark.integration,
]


class Page:
    """A page in a browser process."""

    def __init__(self, profile: Path) -> None:
        to_browser, from_browser = os.pipe(), os.pipe()
        command = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
        arguments = ["bash", "-c", command, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            arguments, pass_fds=(to_browser[0], from_browser[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self.output, self.input = os.fdopen(to_browser[1], "wb"), os.fdopen(from_browser[0], "rb")
        self.number, self.session, self.buffer = 0, "", b""
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.output.write(json.dumps(message).encode() + b"\0")
        self.output.flush()
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            block = os.read(self.input.fileno(), 65536)
            assert block, "the browser has exited"
            self.buffer += block
        raw, _, self.buffer = self.buffer.partition(b"\0")
        event = json.loads(raw)
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.problems.append(str(parameters["args"]))
        if method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(parameters["entry"]["text"])
        if method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith(
            ("file:", "data:", "about:")
        ):
            self.problems.append(f"request to {parameters['request']['url']}")
        return event

    def open(self, path: Path, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=path.as_uri())
        while self.receive().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: str = "", modifiers: int = 0, text: str = "") -> None:
        codes = {"Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, "Tab": 9}
        common = {"key": key, "code": code or key, "modifiers": modifiers, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def close(self) -> None:
        self.output.close()
        self.process.terminate()
        self.process.wait(timeout=30)
        self.input.close()


@pytest.fixture(scope="module")
def report(synthetic_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run = Run.open(synthetic_run)
    make_all(run, folder / "analysis", ("results_table", "scenario_breakdown", "training_curves", "parameter_deltas"))
    path = folder / "report.html"
    path.write_text(render(run, folder / "analysis"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser = Page(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize(("width", "height"), [(400, 844), (1200, 900)])
def test_page_fits_its_window_and_makes_no_request(page: Page, report: Path, width: int, height: int) -> None:
    page.open(report, width, height)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
    assert page.evaluate("document.images.length") >= 4
    items = "[...document.images, ...document.querySelectorAll('#summary table')]"
    cut = f"{items}.filter(item => item.getBoundingClientRect().right > innerWidth)"
    assert page.evaluate(f"{cut}.length") == 0, "a figure or the summary table is wider than the window"
    assert page.evaluate(
        "[...document.querySelectorAll('#summary .scroll')].every(box => box.scrollWidth <= box.clientWidth)"
    )
    assert page.problems == []


def test_heading_sorts_its_table_by_number_with_the_keyboard(page: Page, report: Path) -> None:
    page.open(report, 1280, 900)
    column = "[...document.querySelectorAll('#summary tbody tr')].map(row => parseFloat(row.cells[1].dataset.value))"
    page.evaluate("document.querySelectorAll('#summary th button')[1].focus()")
    page.press("Enter", text="\r")
    ascending = page.evaluate(column)
    assert ascending == sorted(ascending)
    assert page.evaluate("document.querySelectorAll('#summary thead th')[1].getAttribute('aria-sort')") == "ascending"
    page.press("Enter", text="\r")
    assert page.evaluate(column) == sorted(ascending, reverse=True)
    assert len(set(ascending)) > 2
    assert page.problems == []


def test_viewer_shows_both_policies_and_steps_with_the_keyboard(page: Page, report: Path) -> None:
    page.open(report, 1280, 900)
    assert page.evaluate("document.getElementById('left').value") == "start"
    assert page.evaluate("document.getElementById('right').value") == "grpo"
    first = page.evaluate("document.getElementById('question').textContent")
    page.evaluate("document.getElementById('environment').focus()")
    page.press("ArrowRight", modifiers=1)
    assert page.evaluate("document.getElementById('environment').selectedIndex") == 1
    assert page.evaluate("document.getElementById('question').textContent") != first
    page.press("ArrowLeft", modifiers=1)
    assert page.evaluate("document.getElementById('question').textContent") == first
    assert page.evaluate("document.querySelectorAll('#left-turns .turn').length") > 0
    assert page.evaluate("document.querySelectorAll('#right-turns .turn').length") > 0
    assert "reward" in page.evaluate("document.querySelector('#right-turns .turn h4').textContent")
    assert page.problems == []


def test_viewer_colors_every_kind_of_call_and_filters_by_scenario(page: Page, report: Path) -> None:
    page.open(report, 1280, 900)
    seen: set[str] = set()
    count = page.evaluate("document.getElementById('environment').options.length")
    for _ in range(count):
        found = page.evaluate("[...document.querySelectorAll('.turn .call')].map(call => call.className.split(' ')[1])")
        seen |= set(found)
        page.evaluate("document.getElementById('next').click()")
    assert seen == {"solved", "useless", "failed"}
    page.evaluate(
        "const s = document.getElementById('scenario'); s.value = 'multi_hop'; s.dispatchEvent(new Event('change'))"
    )
    assert page.evaluate("document.getElementById('environment').options.length") == count // 4
    assert page.problems == []


def test_print_shows_tables_and_keeps_figures_whole(page: Page, report: Path, tmp_path: Path) -> None:
    page.open(report, 1280, 900)
    pdf = base64.b64decode(page.call("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open]):not(.long)').length") == 0
    assert page.evaluate("document.querySelectorAll('details.long[open]').length") == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('section > details[open]').length") == 0
    assert page.problems == []
