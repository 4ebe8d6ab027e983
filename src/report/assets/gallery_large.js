// One cell large, with its words and facts; or that cell and the kept one, compared on the spot.
const MODES = [
  ['beside', 'Side by side', 'The kept image on the left'],
  ['slider', 'Slider', 'The kept image on the left of the line'],
  ['fade', 'Fade', 'From the kept image to this one'],
  ['difference', 'Difference', 'Black where both are the same'],
];
const pictureLarge = () => {
  const image = el('img', {alt: '', draggable: false});
  const glow = el('span', {class: 'lit', hidden: true});
  return {image, glow, node: el('div', {class: 'picture'}, image, glow)};
};
const [largeKept, largeOpen] = [pictureLarge(), pictureLarge()];
const border = el('i', {class: 'border', hidden: true});
const stage = el('div', {class: 'stage'}, largeKept.node, largeOpen.node, border);
const largeHead = el('h2', {dir: 'auto'});
const largeSub = el('p', {class: 'note'});
const largeNotes = el('ul', {class: 'notes'});
const largeWords = el('div', {class: 'chips', role: 'group', 'aria-label': 'Words to light up'});
const modes = choice('How two are compared', 'mode', MODES, 'beside', (mode) => set({mode}));
const split = el('input', {
  type: 'range',
  min: 0,
  max: 100,
  'aria-label': 'From the kept image to this one',
  oninput: () => set({split: Number(split.value)}),
});
const largeTable = el('div', {class: 'scroller', tabIndex: 0, role: 'region', 'aria-label': 'Words of both'});
const largePage = el('a', {class: 'quiet', text: 'Open its page'});
const keepButton = el('button', {class: 'quiet', type: 'button', onclick: () => keepCell(S.open)});
const stepButton = (by, text, label) =>
  el('button', {class: 'step', type: 'button', text, title: label, 'aria-label': label, onclick: () => go(by)});
const largeCount = el('span', {class: 'soft'});
const large = el(
  'dialog',
  {class: 'large', 'aria-label': 'One image'},
  el(
    'div',
    {class: 'bar'},
    stepButton(-1, '‹', 'Previous image (arrow left)'),
    largeCount,
    stepButton(1, '›', 'Next image (arrow right)'),
    el('span', {class: 'room'}),
    keepButton,
    largePage,
    el('button', {class: 'quiet', type: 'button', text: 'Back', onclick: () => closeLarge()}),
  ),
  el(
    'div',
    {class: 'both'},
    stage,
    el('div', {class: 'side'}, largeHead, largeSub, largeNotes, modes, split, largeWords, largeTable),
  ),
);
document.body.append(large);

const differs = (a, b) =>
  OFFERED.filter((name) => AXES[name].of(a) !== AXES[name].of(b)).map((name) => [
    AXES[name].text(AXES[name].of(a)) || '–',
    AXES[name].text(AXES[name].of(b)) || '–',
  ]);
