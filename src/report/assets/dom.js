// Small helpers for building elements, writing numbers and speaking to screen readers. Text enters
// the page through textContent alone, so that nothing in a prompt is ever read as markup.
const $ = (id) => document.getElementById(id);

function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'class') node.className = value;
    else if (name === 'text') node.textContent = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.startsWith('aria') && name !== 'list' && name !== 'role') node[name] = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child);
  }
  return node;
}

// `a, b and c`.
const listed = (texts) =>
  texts.length > 1 ? texts.slice(0, -1).join(', ') + ' and ' + texts[texts.length - 1] : texts.join('');

// A share as per cent with two significant digits: 71 %, 4.2 %, 0.31 %, 0.004 %.
function percent(value) {
  const p = 100 * value;
  if (!(p > 0)) return '0 %';
  if (p >= 9.95) return p.toFixed(0) + ' %';
  if (p >= 0.995) return p.toFixed(1) + ' %';
  if (p >= 0.0995) return p.toFixed(2) + ' %';
  if (p >= 0.0005) return p.toFixed(3) + ' %';
  return '< 0.001 %';
}

// The same in at most five characters, for places of fixed width.
const shortPercent = (value) => {
  const p = 100 * value;
  return (p >= 9.95 ? p.toFixed(0) : p >= 0.095 ? p.toFixed(1) : p > 0 ? '<0.1' : '0') + ' %';
};

// A factor with two significant digits: 12, 3.4, 0.56.
const factor = (value) => (value >= 9.95 ? value.toFixed(0) : value >= 0.995 ? value.toFixed(1) : value.toFixed(2));

// 1, 2, 3, 5, 8 -> "1–3, 5, 8"
function ranges(numbers) {
  const parts = [];
  for (let i = 0; i < numbers.length; i++) {
    let j = i;
    while (j + 1 < numbers.length && numbers[j + 1] === numbers[j] + 1) j++;
    parts.push(i === j ? String(numbers[i]) : numbers[i] + '–' + numbers[j]);
    i = j;
  }
  return parts.join(', ');
}

// A sentence of the page, in which words may run from right to left: those on both sides of an
// arrow keep their order.
const inOrder = (text) =>
  /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(text) ? text.replaceAll('→', '\u200e→\u200e') : text;

// A word as `--words` takes it: the second of its kind as frog#2.
const numbered = (text, occurrence) => text + (occurrence > 1 ? '#' + occurrence : '');

// A table that scrolls by itself where it is wider than the page: the cells of its head, its rows.
const plainTable = (head, rows) =>
  el(
    'div',
    {class: 'scroller'},
    el('table', {class: 'plain-table'}, el('thead', {}, el('tr', {}, head)), el('tbody', {}, rows)),
  );

// Lets the border between two pictures be dragged over `target`. `to` is told where it is: in per
// cent from the left of what `measured` gives.
function dragBorder(target, border, measured, to) {
  let dragged = false;
  const drag = (event) => {
    const r = measured().getBoundingClientRect();
    to(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - r.left)) / r.width))));
  };
  target.addEventListener('pointerdown', (event) => {
    if (!border.hidden && event.button === 0) {
      dragged = true;
      target.setPointerCapture(event.pointerId);
      drag(event);
    }
  });
  target.addEventListener('pointermove', (event) => {
    if (dragged) drag(event);
  });
  for (const end of ['pointerup', 'pointercancel'])
    target.addEventListener(end, () => {
      dragged = false;
    });
}

const plural = (n, one, many) => n + ' ' + (n === 1 ? one : many || one + 's');

// Says a sentence to screen readers, without repeating itself.
const announce = (() => {
  let region;
  let last = '';
  return (text) => {
    if (!region) document.body.append((region = el('p', {class: 'unseen', role: 'status', 'aria-live': 'polite'})));
    if (text !== last) region.textContent = last = text;
  };
})();

// Copies text; clipboard access may be refused from file://, then the text is selected the old way.
async function copyText(text, button) {
  const said = button.textContent;
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    const area = el('textarea', {class: 'unseen', value: text});
    document.body.append(area);
    area.select();
    try {
      done = document.execCommand('copy');
    } catch {
      /* the message below says so */
    }
    area.remove();
    button.focus();
  }
  button.textContent = done ? 'Copied' : 'Select and copy by hand';
  announce(button.textContent);
  setTimeout(() => {
    button.textContent = said;
  }, 1600);
}

function commandLine(text, label) {
  const button = el('button', {class: 'quiet', type: 'button', text: 'Copy', 'aria-label': 'Copy ' + label});
  button.addEventListener('click', () => copyText(text, button));
  return el('p', {class: 'command'}, el('code', {text}), button);
}

// A row of mutually exclusive choices, as native radio buttons.
function choice(legend, name, options, value, onchange) {
  const inputs = new Map();
  const set = el(
    'fieldset',
    {class: 'choice'},
    el('legend', {text: legend}),
    options.map(([key, text, title]) => {
      const input = el('input', {
        type: 'radio',
        name,
        value: key,
        checked: key === value,
        onchange: () => onchange(key),
      });
      inputs.set(key, input);
      return el('label', {title: title || null}, input, el('span', {text}));
    }),
  );
  set.show = (key) => {
    for (const [k, input] of inputs) input.checked = k === key;
  };
  return set;
}

function check(label, value, onchange, title) {
  const input = el('input', {type: 'checkbox', checked: value, onchange: () => onchange(input.checked)});
  const node = el('label', {class: 'check', title: title || null}, input, el('span', {text: label}));
  node.show = (v) => {
    input.checked = v;
  };
  return node;
}
