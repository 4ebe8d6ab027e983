// The way from the page of a gallery's cell back to the gallery, and to the cells beside it. The
// gallery knows the order: it is asked for the neighbour, and goes there. The word that is lit goes
// with it.
function cellLinks() {
  if (!RUN.cell) return null;
  const to = (text, label, fragment) =>
    el('a', {
      href: '../../index.html#' + fragment(''),
      text,
      'aria-label': label,
      onclick: (event) => {
        const entry = S.locked.length ? ENTRIES[S.locked[0]] : null;
        const word = entry ? wordKey(entry) : '';
        event.currentTarget.href = '../../index.html#' + fragment(word ? '&word=' + encodeURIComponent(word) : '');
      },
    });
  const name = encodeURIComponent(RUN.cell);
  return el(
    'nav',
    {class: 'cells', 'aria-label': 'Gallery'},
    to('← Gallery', 'Back to the gallery', (word) => 'at=' + name + word),
    ' · ',
    to('‹ previous', 'Previous image of the gallery', (word) => 'beside=' + name + '&step=-1' + word),
    ' · ',
    to('next ›', 'Next image of the gallery', (word) => 'beside=' + name + '&step=1' + word),
  );
}
// A word as galleries name it (`trace::normalized`): without variation selectors, each letter in
// lower case, a final sigma as any other, single spaces; the second of its kind with its number.
const wordKey = (entry) => {
  const letters = [...entry.label.replace(/[\u{fe00}-\u{fe0f}\u{e0100}-\u{e01ef}]/gu, '').normalize('NFC')];
  const lower = letters.map((letter) => letter.toLowerCase().replace('ς', 'σ')).join('');
  return numbered(lower.trim().split(/\s+/).join(' '), entry.occurrence);
};
