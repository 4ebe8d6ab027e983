// The word's share along the run as a drawing that can be clicked: a click takes one step, a drag a
// window.
const SVG = 'http://www.w3.org/2000/svg';
function curvePanel(last, onchange) {
  const make = (tag, props) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
    return node;
  };
  const svg = make('svg', {viewBox: '0 0 1000 100', preserveAspectRatio: 'none', 'aria-hidden': 'true'});
  const says = el('span', {class: 'top'});
  const curve = el('div', {class: 'curve', title: 'A click shows one ' + CALL + ', a drag a window of them'});
  curve.append(svg, says);
  const x = (g) => (last ? 5 + (g / last) * 990 : 500);
  const at = (event) => {
    const r = curve.getBoundingClientRect();
    return Math.min(last, Math.max(0, Math.round(((event.clientX - r.left) / r.width) * last)));
  };
  let from = null;
  curve.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    from = at(event);
    curve.setPointerCapture(event.pointerId);
    onchange(from, from);
  });
  curve.addEventListener('pointermove', (event) => {
    if (from !== null) onchange(Math.min(from, at(event)), Math.max(from, at(event)));
  });
  for (const end of ['pointerup', 'pointercancel'])
    curve.addEventListener(end, () => {
      from = null;
    });
  curve.show = (entry) => {
    // Two halves have no common scale.
    const list =
      S.locked.length > 1 && S.hover < 0
        ? shown().filter((e) => Boolean(e.negative) === Boolean(entry.negative))
        : [entry];
    const {selection, a, b} = looking();
    const series = (list.length ? list : [entry]).map((e) => shareBySteps(selection, e));
    const top = Math.max(1e-12, ...series.flat());
    const y = (v) => 97 - 72 * (v / top);
    const parts = [
      make('rect', {class: 'span', x: x(a) - 5, y: 0, width: x(b) - x(a) + 10, height: 100}),
      make('line', {class: 'base', x1: 0, x2: 1000, y1: 98, y2: 98}),
    ];
    series.forEach((values, i) => {
      const line = make('polyline', {points: values.map((v, g) => x(g).toFixed(1) + ',' + y(v).toFixed(2)).join(' ')});
      if (list.length > 1) line.style.stroke = css(hueOf(list[i]));
      parts.push(line);
    });
    svg.replaceChildren(...parts);
    says.textContent = 'share, up to ' + percent(top);
  };
  return curve;
}
