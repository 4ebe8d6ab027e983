// Packed planes: one zlib stream of 8 or 16-bit numbers, each plane with a scale of its own.
async function inflate(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Response(stream).arrayBuffer();
}

let PACKED = null; // DataView over all planes
async function loadMaps() {
  const script = $('maps');
  PACKED = new DataView(await inflate(script.textContent));
  script.remove();
}

// Plane `p` of a block as numbers.
function plane(block, p) {
  const n = block.height * block.width;
  const out = new Float32Array(n);
  const scale = PACKED.getFloat32(block.at + 4 * p, true);
  const units = block.at + 4 * block.planes;
  if (block.bits === 16) for (let i = 0; i < n; i++) out[i] = scale * PACKED.getUint16(units + 2 * (p * n + i), true);
  else for (let i = 0; i < n; i++) out[i] = scale * PACKED.getUint8(units + p * n + i);
  return out;
}

function addInto(sum, values, weight) {
  for (let i = 0; i < sum.length; i++) sum[i] += weight * values[i];
}

const maxOf = (values) => {
  let max = 0;
  for (const v of values) if (v > max) max = v;
  return max;
};
const meanOf = (values) => {
  let sum = 0;
  for (const v of values) sum += v;
  return values.length ? sum / values.length : 0;
};
