// A gallery: cells by two axes or sorted by a number, a word lit in all of them, and only what is in the window drawn.
const started = performance.now();
const G = JSON.parse($('gallery').textContent);
const WORD_NUMBERS = G.wordNumbers;
const SIZES = G.sizes.map((size) => size.split('×').map(Number));
const CELLS = G.cells.map((row, index) => {
  const [name, prompt, base, replaced, negative, model, steps, guidance, seed, size, scheduler, top, mapH, numbers, words, lora, syntax, expected] = row;
  const byWord = new Map();
  words.forEach((word, i) => byWord.set(word[0], {at: i, numbers: word.slice(1)}));
  const path = G.files.cells + '/' + encodeURIComponent(name) + '/', ratio = SIZES[size][1] / SIZES[size][0];
  return {index, name, prompt, base, replaced, negative, model, steps, guidance, seed, size, ratio, scheduler, lora, syntax, top, mapH, numbers, count: words.length, byWord, path,
    unmet: expected.filter(([, met]) => met === false).map(([at]) => at), expected: expected.filter(([, met]) => met !== null).map(([at]) => at)};
});
const TOP = Math.max(1e-12, ...CELLS.map((c) => c.top));

const AXES = {
  prompt: {label: 'prompt', of: (c) => c.prompt, text: (k) => G.prompts[k]},
  base: {label: 'prompt in the list', of: (c) => c.base, text: (k) => G.prompts[k]},
  replaced: {label: 'replacement', of: (c) => c.replaced, text: (k) => G.replaced[k] || 'as it is'},
  seed: {label: 'seed', of: (c) => c.seed, text: (k) => 'seed ' + k},
  steps: {label: 'steps', of: (c) => c.steps, text: (k) => k + ' steps'},
  guidance: {label: 'guidance', of: (c) => c.guidance, text: (k) => 'guidance ' + k},
  negative: {label: 'negative prompt', of: (c) => c.negative, text: (k) => G.negatives[k] && 'not ' + G.negatives[k]},
  model: {label: 'checkpoint', of: (c) => c.model, text: (k) => G.models[k]},
  lora: {label: 'LoRA', of: (c) => c.lora, text: (k) => G.loras[k] || 'no LoRA'},
  syntax: {label: 'how prompts are read', of: (c) => c.syntax, text: (k) => G.syntaxes[k] || 'as plain text'},
  size: {label: 'size', of: (c) => c.size, text: (k) => G.sizes[k]},
  scheduler: {label: 'sampler', of: (c) => c.scheduler, text: (k) => G.schedulers[k] || 'the checkpoint’s own'},
  expected: {label: 'as expected', of: (c) => Number(c.unmet.length > 0), text: (k) => (k ? 'not as expected' : 'as expected')},
};
const variety = (axis) => new Set(CELLS.map(AXES[axis].of)).size;
const OFFERED = Object.keys(AXES).filter((axis) => variety(axis) > 1);
if (OFFERED.includes('base') && variety('base') === variety('prompt')) OFFERED.splice(OFFERED.indexOf('base'), 1);
// What the filter of expectations offers: all, those as expected, the others, and those that one expectation fails or meets.
const SHOWN = {all: {label: 'all', fits: () => true}, met: {label: 'as expected', fits: (c) => !c.unmet.length}, unmet: {label: 'not as expected', fits: (c) => c.unmet.length > 0}};
G.expectations.forEach((text, at) => {
  SHOWN['unmet' + at] = {label: 'not: ' + text, fits: (c) => c.unmet.includes(at)};
  SHOWN['met' + at] = {label: text, fits: (c) => c.expected.includes(at) && !c.unmet.includes(at)};
});
const ownRows = OFFERED.includes('base') && OFFERED.includes('replaced') ? 'prompt' : OFFERED.includes('prompt') ? 'prompt' : 'none';
const ownColumns = OFFERED.find((axis) => axis === 'seed') || OFFERED.find((axis) => axis !== ownRows) || 'none';