function fitPicture({node, image, glow}, cell, width, height) {
  const scale = Math.min(width / 1, height / cell.ratio);
  const w = Math.max(1, Math.floor(scale));
  const h = Math.max(1, Math.floor(scale * cell.ratio));
  const src = cell.path + G.files.image;
  if (image.getAttribute('src') !== src) {
    image.onerror = () => {
      image.onerror = null;
      image.src = cell.path + G.files.thumb;
    };
    image.src = src;
  }
  image.alt = labelOf(cell);
  Object.assign(node.style, {width: w + 'px', height: h + 'px'});
  paintGlow(glow, cell, lit(), w, h);
  node.classList.toggle('grey', !glow.hidden);
}
let drawnWords = '';
function drawLarge() {
  const cell = CELLS[S.open];
  if (!cell) {
    if (large.open) large.close();
    return;
  }
  if (!large.open) large.showModal();
  const kept = CELLS[S.kept];
  const two = Boolean(kept) && kept !== cell;
  const one = !two;
  const at = layout.order.get(cell.index);
  largeCount.textContent = at === undefined ? '' : at + 1 + ' of ' + layout.places.length;
  const room = stage.getBoundingClientRect();
  const beside = two && S.mode === 'beside';
  largeKept.node.hidden = one;
  fitPicture(largeOpen, cell, beside ? (room.width - 8) / 2 : room.width, room.height);
  if (two) fitPicture(largeKept, kept, beside ? (room.width - 8) / 2 : room.width, room.height);
  stage.className = 'stage ' + (two ? S.mode : 'alone');
  largeOpen.node.style.clipPath = two && S.mode === 'slider' ? `inset(0 0 0 ${S.split}%)` : '';
  largeOpen.node.style.opacity = two && S.mode === 'fade' ? S.split / 100 : '';
  border.hidden = !(two && S.mode === 'slider');
  if (!border.hidden) {
    const r = largeOpen.node.getBoundingClientRect();
    Object.assign(border.style, {
      left: r.left - room.left + (r.width * S.split) / 100 + 'px',
      top: r.top - room.top + 'px',
      height: r.height + 'px',
    });
  }
  modes.hidden = !two;
  modes.show(S.mode);
  split.hidden = !two || (S.mode !== 'slider' && S.mode !== 'fade');
  split.value = S.split;
  keepButton.textContent = kept === cell ? 'No longer keep' : two ? 'Keep this one instead' : 'Keep to compare';
  largePage.href = pageOf(cell);
  const state = [S.open, S.kept, S.word].join();
  if (drawnWords === state) return;
  drawnWords = state;
  large.setAttribute('aria-label', labelOf(cell));
  largeHead.textContent = promptOf(cell);
  const own = ['seed', 'steps', 'guidance', 'size', 'scheduler', 'lora', 'negative', 'strength', 'model'].filter(
    (name) => !(name in TEXTS) || textOf(cell, name),
  );
  largeSub.textContent = two
    ? 'Kept → this: ' +
      (differs(kept, cell)
        .map(([a, b]) => a + ' → ' + b)
        .join('; ') || 'made in the same way')
    : tell(own, cell).join(' · ');
  const noted = [
    ...cell.notes.map((note) => G.notes[note[1]]),
    ...cell.unmet.map((at) => 'not: ' + G.expectations[at]),
  ];
  largeNotes.replaceChildren(...noted.map((text) => el('li', {text})));
  largeNotes.hidden = !noted.length;
  const words = [...cell.byWord.entries()].sort((p, q) => p[1].at - q[1].at);
  largeWords.replaceChildren(
    ...words.map(([word, {numbers}]) =>
      el(
        'button',
        {
          type: 'button',
          'aria-pressed': String(S.word === word),
          onclick: () => set({word: S.word === word ? -1 : word}),
          onpointerenter: (e) => {
            if (e.pointerType !== 'touch') set({hover: word});
          },
          onpointerleave: () => {
            if (S.hover === word) set({hover: -1});
          },
        },
        el('bdi', {text: G.words[word]}),
        ' ',
        el('small', {text: numbers[SHARE] === undefined ? '' : percent(numbers[SHARE])}),
      ),
    ),
  );
  largeTable.hidden = one;
  if (two) {
    const share = (c, word) => {
      const known = c.byWord.get(word);
      return known ? known.numbers[SHARE] : null;
    };
    const all = [...new Set([...kept.byWord.keys(), ...cell.byWord.keys()])].map((word) => ({
      word,
      a: share(kept, word),
      b: share(cell, word),
    }));
    all.sort((p, q) => Math.abs((q.b ?? 0) - (q.a ?? 0)) - Math.abs((p.b ?? 0) - (p.a ?? 0)));
    const change = ({a, b}) =>
      a === null || b === null ? '–' : (b < a ? '−' : '+') + percent(Math.abs(b - a)).replace(' %', ' points');
    largeTable.replaceChildren(
      el(
        'table',
        {},
        el(
          'thead',
          {},
          el(
            'tr',
            {},
            ['Word', 'kept', 'this', 'change'].map((text, i) =>
              el('th', {scope: 'col', text, class: i ? 'number' : null}),
            ),
          ),
        ),
        el(
          'tbody',
          {},
          all.map((row) =>
            el(
              'tr',
              {},
              el('th', {scope: 'row', dir: 'auto', text: G.words[row.word]}),
              [row.a, row.b].map((v) => el('td', {class: 'number', text: v === null ? '–' : percent(v)})),
              el('td', {class: 'number', text: change(row)}),
            ),
          ),
        ),
      ),
    );
  }
}
function keepCell(index) {
  const kept = S.kept === index ? -1 : index;
  set({kept, at: index});
  announce(kept < 0 ? 'No image is kept' : 'Kept to compare: ' + labelOf(CELLS[index]));
}
function openCell(index) {
  const was = S.open;
  Object.assign(S, {open: index, at: index});
  if (was < 0) push();
  set({});
}
// Back to where the images were looked through; the browser's own way back does the same.
function closeLarge() {
  if (history.state && history.state.large) history.back();
  else set({open: -1});
  if (CELLS[S.at]) scrollTo({cell: CELLS[S.at]});
  view.focus({preventScroll: true});
}
function go(by) {
  const at = layout.order.get(S.open);
  const next = layout.places[at === undefined ? 0 : at + by];
  if (!next) return;
  set({open: next.cell.index, at: next.cell.index});
  scrollTo({cell: next.cell});
  announce(labelOf(next.cell));
}
large.addEventListener('cancel', (event) => {
  event.preventDefault();
  closeLarge();
});
large.addEventListener('keydown', (event) => {
  if (event.target.type === 'range' || event.target.type === 'radio' || event.ctrlKey || event.altKey || event.metaKey)
    return;
  const by = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: layout.across, ArrowUp: -layout.across}[event.key];
  if (by) {
    event.preventDefault();
    go(by);
  } else if (event.key === 'c') keepCell(S.open);
  else if (event.key === 'Enter' && event.target === large) location.href = pageOf(CELLS[S.open]);
});
dragBorder(
  stage,
  border,
  () => largeOpen.node,
  (split) => set({split}),
);
new ResizeObserver(() => {
  if (S.open >= 0) set({});
}).observe(stage);
