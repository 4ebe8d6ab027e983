// Colours: palettes for one word, hues for several, all distinguishable without red-green vision.
// Okabe and Ito (2008), black left out.
const HUES = [
  [213, 94, 0],
  [0, 114, 178],
  [0, 158, 115],
  [204, 121, 167],
  [230, 159, 0],
  [86, 180, 233],
  [240, 228, 66],
];
const css = ([r, g, b], alpha) => (alpha === undefined ? `rgb(${r} ${g} ${b})` : `rgb(${r} ${g} ${b} / ${alpha})`);

const tables = new Map();
// 256 colours of a palette as flat r, g, b.
function palette(name) {
  if (!tables.has(name)) {
    const hex = PALETTES[name] || PALETTES.magma;
    const stops = hex.length / 6;
    const at = (i, c) => parseInt(hex.slice(6 * i + 2 * c, 6 * i + 2 * c + 2), 16);
    const table = new Uint8ClampedArray(256 * 3);
    for (let i = 0; i < 256; i++) {
      const p = (i / 255) * (stops - 1);
      const k = Math.min(stops - 2, Math.floor(p));
      const t = p - k;
      for (let c = 0; c < 3; c++) table[3 * i + c] = at(k, c) * (1 - t) + at(k + 1, c) * t;
    }
    tables.set(name, table);
  }
  return tables.get(name);
}

// Paints values (0..max) as opaque palette colours into RGBA.
function paintPalette(rgba, values, max, name) {
  const table = palette(name);
  const k = max > 0 ? 1 / max : 0;
  for (let i = 0; i < values.length; i++) {
    const t = Math.min(1, Math.max(0, values[i] * k));
    const c = 3 * Math.round(t * 255);
    const o = 4 * i;
    rgba[o] = table[c];
    rgba[o + 1] = table[c + 1];
    rgba[o + 2] = table[c + 2];
    rgba[o + 3] = 255;
  }
}

// A canvas of h x w pixels with values painted opaque: thumbnails, stretched by the style sheet.
function paintThumb(canvas, values, h, w, max, name) {
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const context = canvas.getContext('2d');
  const image = context.createImageData(w, h);
  paintPalette(image.data, values, max, name);
  context.putImageData(image, 0, 0);
}