const S = {rows: ownRows, columns: ownColumns === ownRows ? 'none' : ownColumns, sort: '', up: false, find: '', show: 'all', word: -1, hover: -1, size: 160, own: false, cells: false, at: -1};
const DEFAULTS = {...S};

// Words by how many cells have them.
const frequency = new Map();
for (const cell of CELLS) for (const word of cell.byWord.keys()) frequency.set(word, (frequency.get(word) || 0) + 1);
const WORDS = [...frequency.keys()].sort((p, q) => frequency.get(q) - frequency.get(p) || p - q);
const lit = () => (S.hover >= 0 ? S.hover : S.word);

// Sorting: numbers of the run, then those of the chosen word; links name them.
const SORTS = [...G.numbers.map((name) => 'n:' + name), ...WORD_NUMBERS.map((name) => 'w:' + name)];
const SHARE = WORD_NUMBERS.indexOf('share');
// Numbers that are shares of something, shown as per cent.
const PER_CENT = /share$|^peak$|^area$/;
function numberOf(cell, sort) {
  if (sort.startsWith('w:')) {
    const word = cell.byWord.get(S.word);
    return word ? word.numbers[WORD_NUMBERS.indexOf(sort.slice(2))] : null;
  }
  const value = cell.numbers[G.numbers.indexOf(sort.slice(2))];
  return value === undefined ? null : value;
}
function compareNumbers(p, q) {
  if (p === null || q === null) return (p === null) - (q === null); // unknown last, whichever way
  return S.up ? p - q : q - p;
}

// Axes that a caption may tell: what a prompt is made of stands in it already.
const TOLD = OFFERED.filter((axis) => !['prompt', 'base', 'replaced', 'expected'].includes(axis));
const tell = (axes, cell) => axes.map((axis) => AXES[axis].text(AXES[axis].of(cell))).filter(Boolean);

// The chosen columns, and whatever else tells cells of one row and column apart.
function columnAxes(cells) {
  const axes = S.columns === 'none' ? [] : [S.columns];
  for (const axis of OFFERED) {
    if (axis === S.rows || axes.includes(axis)) continue;
    const seen = new Map();
    const apart = cells.some((c) => {
      const place = JSON.stringify([S.rows, ...axes].map((own) => AXES[own].of(c))), value = AXES[axis].of(c);
      if (!seen.has(place)) seen.set(place, value);
      return seen.get(place) !== value;
    });
    if (apart) axes.push(axis);
  }
  return axes;
}

