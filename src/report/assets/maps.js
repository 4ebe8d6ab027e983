// The run's attention: averaging a choice of sites, heads and steps, and asking what lies where.
const RUN = JSON.parse($('run').textContent);
// Channels of a map: the tokens, the rest of the padding, the tokens of words that are not in the prompt, and those of the negative
// prompt's words, which are of the other half and another soft-max.
const TOKENS = RUN.tokens.length, REST = TOKENS, PROBE_TOKENS = RUN.probes.reduce((sum, probe) => sum + probe.tokens.length, 0);
const NEGATIVE = RUN.negativeWords, NEGATIVE_FROM = TOKENS + 1 + PROBE_TOKENS;
const CHANNELS = NEGATIVE_FROM + (NEGATIVE ? NEGATIVE.shares.length : 0);
const GROUPS = RUN.stepGroups.length;
const HAS_STEPS = GROUPS > 0 && RUN.sites.length > 0 && RUN.sites.every((site) => site.byStep);
const GRID = RUN.latent;
// What the calls of the UNet are: steps, or the noise levels that an existing picture was shown at.
const LOOK = RUN.noise !== null, CALL = LOOK ? 'noise level' : 'step';

// What can be shown: the prompt's words, the special tokens, then the probes.
const ENTRIES = RUN.words.map((word, i) => ({
  index: i, key: String(i), label: word.text, special: false, channels: word.tokens, occurrence: word.occurrence, weight: word.weight,
}));
for (const [key, label, channels] of [
  ['s', 'start', RUN.tokens.flatMap((t, i) => (t.kind === 'start' ? [i] : []))],
  ['e', 'end', RUN.tokens.flatMap((t, i) => (t.kind === 'end' ? [i] : []))],
  ['p', 'padding', RUN.padding > 0 ? [REST] : []],
]) {
  if (channels.length) ENTRIES.push({index: ENTRIES.length, key, label, special: true, channels, occurrence: 1});
}
RUN.probes.forEach((probe, i) => ENTRIES.push(
  {index: ENTRIES.length, key: 'q' + i, label: probe.text, special: false, probe: true, channels: probe.tokens, occurrence: 1}));
const PROBES = ENTRIES.filter((entry) => entry.probe);
for (const [i, word] of (NEGATIVE ? NEGATIVE.words : []).entries()) {
  ENTRIES.push({index: ENTRIES.length, key: 'n' + i, label: word.text, special: false, negative: true,
    channels: word.tokens.map((t) => NEGATIVE_FROM + t), occurrence: word.occurrence, weight: word.weight});
}
const NEGATIVES = ENTRIES.filter((entry) => entry.negative);
const WORDS = ENTRIES.filter((entry) => !entry.special && !entry.negative && !entry.probe);
const SPECIALS = ENTRIES.filter((entry) => entry.special);
// What the prompt's brackets multiply a word by: ×1.4, or nothing.
const weightOf = (entry) => (entry.weight === undefined || entry.weight === 1 ? '' : '×' + Number(entry.weight.toFixed(2)));
const nameOf = (entry) => (entry.probe ? 'probe:' : '') + entry.label + (entry.occurrence > 1 ? '#' + entry.occurrence : '') + (entry.negative ? ' (negative)' : ''); // as on the command line

// A selection is a list of head sets, one a site, or null for the run's own aggregate. Head sets of the run's own sites:
const ownHeads = () => RUN.sites.map((site) => (site.used ? allHeads(site) : []));
const allHeads = (site) => Array.from({length: site.heads}, (_, i) => i);
const headsOf = (selection) => selection || ownHeads();
const isWhole = (a, b) => a <= 0 && b >= GROUPS - 1;

// Adds one channel's maps of the chosen sites, heads and steps to nothing: the mean over (site, head) at H x W.
// Every site's planes are upsampled first and clamped at 0, as DAAM does (Tang et al. 2023, section 3).
function channelMap(heads, a, b, channel, H, W) {
  const sum = new Float32Array(H * W);
  let weight = 0, share = 0;
  RUN.sites.forEach((site, s) => {
    const chosen = heads[s];
    if (!chosen.length) return;
    const add = (block, p, count) => {
      const values = plane(block, p), grid = bicubic(values, block.height, block.width, H, W);
      share += count * meanOf(values);
      if (block.height !== H || block.width !== W) clampAtZero(grid);
      addInto(sum, grid, count);
    };
    if (HAS_STEPS && !isWhole(a, b)) {
      for (let g = a; g <= b; g++) add(site.byStep, g * CHANNELS + channel, chosen.length / (b - a + 1));
    } else if (chosen.length === site.heads) add(site.mean, channel, chosen.length);
    else for (const head of chosen) add(site.byHead, head * CHANNELS + channel, 1);
    weight += chosen.length;
  });
  if (weight > 0) for (let i = 0; i < sum.length; i++) sum[i] /= weight;
  sum.share = weight > 0 ? share / weight : 0; // of all attention, before any resizing
  return sum;
}

