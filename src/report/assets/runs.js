// The runs of a folder, newest first: thumbnails that lead to their pages, and two of them compared
// on the spot.
const R = JSON.parse($('runs').textContent);
const RUNS = R.runs.map((run, index) => ({...run, index, path: encodeURIComponent(run.name) + '/'}));
const S = {find: '', a: -1, b: -1, mode: 'beside', split: 50};
const MODES = [
  ['beside', 'Side by side'],
  ['slider', 'Slider', 'A on the left of the line'],
  ['fade', 'Fade', 'From A to B'],
  ['difference', 'Difference', 'Black where both are the same'],
];
const when = (seconds) => new Date(1000 * seconds).toLocaleString(undefined, {dateStyle: 'medium', timeStyle: 'short'});
const facts = (run) =>
  [
    run.kind === 'trace' ? 'traced picture' : 'seed ' + run.seed,
    run.kind === 'trace' ? '' : plural(run.steps, 'step'),
    run.width + '×' + run.height,
    run.checkpoint === R.common ? '' : run.checkpoint,
  ]
    .filter(Boolean)
    .join(' · ');

let queued = false;
let written = null;
function set(patch) {
  Object.assign(S, patch);
  if (queued) return;
  queued = true;
  requestAnimationFrame(refresh);
}
// The first that is picked is A, the second B; a third takes the place of B.
function pick(index) {
  if (S.a === index) set({a: S.b, b: -1});
  else if (S.b === index) set({b: -1});
  else if (S.a < 0) set({a: index});
  else set({b: index});
}
const cards = RUNS.map((run) => {
  const button = el('button', {
    class: 'quiet',
    type: 'button',
    text: 'Compare',
    'aria-pressed': 'false',
    'aria-label': 'Pick to compare: ' + run.name,
    onclick: () => pick(run.index),
  });
  const name = el(
    'a',
    {
      href: run.path + (run.page ? 'report.html' : 'image.png'),
      'aria-label': (run.prompt || 'empty prompt') + ', ' + facts(run) + ', ' + run.name,
    },
    el('img', {
      src: run.path + 'image.png',
      alt: '',
      loading: 'lazy',
      decoding: 'async',
      width: run.width,
      height: run.height,
    }),
  );
  const node = el(
    'li',
    {class: 'card'},
    name,
    el('p', {class: 'text', dir: 'auto', text: run.prompt || 'the empty prompt', title: run.prompt}),
    el('p', {class: 'facts', text: facts(run)}),
    el('p', {class: 'facts', text: when(run.made)}),
    button,
  );
  return {node, button, run};
});
const count = el('span');
const find = el('input', {
  type: 'search',
  placeholder: 'words, name or checkpoint',
  'aria-label': 'Show only runs with these words',
  oninput: () => set({find: find.value}),
});
const images = ['a', 'b'].map(() => el('img', {alt: ''}));
const border = el('i', {class: 'border', hidden: true});
const stage = el('div', {class: 'stage'}, ...images, border);
const said = el('p', {class: 'note'});
const modes = choice('How two are compared', 'mode', MODES, 'beside', (mode) => set({mode}));
const split = el('input', {
  type: 'range',
  min: 0,
  max: 100,
  'aria-label': 'From A to B',
  oninput: () => set({split: Number(split.value)}),
});
const line = el('div');
const clear = el('button', {class: 'quiet', type: 'button', text: 'Clear', onclick: () => set({a: -1, b: -1})});
const panel = el(
  'section',
  {class: 'pair', hidden: true, 'aria-label': 'Two runs compared'},
  el('div', {class: 'over'}, modes, split, clear),
  stage,
  said,
  line,
);
const none = el('p', {class: 'empty', hidden: true, text: 'No run fits.'});
document.body.append(
  el(
    'main',
    {class: 'page'},
    el(
      'header',
      {class: 'masthead'},
      el('p', {class: 'meta'}, el('span', {class: 'mark', text: 'attnmap'}), count, el('span', {text: R.common})),
      el('h1', {text: 'Runs'}),
      el(
        'p',
        {class: 'note'},
        'Newest first. An image opens the run’s page; Compare picks two. ',
        el('span', {class: 'tools'}, find),
      ),
    ),
    panel,
    el(
      'ol',
      {class: 'cards'},
      cards.map((card) => card.node),
    ),
    none,
    el('footer', {class: 'note', text: R.version}),
  ),
);