let layout = null;
function arrange() {
  const needles = S.find.toLowerCase().split(/\s+/).filter(Boolean);
  let cells = CELLS.filter((c) => needles.every((n) => G.prompts[c.prompt].toLowerCase().includes(n)) && SHOWN[S.show].fits(c));
  const em = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const ratio = cells.reduce((max, c) => Math.max(max, c.ratio), 0) || 1;
  const gap = 0.5 * em, w = S.size, h = Math.round(S.size * ratio), tall = h + 1.25 * em + gap;
  const wide = view.clientWidth, narrow = wide < 40 * em;
  const places = [], rowNames = [], columnNames = [];
  let told = TOLD;
  if (S.rows === 'none' || S.sort) {
    if (S.sort) cells = [...cells].sort((p, q) => compareNumbers(numberOf(p, S.sort), numberOf(q, S.sort)) || p.index - q.index);
    const across = Math.max(1, Math.floor((wide - gap) / (w + gap)));
    cells.forEach((cell, i) => places.push({cell, row: Math.floor(i / across), column: i % across}));
    layout = {places, across, left: 0, top: gap, rowNames, columnNames};
  } else {
    const axes = columnAxes(cells), rows = new Map(), columns = new Map();
    told = TOLD.filter((axis) => axis !== S.rows && !axes.includes(axis));
    const key = (c) => JSON.stringify(axes.map((axis) => AXES[axis].of(c)));
    for (const c of cells) {
      const r = AXES[S.rows].of(c), k = key(c);
      if (!rows.has(r)) rows.set(r, {at: rows.size, cells: []});
      rows.get(r).cells.push(c);
      if (!columns.has(k)) columns.set(k, {cell: c, k});
    }
    // What is equal along every row stands at its head, and not in each caption.
    const even = (axis) => [...rows.values()].every((row) => row.cells.every((c) => AXES[axis].of(c) === AXES[axis].of(row.cells[0])));
    const ofRows = told.filter(even);
    told = told.filter((axis) => !ofRows.includes(axis));
    for (const [r, row] of rows) rowNames.push([AXES[S.rows].text(r), ...tell(ofRows, row.cells[0])]);
    const order = [...columns.values()].sort((p, q) => {
      for (const axis of axes) {
        const a = AXES[axis].of(p.cell), b = AXES[axis].of(q.cell);
        if (a !== b) return a - b;
      }
      return 0;
    });
    const at = new Map(order.map((column, i) => [column.k, i]));
    for (const column of order) columnNames.push(tell(axes, column.cell).join(', ') || 'as it is');
    for (const c of cells) places.push({cell: c, row: rows.get(AXES[S.rows].of(c)).at, column: at.get(key(c))});
    layout = {places, across: order.length, left: S.rows === 'none' ? 0 : (narrow ? 6 : 14) * em, top: 1.7 * em + gap, rowNames, columnNames};
  }
  places.sort((p, q) => p.row - q.row || p.column - q.column);
  const lines = places.length ? places[places.length - 1].row + 1 : 0;
  Object.assign(layout, {w, h, gap, tall, lines, em, told, byRow: new Map(), count: cells.length});
  for (const place of places) {
    if (!layout.byRow.has(place.row)) layout.byRow.set(place.row, []);
    layout.byRow.get(place.row).push(place);
  }
  space.style.height = layout.top + lines * tall + 'px';
  space.style.width = Math.max(wide - 1, layout.left + layout.across * (w + gap)) + 'px';
  topBar.hidden = !columnNames.length;
  leftBar.hidden = !rowNames.length;
}

