// The runs of the folder, the newest first: a click shows one as B.
const visible = () => S.history.filter((entry) => !S.hidden.has(entry.run));
const entryOf = (run) => S.history.find((entry) => entry.run === run);
// What a run is compared with: the pinned one, else the one before it.
function baseOf(run) {
  if (S.pinned && S.pinned !== run && entryOf(S.pinned)) return S.pinned;
  const list = visible();
  const at = list.findIndex((entry) => entry.run === run);
  return at >= 0 && at + 1 < list.length ? list[at + 1].run : null;
}
const look = (run) => show(baseOf(run), run);
// The next newer or older run as B.
function walk(by) {
  const list = visible();
  const at = list.findIndex((entry) => S.b && entry.run === S.b.run);
  const next = list[Math.min(list.length - 1, Math.max(0, at + by))];
  if (next && at + by !== at) {
    look(next.run);
    announce('B is ' + next.prompt + ', seed ' + next.settings.seed);
  }
}
async function pin() {
  if (!S.b || !S.b.run) return;
  const run = S.pinned === S.b.run ? null : S.b.run;
  try {
    await ask('pin', {run});
    announce(run ? 'Pinned: new runs are compared with it' : 'No run is pinned');
  } catch (problem) {
    complain(problem.message);
  }
}
function hide() {
  if (!S.b || !S.b.run) return;
  const list = visible();
  const at = list.findIndex((entry) => entry.run === S.b.run);
  const next = list[at + 1] || list[at - 1];
  S.hidden.add(S.b.run);
  announce('Hidden; its folder stays');
  if (next) look(next.run);
  else set({});
}
function historyPanel(load) {
  const list = el('ol', {class: 'history scroller', 'aria-label': 'Runs, the newest first'});
  const button = (text, title, onclick) => el('button', {class: 'quiet', type: 'button', text, title, onclick});
  const pinning = button('Pin B as A', 'p', pin);
  const command = el('div', {});
  const full = el('a', {class: 'quiet', target: '_blank', rel: 'noopener', text: 'The comparison as a page'});
  const again = button('Show hidden', null, () => {
    S.hidden.clear();
    set({});
  });
  const tools = el(
    'div',
    {class: 'tools'},
    pinning,
    button('Load into the prompt', 'l', () => {
      const entry = S.b && entryOf(S.b.run);
      if (entry) load(entry);
    }),
    button('Hide', 'Backspace', hide),
    again,
    full,
  );
  let built = '';
  let told = '';
  listeners.push(() => {
    const shown = visible();
    const key = JSON.stringify([shown.map((entry) => [entry.run, entry.drawn, entry.pieces]), S.pinned]);
    if (key !== built) {
      built = key;
      const focused = list.contains(document.activeElement) ? document.activeElement.dataset.run : null;
      list.replaceChildren(
        ...shown.map((entry) =>
          el(
            'li',
            {},
            el(
              'button',
              {type: 'button', 'data-run': entry.run, title: entry.run, onclick: () => look(entry.run)},
              el('img', {src: runPath(entry.run, 'thumb') + '?' + entry.drawn, alt: '', loading: 'lazy'}),
              el(
                'span',
                {class: 'text', dir: 'auto'},
                entry.pieces.map(([text, changed]) => (changed ? el('mark', {text}) : text)),
              ),
              el('small', {text: 'seed ' + entry.settings.seed + (entry.run === S.pinned ? ' · pinned' : '')}),
            ),
          ),
        ),
      );
      const back = focused && [...list.querySelectorAll('button')].find((node) => node.dataset.run === focused);
      if (back) back.focus();
    }
    for (const node of list.querySelectorAll('button')) {
      const isA = S.a && node.dataset.run === S.a.run;
      const isB = S.b && !S.live && node.dataset.run === S.b.run;
      node.setAttribute('aria-current', isB ? 'true' : 'false');
      node.dataset.side = isA ? 'A' : isB ? 'B' : '';
    }
    const known = S.b && S.b.run ? entryOf(S.b.run) : null;
    pinning.textContent = known && S.pinned === known.run ? 'Free the pin' : 'Pin B as A';
    again.hidden = !S.hidden.size;
    full.hidden = !(S.a && S.b && S.a.run && S.b.run);
    if (!full.hidden) full.href = 'compare/' + encodeURIComponent(S.a.run) + '/' + encodeURIComponent(S.b.run);
    tools.hidden = !known;
    const text = known ? known.command : '';
    if (text !== told) {
      told = text;
      command.replaceChildren(...(text ? [commandLine(text, 'the command of B')] : []));
    }
  });
  return el('section', {'aria-label': 'History'}, el('h2', {text: 'History'}), list, tools, command);
}
