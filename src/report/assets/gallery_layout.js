// Where each cell stands: by two axes, in sections of all others, or sorted by a number; and what
// of it is drawn.

// With one prompt, what is left out of it says more than the prompts that are left.
const ownRows =
  OFFERED.includes('without') && !OFFERED.includes('base')
    ? 'without'
    : OFFERED.includes('prompt')
      ? 'prompt'
      : OFFERED.find((name) => name !== 'seed' && OFFERED.length > 1) || 'none';
const ownColumns =
  OFFERED.find((name) => name === 'seed' && name !== ownRows) ||
  OFFERED.find(
    (name) =>
      name !== ownRows &&
      !(ownRows === 'prompt' && ['base', 'replaced', 'weighted', 'without'].includes(name)) &&
      !(ownRows === 'without' && name === 'prompt'),
  ) ||
  'none';

const S = {
  rows: ownRows,
  columns: ownColumns,
  sort: '',
  up: false,
  find: '',
  show: '',
  word: -1,
  hover: -1,
  size: 160,
  own: false,
  cells: false,
  at: -1,
  open: -1,
  kept: -1,
  mode: 'beside',
  split: 50,
};
const DEFAULTS = {...S};
const lit = () => (S.hover >= 0 ? S.hover : S.word);

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

// Whatever else than rows and columns tells cells of one place apart.
function otherAxes(cells, taken) {
  const axes = [];
  for (const name of OFFERED) {
    if (taken.includes(name)) continue;
    const seen = new Map();
    const apart = cells.some((c) => {
      const place = JSON.stringify([...taken, ...axes].map((own) => AXES[own].of(c)));
      const value = AXES[name].of(c);
      if (!seen.has(place)) seen.set(place, value);
      return seen.get(place) !== value;
    });
    if (apart) axes.push(name);
  }
  return axes;
}
// Every combination of `axes` that a cell has, in the order of their values.
function combinations(cells, axes) {
  const keyOf = (c) => JSON.stringify(axes.map((name) => AXES[name].of(c)));
  const found = new Map();
  for (const c of cells) if (!found.has(keyOf(c))) found.set(keyOf(c), c);
  const order = [...found.entries()].sort((p, q) => {
    for (const name of axes) {
      const a = AXES[name].of(p[1]);
      const b = AXES[name].of(q[1]);
      if (a !== b) return a - b;
    }
    return 0;
  });
  return {
    keyOf,
    list: order.map(([key, cell]) => ({key, text: tell(axes, cell).join(', ') || 'as it is'})),
    at: new Map(order.map(([key], i) => [key, i])),
  };
}

const fits = (cell) => {
  const needles = S.find.toLowerCase().split(/\s+/).filter(Boolean);
  const prompt = promptOf(cell).toLowerCase();
  return FILTERS[S.show].fits(cell) && needles.every((needle) => prompt.includes(needle));
};