const nodes = new Map(); // what stands on the page, by cell
function nodeFor(cell) {
  const image = el('img', {alt: '', decoding: 'async', draggable: false, src: cell.path + G.files.thumb});
  const glow = el('span', {class: 'lit', hidden: true}), caption = el('small');
  const node = el('a', {class: 'cell', href: cell.path + 'report.html', tabIndex: -1, title: G.prompts[cell.prompt]}, el('span', {class: 'picture'}, image, glow), caption);
  return {node, glow, caption, state: ''};
}
function dress(item, cell) {
  const word = lit(), own = cell.byWord.get(word), k = Math.min(layout.w, layout.h / cell.ratio);
  const w = Math.round(k), h = Math.round(k * cell.ratio);
  const state = [w, h, word, S.own, S.cells, S.at === cell.index, S.sort, S.up, layout.told].join();
  if (item.state === state) return;
  item.state = state;
  const picture = item.node.firstChild;
  picture.style.width = w + 'px'; picture.style.height = h + 'px';
  item.node.classList.toggle('at', S.at === cell.index);
  item.node.classList.toggle('without', word >= 0 && !own);
  item.node.classList.toggle('grey', Boolean(own));
  item.glow.hidden = !own;
  if (own) {
    // One picture holds all words, each with its border rows doubled; show this one's rows alone.
    const row = h / cell.mapH, rows = cell.count * (cell.mapH + 2);
    item.glow.style.backgroundImage = `url("${cell.path}${G.files.maps}")`;
    item.glow.style.backgroundSize = `${w}px ${rows * row}px`;
    item.glow.style.backgroundPosition = `0 ${-(own.at * (cell.mapH + 2) + 1) * row}px`;
    item.glow.style.opacity = S.own ? 0.95 : Math.min(1, 0.95 * cell.top / TOP);
    item.glow.style.imageRendering = S.cells ? 'pixelated' : '';
  }
  const number = S.sort ? numberOf(cell, S.sort) : own ? own.numbers[SHARE] : null;
  const text = number === null ? '' : S.sort && !PER_CENT.test(S.sort.slice(2)) ? S.sort.slice(2) + ' ' + number : percent(number);
  item.caption.textContent = [text, ...tell(layout.told, cell), word >= 0 && !own ? 'not in the prompt' : '', ...cell.unmet.map((at) => 'not: ' + G.expectations[at])].filter(Boolean).join(' · ');
  item.caption.style.width = w + 'px';
  item.node.setAttribute('aria-label', G.prompts[cell.prompt] + ', seed ' + cell.seed + (item.caption.textContent ? ', ' + item.caption.textContent : ''));
}
function draw() {
  const {left, top, w, gap, tall, em} = layout;
  const first = Math.max(0, Math.floor((view.scrollTop - top) / tall) - 1), last = Math.ceil((view.scrollTop + view.clientHeight - top) / tall) + 1;
  const from = Math.floor((view.scrollLeft - left) / (w + gap)) - 1, to = Math.ceil((view.scrollLeft + view.clientWidth - left) / (w + gap)) + 1;
  const wanted = new Set();
  for (let row = first; row <= last; row++) {
    for (const {cell, column} of layout.byRow.get(row) || []) {
      if (column < from || column > to) continue;
      wanted.add(cell.index);
      let item = nodes.get(cell.index);
      if (!item) { item = nodeFor(cell); nodes.set(cell.index, item); space.append(item.node); }
      item.node.style.transform = `translate(${left + column * (w + gap)}px, ${top + row * tall}px)`;
      dress(item, cell);
    }
  }
  for (const [index, item] of nodes) if (!wanted.has(index)) { item.node.remove(); nodes.delete(index); }
  topBar.replaceChildren(...layout.columnNames.map((text, i) => ({text, i})).filter(({i}) => i >= from && i <= to).map(({text, i}) => {
    const span = el('span', {text, title: text});
    Object.assign(span.style, {left: left + i * (w + gap) + 'px', width: w + 'px', top: '0.35rem'});
    return span;
  }));
  leftBar.replaceChildren(...layout.rowNames.map((text, i) => ({text, i})).filter(({i}) => i >= first && i <= last).map(({text, i}) => {
    const span = el('span', {title: text.join(', ')}, el('bdi', {text: text[0]}), text.slice(1).map((note) => el('small', {text: note})));
    Object.assign(span.style, {left: '0', width: left - 0.2 * em + 'px', top: top + i * tall - (layout.columnNames.length ? 1.7 * em : 0) + 'px', height: tall - gap + 'px'});
    return span;
  }));
  count.textContent = layout.count === CELLS.length ? plural(CELLS.length, 'image') : layout.count + ' of ' + plural(CELLS.length, 'image');
  none.hidden = layout.count > 0;
}

let arranged = '', queued = false;
function set(patch) {
  Object.assign(S, patch);
  if (queued) return;
  queued = true;
  requestAnimationFrame(refresh);
}
function refresh() {
  queued = false;
  const key = JSON.stringify([S.rows, S.columns, S.sort, S.up, S.find, S.show, S.size, view.clientWidth, S.sort.startsWith('w:') && S.word]);
  if (key !== arranged) { arranged = key; arrange(); }
  for (const button of wordButtons) {
    button.classList.toggle('lit', button.word === lit());
    button.setAttribute('aria-pressed', String(button.word === S.word));
  }
  rows.value = S.rows; columns.value = S.columns; find.value = S.find; show.value = S.show; size.value = S.size; up.show(S.up); own.show(S.own); crisp.show(S.cells);
  offerSorts();
  draw();
  const parts = Object.keys(DEFAULTS).filter((k) => k !== 'hover' && S[k] !== DEFAULTS[k]).map((k) => k + '=' + encodeURIComponent(k === 'word' ? G.words[S.word] ?? '' : k === 'at' ? (CELLS[S.at] ? CELLS[S.at].name : '') : String(S[k])));
  try { history.replaceState(null, '', '#' + parts.join('&')); } catch { /* file:// may refuse */ }
}
function readHash() {
  const patch = {...DEFAULTS};
  for (const part of location.hash.slice(1).split('&')) {
    const at = part.indexOf('='), key = part.slice(0, at);
    let value = part.slice(at + 1);
    try { value = decodeURIComponent(value); } catch { continue; }
    if ((key === 'rows' || key === 'columns') && (value === 'none' || OFFERED.includes(value))) patch[key] = value;
    else if (key === 'word') patch.word = G.words.indexOf(value);
    else if (key === 'at') patch.at = CELLS.findIndex((c) => c.name === value);
    else if (key === 'find') patch.find = value;
    else if (key === 'show' && Object.hasOwn(SHOWN, value)) patch.show = value;
    else if (key === 'sort' && (value === '' || SORTS.includes(value))) patch.sort = value;
    else if (key === 'size' && Number(value) >= 48 && Number(value) <= 512) patch.size = Number(value);
    else if (key === 'up' || key === 'own' || key === 'cells') patch[key] = value === 'true';
  }
  return patch;
}

