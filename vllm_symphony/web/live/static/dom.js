// Making and changing the page (static/dom.js). All that is shown goes through `textContent`: nothing becomes markup.

export const byId = (id) => document.getElementById(id);

/** A new element. Properties are set as they are; `data` as data-*, `role` and aria-* as attributes. Children: nodes and texts. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "data") Object.assign(node.dataset, value);
    else if (name === "role" || name === "scope" || name.startsWith("aria-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** Set a text where it is another one: an unchanged one keeps its selection, and costs nothing. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, isShown) {
  if (node.hidden === isShown) node.hidden = !isShown;
}

/**
 * The rows of a table, by key. A row that stays keeps its elements, so focus and selection survive each look.
 * A column is {className, show(cell, item)} or {className, text(item)}.
 */
export class Rows {
  #rows = new Map();

  constructor(body, columns, key, onMade = () => {}) {
    Object.assign(this, { body, columns, key, onMade });
  }

  show(items) {
    const gone = new Set(this.#rows.keys());
    let at = this.body.firstElementChild;
    for (const item of items) {
      const key = this.key(item);
      gone.delete(key);
      let row = this.#rows.get(key);
      if (!row) this.#rows.set(key, (row = this.#make(item)));
      row.item = item;
      this.columns.forEach((column, i) => {
        const cell = row.children[i];
        if (column.show) column.show(cell, item);
        else say(cell, column.text(item));
      });
      if (row === at) at = at.nextElementSibling;
      else this.body.insertBefore(row, at);
    }
    for (const key of gone) {
      this.#rows.get(key).remove();
      this.#rows.delete(key);
    }
  }

  get(key) {
    return this.#rows.get(key);
  }

  #make(item) {
    const cells = this.columns.map((column, i) =>
      el(i === 0 && column.isHead ? "th" : "td", i === 0 && column.isHead ? { className: column.className ?? "", scope: "row" } : { className: column.className ?? "" }));
    const row = el("tr", {}, ...cells);
    this.onMade(row, item);
    return row;
  }
}
