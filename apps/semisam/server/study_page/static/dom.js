// Elements of the page. Text from outside gets in as text only: there is no HTML in it that could run.

/** An element: `make('p', {class: 'quiet', onclick: f}, 'text', child)`. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) {
      element.addEventListener(name.slice(2), value);
    } else if (value === true || value === false) {
      element.toggleAttribute(name, value);
    } else if (value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

/** A coloured dot; the colour is one of the server's own. */
export function dot(colour) {
  const element = make('span', { class: 'dot', 'aria-hidden': 'true' });
  element.style.background = colour;
  return element;
}

/** A time in seconds since 1970 as people say it: "3 minutes ago". */
export function ago(seconds) {
  if (!seconds) {
    return '';
  }
  const past = Math.max(0, Date.now() / 1000 - seconds);
  const steps = [['day', 86400], ['hour', 3600], ['minute', 60]];
  for (const [unit, length] of steps) {
    if (past >= length) {
      const count = Math.floor(past / length);
      return `${count} ${unit}${count === 1 ? '' : 's'} ago`;
    }
  }
  return 'just now';
}

/** The time itself, for whoever points at it. */
export function moment(seconds) {
  const text = seconds ? new Date(seconds * 1000).toLocaleString() : '';
  return make('time', { title: text, datetime: seconds ? new Date(seconds * 1000).toISOString() : null }, ago(seconds));
}

/** A notice at the edge of the page; one about a failure stays until it is closed. */
export function notify(text, { bad = false, action = null } = {}) {
  const box = make('div', { class: bad ? 'bad' : '', role: bad ? 'alert' : null }, make('p', {}, text));
  const close = () => box.remove();
  if (action) {
    box.append(make('button', { type: 'button', onclick: () => { close(); action.run(); } }, action.text), ' ');
  }
  box.append(make('button', { type: 'button', class: 'plain', onclick: close }, 'Close'));
  const list = document.getElementById('notices');
  list.append(box);
  for (const old of [...list.children].slice(0, -1)) {
    if (!old.classList.contains('bad') || list.children.length > 3) {
      old.remove(); // the last one counts; failures are read first
    }
  }
  if (!bad) {
    setTimeout(close, action ? 15000 : 6000);
  }
}

/** A volume in ml with three digits. */
export function millilitres(value) {
  return value === 0 ? '0 ml' : `${value >= 100 ? Math.round(value) : Number(value.toPrecision(3))} ml`;
}