// Words of one prompt that the other does not have.
const only = (a, b) => a.prompt.split(/\s+/).filter((word) => word && !b.prompt.split(/\s+/).includes(word));
let shownPair = '';
function refresh() {
  queued = false;
  const needles = S.find.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const {node, button, run} of cards) {
    const text = (run.prompt + ' ' + run.name + ' ' + run.checkpoint).toLowerCase();
    node.hidden = !needles.every((needle) => text.includes(needle));
    shown += Number(!node.hidden);
    const role = run.index === S.a ? 'A' : run.index === S.b ? 'B' : '';
    button.textContent = role ? 'Picked as ' + role : 'Compare';
    button.setAttribute('aria-pressed', String(role !== ''));
    node.classList.toggle('picked', role !== '');
  }
  count.textContent = shown === RUNS.length ? plural(RUNS.length, 'run') : shown + ' of ' + plural(RUNS.length, 'run');
  none.hidden = shown > 0;
  find.value = S.find;
  const [a, b] = [RUNS[S.a], RUNS[S.b]];
  panel.hidden = !a;
  if (a) {
    const pair = S.a + '-' + S.b;
    if (pair !== shownPair) {
      shownPair = pair;
      [a, b].forEach((run, i) => {
        images[i].hidden = !run;
        if (run) {
          images[i].src = run.path + 'image.png';
          images[i].alt = (i ? 'B: ' : 'A: ') + run.prompt;
        }
      });
      const words = b ? [only(a, b), only(b, a)] : [];
      const changed = !b
        ? ''
        : words[0].length || words[1].length
          ? (words[0].join(' ') || 'nothing') + ' → ' + (words[1].join(' ') || 'nothing') + '. '
          : 'The prompts are the same. ';
      said.textContent = b
        ? changed + 'A: ' + facts(a) + '. B: ' + facts(b) + '.'
        : 'A: ' + a.prompt + '. Pick another run to compare it with.';
      line.replaceChildren(
        ...(b
          ? [
              commandLine(
                'attnmap compare ' +
                  [a, b].map((run) => quote((R.folder ? R.folder + '/' : '') + run.name)).join(' ') +
                  ' --open',
                'the command that compares their maps',
              ),
            ]
          : []),
      );
      announce(said.textContent);
    }
    stage.className = 'stage ' + (b ? S.mode : 'beside');
    stage.style.aspectRatio = b && S.mode !== 'beside' ? a.width + ' / ' + a.height : '';
    images[1].style.clipPath = S.mode === 'slider' ? `inset(0 0 0 ${S.split}%)` : '';
    images[1].style.opacity = S.mode === 'fade' ? S.split / 100 : '';
    border.hidden = !(b && S.mode === 'slider');
    border.style.left = S.split + '%';
    split.hidden = !b || (S.mode !== 'slider' && S.mode !== 'fade');
    split.value = S.split;
    modes.hidden = !b;
    modes.show(S.mode);
  }
  const name = (index) => encodeURIComponent(RUNS[index].name);
  const text = [
    S.find && 'find=' + encodeURIComponent(S.find),
    S.a >= 0 && 'a=' + name(S.a),
    S.b >= 0 && 'b=' + name(S.b),
    S.mode !== 'beside' && 'mode=' + S.mode,
    S.split !== 50 && 'split=' + S.split,
  ]
    .filter(Boolean)
    .join('&');
  if (text !== written) {
    written = text;
    try {
      history.replaceState(null, '', '#' + text);
    } catch {
      /* file:// may refuse */
    }
  }
}
const quote = (word) => (/^[\w./=:,@+%-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\\''") + "'");
dragBorder(
  stage,
  border,
  () => stage,
  (split) => set({split}),
);
function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  const at = (key) => RUNS.findIndex((run) => run.name === given.get(key));
  const mode = given.get('mode');
  const split = given.has('split') ? Number(given.get('split')) : 50;
  return {
    find: given.get('find') || '',
    a: at('a'),
    b: at('b'),
    mode: MODES.some(([name]) => name === mode) ? mode : 'beside',
    split: split >= 0 && split <= 100 ? split : 50,
  };
}
addEventListener('hashchange', () => {
  if (location.hash.slice(1) !== written) set(readHash());
});
Object.assign(S, readHash());
refresh();
document.documentElement.dataset.ready = 'true';
