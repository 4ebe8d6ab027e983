// Inside one score (BertViz's neuron view; Vig, 2019): a query, a key, and what each channel of
// their product gives to the score.
let HALVES = null; // bytes of all queries and keys
async function loadQueries() {
  const script = $('queries');
  if (!script) return;
  HALVES = new DataView(await inflate(script.textContent));
  script.remove();
}
// Number `i` of a list of half-precision numbers: all low bytes lie first.
function halfAt({at, count}, i) {
  const bits = HALVES.getUint8(at + i) | (HALVES.getUint8(at + count + i) << 8);
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : (2 ** -14 * fraction) / 1024;
  return bits & 0x8000 ? -size : size;
}
const halves = (list, row, n) => Float32Array.from({length: n}, (_, c) => halfAt(list, row * n + c));
const signed = (value, digits = 2) => (value < 0 ? '−' : '+') + Math.abs(value).toFixed(digits);
const total = (values) => {
  let sum = 0;
  for (const v of values) sum += v;
  return sum;
};
function productsOf(query, key) {
  const scale = 1 / Math.sqrt(query.length);
  return query.map((value, c) => value * key[c] * scale);
}

// Three rows of bars over the channels. `name` says what is drawn, `show` takes query, key and
// products.
function channelBars(name) {
  const TALL = {query: 34, key: 34, product: 62};
  const TEXTS = {query: 'query', key: 'key', product: 'product'};
  const make = (tag, attributes) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  let order = [];
  let parts = null;
  let at = -1;
  const rows = Object.keys(TALL).map((kind) => {
    const svg = make('svg', {class: 'bars-of ' + kind, preserveAspectRatio: 'none', 'aria-hidden': 'true'});
    return {
      kind,
      svg,
      says: el('span', {class: 'end'}),
      row: el('div', {class: 'channel-row'}, el('span', {class: 'name', text: TEXTS[kind]}), svg),
    };
  });
  for (const row of rows) row.row.append(row.says);
  const says = el('p', {class: 'chosen channel-says'});
  const most = () => {
    const best = order
      .slice()
      .sort((p, q) => Math.abs(parts.product[q]) - Math.abs(parts.product[p]))
      .slice(0, 4);
    return [
      'Most: ' +
        best.map((c) => 'channel ' + c + ' ' + signed(parts.product[c])).join(', ') +
        '. Point at a channel to read it.',
    ];
  };
  const read = (c) =>
    `channel ${c}: query ${signed(parts.query[c])} times key ${signed(parts.key[c])}, ` +
    `over √${order.length}, gives ${signed(parts.product[c], 3)}`;
  const light = (place) => {
    at = place;
    for (const {svg} of rows)
      svg.querySelectorAll('rect.bar').forEach((bar, i) => bar.classList.toggle('lit', i === at));
    says.replaceChildren(...(at < 0 ? most() : [el('b', {text: read(order[at])}), '.']));
    if (at >= 0) {
      box.setAttribute('aria-valuenow', at + 1);
      box.setAttribute('aria-valuetext', read(order[at]));
    }
  };
  const box = el(
    'div',
    {class: 'channel-rows', role: 'slider', tabIndex: 0, 'aria-label': name + ': channels', 'aria-valuemin': '1'},
    rows.map(({row}) => row),
  );
  const placeOf = (event) => {
    const {left, width} = rows[0].svg.getBoundingClientRect();
    const place = Math.floor((order.length * (event.clientX - left)) / width);
    return place >= 0 && place < order.length ? place : -1;
  };
  box.addEventListener('pointermove', (event) => light(placeOf(event)));
  box.addEventListener('pointerdown', (event) => light(placeOf(event)));
  box.addEventListener('pointerleave', (event) => {
    if (event.pointerType !== 'touch') light(-1);
  });
  box.addEventListener('focus', () => {
    if (box.matches(':focus-visible') && at < 0) light(0);
  });
  box.addEventListener('blur', () => light(-1));
  box.addEventListener('keydown', (event) => {
    const to = {
      ArrowRight: at + 1,
      ArrowUp: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: at - 1,
      Home: 0,
      End: order.length - 1,
    }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    light(Math.min(order.length - 1, Math.max(0, to)));
    event.preventDefault();
    event.stopPropagation();
  });
  const table = el('details', {class: 'channel-table'}, el('summary', {text: 'As a table'}));
  const fill = () => {
    table.querySelector('.scroller')?.remove();
    if (!table.open || !parts) return;
    const row = (c) =>
      el(
        'tr',
        {},
        el('th', {scope: 'row', text: String(c)}),
        ['query', 'key', 'product'].map((kind) => el('td', {class: 'number', text: signed(parts[kind][c], 3)})),
      );
    table.append(
      plainTable(
        ['channel', 'query', 'key', 'gives'].map((text) => el('th', {scope: 'col', text})),
        order.map(row),
      ),
    );
  };
  table.addEventListener('toggle', fill);
  const show = (query, key, sorted) => {
    const product = productsOf(query, key);
    parts = {query, key, product};
    order = Array.from(query, (_, c) => c);
    if (sorted) order.sort((p, q) => product[q] - product[p]);
    box.setAttribute('aria-valuemax', order.length);
    for (const {kind, svg, says: end} of rows) {
      const values = parts[kind];
      const top = Math.max(1e-12, ...values.map(Math.abs));
      const half = TALL[kind] / 2;
      svg.setAttribute('viewBox', `0 0 ${order.length} ${TALL[kind]}`);
      svg.style.height = TALL[kind] / 16 + 'rem';
      svg.replaceChildren(
        make('rect', {class: 'zero', x: 0, y: half - 0.4, width: order.length, height: 0.8}),
        ...order.map((c, i) => {
          const size = (Math.abs(values[c]) / top) * (half - 1);
          return make('rect', {
            class: 'bar ' + (values[c] < 0 ? 'minus' : 'plus'),
            x: i + 0.08,
            width: 0.84,
            y: values[c] < 0 ? half : half - size,
            height: Math.max(size, 0.3),
          });
        }),
      );
      end.textContent = '± ' + top.toFixed(2);
    }
    light(-1);
    fill();
    return product;
  };
  return {node: el('div', {class: 'channels'}, box, says, table), show};
}
// What adds to a score and what takes from it, in words.
function partsInWords(product) {
  const sorted = [...product].sort((p, q) => Math.abs(q) - Math.abs(p));
  const all = sorted.reduce((sum, v) => sum + Math.abs(v), 0);
  let count = 0;
  for (let sum = 0; count < sorted.length && sum < all / 2; count++) sum += Math.abs(sorted[count]);
  const plus = total(product.filter((v) => v > 0));
  const minus = total(product.filter((v) => v < 0));
  return (
    `channels that add give ${signed(plus)}, those that take ${signed(minus)}; ` +
    `${count} of ${product.length} make half of both`
  );
}
const sortedCheck = () =>
  check(
    'Sorted by what they give',
    S.sorted,
    (v) => set({sorted: v}),
    'Channels from the one that adds most to the one that takes most, or by number',
  );

