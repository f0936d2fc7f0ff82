// What the server tells of its own accord: the work, as server-sent events. One connection, for all parts of the page.
import { address, get } from './api.js';
import { clock } from './dom.js';

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

/** In words: "Training, round 1 of 2, 43 %, about 2:05 left". */
export function inWords(job, training, kind) {
  const parts = [job.name];
  if (job.status === 'SUBMITTED' || (kind === 'train' && !training.stage)) {
    parts.push('is being started');
  }
  if (kind === 'train' && training.rounds && job.status === 'RUNNING') {
    parts.push(`round ${training.round} of ${training.rounds}`, training.stage);
  }
  if (job.progress !== null && job.progress !== undefined) {
    parts.push(`${Math.floor(job.progress * 100)} %`);
  }
  if (job.seconds_left) {
    parts.push(`about ${clock(job.seconds_left)} left`);
  }
  return parts.filter(Boolean).join(', ');
}

function chip(state) {
  const link = document.getElementById('job');
  const running = Object.entries(state.jobs).filter(([, job]) => job.id);
  link.hidden = running.length === 0;
  link.textContent = running.map(([kind, job]) => inWords(job, state.training, kind)).join('; ');
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
