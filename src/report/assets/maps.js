// The run's attention: averaging a choice of sites, heads and steps, and asking what lies where.
const RUN = JSON.parse($('run').textContent);
// Channels of a map: the tokens, the rest of the padding, the tokens of words that are not in the
// prompt. Last come those of the negative prompt's words, of the other half and another soft-max.
const TOKENS = RUN.tokens.length;
const REST = TOKENS;
const PROBE_TOKENS = RUN.probes.reduce((sum, probe) => sum + probe.tokens.length, 0);
const NEGATIVE = RUN.negativeWords;
const NEGATIVE_FROM = TOKENS + 1 + PROBE_TOKENS;
const CHANNELS = NEGATIVE_FROM + (NEGATIVE ? NEGATIVE.shares.length : 0);
const GROUPS = RUN.stepGroups.length;
const HAS_STEPS = GROUPS > 0 && RUN.sites.length > 0 && RUN.sites.every((site) => site.byStep);
const GRID = RUN.latent;
// The grid of a layer as `--resolution` takes it, width first.
const sizeOf = ({width, height}) => width + '×' + height;
// What the calls of the denoiser are: steps, or the noise levels that a picture was shown at.
const LOOK = RUN.noise !== null;
const CALL = LOOK ? 'noise level' : 'step';

// Where a second text encoder reads the prompt too: whose tokens count, by the address or as in the
// run's own maps. What the others get counts as the padding's.
const OWN = RUN.official;
const BEHIND = OWN ? OWN.behind : null;
const ENCODERS =
  BEHIND === null
    ? []
    : [
        ['both', 'CLIP and T5'],
        ['clip', 'CLIP alone'],
        ['t5', 'T5 alone'],
      ];
