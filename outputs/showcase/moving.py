"""Makes `moving.gif` of a run's own pictures: the image forming beside the map of a word, words, and the image without a word.

    attnmap generate "a red apple to the left of a blue heart on the beach" --keep-steps --out moving
    attnmap animate moving --words heart
    attnmap explain moving --words apple,heart --counterfactual
    python outputs/showcase/moving.py moving outputs/showcase/moving.gif

Needs Pillow.
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, TOP, BOTTOM = 288, 16, 54, 40
FONT = str(Path(__file__).parents[2] / "src/render/fonts/NotoSans-Regular.ttf")
GROUND, TEXT, SOFT, LIT = (23, 22, 26), (235, 235, 235), (160, 160, 165), (255, 176, 92)


def panel(picture):
    """A picture at the size of its place; what an animation writes below its square is left out."""
    square = picture.convert("RGB").crop((0, 0, picture.width, picture.width))
    return square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def frame(words, lit, struck, left, right, says):
    """One frame: the prompt with a word lit or struck through, two pictures, and what they are."""
    canvas = Image.new("RGB", (2 * SIDE + 3 * GAP, TOP + SIDE + BOTTOM), GROUND)
    draw, font, small = ImageDraw.Draw(canvas), ImageFont.truetype(FONT, 22), ImageFont.truetype(FONT, 15)
    x, y = GAP, 8
    for at, word in enumerate(words):
        width = draw.textlength(word, font)
        if x + width > canvas.width - GAP:
            x, y = GAP, y + 30
        draw.text((x, y), word, LIT if at == lit else SOFT if at == struck else TEXT, font)
        if at == lit:
            draw.line((x, y + 29, x + width, y + 29), LIT, 2)
        if at == struck:
            draw.line((x, y + 17, x + width, y + 17), LIT, 2)
        x += width + draw.textlength(" ", font)
    for at, (picture, text) in enumerate(zip((left, right), says)):
        place = GAP + at * (SIDE + GAP)
        canvas.paste(panel(picture), (place, TOP))
        draw.text((place, TOP + SIDE + 10), text, SOFT, small)
    return canvas


def main(run, out):
    run = Path(run)
    record = json.loads((run / "run.json").read_text())
    words = [word["text"] for word in record["words"]]
    plain = [word.split("#")[0] for word in words]
    heart = words.index("heart")
    image = Image.open(run / "image.png")
    overlay = {w: Image.open(next((run / "overlays").glob(f"*-{w}.png"))) for w in ("apple", "heart", "on", "a")}
    moving = Image.open(next((run / "animations").glob("*-heart.apng")))
    steps = sorted((run / "steps").glob("*.png"))
    frames = []
    for at in range(0, len(steps), 2):
        moving.seek(at + moving.n_frames - len(steps))
        step = int(steps[at].stem)
        says = f"the image at step {step} of {len(steps)}", "where the model looks for heart"
        frames.append((frame(plain, heart, None, Image.open(steps[at]), moving.copy(), says), 160))
    for word in ("heart", "apple", "on", "a"):
        says = "the image", f"where the model looked for {word}"
        frames.append((frame(plain, words.index(word), None, image, overlay[word], says), 1100))
    for word in ("apple", "heart"):
        without = Image.open(next((run / "counterfactual").glob(f"*-without-{word}.png")))
        says = "the image", f"the same seed without {word}"
        frames.append((frame(plain, None, words.index(word), image, without, says), 1800))
    colours = [f.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG) for f, _ in frames]
    colours[0].save(out, save_all=True, append_images=colours[1:], duration=[d for _, d in frames], loop=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
