"""The page of every family's runs in a real browser: the right words on the right grid, square and not."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import attnmap
import pytest
import torch
from tiny import PIPELINES, build

PROMPT = "A red apple to the left of a green frog"

#: What the page shows: its words, its grids (height before width), and what it complained of.
SHOWN = """
return [
  [...document.querySelectorAll('.prompt .word .text')].map((word) => word.textContent),
  [...new Set(document.querySelector('.layers').innerText.match(/\\d+×\\d+/g))],
  document.documentElement.dataset.ready,
];
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Iterator[Callable[[attnmap.Run], Any]]:
    """Opens a run's page and returns what it shows."""
    if shutil.which("chromedriver") is None:
        pytest.skip("there is no chromedriver")
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    line = next(line for line in driver.stdout if "successfully" in line)
    address = f"http://127.0.0.1:{line.strip().rstrip('.').split()[-1]}/session"

    def ask(path: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address + path, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    profile = tmp_path_factory.mktemp("browser")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,800", f"--user-data-dir={profile}"]
    wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
    session = "/" + ask("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def open_page(run: attnmap.Run) -> Any:
        ask(session + "/url", {"url": run.report.resolve().as_uri()})
        for _ in range(600):
            found = ask(session + "/execute/sync", {"script": SHOWN, "args": []})
            if found[2] == "true":
                break
            time.sleep(0.05)
        assert ask(session + "/se/log", {"type": "browser"}) == [], "the page has nothing to complain of"
        return found

    try:
        yield open_page
    finally:
        ask(session, None, "DELETE")
        driver.terminate()
        driver.wait()


@pytest.mark.parametrize("name", PIPELINES)
def test_a_page_has_the_words_and_the_grid(name, shown, tmp_path):
    pipe, arguments = build(name)
    arguments |= {"num_inference_steps": 1}
    with attnmap.record(pipe) as recorder:
        for width in (arguments["width"], arguments["height"]):
            pipe(prompt=PROMPT, generator=torch.Generator().manual_seed(3), **arguments | {"width": width})
    wide, square = recorder.save(tmp_path)
    for run, recording in zip((wide, square), recorder.recordings):
        words, grids, ready = shown(run)
        assert ready == "true" and words == PROMPT.split()
        # The page writes sizes as --resolution wants them: width first.
        expected = {f"{width}×{height}" for height, width in (site.grid for site in recording.sites.values())}
        assert set(grids) == expected
        assert all((grid.split("×")[0] == grid.split("×")[1]) == (run is square) for grid in grids), grids
