// Two runs side by side: linked words, both images, and the signed difference of their maps. Of
// more runs a strip shows all: one is the base (A), one is beside it (B), and the address names
// both.
const ALL = JSON.parse($('run').textContent);
const COUNT = ALL.runs.length;
function chosenRuns() {
  const number = (key, otherwise) => {
    const found = new RegExp('(?:^|[#&])' + key + '=(\\d+)').exec(location.hash);
    const at = found ? Number(found[1]) - 1 : otherwise;
    return at < COUNT ? at : otherwise;
  };
  const base = number('base', 0);
  const beside = number('with', base === 1 ? 0 : 1);
  return {base, beside: beside === base ? (base === 0 ? 1 : 0) : beside};
}
const {base: BASE, beside: BESIDE} = chosenRuns();
const RUN = {
  a: ALL.runs[BASE],
  b: ALL.runs[BESIDE],
  ...ALL.pairs[BASE + '-' + BESIDE],
  changed: ALL.changed,
  version: ALL.version,
};
const sources = ALL.runs.map((run, at) => $('source-' + at));
for (const source of sources) source.hidden = true;
sources[BASE].id = 'source-a';
sources[BESIDE].id = 'source-b';
// The address of two of the runs.
const address = (base, beside) =>
  [base === 0 ? '' : 'base=' + (base + 1), beside === (base === 1 ? 0 : 1) ? '' : 'with=' + (beside + 1)].filter(
    Boolean,
  );
const SIDES = ['a', 'b'];
const wordName = (word) => numbered(word.text, word.occurrence);
const PAIRS = RUN.pairs.map((pair, index) => ({...pair, index}));
// The finer of the two grids: both maps are brought to it before they are subtracted.
const FINE = {
  height: Math.max(RUN.a.block.height, RUN.b.block.height),
  width: Math.max(RUN.a.block.width, RUN.b.block.width),
};

function mapOf(side, pair) {
  const run = RUN[side];
  const at = pair[side];
  if (at === null) return null;
  const {block} = run;
  const grid = bicubic(plane(block, at), block.height, block.width, FINE.height, FINE.width);
  return grid.map((value) => Math.max(0, value));
}
const maps = new Map();
function mapsOf(pair) {
  if (!maps.has(pair.index)) {
    const a = mapOf('a', pair);
    const b = mapOf('b', pair);
    const difference = a && b ? b.map((v, i) => v - a[i]) : null;
    maps.set(pair.index, {a, b, difference});
  }
  return maps.get(pair.index);
}

// What the middle shows: the maps' difference where a word is lit, else the images; until another
// is chosen.
const SHOWS = [
  ['maps', 'Maps', 'How the maps of the word differ'],
  ['difference', 'Images', 'Where the images differ'],
  ['slider', 'Slider', 'A on the left, B on the right'],
  ['fade', 'Fade', 'From A to B'],
];
const S = {hover: -1, locked: -1, cells: false, point: null, show: null, split: 50};
const showing = () => S.show || (current() >= 0 ? 'maps' : 'difference');
let tops = {map: 0, difference: 0};
const listeners = [];
let queued = false;
function set(patch) {
  Object.assign(S, patch);
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    for (const listener of listeners) listener();
    try {
      const parts = [
        ...address(BASE, BESIDE),
        S.locked < 0 ? '' : 'pair=' + S.locked,
        S.show ? 'show=' + S.show : '',
        S.split === 50 ? '' : 'split=' + S.split,
        S.cells ? 'cells=1' : '',
      ];
      history.replaceState(null, '', '#' + parts.filter(Boolean).join('&'));
    } catch {
      /* file:// may refuse */
    }
  });
}
const current = () => (S.hover >= 0 ? S.hover : S.locked);

