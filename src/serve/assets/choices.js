// What is looked at in both pictures: the word, the step, the layer; and what changed, in a line.
function choices() {
  const line = el('p', {class: 'changed', 'aria-live': 'polite'});
  const row = el('div', {class: 'words', role: 'group', 'aria-label': 'Words: the kept one is lit in both pictures'});
  const step = el('input', {
    type: 'range',
    min: 0,
    max: 1,
    step: 1,
    'aria-label': 'Step',
    oninput: () => choose({step: Number(step.value) || null}),
  });
  const says = el('span', {class: 'soft'});
  const layer = el('select', {'aria-label': 'Layers', onchange: () => choose({layers: layer.value || null})});
  let built = '';
  let layers = '';
  row.addEventListener('keydown', (event) => {
    const move = {ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity}[event.key];
    if (move === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    const all = [...row.querySelectorAll('button')];
    const at = all.indexOf(document.activeElement);
    if (at >= 0) all[Math.min(all.length - 1, Math.max(0, at + move))].focus();
    event.preventDefault();
    event.stopPropagation();
  });
  // The words of B, each with what stood in its place, and those that only A has.
  const words = () => {
    const side = shownB();
    if (!side) return [];
    const own = side.words.map((word, i) => {
      const pair = !S.live && S.compared ? S.compared.pairs.find((p) => p.b === i) : null;
      const old = pair && pair.kind === 'replaced' && S.a ? S.a.words[pair.a].label : null;
      return {
        label: word.label,
        text: old ? old + ' → ' + word.label : word.label,
        kind: pair ? pair.kind : 'same',
        share: word.share,
      };
    });
    const gone =
      !S.live && S.compared && S.a ? S.compared.pairs.filter((p) => p.kind === 'onlya').map((p) => S.a.words[p.a]) : [];
    return own.concat(gone.map((word) => ({label: word.label, text: word.label, kind: 'onlya', share: word.share})));
  };
  listeners.push(() => {
    line.textContent = S.live ? '' : S.compared ? 'changed: ' + inOrder(S.compared.line) : '';
    const all = words();
    const key = JSON.stringify(all.map(({text, kind, share}) => [text, kind, share]));
    if (key !== built) {
      built = key;
      const focused = row.contains(document.activeElement) ? document.activeElement.dataset.word : null;
      row.replaceChildren(
        ...all.map(({label, text, kind, share}) =>
          el(
            'button',
            {
              class: 'word ' + kind,
              type: 'button',
              tabIndex: -1,
              'data-word': label,
              onclick: () => set({word: label, hover: null}),
              onpointerenter: (event) => {
                if (event.pointerType !== 'touch') set({hover: label});
              },
              onpointerleave: () => {
                if (S.hover === label) set({hover: null});
              },
            },
            el('span', {dir: kind === 'replaced' ? 'ltr' : 'auto', text: inOrder(text)}),
            share === undefined ? null : el('small', {dir: 'ltr', text: percent(share)}),
          ),
        ),
      );
      const again = focused && [...row.children].find((button) => button.dataset.word === focused);
      if (again) again.focus();
    }
    const kept = [...row.children].findIndex((button) => button.dataset.word === S.word);
    [...row.children].forEach((button, i) => {
      button.setAttribute('aria-pressed', String(i === kept));
      button.classList.toggle('lit', button.dataset.word === litWord());
      button.tabIndex = i === Math.max(0, kept) ? 0 : -1;
    });
    const side = S.b || S.a;
    const steps = side ? side.steps : 0;
    step.max = steps;
    step.value = S.step || 0;
    step.disabled = !side;
    step.setAttribute('aria-valuetext', S.step ? 'step ' + S.step : 'all steps');
    says.textContent = S.step ? `step ${S.step} of ${steps}` : 'all steps';
    const known = side ? side.layers : [];
    const now = JSON.stringify(known);
    if (now !== layers) {
      layers = now;
      layer.replaceChildren(
        el('option', {value: '', text: 'the run’s own choice of layers'}),
        ...['down', 'mid', 'up'].map((name) => el('option', {value: name, text: name + ' blocks'})),
        ...known.map((path, i) =>
          el('option', {value: path, text: `layer ${i + 1}: ${path.split('.transformer')[0]}`}),
        ),
      );
    }
    layer.value = S.layers || '';
  });
  return el(
    'section',
    {class: 'choices', 'aria-label': 'What is looked at'},
    line,
    row,
    el(
      'div',
      {class: 'controls'},
      el('label', {class: 'field'}, el('span', {text: 'Step'}), step),
      says,
      el('label', {class: 'field'}, el('span', {text: 'Layers'}), layer),
      el('span', {class: 'honest soft', text: 'Attention shows where the model looked, not why.'}),
    ),
  );
}
