// What the causal test of the run shows of a word: its causal map in place of the attention, and
// the same seed without it.
const SHOWS = ['looked', 'mattered', 'without', 'image'];
const CAUSAL = RUN.causal || {words: [], block: null};
const verdictOf = (entry) => RUN.verdicts.find((verdict) => verdict.word === entry.index) || null;
const withoutOf = (entry) => RUN.without.find((other) => other.word === entry.index) || null;

// How much the prediction of each place changed when the word was cut, at the latent grid; null
// where the word was not tested.
const causalMaps = new Map();
function causalMap(entry) {
  const at = entry.special || entry.negative || entry.probe ? -1 : CAUSAL.words.indexOf(entry.index);
  if (at < 0) return null;
  if (!causalMaps.has(at)) causalMaps.set(at, plane(CAUSAL.block, at));
  return causalMaps.get(at);
}
// One scale for all tested words, as for the attention, or each its own.
function causalTop(entry) {
  const tops = CAUSAL.words.map((word) => maxOf(causalMap(ENTRIES[word])));
  return S.scale === 'word' ? tops[CAUSAL.words.indexOf(entry.index)] || 0 : Math.max(0, ...tops);
}

// What is shown of a word: the map of its attention, or of the causal test, with the top of its
// scale. Null where there is none.
function layerOf(entry) {
  if (S.show !== 'mattered') return {key: view().key, map: entryMap(view(), entry), max: scaleMax(entry)};
  const map = causalMap(entry);
  return map && {key: 'causal', map, max: causalTop(entry)};
}
// Where the image without the word begins, in per cent from the left: as was chosen, else through
// the middle of what changes.
const splitOf = (other) => S.split ?? other?.middle ?? 50;
const differing = () => (S.show === 'without' && !tiesOn() ? withoutOf(focusEntry()) : null);

// What a causal test is shown of when it is asked for. It is the lit word if that was tested so,
// else a kept one that was, else the one whose removal changes the image most.
function openedOn(show) {
  const tested = {mattered: causalMap, without: withoutOf}[show];
  if (!tested || tested(focusEntry())) return {};
  const change = (entry) => withoutOf(entry)?.area ?? verdictOf(entry)?.changed ?? verdictOf(entry)?.effect ?? 0;
  const all = WORDS.filter(tested);
  const kept = all.filter((entry) => S.locked.includes(entry.index));
  if (!all.length) return {};
  const most = (kept.length ? kept : all).reduce((best, entry) => (change(entry) > change(best) ? entry : best)).index;
  if (!S.locked.length) {
    opening = most;
    return {};
  }
  announce('Kept: ' + nameOf(ENTRIES[most]));
  return {locked: [...(kept.length ? S.locked.filter((i) => i !== most) : []), most]};
}

// The switch under the image, and what belongs to the choice: the slider between both images, or
// how to make the test.
function causalBar() {
  const modes = choice(
    'What is shown',
    'show',
    [
      ['looked', 'Looked', 'Where the model looked for the word: its attention'],
      ['mattered', 'Mattered', 'Where the prediction changed when the word was cut: its causal map'],
      ['without', 'Without it', 'The same seed without the word, beside the image'],
      [
        'image',
        'Image',
        RUN.estimates.length ? 'The image alone, and at a step its estimate (key i)' : 'The image alone (key i)',
      ],
    ],
    S.show,
    (show) => set({show, ties: -1, ...openedOn(show)}),
  );
  const slider = el('input', {
    type: 'range',
    min: 0,
    max: 100,
    step: 1,
    class: 'split',
    'aria-label': 'Image on the left, the same seed without the word on the right',
    oninput: () => set({split: Number(slider.value)}),
  });
  const differ = check(
    'Difference',
    S.differ,
    (v) => set({differ: v}),
    'Show where both images differ in place of both',
  );
  const ab = el(
    'div',
    {class: 'ab', hidden: true},
    el('span', {class: 'soft', text: 'the run'}),
    slider,
    el('span', {class: 'soft', text: 'without'}),
    differ,
  );
  const missing = el('div', {class: 'missing', hidden: true});
  listeners.push(() => {
    const entry = focusEntry();
    const has = {looked: true, image: true, mattered: Boolean(causalMap(entry)), without: Boolean(withoutOf(entry))};
    modes.show(S.show);
    for (const input of modes.querySelectorAll('input'))
      input.closest('label').classList.toggle('none', !has[input.value]);
    ab.hidden = !differing();
    slider.value = splitOf(differing());
    slider.disabled = S.differ;
    slider.setAttribute('aria-valuetext', splitOf(differing()) + ' % the run');
    differ.show(S.differ);
    missing.hidden = has[S.show];
    if (!missing.hidden) {
      const name = nameOf(entry);
      const tests = S.show === 'without' && verdictOf(entry) ? ' --counterfactual' : '';
      missing.replaceChildren(
        entry.special || entry.negative || entry.probe
          ? el('span', {text: '“' + name + '” cannot be tested: it is no word of the prompt.'})
          : el('span', {text: '“' + name + '” has not been tested' + (tests ? ' this way' : '') + '. To test it:'}),
        entry.special || entry.negative || entry.probe
          ? ''
          : commandLine(explainCommand() + ' --words ' + quotedWord(name) + tests, 'the command that tests the word'),
      );
    }
  });
  return {modes, below: el('div', {class: 'causal'}, ab, missing)};
}
const quotedWord = (text) => (/^[\w\-./:=@+%#]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'");

// What the caption says of the choice.
function causalInWords(entry) {
  const verdict = verdictOf(entry);
  const other = withoutOf(entry);
  const name = '“' + nameOf(entry) + '”';
  if (S.show === 'without') {
    if (!other) return [];
    return [
      el('b', {text: 'The same seed without ' + name}),
      `: ${percent(other.area)} of the image changed. ` +
        (S.differ
          ? 'Bright is where both differ.'
          : 'Left of the line is the run, right of it the image without the word.'),
    ];
  }
  if (!causalMap(entry)) return [];
  return [
    el('b', {text: 'Where ' + name + ' mattered'}),
    ': how much the prediction of each place changed when the word was cut. ' + (verdict ? verdict.sentence : ''),
  ];
}
