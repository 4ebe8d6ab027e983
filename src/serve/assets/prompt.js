// The prompt and what a run is made with. While it is typed the server says how it is read; no
// network runs for that.

// The prompt with marks behind it: tokens, words never seen, what is cut off, where chunks begin.
function marked(text, found) {
  if (!found || found.of !== text) return [text + '\n'];
  const edges = new Set([0, text.length]);
  for (const [from, to] of found.tokens) {
    edges.add(from);
    edges.add(to);
  }
  for (const {
    at: [from, to],
  } of found.words) {
    edges.add(from);
    edges.add(to);
  }
  if (found.cut !== null) edges.add(found.cut);
  const places = [...edges].sort((p, q) => p - q);
  const nodes = [];
  for (let i = 0; i + 1 < places.length; i++) {
    const [from, to] = [places[i], places[i + 1]];
    const within = ([start, end]) => start <= from && to <= end;
    const token = found.tokens.findIndex(within);
    const word = found.words.find((w) => within(w.at));
    const kinds = [
      token >= 0 && (token % 2 ? 'odd' : 'even'),
      word && word.never && 'never',
      word && word.weight !== 1 && 'weighted',
      found.cut !== null && from >= found.cut && 'cut',
      found.chunks.includes(from) && 'begins',
    ].filter(Boolean);
    nodes.push(kinds.length ? el('span', {class: kinds.join(' '), text: text.slice(from, to)}) : text.slice(from, to));
  }
  return [...nodes, '\n'];
}