// A place of the image and a word of the prompt, in one head of one layer.
function insidePanel() {
  if (!RUN.queries || !RUN.queries.sites.length) return null;
  const kept = RUN.queries.sites;
  const siteOf = (s) => kept.find(({site}) => site === s);
  const option = (value, text) => el('option', {value, text});
  const layer = el(
    'select',
    {onchange: () => alone(Number(layer.value), 0)},
    kept.map(({site: s}) =>
      option(s, s + 1 + ': ' + RUN.sites[s].stage + ' ' + sizeOf(RUN.sites[s])),
    ),
  );
  const head = el('select', {onchange: () => alone(Number(layer.value), Number(head.value))});
  const token = el('select', {onchange: () => set({token: Number(token.value)})});
  const tokens = el('label', {}, el('span', {text: 'Token'}), token);
  const sorted = sortedCheck();
  const alone = (s, h) => chooseHeads(RUN.sites.map((_, i) => (i === s ? [h] : [])));
  const tokenText = (i) => {
    const t = RUN.tokens[i];
    return t.kind === 'text' ? t.text : '⟨' + t.kind + '⟩';
  };
  const says = el('p', {class: 'chosen inside-says'});
  const note = el('p', {class: 'note'});
  const bars = channelBars('Query of the place times key of the word');

  // The cells of a site under a place, with weights that sum to 1: of a point the cell that it lies
  // in.
  const cellsUnder = ({height: H, width: W}, box) => {
    const kx = W / RUN.image.width;
    const ky = H / RUN.image.height;
    const point = box.w <= 1 && box.h <= 1;
    const x0 = point ? Math.floor(box.x * kx) : box.x * kx;
    const x1 = point ? x0 + 1 : (box.x + box.w) * kx;
    const y0 = point ? Math.floor(box.y * ky) : box.y * ky;
    const y1 = point ? y0 + 1 : (box.y + box.h) * ky;
    const cells = [];
    for (let y = Math.max(0, Math.floor(y0)); y < Math.min(H, Math.ceil(y1)); y++)
      for (let x = Math.max(0, Math.floor(x0)); x < Math.min(W, Math.ceil(x1)); x++) {
        cells.push([y * W + x, (Math.min(y + 1, y1) - Math.max(y, y0)) * (Math.min(x + 1, x1) - Math.max(x, x0))]);
      }
    const all = cells.reduce((sum, [, part]) => sum + part, 0);
    return cells.map(([cell, part]) => [cell, part / all]);
  };
  const recorded = (s, h, t, box) => boxMean(plane(RUN.sites[s].byHead, h * CHANNELS + t), RUN.sites[s].byHead, box);
  // The head that is read: the one that is chosen, or of those that are, the one that gives the
  // token most at the place.
  const headAt = (t, box) => {
    const chosen = headsOf(looking().selection);
    let best = null;
    for (const {site: s} of kept)
      for (const h of chosen[s]) {
        const share =
          chosen[s].length === 1 && chosen.every((heads, i) => i === s || !heads.length) ? 1 : recorded(s, h, t, box);
        if (!best || share > best.share) best = {s, h, share};
      }
    return best;
  };
  const single = () => {
    const {selection} = looking();
    return selection !== null && selection.reduce((n, heads) => n + heads.length, 0) === 1;
  };
  const empty = (text) => {
    says.replaceChildren(text);
    bars.node.hidden = true;
    note.replaceChildren(honest());
  };
  let drawn = '';
  listeners.push(() => {
    const entry = focusEntry();
    const box = S.probe || S.box;
    const {selection} = looking();
    const key = JSON.stringify([entry.index, box, selection, S.token, S.sorted]);
    sorted.show(S.sorted);
    if (key === drawn) return;
    drawn = key;
    const own = entry.probe || entry.negative || entry.channels[0] === REST ? [] : entry.channels;
    tokens.hidden = own.length < 2;
    if (!own.length) return empty('Keys are kept for the tokens of the prompt: choose one of its words.');
    const t = own[Math.min(S.token, own.length - 1)];
    token.replaceChildren(...own.map((at, i) => option(i, tokenText(at))));
    token.value = String(own.indexOf(t));
    const peak = entryFacts(view(), entry);
    const place = box || {
      x: Math.floor(peak.x * RUN.image.width),
      y: Math.floor(peak.y * RUN.image.height),
      w: 1,
      h: 1,
    };
    const found = headAt(t, place);
    if (!found)
      return empty('The chosen layers kept no queries: choose one of ' + ranges(kept.map(({site}) => site + 1)) + '.');
    const {s, h} = found;
    const site = RUN.sites[s];
    const {headDim: n, factor, query, key: keys, logSum, ...grid} = siteOf(s);
    layer.value = String(s);
    head.replaceChildren(...allHeads(site).map((i) => option(i, String(i))));
    head.value = String(h);
    bars.node.hidden = false;
    const cells = grid.height * grid.width;
    const mean = new Float32Array(n);
    const k = halves(keys, h * TOKENS + t, n);
    let probability = 0;
    for (const [cell, part] of cellsUnder(grid, place)) {
      const q = halves(query, h * cells + cell, n);
      addInto(mean, q, part);
      probability +=
        part * Math.exp(total(productsOf(q, k)) - HALVES.getFloat32(logSum + 4 * (h * cells + cell), true));
    }
    const product = bars.show(mean, k, S.sorted);
    const score = total(product);
    const where =
      place.w * place.h > 1
        ? `the box ${place.w} × ${place.h} at ${place.x}, ${place.y}`
        : `pixel ${place.x}, ${place.y}`;
    says.dataset.score = score;
    says.dataset.probability = probability;
    says.replaceChildren(
      el('b', {text: nameOf(entry), dir: 'auto'}),
      (own.length > 1 ? ', token ' + tokenText(t) : '') +
        ` at ${where}${box ? '' : ', where its map is highest'}: score `,
      el('b', {text: signed(score)}),
      '. The soft-max over all keys makes ',
      el('b', {text: percent(probability)}),
      ` of it; recorded, mean over the ${CALL}s: ${percent(recorded(s, h, t, place))}.`,
    );
    note.replaceChildren(
      `Layer ${s + 1} (${site.stage}, ${sizeOf(site)}), head ${h}` +
        (single() ? '' : ', which gives it most there of the chosen heads') +
        `: ${partsInWords(product)}. ` +
        `Queries are the mean over ${plural(RUN.queries.steps, CALL)}` +
        (factor > 1 ? ` and over ${factor} × ${factor} cells` : '') +
        ', so that the score is the mean score; the soft-max of a mean is not the mean of the soft-max. ' +
        (RUN.queries.leftOut.length ? 'Left out to keep the page small: ' + RUN.queries.leftOut.join(', ') + '. ' : ''),
      honest(),
    );
  });
  return el(
    'section',
    {class: 'panel inside'},
    el('header', {}, el('h2', {text: 'Inside one score'})),
    el(
      'div',
      {class: 'presets'},
      el('label', {}, el('span', {text: 'Layer'}), layer),
      el('label', {}, el('span', {text: 'Head'}), head),
      tokens,
      sorted,
    ),
    says,
    bars.node,
    note,
  );
}

