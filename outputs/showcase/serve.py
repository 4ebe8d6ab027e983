"""Makes `features/serve.png`: the page of `attnmap serve`, where a changed word is compared with the run before.

    cargo build --release
    python outputs/showcase/serve.py target/release/attnmap outputs/showcase/features/serve.png

Needs Chromium with its driver, and Pillow. The server is used as a user would: a prompt is typed, Ctrl+Enter makes its image, a word is
changed, and Ctrl+Enter makes the image that is compared.
"""

import base64
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image

PROMPTS = ("a red apple to the left of a blue heart on the beach", "a green apple to the left of a blue heart on the beach")
WIDTH, HEIGHT = 1280, 812
CONTROL, ENTER = "\ue009", "\ue007"
#: The run is whole, and the comparison is drawn.
MADE = """const b = document.querySelector('.picture.b');
return b.dataset.step === 'whole' && document.querySelectorAll('.history li').length === arguments[0]"""
COMPARED = "return document.querySelector('.between').dataset.compared.includes('|')"


class Browser:
    """Chromium by its WebDriver."""

    def __init__(self, folder: str, dark: bool = False, width: int = WIDTH, height: int = HEIGHT):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        line = next(line for line in self.driver.stdout if "port" in line and "success" in line)
        port = line.strip().rstrip(".").split()[-1]
        self.address = f"http://127.0.0.1:{port}/session"
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}", f"--user-data-dir={folder}"]
        # Device metrics of its own: a headless window may not be narrower than 500 pixels.
        emulated = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1, "mobile": False}}
        chosen = {"args": options + ["--force-dark-mode"] * dark, "mobileEmulation": emulated}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": chosen}}
        self.address += "/" + self.ask("", {"capabilities": capabilities})["sessionId"]

    def ask(self, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["value"]

    def run(self, script: str, *arguments):
        return self.ask("/execute/sync", {"script": script, "args": arguments})

    def wait(self, script: str, *arguments, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not self.run(script, *arguments):
            if time.monotonic() > end:
                raise SystemExit(f"waited in vain for {script}")
            time.sleep(0.05)

    def keys(self, *keys: str) -> None:
        """Presses keys where the focus is; a list of several holds all but the last."""
        down = [{"type": "keyDown", "value": key} for key in keys]
        up = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        self.ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": down + up}]})

    def type(self, text: str) -> None:
        for key in text:
            self.keys(key)

    def screenshot(self, file: str | Path) -> None:
        """Writes what is in the window as a PNG of 256 colours, which is a quarter of the size."""
        picture = Image.open(io.BytesIO(base64.b64decode(self.ask("/screenshot")))).convert("RGB")
        picture.quantize(palette=picture.quantize(256), dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)

    def close(self) -> None:
        request = urllib.request.Request(self.address, method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()
        self.driver.terminate()
        self.driver.wait()


def main(program: str, file: str) -> None:
    program = str(Path(program).resolve())
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "serve", "--quiet", "--out", f"{folder}/outputs"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        browser = Browser(f"{folder}/browser")
        try:
            browser.ask("/url", {"url": server.stdout.readline().strip()})
            for made, prompt in enumerate(PROMPTS, 1):
                browser.run("const p = document.getElementById('prompt'); p.focus(); p.select()")
                browser.type(prompt)
                browser.keys(CONTROL, ENTER)
                browser.wait(MADE, made)
            browser.wait(COMPARED)
            # The word that is looked at in both.
            browser.run("[...document.querySelectorAll('.words .word')].find((w) => w.dataset.word.startsWith('heart')).click()")
            browser.run("document.activeElement.blur(); scrollTo(0, 0)")
            time.sleep(1)
            browser.screenshot(file)
        finally:
            browser.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
