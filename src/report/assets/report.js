// Puts the page together, sizes the image to the window, and listens to the keys that work
// everywhere.
async function start() {
  $('source').hidden = true;
  const facts = factsPanel();
  try {
    await loadMaps();
    await loadQueries();
  } catch (error) {
    document.body.prepend(
      el('p', {
        class: 'still',
        text: 'The maps could not be read (' + error.message + '). This page needs a browser from 2023 or later.',
      }),
    );
    $('source').hidden = false;
    return;
  }
  const shownSettings = ['checkpoint', 'LoRA', 'embedding', 'seed', 'steps', 'noise levels', 'size'];
  const meta = shownSettings
    .flatMap((name) => RUN.settings.filter(([key]) => key === name))
    .map(([key, value]) =>
      key === 'seed'
        ? key + ' ' + value
        : key === 'steps'
          ? plural(Number(value), 'step')
          : key === 'LoRA' || key === 'embedding'
            ? key + ' ' + value
            : value,
    );
  const sweep = RUN.sweep
    ? el('a', {href: RUN.sweep.href, text: 'this prompt over ' + RUN.sweep.seeds + ' seeds'})
    : null;
  const head = el(
    'header',
    {class: 'masthead'},
    el(
      'p',
      {class: 'meta'},
      el('span', {class: 'mark', text: 'attnmap'}),
      el('span', {}, meta.join(' · '), sweep && ' · ', sweep),
      cellLinks(),
    ),
    el('h1', {
      class: 'unseen',
      dir: 'auto',
      text: (LOOK ? 'Attention to a caption: ' : 'Attention for a prompt: ') + (RUN.prompt || 'empty'),
    }),
    wordsPanel(),
  );
  const stage = stagePanel();
  const side = el(
    'div',
    {class: 'side'},
    rankingPanel(),
    stepsPanel(),
    begunPanel(),
    headsPanel(),
    insidePanel(),
    componentsPanel(),
    facts.evidence,
    whyPanel(),
    attributionPanel(),
    facts.layout,
    matrixPanel(),
    facts.settings,
    facts.help,
  );
  const plate = el('div', {class: 'plate'}, stage, side);
  document.body.append(
    el(
      'main',
      {class: 'page'},
      head,
      plate,
      el('footer', {class: 'note', text: `attnmap ${RUN.version} · ${RUN.name}`}),
    ),
  );

  // The image is as large as the window leaves room for beside what is chosen, with its bar and
  // caption below. It always has 60 % of the window's height or 45 % of its width.
  const ratio = RUN.image.width / RUN.image.height;
  const fit = () => {
    const style = getComputedStyle(plate);
    const wide = style.gridTemplateColumns.split(' ').length > 1;
    if (!wide) {
      plate.style.removeProperty('--stage');
      return;
    }
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    // One line of legend, two of caption: the view must not move the image.
    const below = 9.4 * rem;
    const top = head.offsetTop + head.offsetHeight + parseFloat(getComputedStyle(head).marginBottom);
    const room = (window.innerHeight - top - below) * ratio;
    const least = Math.min(0.46 * window.innerWidth, 0.61 * window.innerHeight * ratio);
    plate.style.setProperty('--stage', Math.round(Math.min(0.62 * plate.clientWidth, Math.max(room, least))) + 'px');
  };
  fit();
  window.addEventListener('resize', fit);
  new ResizeObserver(fit).observe(head);

  window.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing =
      /^(SELECT|TEXTAREA)$/.test(event.target.tagName) ||
      (event.target.tagName === 'INPUT' && event.target.type === 'text');
    if (event.key === 'Escape') letGoOfOne();
    else if (typing) return;
    else if (event.key === 'p') togglePlay();
    else if (event.key === '[') {
      stopPlaying();
      shiftSteps(-1);
    } else if (event.key === ']') {
      stopPlaying();
      shiftSteps(1);
    } else if (event.key === 'e') exportPng(stage.querySelector('img'));
    else if (event.key === 'i') set({show: S.show === 'image' ? 'looked' : 'image'});
    else if (event.key === '?') {
      facts.help.open = !facts.help.open;
      facts.help.scrollIntoView({block: 'nearest'});
      facts.help.querySelector('summary').focus();
    } else return;
    if (event.key !== 'Escape') event.preventDefault();
  });
  window.addEventListener('hashchange', () => {
    if (encoderAsked() !== ENCODER) location.reload();
    else if (location.hash.slice(1) !== written) set(readHash());
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => set({}));
  Object.assign(S, readHash());
  if (!S.locked.length) openedOn(S.show); // an address that names a word shows that word
  await loadPicture(FINISHED);
  set({});
  for (const estimate of RUN.estimates) pictureOf(estimate.src); // so that scrubbing does not wait
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      fit();
      document.documentElement.dataset.opened = String(Math.round(performance.now()));
      document.documentElement.dataset.ready = 'true';
    }),
  );
}
start();
