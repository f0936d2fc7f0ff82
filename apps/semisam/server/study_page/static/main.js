// The parts of the page and the addresses after the #: `#/`, `#/scan/NAME`, `#/work`, `#/steps`.
import { reader, setReader } from './api.js';
import { make } from './dom.js';
import { study } from './study.js';

const VIEWS = { study };
let leave = () => {};

function wanted() {
  const [name, ...rest] = window.location.hash.replace(/^#\/?/, '').split('/');
  const view = name === '' ? 'study' : name;
  return Object.hasOwn(VIEWS, view) ? [view, rest.map(decodeURIComponent).join('/')] : ['study', ''];
}

function show() {
  leave();
  const [name, rest] = wanted();
  const main = document.getElementById('main');
  for (const link of document.querySelectorAll('nav a')) {
    const here = link.dataset.view === (name === 'scan' ? 'study' : name);
    here ? link.setAttribute('aria-current', 'page') : link.removeAttribute('aria-current');
  }
  main.replaceChildren();
  leave = VIEWS[name](main, rest) ?? (() => {});
}

/** The name that stands with what a reader accepts or sends back. */
export async function askReader() {
  const field = make('input', { name: 'reader', value: reader(), maxlength: 60, required: true, autocomplete: 'name' });
  const dialog = make(
    'dialog',
    { 'aria-labelledby': 'who' },
    make(
      'form',
      { method: 'dialog', class: 'stack' },
      make('h2', { id: 'who' }, 'Who are you?'),
      make('p', { class: 'quiet small' }, 'Your name stands with what you accept or send back. It stays in this browser.'),
      make('label', {}, 'Name', field),
      make('div', { class: 'bar' },
        make('button', { class: 'main', value: 'ok' }, 'Keep'),
        make('button', { value: '', formnovalidate: true }, 'Cancel'))
    )
  );
  document.body.append(dialog);
  dialog.showModal();
  await new Promise(resolve => dialog.addEventListener('close', resolve, { once: true }));
  dialog.remove();
  if (dialog.returnValue === 'ok' && field.value.trim()) {
    setReader(field.value.trim());
  }
  showReader();
  return reader();
}

function showReader() {
  const button = document.getElementById('reader');
  if (button) {
    button.textContent = reader() ? `You are ${reader()}` : 'Say who you are';
  }
}

document.getElementById('reader')?.addEventListener('click', askReader);
document.querySelector('.skip').addEventListener('click', event => {
  event.preventDefault();
  document.getElementById('main').focus();
});
window.addEventListener('hashchange', show);
showReader();
show();
