// What the page asks its server. All addresses lie beside the page's own.

const mark = document.querySelector('meta[name=semisam-mark]')?.content ?? '';
const user = document.querySelector('meta[name=semisam-user]')?.content ?? '';
const may = (document.querySelector('meta[name=semisam-may]')?.content ?? '').split(' ');
const READER = 'semisam-reader';

/** What the server has said about a failure, in words. */
export class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export function address(path, query = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== '' && value !== null && value !== undefined));
  return `api/${path}${words.size ? `?${words}` : ''}`;
}

async function answered(path, query, options) {
  let answer;
  try {
    answer = await fetch(address(path, query), { credentials: 'same-origin', ...options });
  } catch (error) {
    if (error.name === 'AbortError') {
      throw error;
    }
    throw new Refusal(0, 'The server does not answer. Wait until it does, or ask whoever looks after it.');
  }
  if (!answer.ok) {
    let text = '';
    try {
      const { detail } = await answer.json();
      text = typeof detail === 'string' ? detail : detail.map(each => `${each.loc?.at(-1)}: ${each.msg}`).join('; ');
    } catch {
      text = `The server has answered with status ${answer.status}. Its log has more.`;
    }
    if (answer.status === 401) {
      text = 'Your log-in has ended. Load the page again and log in.';
    }
    throw new Refusal(answer.status, text);
  }
  return answer;
}

export async function get(path, query = {}, signal = undefined) {
  return (await answered(path, query, { signal })).json();
}

export async function bytes(path, query = {}, signal = undefined) {
  return (await answered(path, query, { signal })).arrayBuffer();
}

/** Whether the server is still making something; a Refusal says why it cannot be made. */
export async function isComing(path, query) {
  return (await answered(path, query, {})).status === 202;
}

export async function post(path, content = {}) {
  const headers = { 'Content-Type': 'application/json', 'X-Semisam-Mark': mark };
  return (await answered(path, {}, { method: 'POST', headers, body: JSON.stringify(content) })).json();
}

/** A file, with further fields. */
export async function send(path, query, fields) {
  const body = new FormData();
  Object.entries(fields).forEach(([name, value]) => body.append(name, value));
  return (await answered(path, query, { method: 'POST', headers: { 'X-Semisam-Mark': mark }, body })).json();
}

/** Why whoever has logged in may not `annotate` or `administer`; empty when they may. */
export function lacking(what) {
  const whose = { annotate: 'annotators', administer: 'administrators' }[what];
  return may.includes(what) ? '' : `This is for ${whose}: ${user} has logged in with another role.`;
}

/** Who reads here: whoever has logged in, or the name given on this page. */
export function reader() {
  if (user) {
    return user;
  }
  try {
    return localStorage.getItem(READER) ?? '';
  } catch {
    return '';
  }
}

export function setReader(name) {
  try {
    localStorage.setItem(READER, name);
  } catch {
    // A browser that keeps nothing asks again.
  }
}