const count = el('span'), none = el('p', {class: 'empty', hidden: true, text: 'No image fits the filter.'});
const wordButtons = WORDS.slice(0, 120).map((word) => {
  const button = el('button', {type: 'button', 'aria-pressed': 'false', 'aria-label': G.words[word] + ', in ' + plural(frequency.get(word), 'image'),
    onclick: () => set({word: S.word === word ? -1 : word, hover: -1, sort: S.word === word && S.sort.startsWith('w:') ? '' : S.sort}),
    onpointerenter: (e) => { if (e.pointerType !== 'touch') set({hover: word}); }, onpointerleave: () => { if (S.hover === word) set({hover: -1}); },
    onfocus: () => { if (button.matches(':focus-visible')) set({hover: word}); }, onblur: () => { if (S.hover === word) set({hover: -1}); },
  }, el('bdi', {text: G.words[word]}), ' ', el('small', {text: String(frequency.get(word))}));
  button.word = word;
  return button;
});
const axisSelect = (key) => el('select', {onchange: (e) => set({[key]: e.target.value, sort: '', ...(e.target.value === S[key === 'rows' ? 'columns' : 'rows'] ? {[key === 'rows' ? 'columns' : 'rows']: 'none'} : {})})},
  el('option', {value: 'none', text: 'none'}), OFFERED.map((axis) => el('option', {value: axis, text: AXES[axis].label})));
const rows = axisSelect('rows'), columns = axisSelect('columns');
const sort = el('select', {onchange: () => set({sort: sort.value})});
let sortsFor = null;
function offerSorts() {
  if (sortsFor !== S.word) {
    sortsFor = S.word;
    const varies = (k) => { const seen = new Set(CELLS.map((c) => c.numbers[k])); return seen.size > 1; };
    sort.replaceChildren(el('option', {value: '', text: 'not sorted'}),
      ...G.numbers.map((name, k) => [name, k]).filter(([, k]) => varies(k)).map(([name, k]) => el('option', {value: 'n:' + name, text: name})),
      ...(S.word >= 0 ? WORD_NUMBERS.map((name) => el('option', {value: 'w:' + name, text: '“' + G.words[S.word] + '” ' + name})) : []));
  }
  sort.value = S.sort;
}
const up = check('smallest first', false, (v) => set({up: v}));
const find = el('input', {type: 'search', placeholder: 'words in the prompt', 'aria-label': 'Show only prompts with these words', oninput: () => set({find: find.value})});
const show = el('select', {onchange: () => set({show: show.value})}, Object.entries(SHOWN).map(([value, {label}]) => el('option', {value, text: label})));
const size = el('input', {type: 'range', min: 64, max: 384, step: 8, 'aria-label': 'Size of the pictures', oninput: () => set({size: Number(size.value)})});
const own = check('each on its own scale', false, (v) => set({own: v}), 'Otherwise one scale for all cells and words');
const crisp = check('true cells', false, (v) => set({cells: v}));
const space = el('div', {class: 'space'}), topBar = el('div', {class: 'top'}), leftBar = el('div', {class: 'left'});
space.append(topBar, leftBar, none);
const view = el('div', {class: 'view', tabIndex: 0, role: 'application', 'aria-label': 'Images. Arrow keys move among them, Enter opens the report of one.'}, space);
const failures = G.failures.length ? el('details', {class: 'failures'}, el('summary', {text: plural(G.failures.length, 'cell') + ' could not be made'}),
  el('ul', {}, G.failures.map((f) => el('li', {}, el('b', {text: f.prompt, dir: 'auto'}), ', seed ' + f.seed + ', ' + f.model + ': ' + f.error)))) : null;
