// The page of a gallery: its tools, its place in the address, and its keys.
const hashText = () =>
  Object.keys(DEFAULTS)
    .filter((k) => k !== 'hover' && S[k] !== DEFAULTS[k])
    .map(
      (k) =>
        k +
        '=' +
        encodeURIComponent(
          k === 'word'
            ? (G.words[S.word] ?? '')
            : k === 'at' || k === 'open' || k === 'kept'
              ? CELLS[S[k]]
                ? CELLS[S[k]].name
                : ''
              : String(S[k]),
        ),
    )
    .join('&');
let written = null;
const remember = () => ({...(history.state || {}), top: view.scrollTop, left: view.scrollLeft});
function write(text) {
  written = text;
  try {
    history.replaceState(remember(), '', '#' + text);
  } catch {
    /* file:// may refuse */
  }
}
// A step that the browser's way back undoes: an image is opened.
function push() {
  try {
    history.replaceState(remember(), '', location.href);
    history.pushState({...remember(), large: true}, '', '#' + (written = hashText()));
  } catch {
    /* as above */
  }
}
function readHash() {
  const patch = {...DEFAULTS};
  for (const part of location.hash.slice(1).split('&')) {
    const at = part.indexOf('=');
    const key = part.slice(0, at);
    let value = part.slice(at + 1);
    try {
      value = decodeURIComponent(value);
    } catch {
      continue;
    }
    if ((key === 'rows' || key === 'columns') && (value === 'none' || OFFERED.includes(value))) patch[key] = value;
    else if (key === 'word') patch.word = G.words.indexOf(value);
    else if (key === 'at' || key === 'open' || key === 'kept') patch[key] = CELLS.findIndex((c) => c.name === value);
    else if (key === 'find') patch.find = value;
    else if (key === 'show' && Object.hasOwn(FILTERS, value)) patch.show = value;
    else if (key === 'mode' && MODES.some(([mode]) => mode === value)) patch.mode = value;
    else if (key === 'split' && Number(value) >= 0 && Number(value) <= 100) patch.split = Number(value);
    else if (key === 'sort' && (value === '' || SORTS.includes(value))) patch.sort = value;
    else if (key === 'size' && Number(value) >= 48 && Number(value) <= 512) patch.size = Number(value);
    else if (key === 'up' || key === 'own' || key === 'cells') patch[key] = value === 'true';
  }
  return patch;
}

let arranged = '';
let queued = false;
function set(patch) {
  Object.assign(S, patch);
  if (queued) return;
  queued = true;
  requestAnimationFrame(refresh);
}
function refresh() {
  queued = false;
  const key = JSON.stringify([
    S.rows,
    S.columns,
    S.sort,
    S.up,
    S.find,
    S.show,
    S.size,
    view.clientWidth,
    S.sort.startsWith('w:') && S.word,
  ]);
  if (key !== arranged) {
    arranged = key;
    arrange();
  }
  for (const button of wordButtons) {
    button.classList.toggle('lit', button.word === lit());
    button.setAttribute('aria-pressed', String(button.word === S.word));
  }
  rows.value = S.rows;
  columns.value = S.columns;
  find.value = S.find;
  show.value = S.show;
  size.value = S.size;
  up.show(S.up);
  own.show(S.own);
  crisp.show(S.cells);
  // Rows and columns are of the images as they were made; a sorted list has none.
  rows.disabled = columns.disabled = S.sort !== '';
  up.hidden = S.sort === '';
  offerSorts();
  legend.hidden = lit() < 0;
  legendEnds[1].textContent = S.own ? 'each image’s highest' : percent(TOP) + ' of a step’s attention';
  const kept = CELLS[S.kept];
  basket.hidden = !kept || S.open >= 0;
  if (kept) {
    basketPicture.src = kept.path + G.files.thumb;
    basketText.textContent =
      'Kept: ' + (tell(TOLD, kept).join(' · ') || promptOf(kept)) + '. Open another image to compare.';
  }
  draw();
  drawLarge();
  const text = hashText();
  if (text !== written) write(text);
}

