// The cells of a gallery, what differs among them, and their numbers by plain names.
const started = performance.now();
const G = JSON.parse($('gallery').textContent);
const WORD_NUMBERS = G.wordNumbers;
const TEXTS = Object.fromEntries(G.axes.map((axis, at) => [axis.name, {at, texts: axis.texts}]));
const textOf = (cell, axis) => TEXTS[axis].texts[cell.texts[TEXTS[axis].at]];
const SIZES = TEXTS.size.texts.map((size) => size.split('×').map(Number));
const CELLS = G.cells.map((row, index) => {
  const [name, texts, seed, steps, guidance, top, mapH, numbers, words, notes, expected] = row;
  const byWord = new Map();
  words.forEach((word, i) => byWord.set(word[0], {at: i, numbers: word.slice(1)}));
  const [w, h] = SIZES[texts[TEXTS.size.at]];
  return {
    index,
    name,
    texts,
    seed,
    steps,
    guidance,
    ratio: h / w,
    top,
    mapH,
    numbers,
    count: words.length,
    byWord,
    notes,
    unmet: expected.filter(([, met]) => met === false).map(([at]) => at),
    expected: expected.filter(([, met]) => met !== null).map(([at]) => at),
    path: G.files.cells + '/' + encodeURIComponent(name) + '/',
  };
});
const TOP = Math.max(1e-12, ...CELLS.map((c) => c.top));
const promptOf = (cell) => textOf(cell, 'prompt');

const axis = (name, label, text) => ({
  label,
  of: (c) => c.texts[TEXTS[name].at],
  text: (k) => text(TEXTS[name].texts[k]),
});
const plain = (value) => value;
const AXES = {
  prompt: axis('prompt', 'prompt', plain),
  base: axis('base', 'prompt in the list', plain),
  replaced: axis('replaced', 'replaced word', (t) => t || 'as it is'),
  weighted: axis('weighted', 'word’s weight', (t) => t || 'weight 1'),
  without: axis('without', 'left out', (t) => (t ? 'without ' + t : 'whole')),
  seed: {label: 'seed', of: (c) => c.seed, text: (k) => 'seed ' + k},
  steps: {label: 'steps', of: (c) => c.steps, text: (k) => (k === null ? '' : k + ' steps')},
  guidance: {label: 'guidance', of: (c) => c.guidance, text: (k) => (k === null ? '' : 'guidance ' + k)},
  negative: axis('negative', 'negative prompt', (t) => t && 'not ' + t),
  model: axis('model', 'checkpoint', plain),
  lora: axis('lora', 'LoRA', (t) => t || 'no LoRA'),
  syntax: axis('syntax', 'how prompts are read', (t) => t || 'plain text'),
  size: axis('size', 'size', plain),
  scheduler: axis('scheduler', 'sampler', (t) => t || 'own sampler'),
  spacing: axis('spacing', 'spacing of the steps', (t) => (t ? t + ' steps' : 'own spacing')),
  clip_skip: axis('clip_skip', 'clip skip', (t) => (t ? 'clip skip ' + t : 'all layers of CLIP')),
  original_size: axis('original_size', 'original size', (t) => (t ? 'said to be ' + t : 'own original size')),
  crop: axis('crop', 'crop', (t) => (t ? 'crop ' + t : 'no crop')),
  strength: axis('strength', 'strength', (t) => (t ? 'strength ' + t : 'own strength')),
  expected: {
    label: 'as expected',
    of: (c) => (c.unmet.length ? 1 : c.expected.length ? 0 : 2),
    text: (k) => ['as expected', 'not as expected', 'without those words'][k],
  },
  init: axis('init', 'picture to start from', (t) => (t ? 'from ' + t : 'from noise')),
};
const variety = (name) => new Set(CELLS.map(AXES[name].of)).size;
const OFFERED = Object.keys(AXES).filter((name) => variety(name) > 1);
if (OFFERED.includes('base') && variety('base') === variety('prompt')) OFFERED.splice(OFFERED.indexOf('base'), 1);
// What a caption may tell: what a prompt is made of stands in it already.
const TOLD = OFFERED.filter((name) => !['prompt', 'base', 'replaced', 'weighted', 'expected'].includes(name));
const tell = (axes, cell) => axes.map((name) => AXES[name].text(AXES[name].of(cell))).filter(Boolean);
// What is the same in all cells, for the head of the page.
const COMMON = CELLS.length
  ? ['model', 'lora', 'steps', 'guidance', 'scheduler', 'size', 'strength', 'negative', 'seed']
      .filter((name) => !OFFERED.includes(name))
      .filter((name) => !(name in TEXTS) || textOf(CELLS[0], name))
  : [];