document.body.append(el('main', {class: 'page'}, el('header', {},
  el('p', {class: 'meta'}, el('span', {class: 'mark', text: 'attnmap'}), G.coverage ? el('a', {href: G.coverage, text: 'Which caption words are found'}) : null, count), el('h1', {class: 'unseen', text: 'Gallery'}),
  el('div', {class: 'words', role: 'group', 'aria-label': 'Words to light up in all images'}, wordButtons),
  el('div', {class: 'tools'}, find, G.expectations.length ? el('label', {}, el('span', {text: 'Show'}), show) : null, el('label', {}, el('span', {text: 'Rows'}), rows), el('label', {}, el('span', {text: 'Columns'}), columns),
    el('label', {}, el('span', {text: 'Sort'}), sort), up, el('label', {}, el('span', {text: 'Size'}), size), own, crisp,
    el('span', {class: 'honest soft', text: 'Attention shows where the model looked, not why.'})), failures), view));

view.addEventListener('scroll', () => { if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; draw(); }); } }, {passive: true});
new ResizeObserver(() => { if (layout) set({}); }).observe(view);
view.addEventListener('keydown', (event) => {
  const move = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[event.key];
  if (event.key === 'Enter' && CELLS[S.at]) { location.href = CELLS[S.at].path + 'report.html'; return; }
  if (!move || !layout.places.length) return;
  event.preventDefault();
  const now = layout.places.find((p) => p.cell.index === S.at);
  let next = layout.places[0];
  if (now) {
    const row = layout.byRow.get(now.row + move[0]) || [];
    next = row.reduce((best, p) => (!best || Math.abs(p.column - now.column - move[1]) < Math.abs(best.column - now.column - move[1]) ? p : best), null) || now;
  }
  const y = layout.top + next.row * layout.tall, x = layout.left + next.column * (layout.w + layout.gap);
  if (y - layout.top < view.scrollTop) view.scrollTop = y - layout.top;
  else if (y + layout.tall > view.scrollTop + view.clientHeight) view.scrollTop = y + layout.tall - view.clientHeight;
  if (x - layout.left < view.scrollLeft) view.scrollLeft = x - layout.left;
  else if (x + layout.w > view.scrollLeft + view.clientWidth) view.scrollLeft = x + layout.w - view.clientWidth;
  set({at: next.cell.index});
  announce(G.prompts[next.cell.prompt] + ', seed ' + next.cell.seed);
});
window.addEventListener('keydown', (event) => { if (event.key === 'Escape') set({word: -1, hover: -1, sort: S.sort.startsWith('w:') ? '' : S.sort}); });
Object.assign(S, readHash());
refresh();
if (S.at >= 0) {
  const place = layout.places.find((p) => p.cell.index === S.at);
  if (place) { view.scrollTop = Math.max(0, place.row * layout.tall - view.clientHeight / 3); view.scrollLeft = Math.max(0, place.column * (layout.w + layout.gap) - view.clientWidth / 3); }
}
requestAnimationFrame(() => requestAnimationFrame(() => {
  document.documentElement.dataset.opened = String(Math.round(performance.now()));
  document.documentElement.dataset.built = String(Math.round(performance.now() - started));
  document.documentElement.dataset.ready = 'true';
}));
