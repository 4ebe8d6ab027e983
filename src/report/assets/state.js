// What is being looked at, its sentence, and its place in the address: a link reproduces the view.
const SCALES = [
  ['words', 'all words'],
  ['steps', 'all words and ' + (LOOK ? 'levels' : 'steps')],
  ['word', 'each word its own'],
];

const hundredths = (value) => Math.round(100 * value) / 100; // single precision on its way here

const S = {
  hover: -1, // entry under the pointer or focus
  locked: [], // entries
  selection: null, // head sets a site, or null: the run's own aggregate
  // Window of step groups.
  a: 0,
  b: Math.max(0, GROUPS - 1),
  preview: null, // {selection, a, b} of the tile or picture under the pointer
  style: RUN.display.style,
  palette: RUN.display.colormap,
  opacity: hundredths(RUN.display.opacity),
  threshold: hundredths(RUN.display.threshold),
  scale: RUN.display.scale === 'word' ? 'word' : 'words',
  cells: false,
  // The map of the attention; or 'mattered', that of the causal test; 'without', the same seed
  // without the word; 'image', the image alone.
  show: 'looked',
  split: null, // where the image without the word begins, in per cent from the left; null the word's own
  differ: false, // show where the two differ in place of both
  box: null, // pinned region in image pixels; a point is one pixel
  probe: null, // region under the pointer
  ties: -1, // self-attention of the pointed place at this resolution in place of the words
  little: false, // words that only hold the prompt together unfolded
  specials: false, // start, end and padding unfolded
  probes: false, // words that are not in the prompt unfolded
  // Prompt matrix.
  encoder: 0, // which text encoder
  layer: -1, // average
  head: -1, // average
  sink: false, // start token left out
  lines: false,
  // Inside one score.
  pair: [1, 0], // two tokens of the matrix
  token: 0, // which token of the word
  sorted: true, // channels by what they give
  estimate: true, // show the image estimate of a single step
  begun: false, // show the picture that the run set out from in place of the image
};
const DEFAULTS = JSON.parse(JSON.stringify(S));

// The choice of heads and steps that is shown: that under the pointer, or the one that was made.
const looking = () => S.preview || S;
const view = () => {
  const {selection, a, b} = looking();
  return aggregate(selection, a, b);
};

// How much a word has a place of its own: a high peak, and little of the image near it. Articles
// are high everywhere.
const standsOut = (maps, entry) => entryFacts(maps, entry).peak * (1 - entryFacts(maps, entry).area);
// The word that is lit before any is chosen: of those that name something, the one that stands out
// most. Once a word was looked at for a moment it is that one, and stays lit on the way to the
// image.
const CONTENT = WORDS.some((entry) => !entry.little) ? WORDS.filter((entry) => !entry.little) : WORDS;
let opening = -1;
function openingEntry() {
  if (opening < 0 && CONTENT.length) {
    const maps = aggregate(null, 0, GROUPS - 1);
    opening = CONTENT.reduce((best, entry) => (standsOut(maps, entry) > standsOut(maps, best) ? entry : best)).index;
  }
  return opening;
}
const LINGERED = 350; // milliseconds
let hoveredAt = 0;
function lightUp(index) {
  hoveredAt = performance.now();
  set({hover: index});
}
function letGo(index) {
  if (S.hover !== index) return;
  if (performance.now() - hoveredAt > LINGERED && !ENTRIES[index].special) opening = index;
  set({hover: -1});
}

// Words shown on the image.
function shown() {
  if (tiesOn()) return [];
  if (S.hover >= 0) return [ENTRIES[S.hover]];
  if (S.show === 'image') return [];
  if (S.locked.length) return S.locked.map((i) => ENTRIES[i]);
  return openingEntry() < 0 ? [] : [ENTRIES[openingEntry()]];
}
// The one that the small multiples and the causal test are about.
function focusEntry() {
  const list = shown();
  return list.length
    ? list[list.length - 1]
    : ENTRIES[S.locked.length ? S.locked[S.locked.length - 1] : Math.max(0, openingEntry())];
}
const hueOf = (entry) => {
  const at = S.locked.indexOf(entry.index);
  return HUES[(at < 0 ? 0 : at) % HUES.length];
};

