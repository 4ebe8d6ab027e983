// A on the left, B on the right, and both in one place between them.
const sizeOf = ({width, height}) => ({
  W: Math.round(512 * Math.min(1, width / height)),
  H: Math.round(512 * Math.min(1, height / width)),
});
// The pixels of a run's image at the size of the pictures, once for each.
const pixels = new WeakMap();
function sample(side) {
  if (!pixels.has(side.picture)) {
    const {W, H} = sizeOf(side);
    pixels.set(side.picture, pixelsOf(side.picture, W, H));
  }
  return pixels.get(side.picture);
}
const grown = (side, map) => {
  const {W, H} = sizeOf(side);
  const [h, w] = side.grid;
  return bicubic(map, h, w, H, W);
};

// A place is marked by dragging, or by arrows: they move the box, with shift they make it larger or
// smaller.
function boxOn(frame) {
  const box = el('i', {class: 'boxed', hidden: true});
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const at = (event) => {
    const r = frame.getBoundingClientRect();
    return {x: clamp((event.clientX - r.left) / r.width, 0, 1), y: clamp((event.clientY - r.top) / r.height, 0, 1)};
  };
  let from = null;
  frame.addEventListener('pointerdown', (event) => {
    if (event.button === 0) {
      from = at(event);
      try {
        frame.setPointerCapture(event.pointerId);
      } catch {
        /* the pointer is gone */
      }
    }
  });
  frame.addEventListener('pointermove', (event) => {
    if (!from) return;
    const to = at(event);
    const next = {
      x: Math.min(from.x, to.x),
      y: Math.min(from.y, to.y),
      w: Math.abs(to.x - from.x),
      h: Math.abs(to.y - from.y),
    };
    if (Math.max(next.w, next.h) > 0.02) set({box: next});
  });
  frame.addEventListener('pointerup', (event) => {
    if (from) {
      const to = at(event);
      if (Math.max(Math.abs(to.x - from.x), Math.abs(to.y - from.y)) <= 0.02) set({box: null});
    }
    from = null;
  });
  frame.addEventListener('pointercancel', () => {
    from = null;
  });
  frame.addEventListener('keydown', (event) => {
    const move = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]}[event.key];
    if (event.key === 'Escape' && S.box) set({box: null});
    else if (move && !event.ctrlKey && !event.altKey && !event.metaKey) {
      const by = 1 / 16;
      const b = S.box || {x: 0.375, y: 0.375, w: 0.25, h: 0.25};
      set({
        box: event.shiftKey
          ? {...b, w: clamp(b.w + by * move[0], by, 1 - b.x), h: clamp(b.h + by * move[1], by, 1 - b.y)}
          : {...b, x: clamp(b.x + by * move[0], 0, 1 - b.w), y: clamp(b.y + by * move[1], 0, 1 - b.h)},
      });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  listeners.push(() => {
    box.hidden = !S.box;
    if (S.box)
      Object.assign(box.style, {
        left: 100 * S.box.x + '%',
        top: 100 * S.box.y + '%',
        width: 100 * S.box.w + '%',
        height: 100 * S.box.h + '%',
      });
  });
  return box;
}
// The mean of a map within the box, cells counted by how much of them lies in it.
function within(side, map) {
  const [h, w] = side.grid;
  const {x, y, w: bw, h: bh} = S.box;
  let sum = 0;
  let area = 0;
  for (let r = 0; r < h; r++)
    for (let c = 0; c < w; c++) {
      const across = Math.max(0, Math.min((c + 1) / w, x + bw) - Math.max(c / w, x));
      const down = Math.max(0, Math.min((r + 1) / h, y + bh) - Math.max(r / h, y));
      sum += across * down * map[r * w + c];
      area += across * down;
    }
  return area > 0 ? sum / area : 0;
}

// One run's image under the map of the lit word.
function picture(which) {
  const name = which.toUpperCase();
  const canvas = el('canvas', {role: 'img'});
  const caption = el('figcaption', {});
  const bar = el('progress', {max: 1, hidden: true, 'aria-label': 'Steps of the run'});
  const frame = el(
    'div',
    {class: 'frame', tabIndex: 0, role: 'group', 'aria-label': `Picture ${name}: arrows mark a box, Escape frees it`},
    canvas,
  );
  frame.append(boxOn(frame));
  const figure = el('figure', {class: 'picture ' + which}, frame, bar, caption);
  listeners.push(() => {
    const side = which === 'b' ? shownB() : S.a;
    const at = wordIn(which);
    const map = mapOf(side, at);
    frame.classList.toggle('empty', !side || !side.picture);
    bar.hidden = which !== 'b' || !S.live;
    if (!bar.hidden) {
      bar.max = S.live.of || 1;
      bar.value = S.live.step || 0;
    }
    if (!side || !side.picture) {
      canvas.width = canvas.height = 1;
      frame.style.aspectRatio = ABOUT.width + ' / ' + ABOUT.height;
      canvas.setAttribute('aria-label', name + ': no picture yet');
      caption.replaceChildren(
        el('b', {text: name}),
        which === 'a' ? ' what B is compared with' : S.live ? ' begins …' : ' the newest run',
      );
      return;
    }
    const {W, H} = sizeOf(side);
    const {pixels: own, grey} = sample(side);
    canvas.width = W;
    canvas.height = H;
    frame.style.aspectRatio = side.width + ' / ' + side.height;
    const context = canvas.getContext('2d');
    const image = context.createImageData(W, H);
    if (map)
      paintStyle(
        image.data,
        {pixels: own, grey},
        [
          {
            values: clampAtZero(grown(side, map).slice()),
            max: topOf(side, side === S.live ? null : which === 'a' ? S.b : S.a),
          },
        ],
        {style: 'heat', palette: 'magma', ...STYLE_DEFAULTS},
      );
    else image.data.set(own);
    context.putImageData(image, 0, 0);
    const word = at >= 0 ? side.words[at].label : null;
    canvas.setAttribute('aria-label', `${name}: ${side.prompt || ''}${word ? ', with the map of ' + word : ''}`);
    figure.dataset.step = side === S.live ? side.step : 'whole';
    figure.dataset.run = side.run || '';
    const parts = [el('b', {text: name + (which === 'a' && S.pinned && S.a.run === S.pinned ? ' (pinned)' : '')})];
    if (side === S.live) parts.push(` forming, step ${side.step} of ${side.of}`);
    if (word) parts.push(' “' + word + '”');
    else if (litWord()) parts.push(' does not have “' + litWord() + '”');
    if (S.box && map) parts.push(`: ${percent(within(side, map))} in the box`);
    if (S.box) {
      const ranked = side.words
        .map((entry, i) => ({entry, value: within(side, mapOf(side, i))}))
        .sort((p, q) => q.value - p.value)
        .slice(0, 3);
      parts.push(
        el('span', {
          class: 'ranked',
          text: 'most: ' + ranked.map(({entry, value}) => `${entry.label} ${percent(value)}`).join(', '),
        }),
      );
    }
    caption.replaceChildren(...parts);
  });
  return figure;
}

// Both in one place: a border that can be moved, a fade, where the images differ, and where the
// maps of the lit word do.
const SHOWS = [
  ['slider', 'Slider', 'A on the left, B on the right'],
  ['fade', 'Fade', 'From A to B'],
  ['difference', 'Images', 'Where the images differ'],
  ['maps', 'Maps', 'How the maps of the word differ'],
];
function between() {
  const canvas = el('canvas', {role: 'img'});
  const border = el('i', {class: 'border'});
  const caption = el('figcaption', {});
  const frame = el('div', {class: 'frame'}, canvas, border);
  frame.append(boxOn(frame));
  const modes = choice('What is shown between A and B', 'between', SHOWS, S.show, (show) => set({show}));
  const slider = el('input', {
    type: 'range',
    min: 0,
    max: 100,
    step: 1,
    'aria-label': 'From A to B',
    oninput: () => set({split: Number(slider.value)}),
  });
  const ends = el('div', {class: 'ab'}, el('span', {text: 'A'}), slider, el('span', {text: 'B'}));
  const figure = el('figure', {class: 'picture between'}, frame, ends, el('div', {class: 'over'}, modes), caption);
  listeners.push(() => {
    const {a, b, live} = S;
    const both = a && b && !live;
    modes.show(S.show);
    figure.classList.toggle('waits', !both);
    ends.hidden = S.show === 'difference' || S.show === 'maps';
    slider.value = S.split;
    border.hidden = !both || S.show !== 'slider';
    border.style.left = S.split + '%';
    if (!both) {
      canvas.width = canvas.height = 1;
      frame.style.aspectRatio = ABOUT.width + ' / ' + ABOUT.height;
      canvas.setAttribute('aria-label', 'Nothing is compared yet');
      caption.replaceChildren(live ? 'The comparison comes by itself when B is there.' : 'Two runs are compared here.');
      figure.dataset.compared = '';
      return;
    }
    const {W, H} = sizeOf(b);
    const context = canvas.getContext('2d');
    const image = context.createImageData(W, H);
    const own = sample(b).pixels;
    canvas.width = W;
    canvas.height = H;
    frame.style.aspectRatio = b.width + ' / ' + b.height;
    const other = sizeOf(a).W === W && sizeOf(a).H === H ? sample(a).pixels : pixelsOf(a.picture, W, H).pixels;
    let text = '';
    if (S.show === 'slider' || S.show === 'fade') {
      const share = S.split / 100;
      for (let i = 0; i < image.data.length; i += 4) {
        const t = S.show === 'fade' ? share : ((i / 4) % W) / W >= share ? 1 : 0;
        for (let c = 0; c < 3; c++) image.data[i + c] = other[i + c] + (own[i + c] - other[i + c]) * t;
        image.data[i + 3] = 255;
      }
      text = S.show === 'fade' ? 'From A to B.' : 'A on the left, B on the right.';
    } else if (S.show === 'difference') {
      const values = new Float32Array(W * H);
      for (let i = 0; i < values.length; i++)
        for (let c = 0; c < 3; c++) values[i] = Math.max(values[i], Math.abs(own[4 * i + c] - other[4 * i + c]));
      paintStyle(image.data, {pixels: other, grey: sample(b).grey}, [{values, max: Math.max(1, maxOf(values))}], {
        style: 'heat',
        palette: 'magma',
        opacity: 0.85,
        threshold: 0,
      });
      text =
        S.compared && S.compared.image !== null
          ? percent(S.compared.image) + ' of the image changed.'
          : 'Where the images differ.';
    } else {
      const [p, q] = [mapOf(a, wordIn('a')), mapOf(b, wordIn('b'))];
      if (p && q) {
        const before = bicubic(p, a.grid[0], a.grid[1], H, W);
        const after = bicubic(q, b.grid[0], b.grid[1], H, W);
        const most = topOf(a, b);
        paintPalette(
          image.data,
          after.map((value, i) => Math.min(2, Math.max(0, (value - before[i]) / most + 1))),
          2,
          'difference',
        );
        text = `“${litWord()}”: B minus A; purple is less, orange more.`;
        if (a.aggregate !== b.aggregate)
          text += ` The maps were made in different ways (A: ${a.aggregate}; B: ${b.aggregate}): that means little.`;
        if (S.box) text += ` In the box ${percent(within(a, p))} → ${percent(within(b, q))}.`;
      } else text = 'The word stands in one prompt only: there is nothing to subtract.';
    }
    context.putImageData(image, 0, 0);
    canvas.setAttribute('aria-label', text);
    caption.replaceChildren(text);
    figure.dataset.compared = (a.run || '') + '|' + (b.run || b.job || '');
  });
  return figure;
}
