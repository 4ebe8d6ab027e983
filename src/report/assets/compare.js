// Two runs side by side: linked words, both images, and the signed difference of their maps.
const RUN = JSON.parse($('run').textContent);
const SIDES = ['a', 'b'];
const wordName = (word) => word.text + (word.occurrence > 1 ? '#' + word.occurrence : '');
const PAIRS = RUN.pairs.map((pair, index) => ({...pair, index}));
// The finer of the two grids: both maps are brought to it before they are subtracted.
const FINE = {height: Math.max(RUN.a.block.height, RUN.b.block.height), width: Math.max(RUN.a.block.width, RUN.b.block.width)};

function mapOf(side, pair) {
  const run = RUN[side], at = pair[side];
  if (at === null) return null;
  const {block} = run, grid = bicubic(plane(block, at), block.height, block.width, FINE.height, FINE.width);
  return grid.map((value) => Math.max(0, value));
}
const maps = new Map();
function mapsOf(pair) {
  if (!maps.has(pair.index)) {
    const a = mapOf('a', pair), b = mapOf('b', pair);
    const difference = a && b ? b.map((v, i) => v - a[i]) : null;
    maps.set(pair.index, {a, b, difference});
  }
  return maps.get(pair.index);
}

const S = {hover: -1, locked: -1, cells: false, point: null};
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
    try { history.replaceState(null, '', S.locked < 0 ? '#' : '#pair=' + S.locked + (S.cells ? '&cells=1' : '')); } catch { /* file:// may refuse */ }
  });
}
const current = () => (S.hover >= 0 ? S.hover : S.locked);

const KINDS = {same: 'same', replaced: 'replaced', onlya: 'only in A', onlyb: 'only in B'};
function promptLine(side, buttons) {
  const run = RUN[side];
  const line = el('p', {class: 'line', dir: 'auto'}, el('b', {class: 'side', text: side.toUpperCase()}));
  run.words.forEach((word, i) => {
    const pair = PAIRS.find((p) => p[side] === i);
    const button = el('button', {class: 'word ' + pair.kind, type: 'button', 'data-pair': pair.index, 'aria-pressed': 'false',
      title: KINDS[pair.kind], 'aria-label': wordName(word) + ', ' + KINDS[pair.kind] + ', share ' + percent(word.share),
      onclick: () => set({locked: S.locked === pair.index ? -1 : pair.index, hover: -1}),
      onpointerenter: (e) => { if (e.pointerType !== 'touch') set({hover: pair.index}); },
      onpointerleave: () => { if (S.hover === pair.index) set({hover: -1}); },
      onfocus: () => { if (button.matches(':focus-visible')) set({hover: pair.index}); },
      onblur: () => { if (S.hover === pair.index) set({hover: -1}); },
    }, el('span', {dir: 'auto', text: word.text}), el('small', {dir: 'ltr', text: percent(word.share)}));
    buttons.push(button);
    line.append(button, ' ');
  });
  if (!run.words.length) line.append(el('em', {text: 'the empty prompt'}));
  return line;
}