const KINDS = {same: 'same', replaced: 'replaced', onlya: 'only in A', onlyb: 'only in B'};
function promptLine(side, buttons) {
  const run = RUN[side];
  const line = el('p', {class: 'line', dir: 'auto'}, el('b', {class: 'side', text: side.toUpperCase()}));
  run.words.forEach((word, i) => {
    const pair = PAIRS.find((p) => p[side] === i);
    if (!pair) {
      line.append(el('span', {class: 'word soft', dir: 'auto', text: word.text}), ' ');
      return;
    }
    const button = el(
      'button',
      {
        class: 'word ' + pair.kind,
        type: 'button',
        tabIndex: -1,
        'data-pair': pair.index,
        'aria-pressed': 'false',
        title: KINDS[pair.kind],
        'aria-label': wordName(word) + ', ' + KINDS[pair.kind] + ', share ' + percent(word.share),
        onclick: () => set({locked: S.locked === pair.index ? -1 : pair.index, hover: -1}),
        onpointerenter: (e) => {
          if (e.pointerType !== 'touch') set({hover: pair.index});
        },
        onpointerleave: () => {
          if (S.hover === pair.index) set({hover: -1});
        },
        onfocus: () => {
          if (button.matches(':focus-visible')) set({hover: pair.index});
        },
        onblur: () => {
          if (S.hover === pair.index) set({hover: -1});
        },
      },
      el('span', {dir: 'auto', text: word.text}),
      el('small', {dir: 'ltr', text: percent(word.share)}),
    );
    buttons.push(button);
    line.append(button, ' ');
  });
  if (!run.words.length) line.append(el('em', {text: 'the empty prompt'}));
  // One tab stop a prompt; arrows move among its words.
  const own = [...line.querySelectorAll('.word')];
  if (own.length) own[0].tabIndex = 0;
  line.addEventListener('focusin', (event) => {
    for (const button of own) button.tabIndex = button === event.target ? 0 : -1;
  });
  line.addEventListener('keydown', (event) => {
    const move = {ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity}[event.key];
    const at = own.indexOf(event.target);
    if (move === undefined || at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    own[Math.min(own.length - 1, Math.max(0, at + move))].focus();
    event.preventDefault();
  });
  return line;
}

// The picture of a side at W x H, decoded once.
const decoded = {a: null, b: null};
const sampled = new Map();
function sample(side, W, H) {
  const key = side + W + 'x' + H;
  if (!sampled.has(key)) sampled.set(key, pixelsOf(decoded[side], W, H));
  return sampled.get(key);
}
const sizeOf = ({width, height}) => ({
  W: Math.round(512 * Math.min(1, width / height)),
  H: Math.round(512 * Math.min(1, height / width)),
});
const onImage = (frame) => {
  frame.addEventListener('pointermove', (event) => {
    const r = frame.getBoundingClientRect();
    set({
      point: {
        x: Math.min(0.9999, Math.max(0, (event.clientX - r.left) / r.width)),
        y: Math.min(0.9999, Math.max(0, (event.clientY - r.top) / r.height)),
      },
    });
  });
  frame.addEventListener('pointerleave', () => set({point: null}));
};
const valueAt = (map) => map[Math.floor(S.point.y * FINE.height) * FINE.width + Math.floor(S.point.x * FINE.width)];
const signed = (value, text) => (value < 0 ? '−' : '+') + text;
function placeCross(cross) {
  cross.hidden = !S.point;
  if (S.point) {
    cross.style.left = 100 * S.point.x + '%';
    cross.style.top = 100 * S.point.y + '%';
  }
}
function paintStrip(bar, name) {
  const ramp = Float32Array.from({length: 256}, (_, i) => i / 255);
  const context = bar.getContext('2d');
  const pixels = context.createImageData(256, 1);
  paintPalette(pixels.data, ramp, 1, name);
  context.putImageData(pixels, 0, 0);
}
const pictureParts = () => ({
  canvas: el('canvas', {class: 'overlay', 'aria-hidden': 'true'}),
  cross: el('i', {class: 'cross', hidden: true}),
  bar: el('canvas', {class: 'colourbar', width: 256, height: 1, 'aria-hidden': 'true'}),
  ticks: el('div', {class: 'ticks'}),
  caption: el('figcaption', {}),
});

// One run's image with the map of the lit word.
function picture(side) {
  const {canvas, cross, bar, ticks, caption} = pictureParts();
  const source = $('source-' + side);
  const run = RUN[side];
  const {W, H} = sizeOf(run.image);
  source.hidden = false;
  source.removeAttribute('id');
  source.removeAttribute('class');
  source.alt = 'Image of run ' + side.toUpperCase() + ': ' + run.prompt.slice(0, 200);
  const frame = el('div', {class: 'frame'}, source, canvas, cross);
  const link = run.href ? el('a', {href: run.href, text: 'open its page'}) : null;
  frame.style.aspectRatio = run.image.width + ' / ' + run.image.height;
  onImage(frame);
  listeners.push(() => {
    const at = current();
    const map = at < 0 ? null : mapsOf(PAIRS[at])[side];
    const word = at < 0 ? null : run.words[PAIRS[at][side]];
    canvas.width = W;
    canvas.height = H;
    if (map) {
      const values = S.cells
        ? nearest(map, FINE.height, FINE.width, H, W)
        : clampAtZero(bicubic(map, FINE.height, FINE.width, H, W).slice());
      const context = canvas.getContext('2d', {willReadFrequently: true});
      const image = context.createImageData(W, H);
      paintStyle(image.data, sample(side, W, H), [{values, max: tops.map}], {
        style: 'heat',
        palette: 'magma',
        ...STYLE_DEFAULTS,
      });
      context.putImageData(image, 0, 0);
    }
    paintStrip(bar, 'magma');
    bar.classList.toggle('none', !map);
    ticks.replaceChildren(...(map ? [0, 0.5, 1].map((t) => el('span', {text: percent(t * tops.map)})) : []));
    placeCross(cross);
    caption.replaceChildren(
      el('b', {text: side.toUpperCase() + (word ? ': “' + wordName(word) + '”' : '')}),
      at < 0
        ? ''
        : map
          ? S.point
            ? '. Here: ' + percent(valueAt(map)) + '.'
            : '.'
          : ': the word is not in this prompt.',
      ...(link ? [' ', link] : []),
    );
  });
  return el('figure', {class: 'picture ' + side}, frame, bar, ticks, caption);
}

// Both images in one place, or what differs: between the images, or between the maps of the lit
// word.
function between() {
  const {canvas, cross, bar, ticks, caption} = pictureParts();
  const {W, H} = sizeOf(RUN.b.image);
  const [under, over] = SIDES.map((side) => el('img', {src: $('source-' + side)?.src || decoded[side].src, alt: ''}));
  const border = el('i', {class: 'border'});
  const frame = el('div', {class: 'frame'}, under, over, canvas, border, cross);
  frame.style.aspectRatio = RUN.b.image.width + ' / ' + RUN.b.image.height;
  onImage(frame);
  const modes = choice('What the middle shows', 'between', SHOWS, '', (show) => set({show}));
  const slider = el('input', {
    type: 'range',
    min: 0,
    max: 100,
    step: 1,
    'aria-label': 'From run A to run B',
    oninput: () => set({split: Number(slider.value)}),
  });
  const ends = el('div', {class: 'ab'}, el('span', {text: 'A'}), slider, el('span', {text: 'B'}));
  dragBorder(
    frame,
    border,
    () => frame,
    (split) => set({split}),
  );
  const apart = () => {
    const [a, b] = SIDES.map((side) => sample(side, W, H));
    const values = new Float32Array(W * H);
    for (let i = 0; i < values.length; i++)
      for (let c = 0; c < 3; c++) values[i] = Math.max(values[i], Math.abs(a.pixels[4 * i + c] - b.pixels[4 * i + c]));
    return values;
  };
  let images = null; // the difference of the images, 0 to 255
  let changed = 0; // the share of the image that changed
  listeners.push(() => {
    const at = current();
    const show = showing();
    const context = canvas.getContext('2d', {willReadFrequently: true});
    modes.show(show);
    ends.hidden = show !== 'slider' && show !== 'fade';
    frame.classList.toggle('splitting', show === 'slider');
    border.hidden = show !== 'slider';
    border.style.left = S.split + '%';
    slider.value = S.split;
    under.hidden = over.hidden = ends.hidden;
    over.style.clipPath = show === 'slider' ? `inset(0 0 0 ${S.split}%)` : 'none';
    over.style.opacity = show === 'fade' ? S.split / 100 : 1;
    canvas.width = W;
    canvas.height = H;
    const map = show === 'maps' && at >= 0 ? mapsOf(PAIRS[at]).difference : null;
    if (map || show === 'difference') {
      const image = context.createImageData(W, H);
      if (map) {
        const grown = S.cells
          ? nearest(map, FINE.height, FINE.width, H, W)
          : bicubic(map, FINE.height, FINE.width, H, W);
        paintPalette(
          image.data,
          grown.map((v) => Math.min(2, Math.max(0, v / tops.difference + 1))),
          2,
          'difference',
        );
      } else {
        if (!images) {
          images = apart();
          changed = images.reduce((n, v) => n + Number(v >= 255 * RUN.changed), 0) / images.length;
        }
        paintStyle(image.data, sample('a', W, H), [{values: images, max: Math.max(1, maxOf(images))}], {
          style: 'heat',
          palette: 'magma',
          opacity: 0.85,
          threshold: 0,
        });
      }
      context.putImageData(image, 0, 0);
    }
    paintStrip(bar, map ? 'difference' : 'magma');
    bar.classList.toggle('none', !map && show !== 'difference');
    ticks.replaceChildren(
      ...(map
        ? [-1, 0, 1].map((t) => (t ? signed(t, percent(tops.difference)) : '0'))
        : show === 'difference'
          ? ['the same', 'most different']
          : []
      ).map((text) => el('span', {text})),
    );
    placeCross(cross);
    const title = {
      maps: 'Maps, B minus A',
      difference: 'Images, where they differ',
      slider: 'A on the left, B on the right',
      fade: 'From A to B',
    }[show];
    caption.replaceChildren(
      el('b', {text: title}),
      show === 'difference'
        ? `: ${percent(changed)} of the image changed.`
        : show !== 'maps'
          ? '.'
          : map
            ? S.point
              ? `. Here: ${signed(valueAt(map), percent(Math.abs(valueAt(map))))}.`
              : '.'
            : at < 0
              ? ': point at a word.'
              : ': the word stands in one prompt only, so there is nothing to subtract.',
    );
  });
  return el(
    'figure',
    {class: 'picture difference'},
    el('div', {class: 'over'}, modes),
    frame,
    ends,
    bar,
    ticks,
    caption,
  );
}

// All runs, where there are more than two: a click puts one beside the base, a button makes it the
// base.
function strip() {
  if (COUNT < 3) return null;
  const link = (base, beside) => '#' + address(base, beside).join('&');
  return el(
    'nav',
    {class: 'strip', 'aria-label': 'Runs'},
    el(
      'ol',
      {},
      ALL.runs.map((run, at) => {
        const role = at === BASE ? 'base' : at === BESIDE ? 'beside' : '';
        const share = el('small', {text: at === BASE ? 'A, the base' : at === BESIDE ? 'B' : ''});
        const open = el(
          'a',
          {
            href: at === BASE ? link(BESIDE, BASE) : link(BASE, at),
            'aria-current': role ? 'true' : null,
            title: run.prompt,
            'aria-label': (at === BASE ? 'Swap: ' : 'Compare the base with ') + run.name,
          },
          el('img', {src: sources[at].src, alt: ''}),
          el('span', {text: run.name}),
        );
        const own =
          at === BASE
            ? null
            : el('a', {
                class: 'quiet',
                href: link(at, at === BESIDE ? BASE : BESIDE),
                text: 'make it the base',
                'aria-label': 'Make ' + run.name + ' the base',
              });
        return el('li', {class: role}, open, share, own);
      }),
    ),
  );
}

async function start() {
  for (const side of SIDES) $('source-' + side).hidden = true;
  try {
    await loadMaps();
    for (const side of SIDES) {
      decoded[side] = new Image();
      decoded[side].src = $('source-' + side).src;
      await decoded[side].decode();
    }
  } catch (error) {
    document.body.prepend(
      el('p', {
        class: 'still',
        text: 'The maps could not be read (' + error.message + '). This page needs a browser from 2023 or later.',
      }),
    );
    return;
  }
  for (const pair of PAIRS) {
    const {a, b, difference} = mapsOf(pair);
    tops.map = Math.max(tops.map, a ? maxOf(a) : 0, b ? maxOf(b) : 0);
    if (difference) for (const v of difference) tops.difference = Math.max(tops.difference, Math.abs(v));
  }
  tops.map ||= 1e-12;
  tops.difference ||= 1e-12;
  const buttons = [];
  const facts = (RUN.a.words[0] || RUN.b.words[0] || {layout: null}).layout?.map(([key]) => key) || [];
  const cell = (side, pair, fact) => {
    const word = pair[side] === null ? null : RUN[side].words[pair[side]];
    const entry = word && word.layout && word.layout.find(([key]) => key === fact);
    return el('td', {class: 'number', text: entry ? entry[1] : '–'});
  };
  const rows = PAIRS.map((pair) => {
    const names = SIDES.map((side) => (pair[side] === null ? null : wordName(RUN[side].words[pair[side]])));
    const name = pair.kind === 'replaced' ? names[0] + ' → ' + names[1] : names[0] || names[1];
    const shares = SIDES.map((side) => (pair[side] === null ? null : RUN[side].words[pair[side]].share));
    const change = shares[0] !== null && shares[1] !== null ? shares[1] - shares[0] : null;
    const row = el(
      'tr',
      {
        'data-pair': pair.index,
        onpointerenter: (e) => {
          if (e.pointerType !== 'touch') set({hover: pair.index});
        },
        onpointerleave: () => {
          if (S.hover === pair.index) set({hover: -1});
        },
      },
      el('th', {scope: 'row', dir: pair.kind === 'replaced' ? 'ltr' : 'auto', text: inOrder(name)}),
      el('td', {class: 'soft', text: KINDS[pair.kind]}),
      SIDES.map((side, i) => el('td', {class: 'number', text: shares[i] === null ? '–' : percent(shares[i])})),
      el('td', {
        class: 'number',
        'data-value': change,
        text: change === null ? '–' : signed(change, percent(Math.abs(change)).replace(' %', ' points')),
      }),
      facts.filter((f) => f !== 'share').flatMap((fact) => SIDES.map((side) => cell(side, pair, fact))),
    );
    return row;
  });
  const shown = facts.filter((f) => f !== 'share');
  const table = el(
    'div',
    {class: 'scroller', tabIndex: 0, role: 'region', 'aria-label': 'Words of both runs'},
    el(
      'table',
      {class: 'pairs'},
      el(
        'thead',
        {},
        el(
          'tr',
          {},
          ['Word', '', 'share A', 'share B', 'change', ...shown.flatMap((f) => [f + ' A', f + ' B'])].map((text) =>
            el('th', {scope: 'col', text, class: text && text !== 'Word' ? 'number' : null}),
          ),
        ),
      ),
      el('tbody', {}, rows),
    ),
  );
  const settings = el(
    'table',
    {class: 'pairs settings'},
    el(
      'thead',
      {},
      el(
        'tr',
        {},
        ['Setting', 'A', 'B'].map((text) => el('th', {scope: 'col', text})),
      ),
    ),
    el(
      'tbody',
      {},
      RUN.settings.map(([key, a, b]) =>
        el(
          'tr',
          {class: a === b ? 'soft' : 'differs'},
          el('th', {scope: 'row', text: key}),
          el('td', {text: a, dir: 'auto'}),
          el('td', {text: b, dir: 'auto'}),
        ),
      ),
    ),
  );
  const cells = check('Raw grid', false, (v) => set({cells: v}));
  const clear = el('button', {
    class: 'quiet',
    type: 'button',
    text: 'Clear',
    hidden: true,
    onclick: () => set({locked: -1}),
  });
  const notes = [];
  const middle = between();
  const sides = [picture('a'), middle, picture('b')];
  if (RUN.a.aggregate !== RUN.b.aggregate)
    notes.push(
      `The maps were made in different ways (A: ${RUN.a.aggregate}; B: ${RUN.b.aggregate}); ` +
        'their difference means little. ',
    );
  if (RUN.a.image.width * RUN.b.image.height !== RUN.b.image.width * RUN.a.image.height)
    notes.push('The images have different shapes: places are compared as fractions of each. ');
  document.body.append(
    el(
      'main',
      {class: 'page'},
      strip(),
      el(
        'header',
        {class: 'masthead'},
        el(
          'p',
          {class: 'meta'},
          el('span', {class: 'mark', text: 'attnmap'}),
          el('span', {text: RUN.a.name + '  |  ' + RUN.b.name}),
        ),
        el('h1', {class: 'unseen', dir: 'auto', text: 'Two runs compared: ' + RUN.a.prompt + ' | ' + RUN.b.prompt}),
        promptLine('a', buttons),
        promptLine('b', buttons),
        el(
          'p',
          {class: 'key'},
          el('span', {class: 'same', text: 'same'}),
          el('span', {class: 'replaced', text: 'replaced'}),
          el('span', {class: 'onlya', text: 'only in one'}),
          cells,
          clear,
        ),
      ),
      el('div', {class: 'trio'}, ...sides),
      el(
        'p',
        {class: 'note'},
        notes.map((text) => el('strong', {text})),
        'Both runs and all words share one colour scale; the difference has its own, the same for all words. ',
        el('span', {class: 'honest', text: 'Attention shows where the model looked, not why.'}),
      ),
      el(
        'section',
        {class: 'differs'},
        el('h2', {text: 'What differs'}),
        el(
          'ul',
          {},
          RUN.differences.map((text) => el('li', {text: inOrder(text)})),
        ),
      ),
      el('section', {}, el('h2', {text: 'Word by word'}), table),
      el(
        'section',
        {class: 'made'},
        el('h2', {text: 'How they were made'}),
        el('div', {class: 'scroller'}, settings),
        SIDES.map((side) => commandLine(RUN[side].command, 'the command of run ' + side.toUpperCase())),
      ),
      el('footer', {class: 'note', text: 'attnmap ' + RUN.version}),
    ),
  );
  listeners.push(() => {
    for (const button of buttons) {
      const pair = Number(button.dataset.pair);
      button.setAttribute('aria-pressed', String(S.locked === pair));
      button.classList.toggle('lit', current() === pair);
    }
    for (const row of rows) row.classList.toggle('lit', Number(row.dataset.pair) === current());
    cells.show(S.cells);
    clear.hidden = S.locked < 0;
  });
  window.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') set({locked: -1, hover: -1, show: null});
  });
  const read = () => {
    const pair = /(?:^|[#&])pair=(\d+)/.exec(location.hash);
    const at = pair ? Number(pair[1]) : -1;
    const show = /[#&]show=(\w+)/.exec(location.hash);
    const split = /[#&]split=(\d+)/.exec(location.hash);
    return {
      locked: at < PAIRS.length ? at : -1,
      cells: /[#&]cells=1/.test(location.hash),
      split: split ? Math.min(100, Number(split[1])) : 50,
      show: show && SHOWS.some(([name]) => name === show[1]) ? show[1] : null,
    };
  };
  window.addEventListener('hashchange', () => {
    const {base, beside} = chosenRuns();
    if (base !== BASE || beside !== BESIDE) location.reload();
    else set(read());
  });
  set(read());
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      document.documentElement.dataset.ready = 'true';
    }),
  );
}
start();
