#!/usr/bin/env bash
# Makes what this folder holds of the default checkpoint, but for the pictures of examples/README.md, which examples.py makes.
# ATTNMAP, PYTHON (with Pillow) and CHROMIUM name the programs. Look at every picture before it is committed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
attnmap=${ATTNMAP:-attnmap} python=${PYTHON:-python} chromium=${CHROMIUM:-chromium}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

keep() { "$python" "$here/keep.py" "$@"; }

# shoot PAGE SIZE OUT [LEFT,TOP,RIGHT,BOTTOM]: a screenshot, or a part of it.
shoot() {
  rm -f shot.png; [ -f "${1%%#*}" ]
  "$chromium" --headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars --user-data-dir="$place/browser" \
    --virtual-time-budget=5000 --window-size="$2" --screenshot=shot.png "file://$place/$1" 2>/dev/null
  keep shot.png "$3" "${4:-}"
}

prompt="a red apple to the left of a blue heart on the beach"
"$attnmap" generate "$prompt" -q >/dev/null
"$attnmap" explain --words apple -q >/dev/null
cp outputs/*/counterfactual/*-without-apple-strip.png "$here/features/without-apple.png"
"$attnmap" generate "a green apple to the left of a blue heart on the beach" -q >/dev/null
"$attnmap" compare -q >/dev/null
shoot "outputs/compare.html#pair=9" 1000,640 "$here/features/compare.png"
"$attnmap" gallery --prompt "a red apple to the left of a (blue heart:0.6) on the beach" --emphasis --seeds 0..8 --out gallery -q >/dev/null
shoot "gallery/index.html#word=blue&size=210" 940,620 "$here/features/gallery.png"

"$attnmap" generate "$prompt" --overlay-size 256 --out apple-and-heart -q >/dev/null
"$attnmap" explain apple-and-heart -q >/dev/null
cp apple-and-heart/{report.html,words.png,image.png,run.json,evidence.json} "$here/apple-and-heart/"
shoot "apple-and-heart/report.html" 1280,800 "$here/report.png"
shoot "apple-and-heart/report.html#w=heart&box=6,40,46,44" 1000,900 "$here/features/cause.png" 0,118,1000,600
"$attnmap" generate "$prompt" --seed 3 --keep-queries --out score -q >/dev/null
shoot "score/report.html#word=apple&at=8:3" 448,6000 "$here/features/score.png" 0,2338,448,2766

"$attnmap" generate "$prompt" --keep-steps --out moving -q >/dev/null
"$attnmap" animate moving --words heart -q >/dev/null
"$attnmap" explain moving --words apple,heart --counterfactual -q >/dev/null
"$python" "$here/moving.py" moving "$here/moving.gif"

# The pictures of docs/.
cp -r "$here/../../examples/captioned" .
# A run's image with a text as AUTOMATIC1111's web UI writes it.
"$attnmap" generate "$prompt" --seed 3 --out fruit -q >/dev/null
"$python" - fruit/image.png "$here/../../examples/pictures/web-ui.png" <<'PY'
import sys
from PIL import Image
from PIL.PngImagePlugin import PngInfo

texts = PngInfo()
texts.add_text("parameters", (
    "a (red:1.2) apple to the left of a blue heart on the beach <lora:style:0.8>\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 7, Size: 128x128, Model hash: 6ce0161689, "
    "Model: v1-5-pruned-emaonly, Clip skip: 2, Version: v1.10.1"
))
Image.open(sys.argv[1]).convert("RGB").save(sys.argv[2], pnginfo=texts, optimize=True)
PY
"$attnmap" trace "$here/../../examples/pictures/web-ui.png" --out metadata -q >/dev/null
shoot "metadata/report.html#word=heart" 1000,835 "$here/features/metadata.png"
"$attnmap" gallery --prompt "a red apple to the left of a (blue heart:0.6) on the beach" --emphasis --seeds 0..8 \
  --expect "heart@0.5,0,0.5,0.5" --out expected -q >/dev/null || [ $? = 3 ]
shoot "expected/index.html#rows=expected&size=88" 1000,400 "$here/features/expected.png"
"$attnmap" gallery --prompt "$prompt" --seeds 2..7 --without each --out without -q >/dev/null
shoot "without/index.html#size=110" 860,1010 "$here/features/without-each.png"
"$attnmap" trace captioned --out coverage -q >/dev/null
shoot "coverage/coverage.html" 1000,700 "$here/features/coverage.png" 0,0,1000,640
"$attnmap" generate "a red apple to the left of a blue heart, on the beach, at the beach" --seed 3 --by tag --out tags -q >/dev/null
"$attnmap" explain tags -q >/dev/null
keep tags/counterfactual/without-dead-tags.png "$here/features/dead-tags.png"
"$attnmap" generate "$prompt" --out beyond -q >/dev/null
"$attnmap" attribute beyond --word heart -q >/dev/null
"$attnmap" components beyond -q >/dev/null
keep beyond/components.png "$here/features/components.png" "" 1000
# The part of the page that `attribute` adds.
shoot "beyond/report.html" 640,4600 "$here/features/attribute.png" 0,3030,640,3570
"$attnmap" lens "$prompt" --out lens -q >/dev/null
keep lens.png "$here/features/lens.png" "" 640
