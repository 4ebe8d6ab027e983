#!/usr/bin/env bash
# Makes what this folder holds of the default checkpoint, but for features/ of examples/README.md.
# ATTNMAP, PYTHON (with Pillow) and CHROMIUM name the programs. Look at every picture before it is committed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
attnmap=${ATTNMAP:-attnmap} python=${PYTHON:-python} chromium=${CHROMIUM:-chromium}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

# shoot PAGE SIZE PICTURE: a screenshot, in 256 colours.
shoot() {
  "$chromium" --headless --no-sandbox --disable-gpu --no-first-run --user-data-dir="$place/browser" \
    --virtual-time-budget=5000 --window-size="$2" --screenshot=shot.png "file://$place/$1" 2>/dev/null
  "$python" - shot.png "$3" <<'PY'
import sys
from PIL import Image

picture = Image.open(sys.argv[1]).convert("RGB")
picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(sys.argv[2], optimize=True)
PY
}

prompt="a red apple to the left of a green frog on the beach"
"$attnmap" generate "$prompt" -q >/dev/null
"$attnmap" explain --words apple -q >/dev/null
cp outputs/*/counterfactual/*-without-apple-strip.png "$here/features/without-apple.png"
"$attnmap" generate "a green apple to the left of a green frog on the beach" -q >/dev/null
"$attnmap" compare -q >/dev/null
shoot "compare.html#pair=9" 1000,640 "$here/features/compare.png"
"$attnmap" gallery --prompt "a red apple to the left of a (green frog:0.6) on the beach" --emphasis --seeds 0..8 -q >/dev/null
shoot "gallery/index.html#word=apple&size=210" 940,620 "$here/features/gallery.png"

"$attnmap" generate "$prompt" --overlay-size 256 --out frog-and-apple -q >/dev/null
"$attnmap" explain frog-and-apple -q >/dev/null
cp frog-and-apple/{report.html,words.png,image.png,run.json,evidence.json} "$here/frog-and-apple/"
shoot "frog-and-apple/report.html" 1280,800 "$here/report.png"

"$attnmap" generate "$prompt" --keep-steps --out moving -q >/dev/null
"$attnmap" animate moving --words frog -q >/dev/null
"$attnmap" explain moving --words apple,frog --counterfactual -q >/dev/null
"$python" "$here/moving.py" moving "$here/moving.gif"