const count = el('span');
const none = el('p', {class: 'empty', hidden: true, text: 'No image fits the filter.'});
const wordButtons = WORDS.slice(0, 120).map((word, place) => {
  const button = el(
    'button',
    {
      type: 'button',
      'aria-pressed': 'false',
      tabIndex: place ? -1 : 0,
      'aria-label': G.words[word] + ', in ' + plural(frequency.get(word), 'image'),
      onclick: () =>
        set({
          word: S.word === word ? -1 : word,
          hover: -1,
          sort: S.word === word && S.sort.startsWith('w:') ? '' : S.sort,
        }),
      onpointerenter: (e) => {
        if (e.pointerType !== 'touch') set({hover: word});
      },
      onpointerleave: () => {
        if (S.hover === word) set({hover: -1});
      },
      onfocus: () => {
        if (button.matches(':focus-visible')) set({hover: word});
      },
      onblur: () => {
        if (S.hover === word) set({hover: -1});
      },
    },
    el('bdi', {text: G.words[word]}),
    ' ',
    el('small', {text: String(frequency.get(word))}),
  );
  button.word = word;
  return button;
});
const words = el(
  'div',
  {class: 'words', role: 'group', 'aria-label': 'Words to light up in all images; arrow keys move among them'},
  wordButtons,
);
// One tab stop for all words; arrows move among them.
words.addEventListener('keydown', (event) => {
  const move = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity}[event.key];
  const at = wordButtons.indexOf(event.target.closest('button'));
  if (move === undefined || at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const next = wordButtons[Math.min(wordButtons.length - 1, Math.max(0, at + move))];
  for (const button of wordButtons) button.tabIndex = button === next ? 0 : -1;
  next.focus();
});
const axisSelect = (key, label) => {
  const other = key === 'rows' ? 'columns' : 'rows';
  return el(
    'select',
    {
      'aria-label': label,
      onchange: (e) => set({[key]: e.target.value, ...(e.target.value === S[other] ? {[other]: 'none'} : {})}),
    },
    el('option', {value: 'none', text: 'none'}),
    OFFERED.map((name) => el('option', {value: name, text: AXES[name].label})),
  );
};
const rows = axisSelect('rows', 'Rows');
const columns = axisSelect('columns', 'Columns');
const sort = el('select', {onchange: () => set({sort: sort.value})});
let sortsFor = null;
function offerSorts() {
  if (sortsFor !== S.word) {
    sortsFor = S.word;
    const varies = (k) => new Set(CELLS.map((c) => c.numbers[k])).size > 1;
    const own = G.numbers.map((name, k) => [name, k]).filter(([name, k]) => !USELESS.test(name) && varies(k));
    sort.replaceChildren(
      el('option', {value: '', text: 'by rows and columns'}),
      ...own.map(([name]) => el('option', {value: 'n:' + name, text: plainly(name)})),
      ...(S.word >= 0
        ? WORD_NUMBERS.filter((name) => !USELESS.test(name)).map((name) =>
            el('option', {value: 'w:' + name, text: '“' + G.words[S.word] + '”: ' + plainly(name)}),
          )
        : []),
    );
  }
  sort.value = S.sort;
}
const up = check('smallest first', false, (v) => set({up: v}));
const show = el(
  'select',
  {'aria-label': 'Show only some images', onchange: () => set({show: show.value})},
  Object.entries(FILTERS).map(([value, {label}]) => el('option', {value, text: label})),
);
const find = el('input', {
  type: 'search',
  placeholder: 'words in the prompt',
  'aria-label': 'Show only prompts with these words',
  oninput: () => set({find: find.value}),
});
const size = el('input', {
  type: 'range',
  min: 64,
  max: 384,
  step: 8,
  'aria-label': 'Size of the pictures',
  oninput: () => set({size: Number(size.value)}),
});
const own = check('each on its own scale', false, (v) => set({own: v}), 'Otherwise one scale for all images and words');
const crisp = check('true cells', false, (v) => set({cells: v}));
const legendEnds = [el('span', {text: '0'}), el('span')];
const legend = el(
  'span',
  {class: 'legend', hidden: true, title: 'How strongly a place is looked at for the lit word'},
  legendEnds[0],
  el('i'),
  legendEnds[1],
);
const basketPicture = el('img', {alt: ''});
const basketText = el('span');
const basket = el(
  'p',
  {class: 'basket', hidden: true},
  basketPicture,
  basketText,
  el('button', {class: 'quiet', type: 'button', text: 'Show it', onclick: () => openCell(S.kept)}),
  el('button', {class: 'quiet', type: 'button', text: 'No longer keep', onclick: () => set({kept: -1})}),
);
const missing = el('p', {
  class: 'missing',
  role: 'alert',
  hidden: true,
  text:
    'The images are not here: this page shows the folder “' +
    G.files.cells +
    '” that lies beside it. Copy the whole folder, or pack it with: attnmap gallery FOLDER --pack gallery.zip',
});
const space = el('div', {class: 'space'});
const topBar = el('div', {class: 'top'});
const leftBar = el('div', {class: 'left'});
space.append(topBar, leftBar, none);
const view = el(
  'div',
  {
    class: 'view',
    tabIndex: 0,
    role: 'application',
    'aria-label': 'Images. Arrow keys move among them, Enter opens one large, C keeps one to compare.',
  },
  space,
);
const failures = G.failures.length
  ? el(
      'details',
      {class: 'failures', open: G.failures.length < 5},
      el('summary', {text: plural(G.failures.length, 'image') + ' could not be made'}),
      el(
        'ul',
        {},
        G.failures.map((f) =>
          el(
            'li',
            {},
            el('b', {text: f.prompt, dir: 'auto'}),
            ', ' + ['seed ' + f.seed, ...f.asked, f.model, f.lora].filter(Boolean).join(', ') + ': ' + f.error,
          ),
        ),
      ),
    )
  : null;
const onePrompt =
  CELLS.length && variety('base') === 1
    ? textOf(CELLS[0], 'base')
    : CELLS.length && !OFFERED.includes('prompt')
      ? promptOf(CELLS[0])
      : '';
