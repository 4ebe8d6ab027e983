// Everything that is not a map: layout numbers, the causal test, settings, and how to make the run
// again.

// The command that tests this run, for the folder that the page was opened from: runs are moved and
// renamed.
function explainCommand() {
  if (location.protocol !== 'file:') return RUN.explain;
  let folder = location.pathname.slice(0, location.pathname.lastIndexOf('/'));
  try {
    folder = decodeURIComponent(folder);
  } catch {
    return RUN.explain;
  }
  if (/^\/[A-Za-z]:/.test(folder)) folder = folder.slice(1); // a Windows drive
  return 'attnmap explain ' + (/^[\w\-./:=,@+%]+$/.test(folder) ? folder : "'" + folder.replaceAll("'", "'\\''") + "'");
}

// The picture that the run set out from, and where it was drawn anew.
function begunPanel() {
  const {start} = RUN;
  if (!start) return null;
  const picture = (src, alt, caption) =>
    el('figure', {}, el('img', {src, alt}), el('figcaption', {text: caption, dir: 'auto'}));
  const taken =
    'strength ' +
    Number(start.strength.toFixed(2)) +
    (start.strength < 1
      ? ': the last ' + percent(start.strength) + ' of the steps were taken'
      : ': every step was taken');
  return el(
    'section',
    {class: 'panel begun'},
    el('header', {}, el('h2', {text: start.mask ? 'Painted in a picture' : 'From a picture'})),
    el(
      'div',
      {class: 'pictures'},
      picture(start.src, 'The picture that the run set out from', start.name + '; ' + taken),
      start.mask ? picture(start.mask, 'The mask', 'Mask: white was drawn anew, black was kept') : null,
    ),
  );
}

function factsPanel() {
  const name = (word) => nameOf(ENTRIES[word]);
  const layout = RUN.layout.length
    ? el(
        'section',
        {class: 'panel layout'},
        el('header', {}, el('h2', {text: 'Layout'})),
        plainTable(
          [
            el('th', {scope: 'col', text: 'Word'}),
            ...RUN.layout[0].facts.map(([key]) => el('th', {scope: 'col', class: 'number', text: key})),
          ],
          RUN.layout.map((row) =>
            el(
              'tr',
              {
                onpointerenter: (e) => {
                  if (e.pointerType !== 'touch') lightUp(row.word);
                },
                onpointerleave: () => letGo(row.word),
              },
              el('th', {scope: 'row', text: name(row.word), dir: 'auto'}),
              row.facts.map(([, value]) => el('td', {class: 'number', text: value})),
            ),
          ),
        ),
        RUN.remarks.length
          ? el(
              'ul',
              {class: 'remarks'},
              RUN.remarks.map((text) => el('li', {text: inOrder(text)})),
            )
          : null,
        el('p', {class: 'note'}, 'Of the run’s own maps, as in run.json. ', honest()),
      )
    : null;

  const evidence = el(
    'section',
    {class: 'panel evidence', id: 'evidence', tabIndex: -1},
    el('header', {}, el('h2', {text: 'Did the word matter?'})),
    el(
      'p',
      {},
      'A high value says what a head looked at, not why the model decided. ' +
        'A causal test cuts a word’s influence and measures what changes.',
    ),
    RUN.verdicts.length
      ? el(
          'ul',
          {class: 'verdicts'},
          RUN.verdicts.map((v) =>
            el(
              'li',
              {class: v.verdict.replace(/\s+/g, '-')},
              el('b', {text: name(v.word), dir: 'auto'}),
              ' ',
              el('span', {class: 'verdict', text: v.verdict}),
              el('span', {class: 'soft', text: ' ' + v.measured}),
            ),
          ),
        )
      : el(
          'div',
          {},
          el('p', {text: 'This run has none yet. To make one:'}),
          commandLine(explainCommand(), 'the command for a causal test'),
        ),
    RUN.checks.length
      ? el(
          'ul',
          {class: 'remarks'},
          RUN.checks.map((text) => el('li', {text: inOrder(text)})),
        )
      : null,
    RUN.figures.map((figure) =>
      el(
        'figure',
        {class: 'strip'},
        el('img', {src: figure.src, alt: figure.caption, loading: 'lazy'}),
        el('figcaption', {text: figure.caption, dir: 'auto'}),
      ),
    ),
  );

  const settings = el(
    'section',
    {class: 'panel settings'},
    el('header', {}, el('h2', {text: 'How it was made'})),
    el(
      'dl',
      {},
      RUN.settings.map(([key, value]) => el('div', {}, el('dt', {text: key}), el('dd', {text: value, dir: 'auto'}))),
    ),
    el('p', {text: 'To make it again:'}),
    commandLine(RUN.command, 'the command that reproduces the run'),
    RUN.notes.length
      ? el(
          'p',
          {class: 'note'},
          'To keep this page small: ',
          RUN.notes.join(' '),
          ' trace.safetensors beside it holds everything.',
        )
      : null,
    el('p', {
      class: 'note',
      text:
        'Maps on this page are rounded to parts of their own maximum: ' +
        'the run’s own and causal maps to 65 535, single heads and ' +
        CALL +
        's to 255.',
    }),
  );

  const keys = [
    ['Tab', 'from part to part'],
    ['← →', 'among words, pictures, cells'],
    ['Enter', 'keep a word, a place'],
    ['Esc', 'let go, one thing at a time'],
    ['i', 'the image alone'],
    ['[ ]', CALL + ' back, forward'],
    ['p', 'play, pause'],
    ['e', 'export PNG'],
    ['?', 'this list'],
  ];
  const help = el(
    'details',
    {class: 'help', id: 'help'},
    el('summary', {text: 'Keys'}),
    el(
      'dl',
      {},
      keys.map(([key, text]) => el('div', {}, el('dt', {}, el('kbd', {text: key})), el('dd', {text}))),
    ),
  );
  return {layout, evidence, settings, help};
}