// All channels at the latent grid for a selection and a window of step groups; the last few are kept.
const aggregates = new Map();
function aggregate(selection, a, b) {
  const key = JSON.stringify([selection, isWhole(a, b) ? 'all' : [a, b]]);
  let maps = aggregates.get(key);
  if (!maps) {
    const {height: H, width: W} = GRID;
    if (selection === null && isWhole(a, b) && RUN.official) {
      const block = RUN.official.block;
      const own = (t) => bicubic(plane(block, t), block.height, block.width, H, W);
      maps = Array.from({length: TOKENS}, (_, t) => own(t));
      // The padding is what the tokens leave, unless the aggregate let them compete and they no longer sum to the whole.
      const competed = RUN.official.name.startsWith('compete');
      const rest = competed ? channelMap(ownHeads(), 0, GROUPS - 1, REST, H, W) : new Float32Array(H * W).fill(1);
      if (!competed) for (const map of maps) addInto(rest, map, -1);
      maps.push(clampAtZero(rest));
      maps.forEach((map, t) => { map.share = RUN.official.shares[t]; });
      for (let p = 0; p < PROBE_TOKENS; p++) {
        maps.push(own(TOKENS + p));
        maps[REST + 1 + p].share = channelMap(ownHeads(), 0, GROUPS - 1, REST + 1 + p, 1, 1).share;
      }
      if (NEGATIVE) NEGATIVE.shares.forEach((share, t) => maps.push(Object.assign(plane(NEGATIVE.block, t), {share})));
    } else {
      const heads = headsOf(selection);
      maps = Array.from({length: CHANNELS}, (_, c) => channelMap(heads, a, b, c, H, W));
    }
    maps.key = key;
    maps.words = new Map();
    if (aggregates.size > 24) aggregates.delete(aggregates.keys().next().value);
    aggregates.set(key, maps);
  }
  return maps;
}

// The map of a word: the mean of its tokens' maps.
function entryMap(maps, entry) {
  let map = maps.words.get(entry.index);
  if (!map) {
    map = new Float32Array(GRID.height * GRID.width);
    for (const channel of entry.channels) addInto(map, maps[channel], 1 / entry.channels.length);
    maps.words.set(entry.index, map);
  }
  return map;
}

// Numbers about a word under the current view: share of all attention (its tokens together), where its map peaks, and how
// much of the image reaches 40 % of that peak.
function entryFacts(maps, entry) {
  const cache = (maps.facts ||= new Map());
  if (!cache.has(entry.index)) {
    const map = entryMap(maps, entry);
    let at = 0;
    for (let i = 1; i < map.length; i++) if (map[i] > map[at]) at = i;
    const peak = map[at];
    let area = 0;
    for (const v of map) if (peak > 0 && v >= 0.4 * peak) area++;
    cache.set(entry.index, {
      share: entry.channels.reduce((total, channel) => total + maps[channel].share, 0), peak, area: area / map.length,
      x: ((at % GRID.width) + 0.5) / GRID.width, y: (Math.floor(at / GRID.width) + 0.5) / GRID.height,
    });
  }
  return cache.get(entry.index);
}

// Mean of a latent-grid map over a box in image pixels, each cell weighted by how much of it lies in the box.
function boxMean(map, box) {
  const {height: H, width: W} = GRID, kx = W / RUN.image.width, ky = H / RUN.image.height;
  const x0 = box.x * kx, x1 = (box.x + box.w) * kx, y0 = box.y * ky, y1 = (box.y + box.h) * ky;
  let sum = 0, area = 0;
  for (let y = Math.max(0, Math.floor(y0)); y < Math.min(H, Math.ceil(y1)); y++) {
    const dy = Math.min(y + 1, y1) - Math.max(y, y0);
    for (let x = Math.max(0, Math.floor(x0)); x < Math.min(W, Math.ceil(x1)); x++) {
      const part = dy * (Math.min(x + 1, x1) - Math.max(x, x0));
      sum += part * map[y * W + x];
      area += part;
    }
  }
  return area > 0 ? sum / area : 0;
}

// Share of every entry in a box (or, without one, in the whole image): all its tokens together, so that the prompt's entries add up to 1.
function shares(maps, box) {
  return ENTRIES.map((entry) => {
    const map = entryMap(maps, entry), n = entry.channels.length;
    return box ? n * boxMean(map, box) : entryFacts(maps, entry).share;
  });
}

// Share of a word at each step group, over the chosen sites.
function shareBySteps(selection, entry) {
  const heads = headsOf(selection);
  return Array.from({length: GROUPS}, (_, g) => {
    let sum = 0, weight = 0;
    RUN.sites.forEach((site, s) => {
      if (!heads[s].length) return;
      for (const channel of entry.channels) sum += heads[s].length * meanOf(plane(site.byStep, g * CHANNELS + channel));
      weight += heads[s].length;
    });
    return weight ? sum / weight : 0;
  });
}

// A word's map at one step group, at the finest grid that the chosen sites keep for steps.
function stepThumb(selection, entry, group) {
  const heads = headsOf(selection);
  let h = 1, w = 1;
  RUN.sites.forEach((site, s) => {
    if (heads[s].length && site.byStep.height * site.byStep.width > h * w) { h = site.byStep.height; w = site.byStep.width; }
  });
  const values = new Float32Array(h * w);
  for (const channel of entry.channels) {
    const map = GROUPS > 1 ? channelMap(heads, group, group, channel, h, w) : channelMap(heads, 0, 0, channel, h, w);
    addInto(values, map, 1 / entry.channels.length);
  }
  return {values, h, w};
}

// A word's map at one head of one site (head null: the mean over its heads), at the grid it is kept at.
function headThumb(entry, s, head) {
  const site = RUN.sites[s], block = head === null ? site.mean : site.byHead;
  const values = new Float32Array(block.height * block.width);
  for (const channel of entry.channels) {
    addInto(values, plane(block, (head === null ? 0 : head * CHANNELS) + channel), 1 / entry.channels.length);
  }
  return {values, h: block.height, w: block.width};
}