function picture(side, title) {
  const canvas = el('canvas', {class: 'overlay', 'aria-hidden': 'true'}), cross = el('i', {class: 'cross', hidden: true});
  const source = side === 'difference' ? el('div', {class: 'blank'}) : $('source-' + side);
  if (side !== 'difference') { source.hidden = false; source.removeAttribute('id'); source.alt = 'Image of run ' + side.toUpperCase() + ': ' + RUN[side].prompt.slice(0, 200); }
  const frame = el('div', {class: 'frame'}, source, canvas, cross);
  const {width, height} = (side === 'b' ? RUN.b : RUN.a).image;
  frame.style.aspectRatio = width + ' / ' + height;
  frame.addEventListener('pointermove', (event) => {
    const r = frame.getBoundingClientRect();
    set({point: {x: Math.min(0.9999, Math.max(0, (event.clientX - r.left) / r.width)), y: Math.min(0.9999, Math.max(0, (event.clientY - r.top) / r.height))}});
  });
  frame.addEventListener('pointerleave', () => set({point: null}));
  const bar = el('canvas', {class: 'colourbar', width: 256, height: 1, 'aria-hidden': 'true'}), ticks = el('div', {class: 'ticks'}), caption = el('figcaption', {});
  const size = {W: Math.round(512 * Math.min(1, width / height)), H: Math.round(512 * Math.min(1, height / width))};
  listeners.push(() => {
    const at = current(), signed = side === 'difference';
    const map = at < 0 ? null : mapsOf(PAIRS[at])[side];
    canvas.width = size.W; canvas.height = size.H;
    const context = canvas.getContext('2d');
    canvas.classList.toggle('crisp', S.cells);
    if (map) {
      const grown = S.cells ? nearest(map, FINE.height, FINE.width, size.H, size.W) : bicubic(map, FINE.height, FINE.width, size.H, size.W);
      const image = context.createImageData(size.W, size.H);
      if (signed) paintPalette(image.data, grown.map((v) => Math.min(2, Math.max(0, v / tops.difference + 1))), 2, 'difference', null);
      else paintPalette(image.data, grown, tops.map, 'magma', 0.8);
      context.putImageData(image, 0, 0);
    }
    const ramp = Float32Array.from({length: 256}, (_, i) => i / 255), strip = bar.getContext('2d'), pixels = strip.createImageData(256, 1);
    paintPalette(pixels.data, ramp, 1, signed ? 'difference' : 'magma', null);
    strip.putImageData(pixels, 0, 0);
    const numbers = signed ? [-1, 0, 1].map((t) => (t < 0 ? '−' : t > 0 ? '+' : '') + percent(Math.abs(t) * tops.difference)) : [0, 0.5, 1].map((t) => percent(t * tops.map));
    ticks.replaceChildren(...numbers.map((text) => el('span', {text})));
    cross.hidden = !S.point;
    if (S.point) { cross.style.left = 100 * S.point.x + '%'; cross.style.top = 100 * S.point.y + '%'; }
    const value = map && S.point ? map[Math.floor(S.point.y * FINE.height) * FINE.width + Math.floor(S.point.x * FINE.width)] : null;
    const word = at < 0 ? null : signed ? null : RUN[side].words[PAIRS[at][side]];
    const here = value === null ? '' : ' Here: ' + (signed && value < 0 ? '−' : signed ? '+' : '') + percent(Math.abs(value)) + '.';
    caption.replaceChildren(el('b', {text: title + (word ? ': “' + wordName(word) + '”' : '')}),
      at < 0 ? '' : map ? '.' + here : signed ? ': the word stands in one prompt only, so there is nothing to subtract.' : ': the word is not in this prompt.');
  });
  return el('figure', {class: 'picture ' + side}, frame, bar, ticks, caption);
}

