"use strict";
// What the heatmap's page can do beyond its table. Reads the data that PageData.swift describes, merges sketches for other
// quantiles and longer windows, and never averages. Text from the data reaches the document as text only.
(() => {
const LOW = 59, NONE = 20, LETTERS = "GYOR", STATES = ["open", "final", "revised"];
const QUANTILES = [0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1];
const $ = id => document.getElementById(id);
const el = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter(child => child != null));
  return node;
};

// MARK: Reading

const model = () => ({ e: new Uint16Array(66).fill(1024), t: new Uint16Array(66).fill(1024), last: 0 });

class Decoder {
  constructor(bytes, at) {
    Object.assign(this, { bytes, at, range: 0xFFFFFFFF, code: 0 });
    for (let i = 0; i < 4; i++) this.code = this.code * 256 + this.bytes[this.at++];
  }
  fill() {
    while (this.range < 0x1000000) {
      this.code = this.code * 256 + (this.bytes[this.at++] || 0);
      this.range *= 256;
    }
  }
  bit(table, i) {
    const chance = table[i], bound = (this.range >>> 11) * chance;
    const one = this.code >= bound;
    if (one) {
      this.code -= bound;
      this.range -= bound;
      table[i] = chance - (chance >> 4);
    } else {
      this.range = bound;
      table[i] = chance + ((2048 - chance) >> 4);
    }
    this.fill();
    return one ? 1 : 0;
  }
  /// At most 16 bits.
  raw(bits) {
    this.range >>>= bits;
    const value = Math.floor(this.code / this.range);
    this.code -= value * this.range;
    this.fill();
    return value;
  }
  /// Bits behind those of a value.
  bits(value, left) {
    for (let taken; left > 0; left -= taken) {
      taken = Math.min(left, 16);
      value = value * 2 ** taken + this.raw(taken);
    }
    return value;
  }
  number(m) {
    let length = 0;
    while (this.bit(m.e, length)) length++;
    if (!length) return 0;
    return this.bits(2 + this.bit(m.t, length), length - 1) - 1;
  }
  signed(m) {
    const n = this.number(m);
    return n % 2 ? -(n + 1) / 2 : n / 2;
  }
  near(m) {
    const value = this.signed(m) + ((m.last + 8) >> 4);
    m.last += (value * 16 - m.last) >> 3;
    return value;
  }
  figure(m, bits) {
    const length = m.last += this.signed(m);
    if (!length) return 0;
    const kept = Math.min(length - 1, bits);
    return this.bits(1, kept) * 2 ** (length - 1 - kept);
  }
  hex(digits) {
    let text = "";
    while (text.length < digits) text += this.raw(16).toString(16).padStart(4, "0");
    return text;
  }
}

const edges = runs => {
  const found = runs.slice(0, 1);
  for (let i = 1; i < runs.length; i += 2) {
    for (let k = 0; k < runs[i + 1]; k++) found.push(found[found.length - 1] + runs[i]);
  }
  return found;
};

/// The buckets of a row's cells: see RowBuckets.swift.
const FIRST = -1915, ZEROS = 0, octave = new DataView(new ArrayBuffer(8));
class RowBuckets {
  constructor(decoder) {
    Object.assign(this, { decoder, distance: model(), gap: model(), whole: model(), part: [] });
    for (let i = 0; i < 48; i++) this.part.push(model());
  }
  /// What all cells have.
  total() {
    const { decoder } = this, used = decoder.number(this.gap);
    this.slots = [];
    this.counts = [];
    this.left = 0;
    for (let i = 0, slot = 0; i < used; i++) {
      slot = i ? slot + 1 + decoder.number(this.gap) : decoder.near(this.distance);
      this.slots.push(slot);
      this.counts.push(1 + decoder.number(this.whole));
      this.left += this.counts[i];
    }
    return this.filled({}, this.counts.slice());
  }
  cell(c, n) {
    const taken = new Array(this.slots.length).fill(0);
    let count = n, rest = this.left;
    for (let i = 0; i < this.slots.length && count > 0; i++) {
      const there = this.counts[i];
      if (!(there > 0)) continue;
      let own = there;
      if (count < rest) {
        const expected = count * there / rest;
        octave.setFloat64(0, expected);
        const m = this.part[Math.min(Math.max((octave.getUint32(0) >>> 19) - 2046 + 12, 0), 47)];
        own = expected < 6 ? this.decoder.number(m) : this.decoder.signed(m) + Math.floor(expected + 0.5);
      }
      rest -= there;
      count -= own;
      taken[i] = own;
      this.counts[i] = Math.max(0, there - own);
      this.left -= own;
    }
    return this.filled(c, taken);
  }
  filled(c, counts) {
    Object.assign(c, { zeros: 0, n: 0, index: [], count: [] });
    counts.forEach((count, i) => {
      if (!count) return;
      c.n += count;
      if (this.slots[i] === ZEROS) c.zeros = count;
      else {
        c.index.push(this.slots[i] + FIRST);
        c.count.push(count);
      }
    });
    return c;
  }
}

