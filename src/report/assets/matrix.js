// The text encoder's own self-attention, token by token: where one word's meaning first reaches another.
function matrixPanel() {
  const title = el('h2', {text: 'Prompt matrix'});
  if (!RUN.matrix) {
    return el('section', {class: 'panel prompt-matrix'}, title,
      el('p', {class: 'note', text: 'The text encoder’s own attention was not recorded in this run.'}));
  }
  const {layers, heads, block} = RUN.matrix;
  const values = Array.from({length: layers * heads}, (_, p) => plane(block, p));
  const option = (value, text) => el('option', {value, text});
  const layer = el('select', {onchange: () => set({layer: Number(layer.value)})},
    option(-1, 'mean of all'), Array.from({length: layers}, (_, i) => option(i, String(i + 1) + ' of ' + layers)));
  const head = el('select', {onchange: () => set({head: Number(head.value)})},
    option(-1, 'mean of all'), Array.from({length: heads}, (_, i) => option(i, String(i))));
  const sink = check('Leave the start token out', S.sink, (v) => set({sink: v}), 'Most attention rests on the start token; without it, rows are scaled to sum to 1 again');
  const tokenText = (i) => { const t = RUN.tokens[i]; return t.kind === 'text' ? t.text : '⟨' + t.kind + '⟩'; };
  const cells = [];
  const dense = TOKENS > 18;
  const table = el('table', {class: 'matrix' + (dense ? ' dense' : ''), 'aria-label': 'Attention of the text encoder, row looks at column'},
    el('thead', {}, el('tr', {}, el('td', {}), RUN.tokens.map((_, j) => el('th', {scope: 'col'}, el('span', {text: tokenText(j), dir: 'auto'}))))),
    el('tbody', {}, RUN.tokens.map((_, i) => el('tr', {}, el('th', {scope: 'row', text: tokenText(i), dir: 'auto'}),
      RUN.tokens.map((__, j) => {
        const cell = el('td', {'data-i': i, 'data-j': j});
        if (j > i) { cell.className = 'future'; cell.title = 'cannot look ahead'; }
        else cells.push({i, j, cell});
        return cell;
      })))));
  const says = el('p', {class: 'chosen'});
  const note = el('p', {class: 'note'});
  let current = null;
  const speak = (i, j) => {
    says.replaceChildren(...(i === undefined ? ['Row: the token that looks. Column: the token it looks at. Striped: later words, which it cannot see.']
      : j > i ? [el('b', {text: tokenText(i)}), ' cannot look ahead to ', el('b', {text: tokenText(j)}), '.']
        : [el('b', {text: tokenText(i)}), ' gives ', el('b', {text: percent(current[i * TOKENS + j])}), ' to ', el('b', {text: tokenText(j)}), '.']));
  };
  table.addEventListener('pointerover', (event) => {
    const cell = event.target.closest('td[data-i]');
    if (cell) speak(Number(cell.dataset.i), Number(cell.dataset.j)); else speak();
  });
  table.addEventListener('pointerleave', () => speak());
  let drawn = '';
  listeners.push(() => {
    layer.value = S.layer; head.value = S.head; sink.show(S.sink);
    const key = JSON.stringify([S.layer, S.head, S.sink, S.palette]);
    if (key === drawn) return;
    drawn = key;
    current = new Float32Array(TOKENS * TOKENS);
    let count = 0;
    for (let l = 0; l < layers; l++) for (let h = 0; h < heads; h++) {
      if ((S.layer >= 0 && l !== S.layer) || (S.head >= 0 && h !== S.head)) continue;
      addInto(current, values[l * heads + h], 1);
      count++;
    }
    for (let k = 0; k < current.length; k++) current[k] /= Math.max(1, count);
    if (S.sink) {
      for (let i = 0; i < TOKENS; i++) {
        let sum = 0;
        for (let j = 1; j <= i; j++) sum += current[i * TOKENS + j];
        for (let j = 0; j < TOKENS; j++) current[i * TOKENS + j] = j > 0 && sum > 0 ? current[i * TOKENS + j] / sum : 0;
      }
    }
    // One scale for all cells; the diagonal (a token looking at itself) would otherwise hide the rest when the sink is out.
    let top = 0;
    for (const {i, j} of cells) if (!S.sink || i !== j) top = Math.max(top, current[i * TOKENS + j]);
    const table = palette(S.palette);
    for (const {i, j, cell} of cells) {
      const v = current[i * TOKENS + j], c = 3 * Math.round(255 * Math.min(1, top > 0 ? v / top : 0));
      const rgb = [table[c], table[c + 1], table[c + 2]];
      cell.style.backgroundColor = css(rgb);
      cell.style.color = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 140 ? '#1c1b19' : '#fbfaf7';
      cell.textContent = 100 * v >= 0.5 ? String(Math.round(100 * v)) : '0';
      cell.classList.toggle('out', S.sink && j === 0);
    }
    speak();
    let sunk = 0;
    for (let i = 1; i < TOKENS; i++) for (const p of values) sunk += p[i * TOKENS];
    note.replaceChildren(`The text encoder’s self-attention in per cent, ${S.layer < 0 ? 'mean of all layers' : 'layer ' + (S.layer + 1)}, ${S.head < 0 ? 'mean of all heads' : 'head ' + S.head}. ` +
      (S.sink ? 'The start token is left out and each row scaled to sum to 1 again. ' : `On average a token gives ${percent(sunk / Math.max(1, (TOKENS - 1) * values.length))} to the start token. `), honest());
  });
  return el('section', {class: 'panel prompt-matrix'}, el('header', {}, title),
    el('div', {class: 'presets'}, el('label', {}, el('span', {text: 'Layer'}), layer), el('label', {}, el('span', {text: 'Head'}), head), sink),
    el('div', {class: 'scroller'}, table), says, note);
}
