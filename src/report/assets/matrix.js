// The text encoder's own self-attention, token by token: where one word's meaning first reaches
// another.
function matrixPanel() {
  const title = el('h2', {text: 'Prompt matrix'});
  if (!RUN.matrices.length) {
    return el(
      'section',
      {class: 'panel prompt-matrix'},
      title,
      el('p', {class: 'note', text: 'The text encoder’s own attention was not recorded in this run.'}),
    );
  }
  const parts = RUN.matrices.map(matrixOf);
  if (parts.length < 2) return el('section', {class: 'panel prompt-matrix'}, el('header', {}, title), parts);
  const names = {text: 'text (the first)', text_2: 'text_2 (the second)'};
  const encoder = el(
    'select',
    {onchange: () => set({encoder: Number(encoder.value), layer: -1, head: -1})},
    RUN.matrices.map(({name}, i) => el('option', {value: i, text: names[name] || name})),
  );
  listeners.push(() => {
    encoder.value = S.encoder;
    parts.forEach((part, i) => {
      part.hidden = i !== S.encoder;
    });
  });
  return el(
    'section',
    {class: 'panel prompt-matrix'},
    el('header', {}, title, el('label', {class: 'says'}, el('span', {text: 'Text encoder '}), encoder)),
    parts,
  );
}

