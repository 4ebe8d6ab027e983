// The page: its parts, the server's events, and the keys.
function start() {
  const prompt = promptPanel();
  const queue = el('p', {class: 'queue'});
  const load = (entry) => {
    prompt.load(entry);
    prompt.area.focus();
    announce('Loaded into the prompt');
  };
  const trio = el('div', {class: 'trio'}, picture('a'), between(), picture('b'));
  document.body.append(
    el(
      'main',
      {class: 'page'},
      el(
        'header',
        {class: 'masthead'},
        el('h1', {class: 'unseen', text: 'attnmap serve'}),
        el(
          'p',
          {class: 'meta'},
          el('span', {class: 'mark', text: 'attnmap'}),
          el('span', {text: ABOUT.checkpoint}),
          el(
            'span',
            {class: 'keys'},
            el('kbd', {text: 'Ctrl Enter'}),
            ' run ',
            el('kbd', {text: 'p'}),
            ' pin ',
            el('kbd', {text: '['}),
            el('kbd', {text: ']'}),
            ' steps ',
            el('kbd', {text: '←'}),
            el('kbd', {text: '→'}),
            ' history',
          ),
        ),
      ),
      prompt,
      queue,
      trio,
      choices(),
      historyPanel(load),
      testsPanel(),
      pageOfB(),
    ),
  );
  prompt.area.focus();

  listeners.push(() => {
    const {running, waiting, progress} = S;
    const parts = [];
    if (running) {
      const at = progress && progress.job === running.job && progress.of ? `, ${progress.step} of ${progress.of}` : '';
      parts.push(el('span', {text: running.title + at}));
    }
    for (const job of waiting)
      parts.push(
        el(
          'span',
          {class: 'waits'},
          ' · waits: ' + job.title + ' ',
          el('button', {
            class: 'quiet',
            type: 'button',
            text: 'Drop',
            'aria-label': 'Drop ' + job.title,
            onclick: () => ask('stop', {job: job.job}).catch((problem) => complain(problem.message)),
          }),
        ),
      );
    const key = parts.map((part) => part.textContent).join();
    if (queue.dataset.key !== key) {
      queue.dataset.key = key;
      queue.replaceChildren(...parts);
    }
  });

  const heard = [];
  const on = (name, then) => heard.push([name, then]);
  // One event after the other: what is done for one may wait for a picture, and the next sets out
  // from it.
  let last = Promise.resolve();
  let events = null;
  let lost = false;
  // A browser has six connections to a server for all its tabs. If each tab listened for ever, none
  // would be left for the seventh. So tabs out of sight listen only while jobs run.
  const listen = () => {
    if (document.hidden && !S.running && !S.waiting.length) {
      if (events) events.close();
      events = null;
      return;
    }
    if (events) return;
    events = new EventSource('events');
    for (const [name, then] of heard)
      events.addEventListener(name, (event) => {
        const data = JSON.parse(event.data);
        last = last.then(() => then(data)).catch((problem) => complain(problem.message));
      });
    events.addEventListener('error', () => {
      lost = true;
      complain('attnmap serve does not answer; start it again and open the address that it prints');
    });
    events.addEventListener('open', () => {
      if (lost) complain('');
      lost = false;
    });
  };
  // A had become what the run that was forming would be compared with: B has its own again.
  const again = () => {
    if (S.b && S.b.run) look(S.b.run);
  };
  let first = true;
  on('state', (state) => {
    const before = visible().length ? visible()[0].run : null;
    // What ended while this page did not hear of it is not forming any more.
    const ended = S.live && !(state.running && state.running.job === S.live.job);
    set({...state, live: ended ? null : S.live});
    listen();
    const newer = !first && visible()[0];
    if (newer && newer.run !== before) look(newer.run);
    else if (ended) again();
    if (first) {
      first = false;
      const newest = visible()[0];
      if (newest) {
        if (!prompt.area.value) prompt.load(newest);
        look(newest.run);
      }
      document.documentElement.dataset.ready = 'true';
    }
  });
  on('queue', ({running, waiting}) => {
    set({running, waiting});
    listen();
  });
  on('pinned', ({run}) => {
    set({pinned: run});
    if (run && S.b && S.b.run !== run) show(run, S.b.run);
  });
  const forming = (job) => ({
    job,
    prompt: '',
    words: [],
    maps: new Float32Array(0),
    grid: [1, 1],
    picture: null,
    step: 0,
    of: 0,
    run: null,
  });
  on('begun', ({job, base, warnings}) => {
    // What B will be compared with is A already.
    const a = S.b && S.b.run && S.b.run === base ? S.b : S.a;
    set({live: forming(job), a, compared: null, progress: null});
    complain(warnings.join(' · '));
    announce('The run begins');
  });
  on('step', async ({job, step, of, image, maps}) => {
    set({progress: {job, step, of}});
    if (!maps) return;
    if (!S.live || S.live.job !== job) set({live: forming(job)}); // the page was opened in the middle of a run
    const picture = image ? await loaded(image) : S.live.picture;
    const {naturalWidth: width, naturalHeight: height} = picture || {
      naturalWidth: ABOUT.width,
      naturalHeight: ABOUT.height,
    };
    const words = maps.words.map((label) => ({label, text: label}));
    const live = {...S.live, step, of, picture, width, height, grid: maps.grid, words, maps: floats(maps.maps)};
    set({live, word: indexIn(live, S.word) >= 0 || !words.length ? S.word : S.a ? S.word : tallest(live)});
    if (Math.floor((4 * step) / of) > Math.floor((4 * (step - 1)) / of)) announce(`Step ${step} of ${of}`);
  });
  on('made', async ({job, side, compared}) => {
    const b = {...(await sideOf(side, null)), job};
    const base = compared ? compared.a : null;
    const a =
      base === null
        ? null
        : S.a && S.a.run === base && S.step === null && S.layers === null
          ? S.a
          : await fetchSideWhole(base);
    asked++;
    there = WHOLE;
    Object.assign(S, WHOLE);
    set({
      live: null,
      a,
      b,
      compared: compared ? compared.changes : null,
      word: keep(b, compared && compared.changes, a),
      tests: null,
    });
    announce(compared ? 'B is there. Changed: ' + compared.changes.line : 'B is there');
  });
  on('saved', ({job, run, history}) => {
    // The name of the run comes when its folder is there.
    if (S.b && S.b.job === job && S.b.run === null) {
      S.b.run = run;
      if (S.a && S.a.run) sentences(S.a.run, run);
    }
    set({history});
  });
  on('tested', async ({run}) => {
    if (!S.b || S.b.run !== run) return;
    try {
      const tests = await ask(runPath(run, 'tests'));
      if (S.b && S.b.run === run) set({tests});
      announce('The test is done');
    } catch (problem) {
      complain(problem.message);
    }
  });
  const over = (job) => {
    if (S.live && S.live.job === job) {
      set({live: null});
      again();
    }
    set({progress: null});
  };
  on('done', ({job}) => over(job));
  on('stopped', ({job}) => {
    over(job);
    announce('Stopped; nothing of it is kept');
  });
  on('failed', ({job, error}) => {
    over(job);
    complain(error);
  });
  document.addEventListener('visibilitychange', listen);
  listen();

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey && event.key === 'Enter') {
      event.preventDefault();
      prompt.go();
      return;
    }
    const target = event.target;
    const typing = target.closest('input, textarea, select, [contenteditable]');
    if (event.ctrlKey || event.altKey || event.metaKey || typing) return;
    // Arrows scroll pictures that are wider than the page.
    if (target.matches('.scroller') && event.key.startsWith('Arrow')) return;
    const side = S.b || S.a;
    const keys = {
      p: pin,
      l: () => {
        const entry = S.b && entryOf(S.b.run);
        if (entry) load(entry);
      },
      Backspace: hide,
      Delete: hide,
      ArrowLeft: () => walk(-1),
      ArrowRight: () => walk(1),
      '[': () => {
        if (side) choose({step: S.step === null ? side.steps : S.step > 1 ? S.step - 1 : null});
      },
      ']': () => {
        if (side) choose({step: S.step === null ? 1 : S.step < side.steps ? S.step + 1 : null});
      },
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
}
const fetchSideWhole = async (run) => sideOf(await ask('side', {run}), S.a);
start();
