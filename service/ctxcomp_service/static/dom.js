/** Elements and text. User-given text goes through here as text, never as markup. */

/** The element with an id. */
export const at = (id) => document.getElementById(id);

/** A new element with properties and children, elements or text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  // Last: with dir=auto set, each child that is added has the direction found anew.
  return Object.assign(made, properties);
}

/** Text with its control characters made visible: U+0000 as "␀". */
export function visible(text) {
  const picture = (c) => (c === "\x7f" ? "␡" : String.fromCharCode(0x2400 + c.charCodeAt(0)));
  return text.replace(/[\0-\x08\x0b-\x1f\x7f]/g, picture);
}

/** Run `task` when there were no calls for `milliseconds`. */
export function debounced(task) {
  let timer = 0;
  return (milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(task, milliseconds);
  };
}

/** Copy to the clipboard; resolves to whether it worked. A page that is not secure has only the old way. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const area = element("textarea", { value: text, readOnly: true, className: "hidden" });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus();
    return done;
  }
}

/** A button that copies what `text()` gives, and says so for a moment. */
export function copyButton(button, text) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text())) ? "Copied" : "Not allowed here";
    setTimeout(() => (button.textContent = label), 1500);
  });
}
