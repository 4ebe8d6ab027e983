// What a place depends on, as `attnmap attribute` found it: a value a word, beside attention and
// cut.
function attributionPanel() {
  const all = RUN.attributions;
  if (!all.length) return null;
  const named = (a) => a.place + ', ' + a.method + ' of ' + a.input;
  const choose = el(
    'select',
    {'aria-label': 'Which place and method', onchange: () => draw(Number(choose.value))},
    all.map((a, i) => el('option', {value: i, text: named(a)})),
  );
  const head = el('thead');
  const body = el('tbody');
  const note = el('p', {class: 'note'});
  const signed = (share) => (share < 0 ? '−' : '') + percent(Math.abs(share));
  const draw = (index) => {
    const a = all[index];
    const cut = a.words.some((row) => typeof row.cut === 'number');
    const most = Math.max(1e-12, ...a.words.map((row) => Math.abs(row.share || 0)));
    const columns = ['Word', 'Depends on', 'Attention'].concat(cut ? ['Cut'] : []);
    head.replaceChildren(
      el(
        'tr',
        {},
        columns.map((text, i) => el('th', {scope: 'col', class: i ? 'number' : null, text})),
      ),
    );
    body.replaceChildren(
      ...a.words.map((row) => {
        const fill = el('i', {class: row.share < 0 ? 'against' : null, 'aria-hidden': 'true'});
        fill.style.width = (50 * Math.abs(row.share || 0)) / most + '%';
        const other = (share) => el('td', {class: 'number', text: typeof share === 'number' ? percent(share) : '–'});
        return el(
          'tr',
          {class: row.special ? 'soft' : null},
          el('th', {scope: 'row', dir: 'auto', text: row.word}),
          el(
            'td',
            {class: 'number depends', title: String(row.value)},
            fill,
            typeof row.share === 'number' ? signed(row.share) : '–',
          ),
          other(row.attention),
          cut ? other(row.cut) : null,
        );
      }),
    );
    const sums = a.method === 'integrated' || a.method === 'shapley';
    note.textContent =
      'Depends on: the word’s part in how far the prompt moves the prediction there, ' +
      'as a share of what the prompt adds' +
      (sums && typeof a.gap === 'number'
        ? '; the parts sum to it but for ' + percent(a.gap)
        : '; the parts of this method need not sum to it') +
      '. Below 0 the word holds it back. Attention: the share of the attention there.' +
      (cut ? ' Cut: how much of what cutting the word changes lies there.' : '');
  };
  draw(all.length - 1);
  choose.value = String(all.length - 1);
  return el(
    'section',
    {class: 'panel attribution'},
    el('header', {}, el('h2', {text: 'What the place depends on'})),
    all.length > 1 ? el('p', {}, choose) : el('p', {class: 'chosen', text: named(all[0]), dir: 'auto'}),
    el('div', {class: 'scroller'}, el('table', {class: 'plain-table'}, head, body)),
    note,
  );
}