// Two tokens of the prompt in one head of one layer of a text encoder; below its matrix.
function insideMatrix(index, {tokens, layers, heads}, {values, unseen, tokenText}) {
  const kept = RUN.queries && RUN.queries.encoders.find(({matrix}) => matrix === index);
  if (!kept) return null;
  const {headDim: n, query, key} = kept;
  const count = tokens.length;
  const option = (value, text) => el('option', {value, text});
  const choices = () => tokens.map((_, i) => option(i, i + ' ' + tokenText(i)));
  const from = el('select', {onchange: () => pick(Number(from.value), Number(to.value))}, choices());
  const to = el('select', {onchange: () => pick(Number(from.value), Number(to.value))}, choices());
  const pick = (i, j) => set({pair: [i, j]});
  const sorted = sortedCheck();
  const says = el('p', {class: 'chosen inside-says'});
  const note = el('p', {class: 'note'});
  const bars = channelBars('Query of the token that looks times key of the token looked at');
  let drawn = '';
  listeners.push(() => {
    sorted.show(S.sorted);
    const [i, j] = S.pair.every((at) => at < count) ? S.pair : DEFAULTS.pair;
    const state = JSON.stringify([i, j, S.layer, S.head, S.sorted]);
    if (S.encoder !== index || state === drawn) return;
    drawn = state;
    from.value = String(i);
    to.value = String(j);
    const why = unseen(i, j);
    bars.node.hidden = Boolean(why);
    if (why) {
      delete says.dataset.score;
      says.replaceChildren(
        el('b', {text: tokenText(i)}),
        ' ' + why + (j > i ? ' to ' : ': '),
        el('b', {text: tokenText(j)}),
        '.',
      );
      note.replaceChildren();
      return;
    }
    // Of the layers and heads that are chosen, the one in which the token gives the other most.
    let best = null;
    for (let l = 0; l < layers; l++)
      for (let h = 0; h < heads; h++) {
        if ((S.layer >= 0 && l !== S.layer) || (S.head >= 0 && h !== S.head)) continue;
        const share = values[l * heads + h][i * count + j];
        if (!best || share > best.share) best = {l, h, share};
      }
    const {l, h, share} = best;
    const row = (at) => (l * heads + h) * count + at;
    const q = halves(query, row(i), n);
    const product = bars.show(q, halves(key, row(j), n), S.sorted);
    const score = total(product);
    let all = 0;
    for (let k = 0; k < count; k++)
      if (!unseen(i, k)) all += Math.exp(total(productsOf(q, halves(key, row(k), n))) - score);
    says.dataset.score = score;
    says.dataset.probability = 1 / all;
    says.replaceChildren(
      el('b', {text: tokenText(i), dir: 'auto'}),
      ' looks at ',
      el('b', {text: tokenText(j), dir: 'auto'}),
      ': score ',
      el('b', {text: signed(score)}),
      '. The soft-max over all that it sees makes ',
      el('b', {text: percent(1 / all)}),
      ` of it; recorded: ${percent(share)}.`,
    );
    note.replaceChildren(
      `Layer ${l + 1}, head ${h}` +
        (S.layer >= 0 && S.head >= 0 ? '' : ', which gives it most of the chosen ones') +
        `: ${partsInWords(product)}.`,
    );
  });
  return el(
    'div',
    {class: 'inside'},
    el('h3', {text: 'Inside one score'}),
    el(
      'div',
      {class: 'presets'},
      el('label', {}, el('span', {text: 'From'}), from),
      el('label', {}, el('span', {text: 'to'}), to),
      sorted,
    ),
    says,
    bars.node,
    note,
  );
}
