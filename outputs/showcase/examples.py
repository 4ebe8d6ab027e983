"""Makes the pictures of examples/README.md: runs its commands in a folder of their own, and sets images beside maps of words.

    ATTNMAP=target/release/attnmap python outputs/showcase/examples.py

CHROMIUM names the browser for `lora.png`. Look at every picture before it is committed.
"""
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from keep import keep
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FEATURES = HERE / "features"
ATTNMAP = os.path.abspath(shutil.which(os.environ.get("ATTNMAP", "attnmap")) or "attnmap")
CHROMIUM = os.environ.get("CHROMIUM", "chromium")
# A picture's run, and the word whose map stands beside the image.
PAIRS = {
    "emphasis": ("emphasis", "heart"),
    "chunks": ("chunks", "heart"),
    "negative": ("negative-words", "apple"),
    "init": ("init", "apple-2"),
    "mask": ("mask", "penguin"),
    "look": ("look", "lion"),
    "probe": ("probe", "probe-penguin"),
    "word": ("word", "granny-smith"),
}


def beside(files: list[Path], name: str, side: int) -> None:
    """Pictures of one height, 8 pixels apart on white."""
    pictures = [Image.open(file).convert("RGB") for file in files]
    pictures = [picture.resize((picture.width * side // picture.height, side), Image.Resampling.LANCZOS) for picture in pictures]
    sheet = Image.new("RGB", (sum(p.width for p in pictures) + 8 * (len(pictures) - 1), side), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + 8
    keep(sheet, FEATURES / name)


def overlay(run: str, word: str) -> Path:
    [file] = [file for file in Path("outputs", run, "overlays").glob("*.png") if file.stem.split("-", 1)[1] == word]
    return file


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples", Path(folder, "examples"))
        shutil.copytree(ROOT / "tests/data/scenes/final", Path(folder, "tests/data/scenes/final"))
        os.chdir(folder)
        for line in Path("examples/README.md").read_text().splitlines():
            if line.startswith("attnmap "):
                subprocess.run([ATTNMAP, *shlex.split(line)[1:]], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name, (run, word) in PAIRS.items():
            beside([Path("outputs", run, "image.png"), overlay(run, word)], f"{name}.png", 224)
        beside([Path("outputs/fruit/image.png"), overlay("fruit", "probe-penguin"), overlay("fruit", "probe-sunflower")], "asked.png", 256)
        beside([Path("outputs/fruit/image.png"), Path("outputs/regions/regions/00-heart.png"), Path("outputs/replaced/image.png")], "regions.png", 256)
        keep(Image.open("outputs/fruit/versus/apple-heart.png"), FEATURES / "versus.png", widest=720)
        keep(Image.open("outputs/why/why/penguin-words.png"), FEATURES / "why.png", widest=1100)
        subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", f"--user-data-dir={folder}/browser",
             "--virtual-time-budget=5000", "--window-size=1000,660", "--screenshot=shot.png", f"file://{folder}/outputs/lora.html"],
            check=True, stderr=subprocess.DEVNULL)  # fmt: skip
        keep(Image.open("shot.png"), FEATURES / "lora.png")


if __name__ == "__main__":
    main()