function promptPanel() {
  const area = el('textarea', {
    id: 'prompt',
    rows: 2,
    spellcheck: false,
    'aria-label': 'Prompt',
    'aria-describedby': 'read',
    placeholder: 'What the image should show',
    dir: 'auto',
  });
  const mirror = el('div', {class: 'mirror', 'aria-hidden': 'true', dir: 'auto'});
  const read = el('p', {id: 'read', class: 'read'});
  const run = el('button', {
    class: 'quiet go',
    type: 'button',
    text: 'Run',
    title: 'Ctrl+Enter',
    'aria-keyshortcuts': 'Control+Enter',
  });
  const stop = el('button', {class: 'quiet', type: 'button', text: 'Stop', hidden: true});
  const field = (label, props) => {
    const input = el('input', props);
    const node = el('label', {class: 'field'}, el('span', {text: label}), input);
    node.input = input;
    return node;
  };
  const negative = field('Negative', {type: 'text', id: 'negative', class: 'wide', dir: 'auto'});
  const seed = field('Seed', {
    type: 'text',
    id: 'seed',
    inputMode: 'numeric',
    value: '0',
    size: 11,
    title: '-1 draws another for each run; nothing is 0',
  });
  const dice = el('button', {
    class: 'quiet',
    type: 'button',
    text: '⚄',
    'aria-label': 'Draw a seed',
    title: 'Draw a seed',
  });
  const steps = field('Steps', {type: 'number', id: 'steps', min: 1, max: 1000, placeholder: ABOUT.steps});
  const guidance = field('Guidance', {type: 'number', id: 'guidance', step: 0.5, placeholder: ABOUT.guidance});
  const width = field('Width', {
    type: 'number',
    id: 'width',
    min: ABOUT.factor,
    step: ABOUT.factor,
    placeholder: ABOUT.width,
  });
  const height = field('Height', {
    type: 'number',
    id: 'height',
    min: ABOUT.factor,
    step: ABOUT.factor,
    placeholder: ABOUT.height,
  });
  const sampler = el(
    'select',
    {id: 'sampler', 'aria-label': 'Sampler'},
    el('option', {value: '', text: ABOUT.scheduler + ' (the checkpoint’s own)'}),
    ABOUT.samplers.filter((name) => name !== ABOUT.scheduler).map((name) => el('option', {value: name, text: name})),
  );
  const emphasis = check(
    'Brackets are weights',
    false,
    () => look(),
    '--emphasis: (cat:1.3) and [cat], as other programs read them',
  );
  const long = check('Long', false, () => look(), '--long: what does not fit goes on in a further chunk');
  // Weights and chunks are CLIP's in Stable Diffusion 1, 2 and XL: others are not offered them.
  const syntax = ABOUT.syntax ? [emphasis, long] : [];
  const box = (node) => node.querySelector('input');
  const error = (complaint = el('p', {class: 'warn', role: 'alert', hidden: true}));
  let found = null;
  let asks = 0;
  let timer = 0;

  const mark = () => {
    mirror.replaceChildren(...marked(area.value, found));
    mirror.scrollTop = area.scrollTop;
  };
  // How the prompt is read; an answer that came too late is dropped.
  async function look() {
    clearTimeout(timer);
    const now = ++asks;
    const text = area.value;
    try {
      const answer = await ask('check', {prompt: text, emphasis: box(emphasis).checked, long: box(long).checked});
      if (now !== asks) return;
      found = {...answer, of: text};
      const parts = [
        el('span', {class: found.cut === null ? null : 'warn', text: `${found.used} of ${found.room} tokens`}),
      ];
      if (found.chunks.length) parts.push(' · ' + plural(found.chunks.length + 1, 'chunk'));
      if (found.cutOff.length)
        parts.push(' · ', el('span', {class: 'warn', text: plural(found.cutOff.length, 'word') + ' cut off'}));
      if (found.alone)
        parts.push(' · ', el('span', {class: 'warn', text: plural(found.alone, 'word') + ' read by T5 alone'}));
      const weighted = found.words.filter((word) => word.weight !== 1);
      if (weighted.length)
        parts.push(
          ' · ' +
            weighted
              .slice(0, 6)
              .map((word) => word.label + ' ×' + Number(word.weight.toFixed(2)))
              .join(', '),
        );
      if (found.never.length)
        parts.push(
          ' · ',
          el('span', {
            class: 'warn',
            text:
              'never seen: ' +
              found.never
                .slice(0, 8)
                .map(({word, near}) => word + (near ? ` (near: ${near})` : ''))
                .join(', '),
          }),
        );
      for (const {piece, advice} of found.unread)
        parts.push(' · ', el('span', {class: 'warn', text: `“${piece}” ${advice}`}));
      read.replaceChildren(...parts);
      mark();
    } catch (problem) {
      complain(problem.message);
    }
  }
  const typed = () => {
    complain('');
    mark();
    clearTimeout(timer);
    timer = setTimeout(look, 60);
  };
  area.addEventListener('input', typed);
  area.addEventListener('scroll', () => {
    mirror.scrollTop = area.scrollTop;
  });

  // Puts `text` in place of a stretch, so that it can be undone.
  const put = (from, to, text) => {
    area.setSelectionRange(from, to);
    if (!document.execCommand('insertText', false, text)) {
      area.setRangeText(text, from, to, 'end');
      typed();
    }
  };
  // Makes the word at the cursor, or what is selected, weigh a tenth more or less. That has
  // brackets read as weights, so that one that stands there is gone on from.
  function weigh(by) {
    if (!ABOUT.syntax) {
      complain('This checkpoint reads no weights');
      return;
    }
    const {value, selectionStart: from, selectionEnd: to} = area;
    const group = [...value.matchAll(/(?<!\\)\(([^()]*):\s*([+-]?\d*\.?\d+)\s*\)/g)].find(
      (m) => m.index <= from && to <= m.index + m[0].length,
    );
    let start = from;
    let end = to;
    let text;
    let weight = 1;
    if (group) {
      [start, end, text, weight] = [group.index, group.index + group[0].length, group[1], Number(group[2])];
    } else {
      if (from === to) {
        const word = /[\p{L}\p{N}\p{M}'’-]/u;
        while (start > 0 && word.test(value[start - 1])) start--;
        while (end < value.length && word.test(value[end])) end++;
      }
      text = value.slice(start, end);
    }
    if (!text.trim() || (!group && /[()[\]\\]/.test(text))) return;
    weight = Math.round(10 * (weight + by)) / 10;
    if (weight < 0 || weight > 3) return;
    if (!box(emphasis).checked) {
      emphasis.show(true);
    }
    const plain = weight === 1;
    put(start, end, plain ? text : `(${text}:${weight})`);
    area.setSelectionRange(start + (plain ? 0 : 1), start + (plain ? 0 : 1) + text.length);
    announce(`${text} times ${weight}`);
    typed();
  }
  area.addEventListener('keydown', (event) => {
    if (!event.ctrlKey || event.altKey || event.metaKey || !['ArrowUp', 'ArrowDown'].includes(event.key)) return;
    event.preventDefault();
    weigh(event.key === 'ArrowUp' ? 0.1 : -0.1);
  });

  const number = (node) => (node.input.value === '' ? null : Number(node.input.value));
  // A field of numbers says '' of what is none, and the run would be made without it.
  const misread = () => {
    const whole = [steps, width, height].find(({input}) => input.validity.badInput || !/^\d*$/.test(input.value));
    if (whole) return whole.textContent + ': a whole number, or nothing for the checkpoint’s own';
    return guidance.input.validity.badInput ? 'Guidance: a number, or nothing for the checkpoint’s own' : '';
  };
  async function go() {
    const wrong = misread();
    complain(wrong);
    if (wrong) return;
    try {
      await ask('jobs', {
        kind: 'run',
        prompt: area.value,
        negative: negative.input.value,
        seed: seed.input.value,
        steps: number(steps),
        guidance: number(guidance),
        width: number(width),
        height: number(height),
        scheduler: sampler.value || null,
        emphasis: box(emphasis).checked,
        long: box(long).checked,
      });
    } catch (problem) {
      complain(problem.message);
    }
  }
  const end = async () => {
    if (S.running) {
      try {
        await ask('stop', {job: S.running.job});
      } catch (problem) {
        complain(problem.message);
      }
    }
  };
  run.addEventListener('click', go);
  stop.addEventListener('click', end);
  dice.addEventListener('click', () => {
    seed.input.value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    announce('Seed ' + seed.input.value);
  });

  const panel = el(
    'section',
    {class: 'ask', 'aria-label': 'Prompt'},
    el('div', {class: 'typing'}, mirror, area),
    el('div', {class: 'below'}, read, el('div', {class: 'buttons'}, run, stop)),
    error,
    el(
      'details',
      {class: 'settings'},
      el('summary', {class: 'quiet', text: 'Negative, seed, steps, size'}),
      el(
        'div',
        {class: 'fields'},
        negative,
        seed,
        dice,
        steps,
        guidance,
        width,
        el('span', {text: '×'}),
        height,
        sampler,
        syntax,
      ),
    ),
  );
  // Puts what a run was made with into the fields.
  panel.load = (entry) => {
    const made = entry.settings;
    area.value = entry.prompt;
    negative.input.value = entry.negative || '';
    seed.input.value = String(made.seed);
    const own = (value, usual) => (value === undefined || value === usual ? '' : value);
    steps.input.value = own(made.steps, ABOUT.steps);
    guidance.input.value = own(made.guidance_scale, ABOUT.guidance);
    width.input.value = own(made.width, ABOUT.width);
    height.input.value = own(made.height, ABOUT.height);
    sampler.value = ABOUT.samplers.includes(made.scheduler) && made.scheduler !== ABOUT.scheduler ? made.scheduler : '';
    emphasis.show(ABOUT.syntax && made.emphasis === true);
    long.show(ABOUT.syntax && made.long === true);
    complain('');
    look();
  };
  panel.go = go;
  panel.area = area;
  listeners.push(() => {
    stop.hidden = !S.running;
  });
  look();
  return panel;
}