async function start() {
  try { await loadMaps(); } catch (error) {
    document.body.prepend(el('p', {class: 'still', text: 'The maps could not be read (' + error.message + '). This page needs a browser from 2023 or later.'}));
    return;
  }
  for (const pair of PAIRS) {
    const {a, b, difference} = mapsOf(pair);
    tops.map = Math.max(tops.map, a ? maxOf(a) : 0, b ? maxOf(b) : 0);
    if (difference) for (const v of difference) tops.difference = Math.max(tops.difference, Math.abs(v));
  }
  tops.map ||= 1e-12; tops.difference ||= 1e-12;
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
    const row = el('tr', {'data-pair': pair.index, onpointerenter: (e) => { if (e.pointerType !== 'touch') set({hover: pair.index}); }, onpointerleave: () => { if (S.hover === pair.index) set({hover: -1}); }},
      el('th', {scope: 'row', dir: 'auto', text: name}), el('td', {class: 'soft', text: KINDS[pair.kind]}),
      SIDES.map((side, i) => el('td', {class: 'number', text: shares[i] === null ? '–' : percent(shares[i])})),
      el('td', {class: 'number', 'data-value': change, text: change === null ? '–' : (change < 0 ? '−' : '+') + percent(Math.abs(change))}),
      facts.filter((f) => f !== 'share').flatMap((fact) => SIDES.map((side) => cell(side, pair, fact))));
    return row;
  });
  const shown = facts.filter((f) => f !== 'share');
  const table = el('div', {class: 'scroller', tabIndex: 0, role: 'region', 'aria-label': 'Words of both runs'}, el('table', {class: 'pairs'},
    el('thead', {}, el('tr', {}, ['Word', '', 'share A', 'share B', 'change', ...shown.flatMap((f) => [f + ' A', f + ' B'])].map((text) => el('th', {scope: 'col', text, class: text && text !== 'Word' ? 'number' : null})))),
    el('tbody', {}, rows)));
  const settings = el('table', {class: 'pairs settings'}, el('thead', {}, el('tr', {}, ['Setting', 'A', 'B'].map((text) => el('th', {scope: 'col', text})))),
    el('tbody', {}, RUN.settings.map(([key, a, b]) => el('tr', {class: a === b ? 'soft' : 'differs'}, el('th', {scope: 'row', text: key}), el('td', {text: a, dir: 'auto'}), el('td', {text: b, dir: 'auto'})))));
  const cells = check('True cells', false, (v) => set({cells: v}));
  const clear = el('button', {class: 'quiet', type: 'button', text: 'Let go', hidden: true, onclick: () => set({locked: -1})});
  const notes = [];
  if (RUN.a.aggregate !== RUN.b.aggregate) notes.push(`The maps were made in different ways (A: ${RUN.a.aggregate}; B: ${RUN.b.aggregate}); their difference means little. `);
  if (RUN.a.image.width * RUN.b.image.height !== RUN.b.image.width * RUN.a.image.height) notes.push('The images have different shapes: places are compared as fractions of each. ');
  document.body.append(el('main', {class: 'page'},
    el('header', {class: 'masthead'}, el('p', {class: 'meta'}, el('span', {class: 'mark', text: 'attnmap'}), el('span', {text: RUN.a.name + '  |  ' + RUN.b.name})),
      el('h1', {class: 'unseen', text: 'Comparison of two runs'}), promptLine('a', buttons), promptLine('b', buttons),
      el('p', {class: 'key'}, el('span', {class: 'same', text: 'same'}), el('span', {class: 'replaced', text: 'replaced'}), el('span', {class: 'onlya', text: 'only in one'}), cells, clear)),
    el('div', {class: 'trio'}, picture('a', 'A'), picture('difference', 'B minus A'), picture('b', 'B')),
    el('p', {class: 'note'}, notes.map((text) => el('strong', {text})), 'Both runs and all words share one colour scale; the difference has its own, the same for all words. ',
      el('span', {class: 'honest', text: 'Attention shows where the model looked, not why.'})),
    el('section', {class: 'differs'}, el('h2', {text: 'What differs'}), el('ul', {}, RUN.differences.map((text) => el('li', {text, dir: 'auto'})))),
    el('section', {}, el('h2', {text: 'Word by word'}), table),
    el('section', {class: 'made'}, el('h2', {text: 'How they were made'}), el('div', {class: 'scroller'}, settings), SIDES.map((side) => commandLine(RUN[side].command, 'the command of run ' + side.toUpperCase()))),
    el('footer', {class: 'note', text: 'attnmap ' + RUN.version})));
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
  window.addEventListener('keydown', (event) => { if (event.key === 'Escape') set({locked: -1, hover: -1}); });
  const read = () => {
    const pair = /(?:^|[#&])pair=(\d+)/.exec(location.hash), at = pair ? Number(pair[1]) : -1;
    return {locked: at < PAIRS.length ? at : -1, cells: /[#&]cells=1/.test(location.hash)};
  };
  window.addEventListener('hashchange', () => set(read()));
  set(read());
  requestAnimationFrame(() => requestAnimationFrame(() => { document.documentElement.dataset.ready = 'true'; }));
}
start();
