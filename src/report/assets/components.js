// The few patterns into which the attention of all heads falls: a picture each, its words, and its
// heads, which a click lights.
function componentsPanel() {
  const found = RUN.components;
  if (!found) return null;
  const {height, width} = found.grid;
  const valuesOf = (text) => Float32Array.from(atob(text), (c) => c.charCodeAt(0) / 255);
  // The fewest heads that make half of a component.
  const headsOf = (component) => {
    const selection = RUN.sites.map(() => []);
    let sum = 0;
    for (const [site, head, share] of component.heads) {
      if (sum >= 0.5 || !selection[site]) break;
      selection[site].push(head);
      sum += share;
    }
    return selection.map((heads) => heads.sort((a, b) => a - b));
  };
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const buttons = found.components.map((component) => {
    const canvas = el('canvas', {'aria-hidden': 'true'});
    const selection = headsOf(component);
    const words = component.words
      .filter(([, share]) => share >= 0.05)
      .sort((a, b) => b[1] - a[1])
      .slice(0, 3)
      .map(([word, share]) => word + ' ' + percent(share))
      .join(', ');
    const button = el(
      'button',
      {
        type: 'button',
        class: 'component',
        title: 'Show the heads that make half of it: ' + words,
        onclick: () => chooseHeads(same(S.selection, selection) ? null : selection),
      },
      canvas,
      el('b', {text: component.name, dir: 'auto'}),
      el('span', {class: 'soft', text: ' ' + percent(component.share)}),
      el('small', {class: 'soft', text: words, dir: 'auto'}),
    );
    button.selection = selection;
    button.draw = () => paintThumb(canvas, valuesOf(component.map), height, width, 1, S.palette);
    return button;
  });
  let painted = '';
  listeners.push(() => {
    if (painted !== S.palette) {
      painted = S.palette;
      buttons.forEach((button) => button.draw());
    }
    for (const button of buttons) button.setAttribute('aria-pressed', String(same(S.selection, button.selection)));
  });
  const explained = found.explained.map((share, i) => i + 1 + ': ' + percent(share)).join(' · ');
  return el(
    'section',
    {class: 'panel components'},
    el('header', {}, el('h2', {text: 'Components'})),
    el('div', {class: 'component-list', role: 'group', 'aria-label': 'Components of the attention'}, buttons),
    el(
      'p',
      {class: 'note'},
      'All heads’ maps as sums of ' +
        plural(found.components.length, 'map') +
        ', named after the word that each follows most; per cent of the attention that they make. ' +
        'A click shows the heads that make half of one. Share of the maps’ squares that so many explain: ' +
        explained +
        '. ',
      honest(),
    ),
  );
}