function load(header, body) {
  // A page's own names are in its table.
  const groups = header.groups ?? [...$("table").tBodies[0].rows].map(row => row.cells[0].textContent);
  const grid = { ...header, groups, edges: edges(header.edges), rows: [], fine: null };
  const bytes = Uint8Array.from(atob(body), c => c.charCodeAt(0));
  const decoder = new Decoder(bytes, 0), columns = grid.edges.length - 1;
  const buckets = new RowBuckets(decoder), oldBuckets = new RowBuckets(decoder), m = {};
  for (const name of ["presence", "exactness", "count", "bucket", "quantile", "largest", "over", "late", "state", "mask",
    "mean", "traceCount", "trace", "verdict"]) m[name] = model();
  m.percent = grid.stages.map(model);
  const values = c => {
    c.q = decoder.number(m.exactness) ? decoder.figure(m.quantile, 64) : Math.round(middle(decoder.near(m.bucket), 6));
    c.max = decoder.figure(m.largest, 10);
    return c;
  };
  const cell = c => {
    values(c);
    c.over = decoder.signed(m.over) + c.index.reduce((sum, index, i) => sum + (index > grid.sloAt ? c.count[i] : 0), 0);
    c.late = decoder.number(m.late);
    c.state = decoder.number(m.state);
    c.stages = [];
    c.mean = 0;
    if (grid.stages.length) {
      const mask = decoder.number(m.mask);
      c.stages = grid.stages.map((_, i) => [i, 0]).filter(([i]) => mask >> i & 1);
      let left = 100;
      c.stages.forEach((stage, i) => left -= stage[1] = i < c.stages.length - 1 ? decoder.near(m.percent[stage[0]]) : left);
      c.mean = decoder.figure(m.mean, 8);
    }
    c.traces = [];
    for (let k = grid.traces && decoder.number(m.traceCount); k > 0; k--) {
      c.traces.push([decoder.figure(m.trace, 10), decoder.hex(32)]);
    }
    return c;
  };
  /// What a cell is compared with.
  const before = found => {
    if (!decoder.number(m.presence)) return null;
    const verdict = decoder.number(m.verdict), c = found();
    return values({ ...c, verdict, stages: [], mean: 0, traces: [], over: 0, late: 0, state: 1 });
  };
  for (const group of groups) {
    const cells = [], old = [];
    const total = buckets.total(), totalOld = grid.compared ? oldBuckets.total() : null;
    for (let i = 0; i < columns; i++) {
      cells.push(decoder.number(m.presence) ? cell(buckets.cell({}, decoder.number(m.count))) : null);
      old.push(grid.compared ? before(() => oldBuckets.cell({}, decoder.number(m.count))) : null);
    }
    cell(total);
    grid.rows.push({ group, cells, old, total, totalOld: grid.compared ? before(() => totalOld) : null });
  }
  if (header.fineEdges) grid.fine = loadFine(grid, header, bytes);
  return grid;
}

function loadFine(grid, header, bytes) {
  const decoder = new Decoder(bytes, header.fineAt), starts = edges(header.fineEdges), counts = model(), figures = model(), levels = model(), verdicts = model();
  const columns = starts.length - 1, isCoarse = header.fineScale < 6;
  const count = step => {
    if (step < NONE || !isCoarse) return step;
    const k = step - 19;
    return k === 8 ? LOW : (4 + (k > 8 ? k - 1 : k) % 4) * 2 ** (Math.floor((k > 8 ? k - 1 : k) / 4) + 2);
  };
  const rows = grid.groups.map(() => {
    const n = new Float64Array(columns), q = new Float64Array(columns), l = new Uint8Array(columns), v = new Uint8Array(columns);
    counts.last = figures.last = 0;
    for (let i = 0; i < columns; i++) {
      n[i] = count(decoder.near(counts));
      if (n[i] < NONE) continue;
      const index = decoder.near(figures);
      q[i] = middle(index, header.fineScale);
      const [low, high] = [index, index + 1].map(at => levelIn(header, 2 ** (at / 2 ** header.fineScale) * 1e9));
      l[i] = high > low ? low + decoder.number(levels) : low;
      if (header.compared) v[i] = decoder.number(verdicts);
    }
    return { n, q, l, v };
  });
  return { edges: starts, rows, length: header.fineLength, scale: header.fineScale };
}

// MARK: Sketches

/// The value that is as far from both edges of a bucket, in nanoseconds.
const middle = (index, scale) => {
  const upper = 2 ** ((index + 1) / 2 ** scale) * 1e9, lower = upper / 2 ** (2 ** -scale);
  return 2 * lower * upper / (lower + upper);
};
const errorOf = scale => { const b = 2 ** (2 ** -scale); return (b - 1) / (b + 1); };

function merged(cells) {
  const all = cells.filter(Boolean);
  if (all.length < 2) return all[0] || null;
  const counts = new Map();
  const sum = { max: 0, over: 0, late: 0, state: 1, zeros: 0, n: 0, mean: 0, traces: [], stages: [] };
  const shares = new Map();
  let weight = 0;
  for (const c of all) {
    c.index.forEach((index, i) => counts.set(index, (counts.get(index) || 0) + c.count[i]));
    sum.max = Math.max(sum.max, c.max);
    for (const key of ["over", "late", "zeros", "n"]) sum[key] += c[key];
    sum.mean += c.mean * c.n;
    if (c.stages.length) weight += c.mean * c.n;
    for (const [stage, percent] of c.stages) shares.set(stage, (shares.get(stage) || 0) + percent * c.mean * c.n);
    sum.traces.push(...c.traces);
  }
  sum.mean /= sum.n;
  sum.index = [...counts.keys()].sort((a, b) => a - b);
  sum.count = sum.index.map(index => counts.get(index));
  sum.traces = sum.traces.sort((a, b) => b[0] - a[0]).slice(0, 3);
  const stages = [...shares.keys()].sort((a, b) => a - b);
  const percents = whole(stages.map(stage => weight ? shares.get(stage) / weight : 0));
  sum.stages = stages.map((stage, i) => [stage, percents[i]]);
  sum.state = all.some(c => c.late) ? 2 : all.some(c => c.state === 0) ? 0 : 1;
  return sum;
}

/// Largest remainder: whole numbers that add up to 100.
function whole(exact) {
  const floor = exact.map(Math.floor);
  const order = exact.map((_, i) => i).sort((a, b) => exact[b] % 1 - exact[a] % 1 || a - b);
  const missing = exact.some(x => x > 0) ? Math.round(100 - floor.reduce((a, b) => a + b, 0)) : 0;
  order.slice(0, Math.max(0, missing)).forEach(i => floor[i]++);
  return floor;
}

function atRank(c, rank) {
  let seen = c.zeros;
  if (seen >= rank) return 0;
  for (let i = 0; i < c.index.length; i++) {
    seen += c.count[i];
    if (seen >= rank) return Math.min(middle(c.index[i], grid.scale), c.max);
  }
  return c.max;
}
const quantile = (c, q) => q === 1 ? c.max : atRank(c, Math.max(1, Math.ceil(Math.round(q * 1e6) * c.n / 1e6)));

/// Ranks between which the quantile of the whole lies with 95 %: see QuantileInterval.swift.
function interval(n, q) {
  const reach = 1.959964 * Math.sqrt(n * q * (1 - q));
  if (n >= 100000) return [Math.floor(n * q - reach), Math.ceil(n * q + reach) + 1];
  const tail = p => {
    // The largest k with P(B <= k) <= 2.5 %.
    let term = n * Math.log1p(-p), sum = 0;
    for (let k = 0; k < n; k++) {
      sum += Math.exp(term);
      if (sum > 0.025) return k - 1;
      term += Math.log((n - k) / (k + 1) * p / (1 - p));
    }
    return -1;
  };
  const below = tail(q), above = tail(1 - q);
  return below < 0 || above < 0 ? null : [below + 1, n - above];
}