const encoderAsked = () => {
  const asked = /(?:^|[#&])encoder=(\w+)/.exec(location.hash);
  return asked && ENCODERS.some(([name]) => name === asked[1]) ? asked[1] : OWN ? OWN.encoder : 'both';
};
const ENCODER = encoderAsked();
const isRuns = !OWN || ENCODER === OWN.encoder;
const isOf = (token, behind) => ENCODER === 'both' || behind === null || token >= behind === (ENCODER === 't5');
const isHeard = (token) => isOf(token, BEHIND);
const SILENT = RUN.tokens.flatMap((_, i) => (isHeard(i) ? [] : [i]));
const tokensOf = (kind) => RUN.tokens.flatMap((token, i) => (token.kind === kind && isHeard(i) ? [i] : []));

// What can be shown: the prompt's words, the special tokens, then the probes.
const ENTRIES = RUN.words.map((word, i) => ({
  index: i,
  key: String(i),
  label: word.text,
  special: false,
  little: word.little,
  channels: word.tokens.filter(isHeard),
  occurrence: word.occurrence,
  weight: word.weight,
  own: i,
}));
for (const [key, label, channels] of [
  ['s', 'start', tokensOf('start')],
  ['e', 'end', tokensOf('end')],
  [
    'p',
    SILENT.length ? 'padding, image and the other encoder' : RUN.joint ? 'padding and image' : 'padding',
    RUN.padding > 0 || RUN.joint ? [REST, ...SILENT] : [],
  ],
]) {
  if (channels.length) ENTRIES.push({index: ENTRIES.length, key, label, special: true, channels, occurrence: 1});
}
RUN.probes.forEach((probe, i) =>
  ENTRIES.push({
    index: ENTRIES.length,
    key: 'q' + i,
    label: probe.text,
    special: false,
    probe: true,
    channels: probe.tokens,
    occurrence: 1,
    own: RUN.words.length + i,
  }),
);
const PROBES = ENTRIES.filter((entry) => entry.probe);
for (const [i, word] of (NEGATIVE ? NEGATIVE.words : []).entries()) {
  ENTRIES.push({
    index: ENTRIES.length,
    key: 'n' + i,
    label: word.text,
    special: false,
    negative: true,
    channels: word.tokens.filter((t) => isOf(t, NEGATIVE.behind)).map((t) => NEGATIVE_FROM + t),
    occurrence: word.occurrence,
    weight: word.weight,
    own: i,
  });
}
const NEGATIVES = ENTRIES.filter((entry) => entry.negative);
const WORDS = ENTRIES.filter((entry) => !entry.special && !entry.negative && !entry.probe);
const SPECIALS = ENTRIES.filter((entry) => entry.special);
// What the prompt's brackets multiply a word by: ×1.4, or nothing.
const weightOf = (entry) =>
  entry.weight === undefined || entry.weight === 1 ? '' : '×' + Number(entry.weight.toFixed(2));
// A word's name, as on the command line.
const nameOf = (entry) =>
  (entry.probe ? 'probe:' : '') + numbered(entry.label, entry.occurrence) + (entry.negative ? ' (negative)' : '');

// A selection is a list of head sets, one a site, or null for the run's own choice of maps. That
// may be of some heads or steps.
const ownHeads = () =>
  RUN.sites.map((site) =>
    !site.used ? [] : OWN && OWN.heads ? OWN.heads.filter((h) => h < site.heads) : allHeads(site),
  );
const allHeads = (site) => Array.from({length: site.heads}, (_, i) => i);
const headsOf = (selection) => selection || ownHeads();
const isWhole = (a, b) => a <= 0 && b >= GROUPS - 1;
// The groups of steps that are looked at: the run's own window where it has one and nothing else is
// chosen.
function groupsOf(selection, a, b) {
  if (selection !== null || !isWhole(a, b) || !OWN || !OWN.steps) return [a, b];
  const inside = RUN.stepGroups
    .map(([first, last], g) => (last >= OWN.steps[0] && first <= OWN.steps[1] ? g : -1))
    .filter((g) => g >= 0);
  return [inside[0], inside[inside.length - 1]];
}

// Calls `use(values, block, weight)` for one channel's planes of the chosen sites, heads and steps;
// weights count (site, head)s.
function eachPlane(heads, a, b, channel, use) {
  RUN.sites.forEach((site, s) => {
    const chosen = heads[s];
    if (!chosen.length) return;
    if (HAS_STEPS && !isWhole(a, b)) {
      for (let g = a; g <= b; g++)
        use(plane(site.byStep, g * CHANNELS + channel), site.byStep, chosen.length / (b - a + 1));
    } else if (chosen.length === site.heads) use(plane(site.mean, channel), site.mean, chosen.length);
    else for (const head of chosen) use(plane(site.byHead, head * CHANNELS + channel), site.byHead, 1);
  });
}

// One channel's map of the chosen sites, heads and steps: the mean over (site, head) at H x W.
// Every site's planes are upsampled first and clamped at 0, as DAAM does (Tang et al. 2023, section
// 3).
function channelMap(heads, a, b, channel, H, W) {
  const sum = new Float32Array(H * W);
  let weight = 0;
  eachPlane(heads, a, b, channel, (values, block, count) => {
    const grid = bicubic(values, block.height, block.width, H, W);
    if (block.height !== H || block.width !== W) clampAtZero(grid);
    addInto(sum, grid, count);
    weight += count;
  });
  if (weight > 0) for (let i = 0; i < sum.length; i++) sum[i] /= weight;
  return sum;
}

// A view: a selection and a window of step groups, and what has been worked out of it; the last few
// are kept.
const aggregates = new Map();
function aggregate(selection, a, b) {
  const own = selection === null && OWN;
  const whole = isWhole(a, b);
  const key = JSON.stringify([selection, whole ? 'all' : [a, b]]);
  let maps = aggregates.get(key);
  if (!maps) {
    const [from, to] = groupsOf(selection, a, b);
    maps = {
      key,
      heads: headsOf(selection),
      from,
      to,
      own,
      packed: own && whole && isRuns,
      words: new Map(),
      channels: new Map(),
      totals: new Map(),
    };
    if (aggregates.size > 24) aggregates.delete(aggregates.keys().next().value);
    aggregates.set(key, maps);
  }
  return maps;
}
function channelOf(maps, channel) {
  if (!maps.channels.has(channel))
    maps.channels.set(channel, channelMap(maps.heads, maps.from, maps.to, channel, GRID.height, GRID.width));
  return maps.channels.get(channel);
}

// The map of a word: the attention to its tokens together. Where the run's own choice lets the
// words compete, it is the word's part of what the text has in a cell. That part is taken to a
// power, with the peak that the map had.
function entryMap(maps, entry) {
  let map = maps.words.get(entry.index);
  if (!map) {
    if (maps.packed && !entry.special) map = plane(entry.negative ? NEGATIVE.block : OWN.block, entry.own);
    else {
      map = sumOf(maps.own, entry, (channel) => channelOf(maps, channel));
      if (maps.own && OWN.compete) {
        const total = (negative) => {
          if (!maps.totals.has(negative))
            maps.totals.set(
              negative,
              totalOf(negative, (channel) => channelOf(maps, channel)),
            );
          return maps.totals.get(negative);
        };
        compete(map, entry, total);
      }
    }
    maps.words.set(entry.index, map);
  }
  return map;
}
// The maps of an entry's channels together; DAAM takes their mean. A word that the chosen encoder
// did not read has none.
function sumOf(own, entry, channel) {
  if (!entry.channels.length) return channel(REST).slice().fill(0);
  const map = channel(entry.channels[0]).slice();
  for (const other of entry.channels.slice(1)) addInto(map, channel(other), 1);
  if (own && own.mean && entry.key !== 'p') for (let i = 0; i < map.length; i++) map[i] /= entry.channels.length;
  return map;
}
// What the words of a half compete for: the attention to all of its text, and in each cell as much
// again as the text has in a cell on average, which goes to no word.
const TEXT = tokensOf('text');
const NEGATIVE_TEXT = NEGATIVE
  ? NEGATIVE.shares.flatMap((_, t) => (isOf(t, NEGATIVE.behind) ? [NEGATIVE_FROM + t] : []))
  : [];
function totalOf(negative, channel) {
  const [first, ...rest] = negative ? NEGATIVE_TEXT : TEXT;
  const total = channel(first).slice();
  for (const other of rest) addInto(total, channel(other), 1);
  const mean = total.reduce((sum, value) => sum + value, 0) / total.length;
  for (let i = 0; i < total.length; i++) total[i] += mean;
  return total;
}
function compete(map, entry, total) {
  if (entry.special || !(entry.probe ? TEXT.length : entry.channels.length)) return;
  const all = total(Boolean(entry.negative));
  const highest = maxOf(map);
  for (let i = 0; i < map.length; i++) {
    const of = all[i] + (entry.probe ? map[i] : 0);
    map[i] = of > 0 ? (map[i] / of) ** OWN.compete : 0;
  }
  const top = maxOf(map);
  if (top > 0) for (let i = 0; i < map.length; i++) map[i] *= highest / top;
}

// Numbers about a word under the current view (docs/NUMBERS.md). They are its share of all
// attention and where its map peaks. The third is how much of the image reaches the run's
// threshold, a share of that peak.
function entryFacts(maps, entry) {
  const cache = (maps.facts ||= new Map());
  if (!cache.has(entry.index)) {
    const map = entryMap(maps, entry);
    let at = 0;
    for (let i = 1; i < map.length; i++) if (map[i] > map[at]) at = i;
    // Resizing may overshoot what attention can be.
    const peak = Math.min(1, map[at]);
    let area = 0;
    for (const v of map) if (peak > 0 && v >= RUN.threshold * peak) area++;
    cache.set(entry.index, {
      share: shareIn(maps, entry, null),
      peak,
      area: area / map.length,
      x: ((at % GRID.width) + 0.5) / GRID.width,
      y: (Math.floor(at / GRID.width) + 0.5) / GRID.height,
    });
  }
  return cache.get(entry.index);
}

// Mean of a plane over a box in image pixels, each cell weighted by how much of it lies in the box.
// Without a box it is the mean over everything.
function boxMean(map, {height: H, width: W}, box) {
  if (!box) return meanOf(map);
  const kx = W / RUN.image.width;
  const ky = H / RUN.image.height;
  const x0 = box.x * kx;
  const x1 = (box.x + box.w) * kx;
  const y0 = box.y * ky;
  const y1 = (box.y + box.h) * ky;
  let sum = 0;
  let area = 0;
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

// The share of a plane's sum that lies in a box in image pixels. A box within one cell counts as
// the whole cell, as planes are no finer.
function boxShare(map, grid, box) {
  const {height: H, width: W} = grid;
  const sum = map.reduce((all, value) => all + value, 0);
  const kx = W / RUN.image.width;
  const ky = H / RUN.image.height;
  const covered = (at, from, to) => Math.max(0, Math.min(at + 1, to) - Math.max(at, from));
  let inside = 0;
  let most = 1e-12;
  for (let y = 0; y < H; y++) {
    for (let x = 0; x < W; x++) {
      const part = covered(y, box.y * ky, (box.y + box.h) * ky) * covered(x, box.x * kx, (box.x + box.w) * kx);
      inside += part * map[y * W + x];
      most = Math.max(most, part);
    }
  }
  return sum > 0 ? inside / most / sum : 0;
}

// The share of a place's attention that goes to an entry, all its tokens together. It is the mean
// probability over the place, from the planes as they were recorded, before anything is resized or
// competes. `attnmap ask` says the same.
function shareIn(maps, entry, box) {
  const exact = !box && maps.packed ? (entry.negative ? NEGATIVE.shares : OWN.shares) : null;
  const from = entry.negative ? NEGATIVE_FROM : 0;
  let share = 0;
  for (const channel of entry.channels) {
    if (exact && channel - from < exact.length) {
      share += exact[channel - from];
      continue;
    }
    let sum = 0;
    let weight = 0;
    eachPlane(maps.heads, maps.from, maps.to, channel, (values, block, count) => {
      sum += count * boxMean(values, block, box);
      weight += count;
    });
    share += weight > 0 ? sum / weight : 0;
  }
  return share;
}

// The share of every entry in a box, or, without one, in the whole image. The prompt's entries add
// up to 1 in either.
const shares = (maps, box) => ENTRIES.map((entry) => (box ? shareIn(maps, entry, box) : entryFacts(maps, entry).share));

// Share of a word at each step group, over the chosen sites.
function shareBySteps(selection, entry) {
  const heads = headsOf(selection);
  return Array.from({length: GROUPS}, (_, g) => {
    let sum = 0;
    let weight = 0;
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
  let h = 1;
  let w = 1;
  RUN.sites.forEach((site, s) => {
    if (heads[s].length && site.byStep.height * site.byStep.width > h * w) {
      h = site.byStep.height;
      w = site.byStep.width;
    }
  });
  const own = selection === null && OWN;
  const channel = (c) => channelMap(heads, group, group, c, h, w);
  const values = sumOf(own, entry, channel);
  if (own && OWN.compete) {
    compete(values, entry, (negative) => {
      const key = [group, negative, h, w].join();
      if (!stepTotals.has(key)) stepTotals.set(key, totalOf(negative, channel));
      return stepTotals.get(key);
    });
  }
  return {values, h, w};
}
const stepTotals = new Map();

// The attention to a word at one head of one site (head null: the mean over its heads), at the grid
// it is kept at.
function headThumb(entry, s, head) {
  const site = RUN.sites[s];
  const block = head === null ? site.mean : site.byHead;
  const values = new Float32Array(block.height * block.width);
  for (const channel of entry.channels) {
    addInto(values, plane(block, (head === null ? 0 : head * CHANNELS) + channel), 1);
  }
  return {values, h: block.height, w: block.width};
}
