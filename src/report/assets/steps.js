// Steps: the word's share along the run, a window with two ends, a scrubber with play, and small
// multiples.
let playing = null;
function stopPlaying() {
  if (playing) {
    clearInterval(playing);
    playing = null;
    set({});
  }
}
function togglePlay() {
  if (playing) return stopPlaying();
  if (!HAS_STEPS || GROUPS < 2) return;
  const span = isWhole(S.a, S.b) ? 0 : S.b - S.a;
  if (isWhole(S.a, S.b) || S.b >= GROUPS - 1) chooseSteps(0, span);
  run();
}
const SPEEDS = [
  [0.5, '½×'],
  [1, '1×'],
  [2, '2×'],
];
let speed = 1;
let loop = false;
function run() {
  clearInterval(playing);
  playing = setInterval(
    () => {
      const span = S.b - S.a;
      if (S.b + 1 < GROUPS) chooseSteps(S.a + 1, S.b + 1);
      else if (loop) chooseSteps(0, span);
      else stopPlaying();
    },
    Math.max(120, Math.min(500, 6000 / GROUPS)) / speed,
  );
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
    return el(
      'section',
      {class: 'panel steps'},
      title,
      el('p', {class: 'note', text: 'This run kept no maps of single ' + CALL + 's.'}),
    );
  }
  const last = GROUPS - 1;
  const change = (a, b) => {
    stopPlaying();
    chooseSteps(a, b);
  };
  const curve = curvePanel(last, change);
  const track = windowControl(last, change);
  const scrub = el('input', {
    type: 'range',
    min: 0,
    max: last,
    step: 1,
    value: 0,
    'aria-label': 'Single ' + CALL,
    oninput: () => change(Number(scrub.value), Number(scrub.value)),
  });
  const play = el('button', {class: 'quiet play', type: 'button', onclick: togglePlay});
  const all = el('button', {
    class: 'quiet',
    type: 'button',
    text: LOOK ? 'All levels' : 'All steps',
    onclick: () => change(0, last),
  });
  const again = check('Loop', loop, (v) => {
    loop = v;
  });
  const pace = el(
    'select',
    {
      'aria-label': 'Speed',
      onchange: () => {
        speed = Number(pace.value);
        if (playing) run();
      },
    },
    SPEEDS.map(([value, text]) => el('option', {value, text, selected: value === 1})),
  );
  const says = el('output', {class: 'says'});
  const count = Math.min(GROUPS, 12);
  const picks = Array.from({length: count}, (_, i) => (count === 1 ? 0 : Math.round((i * last) / (count - 1))));
  const thumbs = picks.map((group) => {
    const canvas = el('canvas', {'aria-hidden': 'true'});
    const button = el(
      'button',
      {
        class: 'thumb',
        type: 'button',
        tabIndex: -1,
        onclick: () => {
          set({preview: null});
          if (S.a === group && S.b === group) change(0, last);
          else change(group, group);
        },
        onpointerenter: (event) => {
          if (event.pointerType !== 'touch' && !playing) previewSteps(group, group);
        },
        onpointerleave: () => set({preview: null}),
      },
      canvas,
      el('span', {
        text: LOOK ? 't ' + Math.round(RUN.timesteps[RUN.stepGroups[group][0]]) : groupNumbers(group, group),
      }),
    );
    return {group, canvas, button};
  });
  const strip = el(
    'div',
    {class: 'multiples' + (count <= 6 ? ' few' : ''), role: 'group', 'aria-label': 'The word at single ' + CALL + 's'},
    thumbs.map((t) => t.button),
  );
  strip.addEventListener('keydown', (event) => {
    const move = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!move) return;
    const list = thumbs.map((t) => t.button);
    const at = list.indexOf(event.target) + move;
    if (list[at]) list[at].focus();
    event.preventDefault();
  });
  thumbs[0].button.tabIndex = 0;
  const note = el('p', {class: 'note'});

  let drawn = '';
  listeners.push(() => {
    const entry = focusEntry();
    const key = JSON.stringify([entry.index, S.selection, S.palette, S.cells, S.a, S.b]);
    curve.show(entry);
    track.show();
    // Without a single step the slider rests at the end, dimmed: the finished image is what is
    // seen.
    scrub.value = S.a === S.b ? S.a : last;
    scrub.classList.toggle('idle', S.a !== S.b);
    scrub.setAttribute('aria-valuetext', S.a === S.b ? callName(S.a) : stepsInWords(S));
    play.textContent = playing ? 'Pause' : 'Play';
    again.show(loop);
    const {a, b} = looking();
    const g = firstStep(a) === lastStep(b) ? RUN.stepGroups[a][0] : null;
    says.textContent = LOOK
      ? sentence(stepsInWords())
      : stepsInWords() + ' of ' + lastStep(last) + (g === null ? '' : ', t = ' + Math.round(RUN.timesteps[g]));
    all.disabled = isWhole(S.a, S.b);
    if (key === drawn) return;
    drawn = key;
    const maps = thumbs.map((t) => stepThumb(S.selection, entry, t.group));
    const max = Math.max(...maps.map((m) => maxOf(m.values)));
    thumbs.forEach(({group, canvas, button}, i) => {
      const {values, h, w} = maps[i];
      const k = S.cells ? 1 : Math.max(1, Math.round(48 / Math.max(h, w)));
      paintThumb(canvas, k === 1 ? values : bicubic(values, h, w, h * k, w * k), h * k, w * k, max, paletteOf(entry));
      canvas.classList.toggle('crisp', S.cells);
      const chosen = !isWhole(S.a, S.b) && group >= S.a && group <= S.b;
      button.setAttribute('aria-pressed', String(chosen));
      button.setAttribute(
        'aria-label',
        `${sentence(callName(group))}: ${nameOf(entry)}, peak ${percent(maxOf(values))}`,
      );
    });
    note.replaceChildren(
      el('b', {text: '“' + nameOf(entry) + '”'}),
      ' at single ' +
        CALL +
        's, mean over the heads of ' +
        describeHeads(headsOf(S.selection).map((h, s) => (h.length ? allHeads(RUN.sites[s]) : []))) +
        '; one scale for these pictures, 0 to ' +
        percent(max) +
        '. ',
      honest(),
    );
  });
  return el(
    'section',
    {class: 'panel steps'},
    el('header', {}, title, says),
    curve,
    el('div', {class: 'transport'}, el('span', {class: 'label', text: LOOK ? 'Level' : 'Step'}), scrub, play),
    el('div', {class: 'transport'}, el('span', {class: 'label', text: 'From – to'}), track, all),
    el(
      'div',
      {class: 'transport small'},
      again,
      el('label', {}, el('span', {text: 'Speed'}), pace),
      merged(),
      forming(),
    ),
    strip,
    note,
  );
}

// What was merged to keep the page small, where it is felt.
function merged() {
  const most = Math.max(...RUN.stepGroups.map(([from, to]) => to - from + 1));
  return most > 1
    ? el('span', {class: 'soft', text: 'This page averages every ' + most + ' ' + CALL + 's, to stay small.'})
    : null;
}

// Whether the image can be seen forming, and how to make it so.
function forming() {
  if (LOOK) return null;
  const kept = RUN.estimates.map((e) => e.step + 1);
  if (kept.length) return el('span', {class: 'soft', text: 'The image forming is kept at steps ' + ranges(kept) + '.'});
  const button = el('button', {
    class: 'quiet',
    type: 'button',
    text: 'Copy',
    'aria-label': 'Copy the command that keeps the image forming',
  });
  button.addEventListener('click', () => copyText(RUN.command + ' --keep-steps --force', button));
  return el('span', {class: 'soft'}, 'To see the image form, make the run again with --keep-steps. ', button);
}