// MARK: Numbers and times, as Figures.swift writes them

function milliseconds(ns, columns = 5) {
  const value = ns / 1e6;
  if (value < 0.995) return value.toFixed(2);
  if (value < 9.95) return value.toFixed(1);
  let text = String(Math.round(value));
  for (const [unit, length] of [["s", 1e3], ["m", 6e4], ["h", 36e5], ["d", 864e5], ["y", 315576e5]]) {
    if (text.length <= columns) break;
    text = Math.round(value / length) + unit;
  }
  return text;
}
const latency = ns => { const text = milliseconds(ns); return /\d$/.test(text) ? text + " ms" : text; };
const grouped = n => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, ",");
function short(n) {
  if (n < 10000) return String(n);
  if (n < 999500) return Math.round(n / 1e3) + "k";
  for (const [unit, size] of [["M", 1e6], ["G", 1e9], ["T", 1e12], ["P", 1e15]]) {
    if (n < 9.95 * size) return (n / size).toFixed(1) + unit;
    if (n < 999.5 * size) return Math.round(n / size) + unit;
  }
  return (n / 1e18).toFixed(1) + "E";
}
const span = s => s % 86400 ? s % 3600 ? s % 60 ? s + "s" : s / 60 + "m" : s / 3600 + "h" : s / 86400 + "d";
const quantileName = q => q === 1 ? "max" : "P" + +(q * 100).toFixed(4);
const levelIn = (header, ns) => header.levels.filter(limit => ns >= limit).length;
const level = ns => levelIn(grid, ns);

let clock = null;
function useZone(zone) {
  clock = new Intl.DateTimeFormat("en-u-ca-iso8601-nu-latn", {
    timeZone: zone, hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit",
    minute: "2-digit", second: "2-digit",
  });
}
function fields(second) {
  const found = {};
  for (const part of clock.formatToParts(second * 1000)) found[part.type] = part.value;
  return found;
}
const offset = second => {
  const f = fields(second);
  return Date.UTC(f.year, f.month - 1, f.day, f.hour, f.minute, f.second) / 1000 - second;
};
const time = (second, length) => {
  const f = fields(second);
  return length % 86400 === 0 ? `${f.month}-${f.day}` : `${f.hour}:${f.minute}` + (length % 60 ? `:${f.second}` : "");
};
const date = second => { const f = fields(second); return `${f.year}-${f.month}-${f.day}`; };
function rfc3339(second) {
  const f = fields(second), minutes = Math.round(offset(second) / 60), size = Math.abs(minutes);
  const two = n => String(n).padStart(2, "0");
  return `${f.year}-${f.month}-${f.day}T${f.hour}:${f.minute}:${f.second}`
    + (minutes ? (minutes < 0 ? "-" : "+") + two(Math.floor(size / 60)) + ":" + two(size % 60) : "Z");
}

// MARK: What is shown

let grid = null, columns = [], rows = [], view = null, selected = null;
const data = $("grid");

/// Columns of the chosen length, aligned to the chosen zone's clock: runs of the embedded ones.
function layOut() {
  useZone(view.zone);
  columns = [];
  const starts = isFine() ? grid.fine.edges : grid.edges;
  for (let i = 0; i + 1 < starts.length; i++) {
    const number = isFine() || view.length === grid.length
      ? i : Math.floor((starts[i] + offset(starts[i])) / view.length);
    const last = columns[columns.length - 1];
    if (last && last.number === number) {
      last.to = i + 1;
      last.end = starts[i + 1];
    } else {
      columns.push({ number, from: i, to: i + 1, start: starts[i], end: starts[i + 1] });
    }
  }
  const wanted = view.filter.toLowerCase();
  rows = grid.rows.map((row, number) => ({ ...row, number, made: [] }))
    .filter(row => row.group.toLowerCase().includes(wanted));
  if (view.sort === "slowest") rows.sort((a, b) => figure(b.total).q - figure(a.total).q);
  if (view.sort === "count") rows.sort((a, b) => b.total.n - a.total.n);
}
const isFine = () => grid.fine !== null && view.length === grid.fine.length;

/// A cell with the chosen quantile; the figure that came with it where that is the one asked for.
function figure(c, isWhole = true) {
  if (!c) return null;
  const q = isWhole && view.quantile === grid.quantile && c.q !== undefined ? c.q : quantile(c, view.quantile);
  return { ...c, q, level: level(q) };
}
/// The same with what it is compared with. The report's own verdict where it is what was asked for; else that of the
/// sketches: only values of different buckets lie apart, so that a coarser scale finds less, never more.
function beside(c, old) {
  const own = figure(c), base = figure(old);
  if (!own || !base) return own;
  const isAsked = old.verdict !== undefined && view.quantile === grid.quantile;
  return { ...own, old: base, verdict: isAsked ? old.verdict : verdict(own, base) };
}
function verdict(own, old) {
  const [a, b] = [own, old].map(c => view.quantile < 1 && interval(c.n, view.quantile)?.map(rank => atRank(c, rank)));
  return !a || !b ? 0 : a[0] > b[1] ? 1 : a[1] < b[0] ? 2 : 0;
}
function cellAt(row, column) {
  if (column === columns.length) return row.made[column] ??= beside(row.total, row.totalOld);
  if (isFine()) {
    const { n, q, l, v } = grid.fine.rows[row.number];
    return n[column] ? { n: n[column], q: q[column], level: l[column], verdict: v[column], state: 1 } : null;
  }
  const { from, to } = columns[column];
  if (row.made[column] === undefined) {
    row.made[column] = beside(merged(row.cells.slice(from, to)), merged(row.old.slice(from, to)));
  }
  return row.made[column];
}
const label = c => !c ? "·" : c.n < NONE ? "--"
  : (c.n < LOW ? "~" : "") + milliseconds(c.q) + " " + LETTERS[c.level];
