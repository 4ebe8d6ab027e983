// Steps: the word's share along the run, a window with two ends, a scrubber with play, and small multiples.
let playing = null;
function stopPlaying() {
  if (playing) { clearInterval(playing); playing = null; set({}); }
}
function togglePlay() {
  if (playing) return stopPlaying();
  if (!HAS_STEPS || GROUPS < 2) return;
  const span = isWhole(S.a, S.b) ? 0 : S.b - S.a;
  if (isWhole(S.a, S.b) || S.b >= GROUPS - 1) chooseSteps(0, span);
  playing = setInterval(() => {
    if (S.b + 1 >= GROUPS) return stopPlaying();
    chooseSteps(S.a + 1, S.b + 1);
  }, Math.max(120, Math.min(500, 6000 / GROUPS)));
  set({});
}
const callName = (g) => (LOOK ? CALL + ' ' + levelsInWords(g, g) : groupsInWords(g, g));
function shiftSteps(by) {
  if (!HAS_STEPS) return;
  const span = isWhole(S.a, S.b) ? 0 : S.b - S.a;
  const a = isWhole(S.a, S.b) ? (by > 0 ? 0 : GROUPS - 1) : Math.min(GROUPS - 1 - span, Math.max(0, S.a + by));
  chooseSteps(a, a + span);
}