// One encoder's matrix with its choices.
function matrixOf({name, tokens, layers, heads, block}, index) {
  const count = tokens.length;
  const values = Array.from({length: layers * heads}, (_, p) => plane(block, p));
  const option = (value, text) => el('option', {value, text});
  const layer = el(
    'select',
    {onchange: () => set({layer: Number(layer.value)})},
    option(-1, 'mean of all'),
    Array.from({length: layers}, (_, i) => option(i, String(i + 1) + ' of ' + layers)),
  );
  const head = el(
    'select',
    {onchange: () => set({head: Number(head.value)})},
    option(-1, 'mean of all'),
    Array.from({length: heads}, (_, i) => option(i, String(i))),
  );
  const sink = check(
    'Leave the start token out',
    S.sink,
    (v) => set({sink: v}),
    'Most attention rests on the start token; without it, rows are scaled to sum to 1 again',
  );
  const tokenText = (i) => {
    const t = tokens[i];
    return t.kind === 'text' ? t.text : '⟨' + t.kind + '⟩';
  };
  // Chunks of a long prompt go through the encoder one by one.
  let chunk = -1;
  const chunks = tokens.map((t) => (t.kind === 'start' ? ++chunk : chunk));
  const isStart = (i) => tokens[i].kind === 'start';
  const unseen = (i, j) => (j > i ? 'cannot look ahead' : chunks[i] !== chunks[j] ? 'cannot see another chunk' : '');
  const cells = [];
  const dense = count > 18;
  const table = el(
    'table',
    {class: 'matrix' + (dense ? ' dense' : ''), 'aria-label': 'Attention of the text encoder, row looks at column'},
    el(
      'thead',
      {},
      el(
        'tr',
        {},
        el('td', {}),
        tokens.map((_, j) => el('th', {scope: 'col'}, el('span', {text: tokenText(j), dir: 'auto'}))),
      ),
    ),
    el(
      'tbody',
      {},
      tokens.map((_, i) =>
        el(
          'tr',
          {},
          el('th', {scope: 'row', text: tokenText(i), dir: 'auto'}),
          tokens.map((__, j) => {
            const cell = el('td', {'data-i': i, 'data-j': j});
            const why = unseen(i, j);
            if (why) {
              cell.className = 'future';
              cell.title = why;
            } else cells.push({i, j, cell});
            return cell;
          }),
        ),
      ),
    ),
  );
  const says = el('p', {class: 'chosen'});
  const note = el('p', {class: 'note'});
  let current = null;
  const speak = (i, j) => {
    says.replaceChildren(
      ...(i === undefined
        ? [
            'Row: the token that looks. Column: the token it looks at. Striped: later words' +
              (chunk > 0 ? ' and other chunks' : '') +
              ', which it cannot see.',
          ]
        : unseen(i, j)
          ? [
              el('b', {text: tokenText(i)}),
              ' ' + unseen(i, j) + (j > i ? ' to ' : ': '),
              el('b', {text: tokenText(j)}),
              '.',
            ]
          : [
              el('b', {text: tokenText(i)}),
              ' gives ',
              el('b', {text: percent(current[i * count + j])}),
              ' to ',
              el('b', {text: tokenText(j)}),
              '.',
            ]),
    );
  };
  // What a token on one side of the lines gives, or is given by, most.
  const speakOf = (side, at) => {
    if (side === undefined) {
      says.replaceChildren(
        'Lines: from the token that looks, left, to the token it looks at. Point at one to see its lines alone.',
      );
      return;
    }
    const others = tokens.map((_, k) => k).filter((k) => !(side === 'from' ? unseen(at, k) : unseen(k, at)));
    const value = (k) => (side === 'from' ? current[at * count + k] : current[k * count + at]);
    const most = others
      .sort((p, q) => value(q) - value(p))
      .slice(0, 3)
      .map((k) => tokenText(k) + ' ' + percent(value(k)));
    says.replaceChildren(
      el('b', {text: tokenText(at)}),
      side === 'from' ? ' looks at ' : ' is looked at by ',
      most.join(', ') + '.',
    );
  };
  const lines = headView(count, tokenText, unseen, speakOf);
  const asLines = check(
    'As lines',
    S.lines,
    (v) => set({lines: v}),
    'Lines from token to token in place of the table; point at a token to see its own',
  );
  table.addEventListener('pointerover', (event) => {
    const cell = event.target.closest('td[data-i]');
    if (cell) speak(Number(cell.dataset.i), Number(cell.dataset.j));
    else speak();
  });
  table.addEventListener('pointerleave', () => speak());
  // A click reads the score of two tokens, where their queries and keys were kept.
  const inside = insideMatrix(index, {tokens, layers, heads}, {values, unseen, tokenText});
  if (inside)
    table.addEventListener('click', (event) => {
      const cell = event.target.closest('td[data-i]');
      if (cell) set({pair: [Number(cell.dataset.i), Number(cell.dataset.j)]});
    });
  const scroller = el('div', {class: 'scroller'}, table);
  let drawn = '';
  listeners.push(() => {
    layer.value = S.layer;
    head.value = S.head;
    sink.show(S.sink);
    asLines.show(S.lines);
    scroller.hidden = S.lines;
    lines.node.style.display = S.lines ? '' : 'none';
    const key = JSON.stringify([S.layer, S.head, S.sink, S.palette, S.lines]);
    if (S.encoder !== index || key === drawn) return;
    drawn = key;
    current = new Float32Array(count * count);
    let planes = 0;
    for (let l = 0; l < layers; l++)
      for (let h = 0; h < heads; h++) {
        if ((S.layer >= 0 && l !== S.layer) || (S.head >= 0 && h !== S.head)) continue;
        addInto(current, values[l * heads + h], 1);
        planes++;
      }
    for (let k = 0; k < current.length; k++) current[k] /= Math.max(1, planes);
    if (S.sink) {
      for (let i = 0; i < count; i++) {
        let sum = 0;
        for (let j = 0; j <= i; j++) if (!isStart(j)) sum += current[i * count + j];
        for (let j = 0; j < count; j++)
          current[i * count + j] = !isStart(j) && sum > 0 ? current[i * count + j] / sum : 0;
      }
    }
    // One scale for all cells; the diagonal (a token looking at itself) would otherwise hide the
    // rest when the sink is out.
    let top = 0;
    for (const {i, j} of cells) if (!S.sink || i !== j) top = Math.max(top, current[i * count + j]);
    const colours = palette(S.palette);
    for (const {i, j, cell} of cells) {
      const v = current[i * count + j];
      const c = 3 * Math.round(255 * Math.min(1, top > 0 ? v / top : 0));
      const rgb = [colours[c], colours[c + 1], colours[c + 2]];
      cell.style.backgroundColor = css(rgb);
      cell.style.color = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 140 ? '#1c1b19' : '#fbfaf7';
      cell.textContent = 100 * v >= 0.5 ? String(Math.round(100 * v)) : '0';
      cell.classList.toggle('out', S.sink && isStart(j));
    }
    if (S.lines) {
      lines.draw(current, top);
      speakOf();
    } else speak();
    let sunk = 0;
    let looking = 0;
    tokens.forEach((_, i) => {
      if (!isStart(i)) {
        looking++;
        sunk += current[i * count + chunks.indexOf(chunks[i])];
      }
    });
    note.replaceChildren(
      `The ${RUN.matrices.length < 2 ? '' : index ? 'second ' : 'first '}text encoder’s self-attention in per cent, ` +
        `${S.layer < 0 ? 'mean of all layers' : 'layer ' + (S.layer + 1)}, ` +
        `${S.head < 0 ? 'mean of all heads' : 'head ' + S.head}. ` +
        (S.sink
          ? 'The start token is left out and each row scaled to sum to 1 again. '
          : `On average a token gives ${percent(sunk / Math.max(1, looking))} to the start token. `),
      honest(),
    );
  });
  return el(
    'div',
    {'data-encoder': name},
    el(
      'div',
      {class: 'presets'},
      el('label', {}, el('span', {text: 'Layer'}), layer),
      el('label', {}, el('span', {text: 'Head'}), head),
      sink,
      asLines,
    ),
    scroller,
    lines.node,
    says,
    note,
    inside,
  );
}