const MARKS = ["", "▲", "▼"], VERDICTS = ["not surely different", "slower for sure", "faster for sure"];
const text = c => label(c) + (c && c.n >= NONE ? MARKS[c.verdict || 0] : "") + (c && c.state === 2 ? "*" : "");
const kind = c => !c ? "none" : c.n < NONE ? "few" : LETTERS[c.level].toLowerCase();
const worst = c => c && c.stages.length ? c.stages.reduce((a, b) => b[1] > a[1] ? b : a) : null;
const columnName = column => column === columns.length ? "all windows"
  : `${date(columns[column].start)} ${time(columns[column].start, 1)}–${time(columns[column].end, 1)}`
    .replace(/:00(?=–|$)/g, "");

/// - keep: whether what is open stays open.
function draw(keep) {
  layOut();
  $("scroll").hidden = isFine() || !grid.rows.length;
  $("fine").hidden = $("finenote").hidden = !isFine();
  if (isFine()) drawFine(); else drawTable();
  if (!keep) close();
  $("shown").textContent = rows.length < grid.rows.length ? `${rows.length} of ${grid.rows.length} groups` : "";
}

/// What the figures mean.
const caption = () => `${quantileName(view.quantile)} in milliseconds: `
  + (view.quantile === 1 ? "the slowest of a window’s latencies"
    : `${+(view.quantile * 100).toFixed(4)} % of a window’s latencies are at most this`);

/// As many children as are wanted, with as little change as can be: what has the focus stays.
function fit(parent, count, make) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(make());
}
function put(cell, words, name) {
  if (cell.textContent !== words) cell.textContent = words;
  if (cell.className !== name) cell.className = name;
}
function drawTable() {
  const length = view.length;
  const head = el("tr", {}, el("th", { scope: "col", class: "group" }, "group"));
  let day = null;
  for (const { start } of columns) {
    const f = fields(start), isNew = day !== null && day !== f.day && length % 86400;
    day = f.day;
    head.append(el("th", { scope: "col" }, isNew ? el("span", {}, `${f.month}-${f.day}`) : null, time(start, length)));
  }
  const hasStages = grid.stages.length > 0;
  head.append(el("th", { scope: "col", class: "all" }, "all"), el("th", { scope: "col" }, "n"));
  if (hasStages) head.append(el("th", { scope: "col", class: "worst" }, "worst stage"));
  const table = $("table"), body = table.tBodies[0], shortest = grid.fine ? grid.fine.length : grid.length;
  table.caption.firstElementChild.textContent = caption()
    + (length > shortest ? `; windows of ${span(shortest)} joined into ${span(length)}` : "");
  table.tHead.replaceChildren(head);
  fit(body, rows.length, () => el("tr", {}, el("th", { scope: "row", dir: "auto" })));
  rows.forEach((row, r) => {
    const line = body.rows[r], name = line.cells[0];
    put(name, row.group, "");
    if (name.title !== row.group) name.title = row.group;
    fit(line, columns.length + 3 + hasStages, () => el("td"));
    for (let c = 0; c <= columns.length; c++) {
      const cell = cellAt(row, c), level = kind(cell);
      put(line.cells[c + 1], text(cell), c === columns.length ? "all " + level : level === "g" ? "" : level);
    }
    put(line.cells[columns.length + 2], short(row.total.n), "n");
    const stage = worst(row.total);
    if (hasStages) put(line.cells[columns.length + 3], stage ? `${grid.stages[stage[0]]} ${stage[1]} %` : "·", "worst");
  });
  const box = $("scroll");
  box.style.scrollPadding = `2.4rem 4.5rem 1rem ${(head.cells[0].offsetWidth || 0) + 4}px`;
  if (!table.querySelector("td[tabindex]")) rove(body.rows[0]?.cells[1]);
}

// MARK: The panel