// Words by how many cells have them.
const frequency = new Map();
for (const cell of CELLS) for (const word of cell.byWord.keys()) frequency.set(word, (frequency.get(word) || 0) + 1);
const WORDS = [...frequency.keys()].sort((p, q) => frequency.get(q) - frequency.get(p) || p - q);

// Numbers by the names of their fields, in plain words; those of no use to sort by are left out.
const PLAIN = {
  'start token share': 'share of the start token',
  'number of words': 'number of words',
  'padding share': 'share of the padding',
  'image share': 'share of the image itself',
  'facts filler peak': 'highest peak of a little word',
  seed: 'seed',
  steps: 'steps',
  'changed share': 'share of the image that changed',
  'guidance scale': 'guidance',
  strength: 'strength',
  share: 'share of all attention',
  peak: 'peak',
  'peak x': 'peak, from the left',
  'peak y': 'peak, from the top',
  'centroid x': 'centre, from the left',
  'centroid y': 'centre, from the top',
  area: 'area',
  entropy: 'how spread out (entropy)',
  'bounds left': 'left edge',
  'bounds right': 'right edge',
  'bounds top': 'upper edge',
  'bounds bottom': 'lower edge',
};
const USELESS = /^(max length|latent|image (height|width)|width|height|facts (threshold|over)|places)/;
const plainly = (name) => PLAIN[name] || name;
const SORTS = [...G.numbers.map((name) => 'n:' + name), ...WORD_NUMBERS.map((name) => 'w:' + name)];
const CHANGED = G.numbers.indexOf('changed share');
const SHARE = WORD_NUMBERS.indexOf('share');
// Numbers that are shares of something, shown as per cent. Some need no name in a caption.
const PER_CENT = /share$|^(peak|area|centroid|bounds)\b/;
const NAMELESS = /share$|^peak$|^area$/;

// Kinds of things that may be wrong, those that some cell has, and how many cells have them.
const KINDS = G.kinds
  .map((text, kind) => ({text, kind, count: CELLS.filter((c) => c.notes.some((note) => note[0] === kind)).length}))
  .filter((k) => k.count);

// What the filter offers: kinds of notes, and what was expected.
const FILTERS = {'': {label: 'all images', fits: () => true}};
if (KINDS.length) {
  FILTERS.any = {
    label: 'something noted (' + CELLS.filter((c) => c.notes.length).length + ')',
    fits: (c) => c.notes.length > 0,
  };
  for (const {text, kind, count} of KINDS)
    FILTERS[kind] = {label: text + ' (' + count + ')', fits: (c) => c.notes.some((note) => note[0] === kind)};
  FILTERS.none = {label: 'nothing noted', fits: (c) => !c.notes.length};
}
if (G.expectations.length) {
  FILTERS.met = {label: 'as expected', fits: (c) => c.expected.length > 0 && !c.unmet.length};
  FILTERS.unmet = {label: 'not as expected', fits: (c) => c.unmet.length > 0};
  G.expectations.forEach((text, at) => {
    FILTERS['unmet' + at] = {label: 'not: ' + text, fits: (c) => c.unmet.includes(at)};
    FILTERS['met' + at] = {label: text, fits: (c) => c.expected.includes(at) && !c.unmet.includes(at)};
  });
}
