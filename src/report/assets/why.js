// Why things lie where they do: the answers of `attnmap why`, with the table and the pictures of
// the experiments.
function whyPanel() {
  if (!RUN.why || !RUN.why.length) return null;
  const answer = (one) =>
    el(
      'div',
      {class: 'why'},
      el('p', {text: inOrder(one.sentence)}),
      one.figures.map((figure) =>
        el(
          'figure',
          {class: 'strip'},
          el('img', {src: figure.src, alt: figure.caption, loading: 'lazy'}),
          el('figcaption', {text: figure.caption, dir: 'auto'}),
        ),
      ),
      plainTable(
        [
          el('th', {scope: 'col', text: 'Experiment'}),
          ...['images', 'moves', ''].map((text) => el('th', {scope: 'col', class: text ? 'number' : '', text})),
        ],
        one.rows.map(([name, ...cells]) =>
          el(
            'tr',
            {},
            el('th', {scope: 'row', text: name, dir: 'auto'}),
            cells.map((text, at) => el('td', {class: at < 2 ? 'number' : '', text, dir: 'auto'})),
          ),
        ),
      ),
      one.notes.length
        ? el(
            'ul',
            {class: 'remarks'},
            one.notes.map((text) => el('li', {text: inOrder(text)})),
          )
        : null,
    );
  return el(
    'section',
    {class: 'panel why-panel', id: 'why', tabIndex: -1},
    el('header', {}, el('h2', {text: 'Why is it there?'})),
    el('p', {
      class: 'note',
      text:
        'The run was drawn again with other noise, another prompt, and from later steps on. ' +
        'The outline is the thing’s map. ' +
        'Moves of its centre, and its scatter over fresh noise, are shares of the image’s sides.',
    }),
    RUN.why.map(answer),
  );
}
