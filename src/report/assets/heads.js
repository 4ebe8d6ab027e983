// Layers x heads: a thumbnail of the chosen word for each, to solo one or average a set.
function headsPanel() {
  const title = el('h2', {text: 'Layers and heads'});
  const most = Math.max(1, ...RUN.sites.map((site) => site.heads));
  let own = false; // each thumbnail on its own scale
  const tiles = [];
  const tile = (s, head) => {
    const canvas = el('canvas', {'aria-hidden': 'true'});
    const button = el('button', {class: 'tile', type: 'button', tabIndex: tiles.length ? -1 : 0}, canvas);
    const item = {s, head, canvas, button};
    button.item = item;
    tiles.push(item);
    return el('td', {}, button);
  };
  const grid = el(
    'table',
    {class: 'heads', 'aria-label': 'Layers in network order by heads'},
    el(
      'thead',
      {},
      el(
        'tr',
        {},
        el('th', {scope: 'col', text: 'Layer'}),
        el('th', {scope: 'col', text: 'mean'}),
        Array.from({length: most}, (_, i) => el('th', {scope: 'col', text: String(i)})),
      ),
    ),
    el(
      'tbody',
      {},
      RUN.sites.map((site, s) =>
        el(
          'tr',
          {class: site.used ? 'used' : ''},
          el(
            'th',
            {scope: 'row', title: site.path},
            el('span', {text: s + 1 + ' '}),
            el('small', {text: site.stage + ' ' + sizeOf(site)}),
          ),
          tile(s, null),
          Array.from({length: site.heads}, (_, head) => tile(s, head)),
        ),
      ),
    ),
  );

  grid.style.setProperty('--heads', most);

  // Click takes one alone (again: back to the run's own); ctrl, cmd or shift add; dragging averages
  // what it passes.
  let drag = null;
  const setOf = (items) => {
    const selection = RUN.sites.map(() => []);
    for (const {s, head} of items) {
      const add = head === null ? allHeads(RUN.sites[s]) : [head];
      selection[s] = [...new Set([...selection[s], ...add])].sort((x, y) => x - y);
    }
    return selection;
  };
  const same = (p, q) => JSON.stringify(p) === JSON.stringify(q);
  const itemAt = (event) => {
    const node = document.elementFromPoint(event.clientX, event.clientY);
    const button = node && node.closest('.tile');
    return button ? button.item : null;
  };
  const add = (item) => {
    const selection = (S.selection || RUN.sites.map(() => [])).map((heads) => [...heads]);
    const one = setOf([item]);
    const has = one[item.s].every((h) => selection[item.s].includes(h));
    selection[item.s] = has
      ? selection[item.s].filter((h) => !one[item.s].includes(h))
      : [...new Set([...selection[item.s], ...one[item.s]])].sort((x, y) => x - y);
    chooseHeads(selection.some((heads) => heads.length) ? selection : null);
  };
  const solo = (item) => {
    const one = setOf([item]);
    chooseHeads(same(S.selection, one) ? null : one);
  };
  grid.addEventListener('pointerdown', (event) => {
    const item = itemAt(event);
    if (!item || event.button !== 0 || event.pointerType === 'touch') return;
    drag = {from: item, moved: false, add: event.ctrlKey || event.metaKey || event.shiftKey};
  });
  grid.addEventListener('pointermove', (event) => {
    if (!drag || drag.add || !(event.buttons & 1)) return;
    const item = itemAt(event);
    if (!item || (item === drag.from && !drag.moved)) return;
    drag.moved = true;
    S.preview = null;
    const [s0, s1] = [drag.from.s, item.s].sort((x, y) => x - y);
    const columns = [drag.from.head ?? -1, item.head ?? -1].sort((x, y) => x - y);
    const items = tiles.filter(
      (t) => t.s >= s0 && t.s <= s1 && (t.head ?? -1) >= columns[0] && (t.head ?? -1) <= columns[1],
    );
    const selection = setOf(items);
    if (!same(selection, S.selection)) chooseHeads(selection);
  });
  // What is pointed at is shown at once; a click keeps it.
  grid.addEventListener('pointerover', (event) => {
    const item = itemAt(event);
    if (event.pointerType === 'touch' || (drag && drag.moved)) return;
    if (item) previewHeads(setOf([item]));
    else if (S.preview) set({preview: null});
  });
  grid.addEventListener('pointerleave', () => {
    if (S.preview) set({preview: null});
  });
  window.addEventListener('pointerup', () => {
    setTimeout(() => {
      drag = null;
    });
  });
  grid.addEventListener('click', (event) => {
    const button = event.target.closest('.tile');
    if (!button || (drag && drag.moved)) return;
    S.preview = null;
    if (event.ctrlKey || event.metaKey || event.shiftKey) add(button.item);
    else solo(button.item);
  });
  grid.addEventListener('keydown', (event) => {
    const button = event.target.closest('.tile');
    if (!button) return;
    if (event.key === ' ' && (event.ctrlKey || event.shiftKey)) {
      add(button.item);
      event.preventDefault();
      return;
    }
    const {s, head} = button.item;
    const column = head ?? -1;
    const [ds, dh] = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[event.key] || [0, 0];
    if (!ds && !dh) return;
    event.preventDefault();
    const row = tiles.filter((t) => t.s === s + ds);
    const next = row.find((t) => (t.head ?? -1) === column + dh) || (ds ? row[row.length - 1] : null);
    if (!next) return;
    for (const t of tiles) t.button.tabIndex = t === next ? 0 : -1;
    next.button.focus();
  });

  const presets = [
    ['Default', null],
    ['All layers', RUN.sites.map(allHeads)],
  ];
  const sizes = [...new Set(RUN.sites.map(sizeOf))];
  if (sizes.length > 1)
    for (const size of sizes)
      presets.push([size, RUN.sites.map((site) => (sizeOf(site) === size ? allHeads(site) : []))]);
  for (const stage of ['down', 'mid', 'up']) {
    if (RUN.sites.some((site) => site.stage === stage))
      presets.push([stage, RUN.sites.map((site) => (site.stage === stage ? allHeads(site) : []))]);
  }
  const buttons = presets.map(([text, selection]) => {
    const button = el('button', {class: 'quiet', type: 'button', text, onclick: () => chooseHeads(selection)});
    button.selection = selection;
    return button;
  });
  const scaleSwitch = check('Each on its own scale', false, (v) => {
    own = v;
    drawn = '';
    set({});
  });
  const says = el('p', {class: 'chosen'});
  const note = el('p', {class: 'note'});
  let drawn = '';
  let chosen = '';
  listeners.push(() => {
    const entry = focusEntry();
    const key = JSON.stringify([entry.index, S.palette, S.cells, own]);
    if (key !== drawn) {
      drawn = key;
      const maps = tiles.map(({s, head}) => headThumb(entry, s, head));
      const peaks = maps.map((m) => maxOf(m.values));
      const top = Math.max(1e-12, ...peaks);
      tiles.forEach(({s, head, canvas, button}, i) => {
        const {values, h, w} = maps[i];
        paintThumb(canvas, values, h, w, own ? peaks[i] : top, paletteOf(entry));
        canvas.classList.toggle('crisp', S.cells);
        const site = RUN.sites[s];
        button.title =
          site.path + (head === null ? ', mean of its heads' : ', head ' + head) + ': peak ' + percent(peaks[i]);
        button.setAttribute(
          'aria-label',
          `Layer ${s + 1}, ${site.stage}, ${site.width} by ${site.height}, ` +
            (head === null ? 'mean of heads' : 'head ' + head) +
            `, peak ${percent(peaks[i])}`,
        );
      });
      note.replaceChildren(
        el('b', {text: '“' + nameOf(entry) + '”'}),
        ', mean over all ' +
          CALL +
          's; ' +
          (own ? 'each picture on its own scale. ' : 'one scale for these pictures, 0 to ' + percent(top) + '. '),
        honest(),
      );
    }
    const selection = headsOf(S.selection);
    const state = JSON.stringify([S.selection, S.a, S.b, S.preview]);
    if (state !== chosen) {
      chosen = state;
      for (const {s, head, button} of tiles) {
        const on = head === null ? selection[s].length === RUN.sites[s].heads : selection[s].includes(head);
        button.setAttribute('aria-pressed', String(on));
      }
      for (const button of buttons) button.setAttribute('aria-pressed', String(same(button.selection, S.selection)));
      says.replaceChildren('On the image: ', el('b', {text: viewInWords()}), '.');
    }
  });
  return el(
    'section',
    {class: 'panel layers'},
    el('header', {}, title),
    says,
    el('div', {class: 'presets', role: 'group', 'aria-label': 'Choices of layers'}, buttons, scaleSwitch),
    el('div', {class: 'scroller'}, grid),
    el('p', {
      class: 'note',
      text:
        'Click one alone, drag to average a block, Ctrl or Shift and click to add. Heads are kept for all ' +
        CALL +
        's together, ' +
        CALL +
        's for all heads together.',
    }),
    note,
  );
}
