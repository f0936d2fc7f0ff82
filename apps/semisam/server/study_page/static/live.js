// What the server tells of its own accord: the work, as server-sent events. One connection, for all parts of the page.
import { address, get } from './api.js';

const heard = new Set();
let source = null;
let last = null;
let asking = 0;

/** Call a function with each state, and with the last one at once; returns what ends it. */
export function listen(call) {
  heard.add(call);
  if (last) {
    call(last);
  }
  return () => heard.delete(call);
}

function offline(text = '') {
  const banner = document.getElementById('offline');
  banner.hidden = !text;
  if (banner.textContent !== text) {
    banner.textContent = text;
  }
}

function take(state) {
  offline(state.error || state.notice);
  if (state.jobs) {
    last = state;
    chip(state);
    heard.forEach(call => call(state));
  }
}

function chip(state) {
  const link = document.getElementById('job');
  const running = Object.values(state.jobs).filter(job => job.id);
  link.hidden = running.length === 0;
  link.textContent = running.map(job => job.words).join('; ');
}

async function lost() {
  const mine = ++asking;
  try {
    offline((await get('work')).notice);
  } catch (error) {
    if (mine === asking && !document.hidden) {
      offline(error.message);
    }
  }
  if (source?.readyState === EventSource.CLOSED) {
    stop();
    setTimeout(start, 3000);
  }
}

function start() {
  if (source || document.hidden) {
    return;
  }
  source = new EventSource(address('events'));
  source.addEventListener('state', event => take(JSON.parse(event.data)));
  source.addEventListener('error', lost);
}

function stop() {
  source?.close();
  source = null;
}

/** Begin; a page that nobody looks at does not listen: browsers allow few connections. */
export function begin() {
  document.addEventListener('visibilitychange', () => (document.hidden ? stop() : start()));
  window.addEventListener('pagehide', stop);
  window.addEventListener('pageshow', start);
  start();
}
