// Words ranked at a point, in a box, or over the whole image, as a table with bars.
function rankingPanel() {
  const heading = el('h2', {id: 'ranking-title'});
  const note = el('p', {class: 'note'});
  const rest = listed([...SPECIALS.map((e) => e.label), ...(RUN.joint ? ['image'] : [])]);
  const last = el('th', {scope: 'col', class: 'number'});
  const first = el('th', {scope: 'col', class: 'number'});
  let by = 'share'; // or 'last': the order of the rows
  // The negative prompt's words stand apart: their shares are of another whole.
  const tested = CAUSAL.words.length > 0;
  const third = el('th', {scope: 'col', class: 'number'});
  const body = el('tbody');
  const others = el('tbody', {class: 'other-half'});
  const apart = el(
    'tr',
    {},
    el('th', {
      scope: 'rowgroup',
      colSpan: tested ? 5 : 4,
      text: 'Words of the negative prompt, of the other half and on a scale of their own',
    }),
  );
  const table = el(
    'table',
    {class: 'ranking', 'aria-labelledby': 'ranking-title'},
    el(
      'thead',
      {},
      el(
        'tr',
        {},
        el('th', {scope: 'col', text: 'Word'}),
        first,
        el('th', {scope: 'col', class: 'bars'}, el('span', {class: 'unseen', text: 'Bar'})),
        last,
        tested ? third : null,
      ),
    ),
    body,
    others,
  );
  const sorter = (cell, name) => {
    const button = el('button', {
      type: 'button',
      class: 'plain',
      onclick: () => {
        by = name;
        drawn = '';
        set({});
      },
    });
    cell.append(button);
    return (text, title) => {
      button.textContent = text;
      button.title = title;
      cell.setAttribute('aria-sort', by === name ? 'descending' : 'none');
    };
  };
  const names = [sorter(first, 'share'), sorter(last, 'last'), sorter(third, 'cause')];
  const rows = ENTRIES.map((entry) => {
    const name = el(
      'button',
      {type: 'button', class: 'plain', tabIndex: -1, onclick: () => toggleLock(entry.index), dir: 'auto'},
      entry.special ? '⟨' + entry.label + '⟩' : nameOf(entry),
      weightOf(entry) ? el('small', {class: 'times', dir: 'ltr', text: ' ' + weightOf(entry)}) : null,
    );
    const share = el('td', {class: 'number'});
    const fill = el('i');
    const times = el('td', {class: 'number soft'});
    const cause = el('td', {class: 'number soft'});
    const row = el(
      'tr',
      {
        'data-entry': entry.index,
        onpointerenter: (e) => {
          if (e.pointerType !== 'touch') lightUp(entry.index);
        },
        onpointerleave: () => letGo(entry.index),
      },
      el('th', {scope: 'row'}, name),
      share,
      el('td', {class: 'bars', 'aria-hidden': 'true'}, fill),
      times,
      tested ? cause : null,
    );
    return {entry, row, share, fill, times, cause};
  });
  const clear = el('button', {
    class: 'quiet',
    type: 'button',
    text: 'Whole image',
    title: 'Let go of the place (Esc)',
    hidden: true,
    onclick: () => set({box: null, probe: null}),
  });
  const fold = el('button', {
    class: 'quiet fold little',
    type: 'button',
    onclick: () => set({little: !S.little}),
    title: 'Articles, prepositions and the like: they name nothing that could be drawn',
  });
  const scroller = el(
    'div',
    {class: 'scroller', tabIndex: 0, role: 'region', 'aria-labelledby': 'ranking-title'},
    table,
  );
  let drawn = '';
  listeners.push(() => {
    const box =
      S.box && !(S.probe && S.probe.keyboard) && !(S.probe && S.probe.w * S.probe.h > 1) ? S.box : S.probe || S.box;
    const maps = view();
    const key = JSON.stringify([
      box,
      maps.key,
      S.little,
      S.specials,
      S.probes,
      S.hover,
      S.locked,
      shown().map((e) => e.index),
      by,
    ]);
    if (key === drawn) return;
    drawn = key;
    const here = shares(maps, box);
    const whole = box ? shares(maps, null) : here;
    const visible = rows.filter(
      ({entry}) =>
        !entry.negative &&
        (S.little || !entry.little || CONTENT === WORDS) &&
        (S.specials || !entry.special) &&
        (S.probes || !entry.probe),
    );
    const negative = rows.filter((r) => r.entry.negative);
    const factorOf = (entry) =>
      !box ? entryFacts(maps, entry).peak : whole[entry.index] > 0 ? here[entry.index] / whole[entry.index] : 0;
    // What cutting each tested word changes here, as a share of all that it changes. Of the whole
    // image that would be all of it. There the column has how much of the image changes without the
    // word, under another name.
    const changes = ENTRIES.map((entry) => (causalMap(entry) ? boxMean(causalMap(entry), GRID, box) : -1));
    const largest = Math.max(...changes);
    const changed = (entry) => {
      const verdict = verdictOf(entry);
      return verdict && verdict.changed !== null && verdict.changed !== undefined ? verdict.changed : -1;
    };
    const causes = ENTRIES.map((entry, i) =>
      changes[i] < 0 || largest <= 0 ? -1 : box ? boxShare(causalMap(entry), GRID, box) : changed(entry),
    );
    // As `attnmap ask --cause` ranks, without its colours beside their nouns: what changes next to
    // nothing here comes last.
    const causeOf = (entry) => causes[entry.index] - (box && changes[entry.index] < 0.05 * largest ? 1 : 0);
    const rank = (entry) => (by === 'share' ? here[entry.index] : by === 'cause' ? causeOf(entry) : factorOf(entry));
    // With the pointer in the table the order stays, so that rows do not run away from it.
    if (!(S.hover >= 0 && table.matches(':hover'))) {
      for (const list of [visible, negative]) list.sort((p, q) => rank(q.entry) - rank(p.entry));
      body.replaceChildren(...visible.map((r) => r.row));
      if (negative.length) others.replaceChildren(apart, ...negative.map((r) => r.row));
    }
    const most = (list) => Math.max(1e-12, ...list.map((r) => here[r.entry.index]));
    const tops = [most(visible), most(negative)];
    for (const {entry, row, share, fill, times, cause} of rows) {
      const value = here[entry.index];
      share.textContent = percent(value);
      share.dataset.value = String(value);
      fill.style.width = (100 * value) / tops[Number(Boolean(entry.negative))] + '%';
      times.textContent = !box
        ? percent(entryFacts(maps, entry).peak)
        : whole[entry.index] > 0
          ? factor(value / whole[entry.index]) + '×'
          : '–';
      cause.textContent = causes[entry.index] < 0 ? '–' : percent(causes[entry.index]);
      const locked = S.locked.includes(entry.index);
      row.classList.toggle('lit', S.hover === entry.index || locked || shown().includes(entry));
      row.style.setProperty('--hue', locked ? css(hueOf(entry)) : 'var(--accent)');
    }
    heading.textContent = !box
      ? 'Words over the whole image'
      : box.w > 1 || box.h > 1
        ? `Words in the box ${box.w} × ${box.h} px at ${box.x}, ${box.y}`
        : `Words at pixel ${box.x}, ${box.y}`;
    names[0]('Share', 'Share of the attention here; a click orders by it');
    names[1](
      box ? '× image' : 'peak',
      (box
        ? 'Share here divided by the word’s share of the whole image'
        : 'Highest attention to the word in one place') + '; a click orders by it',
    );
    names[2](
      box ? 'causes' : 'changes',
      (box
        ? 'Share of all that cutting the word changes that lies here'
        : 'Share of the image that changes without the word') + '; a click orders by it',
    );
    fold.hidden = CONTENT === WORDS || !WORDS.some((entry) => entry.little);
    fold.textContent =
      (S.little ? '− ' : '+ ') +
      'little words hold ' +
      percent(WORDS.reduce((sum, e) => sum + (e.little ? here[e.index] : 0), 0));
    fold.setAttribute('aria-expanded', String(S.little));
    clear.hidden = !S.box;
    const words = WORDS.reduce((sum, e) => sum + here[e.index], 0);
    note.replaceChildren(
      'The words hold ' +
        percent(words) +
        ' of the attention here' +
        (S.specials ? '' : '; ' + rest + ' the rest') +
        '. ',
      honest(),
    );
    if ((S.probe && S.probe.keyboard) || S.box) {
      announce(
        heading.textContent +
          ': ' +
          visible
            .filter((r) => !r.entry.special)
            .slice(0, 3)
            .map((r) => nameOf(r.entry) + ' ' + percent(here[r.entry.index]))
            .join(', '),
      );
    }
  });
  return el('section', {class: 'panel rank'}, el('header', {}, heading, clear), scroller, fold, note);
}

// The sentence that belongs beside every attention map, with the way to a causal test.
function honest() {
  return el(
    'span',
    {class: 'honest'},
    'Attention shows where the model looked, not why. ',
    RUN.verdicts.length
      ? el('a', {href: '#evidence', text: 'See the causal test.', onclick: jumpToEvidence})
      : el('a', {href: '#evidence', text: 'How to test it.', onclick: jumpToEvidence}),
  );
}
function jumpToEvidence(event) {
  event.preventDefault(); // the address holds the view
  const target = $('evidence');
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  target.scrollIntoView({behavior: still ? 'auto' : 'smooth', block: 'start'});
  target.focus({preventScroll: true});
}
