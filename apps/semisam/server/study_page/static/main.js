// The parts of the page and the addresses after the #: `#/`, `#/scan/NAME`, `#/work`, `#/steps`.
import { askReader, showReader } from './reader.js';
import { scan } from './scan.js';
import { begin } from './live.js';
import { steps } from './steps.js';
import { study } from './study.js';
import { work } from './work.js';

const VIEWS = { study, scan, work, steps };
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

document.getElementById('reader')?.addEventListener('click', askReader);
document.querySelector('.skip').addEventListener('click', event => {
  event.preventDefault();
  document.getElementById('main').focus();
});
window.addEventListener('hashchange', show);
showReader();
begin();
show();