function show(row, column) {
  selected = { row, column };
  const r = rows[row], cell = cellAt(r, column);
  const outer = isFine() && column < columns.length
    ? grid.edges.findLastIndex(edge => edge <= columns[column].start) : null;
  const whole = outer !== null ? beside(r.cells[outer], r.old[outer]) : cell;
  const parts = [
    el("button", { type: "button", class: "close", "aria-label": "Close" }, "×"),
    el("h2", { dir: "auto" }, r.group),
    el("p", { class: "when" }, columnName(column)),
  ];
  if (!cell) parts.push(el("p", {}, "No latency ended here."));
  else {
    const name = quantileName(view.quantile);
    parts.push(el("p", { class: "big " + kind(cell) }, cell.n < NONE ? "--" : latency(cell.q),
      el("small", {}, ` ${name} of n${outer !== null && grid.fine.scale < 6 ? "≈" : "="}${grouped(cell.n)}`)));
    if (outer !== null) {
      parts.push(el("p", { class: "note" }, `One of the windows of ${span(grid.fine.length)}, to within `
        + `${(errorOf(grid.fine.scale) * 100).toFixed(1)} %; its level is exact. From here on, all of `
        + `${time(grid.edges[outer], 1)}–${time(grid.edges[outer + 1], 1)}:`));
    }
  }
  if (whole) parts.push(...details(whole));
  $("panel").replaceChildren(...parts);
  $("panel").hidden = false;
  $("panel").querySelector(".close").addEventListener("click", () => close(true));
  mark();
  // The table is narrower beside the panel.
  if (!isFine()) tableCell(row, column)?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function details(c) {
  const parts = [], ranks = interval(c.n, view.quantile);
  const list = el("dl");
  const add = (name, value) => list.append(el("dt", {}, name), el("dd", {}, value));
  if (view.quantile < 1) {
    add("95 % confidence", ranks ? `${latency(atRank(c, ranks[0]))} – ${latency(atRank(c, ranks[1]))}`
      : "too few values");
  }
  for (const q of [0.5, 0.9, 0.95, 0.99]) {
    add(quantileName(q), latency(q === view.quantile && c.q !== undefined ? c.q : quantile(c, q)));
  }
  add("max", latency(c.max));
  if (c.old) {
    const ranks = view.quantile < 1 && interval(c.old.n, view.quantile), change = (c.q / c.old.q - 1) * 100;
    add(`against ${grid.compared}`, `${latency(c.old.q)} of n=${grouped(c.old.n)}`);
    if (ranks) add("its confidence", `${latency(atRank(c.old, ranks[0]))} – ${latency(atRank(c.old, ranks[1]))}`);
    add(VERDICTS[c.verdict], isFinite(change) ? `${change < 0 ? "" : "+"}${change.toFixed(1)} %` : "·");
  } else if (grid.compared) add(`against ${grid.compared}`, "nothing there");
  add(`over ${latency(grid.slo)}`, `${grouped(c.over)} (${(c.over / c.n * 100).toFixed(2)} %)`);
  if (c.late) add("late", grouped(c.late));
  add("state", STATES[c.state]);
  parts.push(bars(c), list);
  if (c.stages.length) {
    const bar = el("div", { class: "stack", "aria-hidden": "true" });
    c.stages.forEach(([stage, percent], i) => {
      const part = el("i", { class: "s" + i % 4 });
      part.style.width = percent + "%";
      bar.append(part);
    });
    const names = el("ul", { class: "stages" });
    c.stages.forEach(([stage, percent], i) => names.append(
      el("li", {}, el("i", { class: "s" + i % 4, "aria-hidden": "true" }), `${grid.stages[stage]} ${percent} %`)));
    parts.push(el("h3", {}, `Where the mean of ${latency(c.mean)} goes`), bar, names);
  }
  if (c.traces.length) {
    const traces = el("ol", { class: "traces" });
    for (const [ns, id] of c.traces) {
      const name = grid.traceURL
        ? el("a", { href: grid.traceURL.replace("{trace_id}", id), target: "_blank", rel: "noopener noreferrer" }, id)
        : el("code", {}, id);
      traces.append(el("li", {}, name, ` ${latency(ns)}`));
    }
    parts.push(el("h3", {}, "Slowest traces"), traces);
  }
  if (grid.scale < 6) {
    parts.push(el("p", { class: "note" },
      `Figures other than the report's ${quantileName(grid.quantile)}: error ≤ ${(errorOf(grid.scale) * 100).toFixed(1)} %.`));
  }
  return parts;
}

/// The distribution, a bar for each bucket, coloured by its level.
function bars(c) {
  const shift = 3, counts = new Map();
  c.index.forEach((index, i) => {
    const at = Math.floor(index / 2 ** Math.max(0, grid.scale - shift));
    counts.set(at, (counts.get(at) || 0) + c.count[i]);
  });
  const scale = Math.min(grid.scale, shift), keys = [...counts.keys()];
  if (!keys.length) return null;
  const low = Math.min(...keys), high = Math.max(...keys), most = Math.max(...counts.values());
  const box = el("div", { class: "bars", role: "img", "aria-label":
    `Distribution from ${latency(middle(low, scale))} to ${latency(middle(high, scale))}` });
  for (let at = low; at <= high; at++) {
    const bar = el("i", { class: LETTERS[level(middle(at, scale))].toLowerCase() });
    bar.style.height = Math.ceil((counts.get(at) || 0) / most * 100) + "%";
    box.append(bar);
  }
  return el("div", {}, box, el("p", { class: "axis" }, el("span", {}, latency(middle(low, scale))),
    el("span", {}, latency(middle(high, scale)))));
}

function close(hasFocus) {
  const old = selected;
  $("panel").hidden = true;
  selected = null;
  mark();
  if (hasFocus && old && !isFine()) tableCell(old.row, old.column)?.focus();
  if (hasFocus && isFine()) $("canvas").focus();
}

const tableCell = (row, column) => $("table").tBodies[0].rows[row]?.cells[column + 1];
function mark() {
  for (const old of $("table").querySelectorAll("[aria-selected]")) old.removeAttribute("aria-selected");
  if (!isFine() && selected) tableCell(selected.row, selected.column)?.setAttribute("aria-selected", "true");
  if (isFine()) paintFine();
}

// MARK: Keys and pointers on the table

function rove(cell) {
  for (const old of $("table").querySelectorAll("td[tabindex]")) old.removeAttribute("tabindex");
  cell?.setAttribute("tabindex", "0");
}
const position = target => {
  const cell = target.closest?.("td");
  if (!cell || cell.cellIndex > columns.length + 1) return null;
  return { row: cell.parentNode.sectionRowIndex, column: cell.cellIndex - 1, cell };
};
function moved(key, at, lastRow, lastColumn) {
  const steps = {
    ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -Infinity],
    End: [0, Infinity], PageUp: [-10, 0], PageDown: [10, 0],
  }[key];
  if (!steps) return null;
  const within = (value, last) => Math.min(Math.max(value, 0), last);
  return { row: within(at.row + steps[0], lastRow), column: within(at.column + steps[1], lastColumn) };
}
function listenToTable() {
  const table = $("table");
  table.setAttribute("role", "grid");
  table.addEventListener("click", event => {
    const at = position(event.target);
    if (!at) return;
    rove(at.cell);
    show(at.row, at.column);
  });
  table.addEventListener("keydown", event => {
    const at = position(event.target);
    if (!at) return;
    if (event.key === "Enter" || event.key === " ") {
      show(at.row, at.column);
      $("panel").focus();
    } else {
      const next = moved(event.key, at, rows.length - 1, columns.length);
      if (!next) return;
      const cell = tableCell(next.row, next.column);
      rove(cell);
      cell.focus();
      if (!$("panel").hidden) show(next.row, next.column);
    }
    event.preventDefault();
  });
  table.addEventListener("mouseover", event => {
    const at = position(event.target), cell = at && cellAt(rows[at.row], at.column);
    if (!cell) return tip(null);
    const box = at.cell.getBoundingClientRect();
    tip(brief(cell, at), box.left + box.width / 2, box.bottom);
  });
  table.addEventListener("mouseleave", () => tip(null));
  $("scroll").addEventListener("scroll", () => tip(null));
}
const brief = (cell, at) => `${rows[at.row].group}, ${columnName(at.column)}\n${quantileName(view.quantile)} `
  + `${cell.n < NONE ? "--" : latency(cell.q)}, n=${grouped(cell.n)}`
  + (cell.verdict ? `, ${VERDICTS[cell.verdict]}` : "")
  + (cell.index ? `\nP50 ${latency(quantile(cell, 0.5))}, P99 ${latency(quantile(cell, 0.99))}, max ${latency(cell.max)}` : "");
function tip(words, x, y) {
  const box = $("tip");
  box.hidden = !words;
  if (!words) return;
  box.textContent = words;
  box.style.left = Math.max(4, Math.min(x - box.offsetWidth / 2, innerWidth - box.offsetWidth - 4)) + "px";
  box.style.top = (y + box.offsetHeight + 12 > innerHeight ? y - box.offsetHeight - 40 : y + 6) + "px";
}

// MARK: Every window, on a canvas