// The top of the colour scale for an entry: that of its own half, the prompt's words and probes or
// the negative prompt's.
function scaleMax(entry) {
  const maps = view();
  const negative = Boolean(entry && entry.negative);
  if (S.scale === 'word' || (entry && entry.special)) return entry ? entryFacts(maps, entry).peak : wordsMax(maps);
  return S.scale === 'steps' && HAS_STEPS ? stepsMax(negative) : wordsMax(maps, negative);
}
// The negative prompt's words are painted in other colours.
const paletteOf = (entry) => (!entry || !entry.negative ? S.palette : S.palette === 'viridis' ? 'magma' : 'viridis');
function wordsMax(maps, negative = false) {
  const tops = (maps.tops ||= new Map());
  if (!tops.has(negative))
    tops.set(
      negative,
      Math.max(0, ...(negative ? NEGATIVES : WORDS.concat(PROBES)).map((entry) => entryFacts(maps, entry).peak)),
    );
  return tops.get(negative);
}
const stepTops = new Map();
function stepsMax(negative) {
  const {selection} = looking();
  const key = JSON.stringify([selection, negative]);
  if (!stepTops.has(key)) {
    let top = 0;
    for (let g = 0; g < GROUPS; g++) top = Math.max(top, wordsMax(aggregate(selection, g, g), negative));
    stepTops.set(key, top);
  }
  return stepTops.get(key);
}

// What colours stand for where words do not compete: what the run's own maps are made of, or
// attention, of which all others are.
const colourStandsFor = () =>
  OWN && view().packed ? OWN.colour : 'how much of each place’s attention goes to the word';
// Whether the words share each place out among themselves in the maps that are looked at.
const sharedOut = () => looking().selection === null && Boolean(RUN.official && RUN.official.compete);

// What is chosen, in words.
function sitesInWords() {
  const {selection, a, b} = looking();
  const whose = ENCODER === 'both' ? '' : ', ' + (ENCODER === 'clip' ? 'CLIP' : 'T5') + '’s tokens alone';
  if (selection !== null) return describeHeads(selection) + whose;
  return (
    (RUN.official && isWhole(a, b)
      ? (RUN.official.is_default ? 'the default map: ' : 'the run’s own map: ') + RUN.official.description
      : describeHeads(ownHeads())) + whose
  );
}
function describeHeads(heads) {
  const chosen = RUN.sites.map((site, s) => ({site, s, heads: heads[s]})).filter((c) => c.heads.length);
  if (!chosen.length) return 'nothing';
  if (chosen.length === RUN.sites.length && chosen.every((c) => c.heads.length === c.site.heads))
    return 'all layers, all heads';
  const same = chosen.every(
    (c) =>
      String(c.heads) === String(chosen[0].heads) ||
      (c.heads.length === c.site.heads && chosen[0].heads.length === chosen[0].site.heads),
  );
  const where = (list) => {
    const sizes = [...new Set(list.map((c) => sizeOf(c.site)))];
    const stages = [...new Set(list.map((c) => c.site.stage))];
    const matching = RUN.sites.filter((t) => stages.includes(t.stage) && sizes.includes(sizeOf(t)));
    if (matching.length === list.length && list.length > 1) {
      return (stages.length === 3 ? 'all blocks' : stages.join(' and ') + ' blocks') + ', ' + sizes.join(' and ');
    }
    return (
      (list.length === 1 ? 'layer ' : 'layers ') +
      ranges(list.map((c) => c.s + 1)) +
      ' (' +
      stages.join(' and ') +
      ', ' +
      sizes.join(' and ') +
      ')'
    );
  };
  const which = (c) =>
    c.heads.length === c.site.heads ? 'all heads' : (c.heads.length === 1 ? 'head ' : 'heads ') + ranges(c.heads);
  if (same) return where(chosen) + ', ' + which(chosen[0]);
  if (chosen.length <= 3) return chosen.map((c) => where([c]) + ', ' + which(c)).join('; ');
  return chosen.reduce((n, c) => n + c.heads.length, 0) + ' heads of layers ' + ranges(chosen.map((c) => c.s + 1));
}
const firstStep = (g) => RUN.stepGroups[g][0] + 1;
const lastStep = (g) => RUN.stepGroups[g][1] + 1;
// A group of noise levels by what they are: t = 450, 84 % noise.
function levelsInWords(a, b) {
  const [from, to] = [RUN.stepGroups[a][0], RUN.stepGroups[b][1]];
  const span = (values) => (from === to ? values[from] : values[from] + ' to ' + values[to]);
  const noise = RUN.noise.map((share) => Math.round(100 * share) + ' %');
  return (
    't = ' + span(RUN.timesteps.map((t) => String(Math.round(t)))) + (noise.length ? ', ' + span(noise) + ' noise' : '')
  );
}
function stepsInWords({a, b} = looking()) {
  if (!GROUPS) return 'all ' + CALL + 's';
  if (LOOK) {
    const count = lastStep(b) - firstStep(a) + 1;
    return (
      (isWhole(a, b) && GROUPS > 1 ? 'all ' + count + ' ' : '') +
      CALL +
      (count > 1 ? 's' : '') +
      ' ' +
      levelsInWords(a, b)
    );
  }
  return groupsInWords(a, b);
}
// Groups of steps by their numbers; a group holds several where steps were merged to keep the page
// small.
const groupsInWords = (a, b) => (firstStep(a) === lastStep(b) ? 'step ' : 'steps ') + groupNumbers(a, b);
const groupNumbers = (a, b) => firstStep(a) + (firstStep(a) === lastStep(b) ? '' : '–' + lastStep(b));
const viewInWords = (list = []) =>
  sitesInWords() +
  '; ' +
  stepsInWords() +
  (onlyNegative(list) ? ', in the half that was given the negative prompt' : '');
