// The name that stands with what a reader accepts or sends back.
import { reader, setReader } from './api.js';
import { make } from './dom.js';

/** Ask for the name; resolves to it, empty when there is none. */
export async function askReader() {
  const field = make('input', { name: 'reader', value: reader(), maxlength: 60, required: true, autocomplete: 'name' });
  const dialog = make(
    'dialog', { 'aria-labelledby': 'who' },
    make(
      'form', { method: 'dialog', class: 'stack' },
      make('h2', { id: 'who' }, 'Who are you?'),
      make('p', { class: 'quiet small' }, 'Your name stands with what you accept or send back. It stays in this browser.'),
      make('label', {}, 'Name', field),
      make('div', { class: 'bar' }, make('button', { class: 'main', value: 'ok' }, 'Keep'), make('button', { value: '', formnovalidate: true }, 'Cancel'))));
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

export function showReader() {
  const button = document.getElementById('reader');
  if (button) {
    button.textContent = reader() ? `You are ${reader()}` : 'Say who you are';
  }
}
