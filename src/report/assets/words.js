// The prompt as text: every word a button with its share beneath it, special tokens folded behind
// it.
function wordsPanel() {
  const buttons = new Map();
  const chip = (entry) => {
    const gloss = el('span', {class: 'gloss', dir: 'ltr'});
    const bar = el('span', {class: 'weight'}, el('i'));
    const button = el(
      'button',
      {
        class: 'word' + (entry.special ? ' special' : '') + (entry.little && CONTENT !== WORDS ? ' little' : ''),
        type: 'button',
        tabIndex: -1,
        'data-entry': entry.index,
        onclick: () => toggleLock(entry.index),
        onpointerenter: (event) => {
          if (event.pointerType !== 'touch') lightUp(entry.index);
        },
        onpointerleave: () => letGo(entry.index),
        onfocus: () => {
          roam(entry.index);
          if (button.matches(':focus-visible')) lightUp(entry.index);
        },
        onblur: () => letGo(entry.index),
      },
      el(
        'span',
        {class: 'text', dir: 'auto'},
        entry.special ? '⟨' + entry.label + '⟩' : entry.label,
        weightOf(entry)
          ? el('sup', {
              class: 'times',
              dir: 'ltr',
              text: weightOf(entry),
              title:
                'The prompt’s brackets multiply what the text encoder says of this word by ' + weightOf(entry).slice(1),
            })
          : null,
        testedMark(entry),
      ),
      bar,
      gloss,
    );
    buttons.set(entry.index, {button, gloss, bar: bar.firstChild});
    return button;
  };
  // One tab stop for all words; arrows move among them.
  const roam = (index) => {
    for (const [i, b] of buttons) b.button.tabIndex = i === index ? 0 : -1;
  };
  // Words isolate their own direction, which dir=auto on the whole would skip: the first letter
  // decides.
  const letter = /\p{L}/u.exec(RUN.prompt);
  const rightToLeft = letter && /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(letter[0]);
  const prompt = el('p', {class: 'prompt scroller', dir: rightToLeft ? 'rtl' : 'ltr'});
  // A long prompt goes through the text encoder in chunks; a mark stands where one begins.
  const line = (segments, words, entries) => {
    const nodes = [];
    let chunk = 0;
    const between = (text) => {
      if (text) nodes.push(el('span', {class: 'between', text}));
    };
    const border = (next) => {
      if (words[next.word].chunk <= chunk) return;
      chunk = words[next.word].chunk;
      nodes.push(
        el('span', {
          class: 'chunk',
          text: 'chunk ' + (chunk + 1),
          title: 'The text encoder reads each chunk on its own: words of one do not see those of another.',
        }),
        ' ',
      );
    };
    segments.forEach((segment, i) => {
      if (segment.word !== null) {
        border(segment); // where no BREAK made it
        nodes.push(chip(entries[segment.word]));
        return;
      }
      const at = segment.text.lastIndexOf('BREAK') + 5;
      const next = segments[i + 1];
      if (at < 5 || !next || words[next.word].chunk <= chunk) return between(segment.text);
      between(segment.text.slice(0, at) + ' ');
      border(next);
      between(segment.text.slice(at).trimStart());
    });
    return nodes;
  };
  prompt.append(...line(RUN.segments, RUN.words, ENTRIES));
  if (!RUN.segments.length) prompt.append(el('em', {class: 'soft', text: 'the empty prompt'}));
  const negative = NEGATIVES.length
    ? el(
        'p',
        {class: 'prompt negative', dir: 'auto'},
        el('span', {class: 'soft', text: 'not: '}),
        line(NEGATIVE.segments, NEGATIVE.words, NEGATIVES),
      )
    : null;
  const fold = el('button', {
    class: 'quiet fold',
    type: 'button',
    'aria-expanded': 'false',
    'aria-controls': 'specials',
    onclick: () => set({specials: !S.specials}),
  });
  const specials = el('span', {id: 'specials', class: 'specials'}, SPECIALS.map(chip));
  // Words that are not in the prompt stand apart from it, folded.
  const probeFold = el('button', {
    class: 'quiet fold',
    type: 'button',
    'aria-expanded': 'false',
    'aria-controls': 'probes',
    title:
      'The run was asked about these words; they had no influence on the image. ' +
      'Their share is what they would take from the prompt’s tokens.',
    onclick: () => set({probes: !S.probes}),
  });
  const probes = el('span', {id: 'probes', class: 'specials'}, PROBES.map(chip));
  const about = el('span', {
    class: 'note about-probes',
    text:
      'Each probe competes with the whole prompt in the soft-max of every place, and with no other probe: ' +
      'a word that fits nowhere still gets a share. ' +
      'Compare it with a little word of the prompt, or with a probe that cannot be there.',
  });
  const asked = PROBES.length ? el('p', {class: 'special-row'}, probeFold, ' ', probes, about) : null;
  const cut = RUN.cutOff.length
    ? el(
        'details',
        {class: 'cut'},
        el('summary', {text: plural(RUN.cutOff.length, 'word') + ' beyond the model’s length, not read to the end'}),
        el('p', {dir: 'auto', text: RUN.cutOff.slice(0, 400).join(' ') + (RUN.cutOff.length > 400 ? ' …' : '')}),
      )
    : null;
  const row = el(
    'div',
    {class: 'promptbox', role: 'group', 'aria-label': 'Prompt: words to light up on the image'},
    prompt,
    el('p', {class: 'special-row'}, marksLegend(), fold, ' ', specials),
    asked,
    negative,
  );
  row.addEventListener('keydown', (event) => {
    const move = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity}[event.key];
    if (move === undefined || !event.target.dataset.entry || event.altKey || event.ctrlKey || event.metaKey) return;
    const list = [...row.querySelectorAll('.word')].filter((b) => b.offsetParent !== null);
    const rtl =
      getComputedStyle(prompt).direction === 'rtl' && event.key.startsWith('Arrow') && !/Up|Down/.test(event.key);
    const at = list.indexOf(event.target) + (rtl ? -move : move);
    list[Math.min(list.length - 1, Math.max(0, at))].focus();
    event.preventDefault();
  });
  if (buttons.size) roam(buttons.keys().next().value);
  listeners.push(() => {
    const maps = view();
    const facts = ENTRIES.map((entry) => entryFacts(maps, entry));
    const most = Math.max(1e-12, ...WORDS.concat(PROBES).map((entry) => facts[entry.index].share));
    const mostNegative = Math.max(1e-12, ...NEGATIVES.map((entry) => facts[entry.index].share));
    const lit = shown();
    const held = SPECIALS.reduce((sum, entry) => sum + facts[entry.index].share, 0);
    fold.textContent = (S.specials ? '− ' : '+ ') + SPECIALS.map((e) => e.label).join(', ') + ' hold ' + percent(held);
    fold.setAttribute('aria-expanded', String(S.specials));
    fold.title =
      'The special tokens around the prompt collect most of the attention. They are never hidden from the sums.';
    specials.hidden = !S.specials;
    row.classList.toggle('all', S.little);
    probeFold.textContent = (S.probes ? '− ' : '+ ') + plural(PROBES.length, 'probe') + ', not in the prompt';
    probeFold.setAttribute('aria-expanded', String(S.probes));
    probes.hidden = about.hidden = !S.probes;
    for (const [index, {button, gloss, bar}] of buttons) {
      const entry = ENTRIES[index];
      const fact = facts[index];
      const locked = S.locked.includes(index);
      gloss.textContent = shortPercent(fact.share);
      bar.style.width =
        Math.min(100, (100 * fact.share) / (entry.special ? 1 : entry.negative ? mostNegative : most)) + '%';
      button.setAttribute('aria-pressed', String(locked));
      button.setAttribute(
        'aria-label',
        nameOf(entry) +
          (entry.special
            ? ' token'
            : entry.probe
              ? ', not in the prompt'
              : weightOf(entry)
                ? ', weight ' + weightOf(entry).slice(1)
                : '') +
          ': ' +
          inNumbers(fact) +
          testedInWords(entry),
      );
      button.title =
        `share ${percent(fact.share)} · peak ${percent(fact.peak)} · area ${percent(fact.area)} of the image ` +
        `above ${percent(RUN.threshold)} of its peak` +
        (testOf(entry) ? '\n' + testOf(entry).sentence : '');
      button.classList.toggle('lit', lit.includes(entry));
      const hue = locked ? css(hueOf(entry)) : '';
      button.style.setProperty('--hue', hue || 'var(--accent)');
    }
  });
  return el('div', {}, row, cut);
}

