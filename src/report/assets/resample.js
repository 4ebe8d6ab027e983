// Grids at other sizes: bicubic as torch does it (a = -0.75, half-pixel centres, clamped border),
// and nearest cells.
const BICUBIC = -0.75;

function bicubicTaps(from, to) {
  const index = new Int32Array(4 * to);
  const weight = new Float32Array(4 * to);
  const inner = (x) => ((BICUBIC + 2) * x - (BICUBIC + 3)) * x * x + 1;
  const outer = (x) => ((BICUBIC * x - 5 * BICUBIC) * x + 8 * BICUBIC) * x - 4 * BICUBIC;
  for (let i = 0; i < to; i++) {
    const at = ((i + 0.5) * from) / to - 0.5;
    const base = Math.floor(at);
    const t = at - base;
    const w = [outer(t + 1), inner(t), inner(1 - t), outer(2 - t)];
    for (let k = 0; k < 4; k++) {
      index[4 * i + k] = Math.min(from - 1, Math.max(0, base - 1 + k));
      weight[4 * i + k] = w[k];
    }
  }
  return {index, weight};
}

const tapsCache = new Map();
function taps(from, to) {
  const key = from + '>' + to;
  if (!tapsCache.has(key)) tapsCache.set(key, bicubicTaps(from, to));
  return tapsCache.get(key);
}

// A grid of h x w values at H x W. Equal sizes return the grid itself.
function bicubic(grid, h, w, H, W) {
  if (h === H && w === W) return grid;
  const across = taps(w, W);
  const down = taps(h, H);
  const rows = new Float32Array(h * W);
  const out = new Float32Array(H * W);
  for (let y = 0; y < h; y++) {
    const line = y * w;
    for (let x = 0; x < W; x++) {
      const k = 4 * x;
      rows[y * W + x] =
        grid[line + across.index[k]] * across.weight[k] +
        grid[line + across.index[k + 1]] * across.weight[k + 1] +
        grid[line + across.index[k + 2]] * across.weight[k + 2] +
        grid[line + across.index[k + 3]] * across.weight[k + 3];
    }
  }
  for (let y = 0; y < H; y++) {
    const k = 4 * y;
    const a = down.index[k] * W;
    const b = down.index[k + 1] * W;
    const c = down.index[k + 2] * W;
    const d = down.index[k + 3] * W;
    const p = down.weight[k];
    const q = down.weight[k + 1];
    const r = down.weight[k + 2];
    const s = down.weight[k + 3];
    for (let x = 0; x < W; x++) out[y * W + x] = rows[a + x] * p + rows[b + x] * q + rows[c + x] * r + rows[d + x] * s;
  }
  return out;
}

function nearest(grid, h, w, H, W) {
  if (h === H && w === W) return grid;
  const out = new Float32Array(H * W);
  for (let y = 0; y < H; y++) {
    const line = Math.floor(((y + 0.5) * h) / H) * w;
    for (let x = 0; x < W; x++) out[y * W + x] = grid[line + Math.floor(((x + 0.5) * w) / W)];
  }
  return out;
}

function clampAtZero(grid) {
  for (let i = 0; i < grid.length; i++) if (!(grid[i] > 0)) grid[i] = 0;
  return grid;
}

// Lines where a grid crosses a level (marching squares between cell centres), as [x0, y0, x1, y1]
// in units of the grid.
function contour(grid, h, w, level) {
  const lines = [];
  const cross = (a, b) => (level - a) / (b - a);
  for (let y = 0; y + 1 < h; y++) {
    for (let x = 0; x + 1 < w; x++) {
      const a = grid[y * w + x];
      const b = grid[y * w + x + 1];
      const c = grid[(y + 1) * w + x + 1];
      const d = grid[(y + 1) * w + x];
      const kind = (a > level ? 8 : 0) | (b > level ? 4 : 0) | (c > level ? 2 : 0) | (d > level ? 1 : 0);
      if (kind === 0 || kind === 15) continue;
      const top = () => [x + 0.5 + cross(a, b), y + 0.5];
      const right = () => [x + 1.5, y + 0.5 + cross(b, c)];
      const bottom = () => [x + 0.5 + cross(d, c), y + 1.5];
      const left = () => [x + 0.5, y + 0.5 + cross(a, d)];
      const add = (p, q) => lines.push([p[0], p[1], q[0], q[1]]);
      switch (kind) {
        case 1:
        case 14:
          add(left(), bottom());
          break;
        case 2:
        case 13:
          add(bottom(), right());
          break;
        case 3:
        case 12:
          add(left(), right());
          break;
        case 4:
        case 11:
          add(top(), right());
          break;
        case 6:
        case 9:
          add(top(), bottom());
          break;
        case 7:
        case 8:
          add(left(), top());
          break;
        case 5:
          add(left(), top());
          add(bottom(), right());
          break;
        case 10:
          add(top(), right());
          add(left(), bottom());
          break;
      }
    }
  }
  return lines;
}
