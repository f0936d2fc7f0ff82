// The planes of a scan: slices are fetched, kept for a while, and drawn with what lies over them.
import { bytes } from './api.js';
import { make } from './dom.js';

const KEPT = 900;
const AHEAD = 6;

/** The slices of one scan, as far as they were fetched. */
export class Slices {
  constructor(scan) {
    this.scan = scan;
    this.kept = new Map();
    this.end = new AbortController();
  }

  close() {
    this.end.abort();
    this.kept.clear();
  }

  /** A slice, or undefined while it is on its way; `then` is called when it has come. */
  get(plane, index, layer, then) {
    const { count } = this.scan.planes[plane];
    if (index < 0 || index >= count || !this.scan.layers[layer]) {
      return undefined;
    }
    const name = `${plane} ${index} ${layer} ${this.scan.layers[layer]}`;
    const known = this.kept.get(name);
    if (known) {
      this.kept.delete(name);
      this.kept.set(name, known); // the last one used is the last one to go
      if (known.values === undefined && then) {
        known.then.add(then);
      }
      return known.values;
    }
    const entry = { values: undefined, then: new Set(then ? [then] : []) };
    this.kept.set(name, entry);
    if (this.kept.size > KEPT) {
      this.kept.delete(this.kept.keys().next().value);
    }
    const query = { image: this.scan.name, plane, index, layer, key: this.scan.layers[layer] };
    bytes('slice', query, this.end.signal).then(
      buffer => {
        entry.values = layer === 'scan' ? new Int16Array(buffer) : new Uint8Array(buffer);
        entry.then.forEach(call => call(null));
      },
      error => {
        this.kept.delete(name);
        if (error.name !== 'AbortError') {
          entry.then.forEach(call => call(error));
        }
      }
    );
    return undefined;
  }
}

