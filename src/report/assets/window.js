// A window of steps: two ends on one track. The nearer end follows the pointer; each end can be
// moved with keys.
function windowControl(last, onchange) {
  const range = (label) => el('input', {type: 'range', min: 0, max: last, step: 1, 'aria-label': label});
  const from = range('First ' + CALL + ' of the window');
  const to = range('Last ' + CALL + ' of the window');
  const fill = el('i');
  const track = el('div', {class: 'window'}, fill, from, to);
  from.addEventListener('input', () => onchange(Math.min(Number(from.value), S.b), S.b));
  to.addEventListener('input', () => onchange(S.a, Math.max(Number(to.value), S.a)));
  const at = (event) => {
    const r = track.getBoundingClientRect();
    const thumb = Math.min(14, r.width / 4);
    return Math.min(
      last,
      Math.max(0, Math.round(((event.clientX - r.left - thumb / 2) / Math.max(1, r.width - thumb)) * last)),
    );
  };
  let held = null; // the end that the pointer moves; undecided while both lie where it was pressed
  const move = (event) => {
    const g = at(event);
    if (held === 'both') {
      if (g === S.a) return;
      held = g < S.a ? 'from' : 'to';
    }
    if (held === 'from') onchange(Math.min(g, S.b), S.b);
    else onchange(S.a, Math.max(g, S.a));
  };
  track.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    const g = at(event);
    const [toA, toB] = [Math.abs(g - S.a), Math.abs(g - S.b)];
    held =
      S.a === S.b
        ? g < S.a
          ? 'from'
          : g > S.b
            ? 'to'
            : 'both'
        : toA < toB || (toA === toB && g < S.a)
          ? 'from'
          : 'to';
    track.setPointerCapture(event.pointerId);
    (held === 'from' ? from : to).focus({focusVisible: false});
    move(event);
  });
  track.addEventListener('pointermove', (event) => {
    if (held) move(event);
  });
  for (const end of ['pointerup', 'pointercancel'])
    track.addEventListener(end, () => {
      held = null;
    });
  track.show = () => {
    from.value = S.a;
    to.value = S.b;
    from.setAttribute('aria-valuetext', callName(S.a));
    to.setAttribute('aria-valuetext', callName(S.b));
    fill.style.left = (100 * S.a) / Math.max(1, last) + '%';
    fill.style.right = 100 - (100 * S.b) / Math.max(1, last) + '%';
  };
  return track;
}