let layout = null;
function arrange() {
  let cells = CELLS.filter(fits);
  const em = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const ratio = cells.reduce((max, c) => Math.max(max, c.ratio), 0) || 1;
  const gap = 0.5 * em;
  const w = S.size;
  const h = Math.round(S.size * ratio);
  const tall = h + 1.25 * em + gap;
  const wide = view.clientWidth;
  const narrow = wide < 40 * em;
  const places = [];
  const rowNames = [];
  const heads = [];
  const ys = [];
  let columnNames = [];
  let told = TOLD;
  let left = 0;
  let top = gap;
  let across = 1;
  let y = 0;
  if (S.rows === 'none' || S.sort) {
    if (S.sort)
      cells = [...cells].sort((p, q) => compareNumbers(numberOf(p, S.sort), numberOf(q, S.sort)) || p.index - q.index);
    across = Math.max(1, Math.floor((wide - gap) / (w + gap)));
    cells.forEach((cell, i) => places.push({cell, row: Math.floor(i / across), column: i % across}));
    for (let row = 0; row * across < cells.length; row++, y += tall) ys.push(top + y);
  } else {
    const chosen = S.columns === 'none' ? [] : [S.columns];
    const others = otherAxes(cells, [S.rows, ...chosen]);
    const columns = combinations(cells, chosen.length ? chosen : others);
    const sections = combinations(cells, chosen.length ? others : []);
    told = TOLD.filter((name) => name !== S.rows && !chosen.includes(name) && !others.includes(name));
    // What is equal along every row stands at its head, and not in each caption.
    const all = new Map();
    for (const c of cells) {
      const r = AXES[S.rows].of(c);
      if (!all.has(r)) all.set(r, []);
      all.get(r).push(c);
    }
    const even = (name) =>
      [...all.values()].every((row) => row.every((c) => AXES[name].of(c) === AXES[name].of(row[0])));
    const ofRows = told.filter(even);
    told = told.filter((name) => !ofRows.includes(name));
    columnNames = columns.list.map((column) => column.text);
    left = (narrow ? 6 : 14) * em;
    top = 1.7 * em + gap;
    across = columns.list.length;
    const bySection = sections.list.map(() => new Map());
    for (const c of cells) {
      const rows = bySection[sections.at.get(sections.keyOf(c))];
      const r = AXES[S.rows].of(c);
      if (!rows.has(r)) rows.set(r, []);
      rows.get(r).push(c);
    }
    bySection.forEach((rows, section) => {
      if (sections.list.length > 1) {
        heads.push({y: top + y, text: sections.list[section].text});
        y += 2 * em;
      }
      const order = S.rows === 'prompt' ? [...rows] : [...rows].sort((p, q) => p[0] - q[0]);
      for (const [r, list] of order) {
        for (const cell of list) places.push({cell, row: ys.length, column: columns.at.get(columns.keyOf(cell))});
        rowNames.push([AXES[S.rows].text(r), ...tell(ofRows, list[0])]);
        ys.push(top + y);
        y += tall;
      }
    });
  }
  places.sort((p, q) => p.row - q.row || p.column - q.column);
  layout = {
    places,
    across,
    left,
    top,
    rowNames,
    columnNames,
    heads,
    ys,
    w,
    h,
    gap,
    tall,
    em,
    told,
    byRow: new Map(),
    count: cells.length,
    order: new Map(places.map((place, i) => [place.cell.index, i])),
  };
  for (const place of places) {
    if (!layout.byRow.has(place.row)) layout.byRow.set(place.row, []);
    layout.byRow.get(place.row).push(place);
  }
  space.style.height = top + y + 'px';
  space.style.width = Math.max(wide - 1, left + across * (w + gap)) + 'px';
  topBar.hidden = !columnNames.length;
  leftBar.hidden = !rowNames.length;
}
// The first row whose lower edge is below `y`.
function rowAt(y) {
  let low = 0;
  let high = layout.ys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (layout.ys[middle] + layout.tall < y) low = middle + 1;
    else high = middle;
  }
  return low;
}
function scrollTo({cell}) {
  const place = layout.places[layout.order.get(cell.index)];
  if (!place) return;
  const y = layout.ys[place.row];
  const x = layout.left + place.column * (layout.w + layout.gap);
  if (y - layout.top < view.scrollTop) view.scrollTop = y - layout.top;
  else if (y + layout.tall > view.scrollTop + view.clientHeight) view.scrollTop = y + layout.tall - view.clientHeight;
  if (x - layout.left < view.scrollLeft) view.scrollLeft = x - layout.left;
  else if (x + layout.w > view.scrollLeft + view.clientWidth) view.scrollLeft = x + layout.w - view.clientWidth;
}

const pageOf = (cell) => cell.path + G.files.page + (S.word >= 0 ? '#word=' + encodeURIComponent(G.words[S.word]) : '');
// The maps of a cell as one picture, shifted so that one word's shows at `w` by `h` pixels.
function paintGlow(glow, cell, word, w, h) {
  const own = cell.byWord.get(word);
  glow.hidden = !own;
  if (!own) return;
  // Each map has its border rows doubled.
  const row = h / cell.mapH;
  const rows = cell.count * (cell.mapH + 2);
  glow.style.backgroundImage = `url("${cell.path}${G.files.maps}")`;
  glow.style.backgroundSize = `${w}px ${rows * row}px`;
  glow.style.backgroundPosition = `0 ${-(own.at * (cell.mapH + 2) + 1) * row}px`;
  glow.style.opacity = S.own ? 0.95 : Math.min(1, (0.95 * cell.top) / TOP);
  glow.style.imageRendering = S.cells ? 'pixelated' : '';
}
// A name that no other cell has.
const labelOf = (cell) =>
  [promptOf(cell), ...tell(TOLD, cell)].join(', ') + (OFFERED.includes('seed') ? '' : ', seed ' + cell.seed);

