// What a place is tied to by the UNet's self-attention, a map a resolution; only where the run kept
// it.
const tiesOn = () => RUN.ties[S.ties] || null;
let tiedCache = {key: '', place: null};

// The map of the pinned box or the point under the pointer at the chosen resolution. It is the mean
// of its cells' rows, which sums to 1.
function tiedMap() {
  const ties = tiesOn();
  const box = S.box || S.probe;
  if (!ties || !box) return null;
  const {height: H, width: W} = ties;
  const kx = W / RUN.image.width;
  const ky = H / RUN.image.height;
  // A point is the cell it lies in; a box takes each cell by how much of it is covered.
  const point = box.w <= 1 && box.h <= 1;
  const x0 = point ? Math.floor(box.x * kx) : box.x * kx;
  const x1 = point ? x0 + 1 : (box.x + box.w) * kx;
  const y0 = point ? Math.floor(box.y * ky) : box.y * ky;
  const y1 = point ? y0 + 1 : (box.y + box.h) * ky;
  const key = [S.ties, x0, y0, x1, y1].join();
  if (tiedCache.key === key) return tiedCache.place;
  const map = new Float32Array(H * W);
  let mass = 0;
  for (let y = Math.max(0, Math.floor(y0)); y < Math.min(H, Math.ceil(y1)); y++) {
    for (let x = Math.max(0, Math.floor(x0)); x < Math.min(W, Math.ceil(x1)); x++) {
      const part = (Math.min(y + 1, y1) - Math.max(y, y0)) * (Math.min(x + 1, x1) - Math.max(x, x0));
      addInto(map, plane(ties.block, y * W + x), part);
      mass += part;
    }
  }
  for (let i = 0; i < map.length; i++) map[i] /= mass;
  tiedCache = {key, place: {key, map, ties, max: maxOf(map)}};
  return tiedCache.place;
}

function tiedInWords() {
  const ties = tiesOn();
  const box = S.box || S.probe;
  const place = !box
    ? 'Point at the image: what a place'
    : box.w > 1 || box.h > 1
      ? 'What the box ' + box.w + ' × ' + box.h + ' at ' + box.x + ', ' + box.y
      : 'What pixel ' + box.x + ', ' + box.y;
  return [
    place + ' is tied to',
    '. Self-attention at ' +
      sizeOf(ties) +
      ', the mean of ' +
      plural(ties.sites, 'layer') +
      ', all heads and steps. It says what looks alike or belongs together to the network, not why.',
  ];
}

// The way into the mode, and the bar that it has in place of the toolbar, with the way out.
function tiesButton() {
  if (!RUN.ties.length) return null;
  return el('button', {
    class: 'quiet',
    type: 'button',
    text: 'Tied to a place',
    title: 'Show what the place under the pointer, or the kept one, is tied to by self-attention',
    onclick: () => set({ties: RUN.ties.length - 1, show: 'looked'}),
  });
}
function tiesBar() {
  if (!RUN.ties.length) return null;
  const sizes = choice(
    'Grid',
    'ties',
    RUN.ties.map((ties, i) => [String(i), sizeOf(ties)]),
    String(S.ties),
    (v) => set({ties: Number(v)}),
  );
  const out = el('button', {class: 'quiet', type: 'button', text: 'Back to the words', onclick: () => set({ties: -1})});
  const bar = el('div', {class: 'tied'}, el('b', {text: 'Tied to this place'}), sizes, out);
  listeners.push(() => {
    bar.hidden = !tiesOn();
    sizes.show(String(S.ties));
  });
  return bar;
}