// A mark at a word that was tested; what the causal test said of the word is in its title and its
// name.
const MARKS = [
  ['much', '●', 'full circle'],
  ['a little', '◐', 'half circle'],
  ['not at all', '○', 'empty circle'],
];
const testOf = (entry) => (entry.special || entry.negative || entry.probe ? null : verdictOf(entry));
function testedMark(entry) {
  const verdict = testOf(entry);
  return (
    verdict &&
    el('sup', {
      class: 'tested',
      dir: 'ltr',
      text: (MARKS.find(([name]) => name === verdict.mattered) || [, '◆'])[1],
      'aria-hidden': 'true',
    })
  );
}
function testedInWords(entry) {
  const verdict = testOf(entry);
  return verdict ? ', tested: ' + (verdict.mattered ? 'mattered ' + verdict.mattered : verdict.verdict) : '';
}
// What the marks mean, for those who cannot point at them.
function marksLegend() {
  if (!RUN.verdicts.length) return null;
  return el(
    'span',
    {class: 'mark-legend'},
    'Did it matter?',
    MARKS.map(([name, glyph, spoken]) =>
      el(
        'span',
        {},
        el('i', {text: glyph + ' ', 'aria-hidden': 'true'}),
        el('span', {class: 'unseen', text: spoken + ': '}),
        name,
      ),
    ),
  );
}