/** A plane on the page: a canvas, which the wheel and keys scroll, and a slider. */
export class Plane {
  /**
   * @param name axial, coronal or sagittal
   * @param view what is common to all planes: scan, slices, index by plane, window, layers, structures that are hidden
   * @param changed called when the reader has changed something of the view
   */
  constructor(name, view, changed) {
    this.name = name;
    this.view = view;
    this.changed = changed;
    const { count, size, pixel } = view.scan.planes[name];
    [this.rows, this.columns] = size;
    this.ratio = (this.columns * pixel[1]) / (this.rows * pixel[0]);
    this.canvas = make('canvas', { tabindex: 0, role: 'img', 'aria-label': `${name} plane: arrow keys go through the slices` });
    this.slider = make('input', { type: 'range', min: 1, max: count, step: 1, value: view.index[name] + 1, 'aria-label': `${name} slice` });
    this.words = make('span', { class: 'small' });
    this.element = make('figure', { class: 'plane' }, this.canvas, make('figcaption', {}, this.words, count > 1 ? this.slider : null));
    this.slider.addEventListener('input', () => this.go(Number(this.slider.value) - 1));
    this.canvas.addEventListener('wheel', event => this.wheel(event), { passive: false });
    this.canvas.addEventListener('pointerdown', event => this.press(event));
    this.canvas.addEventListener('keydown', event => this.key(event));
    this.rest = 0;
    this.direction = 1;
    this.picture = document.createElement('canvas');
    this.picture.width = this.columns;
    this.picture.height = this.rows;
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.element);
  }

  close() {
    this.watch.disconnect();
  }

  get index() {
    return this.view.index[this.name];
  }

  go(index) {
    const last = this.view.scan.planes[this.name].count - 1;
    const wanted = Math.max(0, Math.min(last, index));
    if (wanted !== this.index) {
      this.direction = Math.sign(wanted - this.index);
      this.view.index[this.name] = wanted;
      this.changed();
    }
  }

  wheel(event) {
    event.preventDefault();
    this.rest += event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY;
    const steps = Math.trunc(this.rest);
    if (steps) {
      this.rest -= steps;
      this.go(this.index - steps);
    }
  }

  key(event) {
    const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (steps) {
      event.preventDefault();
      this.go(this.index + steps);
    }
  }

  /** A click chooses the slices of the other planes; dragging changes window (across) and level (up and down). */
  press(event) {
    const start = [event.clientX, event.clientY];
    const { window: before, level } = this.view;
    const span = this.view.scan.span[1] - this.view.scan.span[0];
    let dragged = false;
    this.canvas.setPointerCapture(event.pointerId);
    const move = next => {
      const [x, y] = [next.clientX - start[0], next.clientY - start[1]];
      dragged ||= Math.hypot(x, y) > 5;
      if (dragged) {
        this.view.window = Math.max(span / 1000, before * Math.exp(x / 200));
        this.view.level = level - (y / 400) * before;
        this.changed();
      }
    };
    const end = last => {
      this.canvas.removeEventListener('pointermove', move);
      this.canvas.removeEventListener('pointerup', end);
      this.canvas.removeEventListener('pointercancel', end);
      if (!dragged && last.type === 'pointerup') {
        this.point(last);
      }
    };
    this.canvas.addEventListener('pointermove', move);
    this.canvas.addEventListener('pointerup', end);
    this.canvas.addEventListener('pointercancel', end);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width;
    const down = (event.clientY - box.top) / box.height;
    const [x, y] = { axial: ['sagittal', 'coronal'], coronal: ['sagittal', 'axial'], sagittal: ['coronal', 'axial'] }[this.name];
    for (const [plane, share] of [[x, across], [y, down]]) {
      const known = this.view.scan.planes[plane];
      if (known) {
        this.view.index[plane] = Math.max(0, Math.min(known.count - 1, Math.floor((1 - share) * known.count)));
      }
    }
    this.changed();
  }

  /** Draw what has come; what is on its way is drawn when it is there. */
  draw() {
    const { view, name } = this;
    const { count } = view.scan.planes[name];
    const width = this.element.clientWidth;
    if (!width) {
      return;
    }
    const tall = Math.min(width / this.ratio, Math.max(260, window.innerHeight * 0.62));
    const shownWidth = Math.min(width, tall * this.ratio);
    const scale = Math.min(2, window.devicePixelRatio || 1);
    this.canvas.style.width = `${shownWidth}px`;
    this.canvas.style.height = `${shownWidth / this.ratio}px`;
    this.canvas.width = Math.round(shownWidth * scale);
    this.canvas.height = Math.max(1, Math.round((shownWidth / this.ratio) * scale));
    this.slider.value = this.index + 1;
    this.slider.setAttribute('aria-valuetext', `slice ${this.index + 1} of ${count}`);
    this.words.textContent = count > 1 ? `${name} ${this.index + 1} of ${count}` : name;
    const again = error => (error ? view.failed(error) : this.draw());
    const values = view.slices.get(name, this.index, 'scan', again);
    const context = this.canvas.getContext('2d', { willReadFrequently: true });
    const there = values ? ['scan'] : []; // what has yet to be made is not asked for many times
    if (values) {
      this.grey(values);
      context.imageSmoothingEnabled = true;
      context.drawImage(this.picture, 0, 0, this.canvas.width, this.canvas.height);
      for (const [layer, how] of Object.entries(view.layers)) {
        if (how !== 'off') {
          const over = view.slices.get(name, this.index, layer, again);
          if (over) {
            there.push(layer);
            this.over(context, over, layer, how);
          }
        }
      }
    }
    for (let step = 1; step <= AHEAD; step += 1) {
      for (const layer of there) {
        view.slices.get(name, this.index + step * this.direction, layer);
      }
    }
  }

  grey(values) {
    const { scan, window: width, level } = this.view;
    const image = new ImageData(this.columns, this.rows);
    const factor = (255 / width) * scan.slope;
    const add = (255 / width) * (scan.intercept - level + width / 2);
    const { data } = image; // clamped to 0..255
    for (let at = 0, to = 0; at < values.length; at += 1, to += 4) {
      data[to] = data[to + 1] = data[to + 2] = values[at] * factor + add;
      data[to + 3] = 255;
    }
    this.picture.getContext('2d').putImageData(image, 0, 0);
  }

  /** A layer over the slice, pixel by pixel of the screen, so that contours are thin. */
  over(context, values, layer, how) {
    const { width, height } = this.canvas;
    const image = context.getImageData(0, 0, width, height);
    const { data } = image;
    const { colours, hidden } = this.view;
    const column = Int32Array.from({ length: width }, (_, x) => Math.min(this.columns - 1, Math.floor(((x + 0.5) * this.columns) / width)));
    const heat = layer === 'uncertainty';
    const dashed = layer === 'prediction';
    let above = null;
    for (let y = 0; y < height; y += 1) {
      const start = Math.min(this.rows - 1, Math.floor(((y + 0.5) * this.rows) / height)) * this.columns;
      const line = new Uint8Array(width);
      for (let x = 0; x < width; x += 1) {
        const value = values[start + column[x]];
        line[x] = heat || !hidden.has(value) ? value : 0;
        const to = (y * width + x) * 4;
        if (heat) {
          const much = value / 255;
          data[to] = data[to] * (1 - much) + 255 * much;
          data[to + 1] = data[to + 1] * (1 - much) + 90 * much * much;
          data[to + 2] *= 1 - much;
          continue;
        }
        if (how === 'fill' && line[x]) {
          mix(data, to, colours[line[x]], 0.4);
        }
        const edge = (x > 0 && line[x] !== line[x - 1]) || (above !== null && line[x] !== above[x]);
        if (edge && !(dashed && ((x + y) >> 2) % 2)) {
          mix(data, to, colours[line[x] || (x > 0 && line[x - 1]) || above?.[x]], 1);
        }
      }
      above = line;
    }
    context.putImageData(image, 0, 0);
  }
}

function mix(data, to, colour, share) {
  if (colour) {
    data[to] = data[to] * (1 - share) + colour[0] * share;
    data[to + 1] = data[to + 1] * (1 - share) + colour[1] * share;
    data[to + 2] = data[to + 2] * (1 - share) + colour[2] * share;
  }
}