const nodes = new Map(); // what stands on the page, by cell
let shownOnce = false;
let broken = 0;
function nodeFor(cell) {
  const image = el('img', {
    alt: '',
    decoding: 'async',
    draggable: false,
    src: cell.path + G.files.thumb,
    onload: () => {
      shownOnce = true;
      missing.hidden = true;
    },
    onerror: () => {
      broken += 1;
      missing.hidden = shownOnce || broken < 1;
    },
  });
  const glow = el('span', {class: 'lit', hidden: true});
  const caption = el('small');
  const noted = el('i', {
    class: 'noted',
    hidden: !cell.notes.length,
    title: cell.notes.map((note) => G.notes[note[1]]).join('\n'),
  });
  const link = el(
    'a',
    {
      href: pageOf(cell),
      tabIndex: -1,
      onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button) return;
        event.preventDefault();
        openCell(cell.index);
      },
    },
    el('span', {class: 'picture'}, image, glow, noted),
    caption,
  );
  const keep = el('button', {
    class: 'keep',
    type: 'button',
    tabIndex: -1,
    text: '⇄',
    title: 'Keep to compare',
    onclick: () => keepCell(cell.index),
  });
  const node = el('div', {class: 'cell', title: promptOf(cell)}, link, keep);
  return {node, link, glow, caption, keep, state: ''};
}
function dress(item, cell) {
  const word = lit();
  const own = cell.byWord.get(word);
  const k = Math.min(layout.w, layout.h / cell.ratio);
  const w = Math.round(k);
  const h = Math.round(k * cell.ratio);
  const state = [
    w,
    h,
    word,
    S.word,
    S.own,
    S.cells,
    S.at === cell.index,
    S.kept === cell.index,
    S.sort,
    S.up,
    layout.told,
  ].join();
  if (item.state === state) return;
  item.state = state;
  const picture = item.link.firstChild;
  picture.style.width = w + 'px';
  picture.style.height = h + 'px';
  item.node.classList.toggle('at', S.at === cell.index);
  item.node.classList.toggle('kept', S.kept === cell.index);
  item.node.classList.toggle('without', word >= 0 && !own);
  item.node.classList.toggle('grey', Boolean(own));
  paintGlow(item.glow, cell, word, w, h);
  item.link.href = pageOf(cell);
  const number = S.sort ? numberOf(cell, S.sort) : own ? own.numbers[SHARE] : null;
  const sorted = S.sort ? S.sort.slice(2) : '';
  const shown = !sorted || PER_CENT.test(sorted) ? percent(number) : number;
  const text = number === null ? '' : !sorted || NAMELESS.test(sorted) ? shown : plainly(sorted) + ' ' + shown;
  const changed = textOf(cell, 'without') ? cell.numbers[CHANGED] : undefined;
  // What was not met comes first: a narrow caption shows its beginning.
  const parts = (change) =>
    [
      ...cell.unmet.map((at) => 'not: ' + G.expectations[at]),
      text,
      changed === undefined ? '' : percent(changed) + change,
      ...tell(layout.told, cell),
      word >= 0 && !own ? 'not in the prompt' : '',
    ]
      .filter(Boolean)
      .join(' · ');
  item.caption.textContent = parts(' changed');
  item.caption.title = parts(' of the image changed');
  item.caption.style.width = w + 'px';
  const label = labelOf(cell);
  item.link.setAttribute(
    'aria-label',
    [
      label,
      text,
      word >= 0 && !own ? 'the word is not in the prompt' : '',
      ...cell.notes.map((note) => G.notes[note[1]]),
      ...cell.unmet.map((at) => 'not: ' + G.expectations[at]),
    ]
      .filter(Boolean)
      .join(', '),
  );
  item.keep.setAttribute('aria-label', 'Keep to compare: ' + label);
}
function draw() {
  const {left, top, w, gap, tall, em, ys, heads} = layout;
  const low = view.scrollTop - tall;
  const high = view.scrollTop + view.clientHeight + tall;
  const first = rowAt(low);
  const last = Math.min(ys.length - 1, rowAt(high));
  const from = Math.floor((view.scrollLeft - left) / (w + gap)) - 1;
  const to = Math.ceil((view.scrollLeft + view.clientWidth - left) / (w + gap)) + 1;
  const wanted = new Set();
  for (let row = first; row <= last; row++) {
    for (const {cell, column} of layout.byRow.get(row) || []) {
      if (column < from || column > to) continue;
      wanted.add(cell.index);
      let item = nodes.get(cell.index);
      if (!item) {
        item = nodeFor(cell);
        nodes.set(cell.index, item);
        space.append(item.node);
      }
      item.node.style.transform = `translate(${left + column * (w + gap)}px, ${ys[row]}px)`;
      dress(item, cell);
    }
  }
  for (const [index, item] of nodes)
    if (!wanted.has(index)) {
      item.node.remove();
      nodes.delete(index);
    }
  topBar.replaceChildren(
    ...layout.columnNames
      .map((text, i) => ({text, i}))
      .filter(({i}) => i >= from && i <= to)
      .map(({text, i}) => {
        const span = el('span', {text, title: text});
        Object.assign(span.style, {left: left + i * (w + gap) + 'px', width: w + 'px', top: '0.35rem'});
        return span;
      }),
  );
  const bar = layout.columnNames.length ? 1.7 * em : 0; // the bar of columns stands before it
  leftBar.replaceChildren(
    ...layout.rowNames
      .map((text, i) => ({text, i}))
      .filter(({i}) => i >= first && i <= last)
      .map(({text, i}) => {
        const span = el(
          'span',
          {title: text.join(', ')},
          el('bdi', {text: text[0]}),
          text.slice(1).map((note) => el('small', {text: note})),
        );
        Object.assign(span.style, {
          left: '0',
          width: left - 0.2 * em + 'px',
          top: ys[i] - bar + 'px',
          height: tall - gap + 'px',
        });
        return span;
      }),
    ...heads
      .filter(({y}) => y > low && y < high)
      .map(({y, text}) => {
        const head = el('h2', {class: 'section', text, title: text});
        Object.assign(head.style, {top: y - bar + 'px', maxWidth: view.clientWidth - em + 'px'});
        return head;
      }),
  );
  const made = G.planned ? plural(CELLS.length, 'image') + ' so far of ' + G.planned : plural(CELLS.length, 'image');
  count.textContent = layout.count === CELLS.length ? made : layout.count + ' of ' + plural(CELLS.length, 'image');
  none.hidden = layout.count > 0;
}
