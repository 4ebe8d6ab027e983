// Jobs on B: what they find is kept in its run folder and appears here.
function testsPanel() {
  const job = (body) => async () => {
    complain('');
    try {
      await ask('jobs', {...body(), run: S.b.run});
    } catch (problem) {
      complain(problem.message);
    }
  };
  const button = (text, body) =>
    el('button', {class: 'quiet', type: 'button', text, 'data-test': body().kind, onclick: job(body)});
  const without = button('', () => ({kind: 'without', word: S.word}));
  const times = button('', () => ({kind: 'times', word: S.word}));
  const why = button('', () => ({kind: 'why', word: S.word}));
  const seeds = button('Four other seeds', () => ({kind: 'seeds'}));
  const explain = button('Did each word matter?', () => ({kind: 'explain'}));
  const found = el('div', {class: 'found'});
  const others = el('div', {class: 'others'});
  const says = el('ul', {class: 'sentences'});
  let built = '';
  let strip = '';
  let told = '';
  const panel = el(
    'section',
    {'aria-label': 'Tests of B'},
    el('h2', {text: 'What changed, and tests of B'}),
    says,
    el('div', {class: 'tools'}, without, times, seeds, explain, why),
    others,
    found,
  );
  // Runs of the same prompt and settings but for the seed.
  const likeB = () => {
    const own = S.b && entryOf(S.b.run);
    if (!own) return [];
    const key = (entry) => JSON.stringify([entry.prompt, entry.negative, {...entry.settings, seed: 0}]);
    return S.history.filter(
      (entry) => entry.run !== own.run && key(entry) === key(own) && entry.settings.seed !== own.settings.seed,
    );
  };
  listeners.push(() => {
    const word = S.word;
    const has = S.b && S.b.run && !S.live;
    panel.hidden = !has;
    if (!has) return;
    const sentences = (S.compared && S.compared.sentences) || [];
    const said = JSON.stringify(sentences);
    if (said !== told) {
      told = said;
      says.replaceChildren(...sentences.map((text) => el('li', {text: inOrder(text)})));
    }
    without.textContent = word ? `Without “${word}”` : 'Without a word';
    times.textContent = word ? `“${word}” × 0 … 2` : 'A word × 0 … 2';
    why.textContent = word ? `Why does “${word}” lie there?` : 'Why does a word lie there?';
    without.disabled = times.disabled = why.disabled = !word || indexIn(S.b, word) < 0;
    const like = likeB();
    const key = JSON.stringify(like.map((entry) => entry.run));
    if (key !== strip) {
      strip = key;
      others.replaceChildren(
        ...(like.length
          ? [
              el('p', {class: 'soft', text: 'The same with other seeds'}),
              el(
                'ul',
                {class: 'strip scroller'},
                like.slice(0, 12).map((entry) =>
                  el(
                    'li',
                    {},
                    el(
                      'button',
                      {type: 'button', onclick: () => look(entry.run)},
                      el('img', {
                        src: runPath(entry.run, 'thumb') + '?' + entry.drawn,
                        alt: 'Seed ' + entry.settings.seed,
                      }),
                      el('small', {text: entry.settings.seed}),
                    ),
                  ),
                ),
              ),
            ]
          : []),
      );
    }
    const tests = S.tests || {words: [], notes: [], figures: []};
    const now = JSON.stringify([S.b.run, tests]);
    if (now === built) return;
    built = now;
    found.replaceChildren(
      ...tests.words.map(({sentence}) => el('p', {text: inOrder(sentence)})),
      ...tests.notes.map((text) => el('p', {class: 'note', text: inOrder(text)})),
      ...tests.figures.map((caption, i) =>
        el(
          'figure',
          {class: 'figure'},
          el(
            'div',
            {class: 'scroller', tabIndex: 0, role: 'region', 'aria-label': caption},
            el('img', {src: runPath(S.b.run, 'figures/' + i) + '?' + encodeURIComponent(caption), alt: caption}),
          ),
          el('figcaption', {text: caption, dir: 'auto'}),
        ),
      ),
    );
  });
  return panel;
}
// The page of B, as it stands in its folder, made when it comes into sight.
function pageOfB() {
  const frame = el('iframe', {class: 'report', title: 'The page of run B'});
  const section = el('section', {'aria-label': 'The page of B'}, el('h2', {text: 'The page of B'}), frame);
  let seen = false;
  let src = '';
  let lit = '';
  const bring = () => {
    const run = S.b && S.b.run && !S.live ? S.b.run : null;
    const entry = run && entryOf(run);
    section.hidden = !run;
    if (!run || !seen) return;
    const at = indexIn(S.b, S.word);
    const page =
      runPath(run, 'report') +
      '?' +
      (entry ? entry.drawn : '') +
      (S.tests ? '-' + S.tests.figures.length + '-' + S.tests.words.length : '');
    const hash = at >= 0 ? '#w=' + at : '';
    // The page keeps what is chosen there until another word is chosen here.
    if (page === src) {
      if (hash !== lit) {
        lit = hash;
        frame.contentWindow.location.hash = hash;
      }
      return;
    }
    [src, lit] = [page, hash];
    frame.src = page + hash;
  };
  new IntersectionObserver(
    (entries) => {
      if (entries.some((entry) => entry.isIntersecting)) {
        seen = true;
        bring();
      }
    },
    {rootMargin: '200px'},
  ).observe(section);
  listeners.push(bring);
  return section;
}