const onlyNegative = (list) => list.length > 0 && list.every((entry) => entry.negative);

// Heads are stored summed over the steps, and steps averaged over the heads. So a choice of heads
// means all steps, and a window of steps means all heads.

// A choice with all heads of its layers, as steps are kept; the choice itself where it has them.
function widened(selection) {
  const heads = headsOf(selection);
  const all = heads.map((chosen, s) => (chosen.length ? allHeads(RUN.sites[s]) : []));
  return heads.every((chosen, s) => chosen.length === all[s].length) ? selection : all;
}
function chooseHeads(selection) {
  const some = widened(selection) !== selection;
  const patch = {selection};
  if (some && !isWhole(S.a, S.b)) {
    Object.assign(patch, {a: 0, b: GROUPS - 1});
    notice('Single heads are kept for all ' + CALL + 's together: the window is back to all of them.');
  }
  set(patch);
}
function chooseSteps(a, b) {
  const patch = {a: Math.min(a, b), b: Math.max(a, b)};
  const all = isWhole(patch.a, patch.b) ? S.selection : widened(S.selection);
  if (all !== S.selection) {
    patch.selection = all;
    notice('Single ' + CALL + 's are kept for all heads together: all heads of the chosen layers are shown.');
  }
  set(patch);
}
// What a choice of heads or of steps would show, for the tile or picture under the pointer.
function previewHeads(selection) {
  const some = widened(selection) !== selection;
  set({preview: some ? {selection, a: 0, b: GROUPS - 1} : {selection, a: S.a, b: S.b}});
}
function previewSteps(a, b) {
  set({preview: {selection: isWhole(a, b) ? S.selection : widened(S.selection), a, b}});
}
let noticeText = '';
function notice(text) {
  noticeText = text;
  announce(text);
}

const listeners = [];
let queued = false;
// Changes what is looked at; panels redraw once per frame.
function set(patch) {
  Object.assign(S, patch);
  if (!queued) {
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      for (const listener of listeners) listener();
      writeHash();
    });
  }
}

