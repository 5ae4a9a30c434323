// From a live piece {metric, writer, attempt, steps, times, values} to the traces of a figure.

const TOP = 0.975;
const BOTTOM = 0.025;
const LANE = 0.05; // as in figures.py: series of one chart stack their markers
const MARKERS = 60; // beside one another across a chart
const SYMBOLS = { NaN: "x-thin", Infinity: "triangle-up", "-Infinity": "triangle-down" };

// Appends to the arrays of the piece's traces, to be drawn by one redraw: Plotly.extendTraces draws once per call, and
// a chart of four series with markers would need five. Returns how many points were new, or null when the chart has
// no such series yet.
export function append(data, meta, piece) {
  const of = (role) => data.find((trace) => trace.meta?.role === role && trace.meta.metric === piece.metric && trace.meta.writer === piece.writer && trace.meta.attempt === piece.attempt);
  const line = of("line");
  const markers = of("non_finite");
  if (!line || !markers) return null;
  const known = Math.max(lastOf(line.x), lastOf(markers.x));
  let added = 0;
  piece.values.forEach((value, index) => {
    const x = position(meta, piece.steps[index], piece.times[index]);
    // The figure and the live feed overlap: what was drawn is not drawn again.
    if (x <= known) return;
    const finite = typeof value === "number";
    const unbroken = Number.isNaN(line.y.at(-1));
    line.x.push(x);
    line.y.push(finite ? value : NaN);
    added += 1;
    if (finite) return;
    markers.meta.count += 1;
    if (unbroken && crowded(markers, x, line.x[0])) unmark(markers);
    mark(markers, x, value, piece.steps[index]);
  });
  return added;
}

// A run that has gone to NaN logs one at every step: its markers would grow into a solid bar. Within an unbroken
// stretch the newest marker moves on until there is room for another.
function crowded({ x: xs, meta }, x, first) {
  return meta.count > MARKERS && xs.length > 1 && x - xs.at(-2) < (x - first) / MARKERS;
}

function unmark({ x, y, text, marker }) {
  for (const list of [x, y, text, marker.symbol]) list.pop();
}

function mark({ x: xs, y, text, marker, meta }, x, value, step) {
  xs.push(x);
  y.push(value === "-Infinity" ? BOTTOM + meta.lane * LANE : TOP - meta.lane * LANE);
  text.push(`${value} at step ${step}`);
  marker.symbol.push(SYMBOLS[value]);
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
  return values.length ? values[values.length - 1] : -Infinity;
}