const HEAD = 24, ROW = 20;
let colours = {}, geometry = null, cursor = { row: 0, column: 0 };
function readColours() {
  const style = getComputedStyle(document.documentElement);
  colours = {};
  for (const name of ["ink", "soft", "page", "line", "g", "y", "o", "r", "gi", "yi", "oi", "ri", "few"]) {
    colours[name] = style.getPropertyValue("--" + name).trim();
  }
}

const TICKS = [60, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
const KINDS = ["none", "few", "g", "y", "o", "r"];
function slowest(row, from, to) {
  let most = 0;
  for (let c = Math.floor(from); c < Math.min(Math.ceil(to), columns.length); c++) {
    most = Math.max(most, KINDS.indexOf(kind(cellAt(row, c))));
  }
  return KINDS[most];
}

/// Draws rows and columns from an offset on, with what can fill a rectangle and write a text.
function paint(to, g) {
  const { width, height, labels, step, left, top } = g;
  to.rect(0, 0, width, height, colours.page);
  const firstRow = Math.floor(top / ROW), lastRow = Math.min(rows.length, Math.ceil((top + height - HEAD) / ROW));
  // Of windows narrower than a pixel, the slowest gives it its colour.
  const pixel = Math.max(step, g.pixel ?? 1), perPixel = pixel / step;
  const firstColumn = Math.floor(left / pixel);
  const lastColumn = Math.min(Math.ceil(columns.length / perPixel), Math.ceil((left + width - labels) / pixel));
  const gap = step > 6 ? 1 : 0;
  for (let r = firstRow; r < lastRow; r++) {
    const y = HEAD + r * ROW - top;
    let run = null;
    for (let c = firstColumn; c <= lastColumn; c++) {
      const cell = c < lastColumn && perPixel === 1 ? cellAt(rows[r], c) : null;
      const fill = c >= lastColumn ? "" : perPixel === 1 ? kind(cell) : slowest(rows[r], c * perPixel, (c + 1) * perPixel);
      if (run && (gap || fill !== run.fill)) {
        if (run.fill !== "none") {
          to.rect(labels + run.from * pixel - left, y + 1, (c - run.from) * pixel - gap, ROW - 2, colours[run.fill]);
        }
        run = null;
      }
      run ??= { from: c, fill };
    }
    // Upon what is painted.
    for (let c = firstColumn; step >= 44 && c < lastColumn; c++) {
      const cell = cellAt(rows[r], c);
      to.text(labels + (c + 1) * step - left - 6, y + 14, text(cell), colours[kind(cell) + "i"] || colours.soft, "end");
    }
  }
  to.rect(0, HEAD, labels, height, colours.page);
  for (let r = firstRow; r < lastRow; r++) {
    to.text(4, HEAD + r * ROW - top + 14, rows[r].group, colours.ink, "start", labels - 10);
  }
  to.rect(0, 0, width, HEAD, colours.page);
  let free = labels;
  const end = Math.min(columns.length, Math.ceil((left + width - labels) / step));
  const tick = TICKS.find(length => length / view.length * step >= 64) ?? 604800;
  for (let c = Math.floor(left / step); c < end; c++) {
    const x = labels + c * step - left, start = columns[c].start;
    if (x < free || (step < 44 && (start + offset(start)) % tick)) continue;
    to.text(x, 15, time(start, step >= 44 ? view.length : 60), colours.soft, "start");
    to.rect(x, HEAD - 5, 1, 4, colours.line);
    free = x + 56;
  }
  to.rect(0, HEAD - 1, width, 1, colours.line);
}

function canvasPainter(context) {
  context.textBaseline = "alphabetic";
  context.font = "12px system-ui, sans-serif";
  return {
    rect(x, y, w, h, fill) {
      context.fillStyle = fill;
      context.fillRect(x, y, w, h);
    },
    text(x, y, words, fill, anchor, room) {
      context.fillStyle = fill;
      context.textAlign = anchor;
      context.fillText(room ? shortened(context, words, room) : words, x, y);
    },
  };
}
function shortened(context, words, room) {
  if (context.measureText(words).width <= room) return words;
  const letters = [...words];
  while (letters.length && context.measureText(letters.join("") + "…").width > room) letters.pop();
  return letters.join("") + "…";
}

function drawFine() {
  const box = $("fine"), labels = innerWidth < 640 ? 110 : 180;
  const room = box.clientWidth - labels;
  const step = view.zoom === "fit" ? Math.max(0.5, room / columns.length) : +view.zoom;
  geometry = { labels, step, pixel: 1 / (devicePixelRatio || 1) };
  $("finenote").textContent = `${caption()}. A window is ${span(grid.fine.length)}; click one for its distribution.`
    + (step < geometry.pixel ? " A pixel has the colour of its slowest window." : "");
  const sizer = $("sizer");
  sizer.style.width = labels + columns.length * step + "px";
  sizer.style.height = HEAD + rows.length * ROW + "px";
  paintFine();
}
function paintFine() {
  const box = $("fine"), canvas = $("canvas"), ratio = devicePixelRatio || 1;
  const width = box.clientWidth, height = Math.min(box.clientHeight, HEAD + rows.length * ROW);
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  paint(canvasPainter(context), { ...geometry, width, height, left: box.scrollLeft, top: box.scrollTop });
  const at = selected || (document.activeElement === canvas ? cursor : null);
  if (!at || at.column >= columns.length) return;
  context.strokeStyle = colours.ink;
  context.lineWidth = 2;
  context.strokeRect(geometry.labels + at.column * geometry.step - box.scrollLeft - 1,
    HEAD + at.row * ROW - box.scrollTop, geometry.step + 2, ROW);
}
function listenToCanvas() {
  const box = $("fine"), canvas = $("canvas");
  const hit = event => {
    const r = canvas.getBoundingClientRect();
    const x = event.clientX - r.left, y = event.clientY - r.top;
    const column = Math.floor((x - geometry.labels + box.scrollLeft) / geometry.step);
    const row = Math.floor((y - HEAD + box.scrollTop) / ROW);
    return x >= geometry.labels && y >= HEAD && row < rows.length && column < columns.length ? { row, column } : null;
  };
  box.addEventListener("scroll", () => { tip(null); paintFine(); });
  canvas.addEventListener("mousemove", event => {
    const at = hit(event), cell = at && cellAt(rows[at.row], at.column);
    tip(cell && brief(cell, at), event.clientX, event.clientY + 12);
  });
  canvas.addEventListener("mouseleave", () => tip(null));
  canvas.addEventListener("focus", paintFine);
  canvas.addEventListener("blur", paintFine);
  canvas.addEventListener("click", event => {
    const at = hit(event);
    if (!at) return;
    cursor = at;
    show(at.row, at.column);
  });
  canvas.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") {
      show(cursor.row, cursor.column);
      $("panel").focus();
    } else {
      const next = moved(event.key, cursor, rows.length - 1, columns.length - 1);
      if (!next) return;
      cursor = next;
      const x = next.column * geometry.step, y = next.row * ROW, room = box.clientWidth - geometry.labels;
      if (x < box.scrollLeft || x + geometry.step > box.scrollLeft + room) box.scrollLeft = x - room / 2;
      if (y < box.scrollTop || y + ROW > box.scrollTop + box.clientHeight - HEAD) box.scrollTop = y - box.clientHeight / 2;
      const cell = cellAt(rows[next.row], next.column);
      $("said").textContent = `${rows[next.row].group}, ${columnName(next.column)}, `
        + (cell ? `${cell.n < NONE ? "too few" : latency(cell.q) + " " + LETTERS[cell.level]}, n ${cell.n}` : "nothing");
      if (!$("panel").hidden) show(next.row, next.column); else paintFine();
    }
    event.preventDefault();
  });
  new ResizeObserver(() => { if (isFine()) drawFine(); }).observe(box);
}

