// From a live piece {metric, writer, attempt, steps, times, values} to what Plotly.extendTraces takes.

const TOP = 0.975;
const BOTTOM = 0.025;
const LANE = 0.055; // as in figures.py: series of one chart stack their markers
const SYMBOLS = { NaN: "x", Infinity: "triangle-up", "-Infinity": "triangle-down" };

// Returns the updates of the piece's traces, or null when the chart has no such series yet.
export function appendable(data, meta, piece) {
  const of = (role) => data.findIndex((trace) => trace.meta?.role === role && trace.meta.metric === piece.metric && trace.meta.writer === piece.writer && trace.meta.attempt === piece.attempt);
  const line = of("line");
  const markers = of("non_finite");
  if (line < 0 || markers < 0) return null;
  const known = Math.max(lastOf(data[line].x), lastOf(data[markers].x));
  const curve = { x: [], y: [] };
  const edge = { x: [], y: [], text: [], symbol: [] };
  piece.values.forEach((value, index) => {
    const x = position(meta, piece.steps[index], piece.times[index]);
    // The figure and the live feed overlap: what was drawn is not drawn again.
    if (x <= known) return;
    const finite = typeof value === "number";
    curve.x.push(x);
    curve.y.push(finite ? value : NaN);
    if (!finite) mark(edge, x, value, piece.steps[index], data[markers].meta.lane);
  });
  const updates = [];
  if (curve.x.length) updates.push({ keys: { x: [curve.x], y: [curve.y] }, indices: [line], points: curve.x.length });
  if (edge.x.length) {
    const keys = { x: [edge.x], y: [edge.y], text: [edge.text], "marker.symbol": [edge.symbol] };
    updates.push({ keys, indices: [markers], points: edge.x.length });
  }
  return updates;
}

function mark(edge, x, value, step, lane) {
  edge.x.push(x);
  edge.y.push(value === "-Infinity" ? BOTTOM + lane * LANE : TOP - lane * LANE);
  edge.text.push(`${value} at step ${step}`);
  edge.symbol.push(SYMBOLS[value]);
}

function position(meta, step, time) {
  if (meta.x === "step") return step;
  return meta.x === "time" ? time * 1000 : (time - meta.origin) / meta.x_scale;
}

// Arrays come as lists, as typed arrays, or as plotly's base64 of one.
export function decoded(values) {
  if (!values?.bdata) return values ?? [];
  const bytes = Uint8Array.from(atob(values.bdata), (character) => character.charCodeAt(0));
  return new TYPES[values.dtype](bytes.buffer);
}

const TYPES = { f8: Float64Array, f4: Float32Array, i1: Int8Array, i2: Int16Array, i4: Int32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

function lastOf(values) {
  const array = decoded(values);
  return array.length ? array[array.length - 1] : -Infinity;
}