const common = CELLS.length ? tell(COMMON, CELLS[0]).join(' · ') : '';
const tool = (text, ...inside) => el('label', {}, el('span', {text}), inside);
document.body.append(
  el(
    'main',
    {class: 'page'},
    el(
      'header',
      {},
      el(
        'p',
        {class: 'meta'},
        el('span', {class: 'mark', text: 'attnmap'}),
        count,
        G.coverage ? el('a', {href: G.coverage, text: 'Which caption words are found'}) : null,
        el('span', {class: 'common', text: common, title: common}),
      ),
      el('h1', {class: onePrompt ? 'prompt' : 'unseen', dir: 'auto', text: onePrompt || 'Gallery'}),
      words,
      el(
        'div',
        {class: 'tools'},
        Object.keys(FILTERS).length > 1 ? tool('Show', show) : null,
        OFFERED.includes('prompt') ? find : null,
        OFFERED.length ? [tool('Rows', rows), tool('Columns', columns)] : null,
        tool('Sort', sort),
        up,
        tool('Size', size),
        own,
        crisp,
        legend,
        CELLS.some((cell) => cell.notes.length)
          ? el('span', {class: 'legend'}, el('b', {class: 'noted', 'aria-hidden': 'true'}), 'something is noted')
          : null,
        el('span', {class: 'honest soft', text: 'Attention shows where the model looked, not why.'}),
      ),
      missing,
      failures,
      basket,
    ),
    view,
  ),
);

view.addEventListener(
  'scroll',
  () => {
    if (!queued) {
      queued = true;
      requestAnimationFrame(() => {
        queued = false;
        draw();
      });
    }
  },
  {passive: true},
);
new ResizeObserver(() => {
  if (layout) set({});
}).observe(view);
const KEPT = 'attnmap gallery ' + location.pathname;
addEventListener('pagehide', () => {
  write(hashText());
  try {
    sessionStorage.setItem(KEPT, written);
  } catch {
    /* no storage, no memory */
  }
});
addEventListener('popstate', (event) => {
  // The way back from a large image closes it alone: what was kept and lit there stays.
  const closes = S.open >= 0 && event.state !== null && !event.state.large;
  Object.assign(S, closes ? {open: -1} : readHash(), {hover: -1});
  written = closes ? null : hashText();
  set({});
});
view.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const move = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[event.key];
  if (event.key === 'Enter' && CELLS[S.at]) {
    event.preventDefault();
    openCell(S.at);
    return;
  }
  if (event.key === 'c' && CELLS[S.at]) {
    keepCell(S.at);
    return;
  }
  if (!move || !layout.places.length) return;
  event.preventDefault();
  const now = layout.places[layout.order.get(S.at)];
  let next = layout.places[0];
  if (now) {
    const row = layout.byRow.get(now.row + move[0]) || [];
    next =
      row.reduce(
        (best, p) =>
          !best || Math.abs(p.column - now.column - move[1]) < Math.abs(best.column - now.column - move[1]) ? p : best,
        null,
      ) || now;
  }
  scrollTo(next);
  set({at: next.cell.index});
  announce(labelOf(next.cell));
});
addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && S.open < 0) set({word: -1, hover: -1, sort: S.sort.startsWith('w:') ? '' : S.sort});
});

// The page of a cell asks for its neighbour: this page knows the order, and goes there.
const asked = new URLSearchParams(location.hash.slice(1));
const beside = asked.get('beside');
if (beside) {
  let kept = '';
  try {
    kept = sessionStorage.getItem(KEPT) || '';
  } catch {
    /* the usual order */
  }
  try {
    history.replaceState(null, '', '#' + kept);
  } catch {
    /* as above */
  }
  Object.assign(S, readHash(), {word: G.words.indexOf(asked.get('word') || ''), open: -1});
  arrange();
  const at = layout.order.get(CELLS.findIndex((c) => c.name === beside));
  const next = at === undefined ? null : layout.places[at + Number(asked.get('step') || 0)];
  S.at = next ? next.cell.index : CELLS.findIndex((c) => c.name === beside);
  if (next) {
    write(hashText());
    location.replace(pageOf(next.cell));
  }
} else Object.assign(S, readHash());
const back = history.state && history.state.top !== undefined ? history.state : null;
refresh();
if (back) {
  view.scrollTop = back.top;
  view.scrollLeft = back.left;
  draw();
} else if (CELLS[S.at]) {
  const place = layout.places[layout.order.get(S.at)];
  if (place) {
    view.scrollTop = Math.max(0, layout.ys[place.row] - view.clientHeight / 3);
    view.scrollLeft = Math.max(0, layout.left + place.column * (layout.w + layout.gap) - view.clientWidth / 3);
    draw();
  }
}
requestAnimationFrame(() =>
  requestAnimationFrame(() => {
    document.documentElement.dataset.opened = String(Math.round(performance.now()));
    document.documentElement.dataset.built = String(Math.round(performance.now() - started));
    document.documentElement.dataset.ready = 'true';
  }),
);