function encodeSelection(selection) {
  return selection
    .map((heads, s) => (!heads.length ? '' : s + (heads.length === RUN.sites[s].heads ? '' : ':' + heads.join('.'))))
    .filter(Boolean)
    .join(',');
}
function decodeSelection(text) {
  const selection = RUN.sites.map(() => []);
  for (const part of text.split(',')) {
    const [s, heads] = part.split(':');
    const site = RUN.sites[Number(s)];
    if (!/^\d+$/.test(s) || !site) continue;
    selection[Number(s)] =
      heads === undefined
        ? allHeads(site)
        : [
            ...new Set(
              heads
                .split('.')
                .filter((h) => /^\d+$/.test(h))
                .map(Number),
            ),
          ]
            .filter((h) => h < site.heads)
            .sort((x, y) => x - y);
  }
  return selection.some((heads) => heads.length) ? selection : null;
}

function hash() {
  const parts = [];
  const add = (key, value, unless) => {
    if (value !== unless) parts.push(key + '=' + value);
  };
  add('w', S.locked.map((i) => ENTRIES[i].key).join(','), '');
  if (S.selection) add('at', encodeSelection(S.selection));
  if (HAS_STEPS && !isWhole(S.a, S.b)) add('steps', S.a + 1 + '-' + (S.b + 1));
  add('style', S.style, DEFAULTS.style);
  add('map', S.palette, DEFAULTS.palette);
  add('opacity', Math.round(100 * S.opacity), Math.round(100 * DEFAULTS.opacity));
  add('scale', S.scale, DEFAULTS.scale);
  add('threshold', Math.round(100 * S.threshold), Math.round(100 * DEFAULTS.threshold));
  add('cells', Number(S.cells), 0);
  add('show', S.show, DEFAULTS.show);
  if (S.show === 'without') add('split', S.split, DEFAULTS.split);
  add('differ', Number(S.differ), 0);
  if (S.box) add('box', [S.box.x, S.box.y, S.box.w, S.box.h].join(','));
  add('ties', S.ties, -1);
  add('little', Number(S.little), 0);
  add('special', Number(S.specials), 0);
  add('probes', Number(S.probes), 0);
  if (S.encoder > 0 || S.layer >= 0 || S.head >= 0)
    add('matrix', S.layer + '.' + S.head + (S.encoder > 0 ? '.' + S.encoder : ''));
  add('sink', Number(S.sink), 0);
  add('lines', Number(S.lines), 0);
  add('pair', S.pair.join('.'), DEFAULTS.pair.join('.'));
  add('token', S.token, 0);
  add('sorted', Number(S.sorted), 1);
  add('start', Number(S.begun), 0);
  add('estimate', Number(S.estimate), 1);
  if (OWN) add('encoder', ENCODER, OWN.encoder);
  return parts.join('&');
}
let written = null;
function writeHash() {
  const text = hash();
  if (text === written) return;
  written = text;
  try {
    history.replaceState(null, '', '#' + text);
  } catch {
    /* some browsers refuse on file://; the view still works */
  }
}
function readHash() {
  const patch = JSON.parse(JSON.stringify(DEFAULTS));
  delete patch.hover;
  delete patch.probe;
  delete patch.preview;
  for (const part of location.hash.slice(1).split('&')) {
    const at = part.indexOf('=');
    const key = part.slice(0, at);
    // Each value for itself: a word may have the sign that stands between two.
    let value = part.slice(at + 1);
    try {
      value = decodeURIComponent(value);
    } catch {
      /* as it is */
    }
    const number = (min, max) => {
      const n = Number(value);
      return Number.isFinite(n) ? Math.min(max, Math.max(min, n)) : null;
    };
    if (key === 'w')
      patch.locked = [
        ...new Set(
          value
            .split(',')
            .map((k) => ENTRIES.findIndex((e) => e.key === k))
            .filter((i) => i >= 0),
        ),
      ];
    else if (key === 'word')
      patch.locked = ENTRIES.filter(
        (entry) => !entry.special && !entry.probe && !entry.negative && wordKey(entry) === value,
      ).map((entry) => entry.index); // as a gallery names it
    else if (key === 'at') patch.selection = decodeSelection(value);
    else if (key === 'steps' && HAS_STEPS && /^\d+-\d+$/.test(value)) {
      const [a, b] = value.split('-').map((n) => Math.min(GROUPS, Math.max(1, Number(n))) - 1);
      patch.a = Math.min(a, b);
      patch.b = Math.max(a, b);
    } else if (key === 'style' && STYLES.includes(value)) patch.style = value;
    else if (key === 'map' && Object.hasOwn(PALETTES, value) && value !== 'difference') patch.palette = value;
    else if (key === 'opacity') patch.opacity = (number(0, 100) ?? 100 * DEFAULTS.opacity) / 100;
    else if (key === 'threshold') patch.threshold = (number(0, 100) ?? 100 * DEFAULTS.threshold) / 100;
    else if (key === 'show' && SHOWS.includes(value)) patch.show = value;
    else if (key === 'split') patch.split = number(0, 100);
    else if (key === 'differ') patch.differ = value === '1';
    else if (key === 'little') patch.little = value === '1';
    else if (key === 'scale' && SCALES.some(([k]) => k === value)) patch.scale = value;
    else if (key === 'cells') patch.cells = value === '1';
    else if (key === 'ties' && /^\d+$/.test(value) && RUN.ties[Number(value)]) patch.ties = Number(value);
    else if (key === 'special') patch.specials = value === '1';
    else if (key === 'probes') patch.probes = value === '1';
    else if (key === 'sink') patch.sink = value === '1';
    else if (key === 'lines') patch.lines = value === '1';
    else if (key === 'pair' && /^\d+\.\d+$/.test(value)) patch.pair = value.split('.').map(Number);
    else if (key === 'token') patch.token = number(0, 76) ?? 0;
    else if (key === 'sorted') patch.sorted = value === '1';
    else if (key === 'start') patch.begun = value === '1' && RUN.start !== null;
    else if (key === 'estimate') patch.estimate = value === '1';
    else if (key === 'box') {
      const n = value.split(',').map(Number);
      const {width, height} = RUN.image;
      if (
        n.length === 4 &&
        n.every(Number.isFinite) &&
        n[0] >= 0 &&
        n[1] >= 0 &&
        n[2] > 0 &&
        n[3] > 0 &&
        n[0] + n[2] <= width &&
        n[1] + n[3] <= height
      ) {
        patch.box = {x: n[0], y: n[1], w: n[2], h: n[3]};
      }
    } else if (key === 'matrix' && /^-?\d+\.-?\d+(\.\d+)?$/.test(value)) {
      const [layer, head, encoder = 0] = value.split('.').map(Number);
      const matrix = RUN.matrices[encoder];
      if (matrix && layer < matrix.layers && head < matrix.heads)
        Object.assign(patch, {encoder, layer: Math.max(-1, layer), head: Math.max(-1, head)});
    }
  }
  if (!isWhole(patch.a, patch.b)) patch.selection = widened(patch.selection);
  if (patch.locked.some((i) => ENTRIES[i].special)) patch.specials = true;
  if (patch.locked.some((i) => ENTRIES[i].probe)) patch.probes = true;
  if (patch.locked.some((i) => ENTRIES[i].little)) patch.little = true;
  return patch;
}

function toggleLock(index) {
  const locked = S.locked.includes(index) ? S.locked.filter((i) => i !== index) : [...S.locked, index];
  set({locked, hover: -1, show: S.show === 'image' ? 'looked' : S.show, ties: -1});
  announce(locked.length ? 'Kept: ' + locked.map((i) => nameOf(ENTRIES[i])).join(', ') : 'No word is kept');
}

// Escape leaves one thing at a time: a mode, a choice of steps, a place, the kept words.
function letGoOfOne() {
  if (playing) return stopPlaying();
  if (S.ties >= 0 && !S.box) return set({ties: -1});
  if (S.box || S.probe) {
    announce('No place is kept');
    return set({box: null, probe: null});
  }
  if (HAS_STEPS && !isWhole(S.a, S.b)) return chooseSteps(0, GROUPS - 1);
  if (S.show !== 'looked') return set({show: 'looked'});
  set({locked: [], hover: -1, selection: null, preview: null});
  announce('No word is kept');
}
