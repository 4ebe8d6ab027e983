// The prompt matrix as lines from token to token (BertViz's head view; Vig, 2019). The token that
// looks is on the left, what it looks at on the right. Lines are darker for more. Pointing at a
// token shows its lines alone.
function headView(count, tokenText, unseen, speak) {
  const node = (tag, attributes, text) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const ROW = 20;
  const LEFT = 130;
  const RIGHT = 330;
  const y = (i) => ROW * i + 14;
  const svg = node('svg', {
    class: 'headview',
    viewBox: `0 0 460 ${ROW * count + 8}`,
    role: 'group',
    'aria-label': 'Attention of the text encoder as lines: the token on the left looks at the token on the right',
  });
  const lines = [];
  for (let i = 0; i < count; i++)
    for (let j = 0; j < count; j++) {
      if (unseen(i, j)) continue;
      const line = node('line', {x1: LEFT + 6, y1: y(i) - 4, x2: RIGHT - 6, y2: y(j) - 4});
      lines.push({i, j, line});
      svg.append(line);
    }
  let current = null;
  let top = 0;
  let lit = null;
  const paint = () => {
    for (const {i, j, line} of lines) {
      const on = !lit || (lit.side === 'from' ? i : j) === lit.at;
      const share = current && top > 0 ? Math.min(1, current[i * count + j] / top) : 0;
      line.style.strokeOpacity = on && share >= 0.01 ? String(share) : '0';
    }
    for (const label of labels)
      label.text.classList.toggle('lit', Boolean(lit) && lit.side === label.side && lit.at === label.at);
  };
  const labels = [];
  const label = (side, at) => {
    const text = node(
      'text',
      {
        x: side === 'from' ? LEFT : RIGHT,
        y: y(at),
        'text-anchor': side === 'from' ? 'end' : 'start',
        tabindex: 0,
        role: 'button',
      },
      tokenText(at),
    );
    const light = () => {
      lit = {side, at};
      paint();
      speak(side, at);
    };
    const leave = () => {
      lit = null;
      paint();
      speak();
    };
    for (const name of ['pointerenter', 'focus', 'click']) text.addEventListener(name, light);
    for (const name of ['pointerleave', 'blur']) text.addEventListener(name, leave);
    labels.push({side, at, text});
    svg.append(text);
  };
  for (let i = 0; i < count; i++) {
    label('from', i);
    label('to', i);
  }
  // One scale for all lines; `scale` is the attention of the darkest.
  return {
    node: svg,
    draw: (values, scale) => {
      current = values;
      top = scale;
      paint();
    },
  };
}
