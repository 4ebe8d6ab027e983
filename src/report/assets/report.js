// Puts the page together, sizes the image to the window, and listens to the keys that work everywhere.
let started = false;
async function start() {
  const facts = factsPanel();
  try {
    await loadMaps();
  } catch (error) {
    document.body.prepend(el('p', {class: 'still', text: 'The maps could not be read (' + error.message + '). This page needs a browser from 2023 or later.'}));
    $('source').hidden = false;
    return;
  }
  const shownSettings = ['checkpoint', 'LoRA', 'embedding', 'seed', 'steps', 'noise levels', 'size'];
  const meta = shownSettings.flatMap((name) => RUN.settings.filter(([key]) => key === name)).map(([key, value]) => (key === 'seed' ? key + ' ' + value : key === 'steps' ? plural(Number(value), 'step') : key === 'LoRA' || key === 'embedding' ? key + ' ' + value : value));
  const head = el('header', {class: 'masthead'}, el('p', {class: 'meta'}, el('span', {class: 'mark', text: 'attnmap'}), el('span', {text: meta.join(' · ')})),
    el('h1', {class: 'unseen', text: LOOK ? 'Attention to a caption in an existing picture' : 'Attention of a generated image'}), wordsPanel());
  const stage = stagePanel();
  const side = el('div', {class: 'side'}, rankingPanel(), stepsPanel(), begunPanel());
  const plate = el('div', {class: 'plate'}, stage, side);
  document.body.append(el('main', {class: 'page'}, head, plate,
    el('div', {class: 'lower'}, headsPanel(), matrixPanel()),
    el('div', {class: 'lower facts'}, facts.layout, el('div', {class: 'stack'}, facts.evidence, facts.help), facts.settings),
    el('footer', {class: 'note', text: `attnmap ${RUN.version} · ${RUN.name}`})));

  // The image takes what the window leaves, so that image, table and steps stand on one screen.
  const fit = () => {
    // Bars wrap by the width that they are given and take height that the image then lacks. From wide to narrow until it fits, so that the
    // same window gives the same size whatever it was before.
    plate.style.setProperty('--stage', Math.round(0.62 * plate.clientWidth) + 'px');
    for (let round = 0; round < 6; round++) plate.style.setProperty('--stage', Math.round(stageWidth()) + 'px');
  };
  const stageWidth = () => {
    const frame = stage.querySelector('.frame'), style = getComputedStyle(plate);
    const top = frame.getBoundingClientRect().top + window.scrollY;
    // What stands below it, with one line of legend and two of caption however long they are now: the view must not move the image.
    const legend = stage.querySelector('.legend'), line = parseFloat(getComputedStyle(legend).lineHeight);
    const bars = stage.querySelector('.scale').offsetHeight - legend.offsetHeight + line + stage.querySelector('.toolbar').offsetHeight;
    const below = bars + 5.2 * parseFloat(getComputedStyle(stage.querySelector('.caption')).fontSize);
    const columns = style.gridTemplateColumns.split(' ').length;
    const width = plate.clientWidth * (columns > 1 ? 0.62 : 1), ratio = RUN.image.width / RUN.image.height;
    const least = Math.min(width, 16 * parseFloat(getComputedStyle(document.documentElement).fontSize));
    const byHeight = (window.innerHeight - top - below - 12) * ratio;
    return Math.max(least, Math.min(width, columns > 1 ? byHeight : Math.max(byHeight, width * 0.999)));
  };
  fit();
  window.addEventListener('resize', fit);
  new ResizeObserver(fit).observe(head);

  window.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(SELECT|TEXTAREA)$/.test(event.target.tagName) || (event.target.tagName === 'INPUT' && event.target.type === 'text');
    if (event.key === 'Escape') { stopPlaying(); set({locked: [], hover: -1, box: null, probe: null}); announce('Nothing locked'); }
    else if (typing) return;
    else if (event.key === 'p') togglePlay();
    else if (event.key === '[') { stopPlaying(); shiftSteps(-1); }
    else if (event.key === ']') { stopPlaying(); shiftSteps(1); }
    else if (event.key === 'e') exportPng(stage.querySelector('img'));
    else if (event.key === '?') { facts.help.open = !facts.help.open; facts.help.scrollIntoView({block: 'nearest'}); facts.help.querySelector('summary').focus(); }
    else return;
    if (event.key !== 'Escape') event.preventDefault();
  });
  window.addEventListener('hashchange', () => { if (location.hash.slice(1) !== written) set(readHash()); });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => set({}));
  Object.assign(S, readHash());
  started = true;
  set({});
  requestAnimationFrame(() => requestAnimationFrame(() => { fit(); document.documentElement.dataset.opened = String(Math.round(performance.now()));
    document.documentElement.dataset.ready = 'true'; }));
}
start();
