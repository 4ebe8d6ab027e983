// How the map is drawn, behind one button; and what can be taken along: a link, a command, a
// picture.
function toolbar(source) {
  const style = choice(
    'Style',
    'style',
    STYLES.map((name) => [name, sentence(name)]),
    S.style,
    (v) => set({style: v}),
  );
  const palettes = el(
    'select',
    {onchange: (e) => set({palette: e.target.value})},
    Object.keys(PALETTES)
      .filter((name) => name !== 'difference')
      .map((name) => el('option', {value: name, text: name})),
  );
  const scale = el(
    'select',
    {onchange: (e) => set({scale: e.target.value})},
    SCALES.filter(([k]) => k !== 'steps' || HAS_STEPS).map(([k, text]) => el('option', {value: k, text})),
  );
  const range = (name) => {
    const input = el('input', {
      type: 'range',
      min: 0,
      max: 100,
      step: 1,
      oninput: () => set({[name]: input.value / 100}),
    });
    return input;
  };
  const opacity = range('opacity');
  const threshold = range('threshold');
  const cuts = el(
    'label',
    {title: 'Where the mask begins, as a share of the scale'},
    el('span', {text: 'From'}),
    threshold,
  );
  const cells = check(
    'Raw grid',
    S.cells,
    (v) => set({cells: v}),
    'Show the grid’s own cells instead of the bicubic upsampling',
  );
  const estimate = RUN.estimates.length
    ? check(
        'Image at the step',
        S.estimate,
        (v) => set({estimate: v}),
        'With a part of the steps chosen, show the image as the model then saw it',
      )
    : null;
  const begun = RUN.start
    ? check(
        'Start picture',
        S.begun,
        (v) => set({begun: v}),
        'Show the picture that the run set out from in place of the image',
      )
    : null;
  // What is shown of whom is settled when the page opens: the address says the rest.
  const encoders = ENCODERS.length
    ? el(
        'select',
        {
          onchange: (e) => {
            const rest = hash().replace(/&?encoder=\w+/, '');
            location.hash = (rest ? rest + '&' : '') + 'encoder=' + e.target.value;
          },
        },
        ENCODERS.map(([k, text]) => el('option', {value: k, text, selected: k === ENCODER})),
      )
    : null;
  const button = (text, title, act) => {
    const node = el('button', {class: 'quiet', type: 'button', text, title, onclick: () => act(node)});
    return node;
  };
  const link = button('Copy link', 'The address of this page with everything that is chosen', (node) =>
    copyText(location.href, node),
  );
  const command = button('Copy command', 'The command that draws this view into the run’s folder', (node) =>
    copyText(viewCommand(), node),
  );
  const save = button('Export PNG', 'This view as a picture (key e)', () => exportPng(source));
  listeners.push(() => {
    style.show(S.style);
    palettes.value = S.palette;
    scale.value = S.scale;
    cells.show(S.cells);
    opacity.value = Math.round(100 * S.opacity);
    threshold.value = Math.round(100 * S.threshold);
    cuts.hidden = S.style !== 'mask';
    command.disabled = viewCommand() === null;
    if (estimate) estimate.show(S.estimate);
    if (begun) begun.show(S.begun);
  });
  const panel = el(
    'div',
    {class: 'toolbar'},
    style,
    el('label', {}, el('span', {text: 'Colours'}), palettes),
    encoders
      ? el('label', {title: 'Whose tokens of a word its map is of'}, el('span', {text: 'Tokens'}), encoders)
      : null,
    el('label', {}, el('span', {text: 'Scale'}), scale),
    el('label', {}, el('span', {text: 'Opacity'}), opacity),
    cuts,
    cells,
    estimate,
    begun,
    tiesButton(),
    link,
    command,
    save,
  );
  const more = el('details', {class: 'more'}, el('summary', {class: 'quiet', text: 'Display'}), panel);
  more.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !more.open) return;
    more.open = false;
    more.querySelector('summary').focus();
    event.stopPropagation();
  });
  document.addEventListener('pointerdown', (event) => {
    if (more.open && !more.contains(event.target) && !event.target.closest('.frame')) more.open = false;
  });
  return el('div', {class: 'tools'}, more);
}

// `attnmap view` for what is shown; null where one command cannot say it.
function viewCommand() {
  if (tiesOn() || S.show !== 'looked') return null;
  const parts = [explainCommand().replace('attnmap explain', 'attnmap view')];
  const list = shown();
  const kept = list.filter((entry) => !entry.negative);
  // The command line has no name for the padding.
  if (kept.length !== list.length || kept.some((entry) => entry.key === 'p')) return null;
  if (kept.length)
    parts.push(
      '--words',
      quotedWord(kept.map((entry) => (entry.special ? '<' + entry.label + '>' : nameOf(entry))).join(',')),
    );
  // Without a choice of layers `view` has the run's own maps at the chosen steps, as the page has.
  if (S.selection !== null || (!OWN && !isWhole(S.a, S.b))) {
    const chosen = headsOf(S.selection)
      .map((heads, s) => ({heads, site: RUN.sites[s]}))
      .filter((c) => c.heads.length);
    const whole = chosen.every((c) => c.heads.length === c.site.heads);
    const same = chosen.every((c) => String(c.heads) === String(chosen[0].heads));
    if (!whole && !same) return null;
    parts.push(
      '--layers',
      quotedWord(chosen.length === RUN.sites.length ? 'down,mid,up' : chosen.map((c) => c.site.path).join(',')),
    );
    if (!whole) parts.push('--heads', ranges(chosen[0].heads).replaceAll('–', '-').replaceAll(' ', ''));
  }
  if (!isWhole(S.a, S.b)) parts.push('--steps-window', firstStep(S.a) + '-' + lastStep(S.b));
  if (!isRuns) parts.push('--encoder', ENCODER);
  const display = [
    ['--style', S.style, 'heat'],
    ['--colormap', S.palette, 'magma'],
    ['--scale', S.scale === 'word' ? 'word' : 'shared', 'shared'],
    ['--opacity', String(S.opacity), String(STYLE_DEFAULTS.opacity)],
    ['--threshold', String(S.threshold), String(STYLE_DEFAULTS.threshold)],
  ];
  for (const [option, value, usual] of display) if (value !== usual) parts.push(option, value);
  return parts.join(' ');
}