function stepsPanel() {
  const title = el('h2', {text: LOOK ? 'At each noise level' : 'Step by step'});
  if (!HAS_STEPS) {
    return el('section', {class: 'panel steps'}, title, el('p', {class: 'note', text: 'This run kept no maps of single ' + CALL + 's.'}));
  }
  const last = GROUPS - 1;
  const curve = el('canvas', {class: 'curve', 'aria-hidden': 'true'});
  const range = (label, value, oninput) => el('input', {type: 'range', min: 0, max: last, step: 1, value, 'aria-label': label, oninput});
  const scrub = range('Single ' + CALL, 0, () => { stopPlaying(); chooseSteps(Number(scrub.value), Number(scrub.value)); });
  const from = range('First ' + CALL + ' of the window', 0, () => { stopPlaying(); chooseSteps(Math.min(Number(from.value), S.b), S.b); });
  const to = range('Last ' + CALL + ' of the window', last, () => { stopPlaying(); chooseSteps(S.a, Math.max(Number(to.value), S.a)); });
  const play = el('button', {class: 'quiet play', type: 'button', onclick: togglePlay});
  const all = el('button', {class: 'quiet', type: 'button', text: LOOK ? 'All levels' : 'All steps', onclick: () => { stopPlaying(); chooseSteps(0, last); }});
  const track = el('div', {class: 'window'}, el('i'), from, to);
  const says = el('output', {class: 'says'});
  const count = Math.min(GROUPS, 12);
  const picks = Array.from({length: count}, (_, i) => (count === 1 ? 0 : Math.round((i * last) / (count - 1))));
  const thumbs = picks.map((group) => {
    const canvas = el('canvas', {'aria-hidden': 'true'});
    const button = el('button', {class: 'thumb', type: 'button', tabIndex: -1, onclick: () => {
      stopPlaying();
      if (S.a === group && S.b === group) chooseSteps(0, last); else chooseSteps(group, group);
    }}, canvas, el('span', {text: LOOK ? 't ' + Math.round(RUN.timesteps[RUN.stepGroups[group][0]]) : groupNumbers(group, group)}));
    return {group, canvas, button};
  });
  const strip = el('div', {class: 'multiples' + (count <= 6 ? ' few' : ''), role: 'group', 'aria-label': 'The word at single ' + CALL + 's'}, thumbs.map((t) => t.button));
  strip.addEventListener('keydown', (event) => {
    const move = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!move) return;
    const list = thumbs.map((t) => t.button), at = list.indexOf(event.target) + move;
    if (list[at]) list[at].focus();
    event.preventDefault();
  });
  thumbs[0].button.tabIndex = 0;
  const note = el('p', {class: 'note'});

  const drawCurve = (entry) => {
    const box = curve.getBoundingClientRect(), dpr = Math.min(3, window.devicePixelRatio || 1);
    const W = Math.max(1, Math.round(box.width * dpr)), H = Math.max(1, Math.round(box.height * dpr));
    curve.width = W; curve.height = H;
    const context = curve.getContext('2d'), look = getComputedStyle(document.documentElement);
    const ink = look.getPropertyValue('--ink'), accent = look.getPropertyValue('--accent'), tint = look.getPropertyValue('--tint'), soft = look.getPropertyValue('--soft');
    const list = S.locked.length > 1 && S.hover < 0 ? shown().filter((e) => Boolean(e.negative) === Boolean(entry.negative)) : [entry]; // two halves have no common scale
    const series = list.map((e) => shareBySteps(S.selection, e)), top = Math.max(1e-12, ...series.flat());
    const x = (g) => (GROUPS === 1 ? W / 2 : 3 * dpr + (g / last) * (W - 6 * dpr)), y = (v) => H - 2 * dpr - (v / top) * (H - 1.1 * parseFloat(look.fontSize) * dpr);
    context.fillStyle = tint;
    context.fillRect(x(S.a) - 3 * dpr, 0, x(S.b) - x(S.a) + 6 * dpr, H);
    context.strokeStyle = soft; context.lineWidth = dpr * 0.5;
    context.beginPath(); context.moveTo(0, H - 2 * dpr); context.lineTo(W, H - 2 * dpr); context.stroke();
    series.forEach((values, i) => {
      context.strokeStyle = list.length > 1 ? css(hueOf(list[i])) : accent;
      context.lineWidth = 1.75 * dpr;
      context.beginPath();
      values.forEach((v, g) => (g ? context.lineTo(x(g), y(v)) : context.moveTo(x(g), y(v))));
      context.stroke();
    });
    context.fillStyle = ink;
    context.font = `${0.7 * parseFloat(look.fontSize) * dpr}px ui-sans-serif, system-ui, sans-serif`;
    context.textBaseline = 'top';
    context.fillText('share, up to ' + percent(top), 4 * dpr, 0);
  };
  let drawn = '';
  listeners.push(() => {
    const entry = focusEntry();
    const key = JSON.stringify([entry.index, S.selection, S.palette, S.cells, S.a, S.b, S.locked, S.hover < 0, dark()]);
    scrub.value = S.a === S.b ? S.a : Math.round((S.a + S.b) / 2);
    scrub.classList.toggle('idle', S.a !== S.b);
    from.value = S.a; to.value = S.b;
    for (const [input, g] of [[scrub, S.a], [from, S.a], [to, S.b]]) input.setAttribute('aria-valuetext', callName(g));
    track.firstChild.style.left = (100 * S.a) / Math.max(1, last) + '%';
    track.firstChild.style.right = 100 - (100 * S.b) / Math.max(1, last) + '%';
    play.textContent = playing ? 'Pause' : 'Play';
    const g = firstStep(S.a) === lastStep(S.b) ? RUN.stepGroups[S.a][0] : null;
    says.textContent = LOOK ? sentence(stepsInWords()) : stepsInWords() + ' of ' + lastStep(last) + (g === null ? '' : ', t = ' + Math.round(RUN.timesteps[g]));
    all.hidden = isWhole(S.a, S.b);
    if (key === drawn) return;
    drawn = key;
    drawCurve(entry);
    const maps = thumbs.map((t) => stepThumb(S.selection, entry, t.group));
    const max = Math.max(...maps.map((m) => maxOf(m.values)));
    thumbs.forEach(({group, canvas, button}, i) => {
      const {values, h, w} = maps[i];
      const k = S.cells ? 1 : Math.max(1, Math.round(48 / Math.max(h, w)));
      paintThumb(canvas, k === 1 ? values : bicubic(values, h, w, h * k, w * k), h * k, w * k, max, paletteOf(entry));
      canvas.classList.toggle('crisp', S.cells);
      const chosen = !isWhole(S.a, S.b) && group >= S.a && group <= S.b;
      button.setAttribute('aria-pressed', String(chosen));
      button.setAttribute('aria-label', `${sentence(callName(group))}: ${nameOf(entry)}, peak ${percent(maxOf(values))}`);
    });
    note.replaceChildren(el('b', {text: '“' + nameOf(entry) + '”'}), ' at single ' + CALL + 's, mean over the heads of ' + describeHeads(headsOf(S.selection).map((h, s) => (h.length ? allHeads(RUN.sites[s]) : []))) +
      '; one scale for these pictures, 0 to ' + percent(max) + '. ', honest());
  });
  new ResizeObserver(() => { drawn = ''; if (started) drawCurve(focusEntry()); }).observe(curve);
  return el('section', {class: 'panel steps'}, el('header', {}, title, says),
    curve, el('div', {class: 'transport'}, play, el('label', {class: 'grow'}, el('span', {text: LOOK ? 'Level' : 'Step'}), scrub)),
    el('div', {class: 'transport'}, el('span', {class: 'label', text: 'Window'}), track, all), strip, note);
}
const dark = () => matchMedia('(prefers-color-scheme: dark)').matches;