// MARK: Exports

function save(name, type, content) {
  const link = el("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
const exported = () => {
  const step = isFine() ? Math.max(2, Math.min(8, 2400 / columns.length)) : 62, labels = 200;
  const width = Math.max(560, labels + columns.length * step + 8);
  return { labels, step, left: 0, top: 0, width, height: TITLE + HEAD + rows.length * ROW + KEY };
};
const TITLE = 48, KEY = 34;
/// The grid with its title above and what its colours mean below: it is looked at without the page.
function picture(to, g) {
  to.rect(0, 0, g.width, g.height, colours.page);
  const below = { rect: (x, y, ...rest) => to.rect(x, y + TITLE, ...rest), text: (x, y, ...rest) => to.text(x, y + TITLE, ...rest) };
  paint(below, { ...g, height: g.height - TITLE - KEY });
  const last = columns[columns.length - 1], room = g.width - 8;
  to.text(4, 18, document.title.replace(/^\S+/, quantileName(view.quantile)), colours.ink, "start", room);
  to.text(4, 38, `${caption()} · ${date(columns[0].start)} ${time(columns[0].start, 1)} to ${date(last.end)} `
    + `${time(last.end, 1)} ${view.zone}, windows of ${span(view.length)}`, colours.soft, "start", room);
  let x = 4;
  for (const entry of document.querySelectorAll(".legend li")) {
    const words = entry.textContent, fill = colours[entry.className], width = words.length * 8 + 14;
    if (x + width > g.width) break;
    if (fill) to.rect(x, g.height - KEY + 8, width, ROW, fill);
    to.text(x + 6, g.height - KEY + 22, words, colours[entry.className + "i"] || colours.soft, "start");
    x += width + 4;
  }
}
const escaped = words => words.replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
const EXPORTS = {
  PNG() {
    const g = exported(), canvas = el("canvas"), scale = Math.min(2, 16000 / g.width, 16000 / g.height);
    canvas.width = g.width * scale;
    canvas.height = g.height * scale;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    picture(canvasPainter(context), g);
    canvas.toBlob(blob => save("heatmap.png", "image/png", blob));
  },
  SVG() {
    const g = exported(), parts = [];
    const context = el("canvas").getContext("2d");
    context.font = "12px system-ui, sans-serif";
    picture({
      rect: (x, y, w, h, fill) => parts.push(`<rect x="${+x.toFixed(2)}" y="${y}" width="${+w.toFixed(2)}" height="${h}" fill="${fill}"/>`),
      text: (x, y, words, fill, anchor, room) => parts.push(`<text x="${+x.toFixed(2)}" y="${y}" fill="${fill}" `
        + `text-anchor="${anchor}">${escaped(room ? shortened(context, words, room) : words)}</text>`),
    }, g);
    save("heatmap.svg", "image/svg+xml", `<svg xmlns="http://www.w3.org/2000/svg" width="${g.width}" height="${g.height}" `
      + `font-family="system-ui, sans-serif" font-size="12">${parts.join("")}</svg>`);
  },
  CSV() {
    const field = words => {
      const safe = /^[=+\-@\t\r\n＝＋－＠]/.test(words) ? "'" + words : words;
      return safe !== words || /[",\r\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
    };
    const exact = ns => (Math.round(ns / 1000) / 1000).toFixed(3);
    const lines = ["window_start,window_end,device_group,stage,count,quantile,value_ms,level,state"
      + (grid.compared ? ",baseline_ms,verdict" : "")];
    for (const row of rows) {
      columns.forEach((column, c) => {
        const cell = cellAt(row, c), q = view.quantile;
        lines.push([rfc3339(column.start), rfc3339(column.end), field(row.group), field(grid.stage), cell ? cell.n : 0, q,
          cell && (!isFine() || cell.n >= NONE) ? exact(cell.q) : "",
          cell && cell.n >= NONE ? ["green", "yellow", "orange", "red"][cell.level] : "",
          cell ? STATES[cell.state] : "empty",
          ...(grid.compared ? [cell?.old ? exact(cell.old.q) : "", ["", "slower", "faster"][cell?.verdict || 0]] : [])].join(","));
      });
    }
    save("heatmap.csv", "text/csv", lines.join("\r\n") + "\r\n");
  },
};

// MARK: Controls

function choice(name, options, value, onChange) {
  const select = el("select", {});
  for (const [key, words] of options) select.append(el("option", { value: key }, words));
  select.value = value;
  select.addEventListener("change", () => onChange(select.value));
  return el("label", {}, name, select);
}
let tableLengths = [];
function controls() {
  const quantiles = [...new Set([...QUANTILES, grid.quantile])].sort((a, b) => a - b);
  const range = grid.edges[grid.edges.length - 1] - grid.edges[0];
  const lengths = [60, 300, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 604800]
    .filter(length => length > grid.length && length % grid.length === 0 && length < range);
  tableLengths = [grid.length, ...lengths];
  const windows = [...(grid.fine ? [grid.fine.length] : []), ...tableLengths];
  const local = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const set = (key, read = x => x) => value => { view[key] = read(value); controls(); draw(); };
  const filter = el("input", { type: "search", placeholder: "all", size: 12 });
  filter.value = view.filter;
  filter.addEventListener("input", () => { view.filter = filter.value; draw(); });
  const list = [
    isFine() ? null : choice("Quantile ", quantiles.map(q => [q, quantileName(q)]), view.quantile, set("quantile", Number)),
    choice("Window ", windows.map(length => [length, span(length)]), view.length, set("length", Number)),
    isFine() ? choice("Column ", [["fit", "fit"], [8, "8 px"], [16, "16 px"], [52, "numbers"]], view.zoom, set("zoom")) : null,
    choice("Zone ", [...new Set([grid.tz, "UTC", local])].map(zone => [zone, zone]), view.zone, set("zone")),
    choice("Order ", [["name", "as reported"], ["slowest", "slowest first"], ["count", "most first"]], view.sort, set("sort")),
    el("label", {}, "Group ", filter),
    el("span", { class: "exports" }, ...Object.keys(EXPORTS).map(name => {
      const button = el("button", { type: "button" }, name);
      button.addEventListener("click", EXPORTS[name]);
      return button;
    })),
  ];
  const focused = [...$("tools").querySelectorAll("select,input,button")].indexOf(document.activeElement);
  $("tools").replaceChildren(...list.filter(Boolean), el("span", { id: "shown", class: "soft", role: "status" }));
  if (focused >= 0) $("tools").querySelectorAll("select,input,button")[focused]?.focus();
  $("tools").hidden = !grid.rows.length;
}

// MARK: Paper

/// As many columns as a page has room for, and all figures.
const printed = { length: null, closed: [] };
addEventListener("beforeprint", () => {
  if (!grid?.rows.length || printed.length) return;
  printed.length = view.length;
  const range = grid.edges[grid.edges.length - 1] - grid.edges[0];
  view.length = tableLengths.find(length => (isFine() || length >= view.length) && range / length <= 20)
    ?? tableLengths[tableLengths.length - 1];
  printed.closed = [...document.querySelectorAll("details:not([open])")];
  for (const details of printed.closed) details.open = true;
  draw(true);
});
addEventListener("afterprint", () => {
  if (!printed.length) return;
  view.length = printed.length;
  printed.length = null;
  for (const details of printed.closed) details.open = false;
  draw(true);
});

// MARK: Beginning, and what comes later

function knownZone(zone) {
  try { useZone(zone); return zone; } catch { return "UTC"; }
}
/// Where a cell is, by its group and its window, which may move.
const placeOf = at => at && rows[at.row] && { group: rows[at.row].group, start: columns[at.column]?.start };
function atPlace(place) {
  const row = place ? rows.findIndex(r => r.group === place.group) : -1;
  const column = place?.start === undefined ? columns.length : columns.findIndex(c => c.start === place.start);
  return row < 0 || column < 0 ? null : { row, column };
}

let offered = "";
function begin(header, body) {
  const active = document.activeElement, panel = $("panel");
  const cell = $("table").contains(active) ? position(active) : null;
  const places = view && [selected, cell, cursor].map(placeOf);
  const inPanel = panel.contains(active) ? [...panel.querySelectorAll("a,button")].indexOf(active) : null;
  const scrolled = panel.scrollTop;
  grid = load(header, body);
  const isSame = view !== null;
  view ??= { quantile: grid.quantile, filter: "", sort: "name", zoom: "fit", zone: knownZone(grid.tz) };
  if (!isSame || (view.length !== grid.length && view.length !== grid.fine?.length
    && (view.length < grid.length || view.length % grid.length))) {
    view.length = grid.fine ? grid.fine.length : grid.length;
  }
  // What somebody is choosing from stays, unless there is something else to choose.
  const choices = JSON.stringify([grid.quantile, grid.length, grid.fine?.length, grid.tz, grid.edges.length]);
  if (choices !== offered) controls();
  offered = choices;
  draw(true);
  const left = [grid.isCoarser ? `quantiles other than ${quantileName(grid.quantile)} are within `
    + `${(errorOf(grid.scale) * 100).toFixed(1)} %` : "", grid.hasMoreTraces ? grid.traces ? "cells have one trace each"
    : "cells have no traces" : ""].filter(Boolean);
  $("kept").textContent = left.length ? `To keep this page small, ${left.join(", and ")}; the JSON has all.` : "";
  $("kept").hidden = !left.length;
  if (!isSame) return;
  const [open, focused, walked] = places.map(atPlace);
  if (open) show(open.row, open.column); else close();
  panel.scrollTop = scrolled;
  if (inPanel !== null) (panel.querySelectorAll("a,button")[inPanel] ?? panel).focus({ preventScroll: true });
  if (focused && !isFine()) {
    const cell = tableCell(focused.row, focused.column);
    rove(cell);
    cell.focus({ preventScroll: true });
  }
  if (walked) cursor = walked;
}

function follow(address) {
  const status = $("live"), source = new EventSource(address);
  const clock = el("span", { "aria-hidden": "true" });
  // Said once, not every two seconds.
  const say = words => {
    if (status.firstChild?.textContent !== words) status.replaceChildren(words, clock);
  };
  source.addEventListener("grid", event => {
    const news = JSON.parse(event.data);
    $("line").textContent = news.line;
    $("headline").textContent = news.headline;
    $("none").hidden = news.header.groups.length > 0;
    begin(news.header, news.body);
    say("live");
    clock.textContent = `, ${new Date().toLocaleTimeString()}`;
  });
  source.onerror = () => {
    say("live updates are interrupted");
    if (source.readyState !== EventSource.CLOSED) return;
    // An answer other than the stream has ended it: not now, but perhaps soon.
    source.close();
    setTimeout(() => follow(address), 10000 + Math.random() * 10000);
  };
  say("live");
}

readColours();
if (data.dataset.body) {
  begin(JSON.parse(data.textContent), data.dataset.body);
  listenToTable();
  listenToCanvas();
  document.addEventListener("keydown", event => { if (event.key === "Escape" && !$("panel").hidden) close(true); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); if (isFine()) paintFine(); });
}
// A page that was saved has no server behind it.
if (data.dataset.live && location.protocol.startsWith("http")) follow(data.dataset.live);
document.documentElement.dataset.drawn = Math.round(performance.now());
})();
